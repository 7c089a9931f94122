"""The node half of the vendor: what the contract asks, put together from the other modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deviceplugin.vendor import (
    ContainerEdits,
    DriverError,
    Exposure,
    Grant,
    HealthEvent,
    NodeDevice,
    Owner,
    ResourcePlan,
    Sharing,
    Snapshot,
    Spec,
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
    mps_client,
    plan,
    registration,
    settings,
)
from deviceplugin.vendors.nvidia.facts import NVML, PLATFORM
from deviceplugin.vendors.nvidia.host import host_of


class NvidiaNode:
    """NVIDIA's GPUs on this node. Raises `ValueError` for settings that make no sense."""

    def __init__(self, given: VendorSettings) -> None:
        self._settings = settings.read(given)
        self._library = library.Library(
            host_of(self._settings).driver,
            fail_on_init_error=self._settings.fail_on_init_error,
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
            try:
                self._last = discovery.discover(nvml, self._settings, host, self._last)
            except nvml.NVMLError as error:
                text = f"the driver cannot say which GPUs it has: {error}; see dmesg"
                raise DriverError(text) from None
        return self._last

    def watch_health(self, snapshot: Snapshot) -> Iterator[HealthEvent]:
        """The events that make devices unhealthy; ends at once where they are not watched."""
        rules = health.policy(self._settings.disable_checks, self._settings.enable_checks)
        platforms = {device.attributes.get(PLATFORM) for device in snapshot.devices}
        if not rules.watches or NVML not in platforms:
            return
        with self._library.session() as nvml:
            yield from health.Watch(nvml, rules, lambda: self._last).events()

    # --- in the agent ---

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """The resources by MIG strategy and sharing. Pure.

        Raises `ValueError` where the devices and the configuration contradict each other.
        """
        return plan.plan(snapshot, self._settings)

    def registered(self, plan: ResourcePlan, snapshot: Snapshot) -> Sequence[NodeDevice]:
        """The devices as HAMi's schedulers read them. Pure."""
        return registration.registered(plan, snapshot)

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

    def _tegra(self) -> Snapshot:
        if self._settings.uses_cdi:
            raise DriverError(
                "a Tegra has no NVML to describe its devices by CDI; "
                "set --device-list-strategy=envvar or volume-mounts"
            )
        return discovery.tegra(host_of(self._settings))
