"""Where the driver, its device nodes and the kernel's files are seen from this process.

Source: hami-nvidia-node.md 1.4, kubelet-deviceplugin.md 4.5.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import Path

from deviceplugin.vendors.nvidia.settings import NvidiaSettings

CONTROL_NODES = (
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/nvidia-uvm-tools",
    "/dev/nvidia-modeset",
)
"""What every GPU container needs beside its GPUs; each only if it exists."""

DXG = "/dev/dxg"
CAPABILITY = "/dev/nvidia-caps/nvidia-cap"
"""Followed by the minor number of a MIG capability."""

_MIG_MINORS = "proc/driver/nvidia-caps/mig-minors"
_MOST_LINKS = 40


def joined(root: str, path: str) -> str:
    """An absolute path below a root, both as text; a root of ``/`` changes nothing."""
    return posixpath.join(root, path.lstrip("/"))


def below(root: str, path: str) -> str:
    """The path without the root it lies below, absolute again."""
    return "/" + path.removeprefix(root).lstrip("/")


@dataclass(frozen=True, slots=True)
class Host:
    """Three views of the node's files, and what the first two are called on the host.

    `driver` is the root of the driver's installation and `dev` the root of its device nodes, both
    as this process sees them; `root` is the host's root file system.
    """

    root: Path
    driver: Path
    driver_root: str
    dev: Path
    dev_root: str

    def node(self, path: str) -> str:
        """The path on the host of a device node that the container sees as `path`."""
        return joined(self.dev_root, path)

    def has_node(self, path: str) -> bool:
        """Whether the device node that containers see as `path` exists."""
        return (self.dev / path.lstrip("/")).exists()

    def nodes(self, pattern: str) -> tuple[str, ...]:
        """The existing files below the root of device nodes that match a pattern such as
        ``/dev/nvidia*``, as a container sees them, in order.
        """
        found = self.dev.glob(pattern.lstrip("/"))
        return tuple(sorted(below(str(self.dev), str(path)) for path in found))

    def control_nodes(self) -> tuple[str, ...]:
        """Those of `CONTROL_NODES` that exist."""
        return tuple(path for path in CONTROL_NODES if self.has_node(path))

    def read(self, path: str) -> str:
        """A small file below the host's root; empty when it cannot be read."""
        try:
            return (self.root / path.lstrip("/")).read_text(errors="replace")
        except OSError:
            return ""

    def numa_node(self, bus_id: str) -> int | None:
        """The NUMA node of a PCI device by its normal bus id; None when unknown."""
        try:
            node = int(self.read(f"sys/bus/pci/devices/{bus_id}/numa_node"))
        except ValueError:
            return None
        return node if node >= 0 else None

    def mig_minors(self) -> dict[str, int]:
        """The minor numbers of capability nodes, by keys such as ``gpu0/gi1/access``."""
        table = {}
        for line in self.read(_MIG_MINORS).splitlines():
            name, _, number = line.partition(" ")
            if number.strip().isdecimal():
                table[name] = int(number)
        return table

    def major(self, driver: str) -> int | None:
        """The major number of a driver's character devices; None when the kernel has none."""
        for line in self.read("proc/devices").splitlines():
            number, _, name = line.strip().partition(" ")
            if name == driver and number.isdecimal():
                return int(number)
        return None

    @property
    def wsl(self) -> bool:
        """Whether GPUs are paravirtualised by Windows."""
        return self.has_node(DXG)

    @property
    def tegra(self) -> bool:
        """Whether this is a Tegra system on a chip."""
        family = self.read("sys/devices/soc0/family")
        return bool(self.read("etc/nv_tegra_release")) or family.lower().startswith("tegra")


def host_of(settings: NvidiaSettings) -> Host:
    """The views of these settings.

    A container driver root that is not mounted means that driver and node share the host's root.
    Device nodes are looked up below the driver root if it has a ``/dev``, else below the host's.
    """
    mounted = Path(settings.container_driver_root)
    shared = Path(joined(settings.host_root, settings.driver_root))
    driver = next((path for path in (mounted, shared) if path.is_dir()), Path("/"))
    roots = (driver, Path(joined(settings.host_root, settings.dev_root)))
    dev = next((path for path in roots if (path / "dev").is_dir()), Path("/"))
    return Host(Path(settings.host_root), driver, settings.driver_root, dev, settings.dev_root)


def resolved_below(root: Path, path: Path) -> Path | None:
    """Where a file below `root` really is, symbolic links followed as if `root` were ``/``; None
    for what is not there. A link can never lead out of the root.
    """
    pending = list(path.relative_to(root).parts)[::-1]
    here: list[str] = []
    links = 0
    while pending:
        part = pending.pop()
        if part in ("", ".", "/"):
            continue
        if part == "..":
            here = here[:-1]
            continue
        current = root.joinpath(*here, part)
        if not current.is_symlink():
            here.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            return None
        target = current.readlink()
        here = [] if target.is_absolute() else here
        pending.extend(target.parts[::-1])
    found = root.joinpath(*here)
    return found if found.exists() else None
