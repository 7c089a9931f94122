"""Which resources this node offers and how their devices are divided. Pure.

What the operator's ``sharing`` says of a resource wins over HAMi's shares; MIG instances are never
divided by HAMi (hami-nvidia-node.md 1.6). In operating mode mig whole cards are offered, as often
as HAMi's shares, and a container gets one of the instances that are made on them: the hardware
holds containers apart, so there is nothing to limit. In operating mode mps shares are HAMi's too,
and clients of one MPS daemon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.vendor import (
    PhysicalDevice,
    Replicas,
    ResourcePlan,
    Sharing,
    Snapshot,
    Split,
)
from deviceplugin.vendors.nvidia import mig
from deviceplugin.vendors.nvidia.facts import (
    PLATFORM,
    TEGRA,
    compute_capability,
    has_mig_enabled,
)
from deviceplugin.vendors.nvidia.settings import NvidiaSettings

REPLICA_SEPARATOR = "::"
SHARE_SEPARATOR = "-"


def plan(snapshot: Snapshot, settings: NvidiaSettings) -> tuple[ResourcePlan, ...]:
    """The resources of these devices. Raises `ValueError` where MIG or MPS do not fit them."""
    resource = settings.section.resource_count_name
    if resource in settings.sharing and (settings.dynamic_mig or settings.mps):
        raise ValueError(
            f"sharing of {resource}: operating mode {settings.section.operating_mode} divides the "
            "cards itself; remove the resource from sharing, or set another operatingMode"
        )
    if settings.dynamic_mig:
        return _partitioned(mig.divisible(snapshot.devices), settings)
    if settings.mps:
        _check_mps(MODE_MPS, snapshot.devices, settings.section.device_split_count)
    groups = mig.offered(
        snapshot.devices, settings.mig_strategy, settings.section.resource_count_name
    )
    return tuple(_planned(resource, devices, settings) for resource, devices in groups.items())


def _planned(
    resource: str, devices: Sequence[PhysicalDevice], settings: NvidiaSettings
) -> ResourcePlan:
    uuids = tuple(device.uuid for device in devices)
    if replicas := settings.sharing.get(resource):
        if replicas.sharing is Sharing.MPS:
            _check_mps(_Terms(f"sharing.mps of {resource}"), devices, replicas.count)
        return ResourcePlan(replicas.rename or resource, uuids, _replicated(replicas))
    if (settings.split or settings.mps) and not any(_indivisible(device) for device in devices):
        keys = VENDORS["NVIDIA"] if resource == settings.section.resource_count_name else None
        return ResourcePlan(
            resource, uuids, _shares(settings), keys, settings.section.operating_mode
        )
    return ResourcePlan(resource, uuids)


def _partitioned(
    cards: Sequence[PhysicalDevice], settings: NvidiaSettings
) -> tuple[ResourcePlan, ...]:
    section, resource = settings.section, settings.section.resource_count_name
    if not cards:
        return ()
    split = Split(section.device_split_count, SHARE_SEPARATOR, Sharing.EXCLUSIVE)
    uuids = tuple(card.uuid for card in cards)
    mode = section.operating_mode
    return (ResourcePlan(resource, uuids, split, VENDORS["NVIDIA"], mode, places=True),)


def _replicated(replicas: Replicas) -> Split:
    return Split(
        count=replicas.count,
        separator=REPLICA_SEPARATOR,
        sharing=replicas.sharing,
        max_request=1 if replicas.fail_requests_greater_than_one else 0,
    )


def _shares(settings: NvidiaSettings) -> Split:
    """HAMi's shares. Where the operator wrote ``isolation: none`` they are turns on the device,
    so that nothing claims a limit that nobody keeps. MPS has no memory beside the device's own, so
    there it is not promised twice.
    """
    section = settings.section
    limited = Sharing.LIMITED if settings.limited else Sharing.TIME_SLICING
    return Split(
        count=section.device_split_count,
        separator=SHARE_SEPARATOR,
        sharing=Sharing.MPS if settings.mps else limited,
        memory_scaling=1.0 if settings.mps else section.device_memory_scaling,
        cores_scaling=section.device_core_scaling,
    )


def _indivisible(device: PhysicalDevice) -> bool:
    return bool(device.parent_uuid) or device.attributes.get(PLATFORM) == TEGRA


def mps_clients(device: PhysicalDevice) -> int:
    """The number of clients that MPS allows on a device (kubelet-deviceplugin.md 4.6)."""
    return 48 if compute_capability(device) >= (7, 5) else 16


@dataclass(frozen=True, slots=True)
class _Terms:
    """The words of the setting that asks for MPS."""

    setting: str
    count: str = "replicas"
    instead: str = "use timeSlicing"


MODE_MPS = _Terms(
    "operating mode mps",
    "nvidia.deviceSplitCount",
    "switch MIG off, hide it (filterDevices), or set another operatingMode",
)


def _check_mps(terms: _Terms, devices: Sequence[PhysicalDevice], count: int) -> None:
    """Raises `ValueError` for devices that MPS cannot share `count` times."""
    for device in devices:
        if device.parent_uuid or has_mig_enabled(device):
            what = "is a MIG instance" if device.parent_uuid else "is in MIG mode"
            raise ValueError(
                f"{terms.setting}: {device.uuid} {what}, which MPS cannot share; {terms.instead}"
            )
        if count > (most := mps_clients(device)):
            raise ValueError(
                f"{terms.setting}: {terms.count} is {count}, but {device.model} ({device.uuid}) "
                f"allows {most} clients; lower {terms.count}"
            )
