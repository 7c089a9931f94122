"""The directories in which containers keep their regions: one a container, below one root.

The root is the operator's, and only agents make directories in it; what is inside of those is the
tenants' (hami-nvidia-node.md 6.3, 7.2).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from deviceplugin.libvgpu import (
    Fault,
    Field,
    Region,
    RegionError,
    directory,
    read_region_at,
    region_name,
    write_fields_at,
)

MOST_DIRECTORIES = 10_000
"""More than any node has containers; the rest is not looked at."""

_CONTAINER = re.compile(r"([0-9A-Za-z-]{1,64})_([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)")
_ALLOCATION = re.compile(r"a-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Seen = Region | RegionError | None
"""What was found in a container's directory; None before the container has made a region."""


@dataclass(frozen=True, slots=True)
class CacheName:
    """Whose directory it is: a pod's container, or, where the pod was not known, an allocation."""

    pod_uid: str = ""
    container: str = ""
    allocation_id: str = ""


def parse(name: str) -> CacheName | None:
    """What a directory's name says; None for one that no agent gives."""
    if match := _CONTAINER.fullmatch(name):
        return CacheName(pod_uid=match[1], container=match[2])
    if _ALLOCATION.fullmatch(name):
        return CacheName(allocation_id=name)
    return None


class Caches:
    """All directories below `root`. Blocking."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, names: Iterable[str]) -> Mapping[str, Seen]:
        """What is in each of these directories. Never raises."""
        wanted = tuple(names)
        try:
            with self.opened() as root:
                return {name: self._read(root, name) for name in wanted}
        except RegionError as error:
            return dict.fromkeys(wanted, error)

    def write(self, name: str, seen: Region, values: Mapping[Field, int]) -> frozenset[Field]:
        """Write fields of the region seen before in a directory. Raises `RegionError`; answers
        which fields were written, as `libvgpu.write_fields_at`.
        """
        with self.opened() as root, directory(name, root) as within:
            shown = f"{self.root}/{name}"
            region = region_name(within, shown) or ""
            return write_fields_at(within, region, f"{shown}/{region}", seen, values)

    def names(self) -> list[str]:
        """The names below the root, sorted; none where there is no root. Raises `RegionError`
        where it cannot be read.
        """
        try:
            with self.opened() as root, os.scandir(root) as entries:
                return sorted(entry.name for entry in islice(entries, MOST_DIRECTORIES))
        except RegionError as error:
            if error.fault is Fault.MISSING:
                return []
            raise
        except OSError as error:
            raise RegionError(
                str(self.root),
                Fault.SYSTEM,
                f"it cannot be listed: {error.strerror}",
                "look at the node's disk",
            ) from None

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of the root, which may be a link of the operator's. Raises `RegionError`."""
        with directory(os.path.realpath(self.root)) as root:
            yield root

    def _read(self, root: int, name: str) -> Seen:
        shown = f"{self.root}/{name}"
        try:
            with directory(name, root) as within:
                region = region_name(within, shown)
                return read_region_at(within, region, f"{shown}/{region}") if region else None
        except RegionError as error:
            return error
