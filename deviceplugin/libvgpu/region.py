"""A region file as a value, decoded from its bytes. Pure.

Tenants own these files, so every number is a claim. What cannot be true is not believed: it reads
as nothing, and `Region.doubts` names its field (hami-nvidia-node.md 6.5).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from deviceplugin.libvgpu.layouts import DEVICES, SLOTS, UUID_BYTES, Layout

MOST_BYTES = 1 << 48
"""256 TiB: no container holds more device memory; a counter that fell below zero shows more."""

MOST_SECONDS = 1 << 40
MOST_PERCENT = 10_000
"""Of a limit: above 100 the library does not limit at all, far above nobody wrote it on purpose."""

_UUID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/-]*")
_LIMITS = struct.Struct(f"<{DEVICES}Q")
_COUNT = struct.Struct("<Q")
_FLAG = struct.Struct("<i")


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Which file was read: two reads with equal `device` and `inode` saw the same one."""

    device: int
    inode: int
    length: int
    """Bytes."""
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Device memory by kind, in bytes. The library never writes `offset`."""

    context: int = 0
    module: int = 0
    data: int = 0
    offset: int = 0
    total: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            self.context + other.context,
            self.module + other.module,
            self.data + other.data,
            self.offset + other.offset,
            self.total + other.total,
        )


@dataclass(frozen=True, slots=True)
class Utilisation:
    """Shares of a device's engines, in percent."""

    sm: int = 0
    encoder: int = 0
    decoder: int = 0


@dataclass(frozen=True, slots=True)
class Process:
    """A live process of the container.

    `memory` is indexed as `Region.uuids`. `monitored` (bytes, as the driver counts them) and
    `utilisation` are indexed as the process sees its devices, which is another order where it sets
    CUDA_VISIBLE_DEVICES to anything but the first devices.
    """

    slot: int
    pid: int
    """In the container's own namespace."""
    host_pid: int | None
    """None until the library has found it out."""
    suspended: bool
    memory: tuple[Memory, ...]
    monitored: tuple[int, ...]
    utilisation: tuple[Utilisation, ...]
    torn: bool = False
    """Whether the slot changed at every attempt to read it, so that its numbers may not match."""


@dataclass(frozen=True, slots=True)
class Region:
    """What the processes of one container say of themselves.

    Before `initialised` everything but `file` is empty. `uuids` is empty until some process has
    asked the driver for its devices; limits are there from the start, always 16 of them, 0 for
    none.
    """

    file: FileFacts
    initialised: bool = False
    layout: Layout | None = None
    sm_init_flag: int = 0
    owner_pid: int = 0
    """Who holds the region's lock; in the container's own namespace, 0 for nobody."""
    uuids: tuple[str, ...] = ()
    """By position in the container; an empty text where none is written or it cannot be one."""
    memory_limits: tuple[int, ...] = (0,) * DEVICES
    """Bytes, as written: absurd ones are no danger and differ from every grant."""
    core_limits: tuple[int, ...] = (0,) * DEVICES
    """Percent; the library limits nothing at 0 and from 100 on."""
    processes: tuple[Process, ...] = ()
    utilization_switch: int = 0
    recent_kernel: int = 0
    priority: int = 0
    last_kernel_time: int | None = None
    """Unix seconds; None where it is not kept or no kernel ran."""
    doubts: frozenset[str] = frozenset()
    """Fields with values that were not believed."""

    @property
    def version(self) -> str:
        """``0``, ``1.1``, ``1.1b`` (what 2.8.1 wrote) or ``1.2``; empty before initialisation."""
        return self.layout.name if self.layout else ""


