"""A simulated node as frozen values: its devices, how they are divided, what goes wrong when.

All times are seconds since the start of the scenario.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from deviceplugin.vendor import Mount, PhysicalDevice, Snapshot, Split, Usage


class ProfileError(ValueError):
    """A profile that cannot be used; the text names file, key, reason and remedy."""

    def __init__(self, source: str, key: str, reason: str, remedy: str) -> None:
        place = ": ".join(part for part in (source, key) if part)
        super().__init__(f"{place}: {reason}; {remedy}")


class Origin(enum.StrEnum):
    """Where a profile comes from. What a driver really said is replayed even where it is odd
    (two devices of one uuid); what a person composed is checked for sense.
    """

    COMPOSED = "composed"
    RECORDED = "recorded"


class FaultKind(enum.StrEnum):
    """What can happen to a simulated node."""

    UNHEALTHY = "unhealthy"
    HEALTHY = "healthy"
    """Ends every `UNHEALTHY` of the device, and the bad health it began with."""
    VANISH = "vanish"
    DUPLICATE_UUID = "duplicate-uuid"
    EMPTY_LIST = "empty-list"
    RETURN = "return"
    """Ends every `VANISH`, `DUPLICATE_UUID` and `EMPTY_LIST` for the device."""
    SLOW = "slow"
    HANG = "hang"
    CRASH = "crash"
    GARBAGE = "garbage"
    ERROR = "error"
    ABSENT = "absent"
    REFUSE_PARTITION = "refuse-partition"
    USAGE_ERROR = "usage-error"
    USAGE_HANG = "usage-hang"


DEVICE_FAULTS = frozenset(
    {
        FaultKind.UNHEALTHY,
        FaultKind.HEALTHY,
        FaultKind.VANISH,
        FaultKind.DUPLICATE_UUID,
        FaultKind.EMPTY_LIST,
        FaultKind.RETURN,
    }
)
"""These change what the driver lists; all others, how it behaves."""

ENDINGS = frozenset({FaultKind.HEALTHY, FaultKind.RETURN})
"""These happen at one moment and have no end of their own."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault from `at` until `until` (None: to the end). `device` is the index or uuid of a
    device, empty for all; `seconds` is how much later a slow driver answers.
    """

    kind: FaultKind
    at: float
    until: float | None = None
    device: str = ""
    seconds: float = 0.0
    reason: str = ""

    def active(self, moment: float) -> bool:
        """Whether the fault lasts at that moment; `at` belongs to it, `until` does not."""
        return self.at <= moment and (self.until is None or moment < self.until)

    def concerns(self, device: PhysicalDevice) -> bool:
        """Whether the fault is about that device."""
        return self.device in ("", device.index, device.uuid)


@dataclass(frozen=True, slots=True)
class Change:
    """From `at` on, the driver lists this instead."""

    at: float
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Busy:
    """From `at` on, a device is as busy as `usage` says, all of them where its uuid is empty."""

    at: float
    usage: Usage

    def concerns(self, device: PhysicalDevice) -> bool:
        """Whether this is about that device."""
        return self.usage.uuid in ("", device.uuid)


@dataclass(frozen=True, slots=True)
class PartitionSize:
    """What one hard partition takes of its card."""

    memory_mib: int
    cores_percent: int


@dataclass(frozen=True, slots=True)
class ProfileMount:
    """A mount that every container gets; ``{allocation}`` in the host path is the allocation id.
    With `create` the host directory is made before the container starts.
    """

    mount: Mount
    create: bool = False


@dataclass(frozen=True, slots=True)
class Profile:
    """A node over time. `changes`, `faults` and `usage` are ordered by `at`."""

    origin: Origin
    resource: str
    snapshot: Snapshot
    split: Split
    changes: tuple[Change, ...] = ()
    exposure: bool = False
    mounts: tuple[ProfileMount, ...] = ()
    partitions: Mapping[str, PartitionSize] = field(default_factory=lambda: MappingProxyType({}))
    faults: tuple[Fault, ...] = ()
    usage: tuple[Busy, ...] = ()
