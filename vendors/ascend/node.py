"""The node half: NPUs by Huawei's driver, parts of them by ascend-docker-runtime.

Source: ascend-and-mock.md A.5 to A.9.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from deviceplugin.api.hami.keys import ascend
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
    Split,
    Usage,
    VendorSettings,
)
from deviceplugin.vendor.registered import node_device
from deviceplugin.vendor.section import refuse
from deviceplugin.vendor.sysfs import on_host
from deviceplugin.vendors.ascend import handover
from deviceplugin.vendors.ascend.chips import Chip
from deviceplugin.vendors.ascend.configuration import configured
from deviceplugin.vendors.ascend.discovery import snapshot_of, usage_of
from deviceplugin.vendors.ascend.idle import IdleVnpus, strangers
from deviceplugin.vendors.ascend.library import Dcmi

__all__ = ["AscendNode"]

SOFT_SLICING = "hami-vnpu-core"
"""On nodes since HAMi 2.9: whether pods that are limited by software alone are served."""

CARDS_A_GROUP = 4
"""An eight-card server has two groups of cards with a network of their own (A.7)."""


class AscendNode:
    """The NPUs of one node."""

    def __init__(self, settings: VendorSettings) -> None:
        self._root = settings.host_root
        self._configuration = configured(settings.section)
        strategies = settings.options.get("deviceListStrategy") or ()
        self._by_cdi = any(str(name).startswith("cdi-") for name in strategies)
        self._shared = frozenset(settings.sharing)
        self._dcmi: Dcmi | None = None
        self._idle = IdleVnpus(time.monotonic)

    # --- in the probe ---

    def discover(self) -> Snapshot:
        """The NPUs that the configuration knows. Raises `DriverError`."""
        try:
            refuse(() if self._configuration.chips else self._configuration.errors)
            dcmi = self._library()
            snapshot = snapshot_of(dcmi, self._configuration, self._root)
        except ValueError as error:
            raise DriverError(str(error)) from None
        except DriverError:
            self._dcmi = None  # a driver that was replaced wants to be initialised anew
            raise
        if self._configuration.cleans_up:
            self._idle.look(dcmi, snapshot.devices)
        return snapshot

    def tidy(self, held: Sequence[Mapping[str, str]]) -> Sequence[str]:
        """Remove vNPUs that nobody holds, where the operator wants that. Raises `DriverError`."""
        if not self._configuration.cleans_up:
            return ()
        if reason := strangers(self._root, self._resources()):
            return (f"nothing: {reason}",)
        return tuple(self._idle.remove(self._library(), held))

    def usage(self, snapshot: Snapshot) -> Sequence[Usage]:
        """How busy whole NPUs are. Raises `DriverError`."""
        return tuple(usage_of(self._library(), snapshot.devices))

    def _library(self) -> Dcmi:
        if self._dcmi is None:
            self._dcmi = Dcmi.opened(self._root)
        return self._dcmi

    def _resources(self) -> frozenset[str]:
        return frozenset(chip.resource for chip in self._configuration.chips)

    # --- in the agent ---

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """One resource for each sort of chip, in as many shares as it has smallest templates.

        Raises `ValueError` where the operator wants turns on them, which nothing could limit.
        """
        members: dict[Chip, list[str]] = {}
        for device in snapshot.by_index:
            if (chip := self._configuration.chip(device.model)) is not None:
                members.setdefault(chip, []).append(device.uuid)
        plans: dict[str, ResourcePlan] = {}
        for chip, uuids in members.items():
            if chip.resource in self._shared:
                raise ValueError(
                    f"sharing: {chip.resource} cannot be shared in turns: remove it, and ask for "
                    f"parts by {chip.memory_resource}"
                )
            earlier = plans[chip.resource].devices if chip.resource in plans else ()
            split = Split(
                count=self._configuration.count or chip.count,
                separator="-",
                sharing=Sharing.LIMITED,
                together=True,
            )
            plans[chip.resource] = ResourcePlan(
                chip.resource, (*earlier, *uuids), split, ascend(chip.word)
            )
        return tuple(plans.values())

    def registered(self, plan: ResourcePlan, snapshot: Snapshot) -> Sequence[NodeDevice]:
        """The NPUs as HAMi's plugin describes them (A.7). Pure."""
        found = []
        for device in map(snapshot.device, plan.devices):
            if device is None or (chip := self._configuration.chip(device.model)) is None:
                continue
            told = node_device(device, plan, chip.word, cores=chip.ai_core, numa=0)
            if chip.networked:
                group = 0 if chip.paired or told.index < CARDS_A_GROUP else 1
                told = replace(told, custom={"NetworkID": group})
            found.append(told)
        return found

    def node_annotations(self, plan: ResourcePlan, snapshot: Snapshot) -> Mapping[str, str]:
        """That software limits are not served here, where the cluster's section speaks of them."""
        return {} if self._configuration.soft_slicing is None else {SOFT_SLICING: "false"}

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """What ascend-docker-runtime goes by. Pure. Raises `ValueError`."""
        return handover.edits(grants, owner, self._configuration, by_cdi=self._by_cdi)

    def handed(
        self, answer: ContainerEdits, devices: Sequence[PhysicalDevice]
    ) -> Collection[str] | None:
        """The NPUs by their physical numbers. Pure. Raises `ValueError`."""
        return handover.handed(answer, devices)

    def impediment(self, plan: ResourcePlan) -> str:
        """Without the runtime containers would start, and find no NPU."""
        place = self._configuration.runtime_config
        if not place or on_host(self._root, place).is_dir():
            return ""
        return (
            f"{place} is not on the node: ascend-docker-runtime, without which no container sees "
            "an NPU, is not installed; install it, or name the directory of its lists: "
            "ascend.runtimeConfig"
        )