def decode(
    file: FileFacts,
    layout: Layout,
    head: bytes,
    slots: bytes,
    tail: bytes,
    torn: frozenset[int] = frozenset(),
) -> Region:
    """The region in these parts of a file: `head` up to the slots, as many whole slots as are
    live, and `tail` from `proc_num` on. `torn` are slots that changed while they were read.
    """
    doubts: set[str] = set()
    uuids = _uuids(layout, head, doubts)
    memory_limits = _LIMITS.unpack_from(head, layout.limit)
    core_limits = _LIMITS.unpack_from(head, layout.sm_limit)
    if max(memory_limits) > MOST_BYTES:
        doubts.add("limit")
    if max(core_limits) > MOST_PERCENT:
        doubts.add("sm_limit")
    limited = [position for position, limit in enumerate(memory_limits) if limit]
    width = max(len(uuids), limited[-1] + 1 if limited else 0) or DEVICES
    numbers = layout.tail.unpack(tail)
    if live_slots(numbers[0]) is None:
        doubts.add("proc_num")
    last_kernel = numbers[4] if len(numbers) > 4 else 0
    if last_kernel > MOST_SECONDS:
        doubts.add("last_kernel_time")
        last_kernel = 0
    return Region(
        file=file,
        initialised=True,
        layout=layout,
        sm_init_flag=_FLAG.unpack_from(head, layout.sm_init_flag)[0],
        owner_pid=_COUNT.unpack_from(head, layout.owner_pid)[0],
        uuids=uuids,
        memory_limits=memory_limits,
        core_limits=core_limits,
        processes=_processes(layout, slots, width, torn, doubts),
        utilization_switch=numbers[1],
        recent_kernel=numbers[2],
        priority=numbers[3],
        last_kernel_time=last_kernel or None,
        doubts=frozenset(doubts),
    )


def live_slots(proc_num: int) -> int | None:
    """How many slots are in use; None for a number that cannot be one."""
    return proc_num if 0 <= proc_num <= SLOTS else None


def _uuids(layout: Layout, head: bytes, doubts: set[str]) -> tuple[str, ...]:
    count: int = _COUNT.unpack_from(head, layout.device_num)[0]
    if count > DEVICES:
        doubts.add("device_num")
        return ()
    found = []
    for position in range(count):
        start = layout.uuids + position * UUID_BYTES
        text = head[start : start + UUID_BYTES].partition(b"\0")[0]
        if text and (len(text) == UUID_BYTES or not _UUID.fullmatch(text)):
            doubts.add("uuids")
            text = b""
        found.append(text.decode("ascii"))
    return tuple(found)


def _processes(
    layout: Layout, slots: bytes, width: int, torn: frozenset[int], doubts: set[str]
) -> tuple[Process, ...]:
    size, values = layout.slot.size, layout.slot.values
    found = []
    for slot in range(len(slots) // size):
        numbers = values.unpack_from(slots, slot * size)
        pid, status = numbers[0], numbers[-1]
        if pid == 0 or status == 0:
            continue  # dead: newer libraries leave the slot until somebody needs it
        if pid < 0:
            doubts.add("pid")
            continue
        found.append(_process(slot, numbers, width, slot in torn, doubts))
    return tuple(found)


def _process(
    slot: int, numbers: Sequence[int], width: int, torn: bool, doubts: set[str]
) -> Process:
    host_pid = numbers[1]
    if host_pid < 0:
        doubts.add("hostpid")
        host_pid = 0
    memory = []
    for first in range(2, 2 + 5 * width, 5):
        kinds = numbers[first : first + 5]
        if max(kinds) > MOST_BYTES:
            doubts.add("used")
            kinds = [amount if amount <= MOST_BYTES else 0 for amount in kinds]
        memory.append(Memory(*kinds))
    monitored = tuple(numbers[82 : 82 + width])
    if max(monitored) > MOST_BYTES:
        doubts.add("monitorused")
        monitored = tuple(amount if amount <= MOST_BYTES else 0 for amount in monitored)
    utilisation = []
    for first in range(98, 98 + 3 * width, 3):
        decoder, encoder, sm = numbers[first : first + 3]
        if max(decoder, encoder, sm) > 100:
            doubts.add("device_util")
            decoder, encoder, sm = (n if n <= 100 else 0 for n in (decoder, encoder, sm))
        utilisation.append(Utilisation(sm, encoder, decoder))
    return Process(
        slot=slot,
        pid=numbers[0],
        host_pid=host_pid or None,
        suspended=numbers[-1] == 2,
        memory=tuple(memory),
        monitored=monitored,
        utilisation=tuple(utilisation),
        torn=torn,
    )
