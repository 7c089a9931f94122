"""The node half of the vendor: what the contract asks, put together from the other modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deviceplugin.vendor import (
    ContainerEdits,
    DriverError,
    Exposure,
    Grant,
    HealthEvent,
    NodeDevice,
    Owner,
    PhysicalDevice,
    ResourcePlan,
    Sharing,
    Snapshot,
    Spec,
    Usage,
    VendorSettings,
)
from deviceplugin.vendors.nvidia import (
    cdi,
    discovery,
    edits,
    exposure,
    hami_core,
    health,
    library,
    mig,
    mps_client,
    plan,
    registration,
    settings,
    slots,
    usage,
)
from deviceplugin.vendors.nvidia.dynamic_mig import DynamicMig
from deviceplugin.vendors.nvidia.facts import NVML, PLATFORM, TEGRA, has_mig_enabled
from deviceplugin.vendors.nvidia.host import host_of
from deviceplugin.vendors.nvidia.journal import Journal

MIG_JOURNAL = "nvidia-mig.json"


class NvidiaNode:
    """NVIDIA's GPUs on this node. Raises `ValueError` for settings that make no sense."""

    def __init__(self, given: VendorSettings) -> None:
        self._settings = settings.read(given)
        self._library = library.Library(
            host_of(self._settings).driver,
            fail_on_init_error=self._settings.fail_on_init_error,
        )
        self._partitions = DynamicMig(
            Journal(Path(self._settings.run_dir) / MIG_JOURNAL), self._mig_devices
        )
        self._last = Snapshot()

    # --- in the probe ---

    def discover(self) -> Snapshot:
        """The GPUs and MIG instances, or the one device of a Tegra.

        Raises `DriverError`, absent where there is neither driver nor Tegra.
        """
        host = host_of(self._settings)
        strategy = self._settings.discovery_strategy
        without_nvml = strategy == "auto" and host.tegra and library.find(host.driver) is None
        if strategy == "tegra" or without_nvml:
            return self._tegra()
        with self._library.session() as nvml:
            problems = self._partitions.recover(nvml) if self._settings.dynamic_mig else ()
            try:
                found = discovery.discover(nvml, self._settings, host, self._last)
            except nvml.NVMLError as error:
                text = f"the driver cannot say which GPUs it has: {error}; see dmesg"
                raise DriverError(text) from None
        self._last = replace(found, problems=(*found.problems, *problems))
        return self._last

    def watch_health(self, snapshot: Snapshot) -> Iterator[HealthEvent]:
        """The events that make devices unhealthy; ends at once where they are not watched."""
        rules = health.policy(self._settings.disable_checks, self._settings.enable_checks)
        platforms = {device.attributes.get(PLATFORM) for device in snapshot.devices}
        if not rules.watches or NVML not in platforms:
            return
        with self._library.session() as nvml:
            yield from health.Watch(nvml, rules, self._watched).events()

    def usage(self, snapshot: Snapshot) -> Sequence[Usage]:
        """How busy GPUs and MIG instances are; nothing of a Tegra. Raises `DriverError`."""
        gpus = [d for d in snapshot.devices if d.attributes.get(PLATFORM) != TEGRA]
        if not gpus:
            return ()
        with self._library.session() as nvml:
            return usage.usages(nvml, gpus)

    def partition(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The MIG instance that a request of `slot_request` describes, made if it is not there.

        Raises `DriverError`.
        """
        if not self._settings.dynamic_mig:
            raise DriverError("this node is not in operating mode mig and makes no partitions")
        with self._library.session() as nvml:
            return self._partitions.partition(nvml, request)

    def release(self, request: Mapping[str, Any]) -> None:
        """An instance waits for its next container and goes only when its idle card is partitioned
        anew, so nothing is removed here.
        """

    # --- in the agent ---

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """The resources by MIG strategy and sharing. Pure.

        Raises `ValueError` where the devices and the configuration contradict each other.
        """
        return plan.plan(snapshot, self._settings)

    def registered(self, plan: ResourcePlan, snapshot: Snapshot) -> Sequence[NodeDevice]:
        """The devices as HAMi's schedulers read them. Pure."""
        return registration.registered(plan, snapshot)

    def slot_request(self, grant: Grant, owner: Owner) -> Mapping[str, Any] | None:
        """What `partition` makes for a grant of operating mode mig; None in the others. Pure.

        Raises `ValueError` for a grant that no partition can honour.
        """
        return slots.request(grant, owner, self._settings)

    def slot_granted(self, grant: Grant, answer: Mapping[str, Any]) -> Grant:
        """The grant of the MIG instance that `partition` answered. Pure. Raises `ValueError`."""
        return slots.granted(grant, answer)

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """Device nodes, and the limits of shared devices. Pure.

        Raises `ValueError` where a limit that must hold cannot be set.
        """
        return edits.edits(grants, owner, self._settings)

    def exposure(self) -> Exposure:
        """NVIDIA's runtime; the CDI names beside GPUs are those that have something to give."""
        beside = cdi.beside_gpus(self._settings, host_of(self._settings))
        names = {f"{spec.kind}={device.name}" for spec in beside for device in spec.devices}
        return exposure.exposure(self._settings, names)

    def cdi_specs(self, snapshot: Snapshot) -> Sequence[Spec]:
        """The specifications of GPUs, of the driver's management, and of what goes with GPUs."""
        return cdi.specs(snapshot, self._settings, host_of(self._settings))

    def impediment(self, plan: ResourcePlan) -> str:
        """What is missing beside the devices: libvgpu for limits, the daemon for MPS, an IMEX
        channel that the operator requires.
        """
        missing = ""
        if plan.split.sharing is Sharing.LIMITED and self._settings.enforce_isolation:
            missing = hami_core.impediment(self._settings)
        elif plan.split.sharing is Sharing.MPS:
            missing = mps_client.impediment(plan.resource, self._settings)
        return missing or cdi.imex_impediment(self._settings, host_of(self._settings))

    def _mig_devices(self, nvml: Any, uuid: str) -> Sequence[PhysicalDevice]:
        return discovery.mig_devices(nvml, uuid, self._settings, host_of(self._settings))

    def _watched(self) -> Snapshot:
        """The devices whose health is watched. A card that is still to be put into MIG mode is left
        alone: whoever listens to its events may keep the driver from resetting it.
        """
        if not self._settings.dynamic_mig:
            return self._last
        devices = (d for d in self._last.devices if d.parent_uuid or has_mig_enabled(d))
        return replace(self._last, devices=tuple(devices))

    def _tegra(self) -> Snapshot:
        if self._settings.uses_cdi:
            raise DriverError(
                "a Tegra has no NVML to describe its devices by CDI; "
                "set --device-list-strategy=envvar or volume-mounts"
            )
        found = discovery.tegra(host_of(self._settings))
        return replace(found, problems=tuple(mig.advice(found.devices, self._settings)))
