"""Socket names in the directory in which kubelet and plugins meet.

Names are new at each start: with a fixed name kubelet up to 1.36 may tear down the new connection
when the old stream ends, and a dying server unlinks its successor's socket
(kubelet-deviceplugin.md 2.12 and 2.14).
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from pathlib import Path

MAX_PATH_BYTES = 107
"""The longest path of a unix socket."""

PREFIX = "deviceplugin-"


class SocketPathError(ValueError):
    """The directory leaves no room for a socket's name."""


def new_socket(directory: Path, resource: str) -> Path:
    """A path that no earlier server used. Raises `SocketPathError` when it would be too long."""
    stem = PREFIX + re.sub(r"[^a-z0-9.-]", "_", resource.lower())
    unique = f"-{time.time_ns() // 1000:x}.sock"
    room = MAX_PATH_BYTES - len(os.fsencode(directory)) - 1 - len(unique)
    if room < len(PREFIX) + 8:
        raise SocketPathError(
            f"the device plugin directory {directory} is too long: a unix socket's path has at "
            f"most {MAX_PATH_BYTES} bytes; use a shorter directory or a bind mount"
        )
    if len(stem) > room:
        stem = f"{stem[: room - 9]}-{hashlib.sha256(resource.encode()).hexdigest()[:8]}"
    return directory / f"{stem}{unique}"


def remove_stale(directory: Path, resource: str, live: Path) -> list[Path]:
    """Remove sockets of our own name for this resource that nobody listens on any more."""
    # Exactly this stem: the name of one resource may begin like that of another.
    ours = re.compile(re.escape(live.name.rpartition("-")[0]) + r"-[0-9a-f]+\.sock")
    stale = [
        path
        for path in directory.iterdir()
        if ours.fullmatch(path.name) and path != live and path.is_socket() and not answers(path)
    ]
    for path in stale:
        path.unlink(missing_ok=True)
    return stale


def answers(path: Path) -> bool:
    """Whether somebody listens on a socket file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(0.2)
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # too busy to take us is not gone
    return True
