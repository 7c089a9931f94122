"""Acme's node half: its cards are the nodes /dev/acme0, /dev/acme1, ...

A real vendor would ask its library here; whatever it does, it does in a process of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from acme_accelerator.keys import KEYS, RESOURCES
from deviceplugin.vendor import (
    ContainerEdits,
    DriverError,
    Grant,
    Owner,
    PhysicalDevice,
    ResourcePlan,
    Snapshot,
    VendorSettings,
)
from deviceplugin.vendor.devices import nodes_of, shares_of
from deviceplugin.vendor.sysfs import on_host

SHARES = 4


class AcmeNode:
    """Two obligatory methods and one optional one: four shares a card."""

    def __init__(self, settings: VendorSettings) -> None:
        self._settings = settings

    def discover(self) -> Snapshot:
        """One device a node in /dev."""
        found = sorted(on_host(self._settings.host_root, "/dev").glob("acme[0-9]*"))
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
        """Four virtual devices a card, each a quarter of it."""
        uuids = tuple(device.uuid for device in snapshot.by_index)
        split = shares_of(SHARES, self._settings, limited=True)
        return [ResourcePlan(RESOURCES.count, uuids, split, KEYS)] if uuids else []

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """The cards' nodes, and the limits in the variables that Acme's runtime reads."""
        env = {}
        for position, grant in enumerate(grants):
            if grant.memory_mib is not None:
                env[f"ACME_MEMORY_MIB_{position}"] = str(grant.memory_mib)
            if grant.cores_percent:
                env[f"ACME_CORES_{position}"] = str(grant.cores_percent)
        return ContainerEdits(env, nodes_of(grants))
