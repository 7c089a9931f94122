"""A device as HAMi's schedulers count it. Pure (hami-nvidia-node.md 1.9, 2.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deviceplugin.vendor import NodeDevice, PhysicalDevice, ResourcePlan, Snapshot

__all__ = ["INT32", "node_device", "node_devices"]

INT32 = 2**31 - 1


def node_device(device: PhysicalDevice, plan: ResourcePlan, kind: str, **more: Any) -> NodeDevice:
    """What the split makes of the device's memory and cores; `kind` is the type that schedulers
    compare with their word, `more` are other attributes of `NodeDevice`.
    """
    split = plan.split
    index = device.index.partition(":")[0]
    values: dict[str, Any] = {
        "uuid": device.uuid,
        "count": split.count,
        "memory": min(int((device.memory_mib or 0) * split.memory_scaling), INT32),
        "cores": min(int(device.cores_percent * split.cores_scaling), INT32),
        "type": kind,
        "healthy": device.healthy,
        "numa": device.numa_node or 0,
        "index": int(index) if index.isascii() and index.isdigit() else 0,
        "mode": plan.mode,
    }
    return NodeDevice(**{**values, **more})


def node_devices(
    plan: ResourcePlan, snapshot: Snapshot, kind: Callable[[PhysicalDevice], str]
) -> tuple[NodeDevice, ...]:
    """All of a resource, but for those of which the driver does not tell the memory."""
    found = (snapshot.device(uuid) for uuid in plan.devices)
    return tuple(node_device(d, plan, kind(d)) for d in found if d is not None and d.memory_mib)
