"""libixml by ctypes (metax-iluvatar-kunlunxin-hygon.md 2.3.3): NVIDIA's names and structures, and a
few calls of its own. Only the probe loads it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_uint, c_uint64, c_void_p
from types import MappingProxyType
from typing import Any

from deviceplugin.vendor.driver import DriverLibrary, Function, find_library, text_of

NAMES = ("libixml.so",)
DIRECTORIES = ("/usr/local/corex/lib64", "/usr/local/corex/lib")
PRESENCE = "/dev/itrctl"

MEANINGS = MappingProxyType(
    {
        1: "not initialised",
        2: "invalid argument",
        3: "not supported",
        4: "no permission",
        6: "not found",
        9: "the driver is not loaded",
        13: "a symbol is missing",
        15: "the card is lost",
        999: "unknown",
    }
)

HEALTH = MappingProxyType(
    {
        0x1: "system hub",
        0x2: "memory controller",
        0x4: "over-temperature",
        0x8: "over-voltage",
        0x10: "ECC",
        0x20: "memory",
        0x40: "PCIe",
    }
)
"""What the bits of a chip's health mean; none is good."""


class Memory(ctypes.Structure):
    """Bytes."""

    _fields_ = (("total", c_uint64), ("free", c_uint64), ("used", c_uint64))


class PciInfo(ctypes.Structure):
    """Where a chip is on the bus."""

    _fields_ = (
        ("bus_id_legacy", ctypes.c_char * 16),
        ("domain", c_uint),
        ("bus", c_uint),
        ("device", c_uint),
        ("pci_device_id", c_uint),
        ("pci_subsystem_id", c_uint),
        ("bus_id", ctypes.c_char * 32),
    )


_HANDLE = c_void_p
FUNCTIONS = MappingProxyType(
    {
        "nvmlInit_v2": Function(),
        "nvmlShutdown": Function(),
        "nvmlSystemGetDriverVersion": Function((c_char_p, c_uint)),
        "nvmlDeviceGetCount_v2": Function((POINTER(c_uint),)),
        "nvmlDeviceGetHandleByIndex_v2": Function((c_uint, POINTER(_HANDLE))),
        "nvmlDeviceGetUUID": Function((_HANDLE, c_char_p, c_uint)),
        "nvmlDeviceGetName": Function((_HANDLE, c_char_p, c_uint)),
        "nvmlDeviceGetMinorNumber": Function((_HANDLE, POINTER(c_uint))),
        "nvmlDeviceGetMemoryInfo": Function((_HANDLE, POINTER(Memory))),
        "nvmlDeviceGetPciInfo_v3": Function((_HANDLE, POINTER(PciInfo))),
        "nvmlDeviceOnSameBoard": Function((_HANDLE, _HANDLE, POINTER(ctypes.c_int))),
        "nvmlDeviceGetTopologyCommonAncestor": Function((_HANDLE, _HANDLE, POINTER(ctypes.c_int))),
        "ixmlDeviceGetBoardPosition": Function((_HANDLE, POINTER(c_uint))),
        "ixmlDeviceGetHealth": Function((_HANDLE, POINTER(c_uint64))),
    }
)


class Ixml:
    """An initialised library. Raises `DriverError`."""

    def __init__(self, root: str) -> None:
        path = find_library(root, NAMES, DIRECTORIES, PRESENCE)
        self._library = DriverLibrary(path, FUNCTIONS, MEANINGS, remedy="see ixsmi and dmesg")
        self._library.call("nvmlInit_v2")

    def close(self) -> None:
        """Give the driver back what it holds."""
        if self._library.has("nvmlShutdown"):
            self._library.call("nvmlShutdown")

    def has(self, call: str) -> bool:
        """Whether this driver offers a call."""
        return self._library.has(call)

    def driver_version(self) -> str:
        """The driver's version."""
        return self._text("nvmlSystemGetDriverVersion", 80)

    def count(self) -> int:
        """How many chips there are."""
        return int(self._value("nvmlDeviceGetCount_v2", c_uint))

    def handle(self, index: int) -> c_void_p:
        """The chip of an index."""
        handle = c_void_p()
        self._library.call("nvmlDeviceGetHandleByIndex_v2", index, byref(handle))
        return handle

    def uuid(self, chip: c_void_p) -> str:
        """Its uuid."""
        return self._text("nvmlDeviceGetUUID", 80, chip)

    def name(self, chip: c_void_p) -> str:
        """Its model."""
        return self._text("nvmlDeviceGetName", 64, chip)

    def minor(self, chip: c_void_p) -> int:
        """The number of its device node."""
        return int(self._value("nvmlDeviceGetMinorNumber", c_uint, chip))

    def memory(self, chip: c_void_p) -> Memory:
        """Its memory in bytes."""
        found = Memory()
        self._library.call("nvmlDeviceGetMemoryInfo", chip, byref(found))
        return found

    def address(self, chip: c_void_p) -> str:
        """Its place on the bus, as the kernel writes it."""
        found = PciInfo()
        self._library.call("nvmlDeviceGetPciInfo_v3", chip, byref(found))
        return f"{found.domain:04x}:{found.bus:02x}:{found.device:02x}.0"

    def health(self, chip: c_void_p) -> int:
        """A bit for everything that is wrong: see `HEALTH`."""
        return int(self._value("ixmlDeviceGetHealth", c_uint64, chip))

    def board_position(self, chip: c_void_p) -> int:
        """0 for the first chip of its board."""
        return int(self._value("ixmlDeviceGetBoardPosition", c_uint, chip))

    def on_same_board(self, one: c_void_p, other: c_void_p) -> bool:
        """Whether two chips are on one board."""
        return bool(self._value("nvmlDeviceOnSameBoard", ctypes.c_int, one, other))

    def common_ancestor(self, one: c_void_p, other: c_void_p) -> int:
        """How far apart two chips are: 0 near, 50 at other ends of the machine."""
        return int(self._value("nvmlDeviceGetTopologyCommonAncestor", ctypes.c_int, one, other))

    def _text(self, call: str, size: int, *arguments: Any) -> str:
        buffer = ctypes.create_string_buffer(size)
        self._library.call(call, *arguments, buffer, size)
        return text_of(buffer)

    def _value(self, call: str, kind: Callable[[], Any], *arguments: Any) -> Any:
        value = kind()
        self._library.call(call, *arguments, byref(value))
        return value.value
