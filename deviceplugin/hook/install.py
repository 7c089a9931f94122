"""Puts a library on the host and makes it the current one.

A plan is made of what is there and carried out step by step; whatever step fails or is cut off, the
names that containers mount lead to a whole library, and the next run goes on. No file is ever
written in place: containers map it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deviceplugin.hook import elf, names
from deviceplugin.hook.manifest import Manifest
from deviceplugin.hook.place import Contents, PlaceError, directory, read_file
from deviceplugin.hook.status import Place, Status, judge, read
from deviceplugin.hook.usage import Witnesses, holders

__all__ = [
    "GRACE_SECONDS",
    "InstallError",
    "Kept",
    "MakeDirectory",
    "Outcome",
    "PutFile",
    "PutLink",
    "Remove",
    "Source",
    "Step",
    "from_directory",
    "install",
    "plan",
]

GRACE_SECONDS = 600.0
"""How long a superseded library stays in any case: agents learn of the change at their next probe,
and may have promised the former one until then."""


class InstallError(Exception):
    """Nothing (more) was changed; the text names the thing, the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class Source:
    """A library to install, and the files that go with it by name."""

    path: str
    version: str
    sha256: str
    data: bytes
    extras: Mapping[str, bytes]

    @property
    def name(self) -> str:
        """What it is called on the host."""
        return names.versioned(self.version, self.sha256)


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """Make a directory, or set its mode."""

    path: str
    mode: int

    def __str__(self) -> str:
        return f"directory {self.path}, mode {self.mode:o}"


@dataclass(frozen=True, slots=True)
class PutFile:
    """Put a new file in the place of whatever file has the name."""

    name: str
    data: bytes
    mode: int

    def __str__(self) -> str:
        return f"file {self.name}, {len(self.data)} bytes"


@dataclass(frozen=True, slots=True)
class PutLink:
    """Let a name mean another file, at once."""

    name: str
    to: str

    def __str__(self) -> str:
        return f"link {self.name} to {self.to}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a file that nobody needs."""

    name: str

    def __str__(self) -> str:
        return f"removal of {self.name}"


Step = MakeDirectory | PutFile | PutLink | Remove


@dataclass(frozen=True, slots=True)
class Kept:
    """A former library that stays, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done (or, in a dry run, would be), what stays, and the state after it."""

    name: str
    steps: tuple[Step, ...]
    kept: tuple[Kept, ...]
    status: Status


def from_directory(
    path: Path, machine: str, manifest: Manifest, *, allow_unknown: bool = False
) -> Source:
    """The one library in a directory, checked. Raises `InstallError`."""
    library = _only_library(path)
    contents = _source_file(library)
    if problem := elf.problem(contents.data, machine):
        raise InstallError(
            f"{library}: {problem}; name a directory with the library for {machine} (--source)"
        )
    checksum = hashlib.sha256(contents.data).hexdigest()
    known = manifest.library(checksum)
    if known is not None and known.machine != machine:
        raise InstallError(
            f"{library}: the manifest knows this content as the library for {known.machine}, and "
            f"it is one for {machine}; correct the manifest"
        )
    version = known.version if known else names.version_of(library.name)
    if known is None and not allow_unknown:
        raise InstallError(_unknown(library, checksum, version, machine, manifest))
    extras = {
        name: _source_file(path / name).data
        for name in (names.LICENSE, names.VALIDATOR)
        if (path / name).exists()
    }
    if names.LICENSE in extras and names.VALIDATOR not in extras:
        raise InstallError(
            f"{path} has a {names.LICENSE} without a {names.VALIDATOR}: containers would be to "
            "mount both; bring both or neither"
        )
    return Source(str(library), version, checksum, contents.data, extras)


def plan(
    place: Place, source: Source, *, needed: Mapping[str, str], now: float
) -> tuple[tuple[Step, ...], tuple[Kept, ...]]:
    """The steps that lead from what is there to what should be, in an order in which every
    step may be the last, and the former libraries that stay. `needed` are the reasons of
    `usage.holders`; `now` is in seconds since the epoch. Pure. Raises `InstallError`.
    """
    _check(place)
    steps = list(_steps(place, source))
    switched = any(isinstance(step, PutLink) for step in steps)
    kept = []
    for name in former(place, source):
        if switched:
            kept.append(Kept(name, "superseded just now"))
        elif (link := place.entry(names.LIBRARY)) and now - link.changed < GRACE_SECONDS:
            kept.append(Kept(name, "superseded less than ten minutes ago"))
        elif name in needed:
            kept.append(Kept(name, needed[name]))
        else:
            steps.append(Remove(name))
    return tuple(steps), tuple(kept)


def former(place: Place, source: Source) -> tuple[str, ...]:
    """The libraries that this program installed and `source` supersedes. Others' stay untouched."""
    return tuple(
        entry.name
        for entry in place.entries
        if entry.kind == "file" and names.is_ours(entry.name) and entry.name != source.name
    )


def install(
    root: Path,
    target: str,
    source: Source,
    manifest: Manifest,
    machine: str,
    *,
    witnesses: Witnesses | None = None,
    clock: Callable[[], float] = time.time,
    dry_run: bool = False,
) -> Outcome:
    """Make `source` the current library of the host seen at `root`. Blocking. Raises
    `InstallError`.
    """
    try:
        if dry_run:
            place = read(root, target, machine)
            steps, kept = _planned(place, source, witnesses or Witnesses.below(root), clock())
            return Outcome(source.name, steps, kept, judge(place, manifest))
        with directory(root, target, create=0o755) as descriptor:
            _hold(descriptor, target)
            _sweep(descriptor)
            place = read(root, target, machine)
            steps, kept = _planned(place, source, witnesses or Witnesses.below(root), clock())
            for step in steps:
                try:
                    _carry_out(step, root, descriptor)
                except OSError as error:
                    raise InstallError(_refused(f"{target}: {step}", error)) from None
        return Outcome(source.name, steps, kept, judge(read(root, target, machine), manifest))
    except PlaceError as error:
        raise InstallError(str(error)) from None
    except OSError as error:
        raise InstallError(_refused(target, error)) from None


