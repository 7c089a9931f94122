"""Decides one resource's allocations: checks the ids, asks the mode what they stand for and the
vendor what that needs, renders it and prepares the node.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from deviceplugin.allocation.identity import allocation_id
from deviceplugin.allocation.modes import Ask, Granted, Mode
from deviceplugin.allocation.preferred import NotEnoughDevicesError, preferred
from deviceplugin.cdi import CDIError, Spec
from deviceplugin.injection import render
from deviceplugin.injection.render import CannotInjectError, Injection, Strategy
from deviceplugin.injection.store import SpecStore
from deviceplugin.kubelet.podresources import Holding
from deviceplugin.kubelet.resource import Resource
from deviceplugin.refusal import Blame, RefusalError
from deviceplugin.splitting import Table
from deviceplugin.vendor import (
    AnswerReader,
    ContainerEdits,
    DriverError,
    Examiner,
    Exposure,
    Grant,
    HostDirectory,
    NodeBackend,
    Owner,
    PhysicalDevice,
    Preferrer,
    PreStarter,
    ResourcePlan,
    RuntimeExposed,
    Safeguarded,
    Slotted,
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every allocator of an agent shares."""

    strategy: Strategy
    store: SpecStore
    mode: Callable[[ResourcePlan], Mode]
    """How what a container gets of a resource is decided."""
    policy: str = "distributed"
    host_root: Path = Path("/")
    counted: bool = False
    """Whether kubelet is to count memory and cores beside the devices."""
    scored: bool = False
    """Whether schedulers are told how well devices are connected."""


