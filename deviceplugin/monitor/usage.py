"""What containers use, out of what they were granted and what their regions say. Pure.

Names, devices and limits come from the grant, which the tenant cannot change; the region only adds
figures to them. So a forged region spoils its own container's figures and nobody else's series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from deviceplugin.libvgpu import (
    DeviceGrant,
    Fault,
    Isolation,
    Memory,
    Process,
    Reason,
    Region,
    RegionError,
    Utilisation,
    isolation,
    positions,
)
from deviceplugin.monitor.caches import Seen
from deviceplugin.monitor.values import MonitoredContainer, MonitoredDevice

MIB = 1 << 20
UNUSED = Memory()
IDLE = Utilisation()
BY_THEMSELVES = Isolation(None, Reason.COOPERATIVE, "the container's processes keep its limits")
READ = "read"
NOT_KEPT = "not-kept"
NO_REGION = "no-region"
NOT_INITIALISED = "not-initialised"
STATES = (
    READ,
    NOT_KEPT,
    NO_REGION,
    NOT_INITIALISED,
    *(str(fault.value) for fault in Fault),
)
"""What can be known of a container's region: read, no file yet, or why it cannot be read."""


@dataclass(frozen=True, slots=True)
class DeviceUsage:
    """One device in one container. `limit_bytes` is the limit in force, 0 for none; `memory` and
    `utilisation` (percent of the device) are the sums over the container's processes.
    """

    device: MonitoredDevice
    limit_bytes: int
    memory: Memory = UNUSED
    utilisation: Utilisation = IDLE


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """One process. `memory` and `utilisation` are in the order of `ContainerUsage.devices`.

    `host_pid` is None until libvgpu has found it out.
    """

    pid: int
    host_pid: int | None
    suspended: bool
    memory: tuple[Memory, ...]
    utilisation: tuple[Utilisation, ...]


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """One container. With a `problem`, figures of use are unknown and not zero."""

    container: MonitoredContainer
    devices: tuple[DeviceUsage, ...]
    isolation: Isolation
    state: str
    """One of `STATES`."""
    processes: tuple[ProcessUsage, ...] = ()
    last_kernel_time: int | None = None
    """Unix seconds."""
    doubts: frozenset[str] = frozenset()
    problem: RegionError | None = None


def collect(
    containers: Iterable[MonitoredContainer], regions: Mapping[str, Seen]
) -> Iterator[ContainerUsage]:
    """The use of each container; `regions` are by `cache_dir`."""
    for container in containers:
        yield _usage(container, regions.get(container.cache_dir))


def by_host_pid(usages: Iterable[ContainerUsage]) -> dict[int, tuple[ContainerUsage, ProcessUsage]]:
    """Whose process a pid of the host is, without those that several containers claim.

    The library finds host pids by comparing lists of the driver's, which goes wrong when two
    containers start at the same moment (hami-nvidia-node.md 6.2).
    """
    claims = [
        (process.host_pid, usage, process)
        for usage in usages
        for process in usage.processes
        if process.host_pid is not None
    ]
    times = Counter(pid for pid, _, _ in claims)
    return {pid: (usage, process) for pid, usage, process in claims if times[pid] == 1}


def _usage(container: MonitoredContainer, seen: Seen) -> ContainerUsage:
    devices = tuple(sorted(container.devices, key=lambda device: device.index))
    grant = [DeviceGrant(d.uuid, d.memory_mib, d.cores_percent) for d in devices]
    if isinstance(seen, RegionError) and seen.fault is not Fault.MISSING:
        return ContainerUsage(
            container,
            tuple(DeviceUsage(device, _granted(device)) for device in devices),
            Isolation(None, Reason.UNREADABLE, str(seen)),
            str(seen.fault.value),
            problem=seen,
        )
    region = None if isinstance(seen, RegionError) else seen
    unrecorded = region is None and container.cooperative
    verdict = BY_THEMSELVES if unrecorded else isolation(region, grant)
    if region is None or not region.initialised:
        idle = tuple(DeviceUsage(device, _granted(device)) for device in devices)
        state = NO_REGION if region is None else NOT_INITIALISED
        kept = container.cache_dir and not unrecorded
        return ContainerUsage(container, idle, verdict, state if kept else NOT_KEPT)
    places = _places(region, devices)
    return ContainerUsage(
        container,
        tuple(
            _device(device, region, place) for device, place in zip(devices, places, strict=True)
        ),
        verdict,
        READ,
        tuple(_process(process, places) for process in region.processes),
        region.last_kernel_time,
        region.doubts,
    )


def _places(region: Region, devices: tuple[MonitoredDevice, ...]) -> list[int | None]:
    """Where the region keeps each device; a device that was granted twice is counted once."""
    taken: set[int] = set()
    found: list[int | None] = []
    for place in positions(region, [device.uuid for device in devices]):
        found.append(None if place in taken else place)
        if place is not None:
            taken.add(place)
    return found


def _device(device: MonitoredDevice, region: Region, place: int | None) -> DeviceUsage:
    limit = _granted(device)
    if place is None:
        return DeviceUsage(device, limit)
    if "limit" not in region.doubts:
        limit = region.memory_limits[place]
    memory, sm, encoder, decoder = UNUSED, 0, 0, 0
    for process in region.processes:
        memory += _memory(process, place)
        used = _utilisation(process, place)
        sm, encoder, decoder = sm + used.sm, encoder + used.encoder, decoder + used.decoder
    return DeviceUsage(device, limit, memory, Utilisation(sm, encoder, decoder))


def _process(process: Process, places: list[int | None]) -> ProcessUsage:
    return ProcessUsage(
        process.pid,
        process.host_pid,
        process.suspended,
        tuple(_memory(process, place) for place in places),
        tuple(_utilisation(process, place) for place in places),
    )


def _memory(process: Process, place: int | None) -> Memory:
    known = place is not None and place < len(process.memory)
    return process.memory[place] if known and place is not None else UNUSED


def _utilisation(process: Process, place: int | None) -> Utilisation:
    known = place is not None and place < len(process.utilisation)
    return process.utilisation[place] if known and place is not None else IDLE


def _granted(device: MonitoredDevice) -> int:
    return (device.memory_mib or 0) * MIB
