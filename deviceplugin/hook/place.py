"""Directories of the host, opened below a root without being led astray.

The names lead through directories that others may write to (``/tmp``), and the writer is root. So
each part is opened on its own; a symbolic link counts only if root or this process made it, and
is followed as if the root were ``/``.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["Contents", "PlaceError", "directory", "read_file", "trusted"]

MAX_BYTES = 64 << 20
"""Of one file; the largest published library has less than a tenth of it."""
MOST_LINKS = 20

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class PlaceError(Exception):
    """A directory or file is not what it should be; names it, the reason and the remedy.

    `missing` says that it merely is not there.
    """

    def __init__(self, path: str, reason: str, remedy: str, *, missing: bool = False) -> None:
        super().__init__(f"{path}: {reason}; {remedy}")
        self.path, self.reason, self.remedy, self.missing = path, reason, remedy, missing


@dataclass(frozen=True, slots=True)
class Contents:
    """A regular file: what is in it, and the inode that containers map."""

    data: bytes
    inode: int
    mode: int


def trusted(uid: int) -> bool:
    """Whether what this user owns may be relied on: root's, and our own."""
    return uid in (0, os.geteuid())


@contextmanager
def directory(root: Path, path: str, *, create: int | None = None) -> Iterator[int]:
    """A descriptor of the host's directory `path`, seen below `root`. With `create`, what is
    missing is made, the last part with that mode. Raises `PlaceError`.
    """
    with ExitStack() as stack:
        try:
            top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _system(str(root), error) from None
        stack.callback(os.close, top)
        yield _walk(stack, top, path, create)


def _walk(stack: ExitStack, top: int, path: str, create: int | None) -> int:
    here = [top]
    pending = list(PurePosixPath(path).parts)[::-1]
    links = 0
    while pending:
        part = pending.pop()
        if part == "/":
            here = [top]
            continue
        if part == "..":
            here = here[:-1] or here
            continue
        target = _link(here[-1], part, path)
        if target is not None:
            links += 1
            if links > MOST_LINKS:
                raise PlaceError(path, "too many symbolic links", "name the directory itself")
            pending.extend(PurePosixPath(target).parts[::-1])
            continue
        descriptor = _open(here[-1], part, path, create, last=not pending)
        stack.callback(os.close, descriptor)
        here.append(descriptor)
    return here[-1]


def _link(parent: int, part: str, path: str) -> str | None:
    """Where a part leads, None when it is no symbolic link."""
    try:
        facts = os.stat(part, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISLNK(facts.st_mode):
            return None
        target = os.readlink(part, dir_fd=parent)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _system(path, error) from None
    if not trusted(facts.st_uid):
        raise PlaceError(
            path,
            f"{part!r} is a symbolic link that user {facts.st_uid} made",
            "find out why, and remove it",
        )
    return target


def _open(parent: int, part: str, path: str, create: int | None, *, last: bool) -> int:
    try:
        try:
            return os.open(part, _DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            if create is None:
                raise
        mode = create if last else 0o755
        os.mkdir(part, mode, dir_fd=parent)
        descriptor = os.open(part, _DIRECTORY, dir_fd=parent)
        # mkdir minds the umask, chmod does not.
        os.fchmod(descriptor, mode)
    except (OSError, ValueError) as error:
        raise _system(path, error) from None
    return descriptor


def read_file(parent: int, name: str, path: str) -> Contents:
    """A regular file of an open directory; a link is none. Raises `PlaceError`."""
    try:
        descriptor = os.open(name, _FILE, dir_fd=parent)
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise PlaceError(path, "not a regular file", "find out who put it there")
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise _system(path, error) from None
    if len(data) > MAX_BYTES:
        raise PlaceError(path, f"larger than {MAX_BYTES} bytes", "this is no libvgpu: remove it")
    return Contents(data, facts.st_ino, stat.S_IMODE(facts.st_mode))


def _system(path: str, error: OSError | ValueError) -> PlaceError:
    if isinstance(error, FileNotFoundError):
        return PlaceError(path, "it is not there", "make it, or name another", missing=True)
    if isinstance(error, OSError) and error.errno == errno.ENOTDIR:
        return PlaceError(path, "a part of it is no directory", "remove what stands there")
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return PlaceError(path, "it is a symbolic link", "find out who put it there")
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return PlaceError(
            path,
            "the file system is read-only",
            "choose a directory that can be written (--target, and the agent's --hook-path)",
        )
    reason = error.strerror if isinstance(error, OSError) else None
    return PlaceError(
        path, f"the system refuses it: {reason or error}", "see to its rights and its space"
    )
