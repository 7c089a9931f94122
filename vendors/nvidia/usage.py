"""How busy GPUs and MIG instances are, as NVML says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from deviceplugin.vendor import PhysicalDevice, Usage
from deviceplugin.vendors.nvidia.discovery import MIB, Reader


def usages(nvml: Any, devices: Iterable[PhysicalDevice]) -> tuple[Usage, ...]:
    """One reading of each device that answers; what NVML does not say of it is None.

    NVML tells no utilisation of MIG instances and of the cards that they divide.
    """
    found = []
    for device in devices:
        try:
            reader = Reader(nvml, nvml.nvmlDeviceGetHandleByUUID(device.uuid))
        except nvml.NVMLError:
            continue
        memory = reader.ask("nvmlDeviceGetMemoryInfo", None)
        rates = None if device.parent_uuid else reader.ask("nvmlDeviceGetUtilizationRates", None)
        found.append(
            Usage(
                device.uuid,
                memory.used / MIB if memory else None,
                float(rates.gpu) if rates else None,
                float(rates.memory) if rates else None,
            )
        )
    return tuple(found)
