"""The node half (metax-iluvatar-kunlunxin-hygon.md 2.3, 5.2)."""

from __future__ import annotations

from collections.abc import Sequence

from deviceplugin.vendor import (
    ContainerEdits,
    Grant,
    Mount,
    NodeDevice,
    Owner,
    ResourcePlan,
    Sharing,
    Snapshot,
    VendorSettings,
)
from deviceplugin.vendor.devices import READ_ONLY, nodes_of, shares_of
from deviceplugin.vendor.registered import node_devices
from deviceplugin.vendor.sysfs import on_host
from deviceplugin.vendors.iluvatar.configuration import CHIPS, configuration


class IluvatarNode:
    """Iluvatar's GPUs. Raises `ValueError` for a section that cannot be used."""

    def __init__(self, settings: VendorSettings) -> None:
        self._settings = settings
        self._configuration = configuration(settings.section)

    def discover(self) -> Snapshot:
        """The cards by libixml. Raises `DriverError`."""
        from deviceplugin.vendors.iluvatar.discovery import discover

        return discover(self._settings.host_root, self._configuration)

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """One resource a chip: whole cards, or shares of them. Without a library that limits them,
        and by the operator's word, shares are turns on the whole card.
        """
        config = self._configuration
        limited = bool(config.limit_library)
        split = shares_of(config.splits, self._settings, separator="::", limited=limited)
        members: dict[str, list[str]] = {}
        for device in snapshot.by_index:
            chip = config.chip_of(device.model)
            if chip is not None:
                members.setdefault(chip.resources.count, []).append(device.uuid)
        return [
            ResourcePlan(name, tuple(uuids), split, chip.keys)
            for name, uuids in members.items()
            if (chip := config.chip(name)) is not None
        ]

    def registered(self, plan: ResourcePlan, snapshot: Snapshot) -> Sequence[NodeDevice]:
        """The cards of the type that schedulers look for."""
        word = plan.keys.common_word if plan.keys else ""
        return node_devices(plan, snapshot, lambda card: word)

    def impediment(self, plan: ResourcePlan) -> str:
        """Shares need a library that limits them."""
        if plan.split.sharing is not Sharing.LIMITED:
            return ""
        library = self._configuration.limit_library
        if not library:
            return (
                "nothing limits shares of a card: name a library that does (iluvatar.limitLibrary),"
                " offer whole cards (deviceSplitCount: 1), or set isolation: none"
            )
        if not on_host(self._settings.host_root, library).exists():
            return f"{library} is not on this node; install it, or set isolation: none"
        return ""

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """The nodes of all chips, which of them the container sees, and its limits where a library
        keeps them.
        """
        chips = [grant.device.attributes.get(CHIPS) or grant.device.uuid for grant in grants]
        env = {
            "IX_VISIBLE_DEVICES": ",".join(chips),
            "IX_REPLICA_DEVICES": ",".join(grant.device.uuid for grant in grants),
        }
        library = self._configuration.limit_library
        limited = [g for g in grants if g.sharing is Sharing.LIMITED]
        mounts: tuple[Mount, ...] = ()
        if limited and library:
            mounts = (Mount(library, library, READ_ONLY),)
            env["LD_PRELOAD"] = library
            for position, grant in enumerate(grants):
                if grant.memory_mib is not None:
                    env[f"CUDA_DEVICE_MEMORY_LIMIT_{position}"] = f"{grant.memory_mib}m"
            cores = min((g.cores_percent for g in limited if g.cores_percent), default=0)
            if cores:
                env["CUDA_DEVICE_SM_LIMIT"] = str(cores)
        return ContainerEdits(env, nodes_of(grants), mounts)
