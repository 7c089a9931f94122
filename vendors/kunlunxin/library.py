"""libxpuml by ctypes (metax-iluvatar-kunlunxin-hygon.md 3.5.4). Only the probe loads it."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_uint, c_void_p
from types import MappingProxyType

from deviceplugin.vendor.driver import NVML_MEANINGS, DriverLibrary, Function

STATES = MappingProxyType(
    {
        205: "it is being reset",
        207: "the driver reports an error",
        208: "the driver reports an exception",
    }
)
"""States in which a card serves nobody; 0 is unused, 201 running."""


class PciInfo(ctypes.Structure):
    """Where a card is on the bus."""

    _fields_ = (
        ("domain", ctypes.c_uint32),
        ("bus", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("function", ctypes.c_uint32),
        ("pci_device_id", ctypes.c_uint32),
        ("pci_subsystem_id", ctypes.c_uint32),
        ("bus_id", ctypes.c_char * 32),
        ("reserved", ctypes.c_uint64 * 9),
    )


class Memory(ctypes.Structure):
    """Bytes of the two memories of a card."""

    _fields_ = (
        ("page_size_global", ctypes.c_uint64),
        ("total_global", ctypes.c_uint64),
        ("free_global", ctypes.c_uint64),
        ("used_global", ctypes.c_uint64),
        ("page_size_l3", ctypes.c_uint64),
        ("total_l3", ctypes.c_uint64),
        ("free_l3", ctypes.c_uint64),
        ("used_l3", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64 * 8),
    )


class Attributes(ctypes.Structure):
    """What sort of card it is; memory in MiB."""

    _fields_ = (
        ("arch_id", ctypes.c_int32),
        ("board_id", ctypes.c_int32),
        ("model_id", ctypes.c_int32),
        ("cluster_count", ctypes.c_uint32),
        ("sdnn_count", ctypes.c_uint32),
        ("dma_engine_count", ctypes.c_uint32),
        ("decoder_count", ctypes.c_uint32),
        ("encoder_count", ctypes.c_uint32),
        ("image_processor_count", ctypes.c_uint32),
        ("max_vf_count", ctypes.c_uint32),
        ("global_memory_mib", ctypes.c_uint64),
        ("l3_memory_mib", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64 * 9),
    )


class Xpuml(DriverLibrary):
    """Cards by their index. Every method raises `DriverError`."""

    names = ("libxpuml.so.1", "libxpuml.so")
    directories = ("/usr/local/xpu/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64")
    presence = "/dev/xpuctrl"
    functions = MappingProxyType(
        {
            "xpumlInit": Function(),
            "xpumlShutdown": Function(),
            "xpumlSystemGetDriverVersion": Function((c_char_p, c_uint)),
            "xpumlDeviceGetCount": Function((POINTER(c_uint),)),
            "xpumlDeviceGetHandleByIndex": Function((c_uint, POINTER(c_void_p))),
            "xpumlDeviceGetAttributes": Function((c_void_p, POINTER(Attributes))),
            "xpumlDeviceGetMemoryInfo": Function((c_void_p, POINTER(Memory))),
            "xpumlDeviceGetPciInfo": Function((c_void_p, POINTER(PciInfo))),
            "xpumlDeviceGetState": Function((c_void_p, POINTER(c_int))),
        }
    )
    starts = ("xpumlInit",)
    ends = "xpumlShutdown"
    meanings = NVML_MEANINGS
    remedy = "see xpu_smi and dmesg"

    def driver_version(self) -> str:
        """The driver's version, empty where it does not tell."""
        call = "xpumlSystemGetDriverVersion"
        return self.text(call, 80) if self.has(call) else ""

    def count(self) -> int:
        """How many cards there are."""
        return int(self.value("xpumlDeviceGetCount", c_uint))

    def attributes(self, card: int) -> Attributes:
        """What sort of card it is."""
        return self.filled("xpumlDeviceGetAttributes", Attributes, self._handle(card))

    def memory(self, card: int) -> Memory:
        """Its memory."""
        return self.filled("xpumlDeviceGetMemoryInfo", Memory, self._handle(card))

    def pci(self, card: int) -> PciInfo:
        """Where it is."""
        return self.filled("xpumlDeviceGetPciInfo", PciInfo, self._handle(card))

    def state(self, card: int) -> int:
        """How it does: see `STATES`."""
        return int(self.value("xpumlDeviceGetState", c_int, self._handle(card)))

    def _handle(self, card: int) -> c_void_p:
        return self.handle("xpumlDeviceGetHandleByIndex", card)
