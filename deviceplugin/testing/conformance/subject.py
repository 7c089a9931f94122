"""The vendor under examination and what it says of its profile's node."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import import_module, resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from deviceplugin import registry, splitting
from deviceplugin.config import load, section_of, settings_of
from deviceplugin.testing.conformance.model import NotApplicableError
from deviceplugin.vendor import (
    ContainerEdits,
    DriverError,
    Grant,
    NodeBackend,
    NodeDevice,
    Owner,
    Planner,
    Registrar,
    ResourcePlan,
    Safeguarded,
    Sharing,
    Slotted,
    Snapshot,
    Vendor,
    VendorSettings,
)
from deviceplugin.vendor.scheduling import SchedulingBackend

__all__ = [
    "PATIENCE_SECONDS",
    "Offered",
    "Subject",
    "SubjectError",
    "again",
    "section_in",
    "subject",
]

T = TypeVar("T")

MOCK = "mock"
PATIENCE_SECONDS = 120.0
"""For a process that has nothing to wait for, on a slow machine."""


class SubjectError(ValueError):
    """What is to be examined cannot be found or read; says what to write."""


@dataclass(frozen=True, slots=True)
class Offered:
    """One resource with its list of virtual devices."""

    plan: ResourcePlan
    table: splitting.Table

    def grants(self) -> Iterator[tuple[Grant, ...]]:
        """What a container gets for the first share of each device, and for two devices."""
        ids: dict[str, str] = {}
        for item in self.table.virtual.values():
            ids.setdefault(item.uuid, item.id)
        firsts = list(ids.values())
        for identity in firsts:
            yield splitting.grants(self.table, [identity])
        if len(firsts) > 1:
            yield splitting.grants(self.table, firsts[:2])

    def whole(self) -> Iterator[tuple[Grant, ...]]:
        """What a container gets for all shares of each device that has several."""
        ids: dict[str, list[str]] = {}
        for item in self.table.virtual.values():
            ids.setdefault(item.uuid, []).append(item.id)
        for every in ids.values():
            if len(every) > 1:
                yield splitting.grants(self.table, every)


@dataclass
class Subject:
    """A vendor, its configuration, and the node that its profile describes.

    What the vendor is asked more than once is asked here, once; where that call fails, checks that
    only need its answer do not apply: the check of that call itself tells.
    """

    vendor: Vendor
    settings: VendorSettings
    profile: Path
    deadline_seconds: float = 30.0

    def backend(self) -> NodeBackend:
        """A new node half. Raises what the vendor raises."""
        return registry.load_backend(self.vendor, self.settings)

    @cached_property
    def node(self) -> NodeBackend:
        """One node half for all checks."""
        return self._answer("its node half", self.backend)

    @cached_property
    def snapshot(self) -> Snapshot:
        """The profile's devices. Raises `SubjectError`."""
        settings = replace(self.settings, section={"profile": str(self.profile)})
        mock = registry.load_backend(registry.load().vendors[MOCK], settings)
        try:
            return mock.discover()
        except DriverError as error:
            raise SubjectError(f"the profile cannot be used: {error}") from None

    def plans_of(self, snapshot: Snapshot, backend: NodeBackend) -> tuple[ResourcePlan, ...]:
        """The resources of a snapshot. Raises what the vendor raises."""
        if not isinstance(backend, Planner):
            uuids = tuple(device.uuid for device in snapshot.devices)
            return (ResourcePlan(self.vendor.resource, uuids),) if uuids else ()
        return tuple(backend.plan(snapshot))

    @cached_property
    def offered(self) -> tuple[Offered, ...]:
        """Every resource of the profile's node."""
        plans = self._answer("plan", lambda: self.plans_of(self.snapshot, self.node))
        node = self.node
        if isinstance(node, Safeguarded):  # the agent asks before it hands anything over
            guarded = node
            self._answer("impediment", lambda: [guarded.impediment(plan) for plan in plans])
        return tuple(Offered(plan, splitting.split(plan, self.snapshot)) for plan in plans)

    @property
    def scheduled(self) -> tuple[Offered, ...]:
        """The resources that schedulers hand out."""
        found = tuple(item for item in self.offered if item.plan.keys is not None)
        if not found:
            raise NotApplicableError(
                "with this configuration no resource has keys for schedulers (--section)"
            )
        return found

    def registered(self, item: Offered) -> tuple[NodeDevice, ...]:
        """The devices of a resource as schedulers read them."""
        from deviceplugin.scheduled.registration import described

        node = self.node
        if isinstance(node, Registrar):
            registered = node.registered
            return self._answer("registered", lambda: tuple(registered(item.plan, self.snapshot)))
        return described(item.plan, item.table)

    def owner(self, item: Offered, **more: Any) -> Owner:
        """A container that holds something of a resource."""
        return Owner(resource=item.plan.resource, allocation_id="conformance-0123", **more)

    def handed(self, item: Offered) -> Iterator[tuple[tuple[Grant, ...], ContainerEdits]]:
        """Edits of several grants of a resource, whole devices among them; none where partitions
        must be made first, nor of several devices where the vendor refuses that.
        """
        node, owner = self.node, self.owner(item)
        for grants in (*item.grants(), *item.whole()):
            if self.partitioned(grants, owner):
                continue
            try:
                edits = node.edits(grants, owner)
            except ValueError:
                continue  # whether it may refuse is the check `edits`
            except Exception as error:
                raise NotApplicableError("edits raised, which another check tells") from error
            yield grants, edits

    def partitioned(self, grants: Sequence[Grant], owner: Owner) -> bool:
        """Whether any of these grants becomes a partition first."""
        node = self.node
        if not isinstance(node, Slotted):
            return False
        try:
            return any(node.slot_request(grant, owner) is not None for grant in grants)
        except ValueError:
            return True

    def limited(self) -> Iterator[tuple[Offered, tuple[Grant, ...]]]:
        """Grants with limits that the vendor says it enforces."""
        for item in self.offered:
            if item.plan.split.sharing is Sharing.LIMITED:
                for grants in item.grants():
                    if all(grant.memory_mib for grant in grants):
                        yield item, grants

    def counts_cores(self, item: Offered) -> bool:
        """Whether pods may ask for a part of a device's cores."""
        if not self.vendor.scheduling or item.plan.keys is None:
            return False
        half = self.word(item.plan.keys.common_word)
        return half is not None and bool(half.resources.cores)

    @cached_property
    def scheduling(self) -> tuple[SchedulingBackend, ...]:
        """The scheduling half. Raises `NotApplicableError` where there is none."""
        if not self.vendor.scheduling:
            raise NotApplicableError("the vendor has no scheduling half")
        return self._answer("its scheduling half", self.load_scheduling)

    def load_scheduling(self) -> tuple[SchedulingBackend, ...]:
        """A new scheduling half. Raises what the vendor raises."""
        return registry.load_scheduling(self.vendor, self.settings.section)

    def word(self, word: str) -> SchedulingBackend | None:
        """The scheduling half of one word."""
        found = (b for b in self.scheduling if b.keys.common_word == word)
        return next(found, None)

    def in_process(self, function: str, *arguments: str, seconds: float, **environment: str) -> str:
        """What ``module:function`` says of this subject, asked in a process of its own.

        Raises `NotApplicableError` where that process ends, or is not through after so long.
        """
        described = json.dumps(
            [asdict(self.vendor), str(self.profile), dict(self.settings.section)]
        )
        try:
            done = subprocess.run(
                [sys.executable, "-c", _IN_PROCESS, function, described, *arguments],
                env={**os.environ, **environment},
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=seconds,
                check=True,
            )
        except subprocess.SubprocessError as error:
            raise NotApplicableError(
                f"it cannot be asked in another process ({type(error).__name__})"
            ) from error
        return done.stdout

    def _answer(self, call: str, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except NotApplicableError:
            raise
        except Exception as error:
            raise NotApplicableError(
                f"{call} raised {type(error).__name__}, which another check tells"
            ) from error


def section_in(path: Path) -> Mapping[str, Any]:
    """A vendor's section of the configuration, in a YAML file. Raises `SubjectError`."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise SubjectError(f"{path}: {error}") from None
    if not isinstance(data, Mapping):
        raise SubjectError(f"{path}: write key: value pairs, as in the configuration file")
    return data


def again(described: str) -> Subject:
    """The subject that `Subject.in_process` hands over."""
    descriptor, profile, section = json.loads(described)
    known: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in descriptor.items()
    }
    vendor = Vendor(**known)
    return subject(vendor.name, Path(profile), section, vendor=vendor)


# A driver may print what it likes: as in the probe, that is no answer.
_IN_PROCESS = f"""
import os
import sys
from importlib import import_module
answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
from {__name__} import again
function, described, *arguments = sys.argv[1:]
module, _, name = function.partition(":")
with answer:
    answer.write(getattr(import_module(module), name)(again(described), *arguments))
"""


def subject(
    name: str,
    profile: Path | None = None,
    section: Mapping[str, Any] | None = None,
    *,
    vendor: Vendor | None = None,
    deadline_seconds: float = 30.0,
) -> Subject:
    """The vendor of that name, or at ``module`` or ``module:ATTRIBUTE``; `vendor` spares the
    search. Raises `SubjectError`.
    """
    vendor = vendor or _vendor(name)
    config = load({}, {}).config
    given = section_of(config, vendor) if section is None else copy.deepcopy(dict(section))
    settings = replace(
        settings_of(config, vendor), node_name="conformance", section=MappingProxyType(dict(given))
    )
    return Subject(vendor, settings, profile or _own_profile(vendor), deadline_seconds)


def _vendor(name: str) -> Vendor:
    found = registry.load()
    if name in found.vendors:
        return found.vendors[name]
    module, _, attribute = name.partition(":")
    if not attribute and "." not in name:
        for broken in found.broken:
            if broken.name == name:
                raise SubjectError(f"the vendor {name} cannot be loaded: {broken.reason}")
    try:
        vendor = getattr(import_module(module), attribute or "VENDOR")
    except ImportError as error:
        known = ", ".join(found.vendors)
        raise SubjectError(
            f"{name!r} is neither an installed vendor ({known}) nor a module: {error}"
        ) from None
    except AttributeError as error:
        raise SubjectError(f"{name!r}: {error}; write module:ATTRIBUTE") from None
    if not isinstance(vendor, Vendor):
        raise SubjectError(f"{name!r} is a {type(vendor).__name__}, not a deviceplugin Vendor")
    return vendor


def _own_profile(vendor: Vendor) -> Path:
    package, _, name = vendor.profile.partition(":")
    if not name:
        raise SubjectError(
            f"{vendor.name} brings no profile of its own: name one, made by `deviceplugin record` "
            "on a node with the hardware or written by hand (docs/vendors/mock.md)"
        )
    try:
        path = Path(str(resources.files(package).joinpath(name)))
    except ImportError as error:
        raise SubjectError(f"{vendor.name}: its profile {vendor.profile}: {error}") from None
    if not path.is_file():
        raise SubjectError(
            f"{vendor.name}: its profile {path} is not there: list it as package data"
        )
    return path
