"""What the driver of a simulated node says at a moment of its scenario. Pure.

A fault holds from its `at` to its `until`, or to a later ``healthy`` or ``return`` of the same
device, so any number of them overlap and each ends by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from deviceplugin.vendor import HealthEvent, PhysicalDevice, Snapshot, Usage, with_health
from deviceplugin.vendors.mock.profile import DEVICE_FAULTS, Fault, FaultKind, Profile

_HIDING = (FaultKind.VANISH, FaultKind.EMPTY_LIST)


def state_at(profile: Profile, moment: float) -> Snapshot:
    """What the driver lists `moment` seconds after the start."""
    base, since = profile.snapshot, 0.0
    for change in profile.changes:
        if change.at <= moment:
            base, since = change.snapshot, change.at
    shown: list[PhysicalDevice] = []
    copies: list[PhysicalDevice] = []
    for device in base.devices:
        active, cured = _lasting(profile, device, since, moment)
        if any(fault.kind in _HIDING for fault in active):
            continue
        one = with_health(device, healthy=True) if cured else device
        ill = [fault for fault in active if fault.kind is FaultKind.UNHEALTHY]
        if ill:
            one = with_health(one, healthy=False, reason=_reason(ill[-1]))
        shown.append(one)
        if any(fault.kind is FaultKind.DUPLICATE_UUID for fault in active):
            copies.append(replace(one, index=str(len(base.devices) + len(copies))))
    return replace(base, devices=(*shown, *copies))


def behaviour_at(profile: Profile, moment: float) -> tuple[Fault, ...]:
    """The faults of the driver itself that last at that moment, oldest first."""
    return tuple(
        fault
        for fault in profile.faults
        if fault.kind not in DEVICE_FAULTS and fault.active(moment)
    )


def usage_at(
    profile: Profile, devices: Iterable[PhysicalDevice], moment: float
) -> tuple[Usage, ...]:
    """How busy these devices are at that moment; those of which nothing is said are left out."""
    found = {}
    for device in devices:
        said = [busy for busy in profile.usage if busy.at <= moment and busy.concerns(device)]
        if said:
            found[device.uuid] = replace(said[-1].usage, uuid=device.uuid)
    return tuple(found.values())


def next_change(profile: Profile, moment: float) -> float | None:
    """The first time after `moment` at which something begins or ends; None when nothing does."""
    times = [change.at for change in profile.changes]
    for fault in profile.faults:
        times.append(fault.at)
        if fault.until is not None:
            times.append(fault.until)
    return min((time for time in times if time > moment), default=None)


def events_between(before: Snapshot, after: Snapshot) -> Sequence[HealthEvent]:
    """What a driver reports when its devices go from one state to another.

    A device that leaves or joins the list is no event: drivers report neither.
    """
    known = {device.uuid: (device.healthy, device.reason) for device in before.devices}
    return [
        HealthEvent(device.uuid, device.healthy, device.reason)
        for device in {device.uuid: device for device in after.devices}.values()
        if device.uuid in known and known[device.uuid] != (device.healthy, device.reason)
    ]


def _lasting(
    profile: Profile, device: PhysicalDevice, since: float, moment: float
) -> tuple[list[Fault], bool]:
    """The faults that a device suffers, and whether it was cured of the bad health that the
    driver lists `since` then.
    """
    active: list[Fault] = []
    cured = False
    for fault in profile.faults:
        if fault.at > moment or fault.kind not in DEVICE_FAULTS or not fault.concerns(device):
            continue
        if fault.kind is FaultKind.HEALTHY:
            active = [other for other in active if other.kind is not FaultKind.UNHEALTHY]
            cured = cured or fault.at >= since
        elif fault.kind is FaultKind.RETURN:
            active = [other for other in active if other.kind is FaultKind.UNHEALTHY]
        elif fault.active(moment):
            active.append(fault)
    return active, cured


def _reason(fault: Fault) -> str:
    return fault.reason or f"the scenario makes it unhealthy from second {fault.at:g}"
