"""Socket names, and the directory in which kubelet and plugins meet.

Names are new at each start: with a fixed name kubelet up to 1.36 may tear down the new connection
when the old stream ends, and a dying server unlinks its successor's socket
(kubelet-deviceplugin.md 2.12 and 2.14).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

MAX_PATH_BYTES = 107
"""The longest path of a unix socket."""

PREFIX = "deviceplugin-"
POLL_SECONDS = 5.0
"""How often the directory is looked at without any event: a mount that was replaced sends none."""


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


def identity(path: Path) -> tuple[int, int, int] | None:
    """Device, inode and change time of a file: another value means another file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


class DirectoryWatch(FileSystemEventHandler):
    """Calls `changed` on the event loop whenever something in one of the directories may have
    changed.

    Events come from inotify; a slow poll stands behind it, notices a directory that was replaced
    or created late, and watches that one instead. `changed` must be cheap and must not assume
    that anything really changed.
    """

    def __init__(self, changed: Callable[[], None], *directories: Path) -> None:
        self._changed = changed
        self._directories = dict.fromkeys(directories)
        self._seen: dict[Path, tuple[int, ...]] = {}
        self._observer: BaseObserver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, poll: float = POLL_SECONDS) -> None:
        """Watch until cancelled."""
        self._loop = asyncio.get_running_loop()
        try:
            while True:
                self._arm()
                self._changed()
                await asyncio.sleep(poll)
        finally:
            if self._observer is not None:
                self._observer.stop()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """From watchdog's thread: tell the loop, except for plain reads."""
        if event.event_type in ("opened", "closed_no_write"):
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed)

    def _arm(self) -> None:
        """(Re)start inotify when a directory is another one than the one watched."""
        now = {path: (identity(path) or ())[:2] for path in self._directories}
        if self._observer is not None and now == self._seen:
            return
        if self._observer is not None:
            self._observer.stop()
        self._observer = Observer()
        for path, found in now.items():
            if found:
                self._observer.schedule(self, str(path))
        self._seen = dict(now)
        try:
            self._observer.start()
        except (OSError, RuntimeError):
            # inotify or threads are exhausted: the poll alone does the work, and tries again.
            self._seen = {}
