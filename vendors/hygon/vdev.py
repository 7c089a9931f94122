"""Virtual DCUs as files: which compute units, pipe and number each has, and what its file says.

Their names are the only record of what is in use, so it survives every restart. Pure.
Source: metax-iluvatar-kunlunxin-hygon.md 4.6; bits are taken lowest first, where upstream's
allocation by digits lets two containers overlap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

VDEVS = 200
"""Numbers on a node."""

PIPES = 20
"""Pipes of a card."""

WORD = 64
_NAME = re.compile(
    r"(?P<holder>[^_/]+)_(?P<container>[^_/]+)_(?P<card>[0-9]{1,3})_(?P<pipe>[0-9]{1,3})_"
    r"(?P<vdev>[0-9]{1,3})_(?P<low>[0-9a-f]{16})_(?P<high>[0-9a-f]{16})"
)


class ExhaustedError(ValueError):
    """A card or node has no more of something."""


@dataclass(frozen=True, slots=True)
class Vdev:
    """One virtual DCU: `holder` is a pod's uid, or an allocation's name where no pod is known;
    `mask` has a bit a compute unit. `card` is the index that its card had when it was made, and
    `address` the place on the bus, which lasts; empty where nothing tells it.
    """

    holder: str
    container: str
    card: int
    pipe: int
    vdev: int
    mask: int
    address: str = ""

    def is_on(self, card: int, address: str) -> bool:
        """Whether it is on the card of this index and place."""
        return self.address == address if self.address and address else self.card == card

    @property
    def name(self) -> str:
        """The name of its directory."""
        low, high = f"{self.mask % (1 << WORD):016x}", f"{self.mask >> WORD:016x}"
        parts = (self.holder, self.container, self.card, self.pipe, self.vdev, low, high)
        return "_".join(map(str, parts))

    def file(self, address: str, memory_mib: int, device: int) -> str:
        """What the driver reads; `device` is 0 inside a container."""
        low, high = self.mask % (1 << WORD), self.mask >> WORD
        return (
            f"PciBusId: {address.upper()}\n"
            f"cu_mask: 0x{low:016x}\n"
            f"cu_mask: 0x{high:016x}\n"
            f"cu_count: {self.mask.bit_count()}\n"
            f"mem: {memory_mib} MiB\n"
            f"device_id: {device}\n"
            f"vdev_id: {self.vdev}\n"
            f"pipe_id: {self.pipe}\n"
            "enable: 1\n"
        )


def parsed(name: str) -> Vdev | None:
    """The virtual DCU of a directory; None for a directory of something else."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    mask = int(match["low"], 16) | int(match["high"], 16) << WORD
    return Vdev(
        match["holder"],
        match["container"],
        int(match["card"]),
        int(match["pipe"]),
        int(match["vdev"]),
        mask,
    )


def part(text: str) -> str:
    """A part of a directory's name."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", text)[:100] or "-"


def allocated(
    holder: str,
    container: str,
    card: int,
    units: int,
    of: int,
    beside: Iterable[Vdev],
    numbers: Iterable[int],
) -> Vdev:
    """A new virtual DCU of a card with `of` compute units. `beside` are those of the card that may
    be used at the same time, `numbers` those that are taken on the node.

    Raises `ExhaustedError`.
    """
    beside, used = tuple(beside), 0
    for other in beside:
        used |= other.mask
    mask = lowest(units, of, used)
    pipe = _free(PIPES, (other.pipe for other in beside), f"card {card} has no free pipe")
    vdev = _free(VDEVS, numbers, "the node has no free virtual DCU")
    return Vdev(part(holder), part(container), card, pipe, vdev, mask)


def units_of(cores_percent: int, of: int) -> int:
    """So many of a card's compute units are a part of its cores."""
    return cores_percent * of // 100


def lowest(count: int, of: int, used: int) -> int:
    """The lowest `count` bits of `of` that are not used. Raises `ExhaustedError`."""
    mask, left = 0, count
    for bit in range(of):
        if not left:
            break
        if not used >> bit & 1:
            mask |= 1 << bit
            left -= 1
    if left:
        free = of - (used & ((1 << of) - 1)).bit_count()
        raise ExhaustedError(f"{count} compute units are asked for, {free} of {of} are free")
    return mask


def _free(most: int, used: Iterable[int], why: str) -> int:
    taken = set(used)
    number = next((n for n in range(most) if n not in taken), None)
    if number is None:
        raise ExhaustedError(f"{why}: all {most} are in use")
    return number
