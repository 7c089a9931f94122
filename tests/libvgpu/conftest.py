"""Region files built byte by byte. The offsets are those of hami-nvidia-node.md 6.4, written out here
once more, so that a wrong one in the library cannot agree with itself."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GPU_0 = "GPU-00552014-5c87-89ac-b1a6-7b53aa24b0ec"
GPU_1 = "GPU-0fc3eda5-e98b-a25b-5b0d-cf5c855d1448"

# name: (length, version at 4 or None, owner_pid, device_num, uuids, limit, sm_limit, procs, slot size,
#        proc_num, switch, recent, priority, last_kernel or None)
TABLE: dict[str, tuple[Any, ...]] = {
    "0": (
        1197897,
        None,
        8,
        48,
        56,
        1592,
        1720,
        1848,
        1168,
        1197880,
        1197884,
        1197888,
        1197892,
        None,
    ),
    "1.1": (
        2008953,
        (1, 1),
        16,
        56,
        64,
        1600,
        1728,
        1856,
        1960,
        2008896,
        2008900,
        2008904,
        2008908,
        2008912,
    ),
    "1.1b": (
        2008985,
        (1, 1),
        16,
        88,
        96,
        1632,
        1760,
        1888,
        1960,
        2008928,
        2008932,
        2008936,
        2008940,
        2008944,
    ),
    "1.2": (
        2008953,
        (1, 2),
        16,
        56,
        64,
        1600,
        1728,
        1856,
        1960,
        2008896,
        2008900,
        2008904,
        2008908,
        2008912,
    ),
}
# name: (seqlock or None, used, its size, monitorused, device_util, its size, status)
SLOTS: dict[str, tuple[Any, ...]] = {
    "0": (None, 8, 40, 648, 776, 24, 1160),
    "1.1": (None, 8, 64, 1032, 1160, 48, 1928),
    "1.1b": (8, 16, 64, 1040, 1168, 48, 1936),
    "1.2": (1936, 8, 64, 1032, 1160, 48, 1928),
}


class Image:
    """The bytes of one file."""

    def __init__(self, layout: str) -> None:
        (
            length, version, self.owner_pid, self.device_num, self.uuids, self.limit, self.sm_limit, self.procs,
            self.slot_size, self.proc_num, self.switch, self.recent, self.priority, self.last_kernel,
        ) = TABLE[layout]  # fmt: skip
        (
            self.seqlock, self.used, self.record, self.monitorused, self.util, self.util_record, self.status,
        ) = SLOTS[layout]  # fmt: skip
        self.layout = layout
        self.bytes = bytearray(length)
        self.put("<i", 0, 19920718)
        if version:
            self.put("<II", 4, *version)
        self.put("<16Q", self.sm_limit, *[100] * 16)
        self.put("<iii", self.switch, 1, 2, 1)

    def put(self, form: str, offset: int, *values: Any) -> Image:
        struct.pack_into(form, self.bytes, offset, *values)
        return self

    def devices(self, *uuids: str | bytes) -> Image:
        self.put("<Q", self.device_num, len(uuids))
        for position, uuid in enumerate(uuids):
            text = uuid if isinstance(uuid, bytes) else uuid.encode()
            self.put("96s", self.uuids + 96 * position, text)
        return self

    def limits(self, *limits: tuple[int, int]) -> Image:
        for position, (memory, cores) in enumerate(limits):
            self.put("<Q", self.limit + 8 * position, memory)
            self.put("<Q", self.sm_limit + 8 * position, cores)
        return self

    def process(
        self, slot: int, pid: int, host_pid: int = 0, status: int = 1, seqlock: int = 0
    ) -> Image:
        start = self.procs + slot * self.slot_size
        self.put("<ii", start, pid, host_pid).put("<i", start + self.status, status)
        if self.seqlock is not None:
            self.put("<Q", start + self.seqlock, seqlock)
        count = struct.unpack_from("<i", self.bytes, self.proc_num)[0]
        return self.put("<i", self.proc_num, max(count, slot + 1))

    def memory(self, slot: int, device: int, *kinds: int) -> Image:
        """context, module, data, offset, total"""
        return self.put(
            "<5Q", self.procs + slot * self.slot_size + self.used + device * self.record, *kinds
        )

    def monitored(self, slot: int, device: int, amount: int) -> Image:
        return self.put(
            "<Q", self.procs + slot * self.slot_size + self.monitorused + 8 * device, amount
        )

    def utilisation(self, slot: int, device: int, dec: int, enc: int, sm: int) -> Image:
        start = self.procs + slot * self.slot_size + self.util + device * self.util_record
        return self.put("<3Q", start, dec, enc, sm)

    def number(self, offset: int) -> int:
        return int(struct.unpack_from("<i", self.bytes, offset)[0])


@pytest.fixture(params=TABLE)
def layout(request: pytest.FixtureRequest) -> str:
    """Every layout there is."""
    return str(request.param)


@pytest.fixture
def image(layout: str) -> Image:
    """An initialised region of every layout, without processes or limits."""
    return Image(layout)


@pytest.fixture
def image_of() -> Callable[[str], Image]:
    """An initialised region of one layout."""
    return Image


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Image | bytes], Path]:
    """The file with these bytes."""

    def write(content: Image | bytes) -> Path:
        path = tmp_path / "r.cache"
        path.write_bytes(content if isinstance(content, bytes) else bytes(content.bytes))
        return path

    return write


@pytest.fixture
def uuids() -> tuple[str, str]:
    return GPU_0, GPU_1
