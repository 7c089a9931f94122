"""MIG: how profiles are called, and which devices are offered under which resource, by NVIDIA's
strategies or in HAMi's operating mode mig. Pure.

Source: kubelet-deviceplugin.md 4.5, hami-nvidia-node.md 1.7, 4.1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

from deviceplugin.vendor import PhysicalDevice
from deviceplugin.vendors.nvidia import geometry
from deviceplugin.vendors.nvidia.facts import (
    COMPUTE_SLICES,
    GPU_SLICES,
    MIG_MODE,
    MIG_TABLE,
    has_mig_enabled,
)
from deviceplugin.vendors.nvidia.settings import NvidiaSettings

GPU_RESOURCE = "nvidia.com/gpu"
_PROFILE = re.compile(r"(?:^|\s)((?:\d+c\.)?\d+g\.\d+gb(?:[+-][A-Za-z0-9.+]+)*)$")
_OLD_UUID = re.compile(r"MIG-(GPU-[0-9a-fA-F-]+)/(\d+)/(\d+)")


def profile_in(name: str) -> str:
    """The profile at the end of a MIG device's name (``NVIDIA A100 MIG 1g.5gb+me``), else empty."""
    found = _PROFILE.search(name)
    return found[1] if found else ""


def profile_of_slices(
    compute_slices: int, gpu_slices: int, memory_mib: int, gpu_memory_mib: int
) -> str:
    """The profile's name as computed from what an instance has, for drivers that do not say it.

    Memory counts in eighths of the GPU's, rounded up, in whole GiB.
    """
    if not (gpu_slices and gpu_memory_mib):
        return ""
    eighths = math.ceil(memory_mib * 8 / gpu_memory_mib)
    gib = round(eighths * math.ceil(gpu_memory_mib / 1024) / 8)
    prefix = "" if compute_slices == gpu_slices else f"{compute_slices}c."
    return f"{prefix}{gpu_slices}g.{gib}gb"


def parsed_uuid(uuid: str) -> tuple[str, int, int] | None:
    """Parent uuid, GPU instance and compute instance of the old form ``MIG-GPU-<uuid>/<gi>/<ci>``;
    None for any other uuid.
    """
    found = _OLD_UUID.fullmatch(uuid)
    return (found[1], int(found[2]), int(found[3])) if found else None


def resource_of(profile: str) -> str:
    """The resource of a profile in the strategy mixed: ``nvidia.com/mig-1g.5gb.me``."""
    return f"nvidia.com/mig-{profile.replace('+', '.')}"


def offered(
    devices: Sequence[PhysicalDevice], strategy: str, gpu_resource: str
) -> Mapping[str, tuple[PhysicalDevice, ...]]:
    """The devices of each resource, in the driver's order.

    Raises `ValueError` where the strategy ``single`` meets GPUs that it does not fit.
    """
    gpus = tuple(device for device in devices if not device.parent_uuid)
    if strategy == "none":
        return _groups({gpu_resource: gpus})
    plain = tuple(gpu for gpu in gpus if not has_mig_enabled(gpu))
    instances = tuple(device for device in devices if device.parent_uuid)
    if strategy == "mixed":
        return _groups({gpu_resource: plain, **_by_profile(instances)})
    if len(plain) == len(gpus):
        return _groups({gpu_resource: plain})
    _check_single(gpus, plain, instances)
    return _groups({GPU_RESOURCE: instances})


def divisible(devices: Sequence[PhysicalDevice]) -> tuple[PhysicalDevice, ...]:
    """The GPUs that operating mode mig offers: with a MIG mode, and named in the table."""
    return tuple(gpu for gpu in devices if {MIG_MODE, MIG_TABLE} <= gpu.attributes.keys())


def advice(devices: Sequence[PhysicalDevice], settings: NvidiaSettings) -> Iterator[str]:
    """What operating mode mig does not offer, and what it does otherwise than one may expect."""
    if not settings.dynamic_mig:
        return
    if settings.mig_strategy != "none":
        yield (
            f"migStrategy {settings.mig_strategy} is not applied in operating mode mig, which "
            "hands out MIG instances itself"
        )
    for gpu in devices:
        if gpu.parent_uuid or not gpu.healthy:
            continue
        name = f"GPU {gpu.index} ({gpu.uuid})"
        found = geometry.match(gpu.model, settings.geometries)
        if found is None:
            yield (
                f"{name} is not offered in operating mode mig: no entry of "
                f"nvidia.knownMigGeometries names {gpu.model!r}; add it to an entry's models"
            )
        elif MIG_MODE not in gpu.attributes:
            yield (
                f"{name} is not offered in operating mode mig: it has no MIG mode; set another "
                "operatingMode for this node"
            )
        elif found.closer:
            yield (
                f"{name} has the geometries of {found.by!r}, the first entry that names "
                f"{gpu.model!r}; {found.closer!r} names it better and comes later: move that entry "
                "up in nvidia.knownMigGeometries, for scheduler and nodes alike"
            )


def _check_single(
    gpus: Sequence[PhysicalDevice],
    plain: Sequence[PhysicalDevice],
    instances: Sequence[PhysicalDevice],
) -> None:
    remedy = "make all GPUs alike, or use the MIG strategy mixed"
    if plain:
        names = ", ".join(gpu.uuid for gpu in plain)
        raise ValueError(f"MIG strategy single: MIG is on, but not on {names}; {remedy}")
    parents = {instance.parent_uuid for instance in instances}
    if empty := [gpu.uuid for gpu in gpus if gpu.uuid not in parents]:
        raise ValueError(
            f"MIG strategy single: no MIG instance on {', '.join(empty)}; make one, or {remedy}"
        )
    profiles = sorted({instance.profile for instance in instances})
    if len(profiles) > 1:
        raise ValueError(f"MIG strategy single: different profiles {', '.join(profiles)}; {remedy}")


def _by_profile(instances: Sequence[PhysicalDevice]) -> dict[str, tuple[PhysicalDevice, ...]]:
    groups: dict[str, tuple[PhysicalDevice, ...]] = {}
    for instance in instances:
        if instance.profile and _whole(instance):
            resource = resource_of(instance.profile)
            groups[resource] = (*groups.get(resource, ()), instance)
    return groups


def _whole(instance: PhysicalDevice) -> bool:
    """Whether the compute instance is all of its GPU instance."""
    gpu, compute = (instance.attributes.get(key) for key in (GPU_SLICES, COMPUTE_SLICES))
    return gpu == compute and "c." not in instance.profile


def _groups(
    groups: Mapping[str, tuple[PhysicalDevice, ...]],
) -> Mapping[str, tuple[PhysicalDevice, ...]]:
    return {resource: devices for resource, devices in groups.items() if devices}
