"""Virtual NPUs that nobody needs any more, found and removed. Runs in the probe.

ascend-docker-runtime makes a vNPU right before its container and removes it after; what is left of
containers that failed in between, and of reboots, takes its part of the card for ever. But a vNPU
that is not in use may as well be of a container that has not come to opening it, so one is only
removed where no living container of this node holds anything of its card, and it was there for a
while (ascend-and-mock.md A.11, E.1 no. 10, F.7).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from deviceplugin.vendor import DriverError, PhysicalDevice
from deviceplugin.vendor.sysfs import on_host
from deviceplugin.vendors.ascend.discovery import unit_of
from deviceplugin.vendors.ascend.library import Dcmi, Unit, Vnpu

__all__ = ["IdleVnpus", "strangers"]

GRACE_SECONDS = 45.0
"""For so long a vNPU must have been seen, so that it is not of a container that starts just now."""

CHECKPOINT = "var/lib/kubelet/device-plugins/kubelet_internal_checkpoint"
DOMAIN = "huawei.com/"


def strangers(root: str, ours: Collection[str]) -> str:
    """Why the vNPUs of this node may be another plugin's; empty when they are not."""
    path = on_host(root, CHECKPOINT)
    try:
        registered = json.loads(path.read_bytes())["Data"]["RegisteredDevices"]
        others = sorted(name for name in registered if name.startswith(DOMAIN) and name not in ours)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{path} does not tell which plugins this node has ({type(error).__name__})"
    return f"another plugin of this node serves {', '.join(others)}" if others else ""


class IdleVnpus:
    """What is known of the vNPUs of a node, by the monotonic clock in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[tuple[Unit, Vnpu], float] = {}
        self._devices: tuple[tuple[Unit, str], ...] = ()

    def look(self, dcmi: Dcmi, devices: Sequence[PhysicalDevice]) -> None:
        """Remember which there are."""
        now = self._clock()
        self._devices = tuple((unit_of(device), device.uuid) for device in devices)
        found = [(unit, vnpu) for unit, _ in self._devices for vnpu in _idle(dcmi, unit)]
        self._since = {item: self._since.get(item, now) for item in found}

    def remove(self, dcmi: Dcmi, held: Sequence[Mapping[str, str]]) -> Iterator[str]:
        """Remove those that are nobody's, given all who hold devices; a sentence each.

        A holder of whom it is not known which devices are his stops everything.
        """
        names = [holder.get("devices", "").split() for holder in held]
        if not all(names):
            return
        busy = {uuid for uuids in names for uuid in uuids}
        now = self._clock()
        for unit, uuid in self._devices:
            if uuid in busy:
                continue
            for vnpu in _idle(dcmi, unit):
                seen = self._since.get((unit, vnpu))
                if seen is None or now - seen < GRACE_SECONDS:
                    continue
                try:
                    if dcmi.busy(unit):
                        break
                    dcmi.destroy(unit, vnpu.id)
                except DriverError as error:
                    yield f"vNPU {vnpu.id} of {uuid} stays: {error}"
                else:
                    yield f"vNPU {vnpu.id} ({vnpu.template}) of {uuid}, which no container holds"


def _idle(dcmi: Dcmi, unit: Unit) -> tuple[Vnpu, ...]:
    """Those that no container uses; none where the driver does not say."""
    try:
        return tuple(vnpu for vnpu in dcmi.vnpus(unit) if not vnpu.used)
    except DriverError:
        return ()
