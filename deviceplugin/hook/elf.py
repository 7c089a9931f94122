"""Whether a file is a shared library that this machine's containers can load. Pure.

A file cut short by a full disk has a perfect header, so the tables are followed to their end.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["MACHINES", "machine_of", "problem"]

MACHINES: Final = {"x86_64": 62, "aarch64": 183}
"""Names as ``uname -m`` has them, and ELF's numbers."""

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SHARED_OBJECT = 3
_LOAD, _DYNAMIC = 1, 2
_CLASS_64, _LITTLE_ENDIAN = 2, 1


def machine_of(content: bytes) -> str:
    """The machine that a library is for; empty when it is for none that we know."""
    if len(content) < _HEADER.size or content[:4] != b"\x7fELF":
        return ""
    number = _HEADER.unpack_from(content)[2]
    return next((name for name, known in MACHINES.items() if known == number), "")


def problem(content: bytes, machine: str) -> str:
    """Why `machine` cannot load this; empty when it can. `machine` as ``uname -m`` names it."""
    if len(content) < _HEADER.size or content[:4] != b"\x7fELF":
        return "not an ELF file"
    (ident, kind, number, _, _, segments, sections, _, _, size, count, section, total, _) = (
        _HEADER.unpack_from(content)
    )
    if ident[4] != _CLASS_64 or ident[5] != _LITTLE_ENDIAN:
        return "not a 64-bit little-endian library"
    if kind != _SHARED_OBJECT:
        return "an ELF file, but no shared library"
    if number != MACHINES.get(machine):
        built = machine_of(content) or f"machine number {number}"
        return f"built for {built}, and this node is {machine}"
    if size != _SEGMENT.size or not count:
        return "its table of segments is damaged"
    if max(segments + count * size, sections + total * section) > len(content):
        return "cut short: the file ends before its tables do"
    return _segments(content, segments, count)


def _segments(content: bytes, offset: int, count: int) -> str:
    kinds = set()
    for position in range(count):
        kind, _, start, _, _, length, _, _ = _SEGMENT.unpack_from(
            content, offset + position * _SEGMENT.size
        )
        kinds.add(kind)
        if kind == _LOAD and start + length > len(content):
            return "cut short: the file ends before its segments do"
    return "" if {_LOAD, _DYNAMIC} <= kinds else "it has nothing to load"
