"""The node half: whole cards, and virtual DCUs whose files the driver reads
(metax-iluvatar-kunlunxin-hygon.md 4.3, 4.4, 5.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.vendor import (
    ContainerEdits,
    DeviceNode,
    DriverError,
    Grant,
    Mount,
    NodeDevice,
    Owner,
    ResourcePlan,
    Snapshot,
    VendorSettings,
)
from deviceplugin.vendor.devices import READ_ONLY, READ_WRITE, nodes_of, shares_of
from deviceplugin.vendor.registered import node_devices
from deviceplugin.vendors.hygon.configuration import ADDRESS, UNITS, configuration
from deviceplugin.vendors.hygon.vdev import parsed, units_of
from deviceplugin.vendors.hygon.vdevfiles import VdevFiles

if TYPE_CHECKING:
    from deviceplugin.vendors.hygon.discovery import Discovery

KEYS = VENDORS["DCU"]
VDEV = "vdev"


class HygonNode:
    """Hygon's DCUs. Raises `ValueError` for a section that cannot be used."""

    def __init__(self, settings: VendorSettings) -> None:
        self._settings = settings
        self._configuration = configuration(settings.section)
        self._files = VdevFiles(settings.host_root, self._configuration)
        self._discovery: Discovery | None = None

    # --- in the probe ---

    def discover(self) -> Snapshot:
        """The cards by librocm_smi64. Raises `DriverError`."""
        if self._discovery is None:
            from deviceplugin.vendors.hygon.discovery import Discovery

            self._discovery = Discovery(self._settings.host_root, self._configuration)
        return self._discovery.look()

    def partition(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The virtual DCU that `slot_request` describes. Raises `DriverError`."""
        try:
            return {VDEV: self._files.make(request)}
        except OSError as error:
            raise DriverError(f"the files of a virtual DCU cannot be written: {error}") from None

    def release(self, request: Mapping[str, Any]) -> None:
        """Virtual DCUs go when their containers are gone for a while: see `tidy`."""

    def tidy(self, held: Sequence[Mapping[str, str]]) -> Sequence[str]:
        """Remove the virtual DCUs of containers that are gone. Raises `DriverError`."""
        try:
            return self._files.tidy(held)
        except OSError as error:
            raise DriverError(f"a left-over virtual DCU cannot be removed: {error}") from None

    # --- in the agent ---

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """One resource: whole cards, or shares of them, which by the operator's word are turns on
        the whole card. Raises `ValueError` for another way to take turns.
        """
        config, settings = self._configuration, self._settings
        if config.count in settings.sharing:
            raise ValueError(
                f"sharing: {config.count} is shared by virtual DCUs: remove it, and write how many "
                "containers a card has (hygon.deviceSplitCount), with isolation: none for turns"
            )
        split = shares_of(config.splits, settings, separator="-fake-", together=True)
        uuids = tuple(device.uuid for device in snapshot.by_index)
        return [ResourcePlan(config.count, uuids, split, KEYS, "hami")] if uuids else []

    def registered(self, plan: ResourcePlan, snapshot: Snapshot) -> Sequence[NodeDevice]:
        """The cards with their names in the type, by which pods choose."""
        return node_devices(plan, snapshot, lambda card: f"DCU-{card.model}")

    def examine(self, grants: Sequence[Grant], owner: Owner) -> None:
        """Raises `ValueError` for parts of several cards: the driver reads one virtual DCU."""
        if len(grants) > 1 and not all(grant.is_whole for grant in grants):
            names = self._configuration.resources
            raise ValueError(
                "a container has one virtual DCU or whole cards: ask for one card with "
                f"{names.memory} or {names.cores}, or for several without"
            )

    def slot_request(self, grant: Grant, owner: Owner) -> Mapping[str, Any] | None:
        """What a virtual DCU has to be; None for a whole card. Raises `ValueError`."""
        if grant.is_whole or VDEV in grant.device.attributes:
            return None
        device, names = grant.device, self._configuration.resources
        of = int(device.attributes.get(UNITS) or 0)
        if not of:
            raise ValueError(
                f"the compute units of a {device.model} are not known, so it cannot be divided: "
                f"write them down (hygon.computeUnits.{device.model}), or ask for a whole card"
            )
        cores = 100 if grant.cores_percent is None else min(grant.cores_percent, 100)
        units = units_of(cores, of)
        if not units:
            raise ValueError(
                f"{cores}% of the {of} compute units of {device.uuid} is not one: ask for more "
                f"{names.cores}"
            )
        return {
            "uuid": device.uuid,
            "holder": owner.pod_uid or owner.allocation_id,
            "container": owner.container or "container",
            "apart": list(owner.apart),
            "card": int(device.index),
            "address": device.attributes.get(ADDRESS, ""),
            "memory_mib": grant.memory_mib or device.memory_mib or 0,
            "units": units,
            "of": of,
        }

    def slot_granted(self, grant: Grant, answer: Mapping[str, Any]) -> Grant:
        """The virtual DCU in place of its card, by the name of its directory: a container that was
        told of another one is not started with this. Raises `ValueError`.
        """
        directory = answer.get(VDEV)
        vdev = parsed(PurePosixPath(directory).name) if isinstance(directory, str) else None
        if not isinstance(directory, str) or not directory.startswith("/") or vdev is None:
            raise ValueError(f"the probe names no directory of a virtual DCU: {answer!r:.100}")
        card = grant.device
        device = replace(
            card,
            uuid=PurePosixPath(directory).name,
            index=f"{card.index}:{vdev.vdev}",
            parent_uuid=card.uuid,
            attributes={**card.attributes, VDEV: directory},
        )
        return replace(grant, device=device)

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """The cards' nodes, the driver's directories, and a virtual DCU's where it is one.

        Raises `ValueError` for what `examine` refuses, and for a part of a card that was not made.
        """
        self.examine(grants, owner)
        config = self._configuration
        control = (DeviceNode(path, permissions="rwm") for path in ("/dev/kfd", "/dev/mkfd"))
        mounts = []
        for grant in grants:
            if grant.is_whole:
                continue
            if not (directory := grant.device.attributes.get(VDEV)):
                raise ValueError(f"no virtual DCU of {grant.device.uuid} was made for this part")
            mounts.append(Mount(directory, "/etc/vdev/docker/", READ_WRITE))
            mounts.append(Mount(config.toolkit, "/opt/hygondriver", READ_ONLY))
        if config.hyhal:
            mounts.append(Mount(config.hyhal, "/opt/hyhal", READ_ONLY))
        return ContainerEdits({}, (*control, *nodes_of(grants)), tuple(mounts))
