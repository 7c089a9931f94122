"""The node half of a declaration: cards are device nodes, containers get nodes and variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from deviceplugin.api.hami.keys import Registration
from deviceplugin.vendor import (
    ContainerEdits,
    DriverError,
    Grant,
    NodeDevice,
    Owner,
    PhysicalDevice,
    ResourcePlan,
    Sharing,
    Snapshot,
    VendorSettings,
)
from deviceplugin.vendor.counted import called
from deviceplugin.vendor.declared.declaration import NUMBER, Declaration, read
from deviceplugin.vendor.devices import nodes_of, shares_of
from deviceplugin.vendor.registered import node_devices
from deviceplugin.vendor.sysfs import on_host

__all__ = ["DeclaredNode", "declared_node"]


def declared_node(place: str) -> Callable[[VendorSettings], DeclaredNode]:
    """Makes the node half of the declaration at ``package:file``."""
    return lambda settings: DeclaredNode(read(place).called(settings.section), settings)


class DeclaredNode:
    """A plain accelerator without a library."""

    def __init__(self, declaration: Declaration, settings: VendorSettings) -> None:
        self._declared, self._settings = declaration, settings

    def discover(self) -> Snapshot:
        """A card for each device node, by number."""
        declared = self._declared
        before, _, after = declared.device_node.partition(NUMBER)
        pattern = re.compile(re.escape(before) + r"([0-9]+)" + re.escape(after))
        inside = before.rpartition("/")[0]
        directory = on_host(self._settings.host_root, inside)
        found = {}
        if directory.is_dir():
            for path in directory.iterdir():
                if match := pattern.fullmatch(f"{inside}/{path.name}"):
                    found[int(match[1])] = match[0]
        if not found:
            raise DriverError(
                f"there is no {declared.device_node} on this node; load the driver of "
                f"{declared.name}",
                absent=True,
            )
        return Snapshot(
            tuple(
                PhysicalDevice(
                    uuid=f"{declared.name}-{number}",
                    index=str(number),
                    model=declared.model,
                    memory_mib=declared.memory_mib,
                    device_nodes=(found[number],),
                )
                for number in sorted(found)
            )
        )

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """All cards under one resource; with what schedulers call them where they count them."""
        declared = self._declared
        uuids = tuple(device.uuid for device in snapshot.by_index)
        split = shares_of(declared.shares, self._settings, limited=declared.limits)
        names = (
            called(declared.names, self._settings.node_name, uuids)
            if declared.keys.registration is Registration.CAPACITY
            else {}
        )
        plan = ResourcePlan(declared.resources.count, uuids, split, declared.keys, names=names)
        return [plan] if uuids else []

    def registered(self, plan: ResourcePlan, snapshot: Snapshot) -> Sequence[NodeDevice]:
        """The cards of the type that schedulers look for."""
        return node_devices(plan, snapshot, lambda card: self._declared.word)

    def impediment(self, plan: ResourcePlan) -> str:
        """Shares need variables that limit them."""
        if plan.split.sharing is not Sharing.LIMITED or self._declared.limits:
            return ""
        return (
            f"nothing limits shares of a card of {self._declared.name}: offer whole cards "
            "(shares: 1), or set isolation: none"
        )

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """The cards' nodes, and the variables with their fields filled in."""
        declared = self._declared
        fields = {
            "indices": ",".join(grant.device.index for grant in grants),
            "uuids": ",".join(grant.device.uuid for grant in grants),
            "memory": ",".join(str(grant.memory_mib or 0) for grant in grants),
            "cores": ",".join(str(grant.cores_percent or 0) for grant in grants),
        }
        env = {name: text.format(**fields) for name, text in declared.env.items()}
        return ContainerEdits(env, nodes_of(grants, *declared.common_nodes))
