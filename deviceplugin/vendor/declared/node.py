"""The node half of a declaration: cards are device nodes, containers get nodes and variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from deviceplugin.api.hami.keys import Registration
from deviceplugin.vendor import (
    ContainerEdits,
    DeviceNode,
    DriverError,
    Grant,
    NodeDevice,
    Owner,
    PhysicalDevice,
    ResourcePlan,
    Sharing,
    Snapshot,
    Split,
    VendorSettings,
)
from deviceplugin.vendor.declared.declaration import NUMBER, Declaration, read
from deviceplugin.vendor.registered import node_device

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
        directory = Path(self._settings.host_root) / before.lstrip("/").rpartition("/")[0]
        found = {}
        if directory.is_dir():
            inside = before.rpartition("/")[0]
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
        devices = sorted(snapshot.devices, key=lambda device: int(device.index))
        if not devices:
            return []
        node = self._settings.node_name
        uuids = tuple(device.uuid for device in devices)
        names = (
            {declared.names.format(node=node, n=i): uuid for i, uuid in enumerate(uuids)}
            if declared.keys.registration is Registration.CAPACITY
            else {}
        )
        return [
            ResourcePlan(declared.resources.count, uuids, self._split(), declared.keys, names=names)
        ]

    def _split(self) -> Split:
        declared = self._declared
        if declared.shares == 1:
            return Split()
        limited = declared.limits or self._settings.enforce_isolation
        sharing = Sharing.LIMITED if limited else Sharing.TIME_SLICING
        return Split(count=declared.shares, separator="-", sharing=sharing)

    def registered(self, plan: ResourcePlan, snapshot: Snapshot) -> Sequence[NodeDevice]:
        """The cards of the type that schedulers look for."""
        found = (snapshot.device(uuid) for uuid in plan.devices)
        return tuple(node_device(d, plan, self._declared.word) for d in found if d is not None)

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
        nodes = [node for grant in grants for node in grant.device.device_nodes]
        return ContainerEdits(
            env={name: text.format(**fields) for name, text in declared.env.items()},
            device_nodes=tuple(
                DeviceNode(node, permissions="rw") for node in (*nodes, *declared.common_nodes)
            ),
        )
