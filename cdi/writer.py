"""Writing files that runtimes notice, completely or not at all (cdi.md 2 and 6).

Caches of current runtimes notice a rename *within* the directory and a write in place, but neither
a file moved in from elsewhere nor a link. So: a temporary file in the same directory, whose name no
reader looks at, then rename. Mode 0644 is set before the rename; a runtime may not be root.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from deviceplugin.cdi.codec import dumps
from deviceplugin.cdi.errors import error
from deviceplugin.cdi.model import Spec
from deviceplugin.cdi.names import kind_problem

TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".deviceplugin-", ".tmp"
MODE = 0o644


def spec_file_name(kind: str, transient_id: str = "") -> str:
    """The file name, without extension, of a kind's specification or of one allocation's.

    Raises `CDIError` for a kind that is none.
    """
    if rule := kind_problem(kind):
        raise error(rule, kind)
    stem = kind.replace("/", "-")
    return f"{stem}_{transient_id.replace('/', '_')}" if transient_id else stem


def write_spec(directory: Path, spec: Spec, *, name: str = "", fsync: bool = True) -> bool:
    """Write the specification as ``<name>.json``; False when the very same file is there.

    `name` defaults to the static name of the kind. Without `fsync` the file is complete for every
    reader, but may be lost by a crash of the machine. Raises `CDIError` for an invalid
    specification, before anything is touched, and `OSError` when the directory cannot be written;
    the former file then still stands.
    """
    text = dumps(spec).encode()
    target = directory / f"{name or spec_file_name(spec.kind)}.json"
    with contextlib.suppress(OSError):
        if target.read_bytes() == text and target.stat().st_mode & 0o777 == MODE:
            return False
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(TEMPORARY_SUFFIX, TEMPORARY_PREFIX, directory)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), MODE)
            if fsync:
                os.fsync(file.fileno())
        os.rename(temporary, target)  # noqa: PTH104 - the call that a runtime sees
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise
    if fsync:
        _sync_directory(directory)
    return True


def remove_spec(directory: Path, name: str) -> bool:
    """Remove ``<name>.json``; False when it was not there."""
    try:
        (directory / f"{name}.json").unlink()
    except FileNotFoundError:
        return False
    return True


def sweep_temporaries(directory: Path) -> int:
    """Remove what writers left that were killed between write and rename; answers how many."""
    left = list(directory.glob(f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"))
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
