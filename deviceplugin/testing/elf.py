"""The smallest file that passes for a shared library, for tests of what installs and checks one."""

from __future__ import annotations

import struct

from deviceplugin.hook.elf import MACHINES

__all__ = ["shared_object"]


def shared_object(
    mark: str, machine: str | int = "x86_64", *, kind: int = 3, bits: int = 2
) -> bytes:
    """An ELF shared object with two segments and `mark` as its content. `machine` is a name as
    ``uname -m`` has it, or ELF's number; `kind` and `bits` are ELF's fields (3: shared, 2: 64).
    """
    number = MACHINES[machine] if isinstance(machine, str) else machine
    body = mark.encode().ljust(64, b".")
    offset = 64 + 2 * 56
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        bytes([0x7F, *b"ELF", bits, 1, 1]).ljust(16, b"\0"),
        *(kind, number, 1, 0, 64, offset + len(body), 0, 64, 56, 2, 64, 1, 0),
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, offset, 0, 0, len(body), len(body), 4096)
    dynamic = struct.pack("<IIQQQQQQ", 2, 6, offset, 0, 0, 16, 16, 8)
    return head + load + dynamic + body + bytes(64)
