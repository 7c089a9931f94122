"""What the files in the directory of the library are called. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

LIBRARY: Final = "libvgpu.so"
"""The name by which containers know it; on the host a link to the current version."""
PRELOAD: Final = "ld.so.preload"
"""Mounted over ``/etc/ld.so.preload`` of containers."""
LICENSE: Final = "license"
VALIDATOR: Final = "vgpuvalidator"
"""Mounted together with the license, if there is one (hami-nvidia-node.md 3.5)."""
CONTAINERS: Final = "containers"
"""Holds a directory a container."""
LOCK_DIRECTORY: Final = "/tmp/vgpulock"  # noqa: S108 - the path that the library opens
TARGET: Final = "/usr/local/vgpu"
TEMPORARY: Final = ".hook-"
"""Prefix of files that are being written; readers look for the library's own name."""

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)
_OURS = re.compile(rf"{re.escape(LIBRARY)}\.(?P<version>.+)-(?P<checksum>[0-9a-f]{{12}})")
_UNVERSIONED = "0"


def versioned(version: str, sha256: str) -> str:
    """The name of a content: two contents never share one, so no file is ever replaced."""
    return f"{LIBRARY}.{version or _UNVERSIONED}-{sha256[:12]}"


def carries(name: str, sha256: str) -> bool:
    """Whether a name is one that `versioned` gave to this content."""
    match = _OURS.fullmatch(name)
    return match is not None and match["checksum"] == sha256[:12]


def is_ours(name: str) -> bool:
    """Whether a name has the form that `versioned` gives."""
    return _OURS.fullmatch(name) is not None


def version_of(name: str) -> str:
    """The version that the name of a library tells; empty when it tells none."""
    match = _OURS.fullmatch(name)
    version = match["version"] if match else name.removeprefix(LIBRARY).removeprefix(".")
    if version == _UNVERSIONED or not _VERSION.fullmatch(version):
        return ""
    return version


def is_library(name: str) -> bool:
    """Whether a name is one of the library's, with a version or without."""
    return name == LIBRARY or name.startswith(f"{LIBRARY}.")


def chosen(present: Collection[str], link: str) -> str:
    """The library that containers are given out of those `present`: the one that the link named
    ``libvgpu.so`` leads to (`link`, empty without one); without it, as HAMi's own installer leaves
    a node, the highest version, else the plain file. Empty when there is none.
    """
    if link:
        return link if link in present else ""
    versions = [name for name in present if is_library(name) and name != LIBRARY]
    if versions:
        return max(versions, key=_order)
    return LIBRARY if LIBRARY in present else ""


def _order(name: str) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", name.removeprefix(LIBRARY))], name


def preload_line(target: str) -> str:
    """The content of the preload file, without an end of line as upstream writes it, so that
    HAMi's own installer finds nothing to change.
    """
    return f"{target.rstrip('/')}/{LIBRARY}"
