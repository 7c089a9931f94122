"""The GPUs as HAMi's schedulers read them. Pure (hami-nvidia-node.md 1.9)."""

from __future__ import annotations

from deviceplugin.vendor import NodeDevice, PhysicalDevice, ResourcePlan, Snapshot
from deviceplugin.vendor.registered import node_device

MIG = "mig"
BRAND = "NVIDIA"


def registered(plan: ResourcePlan, snapshot: Snapshot) -> tuple[NodeDevice, ...]:
    """The devices of a plan in the order of their indices. One without a memory figure is left
    out: nothing of it can be divided.
    """
    found = (snapshot.device(uuid) for uuid in plan.devices)
    return tuple(_device(gpu, plan) for gpu in found if gpu is not None and gpu.memory_mib)


def _device(gpu: PhysicalDevice, plan: ResourcePlan) -> NodeDevice:
    """In mode mig the card itself is divided, so nothing of it is overcommitted."""
    split, divided = plan.split, plan.mode == MIG
    memory = gpu.memory_mib or 0
    kind = gpu.model if gpu.model.startswith(BRAND) else f"{BRAND}-{gpu.model}"
    if divided:
        return node_device(gpu, plan, kind, memory=memory, cores=100)
    return node_device(gpu, plan, kind, cores=int(100 * split.cores_scaling))
