"""Hard partitions of simulated cards. Pure: each function answers the new set.

A partition takes memory and cores of its card until they are used up. It is as healthy as its
card, and gone while its card is not listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from deviceplugin.vendor import DriverError, PhysicalDevice, Snapshot
from deviceplugin.vendors.mock.fields import made_uuid
from deviceplugin.vendors.mock.profile import PartitionSize


@dataclass(frozen=True, slots=True)
class Partition:
    """Place `number` of the card `parent`, of a size that has the name `size`."""

    uuid: str
    parent: str
    number: int
    size: str


def made(
    existing: tuple[Partition, ...],
    sizes: Mapping[str, PartitionSize],
    card: PhysicalDevice,
    size: str,
) -> Partition:
    """The next partition of that card. Raises `DriverError` when it does not fit."""
    if size not in sizes:
        known = ", ".join(sizes) or "none; the profile's key partitions defines them"
        raise DriverError(f"no partition size {size!r}; known are {known}")
    siblings = [partition for partition in existing if partition.parent == card.uuid]
    wanted = [sizes[size], *(sizes[partition.size] for partition in siblings)]
    if sum(one.memory_mib for one in wanted) > (card.memory_mib or 0):
        raise DriverError(f"{card.uuid} has too little memory left for a {size}; release another")
    if sum(one.cores_percent for one in wanted) > card.cores_percent:
        raise DriverError(f"{card.uuid} has too few cores left for a {size}; release another")
    taken = {partition.number for partition in siblings}
    number = next(number for number in range(len(taken) + 1) if number not in taken)
    identity = f"PART-{made_uuid(f'{card.uuid}/{number}/{size}')}"
    return Partition(identity, card.uuid, number, size)


def listed(
    snapshot: Snapshot, partitions: tuple[Partition, ...], sizes: Mapping[str, PartitionSize]
) -> Snapshot:
    """The snapshot with the partitions of its cards, each after its card."""
    if not partitions:
        return snapshot
    devices: list[PhysicalDevice] = []
    for card in snapshot.devices:
        devices.append(card)
        devices.extend(
            replace(
                card,
                uuid=partition.uuid,
                index=f"{card.index}:{partition.number}",
                memory_mib=sizes[partition.size].memory_mib,
                cores_percent=sizes[partition.size].cores_percent,
                links={},
                parent_uuid=card.uuid,
                profile=partition.size,
            )
            for partition in partitions
            if partition.parent == card.uuid
        )
    return replace(snapshot, devices=tuple(devices))
