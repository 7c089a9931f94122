"""What this node's devices are and how they do: pure state over probes and events.

A device goes *healthy → suspect → unhealthy → recovering → healthy*. Kubelet is shown two
words; a suspect device still counts as healthy there, a recovering one does not yet. Nothing here
reads a clock: `now` is seconds of any monotonic clock, handed in.

Why devices do not simply vanish: kubelet may dereference a device that left the list while an
Allocate for it was under way (kubelet-deviceplugin.md 2.6), and a driver in trouble often answers
with an empty list for a moment. So a missing device is unhealthy first and forgotten later.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from deviceplugin.vendor import HealthEvent, PhysicalDevice, Snapshot, with_health

MAX_ID_LENGTH = 63
"""Kubelet's API text asks for device ids of at most 63 characters (kubelet-deviceplugin.md 1.1);
a virtual id adds a suffix, so a longer uuid is a warning and not a refusal."""

MAX_NUMA_NODE = 1023
"""Linux counts no further; kubelet takes -1 for a node too (kubelet-deviceplugin.md 2.6)."""

MAX_MEMORY_MIB = 1 << 30
"""1 PiB: what a driver says beyond is a fault of the driver."""

MAX_CORES_PERCENT = 100_000


class State(enum.StrEnum):
    """Where a device stands."""

    HEALTHY = "healthy"
    SUSPECT = "suspect"
    UNHEALTHY = "unhealthy"
    RECOVERING = "recovering"

    @property
    def usable(self) -> bool:
        """Whether kubelet may hand the device out."""
        return self in (State.HEALTHY, State.SUSPECT)


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """When a device changes state. Counts are probes, times are seconds."""

    failures: int = 1
    """This many bad probes out of the last `window` make a device unhealthy."""
    window: int = 1
    successes: int = 2
    """This many good probes in a row make a recovering device healthy."""
    hold: float = 60.0
    """An unhealthy device stays so at least this long after its last bad sign."""
    forget: float = 300.0
    """A device that the driver no longer lists is dropped after this long."""
    probe_failures: int = 3
    """This many failed probes in a row make every device of the vendor unhealthy."""


@dataclass(frozen=True, slots=True)
class TrackedDevice:
    """A device with its state; `since` and `bad_at` are clock seconds, `recent` the last probes."""

    device: PhysicalDevice
    state: State = State.HEALTHY
    reason: str = ""
    since: float = 0.0
    bad_at: float = 0.0
    recent: tuple[bool, ...] = ()
    missing_since: float | None = None

    def shown(self) -> PhysicalDevice:
        """The device as everybody else sees it: with the health of this state."""
        return with_health(self.device, self.state.usable, self.reason)


@dataclass(frozen=True, slots=True)
class Inventory:
    """All tracked devices of a vendor by uuid, in the driver's order, and the facts around."""

    devices: Mapping[str, TrackedDevice] = field(default_factory=lambda: MappingProxyType({}))
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    problems: tuple[str, ...] = ()
    failed_probes: int = 0

    def snapshot(self) -> Snapshot:
        """The devices as one snapshot, health included."""
        return Snapshot(
            tuple(tracked.shown() for tracked in self.devices.values()),
            self.attributes,
            self.problems,
        )


def admit(snapshot: Snapshot) -> Snapshot:
    """The snapshot without what cannot be served; each device left out is a problem with a name."""
    kept: dict[str, PhysicalDevice] = {}
    problems = list(snapshot.problems)
    for device in snapshot.devices:
        reason = _unusable(device)
        if not reason and device.uuid in kept:
            reason = "another device has the same uuid; neither can be told from the other"
            first = kept[device.uuid]
            kept[device.uuid] = with_health(first, healthy=False, reason="duplicate uuid")
        name = f"device {device.index or '?'} ({device.uuid!r:.80})"
        if reason:
            problems.append(f"{name} left out: {reason}")
            continue
        if device.numa_node is not None and not 0 <= device.numa_node <= MAX_NUMA_NODE:
            problems.append(f"{name}: NUMA node {device.numa_node} is none, taken as unknown")
            device = replace(device, numa_node=None)
        kept[device.uuid] = device
    return Snapshot(tuple(kept.values()), snapshot.attributes, tuple(problems))


