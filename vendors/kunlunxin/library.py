"""libxpuml by ctypes (metax-iluvatar-kunlunxin-hygon.md 3.5.4). Only the probe loads it."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_uint, c_void_p
from types import MappingProxyType

from deviceplugin.vendor.driver import DriverLibrary, Function, find_library, text_of

NAMES = ("libxpuml.so.1", "libxpuml.so")
DIRECTORIES = ("/usr/local/xpu/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64")
PRESENCE = "/dev/xpuctrl"

STATES = MappingProxyType(
    {
        205: "it is being reset",
        207: "the driver reports an error",
        208: "the driver reports an exception",
    }
)
"""States in which a card serves nobody; 0 is unused, 201 running."""

MEANINGS = MappingProxyType(
    {
        1: "not initialised",
        2: "invalid argument",
        3: "not supported",
        4: "no permission",
        6: "not found",
        9: "the driver is not loaded",
        15: "the card is lost",
        999: "unknown",
    }
)


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


class Utilization(ctypes.Structure):
    """Percent of the last interval."""

    _fields_ = (
        ("xpu", ctypes.c_uint32),
        ("memory", ctypes.c_uint32),
        ("reserved", ctypes.c_uint64 * 15),
    )


FUNCTIONS = MappingProxyType(
    {
        "xpumlInit": Function(),
        "xpumlShutdown": Function(),
        "xpumlSystemGetDriverVersion": Function((c_char_p, c_uint)),
        "xpumlDeviceGetCount": Function((POINTER(c_uint),)),
        "xpumlDeviceGetHandleByIndex": Function((c_uint, POINTER(c_void_p))),
        "xpumlDeviceGetAttributes": Function((c_void_p, POINTER(Attributes))),
        "xpumlDeviceGetMemoryInfo": Function((c_void_p, POINTER(Memory))),
        "xpumlDeviceGetPciInfo": Function((c_void_p, POINTER(PciInfo))),
        "xpumlDeviceGetState": Function((c_void_p, POINTER(ctypes.c_int))),
        "xpumlDeviceGetUtilizationRates": Function((c_void_p, POINTER(Utilization))),
    }
)


class Xpuml:
    """An initialised library. Raises `DriverError`."""

    def __init__(self, root: str) -> None:
        path = find_library(root, NAMES, DIRECTORIES, PRESENCE)
        self._library = DriverLibrary(path, FUNCTIONS, MEANINGS, remedy="see xpu_smi and dmesg")
        self._library.call("xpumlInit")

    def close(self) -> None:
        """Give the driver back what it holds."""
        if self._library.has("xpumlShutdown"):
            self._library.call("xpumlShutdown")

    def driver_version(self) -> str:
        """The driver's version, empty where it does not tell."""
        if not self._library.has("xpumlSystemGetDriverVersion"):
            return ""
        buffer = ctypes.create_string_buffer(80)
        self._library.call("xpumlSystemGetDriverVersion", buffer, len(buffer))
        return text_of(buffer)

    def count(self) -> int:
        """How many cards there are."""
        number = c_uint()
        self._library.call("xpumlDeviceGetCount", byref(number))
        return number.value

    def handle(self, index: int) -> c_void_p:
        """The card of an index."""
        handle = c_void_p()
        self._library.call("xpumlDeviceGetHandleByIndex", index, byref(handle))
        return handle

    def attributes(self, handle: c_void_p) -> Attributes:
        """What sort of card it is."""
        found = Attributes()
        self._library.call("xpumlDeviceGetAttributes", handle, byref(found))
        return found

    def memory(self, handle: c_void_p) -> Memory:
        """Its memory."""
        found = Memory()
        self._library.call("xpumlDeviceGetMemoryInfo", handle, byref(found))
        return found

    def pci(self, handle: c_void_p) -> PciInfo:
        """Where it is."""
        found = PciInfo()
        self._library.call("xpumlDeviceGetPciInfo", handle, byref(found))
        return found

    def state(self, handle: c_void_p) -> int:
        """How it does: see `STATES`."""
        state = ctypes.c_int()
        self._library.call("xpumlDeviceGetState", handle, byref(state))
        return state.value
