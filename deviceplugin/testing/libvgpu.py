"""Region files as libvgpu writes them, to try monitors without a GPU."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deviceplugin.libvgpu.layouts import DEVICES, MAGIC, UUID_BYTES, V1_1, V1_2, Layout


@dataclass(frozen=True, slots=True)
class FakeProcess:
    """A process of the container; mappings are by position of the device."""

    pid: int = 1
    host_pid: int = 0
    status: int = 1
    used: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)
    """Bytes of context, module and data."""
    monitored: Mapping[int, int] = field(default_factory=dict)
    """Bytes."""
    sm: Mapping[int, int] = field(default_factory=dict)
    """Percent."""
    seqlock: int = 0


@dataclass(frozen=True, slots=True)
class FakeRegion:
    """The fields of a region, with what libvgpu writes at first as defaults.

    `memory` are limits in bytes and `cores` in percent, by position of the device.
    """

    layout: Layout = V1_2
    uuids: Sequence[str] = ()
    memory: Sequence[int] = ()
    cores: Sequence[int] = (100,) * DEVICES
    processes: Sequence[FakeProcess] = ()
    utilization_switch: int = 1
    recent_kernel: int = 2
    priority: int = 1
    last_kernel_time: int = 0

    def write(self, path: Path) -> Path:
        """Make the file, as sparse as libvgpu makes it."""
        with path.open("wb") as file:
            file.truncate(self.layout.file_length)
            for offset, part in self._parts():
                file.seek(offset)
                file.write(part)
        return path

    def _parts(self) -> Sequence[tuple[int, bytes]]:
        at = self.layout
        version = {V1_1: (1, 1), V1_2: (1, 2)}.get(at, (1, 1))
        identity = struct.pack("<i", MAGIC)
        if at.last_kernel_time is not None:
            identity += struct.pack("<II", *version)
        tail = (len(self.processes), self.utilization_switch, self.recent_kernel, self.priority)
        times = () if at.last_kernel_time is None else (self.last_kernel_time,)
        return [
            (0, identity),
            (at.device_num, struct.pack("<Q", len(self.uuids))),
            (at.uuids, b"".join(uuid.encode().ljust(UUID_BYTES, b"\0") for uuid in self.uuids)),
            (at.limit, struct.pack(f"<{len(self.memory)}Q", *self.memory)),
            (at.sm_limit, struct.pack(f"<{len(self.cores)}Q", *self.cores)),
            *((at.procs + n * at.slot.size, self._slot(p)) for n, p in enumerate(self.processes)),
            (at.proc_num, at.tail.pack(*tail, *times)),
        ]

    def _slot(self, process: FakeProcess) -> bytes:
        at = self.layout.slot
        numbers = [process.pid, process.host_pid]
        for position in range(DEVICES):
            kinds = process.used.get(position, (0, 0, 0))
            numbers += [*kinds, 0, sum(kinds)]
        numbers += [process.monitored.get(position, 0) for position in range(DEVICES)]
        for position in range(DEVICES):
            numbers += [0, 0, process.sm.get(position, 0)]
        slot = bytearray(at.values.pack(*numbers, process.status).ljust(at.size, b"\0"))
        if at.seqlock is not None:
            struct.pack_into("<Q", slot, at.seqlock, process.seqlock)
        return bytes(slot)
