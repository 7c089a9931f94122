"""The node half of the mock vendor: the scenario's answers at the time it is now."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deviceplugin.cdi import (
    CDIError,
    Device,
    Spec,
    check,
    device_name_for,
)
from deviceplugin.cdi import ContainerEdits as CDIEdits
from deviceplugin.vendor import (
    ContainerEdits,
    DeviceNode,
    DriverError,
    Exposure,
    Grant,
    HealthEvent,
    HostDirectory,
    NodeBackend,
    Owner,
    PhysicalDevice,
    ResourcePlan,
    Snapshot,
    Split,
    Usage,
    VendorSettings,
)
from deviceplugin.vendors.mock import imitation, partitions, scenario
from deviceplugin.vendors.mock.configuration import Configuration, configured
from deviceplugin.vendors.mock.profile import FaultKind, Profile, ProfileError
from deviceplugin.vendors.mock.reading import SEPARATORS

CDI_KIND = "mock.deviceplugin.dev/gpu"
VISIBLE_DEVICES = "MOCK_VISIBLE_DEVICES"
EXPOSURE = Exposure(
    env=VISIBLE_DEVICES,
    mount_root="/var/run/mock-container-devices",
    cdi_kind=CDI_KIND,
    annotation_plugin="mock-device-plugin",
)


def _segfault() -> None:
    """What a broken driver library does to its process, without the core file."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)