def _unusable(device: PhysicalDevice) -> str:
    if not device.uuid:
        return "it has no uuid"
    if not device.uuid.isprintable() or any(letter.isspace() for letter in device.uuid):
        return "its uuid has blanks or control characters"
    if device.memory_mib is not None and not 0 <= device.memory_mib <= MAX_MEMORY_MIB:
        return f"its memory is {device.memory_mib!r:.30} MiB"
    if not 0 <= device.cores_percent <= MAX_CORES_PERCENT:
        return f"it has {device.cores_percent!r:.30} percent of cores"
    return ""


def observe(
    inventory: Inventory, snapshot: Snapshot, now: float, policy: HealthPolicy
) -> Inventory:
    """The inventory after a probe answered."""
    snapshot = admit(snapshot)
    seen = {device.uuid: device for device in snapshot.devices}
    tracked = {
        uuid: _probed(inventory.devices.get(uuid), device, now, policy)
        for uuid, device in seen.items()
    }
    for uuid, old in inventory.devices.items():
        if uuid not in seen:
            gone = _missing(old, now)
            if now - (gone.missing_since or now) < policy.forget:
                tracked[uuid] = gone
    return Inventory(
        MappingProxyType(tracked), snapshot.attributes or inventory.attributes, snapshot.problems
    )


def observe_event(inventory: Inventory, event: HealthEvent, now: float) -> Inventory:
    """The inventory after the driver reported an event; an unknown uuid changes nothing.

    A bad event counts at once. A good one is the driver's own word and ends a bad state at once.
    """
    changed = dict(inventory.devices)
    for uuid in [event.uuid] if event.uuid else list(changed):
        if (old := changed.get(uuid)) is not None:
            state = State.HEALTHY if event.healthy else State.UNHEALTHY
            bad_at = old.bad_at if event.healthy else now
            changed[uuid] = _moved(replace(old, bad_at=bad_at), state, event.reason, now)
    return replace(inventory, devices=MappingProxyType(changed))


def observe_failure(
    inventory: Inventory, reason: str, now: float, policy: HealthPolicy
) -> Inventory:
    """The inventory after a probe failed: the last answer stands until too many have failed."""
    failed = inventory.failed_probes + 1
    devices: Mapping[str, TrackedDevice] = inventory.devices
    if failed >= policy.probe_failures:
        devices = MappingProxyType(
            {
                uuid: _moved(
                    replace(old, bad_at=now, recent=()), State.UNHEALTHY, f"probe: {reason}", now
                )
                for uuid, old in devices.items()
            }
        )
    return replace(inventory, devices=devices, failed_probes=failed)


def _probed(
    old: TrackedDevice | None, device: PhysicalDevice, now: float, policy: HealthPolicy
) -> TrackedDevice:
    """One device after one probe."""
    good = device.healthy
    if old is None:
        new = TrackedDevice(device, since=now, recent=(good,), bad_at=0.0 if good else now)
        return new if good else _moved(new, State.UNHEALTHY, device.reason, now)
    recent = (*old.recent, good)[-max(policy.window, policy.successes) :]
    new = replace(
        old, device=device, recent=recent, missing_since=None, bad_at=old.bad_at if good else now
    )
    failures = recent[-policy.window :].count(False)
    if not good:
        bad = failures >= policy.failures or not old.state.usable
        return _moved(new, State.UNHEALTHY if bad else State.SUSPECT, device.reason, now)
    if old.state is State.SUSPECT:
        return new if failures else _moved(new, State.HEALTHY, "", now)
    if old.state is State.HEALTHY:
        return new
    if now - old.bad_at < policy.hold:
        return new
    enough = recent[-policy.successes :].count(True) >= policy.successes
    return _moved(new, State.HEALTHY if enough else State.RECOVERING, old.reason, now)


def _missing(old: TrackedDevice, now: float) -> TrackedDevice:
    """A device that the driver no longer lists."""
    since = now if old.missing_since is None else old.missing_since
    gone = replace(old, missing_since=since, bad_at=now, recent=())
    return _moved(gone, State.UNHEALTHY, "the driver no longer lists this device", now)


def _moved(device: TrackedDevice, state: State, reason: str, now: float) -> TrackedDevice:
    """The device in `state`; `since` changes only with the state."""
    return replace(
        device,
        state=state,
        reason="" if state is State.HEALTHY else reason or "the driver gives no reason",
        since=device.since if state is device.state else now,
    )


def counts(devices: Iterable[TrackedDevice]) -> dict[str, int]:
    """How many devices are in each state; every state has its key."""
    totals = {state.value: 0 for state in State}
    for tracked in devices:
        totals[tracked.state.value] += 1
    return totals
