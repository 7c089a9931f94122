"""Priorities between the containers of a node: who may start kernels and whose cores are limited.

A pure step over what the regions say, done every few seconds. The library sets `recent_kernel` to 2
with each kernel and every step takes 1 from it, so a container is active when it has started one
since the last step (hami-nvidia-node.md 7.3).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from deviceplugin.libvgpu import Field

LOW = 1
"""The library's own default; 0 goes first."""

BLOCKED = -1
STARTED = 2
"""What the library writes with a kernel; more is not the library's word."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """One container. `devices` are uuids, none where nobody knows its grant; such a container is
    never blocked and its limit of cores holds.
    """

    key: str
    priority: int
    devices: tuple[str, ...]
    recent_kernel: int
    utilization_switch: int


def feedback(tenants: Sequence[Tenant]) -> Mapping[str, Mapping[Field, int]]:
    """What to write, by key, and nothing that is so already.

    - A container waits while one of a higher priority is active on any of its devices.
    - Its limit of cores holds while such a one, or another of its own priority, is active there;
      alone it may use the whole device.

    HAMi 2.8 looks at the first device only when it blocks; later versions and this look at all.
    """
    counted = {tenant.key: max(min(tenant.recent_kernel, STARTED) - 1, 0) for tenant in tenants}
    active: dict[str, Counter[int]] = defaultdict(Counter)
    for tenant in tenants:
        if counted[tenant.key] > 0:
            for uuid in dict.fromkeys(tenant.devices):
                active[uuid][_rank(tenant)] += 1
    changes = {}
    for tenant in tenants:
        rivals = [active[uuid] for uuid in dict.fromkeys(tenant.devices) if uuid in active]
        rank = _rank(tenant)
        outranked = any(priority < rank for counts in rivals for priority in counts)
        contested = outranked or any(counts[rank] > 1 for counts in rivals)
        wanted = {
            Field.RECENT_KERNEL: BLOCKED if outranked else counted[tenant.key],
            Field.UTILIZATION_SWITCH: int(contested or not tenant.devices),
        }
        now = {
            Field.RECENT_KERNEL: tenant.recent_kernel,
            Field.UTILIZATION_SWITCH: tenant.utilization_switch,
        }
        if change := {field: value for field, value in wanted.items() if value != now[field]}:
            changes[tenant.key] = change
    return changes


def release(tenants: Iterable[Tenant]) -> Mapping[str, Mapping[Field, int]]:
    """What to write so that nobody waits for a monitor that is gone, and limits of cores hold."""
    changes: dict[str, dict[Field, int]] = {}
    for tenant in tenants:
        change = {}
        if tenant.recent_kernel < 0:
            change[Field.RECENT_KERNEL] = 0
        if tenant.utilization_switch != 1:
            change[Field.UTILIZATION_SWITCH] = 1
        if change:
            changes[tenant.key] = change
    return changes


def _rank(tenant: Tenant) -> int:
    """A negative number is no priority, whoever wrote it, and gains nothing."""
    return tenant.priority if tenant.priority >= 0 else LOW
