"""Physical devices become the virtual devices that kubelet counts. Pure.

The ids are ``<uuid><separator><i>``; HAMi's separator is ``-``, NVIDIA's is ``::``, and an
exclusive device is its uuid (kubelet-deviceplugin.md 4.5, hami-nvidia-node.md 1.6). Ids are looked
up in the table made here, never taken apart: a uuid may contain a separator.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from types import MappingProxyType

from deviceplugin.vendor import Grant, PhysicalDevice, ResourcePlan, Sharing, Snapshot, Split


@dataclass(frozen=True, slots=True)
class VirtualDevice:
    """One unit that kubelet hands out: share `replica` of `split.count` of the device `uuid`."""

    id: str
    uuid: str
    replica: int
    split: Split


@dataclass(frozen=True, slots=True)
class Table:
    """The virtual devices of one resource by id, in order, and the devices behind them."""

    resource: str
    virtual: Mapping[str, VirtualDevice]
    devices: Mapping[str, PhysicalDevice]
    withheld: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Ids that must not be handed out now, although their device is healthy, and why."""

    def device(self, virtual_id: str) -> PhysicalDevice:
        """The device behind an id of this table."""
        return self.devices[self.virtual[virtual_id].uuid]


def split(
    plan: ResourcePlan, snapshot: Snapshot, held: Mapping[str, VirtualDevice] | None = None
) -> Table:
    """The table of one resource.

    `held` are virtual devices of a former split that containers still hold: they stay, with their
    own share, as long as their device is there, because a running grant is never divided anew.
    A uuid of the plan that the snapshot lacks has no virtual devices.
    """
    devices = {device.uuid: device for device in snapshot.devices}
    chosen = {uuid: devices[uuid] for uuid in plan.devices if uuid in devices}
    virtual = {item.id: item for uuid in chosen for item in _replicas(uuid, plan.split)}
    virtual.update({i: item for i, item in (held or {}).items() if item.uuid in chosen})
    return Table(plan.resource, MappingProxyType(virtual), MappingProxyType(chosen))


def withhold(
    table: Table,
    present: Split,
    held: Collection[str] | None,
    elsewhere: Sequence[VirtualDevice] = (),
) -> Table:
    """The table with what a change of split keeps back.

    Ids of a former split are handed out no more. Those of the `present` one are handed out as far
    as the former ones that are still held leave room on their device, so that shares of both never
    add up to more than there is. `held` are the ids that containers hold; while that is not known
    (None), every former id counts as held. `elsewhere` are shares of the same devices that are held
    by another resource's name, as after it was renamed: they take their room, too.
    """
    withheld: dict[str, str] = {}
    shares: dict[str, list[VirtualDevice]] = {}
    for item in table.virtual.values():
        shares.setdefault(item.uuid, []).append(item)
    for uuid, items in shares.items():
        former = [item for item in items if item.split != present]
        renamed = [item for item in elsewhere if item.uuid == uuid]
        if not former and not renamed:
            continue
        busy = [item for item in former if held is None or item.id in held] + renamed
        mine = [item for item in items if item.split == present]
        free = [item for item in mine if held is None or item.id not in held]
        left = 1 - sum(Fraction(1, item.split.count) for item in busy)
        room = max(0, int(left * present.count) - (len(mine) - len(free)))
        withheld |= dict.fromkeys(
            (item.id for item in free[room:]),
            f"{len(busy)} containers' shares of a former split are still held on its device"
            + (", some by another resource's name" if renamed else ""),
        )
        withheld |= dict.fromkeys(
            (item.id for item in former if item not in busy),
            "it belongs to a former split and goes as soon as it is known to be free",
        )
    return replace(table, withheld=MappingProxyType(withheld))


def _replicas(uuid: str, how: Split) -> list[VirtualDevice]:
    if not how.separator:
        return [VirtualDevice(uuid, uuid, 0, how)]
    return [
        VirtualDevice(f"{uuid}{how.separator}{replica}", uuid, replica, how)
        for replica in range(how.count)
    ]


def grants(table: Table, virtual_ids: list[str]) -> tuple[Grant, ...]:
    """What a container gets that holds these ids: one grant a device, in the table's order.

    k ids of one device make k/n of it. Every id must be in the table, each once.
    """
    shares: dict[str, list[VirtualDevice]] = {}
    for identity in virtual_ids:
        item = table.virtual[identity]
        shares.setdefault(item.uuid, []).append(item)
    return tuple(
        _grant(device, shares[uuid]) for uuid, device in table.devices.items() if uuid in shares
    )


def _grant(device: PhysicalDevice, items: list[VirtualDevice]) -> Grant:
    """Shares of different splits may meet after a reload; the larger division is the safe one."""
    how = max((item.split for item in items), key=lambda split: split.count)
    shares, of = len(items), how.count
    limited = how.sharing in (Sharing.LIMITED, Sharing.MPS)
    memory = None
    if limited and device.memory_mib is not None:
        memory = int(device.memory_mib * how.memory_scaling) * shares // of
    cores = None
    if limited:
        cores = max(1, min(100, int(device.cores_percent * how.cores_scaling) * shares // of))
    return Grant(device, shares, of, how.sharing, memory, cores, how.memory_scaling)
