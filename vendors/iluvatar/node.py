"""The node half (metax-iluvatar-kunlunxin-hygon.md 2.3, 5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deviceplugin.vendor import (
    ContainerEdits,
    DeviceNode,
    Grant,
    Mount,
    NodeDevice,
    Owner,
    ResourcePlan,
    Sharing,
    Snapshot,
    Split,
    VendorSettings,
)
from deviceplugin.vendor.registered import node_device
from deviceplugin.vendors.iluvatar.configuration import configuration

CHIPS = "chips"


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
        members: dict[str, list[str]] = {}
        for device in sorted(snapshot.devices, key=lambda device: int(device.index)):
            chip = config.chip_of(device.model)
            if chip is not None:
                members.setdefault(chip.resources.count, []).append(device.uuid)
        return [
            ResourcePlan(name, tuple(uuids), self._split(), chip.keys)
            for name, uuids in members.items()
            if (chip := config.chip(name)) is not None
        ]

    def _split(self) -> Split:
        config = self._configuration
        if config.splits == 1:
            return Split()
        unlimited = not (self._settings.enforce_isolation or config.limit_library)
        sharing = Sharing.TIME_SLICING if unlimited else Sharing.LIMITED
        return Split(count=config.splits, separator="::", sharing=sharing)

    def registered(self, plan: ResourcePlan, snapshot: Snapshot) -> Sequence[NodeDevice]:
        """The cards of the type that schedulers look for."""
        word = plan.keys.common_word if plan.keys else ""
        found = (snapshot.device(uuid) for uuid in plan.devices)
        return tuple(node_device(d, plan, word) for d in found if d is not None and d.memory_mib)

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
        if not (Path(self._settings.host_root) / library.lstrip("/")).exists():
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
        nodes = dict.fromkeys(node for grant in grants for node in grant.device.device_nodes)
        library = self._configuration.limit_library
        limited = [g for g in grants if g.sharing is Sharing.LIMITED]
        mounts: tuple[Mount, ...] = ()
        if limited and library:
            mounts = (Mount(library, library, ("ro", "nosuid", "nodev", "bind")),)
            env["LD_PRELOAD"] = library
            for position, grant in enumerate(grants):
                if grant.memory_mib is not None:
                    env[f"CUDA_DEVICE_MEMORY_LIMIT_{position}"] = f"{grant.memory_mib}m"
            cores = min((g.cores_percent for g in limited if g.cores_percent), default=0)
            if cores:
                env["CUDA_DEVICE_SM_LIMIT"] = str(cores)
        return ContainerEdits(
            env, tuple(DeviceNode(node, permissions="rw") for node in nodes), mounts
        )
