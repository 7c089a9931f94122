"""Where every field of a region file stands, for each layout that libvgpu ever wrote.

Source: hami-nvidia-node.md 6.4, whose offsets were found by compiling. Little endian, natural
alignment, 16 devices, 1,024 process slots, uuids of 96 bytes. All offsets and sizes are bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

MAGIC = 19920718
"""`initialized_flag` of a region that its first process has filled in."""

DEVICES = 16
SLOTS = 1024
UUID_BYTES = 96
IDENTITY = struct.Struct("<iII")
"""The first twelve bytes: flag, and in all layouts but the oldest major and minor version."""


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """One process. The records of memory and utilisation are padded to the given sizes."""

    size: int
    seqlock: int | None
    """None where the library updates without one."""
    used: int
    memory_record: int
    monitorused: int
    device_util: int
    util_record: int
    status: int
    values: struct.Struct = field(init=False, compare=False)
    """Unpacks pid, hostpid, 16 x 5 of memory, 16 of monitorused, 16 x 3 of utilisation, status."""

    def __post_init__(self) -> None:
        gap = self.used - 8
        memory = f"5Q{self.memory_record - 40}x" * DEVICES
        util = f"3Q{self.util_record - 24}x" * DEVICES
        values = struct.Struct(f"<ii{gap}x{memory}{DEVICES}Q{util}i")
        object.__setattr__(self, "values", values)
        assert self.monitorused == self.used + DEVICES * self.memory_record
        assert self.device_util == self.monitorused + DEVICES * 8
        assert self.status == self.device_util + DEVICES * self.util_record
        assert values.size == self.status + 4 <= self.size


@dataclass(frozen=True, slots=True)
class Layout:
    """One layout; `size` is the structure's, the file has one byte more."""

    name: str
    size: int
    sm_init_flag: int
    owner_pid: int
    device_num: int
    uuids: int
    limit: int
    sm_limit: int
    procs: int
    slot: SlotLayout
    proc_num: int
    utilization_switch: int
    recent_kernel: int
    priority: int
    last_kernel_time: int | None
    """None in the oldest layout, which does not keep it."""

    def __post_init__(self) -> None:
        assert self.uuids == self.device_num + 8
        assert self.limit == self.uuids + DEVICES * UUID_BYTES
        assert self.sm_limit == self.limit + DEVICES * 8
        assert self.procs == self.sm_limit + DEVICES * 8
        assert 0 <= self.proc_num - (self.procs + SLOTS * self.slot.size) < 8
        assert self.priority + 4 <= self.size

    @property
    def file_length(self) -> int:
        """The library makes the file by writing one byte behind the structure."""
        return self.size + 1

    @property
    def tail(self) -> struct.Struct:
        """Unpacks proc_num, utilization_switch, recent_kernel, priority and, where the layout has
        it, last_kernel_time, from `proc_num` on.
        """
        return _TAIL if self.last_kernel_time is None else _TAIL_WITH_TIME


_TAIL = struct.Struct("<4i")
_TAIL_WITH_TIME = struct.Struct("<4iQ")


V0 = Layout(
    name="0",
    size=1197896,
    sm_init_flag=4,
    owner_pid=8,
    device_num=48,
    uuids=56,
    limit=1592,
    sm_limit=1720,
    procs=1848,
    slot=SlotLayout(
        size=1168,
        seqlock=None,
        used=8,
        memory_record=40,
        monitorused=648,
        device_util=776,
        util_record=24,
        status=1160,
    ),
    proc_num=1197880,
    utilization_switch=1197884,
    recent_kernel=1197888,
    priority=1197892,
    last_kernel_time=None,
)
"""HAMi 2.4 and older."""

V1_1 = Layout(
    name="1.1",
    size=2008952,
    sm_init_flag=12,
    owner_pid=16,
    device_num=56,
    uuids=64,
    limit=1600,
    sm_limit=1728,
    procs=1856,
    slot=SlotLayout(
        size=1960,
        seqlock=None,
        used=8,
        memory_record=64,
        monitorused=1032,
        device_util=1160,
        util_record=48,
        status=1928,
    ),
    proc_num=2008896,
    utilization_switch=2008900,
    recent_kernel=2008904,
    priority=2008908,
    last_kernel_time=2008912,
)
"""HAMi 2.5 to 2.8.0."""

V1_1B = Layout(
    name="1.1b",
    size=2008984,
    sm_init_flag=12,
    owner_pid=16,
    device_num=88,
    uuids=96,
    limit=1632,
    sm_limit=1760,
    procs=1888,
    slot=SlotLayout(
        size=1960,
        seqlock=8,
        used=16,
        memory_record=64,
        monitorused=1040,
        device_util=1168,
        util_record=48,
        status=1936,
    ),
    proc_num=2008928,
    utilization_switch=2008932,
    recent_kernel=2008936,
    priority=2008940,
    last_kernel_time=2008944,
)
"""HAMi 2.8.1, which moved nearly everything and kept the version 1.1: only the length tells."""

V1_2 = Layout(
    name="1.2",
    size=2008952,
    sm_init_flag=12,
    owner_pid=16,
    device_num=56,
    uuids=64,
    limit=1600,
    sm_limit=1728,
    procs=1856,
    slot=SlotLayout(
        size=1960,
        seqlock=1936,
        used=8,
        memory_record=64,
        monitorused=1032,
        device_util=1160,
        util_record=48,
        status=1928,
    ),
    proc_num=2008896,
    utilization_switch=2008900,
    recent_kernel=2008904,
    priority=2008908,
    last_kernel_time=2008912,
)
"""HAMi 2.8.2 and newer."""

LAYOUTS = (V0, V1_1, V1_1B, V1_2)
FILE_LENGTHS = frozenset(layout.file_length for layout in LAYOUTS)


def detect(length: int, major: int, minor: int) -> Layout | None:
    """The layout of an initialised file of this length; None when nobody knows it.

    The versions are those at their place in all layouts but the oldest, which has none. A region
    of version 1.2 stays one when a 2.8.1 library has lengthened its file.
    """
    if length == V0.file_length:
        return V0
    if major != 1 or length not in FILE_LENGTHS:
        return None
    if minor == 2:
        return V1_2
    if minor == 1:
        return V1_1B if length == V1_1B.file_length else V1_1
    return None
