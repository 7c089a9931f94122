"""What of the library is on the host, and what is wrong with it.

`read` looks, `judge` decides; both are asked by ``hook verify``, by the installer afterwards and by
``doctor``.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deviceplugin.hook import elf, names
from deviceplugin.hook.manifest import Manifest
from deviceplugin.hook.place import PlaceError, directory, read_file, trusted

__all__ = ["Entry", "Found", "Place", "Status", "Trouble", "judge", "read", "verify"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the directory. `kind` is ``file``, ``link``, ``directory`` or ``other``.

    `text` is where a link leads, or what a file says that is no library; `sha256` and `size` are of
    a file's content. `unloadable` says why a library cannot be loaded here, `unreadable` why an
    entry could not be looked at.
    """

    name: str
    kind: str
    inode: int = 0
    size: int = 0
    mode: int = 0
    sha256: str = ""
    machine: str = ""
    text: str = ""
    unloadable: str = ""
    unreadable: str = ""
    changed: float = 0.0
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Place:
    """The directory `target` of the host as it is. `error` says why it could not be looked at,
    `missing` that it is not there; `owner` and `mode` are the directory's own, `lock_mode` that of
    the lock directory, None where there is none.
    """

    target: str
    machine: str
    entries: tuple[Entry, ...] = ()
    owner: int = 0
    mode: int = 0o755
    lock_mode: int | None = None
    lock_error: str = ""
    error: str = ""
    missing: bool = False

    def entry(self, name: str) -> Entry | None:
        """The entry of that name."""
        return next((item for item in self.entries if item.name == name), None)


