"""Who serves a vendor on this node: the agent that holds the lock on the vendor's file.

Several agents may share a node, each with vendors of its own, and one may wait for another to end.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

__all__ = ["SUFFIX", "held", "lock_file"]

SUFFIX = ".lock"


def lock_file(run_dir: Path, vendor: str) -> Path:
    """The file whose lock stands for a vendor; who holds it writes his process id there."""
    return run_dir / f"{vendor}{SUFFIX}"


def held(run_dir: Path) -> Iterator[str]:
    """The vendors that an agent serves now, this process included. Raises `OSError`."""
    for path in sorted(run_dir.glob(f"*{SUFFIX}")):
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield path.name.removesuffix(SUFFIX)
