"""Which files of the driver a container needs, found below the driver's root; loads none.

Paths in the answers are those of the container, which are the host's without the driver root.
Source: cdi.md 5.1, hami-nvidia-node.md 5.3.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deviceplugin.vendors.nvidia.host import resolved_below

LIBRARY_DIRECTORIES = (
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib/aarch64-linux-gnu/nvidia/current",
)
_BINARY_DIRECTORIES = ("usr/bin", "usr/sbin", "bin", "sbin", "usr/local/bin", "opt/bin")
_BINARIES = (
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-imex",
    "nvidia-imex-ctl",
)
_FIRMWARE_DIRECTORIES = ("usr/lib/firmware/nvidia", "lib/firmware/nvidia")
_DATA = (
    "etc/vulkan/icd.d/nvidia_icd*.json",
    "etc/vulkan/implicit_layer.d/nvidia_layers.json",
    "usr/share/vulkan/icd.d/nvidia_icd*.json",
    "usr/share/vulkan/implicit_layer.d/nvidia_layers.json",
    "usr/share/glvnd/egl_vendor.d/10_nvidia.json",
    "usr/share/egl/egl_external_platform.d/*nvidia*.json",
    "usr/share/nvidia/nvoptix.bin",
    "usr/share/X11/xorg.conf.d/*nvidia*.conf",
)
SOCKETS = (
    "/run/nvidia-persistenced/socket",
    "/run/nvidia-fabricmanager/socket",
    "/tmp/nvidia-mps",  # noqa: S108 - the default pipe directory of MPS on the host
)
"""Inter-process communication of the driver, below the driver root."""

_LINKS = (
    ("libcuda.so.{version}", "libcuda.so.1", "libcuda.so"),
    ("libGLX_nvidia.so.{version}", "libGLX_nvidia.so.{version}", "libGLX_indirect.so.0"),
    (
        "libnvidia-opticalflow.so.{version}",
        "libnvidia-opticalflow.so.1",
        "libnvidia-opticalflow.so",
    ),
)


@dataclass(frozen=True, slots=True)
class DriverFiles:
    """What of a driver was found. `links` are ``target::path`` of symbolic links to make,
    `library_folders` those that the container's loader has to search.
    """

    version: str = ""
    libcuda_folder: str = ""
    library_folders: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


def find(root: Path, version: str) -> DriverFiles:
    """The files of the driver `version` below `root`; nothing for an unknown version."""
    if not version:
        return DriverFiles()
    folder = _libcuda_folder(root, version)
    libraries = sorted(_libraries(root, folder, version)) if folder else []
    mounts = {*libraries, *_binaries(root), *_firmware(root, version), *_matching(root, _DATA)}
    return DriverFiles(
        version=version,
        libcuda_folder=folder,
        library_folders=tuple(dict.fromkeys(posixpath.dirname(path) for path in libraries)),
        mounts=tuple(sorted(mounts)),
        sockets=tuple(path for path in SOCKETS if (root / path.lstrip("/")).exists()),
        links=tuple(_links(libraries, folder, version)),
    )


def _libcuda_folder(root: Path, version: str) -> str:
    """The directory of the driver's libraries, as it is really called."""
    for candidate in LIBRARY_DIRECTORIES:
        folder = resolved_below(root, root / candidate)
        if folder and (folder / f"libcuda.so.{version}").is_file():
            return _inside(root, folder)
    return ""


def _libraries(root: Path, folder: str, version: str) -> Iterator[str]:
    place = root / folder.lstrip("/")
    for pattern in (f"*.so.{version}", f"vdpau/*.so.{version}", "libnvidia-nvvm70.so.*"):
        for path in place.glob(pattern):
            if path.is_file():
                yield _inside(root, path)


def _binaries(root: Path) -> Iterator[str]:
    for name in _BINARIES:
        paths = (root / folder / name for folder in _BINARY_DIRECTORIES)
        if found := next((path for path in paths if resolved_below(root, path)), None):
            yield _inside(root, found)


def _firmware(root: Path, version: str) -> Iterator[str]:
    for candidate in _FIRMWARE_DIRECTORIES:
        if folder := resolved_below(root, root / candidate / version):
            names = sorted(path.name for path in folder.glob("gsp*.bin"))
            yield from (f"/{candidate}/{version}/{name}" for name in names)
            return


def _matching(root: Path, patterns: Iterable[str]) -> Iterator[str]:
    for pattern in patterns:
        yield from (_inside(root, path) for path in root.glob(pattern) if path.is_file())


def _links(libraries: Iterable[str], folder: str, version: str) -> Iterator[str]:
    present = set(libraries)
    for needed, target, link in _LINKS:
        if f"{folder}/{needed.format(version=version)}" in present:
            yield f"{target.format(version=version)}::{folder}/{link}"


def _inside(root: Path, path: Path) -> str:
    return "/" + str(path.relative_to(root))
