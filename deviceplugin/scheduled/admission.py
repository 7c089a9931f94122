"""Whether this node can honour what an annotation says. Pure.

A scheduler decided, but anybody may have written the annotation: every device must be ours, the
count must be what kubelet gave ids for, and all grants together must fit the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from deviceplugin.api.hami.poddevices import ContainerDevice
from deviceplugin.scheduled.ledger import Record, Share
from deviceplugin.splitting import Table
from deviceplugin.vendor import Grant, ResourcePlan, Sharing

__all__ = ["NotAdmissibleError", "check_room", "grants_of", "shares", "used"]

Amounts = tuple[int, int, int]
"""Memory in MiB, cores in percent, shares."""

NOTHING: Amounts = (0, 0, 0)

OVER_CAPACITY = "over-capacity"

LIMITS = frozenset({Sharing.LIMITED, Sharing.MPS})


class NotAdmissibleError(ValueError):
    """The node does not honour the grant; `reason` is one word for metrics."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


def shares(
    devices: Sequence[ContainerDevice], asked: int, table: Table, plan: ResourcePlan
) -> tuple[Share, ...]:
    """The shares that an annotation gives a container, in the order of the node's devices.

    `asked` is the number of ids that kubelet gave. Libraries number a container's devices by the
    driver's order, not by the annotation's (hami-nvidia-node.md 8), hence the order. Raises
    `NotAdmissibleError`.
    """
    if len(devices) != asked:
        raise NotAdmissibleError(
            f"device number not matched: the scheduler granted {len(devices)} devices, kubelet "
            f"asks for {asked}",
            "count-mismatch",
        )
    order = {uuid: position for position, uuid in enumerate(table.devices)}
    found = []
    for device in devices:
        uuid = plan.names.get(device.uuid, device.uuid)
        if uuid not in order:
            raise NotAdmissibleError(
                f"the annotation names device {device.uuid!r:.80}, which this node does not offer "
                f"as {plan.resource}",
                "foreign-device",
            )
        slot = f"{device.slot.geometry}-{device.slot.position}" if device.slot else ""
        _check_form(slot, device, plan)
        found.append(Share(uuid, device.memory, device.cores, slot))
    if len({(share.uuid, share.slot) for share in found}) < len(found):
        raise NotAdmissibleError("the annotation names a device twice", "duplicate-device")
    return tuple(sorted(found, key=lambda share: (order[share.uuid], share.slot)))


def _check_form(slot: str, device: ContainerDevice, plan: ResourcePlan) -> None:
    """What no scheduler writes: a partition where there are none would be counted by nobody, and
    0 MiB are no limit at all to the libraries that keep limits. Raises `NotAdmissibleError`.
    """
    if slot and not plan.places:
        raise NotAdmissibleError(
            f"the annotation names partition {slot} of {device.uuid!r:.80}, but {plan.resource} "
            "has no partitions on this node: recreate the pod, so that it is scheduled again",
            "no-partitions",
        )
    if not slot and not device.memory and plan.split.sharing in LIMITS:
        raise NotAdmissibleError(
            f"the annotation gives 0 MiB of device {device.uuid!r:.80}, which would be no limit: "
            "recreate the pod, so that it is scheduled again",
            "no-memory",
        )


def check_room(wanted: Record, others: Iterable[Record], table: Table, plan: ResourcePlan) -> None:
    """Nobody gets what others hold. `others` are the grants of living containers.

    Raises `NotAdmissibleError`.
    """
    held = [r for r in others if r.resource == wanted.resource and r.key != wanted.key]
    after = used([*held, wanted])
    split = plan.split
    for share in wanted.shares:
        uuid, device = share.uuid, table.devices[share.uuid]
        if any(share.slot and not r.init and _has_slot(r, share) for r in held):
            owner = next(r.owner for r in held if not r.init and _has_slot(r, share))
            raise NotAdmissibleError(
                f"partition {share.slot} of {uuid} is held by {owner}", OVER_CAPACITY
            )
        if share.slot:
            continue  # what a partition has is the card's own business, not a share of a sum
        limits = (
            ("MiB", _scaled(device.memory_mib, split.memory_scaling)),
            ("% of its cores", _scaled(device.cores_percent, split.cores_scaling)),
            ("shares", split.count),
        )
        for position, (unit, most) in enumerate(limits):
            if most is not None and after[uuid][position] > most:
                before = used(held).get(uuid, NOTHING)
                raise NotAdmissibleError(
                    f"{_amounts(share)[position]} {unit} of {uuid} do not fit: it has {most}, "
                    f"other containers on this node hold {before[position]}",
                    OVER_CAPACITY,
                )


def used(records: Iterable[Record]) -> Mapping[str, tuple[int, int, int]]:
    """Memory in MiB, cores in percent and number of shares in use, by device.

    A pod's ordinary init containers are over before the others begin, so it uses the larger of
    what its largest init container and all others together hold.
    """
    pods: dict[tuple[str, str], tuple[Amounts, Amounts]] = {}
    for record in records:
        for share in record.shares:
            key = (record.pod_uid, share.uuid)
            first, rest = pods.get(key, (NOTHING, NOTHING))
            if record.init:
                first = _largest(first, _amounts(share))
            else:
                rest = _sum(rest, _amounts(share))
            pods[key] = (first, rest)
    found: dict[str, Amounts] = {}
    for (_, uuid), (first, rest) in pods.items():
        found[uuid] = _sum(found.get(uuid, NOTHING), _largest(first, rest))
    return found


def grants_of(given: Sequence[Share], table: Table, plan: ResourcePlan) -> tuple[Grant, ...]:
    """The grants behind shares. Raises `NotAdmissibleError` for a device that is gone."""
    missing = [share.uuid for share in given if share.uuid not in table.devices]
    if missing:
        raise NotAdmissibleError(
            f"device {missing[0]} is not on this node any more", "foreign-device"
        )
    limited = plan.split.sharing in LIMITS
    return tuple(
        Grant(
            device=table.devices[share.uuid],
            of=plan.split.count,
            sharing=plan.split.sharing,
            memory_mib=share.memory_mib if limited or share.slot else None,
            cores_percent=share.cores_percent if limited else None,
            memory_scaling=plan.split.memory_scaling,
            slot=share.slot,
        )
        for share in given
    )


def _amounts(share: Share) -> Amounts:
    return (share.memory_mib, share.cores_percent, 1)


def _sum(one: Amounts, other: Amounts) -> Amounts:
    return (one[0] + other[0], one[1] + other[1], one[2] + other[2])


def _largest(one: Amounts, other: Amounts) -> Amounts:
    return (max(one[0], other[0]), max(one[1], other[1]), max(one[2], other[2]))


def _has_slot(record: Record, share: Share) -> bool:
    return any((held.uuid, held.slot) == (share.uuid, share.slot) for held in record.shares)


def _scaled(amount: int | None, scaling: float) -> int | None:
    return None if amount is None else int(amount * scaling)
