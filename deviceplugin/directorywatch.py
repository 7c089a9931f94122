"""Directories whose files are replaced under a running process: those of kubelet's sockets, of
mounted ConfigMaps and of mounted Secrets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

__all__ = ["POLL_SECONDS", "DirectoryWatch", "identity"]

POLL_SECONDS = 5.0
"""How often a directory is looked at without any event: a mount that was replaced sends none."""


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
