"""How NVIDIA's container runtime is told which devices a container may see.

Source: kubelet-deviceplugin.md 4.4, hami-nvidia-node.md 3.4, 5.1.
"""

from __future__ import annotations

from collections.abc import Collection
from types import MappingProxyType

from deviceplugin.vendor import Exposure
from deviceplugin.vendors.nvidia.settings import NvidiaSettings

CDI_VENDOR = "k8s.device-plugin.nvidia.com"
GPU_CLASS, IMEX_CLASS = "gpu", "imex-channel"


def exposure(settings: NvidiaSettings, cdi_names: Collection[str]) -> Exposure:
    """The exposure, where `cdi_names` are the devices beside GPUs that have a specification."""
    channels = [str(channel) for channel in settings.imex_channels]
    wanted = [
        *(f"{CDI_VENDOR}/{IMEX_CLASS}={channel}" for channel in channels),
        *(f"{CDI_VENDOR}/{name}=all" for name in extras(settings)),
    ]
    return Exposure(
        env="NVIDIA_VISIBLE_DEVICES",
        mount_root="/var/run/nvidia-container-devices",
        cdi_kind=f"{CDI_VENDOR}/{GPU_CLASS}",
        annotation_plugin="nvidia-device-plugin",
        cdi_names=tuple(name for name in wanted if name in cdi_names),
        list_env=MappingProxyType({"NVIDIA_IMEX_CHANNELS": ",".join(channels)} if channels else {}),
        mount_names=tuple(f"imex/{channel}" for channel in channels),
        env_always=MappingProxyType(
            {f"NVIDIA_{name.upper()}": "enabled" for name in extras(settings)}
        ),
    )


def extras(settings: NvidiaSettings) -> tuple[str, ...]:
    """The classes beside GPUs that the operator enabled, in the order of the contract."""
    chosen = (("gdrcopy", settings.gdrcopy), ("gds", settings.gds), ("mofed", settings.mofed))
    return tuple(name for name, enabled in chosen if enabled)