@dataclass(frozen=True, slots=True)
class World:
    """All effects of the node half: the time in unix seconds, waiting, and dying."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    crash: Callable[[], None] = _segfault


class MockNode:
    """A node of a profile. What is wrong with the profile is said by `discover` and `plan`."""

    def __init__(
        self,
        settings: VendorSettings,
        world: World | None = None,
        *,
        configuration: Configuration | ProfileError | None = None,
    ) -> None:
        self._settings = settings
        self._world = world or World()
        self._loaded = configuration or _loaded(settings)
        self._started = None if isinstance(self._loaded, ProfileError) else self._loaded.started_at
        self._partitions: tuple[partitions.Partition, ...] = ()

    # --- in the probe ---

    def discover(self) -> Snapshot:
        """The devices of the scenario now; a fault of the driver happens first.

        Raises `DriverError` for the faults ``error`` and ``absent`` and for a broken profile.
        """
        try:
            profile = self._configuration().profile
        except ProfileError as error:
            raise DriverError(str(error)) from None
        for fault in scenario.behaviour_at(profile, self._elapsed()):
            reason = fault.reason or f"the scenario wants it from second {fault.at:g}"
            match fault.kind:
                case FaultKind.SLOW:
                    self._world.sleep(fault.seconds)
                case FaultKind.HANG:
                    while True:
                        self._world.sleep(3600.0)
                case FaultKind.CRASH:
                    self._world.crash()
                case FaultKind.GARBAGE:
                    return _garbage()
                case FaultKind.ERROR:
                    raise DriverError(f"the simulated driver fails: {reason}")
                case FaultKind.ABSENT:
                    raise DriverError(f"the simulated driver is not there: {reason}", absent=True)
        snapshot = self._snapshot()
        return replace(snapshot, problems=(*snapshot.problems, *self._configuration().problems))

    def usage(self, snapshot: Snapshot) -> Sequence[Usage]:
        """How busy the scenario makes its devices now.

        Raises `DriverError` for the fault ``usage-error``.
        """
        profile, moment = self._configuration().profile, self._elapsed()
        for fault in scenario.behaviour_at(profile, moment):
            if fault.kind is FaultKind.USAGE_HANG:
                while True:
                    self._world.sleep(3600.0)
            if fault.kind is FaultKind.USAGE_ERROR:
                reason = fault.reason or f"the scenario wants it from second {fault.at:g}"
                raise DriverError(f"the simulated driver does not say how busy it is: {reason}")
        return scenario.usage_at(profile, snapshot.devices, moment)

    def watch_health(self, snapshot: Snapshot) -> Iterator[HealthEvent]:
        """Each change of health at its second; ends after the last one of the scenario."""
        profile = self._configuration().profile
        while True:
            moment = self._elapsed()
            now = self._snapshot(moment)
            yield from scenario.events_between(snapshot, now)
            snapshot = now
            if (then := scenario.next_change(profile, moment)) is None:
                return
            self._world.sleep(then - moment)

    def partition(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make a partition. `request` has ``device`` (uuid or index of a card) and ``profile`` (a
        size of the profile's key ``partitions``); the answer has ``uuid``, ``parent`` and
        ``profile``. Raises `DriverError`.
        """
        profile = self._accepting("partition")
        cards = scenario.state_at(profile, self._elapsed()).devices
        name = str(request.get("device", ""))
        card = next((card for card in cards if name in (card.uuid, card.index)), None)
        if card is None:
            raise DriverError(f"partition: no card {name!r}; give the uuid or index of one")
        size = str(request.get("profile", ""))
        new = partitions.made(self._partitions, profile.partitions, card, size)
        self._partitions = (*self._partitions, new)
        return {"uuid": new.uuid, "parent": new.parent, "profile": new.size}

    def release(self, request: Mapping[str, Any]) -> None:
        """Remove the partition ``uuid``; one that is not there is no error."""
        self._accepting("release")
        gone = str(request.get("uuid", ""))
        self._partitions = tuple(one for one in self._partitions if one.uuid != gone)

    # --- in the agent ---

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """Whole cards under the profile's resource, partitions of a size under
        ``<resource>-<size>``; a card that has partitions is not offered itself. Pure.

        Raises `ProfileError` for a broken profile.
        """
        profile = self._configuration().profile
        divided = {device.parent_uuid for device in snapshot.devices}
        members: dict[str, list[str]] = {profile.resource: []}
        for device in snapshot.devices:
            if device.uuid not in divided:
                members.setdefault(_resource(profile, device), []).append(device.uuid)
        return [
            self._shared(name, tuple(dict.fromkeys(uuids)), profile)
            for name, uuids in members.items()
        ]

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """Variables that say what was granted, and per card a device node that is /dev/null.

        ``MOCK_MEMORY_LIMIT_<i>`` and ``MOCK_CORES_LIMIT_<i>`` stand where the i-th grant has
        that limit. Pure.
        """
        env = {VISIBLE_DEVICES: ",".join(grant.device.uuid for grant in grants)}
        for position, grant in enumerate(grants):
            if grant.memory_mib is not None:
                env[f"MOCK_MEMORY_LIMIT_{position}"] = f"{grant.memory_mib}m"
            if grant.cores_percent is not None:
                env[f"MOCK_CORES_LIMIT_{position}"] = str(grant.cores_percent)
        mounts, directories = [], []
        for wanted in self._configuration().profile.mounts:
            path = wanted.mount.host_path.replace("{allocation}", owner.allocation_id)
            mounts.append(replace(wanted.mount, host_path=path))
            if wanted.create:
                directories.append(HostDirectory(path))
        return ContainerEdits(
            env=env,
            device_nodes=tuple(_device_node(grant.device) for grant in grants),
            mounts=tuple(mounts),
            host_directories=tuple(directories),
        )

    def cdi_specs(self, snapshot: Snapshot) -> Sequence[Spec]:
        """A device for each card, by uuid or index as ``deviceIDStrategy`` says, and ``all``."""
        by_index = self._settings.options.get("deviceIDStrategy") == "index"
        nodes: dict[str, DeviceNode] = {}
        for device in snapshot.devices:
            identity = device.index if by_index else device.uuid
            if identity not in ("", "all"):
                nodes.setdefault(device_name_for(identity), _device_node(device))
        devices = [Device(name, CDIEdits(device_nodes=(node,))) for name, node in nodes.items()]
        usable = tuple(device for device in devices if _nameable(device))
        if not usable:
            return ()
        every = tuple(
            dict.fromkeys(node for one in usable for node in one.container_edits.device_nodes)
        )
        return (Spec(CDI_KIND, (*usable, Device("all", CDIEdits(device_nodes=every)))),)

    # --- parts ---

    def _configuration(self) -> Configuration:
        if isinstance(self._loaded, ProfileError):
            raise self._loaded
        return self._loaded

    def _elapsed(self) -> float:
        """Seconds of the scenario until now, negative before it starts; the first question starts
        it if nothing else did.
        """
        now = self._world.now()
        if self._started is None:
            self._started = now
        return now - self._started

    def _snapshot(self, moment: float | None = None) -> Snapshot:
        profile = self._configuration().profile
        moment = self._elapsed() if moment is None else moment
        state = scenario.state_at(profile, moment)
        return partitions.listed(state, self._partitions, profile.partitions)

    def _accepting(self, call: str) -> Profile:
        """The profile, unless the scenario refuses partitions now."""
        profile = self._configuration().profile
        for fault in scenario.behaviour_at(profile, self._elapsed()):
            if fault.kind is FaultKind.REFUSE_PARTITION:
                reason = fault.reason or f"the scenario wants it from second {fault.at:g}"
                raise DriverError(f"the simulated driver refuses to {call}: {reason}")
        return profile

    def _shared(self, name: str, uuids: tuple[str, ...], profile: Profile) -> ResourcePlan:
        """The operator's ``sharing`` of a resource wins over the profile's split."""
        if (replicas := self._settings.sharing.get(name)) is not None:
            split = Split(
                count=replicas.count,
                separator=SEPARATORS[replicas.sharing],
                sharing=replicas.sharing,
                max_request=1 if replicas.fail_requests_greater_than_one else 0,
            )
            return ResourcePlan(replicas.rename or name, uuids, split)
        if name != profile.resource:
            return ResourcePlan(name, uuids)
        keys = self._configuration().keys
        return ResourcePlan(
            name, uuids, profile.split, keys, "hami-core" if keys.common_word == "NVIDIA" else ""
        )


