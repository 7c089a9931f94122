"""librocm_smi64 by ctypes (metax-iluvatar-kunlunxin-hygon.md 4.5). Only the probe loads it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_uint16, c_uint32, c_uint64
from types import MappingProxyType
from typing import Any

from deviceplugin.vendor.driver import DriverLibrary, Function, find_library, text_of

NAMES = ("librocm_smi64.so.2", "librocm_smi64.so")
DIRECTORIES = ("/opt/hyhal/lib", "/opt/dtk/lib", "/opt/dtk/rocm_smi/lib", "/opt/rocm/lib")
PRESENCE = "/dev/mkfd"

VRAM = 0

MEANINGS = MappingProxyType(
    {
        1: "invalid arguments",
        2: "not supported",
        3: "a file cannot be read",
        4: "no permission",
        5: "out of resources",
        6: "an internal exception",
        7: "out of bounds",
        8: "not initialised",
        9: "not implemented yet",
        10: "not found",
        11: "not enough room",
        12: "interrupted",
        13: "an unexpected size",
        14: "no data",
        15: "unexpected data",
        16: "busy",
        17: "too many users",
        0xFFFFFFFF: "unknown",
    }
)

FUNCTIONS = MappingProxyType(
    {
        "rsmi_init": Function((c_uint64,), c_uint32),
        "rsmi_shut_down": Function((), c_uint32),
        "rsmi_num_monitor_devices": Function((POINTER(c_uint32),), c_uint32),
        "rsmi_dev_id_get": Function((c_uint32, POINTER(c_uint16)), c_uint32),
        "rsmi_dev_pci_id_get": Function((c_uint32, POINTER(c_uint64)), c_uint32),
        "rsmi_dev_serial_number_get": Function((c_uint32, c_char_p, c_uint32), c_uint32),
        "rsmi_dev_unique_id_get": Function((c_uint32, POINTER(c_uint64)), c_uint32),
        "rsmi_dev_memory_total_get": Function(
            (c_uint32, ctypes.c_int, POINTER(c_uint64)), c_uint32
        ),
        "rsmi_topo_get_numa_node_number": Function((c_uint32, POINTER(c_uint32)), c_uint32),
        "rsmi_topo_get_link_type": Function(
            (c_uint32, c_uint32, POINTER(c_uint64), POINTER(ctypes.c_int)), c_uint32
        ),
    }
)

XGMI = 2


class RocmSmi:
    """An initialised library. Raises `DriverError`."""

    def __init__(self, root: str) -> None:
        path = find_library(root, NAMES, DIRECTORIES, PRESENCE)
        self._library = DriverLibrary(path, FUNCTIONS, MEANINGS, remedy="see hy-smi and dmesg")
        self._library.call("rsmi_init", 0)

    def close(self) -> None:
        """Give the driver back what it holds."""
        if self._library.has("rsmi_shut_down"):
            self._library.call("rsmi_shut_down")

    def count(self) -> int:
        """How many cards there are."""
        return int(self._value("rsmi_num_monitor_devices", c_uint32))

    def device_id(self, card: int) -> int:
        """The PCI device id."""
        return int(self._value("rsmi_dev_id_get", c_uint16, card))

    def address(self, card: int) -> str:
        """The place on the bus, as the kernel writes it."""
        packed = int(self._value("rsmi_dev_pci_id_get", c_uint64, card))
        bus, device, function = packed >> 8 & 0xFF, packed >> 3 & 0x1F, packed & 7
        return f"{packed >> 32:04x}:{bus:02x}:{device:02x}.{function:x}"

    def serial(self, card: int) -> str:
        """The serial number."""
        buffer = ctypes.create_string_buffer(128)
        self._library.call("rsmi_dev_serial_number_get", card, buffer, len(buffer))
        return text_of(buffer)

    def unique_id(self, card: int) -> int:
        """The chip's own number."""
        return int(self._value("rsmi_dev_unique_id_get", c_uint64, card))

    def memory_total(self, card: int) -> int:
        """Bytes of its memory."""
        total = c_uint64()
        self._library.call("rsmi_dev_memory_total_get", card, VRAM, byref(total))
        return total.value

    def numa_node(self, card: int) -> int:
        """Its NUMA node, 0xFFFFFFFF for none."""
        return int(self._value("rsmi_topo_get_numa_node_number", c_uint32, card))

    def linked(self, card: int, other: int) -> bool:
        """Whether two cards have a link of their own beside PCIe."""
        hops, kind = c_uint64(), ctypes.c_int()
        self._library.call("rsmi_topo_get_link_type", card, other, byref(hops), byref(kind))
        return kind.value == XGMI

    def _value(self, call: str, kind: Callable[[], Any], *arguments: Any) -> Any:
        value = kind()
        self._library.call(call, *arguments, byref(value))
        return value.value
