"""Whether a container's limits are in force, by evidence. Pure.

The evidence is the container's own region: a limit holds when libvgpu has written there the one
that was granted. It shows limits that were lost (library not loaded, another one loaded, variables
overridden, a directory left over from another pod). It is no proof against a tenant who forges it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from deviceplugin.libvgpu.layouts import DEVICES
from deviceplugin.libvgpu.region import Region

MIB = 1 << 20


class Reason(enum.Enum):
    """What the verdict rests on."""

    LIMITS_HOLD = "limits-hold"
    NO_REGION = "no-region"
    NOT_INITIALISED = "not-initialised"
    UNREADABLE = "unreadable"
    """Said by those who could not read the region."""
    NOTHING_LIMITED = "nothing-limited"
    COOPERATIVE = "cooperative"
    """Said of containers that another than libvgpu limits, with their own help."""
    MEMORY_DIFFERS = "memory-limit-differs"
    CORES_DIFFER = "core-limit-differs"
    DEVICE_NOT_GRANTED = "device-not-granted"
    DEVICE_MISSING = "device-missing"
    TOO_MANY_DEVICES = "too-many-devices"


@dataclass(frozen=True, slots=True)
class DeviceGrant:
    """One device of a container's grant, in the order in which its limits are numbered.

    None limits nothing. `cores_percent` of 0, or of 100 and more, is the whole device.
    """

    uuid: str
    memory_mib: int | None = None
    cores_percent: int | None = None


@dataclass(frozen=True, slots=True)
class Isolation:
    """`active` is None where nobody can tell."""

    active: bool | None
    reason: Reason
    detail: str = ""


def isolation(region: Region | None, grant: Sequence[DeviceGrant]) -> Isolation:
    """Whether the region's limits are the grant's. `region` is None while there is no file.

    Devices are paired by uuid once the region names them: libvgpu numbers them as the driver does
    in the container, which need not be the grant's order (hami-nvidia-node.md 8).
    """
    if all(device.memory_mib is None and device.cores_percent is None for device in grant):
        return Isolation(None, Reason.NOTHING_LIMITED, "the grant limits nothing")
    if region is None:
        return Isolation(None, Reason.NO_REGION, "no process has used a device yet")
    if not region.initialised:
        return Isolation(None, Reason.NOT_INITIALISED, "the region is not filled in yet")
    if len(grant) > DEVICES:
        detail = f"{len(grant)} devices are granted and libvgpu limits {DEVICES}"
        return Isolation(False, Reason.TOO_MANY_DEVICES, detail)
    places = positions(region, [device.uuid for device in grant])
    if strange := sorted(set(filter(None, region.uuids)) - {device.uuid for device in grant}):
        detail = f"the container sees {', '.join(strange)} beside its grant"
        return Isolation(False, Reason.DEVICE_NOT_GRANTED, detail)
    for device, place in zip(grant, places, strict=True):
        if place is None:
            detail = f"the container does not see {device.uuid}"
            return Isolation(False, Reason.DEVICE_MISSING, detail)
        if differs := _difference(device, region, place):
            return differs
    return Isolation(True, Reason.LIMITS_HOLD)


def positions(region: Region, uuids: Sequence[str]) -> list[int | None]:
    """Where the region keeps each of these devices; by order while it names none of them.

    None for a device that is not among those it names.
    """
    if not any(region.uuids):
        return [place if place < DEVICES else None for place in range(len(uuids))]
    known = {uuid: place for place, uuid in enumerate(region.uuids) if uuid}
    return [known.get(uuid) for uuid in uuids]


def _difference(device: DeviceGrant, region: Region, place: int) -> Isolation | None:
    memory, cores = region.memory_limits[place], region.core_limits[place]
    if device.memory_mib is not None and memory != device.memory_mib * MIB:
        found = f"{memory} bytes" if memory else "none"
        detail = f"memory of {device.uuid}: limit {found}, granted {device.memory_mib} MiB"
        return Isolation(False, Reason.MEMORY_DIFFERS, detail)
    if device.cores_percent is not None and _share(cores) != _share(device.cores_percent):
        detail = f"cores of {device.uuid}: limit {cores} %, granted {device.cores_percent} %"
        return Isolation(False, Reason.CORES_DIFFER, detail)
    return None


def _share(percent: int) -> int:
    """The library limits nothing at 0 and from 100 on (hami-nvidia-node.md 6.1)."""
    return percent if 0 < percent < 100 else 100
