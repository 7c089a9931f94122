"""Reading and writing region files, which lie in directories that tenants write to.

A tenant may put anything in the file's place, at any moment: a link to the host's files, a pipe
that blocks whoever opens it, a device that acts on being opened, another length while it is read.
So the name is first only pinned (``O_PATH``), and nothing but a regular file with a single name is
ever opened; it is read by ``pread`` in bounded parts and never mapped, because a file that shrinks
under a mapping kills its reader.
"""

from __future__ import annotations

import enum
import errno
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deviceplugin.libvgpu.layouts import FILE_LENGTHS, IDENTITY, MAGIC, Layout, detect
from deviceplugin.libvgpu.region import FileFacts, Region, decode, live_slots

ROUNDS = 3
"""How often slots are read again that somebody was just writing."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_I32 = struct.Struct("<i")
_U64 = struct.Struct("<Q")
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Fault(enum.Enum):
    """Why there is no region to speak of."""

    MISSING = "missing"
    NOT_A_FILE = "not-a-file"
    HARD_LINK = "hard-link"
    LENGTH = "length"
    FOREIGN = "foreign"
    VERSION = "version"
    CHANGED = "changed"
    BUSY = "busy"
    SYSTEM = "system"
    AMBIGUOUS = "ambiguous"


class RegionError(Exception):
    """A file cannot be taken for a region. `path` is printable whatever the tenant called it."""

    def __init__(self, path: str, fault: Fault, reason: str, remedy: str) -> None:
        self.path = path.encode("utf-8", "backslashreplace").decode()
        self.fault, self.reason, self.remedy = fault, reason, remedy
        super().__init__(f"{self.path}: {reason}; {remedy}")


class Field(enum.Enum):
    """What a monitor may write; all else is the library's (hami-nvidia-node.md 6.5)."""

    RECENT_KERNEL = "recent_kernel"
    """-1 blocks the container's kernels, 0 and more let them run."""
    UTILIZATION_SWITCH = "utilization_switch"
    """1 keeps the limit of cores, 0 lifts it."""

    @property
    def allowed(self) -> range:
        """The values that mean something to the library."""
        return range(-1, 1 << 31) if self is Field.RECENT_KERNEL else range(2)


@contextmanager
def directory(path: str, within: int | None = None) -> Iterator[int]:
    """A descriptor of a directory that is no link; `within` is the one that holds it, and then
    `path` is a single name. Raises `RegionError`.
    """
    if within is not None and (path in ("", ".", "..") or "/" in path):
        raise RegionError(path, Fault.NOT_A_FILE, "not a name of a directory", "name one directory")
    try:
        descriptor = os.open(path, _DIRECTORY, dir_fd=within)
    except (OSError, ValueError) as error:
        raise _system(path, error) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_region(path: Path) -> Region:
    """The region in a file; no part of `path` but the directories above its parent may be a link.

    Blocking. Raises `RegionError`, and nothing else whatever is there.
    """
    with directory(str(path.parent)) as parent:
        return read_region_at(parent, path.name, str(path))


def read_region_at(parent: int, name: str, path: str) -> Region:
    """As `read_region`, of the file `name` in an open directory; `path` is for messages."""
    with _opened(parent, name, path, os.O_RDONLY) as descriptor:
        try:
            return _read(descriptor, path)
        except OSError as error:
            raise _system(path, error) from None


def write_fields_at(
    parent: int, name: str, path: str, seen: Region, values: Mapping[Field, int]
) -> frozenset[Field]:
    """Write single fields of the region that was `seen` before; answers which were written.

    A field that changed since is left alone: the library has news, and the next round sees it.
    Raises `RegionError` when the file is no longer the one that was seen, `ValueError` for values
    that mean nothing.
    """
    layout = seen.layout
    if layout is None:
        raise RegionError(path, Fault.FOREIGN, "it is not initialised", "read it again first")
    for field, value in values.items():
        if value not in field.allowed:
            raise ValueError(f"{field.value} cannot be {value}: {field.allowed} are allowed")
    written = set()
    with _opened(parent, name, path, os.O_RDWR) as descriptor:
        try:
            if _facts(descriptor) != seen.file or _layout(descriptor, seen.file, path) != layout:
                raise _changed(path, "it is another file than the one that was read")
            for field, value in values.items():
                offset: int = getattr(layout, field.value)
                (now,) = _I32.unpack(_part(descriptor, 4, offset, path))
                if now == getattr(seen, field.value):
                    os.pwrite(descriptor, _I32.pack(value), offset)
                    written.add(field)
        except OSError as error:
            raise _system(path, error) from None
    return frozenset(written)


