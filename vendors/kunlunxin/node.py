"""The node half: whole cards, and slices that the container toolkit limits
(metax-iluvatar-kunlunxin-hygon.md 3.5, 5.2).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from deviceplugin.vendor import (
    ContainerEdits,
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
from deviceplugin.vendor.counted import called
from deviceplugin.vendor.devices import apart, nodes_of
from deviceplugin.vendor.registered import node_devices
from deviceplugin.vendor.sysfs import on_host
from deviceplugin.vendors.kunlunxin.configuration import NAMES, SLICES, WHOLE, configuration

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
        """Cards that are shared in quarters, all others whole."""
        config = self._configuration
        whole, shared = apart(snapshot, config.shared)
        names = called(NAMES, self._settings.node_name, whole)
        split = Split(SLOTS, "-", Sharing.LIMITED)
        plans = (
            ResourcePlan(config.resource, whole, keys=WHOLE, names=names),
            ResourcePlan(config.shared_resource, shared, split, SLICES),
        )
        return [plan for plan in plans if plan.devices]

    def registered(self, plan: ResourcePlan, snapshot: Snapshot) -> Sequence[NodeDevice]:
        """The cards that schedulers divide, of the type that they look for."""
        return node_devices(plan, snapshot, lambda card: SLICES.common_word)

    def impediment(self, plan: ResourcePlan) -> str:
        """Slices are held apart by the vendor's container runtime, which must be on the host."""
        limited = plan.split.sharing is Sharing.LIMITED and self._settings.enforce_isolation
        runtime = self._configuration.runtime
        if not limited or on_host(self._settings.host_root, runtime).exists():
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
        parts = [grant.memory_mib for grant in grants if not grant.is_whole]
        if parts and (len(parts) < len(grants) or len(set(parts)) > 1):
            raise ValueError(
                "the shares of several cards must have the same memory: the container toolkit "
                "divides one limit evenly; ask for equal shares"
            )
        if parts:
            if parts[0] is None:
                raise ValueError("the driver does not tell the card's memory: ask for whole cards")
            env["CXPU_CONTAINER_MEMORY_LIMIT"] = str(parts[0] * MIB * len(grants))
        return ContainerEdits(env, nodes_of(grants, CONTROL))

    def handed(
        self, answer: ContainerEdits, devices: Sequence[PhysicalDevice]
    ) -> Collection[str] | None:
        """The cards by the numbers that the container toolkit goes by. Pure. Raises `ValueError`
        for others.
        """
        if (text := answer.env.get(VISIBLE)) is None:
            return None
        by_number = {device.index: device.uuid for device in devices}
        if strange := sorted(set(text.split(",")) - by_number.keys()):
            raise ValueError(f"{VISIBLE} names {strange[0]!r:.40}, which is none of these cards")
        return [by_number[number] for number in text.split(",")]
