"""Acme's node half: its cards are the nodes /dev/acme0, /dev/acme1, ...

A real vendor would ask its library here; whatever it does, it does in a process of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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


class AcmeNode:
    """Two obligatory methods and one optional one: four shares a card."""

    def __init__(self, settings: VendorSettings) -> None:
        self._dev = Path(settings.host_root) / "dev"

    def discover(self) -> Snapshot:
        """One device a node in /dev."""
        found = sorted(self._dev.glob("acme[0-9]*"))
        if not found:
            raise DriverError("no /dev/acme* on this node: is the acme module loaded?", absent=True)
        return Snapshot(
            tuple(
                PhysicalDevice(
                    uuid=f"ACME-{path.name.removeprefix('acme')}",
                    index=path.name.removeprefix("acme"),
                    model="Acme One",
                    memory_mib=8192,
                    device_nodes=(f"/dev/{path.name}",),
                )
                for path in found
            )
        )

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """Four virtual devices a card, each a quarter of its memory."""
        uuids = tuple(device.uuid for device in snapshot.devices)
        split = Split(count=4, separator="-", sharing=Sharing.LIMITED)
        return [ResourcePlan("acme.example.com/accelerator", uuids, split)]

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """The card's node, and its limit in the variable that Acme's runtime reads."""
        return ContainerEdits(
            env={f"ACME_MEMORY_MIB_{i}": str(g.memory_mib) for i, g in enumerate(grants)},
            device_nodes=tuple(
                DeviceNode(node) for grant in grants for node in grant.device.device_nodes
            ),
        )