@contextmanager
def _opened(parent: int, name: str, path: str, mode: int) -> Iterator[int]:
    """A descriptor of a regular file with one name. Opening by the pin's own entry in /proc
    cannot be turned to anything else, however fast the name changes hands.
    """
    if name in ("", ".", "..") or "/" in name:
        raise RegionError(path, Fault.NOT_A_FILE, "not a name of a file", "name one file")
    try:
        pin = os.open(name, _PIN, dir_fd=parent)
    except (OSError, ValueError) as error:
        raise _system(path, error) from None
    try:
        facts = os.fstat(pin)
        if not stat.S_ISREG(facts.st_mode):
            kind = _KINDS.get(stat.S_IFMT(facts.st_mode), "no regular file")
            raise RegionError(
                path,
                Fault.NOT_A_FILE,
                f"it is {kind}, which libvgpu never makes",
                "find out which process of the container put it there",
            )
        if facts.st_nlink > 1:
            raise RegionError(
                path,
                Fault.HARD_LINK,
                f"the file has {facts.st_nlink} names, which libvgpu never makes",
                "find out which process of the container linked it",
            )
        descriptor = os.open(f"/proc/self/fd/{pin}", mode | _OPEN)
    except OSError as error:
        raise _system(path, error) from None
    finally:
        os.close(pin)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _facts(descriptor: int) -> FileFacts:
    found = os.fstat(descriptor)
    return FileFacts(found.st_dev, found.st_ino, found.st_size, found.st_uid, found.st_gid)


def _read(descriptor: int, path: str) -> Region:
    facts = _facts(descriptor)
    layout = _layout(descriptor, facts, path)
    if layout is None:
        return Region(facts)
    head = _part(descriptor, layout.procs, 0, path)
    tail = _part(descriptor, layout.tail.size, layout.proc_num, path)
    live = live_slots(layout.tail.unpack(tail)[0]) or 0
    slots, torn = _slots(descriptor, layout, live, path)
    after = os.fstat(descriptor)
    if after.st_size != facts.length or after.st_nlink == 0:
        raise _changed(path, "it was removed or its length changed while it was read")
    return decode(facts, layout, head, slots, tail, torn)


def _layout(descriptor: int, facts: FileFacts, path: str) -> Layout | None:
    """The layout; None for a file that its first process is still making."""
    if facts.length == 0:
        return None
    if facts.length not in FILE_LENGTHS:
        raise RegionError(
            path,
            Fault.LENGTH,
            f"its length of {facts.length} bytes is of no known layout",
            "see which libvgpu the container loads: newer than this program, or not libvgpu's file",
        )
    flag, major, minor = IDENTITY.unpack(_part(descriptor, IDENTITY.size, 0, path))
    if flag == 0:
        return None
    if flag != MAGIC:
        raise RegionError(
            path,
            Fault.FOREIGN,
            "its first bytes are not libvgpu's",
            "find out which process of the container writes it",
        )
    layout = detect(facts.length, major, minor)
    if layout is None:
        raise RegionError(
            path,
            Fault.VERSION,
            f"version {major}.{minor} with {facts.length} bytes is no known layout",
            "the container loads a libvgpu newer than this program: update the node agent",
        )
    return layout


def _slots(descriptor: int, layout: Layout, live: int, path: str) -> tuple[bytes, frozenset[int]]:
    """The live slots, and which of them changed at every attempt.

    A slot is whole when its sequence number is even and the same after it was read
    (hami-nvidia-node.md 6.5); layouts without the number have nothing to ask.
    """
    size, seqlock = layout.slot.size, layout.slot.seqlock
    if not live:
        return b"", frozenset()
    slots = _part(descriptor, live * size, layout.procs, path)
    if seqlock is None:
        return slots, frozenset()
    for _ in range(ROUNDS):
        checked = slots
        slots = _part(descriptor, live * size, layout.procs, path)
        torn = frozenset(
            slot
            for slot in range(live)
            if (before := _U64.unpack_from(checked, slot * size + seqlock)[0]) % 2
            or before != _U64.unpack_from(slots, slot * size + seqlock)[0]
        )
        if not torn:
            break
    return checked, torn


def _part(descriptor: int, length: int, offset: int, path: str) -> bytes:
    found = os.pread(descriptor, length, offset)
    if len(found) != length:
        raise _changed(path, "it became shorter while it was read")
    return found


def _changed(path: str, reason: str) -> RegionError:
    return RegionError(path, Fault.CHANGED, reason, "it is read again next time")


def _system(path: str, error: OSError | ValueError) -> RegionError:
    if isinstance(error, FileNotFoundError):
        return RegionError(
            path,
            Fault.MISSING,
            "there is no such file",
            "the container makes it when it first uses a device",
        )
    if isinstance(error, OSError) and error.errno in (errno.ELOOP, errno.ENOTDIR):
        return RegionError(
            path,
            Fault.NOT_A_FILE,
            "it is a link, or no directory",
            "find out who put it there; the agent makes directories only",
        )
    if isinstance(error, BlockingIOError):
        return RegionError(
            path,
            Fault.BUSY,
            "a process holds a lease on it, which libvgpu never takes",
            "find out which process of the container does",
        )
    reason = error.strerror if isinstance(error, OSError) else None
    return RegionError(
        path,
        Fault.SYSTEM,
        f"the system refuses it: {reason or error}",
        "the agent needs to read and write below the directory of containers as root",
    )
