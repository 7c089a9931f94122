"""The node half: whole cards, and virtual DCUs whose files the driver reads
(metax-iluvatar-kunlunxin-hygon.md 4.3, 4.4, 5.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

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
    Sharing,
    Snapshot,
    Split,
    VendorSettings,
)
from deviceplugin.vendor.registered import node_device
from deviceplugin.vendors.hygon.configuration import configuration
from deviceplugin.vendors.hygon.vdevfiles import VdevFiles

KEYS = VENDORS["DCU"]
ADDRESS, UNITS, VDEV = "busId", "computeUnits", "vdev"
BIND = ("rw", "nosuid", "nodev", "bind")
READ_ONLY = ("ro", "nosuid", "nodev", "bind")


class HygonNode:
    """Hygon's DCUs. Raises `ValueError` for a section that cannot be used."""

    def __init__(self, settings: VendorSettings) -> None:
        self._settings = settings
        self._configuration = configuration(settings.section)
        self._files = VdevFiles(settings.host_root, self._configuration)

    # --- in the probe ---

    def discover(self) -> Snapshot:
        """The cards by librocm_smi64. Raises `DriverError`."""
        from deviceplugin.vendors.hygon.discovery import discover

        return discover(self._settings.host_root, self._configuration)

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
        """All cards under one resource, in as many shares as the operator says."""
        config = self._configuration
        devices = sorted(snapshot.devices, key=lambda device: int(device.index))
        split = (
            Split()
            if config.splits == 1
            else Split(config.splits, "-fake-", Sharing.LIMITED, together=True)
        )
        uuids = tuple(device.uuid for device in devices)
        return [ResourcePlan(config.count, uuids, split, KEYS, "hami")] if uuids else []

    def registered(self, plan: ResourcePlan, snapshot: Snapshot) -> Sequence[NodeDevice]:
        """The cards with their names in the type, by which pods choose."""
        found = (snapshot.device(uuid) for uuid in plan.devices)
        return tuple(
            node_device(d, plan, f"DCU-{d.model}") for d in found if d is not None and d.memory_mib
        )

    def slot_request(self, grant: Grant, owner: Owner) -> Mapping[str, Any] | None:
        """What a virtual DCU has to be; None for a whole card. Raises `ValueError`."""
        if _is_whole(grant):
            return None
        device = grant.device
        of = int(device.attributes.get(UNITS, "0") or 0)
        if not of:
            raise ValueError(
                f"the compute units of a {device.model} are not known, so it cannot be divided: "
                f"write them down (hygon.computeUnits.{device.model}), or ask for a whole card"
            )
        cores = 100 if grant.cores_percent is None else grant.cores_percent
        return {
            "uuid": device.uuid,
            "holder": owner.pod_uid or owner.allocation_id,
            "container": owner.container or "container",
            "card": int(device.index),
            "address": device.attributes.get(ADDRESS, ""),
            "memory_mib": grant.memory_mib or device.memory_mib or 0,
            "units": max(1, min(cores, 100) * of // 100),
            "of": of,
        }

    def slot_granted(self, grant: Grant, answer: Mapping[str, Any]) -> Grant:
        """The card with the directory of its virtual DCU. Raises `ValueError`."""
        directory = answer.get(VDEV)
        if not isinstance(directory, str) or not directory.startswith("/"):
            raise ValueError(f"the probe names no directory of a virtual DCU: {answer!r:.100}")
        attributes = {**grant.device.attributes, VDEV: directory}
        return replace(grant, device=replace(grant.device, attributes=attributes))

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """The cards' nodes, the driver's directories, and a virtual DCU's where it is one.

        Raises `ValueError` for parts of several cards: the driver reads one virtual DCU.
        """
        config = self._configuration
        if len(grants) > 1 and not all(map(_is_whole, grants)):
            raise ValueError(
                "a container has one virtual DCU or whole cards: ask for one card with "
                f"{config.memory} or {config.cores}, or for several without"
            )
        nodes = [DeviceNode(path, permissions="rwm") for path in ("/dev/kfd", "/dev/mkfd")]
        nodes += [
            DeviceNode(path, permissions="rw") for g in grants for path in g.device.device_nodes
        ]
        mounts = [
            Mount(config.toolkit, "/opt/hygondriver", BIND),
            Mount(config.hyhal, "/opt/hyhal", READ_ONLY),
        ]
        for grant in grants:
            if directory := grant.device.attributes.get(VDEV):
                mounts.insert(0, Mount(directory, "/etc/vdev/docker/", BIND))
        return ContainerEdits({}, tuple(nodes), tuple(mounts))


def _is_whole(grant: Grant) -> bool:
    """Whether nothing of the card is held back."""
    total = grant.device.memory_mib
    memory = grant.memory_mib is None or (total is not None and grant.memory_mib >= total)
    return memory and (grant.cores_percent is None or grant.cores_percent >= 100)
