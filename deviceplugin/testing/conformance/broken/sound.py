"""A vendor that keeps every promise, in as few lines as that takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deviceplugin.testing.conformance.broken.keys import KEYS, RESOURCE
from deviceplugin.vendor import (
    ContainerEdits,
    DeviceNode,
    DriverError,
    Grant,
    Owner,
    PhysicalDevice,
    ResourcePlan,
    Sharing,
    Snapshot,
    Split,
    VendorSettings,
)


class Node:
    """Four shares a card, each with its part of the memory."""

    def __init__(self, settings: VendorSettings) -> None:
        self._dev = Path(settings.host_root) / "dev"

    def discover(self) -> Snapshot:
        """The nodes in /dev."""
        found = sorted(self._dev.glob("sound[0-9]*"))
        if not found:
            raise DriverError("there is no /dev/sound*: load the module sound", absent=True)
        return Snapshot(
            tuple(PhysicalDevice(f"SOUND-{p.name[5:]}", p.name[5:], "Sound One") for p in found)
        )

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """One resource with all cards."""
        uuids = tuple(device.uuid for device in snapshot.devices)
        split = Split(count=4, separator="-", sharing=Sharing.LIMITED)
        return [ResourcePlan(RESOURCE, uuids, split, KEYS)] if uuids else []

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """The cards' nodes and their limits."""
        return ContainerEdits(
            env={f"SOUND_MEMORY_MIB_{i}": str(g.memory_mib) for i, g in enumerate(grants)},
            device_nodes=tuple(DeviceNode(n) for g in grants for n in g.device.device_nodes),
        )
