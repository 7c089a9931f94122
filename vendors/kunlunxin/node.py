"""The node half: whole cards, and slices that the container toolkit limits
(metax-iluvatar-kunlunxin-hygon.md 3.5, 5.2).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.vendor import (
    ContainerEdits,
    DeviceNode,
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
from deviceplugin.vendor.registered import node_device
from deviceplugin.vendors.kunlunxin.configuration import configuration

WHOLE, SLICES = VENDORS["kunlun"], VENDORS["XPU"]
VISIBLE = "CXPU_VISIBLE_DEVICES"
CONTROL = "/dev/xpuctrl"
MIB = 1 << 20
SLOTS = 4
"""The smallest slice is a quarter of a card."""


class KunlunxinNode:
    """Kunlunxin's XPUs. Raises `ValueError` for a section that cannot be used."""

    def __init__(self, settings: VendorSettings) -> None:
        self._settings = settings
        self._configuration = configuration(settings.section)

    def discover(self) -> Snapshot:
        """The cards by libxpuml. Raises `DriverError`."""
        from deviceplugin.vendors.kunlunxin.discovery import discover

        found = discover(self._settings.host_root)
        return replace(found, problems=(*self._configuration.problems, *found.problems))

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """Cards that are shared in quarters, all others whole. Schedulers count whole cards off the
        node's capacity and call them by the node's name and a number.
        """
        config = self._configuration
        devices = sorted(snapshot.devices, key=lambda device: int(device.index))
        whole = [d.uuid for d in devices if not config.is_shared(int(d.index))]
        shared = [d.uuid for d in devices if config.is_shared(int(d.index))]
        name = self._settings.node_name
        plans = []
        if whole:
            names = {f"{name}-kunlun-{i}": uuid for i, uuid in enumerate(whole)}
            plans.append(ResourcePlan(config.resource, tuple(whole), keys=WHOLE, names=names))
        if shared:
            split = Split(count=SLOTS, separator="-", sharing=Sharing.LIMITED)
            plans.append(ResourcePlan(config.shared_resource, tuple(shared), split, SLICES))
        return plans

    def registered(self, plan: ResourcePlan, snapshot: Snapshot) -> Sequence[NodeDevice]:
        """The cards that schedulers divide, of the type that they look for."""
        found = (snapshot.device(uuid) for uuid in plan.devices)
        word = SLICES.common_word
        return tuple(node_device(d, plan, word) for d in found if d is not None and d.memory_mib)

    def impediment(self, plan: ResourcePlan) -> str:
        """Slices are held apart by the vendor's container runtime, which must be on the host."""
        limited = plan.split.sharing is Sharing.LIMITED and self._settings.enforce_isolation
        runtime = self._configuration.runtime
        if not limited or (Path(self._settings.host_root) / runtime.lstrip("/")).exists():
            return ""
        return (
            f"{runtime} is not on this node, so nothing would hold slices apart: install "
            "xpu-container-toolkit and configure its runtime, or set isolation: none"
        )

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """The cards' nodes, which of them the container sees, and its memory where it is limited.

        The toolkit divides the limit evenly among the cards, so all must have the same. Raises
        `ValueError` where they have not.
        """
        env = {
            VISIBLE: ",".join(grant.device.index for grant in grants),
            "XPU_VISIBLE_DEVICES": ",".join(str(i) for i in range(len(grants))),
        }
        limits = {grant.memory_mib for grant in grants if _is_limited(grant)}
        if limits and (len(limits) > 1 or not all(map(_is_limited, grants))):
            raise ValueError(
                "the shares of several cards must have the same memory: the container toolkit "
                "divides one limit evenly; ask for equal shares"
            )
        for limit in limits:
            env["CXPU_CONTAINER_MEMORY_LIMIT"] = str((limit or 0) * MIB * len(grants))
        nodes = (CONTROL, *(node for grant in grants for node in grant.device.device_nodes))
        return ContainerEdits(env, tuple(DeviceNode(node, permissions="rw") for node in nodes))

    def handed(
        self, answer: ContainerEdits, devices: Sequence[PhysicalDevice]
    ) -> Collection[str] | None:
        """The cards by the numbers that the container toolkit goes by. Pure. Raises `ValueError`
        for others.
        """
        text = answer.env.get(VISIBLE)
        return None if text is None else _numbered(text, devices)


def _numbered(text: str, devices: Sequence[PhysicalDevice]) -> Collection[str]:
    by_number = {device.index: device.uuid for device in devices}
    if strange := sorted(set(text.split(",")) - by_number.keys()):
        raise ValueError(f"{VISIBLE} names {strange[0]!r:.40}, which is none of these cards")
    return [by_number[number] for number in text.split(",")]


def _is_limited(grant: Grant) -> bool:
    """Whether the grant is less than the whole card."""
    whole = grant.device.memory_mib
    return grant.memory_mib is not None and (whole is None or grant.memory_mib < whole)
