"""What the kernel tells of PCI devices, below the host's root. Reads a few small files.

For vendors whose library does not tell a device's NUMA node or its device nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "BUS",
    "PciDevice",
    "address",
    "drm_nodes",
    "numa_node",
    "on_host",
    "pci_devices",
    "read",
]

MOST_BYTES = 4096
BUS = "/sys/bus/pci/devices"


@dataclass(frozen=True, slots=True)
class PciDevice:
    """One function on the bus: `address` as ``0000:33:00.0``, ids as numbers."""

    address: str
    vendor: int
    device: int
    numa_node: int | None


def on_host(root: str, path: str) -> Path:
    """Where this process sees a path of the host."""
    return Path(root) / path.lstrip("/")


def address(domain: int, bus: int, device: int, function: int = 0) -> str:
    """A place on the bus as the kernel writes it."""
    return f"{domain:04x}:{bus:02x}:{device:02x}.{function:x}"


def read(path: Path) -> str:
    """A file's text without blanks around it; empty where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def pci_devices(root: str, vendor: int) -> Iterator[PciDevice]:
    """The devices of one PCI vendor, by address."""
    try:
        found = sorted(on_host(root, BUS).iterdir())
    except OSError:
        return
    for path in found:
        if _number(read(path / "vendor")) == vendor:
            yield PciDevice(
                path.name.lower(), vendor, _number(read(path / "device")) or 0, _numa(path)
            )


def numa_node(root: str, address: str) -> int | None:
    """The NUMA node of a PCI device; None where the kernel knows none."""
    return _numa(_device(root, address))


def drm_nodes(root: str, address: str) -> tuple[str, ...]:
    """The nodes of a graphics device, ``/dev/dri/card0`` and ``/dev/dri/renderD128``."""
    try:
        names = sorted(p.name for p in (_device(root, address) / "drm").iterdir())
    except OSError:
        return ()
    return tuple(f"/dev/dri/{name}" for name in names if name.startswith(("card", "renderD")))


def _device(root: str, address: str) -> Path:
    return on_host(root, BUS) / address.lower()


def _numa(path: Path) -> int | None:
    number = _number(read(path / "numa_node"))
    return number if number is not None and number >= 0 else None


def _number(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None
