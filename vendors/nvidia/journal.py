"""What this node is doing to its cards' MIG partitions, written down before it is done.

One entry a card: the layout that is made or was made, and until that is through also what is left
alone. The file reaches the disk before the driver is asked for anything, so that whoever comes
after a kill knows what is half-made. It is a memory for one boot: partitions do not outlive that
either.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deviceplugin.vendors.nvidia.geometry import Layout, Place, Placement

VERSION = 1


class JournalError(Exception):
    """The file cannot be read; the text names it and says why."""


class JournalHeldError(Exception):
    """Another process is at work with the journal."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One card. While `open` the layout is being made, and `kept` are the GPU instances that stood
    when that began and are not touched.
    """

    layout: Layout
    open: bool = False
    kept: Layout = ()


Entries = Mapping[str, Entry]


class Journal:
    """The file, and the lock beside it that keeps two processes from changing cards at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def held(self, *, wait: bool) -> Iterator[None]:
        """Holds the lock; a process that dies lets go of it. Raises `JournalHeldError` when
        somebody else has it and `wait` is False, and `OSError`.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise JournalHeldError from None
            yield

    def read(self) -> Entries:
        """The entries by card's uuid; none without a file. Raises `JournalError`."""
        try:
            return _parsed(json.loads(self.path.read_bytes()))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise JournalError(f"{self.path} is not readable ({reason})") from None

    def write(self, entries: Entries) -> None:
        """Replaces the file; it is on the disk when this returns. Raises `OSError`."""
        content = {
            "version": VERSION,
            "cards": {
                uuid: {
                    "open": entry.open,
                    "layout": [_plain(place) for place in entry.layout],
                    "kept": [_plain(place) for place in entry.kept],
                }
                for uuid, entry in entries.items()
            },
        }
        fresh = self.path.with_suffix(".new")
        with fresh.open("w") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _plain(place: Place) -> list[Any]:
    return [place.profile, place.placement.start, place.placement.size]


def _parsed(content: Any) -> Entries:
    if content["version"] != VERSION:
        raise ValueError(f"version {content['version']!r:.20}, this reads {VERSION}")
    return {
        uuid: Entry(_layout(item["layout"]), bool(item["open"]), _layout(item["kept"]))
        for uuid, item in content["cards"].items()
    }


def _layout(items: Any) -> Layout:
    return tuple(
        Place(str(profile), Placement(int(start), int(size))) for profile, start, size in items
    )
