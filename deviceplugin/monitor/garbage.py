"""Removing the directories of containers that are gone.

A directory is removed only when it is certainly nobody's and holds only what libvgpu and the
runtime put there. Nothing is followed: names are removed from open directories that are no links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from deviceplugin.libvgpu import MOUNT_POINT, RegionError, directory, is_region, names
from deviceplugin.monitor.caches import parse


@dataclass(frozen=True, slots=True)
class Swept:
    """What one pass did: directories removed, and those left that somebody should look at, each
    with the reason.
    """

    removed: tuple[str, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Owners:
    """Who is there, by both kubelet and the API server; None where that is not known now."""

    pod_uids: Collection[str] | None
    allocations: Collection[str] | None
    kept: Collection[str] = ()
    """Directories in use, by name."""

    def claim(self, name: str) -> bool:
        """Whether a directory is somebody's, or may be."""
        found = parse(name)
        if found is None or name in self.kept:
            return True
        known = self.allocations if found.allocation_id else self.pod_uids
        return known is None or (found.allocation_id or found.pod_uid) in known


def absent(
    listed: Iterable[str], owners: Owners, former: Mapping[str, float], now: float
) -> dict[str, float]:
    """Since when each directory has been nobody's, by a clock that only goes forward. Pure.

    A directory that somebody claims starts anew, and so does all when nothing is known.
    """
    return {name: former.get(name, now) for name in listed if not owners.claim(name)}


def remove(root: int, name: str, untouched_since: float) -> str:
    """Remove a container's directory; answers why it was left, empty when it is gone.

    `untouched_since` is a time (Unix seconds): a directory that was changed after it is left.
    """
    try:
        with directory(name, root) as within:
            facts = os.fstat(within)
            if facts.st_dev != os.fstat(root).st_dev:
                return "something is mounted on it"
            if facts.st_mtime > untouched_since:
                return YOUNG
            content = names(within, name)
            if reason := _unexpected(within, content):
                return reason
            for entry in content:
                os.unlink(entry, dir_fd=within)
        os.rmdir(name, dir_fd=root)
    except RegionError as error:
        return error.reason
    except OSError as error:
        return f"it cannot be removed: {error.strerror}"
    return ""


YOUNG = "it was changed a moment ago"


def _unexpected(within: int, content: Iterable[str]) -> str:
    for entry in content:
        facts = os.stat(entry, dir_fd=within, follow_symlinks=False)
        expected = is_region(entry) or entry == MOUNT_POINT
        if not (expected and stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1):
            return f"it holds {entry!a}, which neither libvgpu nor the runtime puts there"
    return ""
