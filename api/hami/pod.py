"""What HAMi's scheduler writes on a pod (hami-scheduler.md 3.3)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from deviceplugin.api.hami import keys, poddevices
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.keys import VendorKeys
from deviceplugin.api.hami.poddevices import PodDevices
from deviceplugin.api.hami.text import clean

__all__ = [
    "BindPhase",
    "PodGrant",
    "decode_phase",
    "decode_time",
    "encode_time",
    "pod_devices",
    "pod_grant",
]

LAST_SECOND = 253_402_300_799
"""The end of the year 9999."""


class BindPhase(enum.StrEnum):
    """How far a pod's devices are: the scheduler begins, the node's agent ends."""

    ALLOCATING = "allocating"
    SUCCESS = "success"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PodGrant:
    """What was decided for a pod, of one vendor's devices.

    `assigned_at` and `bound_at` are UTC; they and `phase` are None as long as nobody has written
    them. `to_allocate` is what the agent has yet to hand out of `allocated`; it is empty for
    vendors that do not count down.
    """

    node: str
    allocated: PodDevices
    to_allocate: PodDevices = ()
    assigned_at: datetime | None = None
    phase: BindPhase | None = None
    bound_at: datetime | None = None

    @property
    def served(self) -> int:
        """How many containers have got theirs."""
        return len(poddevices.segments(self.allocated)) - len(poddevices.segments(self.to_allocate))


def pod_grant(annotations: Mapping[str, str], vendor: VendorKeys) -> PodGrant | None:
    """The grant in a pod's annotations, None without a node or without devices of this vendor.

    Devices of other types are left out. Raises `AnnotationError`.
    """
    node = annotations.get(keys.VGPU_NODE)
    allocated = pod_devices(annotations, vendor)
    if not node or not poddevices.segments(allocated):
        return None
    phase = annotations.get(keys.BIND_PHASE)
    return PodGrant(
        node=clean(node, keys.VGPU_NODE),
        allocated=allocated,
        to_allocate=_devices(annotations, vendor.to_allocate, vendor),
        assigned_at=_time(annotations, keys.VGPU_TIME),
        phase=None if phase is None else decode_phase(phase),
        bound_at=_time(annotations, keys.BIND_TIME),
    )


def pod_devices(annotations: Mapping[str, str], vendor: VendorKeys) -> PodDevices:
    """The devices of this vendor that a pod holds, container by container; empty for none.

    Raises `AnnotationError`.
    """
    return _devices(annotations, vendor.allocated, vendor)


def decode_phase(text: str, annotation: str = keys.BIND_PHASE) -> BindPhase:
    """Raises `AnnotationError`."""
    try:
        return BindPhase(text)
    except ValueError:
        known = ", ".join(BindPhase)
        raise AnnotationError(annotation, "an unknown phase", f"known are {known}", text) from None


def decode_time(text: str, annotation: str) -> datetime:
    """A time in UTC, of its Unix seconds. Raises `AnnotationError`."""
    if text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= LAST_SECOND:
        return datetime.fromtimestamp(int(text), UTC)
    raise AnnotationError(annotation, "no time", "write Unix seconds", text)


def encode_time(at: datetime) -> str:
    """The Unix seconds of a time with a zone."""
    return str(int(at.timestamp()))


def _time(annotations: Mapping[str, str], key: str) -> datetime | None:
    text = annotations.get(key)
    return None if text is None else decode_time(text, key)


def _devices(annotations: Mapping[str, str], key: str | None, vendor: VendorKeys) -> PodDevices:
    text = annotations.get(key) if key else None
    if not text or key is None:
        return ()
    return poddevices.of_type(poddevices.decode(text, key), vendor.common_word)
