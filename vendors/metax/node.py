"""The node half: whole cards, and, where it is asked for, sGPUs
(metax-iluvatar-kunlunxin-hygon.md 1.2 to 1.4, 5.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from deviceplugin.vendor import (
    ContainerEdits,
    DriverError,
    Grant,
    Owner,
    ResourcePlan,
    Sharing,
    Snapshot,
    Split,
    VendorSettings,
)
from deviceplugin.vendor.counted import called
from deviceplugin.vendor.devices import apart, nodes_of
from deviceplugin.vendors.metax.annotations import (
    APP_CLASS,
    NODE,
    ONLINE,
    POLICIES,
    QOS,
    SgpuCard,
    encode,
)
from deviceplugin.vendors.metax.configuration import MOST_SGPUS, NAMES, SGPU, WHOLE, configuration
from deviceplugin.vendors.metax.sgpufs import SgpuFiles, alias

BDF, POLICY, ZONE, INSTANCE = "bdf", "qosPolicy", "linkZone", "sgpu"


class MetaxNode:
    """MetaX's GPUs. Raises `ValueError` for a section that cannot be used."""

    def __init__(self, settings: VendorSettings) -> None:
        self._settings = settings
        self._configuration = configuration(settings.section)
        dry_run = self._configuration.sgpu != "on"
        self._files = SgpuFiles(settings.host_root, dry_run=dry_run)
        self._cards: dict[str, str] = {}

    # --- in the probe ---

    def discover(self) -> Snapshot:
        """The cards by libmxsml or the kernel. Raises `DriverError`."""
        from deviceplugin.vendors.metax.discovery import discover

        found = discover(self._settings.host_root, self._configuration)
        self._cards = {device.attributes[BDF]: device.uuid for device in found.devices}
        return found

    def partition(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The sGPU that `slot_request` describes. Raises `DriverError`."""
        try:
            return self._files.make(request)
        except OSError as error:
            raise DriverError(f"an sGPU cannot be made: {error}; see dmesg") from None

    def release(self, request: Mapping[str, Any]) -> None:
        """SGPUs go when their containers are gone for a while: see `tidy`."""

    def tidy(self, held: Sequence[Mapping[str, str]]) -> Sequence[str]:
        """Remove the sGPUs of containers that are gone. Raises `DriverError`."""
        try:
            return self._files.tidy(held, self._cards)
        except OSError as error:
            raise DriverError(f"a left-over sGPU cannot be removed: {error}") from None

    # --- in the agent ---

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """Whole cards, and cards that are shared."""
        config = self._configuration
        whole, shared = apart(snapshot, config.shared)
        names = called(NAMES, self._settings.node_name, whole)
        split = Split(MOST_SGPUS, "::", Sharing.LIMITED, together=True)
        plans = (
            ResourcePlan(config.count, whole, keys=WHOLE, names=names),
            ResourcePlan(config.shared_count, shared, split, SGPU),
        )
        return [plan for plan in plans if plan.devices]

    def node_annotations(self, plan: ResourcePlan, snapshot: Snapshot) -> Mapping[str, str]:
        """The shared cards as MetaX's own plugin describes them."""
        if plan.keys is not SGPU:
            return {}
        found = (snapshot.device(uuid) for uuid in plan.devices)
        cards = [
            SgpuCard(
                uuid=device.uuid,
                bdf=device.attributes.get(BDF, ""),
                model="sgpu",
                count=plan.split.count,
                compute=100,
                memory_mib=device.memory_mib,
                available_count=plan.split.count,
                available_compute=100,
                available_memory_mib=device.memory_mib,
                numa=device.numa_node or 0,
                healthy=device.healthy,
                qos=device.attributes.get(POLICY, ""),
                link_zone=int(device.attributes.get(ZONE, "0")),
            )
            for device in found
            if device is not None and device.memory_mib
        ]
        return {NODE: encode(cards)}

    def slot_request(self, grant: Grant, owner: Owner) -> Mapping[str, Any] | None:
        """What an sGPU has to be; None for a whole card. Raises `ValueError`."""
        if grant.is_whole:
            return None
        policy = owner.pod_annotations.get(QOS, POLICIES[0])
        if owner.pod_annotations.get(APP_CLASS) == ONLINE:
            policy = POLICIES[0]
        if policy not in POLICIES:
            raise ValueError(f"{QOS} must be set one of [{', '.join(POLICIES)}]")
        return {
            "bdf": grant.device.attributes.get(BDF, ""),
            "alias": alias(
                owner.pod_uid or owner.allocation_id, owner.container, grant.device.uuid
            ),
            "memory_mib": grant.memory_mib or grant.device.memory_mib or 0,
            "policy": policy,
        }

    def slot_granted(self, grant: Grant, answer: Mapping[str, Any]) -> Grant:
        """The card with the sGPU's place. Raises `ValueError`."""
        bdf, number = answer.get("bdf"), answer.get("number")
        if not isinstance(bdf, str) or not isinstance(number, int):
            raise ValueError(f"the probe names no sGPU: {answer!r:.100}")
        attributes = {**grant.device.attributes, INSTANCE: f"{bdf}#{number}"}
        return replace(grant, device=replace(grant.device, attributes=attributes))

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """The cards' nodes, and which sGPU it is where it is one. Raises `ValueError` for parts of
        several cards: how they are told to the container is not known.
        """
        parts = [grant for grant in grants if not grant.is_whole]
        if parts and len(grants) > 1:
            raise ValueError(
                "a container has one sGPU or whole cards: ask for one card with vcore or vmemory, "
                "or for several without"
            )
        env = {}
        for grant in parts:
            place = grant.device.attributes.get(INSTANCE, "")
            name = alias(owner.pod_uid or owner.allocation_id, owner.container, grant.device.uuid)
            env["METAX_SGPUS"] = (
                f"sgpu={place};compute={grant.cores_percent or 0};vram={grant.memory_mib or 0};"
                f"alias={name}"
            )
        return ContainerEdits(env, nodes_of(grants))