def _refused(what: str, error: OSError) -> str:
    return (
        f"{what}: the system refuses it: {error.strerror}; see that it can be written to (rights, "
        "space, read-only mounts), then run this again: nothing is half done"
    )


def _planned(
    place: Place, source: Source, witnesses: Witnesses, now: float
) -> tuple[tuple[Step, ...], tuple[Kept, ...]]:
    inodes = {
        name: entry.inode
        for name in former(place, source)
        if (entry := place.entry(name)) is not None
    }
    return plan(place, source, needed=holders(inodes, witnesses), now=now)


def _check(place: Place) -> None:
    """Refuse what no step could make right without harm to somebody."""
    if place.error and not place.missing:
        raise InstallError(place.error)
    if place.lock_error:
        raise InstallError(place.lock_error)
    for name in (names.LIBRARY, names.PRELOAD, names.LICENSE, names.VALIDATOR):
        entry = place.entry(name)
        if entry is None or entry.kind == "file":
            continue
        if entry.kind == "link" and name == names.LIBRARY:
            continue
        what = {"link": "a symbolic link", "directory": "a directory"}.get(
            entry.kind, "no regular file"
        )
        raise InstallError(
            f"{place.target}/{name} is {what}; see that no container uses it, remove it, and run "
            "this again"
        )


def _steps(place: Place, source: Source) -> Iterator[Step]:
    containers = f"{place.target}/{names.CONTAINERS}"
    if place.entry(names.CONTAINERS) is None:
        yield MakeDirectory(containers, 0o755)
    if place.lock_mode != 0o777:
        # Any user's container takes and, of older libraries, removes the lock: no sticky bit.
        yield MakeDirectory(names.LOCK_DIRECTORY, 0o777)
    yield from _file(place, source.name, source.data, 0o755)
    for name in (names.VALIDATOR, names.LICENSE):
        if name in source.extras:
            mode = 0o755 if name == names.VALIDATOR else 0o644
            yield from _file(place, name, source.extras[name], mode)
    link = place.entry(names.LIBRARY)
    if link is None or link.kind != "link" or link.text != source.name:
        yield PutLink(names.LIBRARY, source.name)
    yield from _file(place, names.PRELOAD, names.preload_line(place.target).encode(), 0o644)


def _file(place: Place, name: str, data: bytes, mode: int) -> Iterator[Step]:
    entry = place.entry(name)
    same = entry is not None and entry.sha256 == hashlib.sha256(data).hexdigest()
    if entry is None or not same or entry.mode != mode:
        yield PutFile(name, data, mode)


def _carry_out(step: Step, root: Path, descriptor: int) -> None:
    match step:
        case MakeDirectory(path, mode):
            with directory(root, path, create=mode) as made:
                os.fchmod(made, mode)
        case PutFile(name, data, mode):
            _put(descriptor, name, data, mode)
        case PutLink(name, to):
            temporary = _temporary(name)
            os.symlink(to, temporary, dir_fd=descriptor)
            _rename(descriptor, temporary, name)
        case Remove(name):
            os.unlink(name, dir_fd=descriptor)


def _put(descriptor: int, name: str, data: bytes, mode: int) -> None:
    temporary = _temporary(name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=descriptor), "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    _rename(descriptor, temporary, name)


def _rename(descriptor: int, temporary: str, name: str) -> None:
    os.rename(temporary, name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
    os.fsync(descriptor)


def _temporary(name: str) -> str:
    return f"{names.TEMPORARY}{name}"


def _hold(descriptor: int, target: str) -> None:
    """One installer at a time; the hold ends with the descriptor, however this process ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InstallError(
            f"another installer is at work in {target}; wait for it and run this again"
        ) from None


def _sweep(descriptor: int) -> None:
    """Remove what an installer that was cut off left."""
    for name in os.listdir(descriptor):
        if name.startswith(names.TEMPORARY):
            os.unlink(name, dir_fd=descriptor)


def _only_library(path: Path) -> Path:
    try:
        found = sorted(item for item in path.iterdir() if names.is_library(item.name))
    except OSError as error:
        raise InstallError(
            f"{path} cannot be read: {error.strerror}; name the directory with the library of the "
            "image (--source)"
        ) from None
    if not found:
        raise InstallError(
            f"{path} has no {names.LIBRARY} or {names.LIBRARY}.<version>; in the published image "
            "it lies in /k8s-vgpu/lib/nvidia"
        )
    if len(found) > 1:
        listed = ", ".join(item.name for item in found)
        raise InstallError(f"{path} has several libraries: {listed}; leave one of them there")
    return found[0]


def _source_file(path: Path) -> Contents:
    try:
        with directory(Path("/"), str(path.resolve().parent)) as parent:
            return read_file(parent, path.resolve().name, str(path))
    except PlaceError as error:
        raise InstallError(str(error)) from None


def _unknown(path: Path, checksum: str, version: str, machine: str, manifest: Manifest) -> str:
    release = manifest.release(version)
    entry = (
        f'{{"libraries": [{{"version": "{version or "v0"}", "machine": "{machine}", '
        f'"sha256": "{checksum}"}}]}}'
    )
    named = f"; its name is that of HAMi {release.version}" if release else ""
    return (
        f"{path}: no manifest knows this library (sha256 {checksum}){named}. If it comes from an "
        f"image that you pin by digest, write {entry} to a file and name it (--manifest), or pass "
        "--allow-unknown"
    )
