"""Names of the facts that discovery records with devices and that the other parts read."""

from __future__ import annotations

from deviceplugin.vendor import PhysicalDevice

BUS_ID = "pci.bus-id"
COMPUTE_CAPABILITY = "cuda.compute-capability"
DRIVER_VERSION = "driver.version"
CUDA_VERSION = "cuda.version"
MIG_MODE = "mig.mode"
MIG_TABLE = "mig.geometries-of"
"""The name in the table of geometries by which a card's geometries were chosen."""
GPU_INSTANCE = "mig.gpu-instance"
COMPUTE_INSTANCE = "mig.compute-instance"
GPU_SLICES = "mig.gpu-slices"
COMPUTE_SLICES = "mig.compute-slices"
LIBVGPU = "libvgpu.file"
LICENSE = "libvgpu.license"
PLATFORM = "platform"

ENABLED, DISABLED = "enabled", "disabled"
NVML, WSL, TEGRA = "nvml", "wsl", "tegra"


def has_mig_enabled(device: PhysicalDevice) -> bool:
    """Whether this is a whole GPU that is in MIG mode."""
    return not device.parent_uuid and device.attributes.get(MIG_MODE) == ENABLED


def compute_capability(device: PhysicalDevice) -> tuple[int, int]:
    """CUDA's compute capability, (0, 0) when unknown."""
    major, _, minor = device.attributes.get(COMPUTE_CAPABILITY, "").partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)