class Partitions(Protocol):
    """Hard partitions of a vendor's devices. Raises `DriverError`, and `OSError` for files."""

    async def make(self, owner: Owner, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The partition that a request describes, made in the probe for that owner."""

    async def describe(self, device: PhysicalDevice) -> None:
        """Have the CDI inventory name a partition that is newer than the last discovery."""


class ResourceAllocator:
    """Implements `kubelet.service.Allocator` for one resource of one vendor."""

    def __init__(
        self,
        vendor: str,
        backend: NodeBackend,
        plan: ResourcePlan,
        resource: Resource,
        around: Surroundings,
        partition: Partitions,
        unsound: Callable[[str, str], None],
    ) -> None:
        """`partition` makes hard partitions where schedulers grant them; see `vendor.Slotted`.
        `unsound` is told which call of the vendor gave nothing of use where we go on without, and
        why.
        """
        self._unsound = unsound
        self._vendor, self._backend, self._around = vendor, backend, around
        # Asked at every Allocate; looking through a protocol takes longer than the rest of it.
        self._safeguarded = backend if isinstance(backend, Safeguarded) else None
        self._reader = backend if isinstance(backend, AnswerReader) else None
        self._exposed = backend if isinstance(backend, RuntimeExposed) else None
        self._slotted = backend if isinstance(backend, Slotted) else None
        self._partition = partition
        self._partitions: dict[tuple[str, str], str] = {}
        self._resource = resource
        self.plan = plan
        self.inventory: Sequence[Spec] = ()
        self._mode = around.mode(plan)
        self._writing = asyncio.Lock()
        """Held where something is written by what is known, so that what became known meanwhile is
        written after it and not before."""
        self.pre_start_required = self._mode.verifies or isinstance(backend, PreStarter)

    def prefer(
        self, available: Sequence[str], must_include: Sequence[str], size: int
    ) -> Sequence[str]:
        """The vendor's advice where it has any, else by links, NUMA nodes and policy."""
        table = self._resource.table
        if isinstance(self._backend, Preferrer) and not self.plan.split.separator:
            advice = self._advice(self._backend, table, available, must_include, size)
            if advice is not None:
                return advice
        try:
            return preferred(table, available, must_include, size, self._around.policy)
        except NotEnoughDevicesError as error:
            raise RefusalError(str(error), "not-enough", Blame.NODE) from None

    def _advice(
        self,
        backend: Preferrer,
        table: Table,
        available: Sequence[str],
        must_include: Sequence[str],
        size: int,
    ) -> list[str] | None:
        """The vendor's advice; None where it is no use. An error here would fail the pod for good
        (kubelet-deviceplugin.md 2.6), over something that is a suggestion only.
        """
        devices = [
            [table.device(identity) for identity in ids if identity in table.virtual]
            for ids in (available, must_include)
        ]
        try:
            advice = list(backend.prefer(devices[0], devices[1], size))
            if set(advice) <= set(available) and len(set(advice)) == len(advice) == size:
                return advice
            reason = f"{advice!r:.200} are not {size} of the ids on offer"
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        self._unsound("prefer", reason)
        return None

    async def allocate(self, ids: Sequence[str]) -> Injection:
        """What the container with these ids gets; the node is ready for it when this returns."""
        table = self._resource.table
        ask = self._ask(table, self.checked(ids, table))
        if self._mode.deferred:
            await self._check_impediment()
            await self._withdraw(ask)
            await self._empty(ask, self._foreseen(ask))
            return render.deferred(self._vendor, ask.allocation_id, self._around.strategy)
        granted = await self._mode.decide(ask)
        try:
            await self._check_impediment()
            granted = await self._partitioned(granted)
            injection = self.injection(granted)
            await self._empty(ask, injection.host_directories)
            await self._prepare(injection, ask.allocation_id)
            await self._mode.commit(ask, granted)
        except Exception as error:  # whatever it is, nobody else may wait for this pod
            await self._mode.abandon(ask, granted, str(error))
            raise
        return injection

    async def pre_start(self, ids: Sequence[str]) -> None:
        """Prove who starts, write what the answer to Allocate named, and run the vendor's own
        preparation.
        """
        table = self._resource.table
        ask = self._ask(table, self.checked(ids, table, admitting=False))
        granted = await self._mode.start(ask)
        try:
            await self._check_impediment()
            await self._make_ready(ask, granted)
        except Exception as error:
            self._mode.refused(granted, str(error))
            raise

    async def _make_ready(self, ask: Ask, granted: Granted) -> None:
        made = await self._partitioned(granted)
        # Also where Allocate wrote it: ids that a pod's containers hold one after the other share
        # one specification.
        if self._mode.deferred or self._mode.verifies:
            await self._prepare(self._rendered(ask, made), ask.allocation_id)
        if isinstance(self._backend, PreStarter):
            try:
                await asyncio.to_thread(self._backend.pre_start, made.grants, made.owner)
            except ValueError as error:
                raise RefusalError(str(error), "pre-start", Blame.NODE) from None
            except Exception as error:
                raise self._vendor_error("pre_start", error) from error
        # A specification that was written just now names partitions as they are now.
        told = self._around.strategy.direct or isinstance(self._backend, RuntimeExposed)
        await self._mode.started(ask, made if told else granted)

    async def _check_impediment(self) -> None:
        """What must be there beside the devices is there, for a container that starts again too.

        Raises `RefusalError`.
        """
        if self._safeguarded is None:
            return
        try:
            impediment = await asyncio.to_thread(self._safeguarded.impediment, self.plan)
        except Exception as error:
            raise self._vendor_error("impediment", error) from error
        if impediment:
            raise RefusalError(f"{self._resource.name}: {impediment}", "impediment", Blame.NODE)

    def checked(self, ids: Sequence[str], table: Table, *, admitting: bool = True) -> list[str]:
        """The ids, each once, in the table's order. Raises `RefusalError` for what is not ours, and
        when `admitting`, for what may not be handed out now.
        """
        name = self._resource.name
        if not ids:
            raise RefusalError(f"the request for {name} names no device id", "empty-request")
        if unknown := sorted(set(ids) - table.virtual.keys()):
            shown = ", ".join(f"{i!r:.80}" for i in unknown[:3])
            raise RefusalError(f"invalid request: unknown device: {shown} of {name}", "unknown-id")
        chosen = set(ids)
        # Devices may also be shared by ids of a former split: its own limit of requests counts.
        most = max((table.virtual[i].split.max_request for i in chosen), default=0)
        if admitting and most and len(chosen) > most:
            raise RefusalError(
                f"maximum request size for shared resources is {most}; found {len(chosen)} "
                f"of {name}",
                "request-too-large",
            )
        if admitting:
            for identity in sorted(chosen):
                device = table.device(identity)
                if not device.healthy:
                    raise RefusalError(
                        f"device {identity} of {name} is unhealthy: {device.reason}",
                        "unhealthy-id",
                        Blame.NODE,
                    )
                if reason := table.withheld.get(identity):
                    raise RefusalError(
                        f"device {identity} of {name} cannot be handed out: {reason}",
                        "withheld-id",
                        Blame.NODE,
                    )
        return [identity for identity in table.virtual if identity in chosen]

    def injection(self, granted: Granted) -> Injection:
        """The injection of a grant, a pure function of grant and plan. Raises `RefusalError`."""
        try:
            injection = render.render(
                self._vendor,
                granted.owner.allocation_id,
                granted.grants,
                self._edits(granted),
                self._exposure(),
                self._around.strategy,
            )
        except CannotInjectError as error:
            raise RefusalError(str(error), "cannot-inject", Blame.NODE) from None
        annotations = {**injection.annotations, **granted.annotations}
        return replace(injection, annotations=annotations)

    def name_of(self, ids: Collection[str]) -> str:
        """The allocation's name, under which its specification is kept."""
        return allocation_id(self._resource.name, ids)

    def devices_of(self, ids: Collection[str]) -> str:
        """The uuids of the devices that the container with these ids was given, with blanks between
        them; empty where that is not known.
        """
        table = self._resource.table
        if not set(ids) <= table.virtual.keys():
            return ""
        granted = self._mode.known(
            self._ask(table, self.checked(sorted(ids), table, admitting=False))
        )
        return " ".join(grant.device.uuid for grant in granted.grants) if granted else ""

    async def adopt(self, ids: Sequence[str], holdings: Sequence[Holding]) -> bool:
        """Whether it was learned just now, from kubelet's `holdings`, who holds these ids."""
        table = self._resource.table
        if not set(ids) <= table.virtual.keys():
            return False
        ask = self._ask(table, self.checked(ids, table, admitting=False))
        return await self._mode.adopt(ask, holdings)

    async def restore(self, ids: Sequence[str]) -> bool:
        """Write the specification of an allocation again that a wiped directory lost; False where
        the ids are not ours to explain any more or nothing was missing.
        """
        table, store = self._resource.table, self._around.store
        if not set(ids) <= table.virtual.keys() or store.holds(self._vendor, self.name_of(ids)):
            return False
        ask = self._ask(table, self.checked(ids, table, admitting=False))
        async with self._writing:
            granted = self._mode.known(ask)
            if granted is None or self._divides(granted):
                return False  # partitions are found again when their container starts
            injection = self._rendered(ask, granted)
            await self._put(injection, ask.allocation_id)
        return injection.spec is not None

    def _ask(self, table: Table, ids: Sequence[str]) -> Ask:
        name = allocation_id(self._resource.name, ids)
        return Ask(self._vendor, self.plan, table, tuple(ids), name, self._reader)

    def _rendered(self, ask: Ask, granted: Granted) -> Injection:
        """What the node must have for a grant. Raises `RefusalError`."""
        if not self._mode.deferred:
            return self.injection(granted)
        edits = self._edits(granted)
        try:
            spec = render.deferred_spec(
                self._vendor,
                ask.allocation_id,
                granted.grants,
                edits,
                self._exposure(),
                self.inventory,
                self._around.strategy,
            )
        except CannotInjectError as error:
            raise RefusalError(str(error), "cannot-inject", Blame.NODE) from None
        return Injection(spec=spec, host_directories=edits.host_directories)

    def _foreseen(self, ask: Ask) -> Sequence[HostDirectory]:
        """The directories that the container will have, as far as they are known. What the vendor
        has against them is told at the start, which kubelet tries again.
        """
        foreseen = self._mode.foreseen(ask)
        try:
            return self._edits(foreseen).host_directories if foreseen else ()
        except RefusalError:
            return ()

    async def _withdraw(self, ask: Ask) -> None:
        """Nothing stands behind the name until the container starts. What the ids' last holder left
        would be another's grant, and kubelet, which forgets at its restart that a plugin wants to
        be asked, would start the container with it. Raises `RefusalError`.
        """
        store = self._around.store
        if not store.holds(self._vendor, ask.allocation_id):
            return
        try:
            await asyncio.to_thread(store.withdraw, self._vendor, ask.allocation_id)
        except OSError as error:
            raise RefusalError(
                f"{self._resource.name}: the specification of an earlier container cannot be "
                f"removed from {store.directory}: {error}; make the directory writable",
                "node-not-prepared",
                Blame.NODE,
            ) from None

    async def _partitioned(self, granted: Granted) -> Granted:
        """The grant with the partitions that are meant in place of their cards; they are made where
        they are not there yet, and none before all were found to be possible. Raises
        `RefusalError`.
        """
        backend, owner = self._slotted, granted.owner
        if backend is None:
            return granted
        grants = []
        try:
            if isinstance(backend, Examiner):
                backend.examine(granted.grants, owner)
            requests = [backend.slot_request(grant, owner) for grant in granted.grants]
            for grant, request in zip(granted.grants, requests, strict=True):
                if request is None:
                    grants.append(grant)
                    continue
                in_use = self._in_use(granted, grant)
                answer = await self._partition.make(owner, {**request, "in_use": in_use})
                made = backend.slot_granted(grant, answer)
                if grant.slot:
                    self._partitions[grant.device.uuid, grant.slot] = made.device.uuid
                await self._partition.describe(made.device)
                grants.append(made)
        except (DriverError, ValueError, OSError) as error:
            raise RefusalError(
                f"{self._resource.name}: {error}", "partition", Blame.TRY_AGAIN
            ) from None
        except Exception as error:
            raise self._vendor_error("slot_request or slot_granted", error) from error
        return replace(granted, grants=tuple(grants))

    def _divides(self, granted: Granted) -> bool:
        """Whether a grant needs partitions."""
        backend = self._slotted
        try:
            return backend is not None and any(
                backend.slot_request(grant, granted.owner) is not None for grant in granted.grants
            )
        except ValueError:
            return True

    def _in_use(self, granted: Granted, grant: Grant) -> list[dict[str, str]]:
        return [
            {
                "slot": item["slot"],
                "owner": item["owner"],
                "uuid": self._partitions.get((item["card"], item["slot"]), ""),
            }
            for item in granted.in_use
            if item["card"] == grant.device.uuid
        ]

    def _edits(self, granted: Granted) -> ContainerEdits:
        owner = granted.owner
        try:
            edits = self._backend.edits(granted.grants, owner)
            if not isinstance(edits, ContainerEdits):
                raise TypeError(f"it gave a {type(edits).__name__}")
        except ValueError as error:
            raise RefusalError(f"{owner.resource}: {error}", "vendor-refused", Blame.NODE) from None
        except Exception as error:
            raise self._vendor_error("edits", error) from error
        return edits

    def _exposure(self) -> Exposure | None:
        if self._exposed is None:
            return None
        try:
            return self._exposed.exposure()
        except Exception as error:
            raise self._vendor_error("exposure", error) from error

    def _vendor_error(self, call: str, error: Exception) -> RefusalError:
        self._unsound(call, f"{type(error).__name__}: {error}")
        return RefusalError(
            f"{self._resource.name}: {call} of the vendor {self._vendor} failed: "
            f"{type(error).__name__}: {error}",
            "vendor-error",
            Blame.NODE,
        )

    async def _empty(self, ask: Ask, directories: Sequence[HostDirectory]) -> None:
        """Nobody inherits what an earlier holder of the same ids left. Raises `RefusalError`."""
        root = self._around.host_root
        private = [root / one.path.lstrip("/") for one in directories if one.private]
        if not private:
            return
        try:
            left = await asyncio.to_thread(lambda: [path for path in private if _holds(path)])
            if left and await self._mode.is_new(ask):
                for path in left:
                    await asyncio.to_thread(_clear, path)
        except OSError as error:
            raise RefusalError(
                f"{self._resource.name}: what an earlier container left cannot be removed: {error}",
                "node-not-prepared",
                Blame.NODE,
            ) from None

    async def _prepare(self, injection: Injection, allocation: str) -> None:
        """Directories and the specification are there before anybody is told to use them."""
        if not injection.host_directories and (
            injection.spec is None or self._stands(injection.spec, allocation)
        ):
            return
        async with self._writing:
            await self._put(injection, allocation)

    def _stands(self, spec: Spec, allocation: str) -> bool:
        """Whether the specification is written already: no reason to wait for a thread. Not while
        one is being written, which may undo it.
        """
        if self._writing.locked():
            return False
        return self._around.store.stands(self._vendor, allocation, spec)

    async def _put(self, injection: Injection, allocation: str) -> None:
        try:
            await asyncio.to_thread(self._write, injection, allocation)
        except (OSError, CDIError) as error:
            raise RefusalError(
                f"{self._resource.name}: the node cannot be prepared for the container: {error}",
                "node-not-prepared",
                Blame.NODE,
            ) from None

    def _write(self, injection: Injection, allocation: str) -> None:
        for directory in injection.host_directories:
            make_directory(self._around.host_root, directory)
        if injection.spec is not None:
            self._around.store.put(self._vendor, allocation, injection.spec)


def _holds(path: Path) -> bool:
    """Whether a directory, and no link to one, holds anything."""
    return path.is_dir() and not path.is_symlink() and any(path.iterdir())


def _clear(path: Path) -> None:
    """Remove what is in a directory; links in it are removed and never followed."""
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def make_directory(root: Path, wanted: HostDirectory) -> None:
    """Create a directory of the host with exactly this mode, whatever the umask.

    Raises `OSError`; a symbolic link in the directory's place is refused, because tenants may
    write beside it.
    """
    path = root / wanted.path.lstrip("/")
    path.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise NotADirectoryError(f"{wanted.path} is a symbolic link and not a directory")
    if path.stat().st_mode & 0o7777 != wanted.mode:
        path.chmod(wanted.mode)
