"""What lies in the directory that a container has mounted as ``<hook path>/vgpu``.

libvgpu makes one ``<uuid>.cache`` there; the container runtime leaves an empty ``libvgpu.so``, the
place where it mounts the library (hami-nvidia-node.md 7.2). Everything else is the tenant's.
"""

from __future__ import annotations

import os
from itertools import islice

from deviceplugin.libvgpu.files import Fault, RegionError

REGION_SUFFIX = ".cache"
MOUNT_POINT = "libvgpu.so"
MOST_ENTRIES = 64
"""A directory with more is not looked through: tenants can make any number."""


def names(descriptor: int, path: str) -> list[str]:
    """The names in an open directory, sorted. Raises `RegionError`, also for too many of them."""
    try:
        with os.scandir(descriptor) as entries:
            found = sorted(entry.name for entry in islice(entries, MOST_ENTRIES + 1))
    except OSError as error:
        raise RegionError(
            path, Fault.SYSTEM, f"it cannot be listed: {error.strerror}", "look at the node's disk"
        ) from None
    if len(found) > MOST_ENTRIES:
        raise RegionError(
            path,
            Fault.AMBIGUOUS,
            f"it holds more than {MOST_ENTRIES} files, where libvgpu makes one",
            "find out which process of the container makes them, and remove them",
        )
    return found


def is_region(name: str) -> bool:
    """Whether libvgpu names regions like this."""
    return name.endswith(REGION_SUFFIX)


def region_name(descriptor: int, path: str) -> str | None:
    """The name of the region in the container's open directory; None while it has none.

    Raises `RegionError`, also for several: nobody can tell which one the processes share.
    """
    found = [name for name in names(descriptor, path) if is_region(name)]
    if len(found) > 1:
        raise RegionError(
            path,
            Fault.AMBIGUOUS,
            f"it holds {len(found)} regions, where the processes of a container share one",
            "remove those that are not the container's CUDA_DEVICE_MEMORY_SHARED_CACHE",
        )
    return found[0] if found else None