@dataclass(frozen=True, slots=True)
class Found:
    """One library on the host. `known` says that its content is in the manifest, `ours` that its
    name tells its content, `current` that ``libvgpu.so`` means it.
    """

    name: str
    version: str
    machine: str
    sha256: str
    size: int
    known: bool
    current: bool
    ours: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong: `slug` is a stable name, `fatal` says that limits do not work."""

    slug: str
    what: str
    remedy: str
    fatal: bool = True


@dataclass(frozen=True, slots=True)
class Status:
    """What is there and what is wrong, worst first."""

    target: str
    libraries: tuple[Found, ...]
    preload: str
    troubles: tuple[Trouble, ...]

    @property
    def current(self) -> Found | None:
        """The library that ``libvgpu.so`` means."""
        return next((item for item in self.libraries if item.current), None)

    @property
    def right(self) -> bool:
        """Whether containers can be limited, by a library that is known."""
        return not self.troubles


def verify(root: Path, target: str, manifest: Manifest, machine: str) -> Status:
    """The state of the library on this host. Never raises for what is there."""
    return judge(read(root, target, machine), manifest)


def read(root: Path, target: str, machine: str) -> Place:
    """The directory as it is; `machine` as ``uname -m`` names it. Raises nothing."""
    lock_mode, lock_error = _lock(root)
    try:
        with directory(root, target) as descriptor:
            facts = os.fstat(descriptor)
            entries = tuple(
                _entry(descriptor, name, target, machine)
                for name in sorted(os.listdir(descriptor))  # noqa: PTH208 - an open directory
                if _concerns(name)
            )
    except PlaceError as error:
        return Place(
            target,
            machine,
            lock_mode=lock_mode,
            lock_error=lock_error,
            error=str(error),
            missing=error.missing,
        )
    return Place(
        target,
        machine,
        entries,
        facts.st_uid,
        stat.S_IMODE(facts.st_mode),
        lock_mode,
        lock_error,
    )


def judge(place: Place, manifest: Manifest) -> Status:
    """What that means. Pure."""
    preload = place.entry(names.PRELOAD)
    found = tuple(_libraries(place, manifest))
    troubles = tuple(_troubles(place, found))
    ordered = sorted(troubles, key=lambda trouble: not trouble.fatal)
    return Status(place.target, found, preload.text if preload else "", tuple(ordered))


def _concerns(name: str) -> bool:
    fixed = (names.PRELOAD, names.LICENSE, names.VALIDATOR, names.CONTAINERS)
    return names.is_library(name) or name in fixed or name.startswith(names.TEMPORARY)


def _lock(root: Path) -> tuple[int | None, str]:
    try:
        with directory(root, names.LOCK_DIRECTORY) as descriptor:
            facts = os.fstat(descriptor)
    except PlaceError as error:
        return None, "" if error.missing else str(error)
    problem = ""
    if not trusted(facts.st_uid):
        problem = f"{names.LOCK_DIRECTORY} belongs to user {facts.st_uid}; remove it"
    return stat.S_IMODE(facts.st_mode), problem


def _entry(parent: int, name: str, target: str, machine: str) -> Entry:
    path = f"{target}/{name}"
    try:
        facts = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISLNK(facts.st_mode):
            text = os.readlink(name, dir_fd=parent)
            return Entry(name, "link", facts.st_ino, text=text, changed=facts.st_mtime)
        if stat.S_ISDIR(facts.st_mode):
            return Entry(name, "directory", facts.st_ino, mode=stat.S_IMODE(facts.st_mode))
        if not stat.S_ISREG(facts.st_mode):
            return Entry(name, "other", facts.st_ino)
        contents = read_file(parent, name, path)
    except OSError as error:
        return Entry(name, "other", unreadable=f"{path}: {error.strerror}")
    except PlaceError as error:
        return Entry(name, "file", facts.st_ino, unreadable=str(error))
    is_library = names.is_library(name)
    return Entry(
        name,
        "file",
        contents.inode,
        len(contents.data),
        contents.mode,
        hashlib.sha256(contents.data).hexdigest(),
        elf.machine_of(contents.data) if is_library else "",
        contents.data[:4096].decode(errors="replace") if name == names.PRELOAD else "",
        elf.problem(contents.data, machine) if is_library else "",
        changed=facts.st_mtime,
    )


def _libraries(place: Place, manifest: Manifest) -> Iterator[Found]:
    link = place.entry(names.LIBRARY)
    present = [item.name for item in place.entries if item.kind == "file"]
    current = names.chosen(present, link.text if link and link.kind == "link" else "")
    for entry in place.entries:
        if not names.is_library(entry.name) or entry.kind != "file":
            continue
        known = manifest.library(entry.sha256)
        yield Found(
            entry.name,
            known.version if known else names.version_of(entry.name),
            entry.machine,
            entry.sha256,
            entry.size,
            known is not None,
            entry.name == current,
            names.carries(entry.name, entry.sha256),
            entry.unreadable or entry.unloadable,
        )


def _troubles(place: Place, found: tuple[Found, ...]) -> Iterator[Trouble]:
    if place.error:
        slug = "library-missing" if place.missing else "library-place"
        yield Trouble(slug, place.error, "run deviceplugin hook install")
        return
    if not trusted(place.owner) or place.mode & 0o002:
        yield Trouble(
            "library-place",
            f"others than root may write to {place.target} (user {place.owner}, mode "
            f"{place.mode:o}), and so replace what every container loads",
            f"chown root {place.target}; chmod 755 {place.target}",
        )
    yield from _link_troubles(place, found)
    yield from _library_troubles(place, found)
    yield from _preload_troubles(place)
    yield from _extra_troubles(place)
    if place.lock_error or (place.lock_mode is not None and place.lock_mode & 0o777 != 0o777):
        yield Trouble(
            "lock-directory",
            place.lock_error
            or f"{names.LOCK_DIRECTORY} has mode {place.lock_mode:o}: containers of other users "
            "than its owner cannot take the library's lock there",
            f"make it a directory of root's with mode 777: chmod 777 {names.LOCK_DIRECTORY}",
        )


def _link_troubles(place: Place, found: tuple[Found, ...]) -> Iterator[Trouble]:
    link = place.entry(names.LIBRARY)
    path = f"{place.target}/{names.LIBRARY}"
    if link is None and not found:
        yield Trouble("library-missing", f"{path} is missing", "run deviceplugin hook install")
    elif link is None:
        return
    elif link.kind == "directory":
        yield Trouble(
            "library-missing",
            f"{path} is a directory: a runtime made it for a container that was to mount the "
            "library before it was there",
            f"rmdir {path}, then run deviceplugin hook install",
        )
    elif link.kind == "link" and not any(item.current for item in found):
        yield Trouble(
            "library-missing",
            f"{path} leads to {link.text!r:.120}, which is no library of this directory",
            "run deviceplugin hook install",
        )
    elif link.kind == "other":
        yield Trouble("library-missing", f"{path} is no file", f"remove it: rm {path}")


def _library_troubles(place: Place, found: tuple[Found, ...]) -> Iterator[Trouble]:
    for item in found:
        path = f"{place.target}/{item.name}"
        if item.problem:
            yield Trouble(
                "library-broken",
                f"{path}: {item.problem}",
                "run deviceplugin hook install with the library for this machine",
                fatal=item.current,
            )
        elif names.is_ours(item.name) and not item.ours:
            yield Trouble(
                "library-broken",
                f"{path}: its content is not the one in its name: it was changed after it was "
                "installed",
                "run deviceplugin hook install, and find out who writes there",
                fatal=item.current,
            )
        elif item.current and not item.known:
            yield Trouble(
                "library-unknown",
                f"{path} has a content that no manifest knows (sha256 {item.sha256})",
                "compare it with the image it came from, then name it in a manifest (--manifest)",
                fatal=False,
            )


def _preload_troubles(place: Place) -> Iterator[Trouble]:
    entry = place.entry(names.PRELOAD)
    path = f"{place.target}/{names.PRELOAD}"
    wanted = names.preload_line(place.target)
    remedy = "run deviceplugin hook install"
    if entry is None:
        yield Trouble("preload-missing", f"{path} is missing: nothing loads the library", remedy)
    elif entry.kind == "directory":
        yield Trouble(
            "preload-missing",
            f"{path} is a directory: a runtime made it for a container that was to mount the file "
            "before it was there",
            f"rmdir {path}, then run deviceplugin hook install",
        )
    elif entry.kind != "file" or entry.unreadable:
        yield Trouble("preload-missing", entry.unreadable or f"{path} is no regular file", remedy)
    elif entry.text.split() != [wanted]:
        yield Trouble(
            "preload-wrong",
            f"{path} says {' '.join(entry.text.split())!r:.120} instead of {wanted!r}",
            remedy,
        )
    elif not entry.mode & 0o004:
        yield Trouble(
            "preload-wrong",
            f"{path} has mode {entry.mode:o}: processes that are not root's cannot read it",
            f"chmod 644 {path}",
        )


def _extra_troubles(place: Place) -> Iterator[Trouble]:
    if place.entry(names.LICENSE) and not place.entry(names.VALIDATOR):
        yield Trouble(
            "license-incomplete",
            f"{place.target} has a {names.LICENSE} and no {names.VALIDATOR}: containers are to "
            "mount both and cannot start",
            f"bring {names.VALIDATOR} there, or remove {place.target}/{names.LICENSE}",
        )
    for entry in place.entries:
        if entry.name == names.CONTAINERS and entry.kind != "directory":
            yield Trouble(
                "library-place",
                f"{place.target}/{entry.name} is no directory: containers have no place for what "
                "they count",
                f"remove it: rm {place.target}/{entry.name}",
            )
