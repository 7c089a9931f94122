"""Which of the driver's events make a device unhealthy, and the loop that waits for them.

Source: kubelet-deviceplugin.md 4.7, hami-nvidia-node.md 1.8. Placements of MIG instances are those
of the newest snapshot, so that instances made later are watched too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from deviceplugin.vendor import HealthEvent, PhysicalDevice, Snapshot
from deviceplugin.vendors.nvidia.facts import COMPUTE_INSTANCE, GPU_INSTANCE

LOG = logging.getLogger(__name__)

APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
"""Errors that the application makes and the card survives."""

WHOLE = 0xFFFFFFFF
"""In an event: no particular instance."""

WAIT_MILLISECONDS = 5000
ERROR_PAUSE_SECONDS = 5.0
_ALL = ("all", "xids")


@dataclass(frozen=True, slots=True)
class XidPolicy:
    """Which Xid numbers count. `all_enabled` and `all_disabled` are the words for every one."""

    enabled: frozenset[int] = frozenset()
    disabled: frozenset[int] = frozenset()
    all_enabled: bool = False
    all_disabled: bool = False

    @property
    def watches(self) -> bool:
        """Whether events are waited for at all. Numbers in the enabled list do not revive a
        watch that is disabled altogether; that is NVIDIA's behaviour, not its stated intent.
        """
        return self.all_enabled or not self.all_disabled

    def counts(self, xid: int) -> bool:
        """Whether this error makes its device unhealthy: the enabled list wins over the disabled
        one, and that over the built-in list.
        """
        if self.all_enabled or xid in self.enabled:
            return True
        if xid in self.disabled or xid in APPLICATION_XIDS:
            return False
        return not self.all_disabled


def policy(disable: Sequence[str], enable: Sequence[str]) -> XidPolicy:
    """The policy of DP_DISABLE_HEALTHCHECKS and DP_ENABLE_HEALTHCHECKS, split into words.

    ``all`` or ``xids`` anywhere in a list means every number; what is no number is ignored.
    """
    off, on = _words(disable), _words(enable)
    return XidPolicy(
        enabled=_numbers(on),
        disabled=_numbers(off),
        all_enabled=any(word in _ALL for word in on),
        all_disabled=any(word in _ALL for word in off),
    )


def _words(parts: Sequence[str]) -> list[str]:
    return [word.strip().lower() for part in parts for word in part.split(",")]


def _numbers(words: Sequence[str]) -> frozenset[int]:
    return frozenset(int(word) for word in words if word.isascii() and word.isdecimal())


@dataclass(frozen=True, slots=True)
class XidEvent:
    """An Xid as the driver reports it, of the GPU `uuid`; instances are `WHOLE` if not given."""

    xid: int
    uuid: str
    gpu_instance: int = WHOLE
    compute_instance: int = WHOLE


def concerned(event: XidEvent, devices: Sequence[PhysicalDevice]) -> tuple[str, ...]:
    """The uuids of the GPU and of those of its MIG instances that the event may be about."""
    return tuple(
        device.uuid
        for device in devices
        if device.uuid == event.uuid
        or (device.parent_uuid == event.uuid and _is_about(event, device))
    )


def _is_about(event: XidEvent, instance: PhysicalDevice) -> bool:
    if WHOLE in (event.gpu_instance, event.compute_instance):
        return True
    placement = (
        instance.attributes.get(GPU_INSTANCE, ""),
        instance.attributes.get(COMPUTE_INSTANCE, ""),
    )
    return placement == (str(event.gpu_instance), str(event.compute_instance))


def verdict(
    event: XidEvent, devices: Sequence[PhysicalDevice], rules: XidPolicy
) -> Iterator[HealthEvent]:
    """What follows from an event; nothing for an error that does not count or a strange GPU."""
    if not rules.counts(event.xid):
        return
    for uuid in concerned(event, devices):
        yield HealthEvent(uuid, False, f"Xid {event.xid} reported by the driver; see dmesg")


class Watch:
    """Waits for events of the GPUs of the newest snapshot, in an initialised NVML."""

    def __init__(
        self,
        nvml: Any,
        rules: XidPolicy,
        newest: Callable[[], Snapshot],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._nvml = nvml
        self._rules = rules
        self._newest = newest
        self._sleep = sleep
        self._registered: set[str] = set()

    def events(self) -> Iterator[HealthEvent]:
        """Blocks for the next event, for ever. Raises NVML's error without an event set."""
        events = self._nvml.nvmlEventSetCreate()
        try:
            while True:
                devices = self._newest().devices
                yield from self._register(events, devices)
                yield from self._wait(events, devices)
        finally:
            self._nvml.nvmlEventSetFree(events)

    def _register(self, events: Any, devices: Sequence[PhysicalDevice]) -> Iterator[HealthEvent]:
        """Ask for the events of GPUs that are not watched yet; what fails is tried again."""
        for gpu in devices:
            if gpu.parent_uuid or gpu.uuid in self._registered:
                continue
            failure = self._refused(events, gpu.uuid)
            if not failure:
                self._registered.add(gpu.uuid)
                continue
            for device in devices:
                if gpu.uuid in (device.uuid, device.parent_uuid):
                    yield HealthEvent(device.uuid, False, f"no health events: {failure}")

    def _refused(self, events: Any, uuid: str) -> str:
        """Why the GPU cannot be watched and so must not be trusted; empty when it can, and for
        old GPUs that have no events at all.
        """
        nvml = self._nvml
        call = "nvmlDeviceGetHandleByUUID"
        wanted = (
            nvml.nvmlEventTypeXidCriticalError
            | nvml.nvmlEventTypeDoubleBitEccError
            | nvml.nvmlEventTypeSingleBitEccError
        )
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            call = "nvmlDeviceGetSupportedEventTypes"
            supported = nvml.nvmlDeviceGetSupportedEventTypes(handle)
            call = "nvmlDeviceRegisterEvents"
            nvml.nvmlDeviceRegisterEvents(handle, wanted & supported, events)
        except nvml.NVMLError as error:
            unsupported = error.value == nvml.NVML_ERROR_NOT_SUPPORTED
            if unsupported and call == "nvmlDeviceRegisterEvents":
                LOG.warning("%s is too old to report events; its health is not watched", uuid)
                return ""
            return f"{call}: {error}"
        return ""

    def _wait(self, events: Any, devices: Sequence[PhysicalDevice]) -> Iterator[HealthEvent]:
        nvml = self._nvml
        try:
            event = nvml.nvmlEventSetWait(events, WAIT_MILLISECONDS)
        except nvml.NVMLError as error:
            if error.value != nvml.NVML_ERROR_TIMEOUT:
                yield from self._blamed(devices, error)
                self._sleep(ERROR_PAUSE_SECONDS)
            return
        if event.eventType != nvml.nvmlEventTypeXidCriticalError:
            return
        xid = int(event.eventData)
        if not self._rules.counts(xid):
            return
        try:
            uuid = nvml.nvmlDeviceGetUUID(event.device)
        except (nvml.NVMLError, UnicodeDecodeError) as error:
            yield HealthEvent("", False, f"Xid {xid} of a GPU that does not say its uuid: {error}")
            return
        found = XidEvent(xid, uuid, int(event.gpuInstanceId), int(event.computeInstanceId))
        yield from verdict(found, devices, self._rules)

    def _blamed(self, devices: Sequence[PhysicalDevice], error: Any) -> Iterator[HealthEvent]:
        """All devices; but when a GPU is lost, only the lost ones, if they can be told."""
        nvml = self._nvml
        reason = f"waiting for health events failed: {error}"
        lost = []
        if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
            gpus = {device.uuid for device in devices if not device.parent_uuid}
            lost = [uuid for uuid in sorted(gpus) if self._is_lost(uuid)]
        for device in devices if lost else ():
            if device.uuid in lost or device.parent_uuid in lost:
                yield HealthEvent(device.uuid, False, reason)
        if not lost:
            yield HealthEvent("", False, reason)

    def _is_lost(self, uuid: str) -> bool:
        nvml = self._nvml
        try:
            nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(uuid))
        except nvml.NVMLError as error:
            return bool(error.value == nvml.NVML_ERROR_GPU_IS_LOST)
        return False