class ExposedMockNode(MockNode):
    """A node whose container runtime takes a list of ids."""

    def exposure(self) -> Exposure:
        """The list is ``MOCK_VISIBLE_DEVICES``, files in a directory, or CDI names."""
        return EXPOSURE


def create(settings: VendorSettings) -> NodeBackend:
    """The node of these settings: a vendor's that is imitated, or our own; then the profile's key
    ``exposure`` chooses its kind.
    """
    loaded = _loaded(settings)
    if isinstance(loaded, Configuration) and loaded.imitated is not None:
        return imitation.imitation(
            loaded.imitated,
            replace(settings, section=loaded.section),
            MockNode(settings, configuration=loaded),
            harmless=loaded.harmless,
        )
    exposed = isinstance(loaded, Configuration) and loaded.profile.exposure
    return (ExposedMockNode if exposed else MockNode)(settings, configuration=loaded)


def _loaded(settings: VendorSettings) -> Configuration | ProfileError:
    try:
        return configured(settings)
    except ProfileError as error:
        return error


def _resource(profile: Profile, device: PhysicalDevice) -> str:
    """Where a device is offered: a partition beside whole cards, under the name of its size."""
    size = re.sub(r"[^A-Za-z0-9_.-]+", "-", device.profile).strip("_.-")
    return f"{profile.resource}-{size}" if size else profile.resource


def _device_node(device: PhysicalDevice) -> DeviceNode:
    """A device node that proves the grant in a real container and does no harm, whatever nodes a
    recording lists.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", device.index)
    return DeviceNode(path=f"/dev/mock{name}", host_path="/dev/null", permissions="rw")


def _nameable(device: Device) -> bool:
    """Whether CDI takes the device; a very long uuid makes no name."""
    try:
        check(Spec(CDI_KIND, (device,)))
    except CDIError:
        return False
    return True


def _garbage() -> Snapshot:
    """What a binding reads from a structure that it misunderstands: values of wrong types."""
    wrong: Any = {"uuid": 0xDEAD, "index": None, "model": ["?"], "memory_mib": "a lot"}
    return Snapshot((PhysicalDevice(**wrong),))
