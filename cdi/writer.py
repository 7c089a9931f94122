"""Writing files that runtimes notice, completely or not at all (cdi.md 2 and 6).

Caches of current runtimes notice a rename *within* the directory and a write in place, but neither
a file moved in from elsewhere nor a link. So: a temporary file in the same directory, whose name no
reader looks at, then rename. The mode is set before the rename: a runtime may not be root.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from deviceplugin.cdi.codec import dumps
from deviceplugin.cdi.errors import error
from deviceplugin.cdi.model import ContainerEdits, Spec
from deviceplugin.cdi.names import kind_problem

TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".cdi-", ".tmp"
_REMEDIES = {
    errno.EROFS: "mount the directory writable or configure another",
    errno.ENOSPC: "free space on its file system",
    errno.EDQUOT: "raise the quota or free space",
    errno.EACCES: "run as root or grant write access to the directory",
    errno.EPERM: "run as root or grant write access to the directory",
    errno.ENOTDIR: "configure a directory, not a file",
    errno.EEXIST: "configure a directory, not a file",
    errno.EISDIR: "remove the directory of that name",
    errno.ENAMETOOLONG: "use a shorter name",
}


def spec_file_name(kind: str, transient_id: str = "") -> str:
    """The file name, without extension, of a kind's specification or of one allocation's.

    Raises `CDIError` for a kind that is none.
    """
    if rule := kind_problem(kind):
        raise error(rule, kind)
    stem = kind.replace("/", "-")
    return f"{stem}_{transient_id.replace('/', '_')}" if transient_id else stem


def write_spec(
    directory: Path, spec: Spec, *, name: str = "", mode: int = 0o644, fsync: bool = True
) -> bool:
    """Write the specification as ``<name>.json``; False when that very file is there already.

    `name` defaults to the static name of the kind. What a reader fills in by itself is left out,
    so that old runtimes read it too. A link is replaced by a file, because runtimes overlook links.
    Without `fsync` the file is complete for every reader, but may be lost when the machine crashes.

    Raises `CDIError` for an invalid specification, before anything is touched, and `OSError` with
    reason and remedy when the file cannot be written; the former file then still stands.
    """
    file_name = _file_name(name or spec_file_name(spec.kind))
    text = dumps(_minimal(spec)).encode()
    target = directory / file_name
    if _stands(target, text, mode):
        return False
    with _explained(target), _locked(directory, fcntl.LOCK_SH, create=True) as handle:
        _replace(target, text, mode, fsync=fsync)
        if fsync:
            os.fsync(handle)
    return True


def remove_spec(directory: Path, name: str) -> bool:
    """Remove ``<name>.json``; False when it was not there."""
    target = directory / _file_name(name)
    try:
        with _explained(target):
            target.unlink()
    except FileNotFoundError:
        return False
    return True


def sweep_temporaries(directory: Path) -> int:
    """Remove what writers left that were killed between write and rename; answers how many.

    While another writer is at work nothing is removed. Raises `OSError` as `write_spec`.
    """
    try:
        with _explained(directory), _locked(directory, fcntl.LOCK_EX | fcntl.LOCK_NB):
            left = list(directory.glob(f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"))
            for path in left:
                path.unlink(missing_ok=True)
            return len(left)
    except (FileNotFoundError, BlockingIOError):
        return 0


def _file_name(name: str) -> str:
    if "/" in name or "\0" in name or not name:
        raise error("a file name is not empty and has no /", name)
    return f"{name}.json"


def _minimal(spec: Spec) -> Spec:
    """Without host paths that are those in the container: they would need CDI 0.5.0."""

    def without(edits: ContainerEdits) -> ContainerEdits:
        nodes = (
            replace(node, host_path="") if node.host_path == node.path else node
            for node in edits.device_nodes
        )
        return replace(edits, device_nodes=tuple(nodes))

    devices = tuple(
        replace(device, container_edits=without(device.container_edits)) for device in spec.devices
    )
    return replace(spec, devices=devices, container_edits=without(spec.container_edits))


def _stands(target: Path, text: bytes, mode: int) -> bool:
    """Whether a file, and not a link, has this content and mode."""
    try:
        found = target.lstat()
        alone = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        return alone and stat.S_IMODE(found.st_mode) == mode and target.read_bytes() == text
    except OSError:
        return False


def _replace(target: Path, text: bytes, mode: int, *, fsync: bool) -> None:
    handle, temporary = tempfile.mkstemp(TEMPORARY_SUFFIX, TEMPORARY_PREFIX, target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if fsync:
                os.fsync(file.fileno())
        os.rename(temporary, target)  # noqa: PTH104 - the call that a runtime sees
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise


@contextlib.contextmanager
def _locked(directory: Path, how: int, *, create: bool = False) -> Iterator[int]:
    """An open handle of the directory. Writers share its lock, a sweep has it alone."""
    if create and not directory.exists():
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)  # whatever the umask is: runtimes may not be root
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, how)
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Errors of the system with what failed and what to do; the type by number stays."""
    try:
        yield
    except OSError as problem:
        number = problem.errno or 0
        reason = problem.strerror or str(problem)
        remedy = f"; {_REMEDIES[number]}" if number in _REMEDIES else ""
        text = f"cannot change the CDI specification: {reason.lower()}{remedy}"
        raise OSError(number, text, str(path)) from problem
