"""librocm_smi64 by ctypes (metax-iluvatar-kunlunxin-hygon.md 4.5). Only the probe loads it."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_uint16, c_uint32, c_uint64
from types import MappingProxyType

from deviceplugin.vendor.driver import DriverLibrary, Function
from deviceplugin.vendor.sysfs import address

VRAM, XGMI = 0, 2


class RocmSmi(DriverLibrary):
    """Cards by their index. Every method raises `DriverError`."""

    names = ("librocm_smi64.so.2", "librocm_smi64.so")
    directories = ("/opt/hyhal/lib", "/opt/dtk/lib", "/opt/dtk/rocm_smi/lib", "/opt/rocm/lib")
    presence = "/dev/mkfd"
    functions = MappingProxyType(
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
    starts = ("rsmi_init", 0)
    ends = "rsmi_shut_down"
    meanings = MappingProxyType(
        {
            1: "invalid arguments",
            2: "not supported",
            3: "a file cannot be read",
            4: "no permission",
            5: "out of resources",
            6: "an internal exception",
            7: "out of bounds",
            8: "not initialised",
            9: "this driver does not have the call",
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
    remedy = "see hy-smi and dmesg"

    def count(self) -> int:
        """How many cards there are."""
        return int(self.value("rsmi_num_monitor_devices", c_uint32))

    def device_id(self, card: int) -> int:
        """The PCI device id."""
        return int(self.value("rsmi_dev_id_get", c_uint16, card))

    def address(self, card: int) -> str:
        """The place on the bus."""
        packed = int(self.value("rsmi_dev_pci_id_get", c_uint64, card))
        return address(packed >> 32, packed >> 8 & 0xFF, packed >> 3 & 0x1F, packed & 7)

    def serial(self, card: int) -> str:
        """The serial number."""
        return self.text("rsmi_dev_serial_number_get", 128, card)

    def unique_id(self, card: int) -> int:
        """The chip's own number."""
        return int(self.value("rsmi_dev_unique_id_get", c_uint64, card))

    def memory_total(self, card: int) -> int:
        """Bytes of its memory."""
        return int(self.value("rsmi_dev_memory_total_get", c_uint64, card, VRAM))

    def numa_node(self, card: int) -> int:
        """Its NUMA node, 0xFFFFFFFF for none."""
        return int(self.value("rsmi_topo_get_numa_node_number", c_uint32, card))

    def linked(self, card: int, other: int) -> bool:
        """Whether two cards have a link of their own beside PCIe."""
        hops = c_uint64()
        kind = self.value("rsmi_topo_get_link_type", ctypes.c_int, card, other, byref(hops))
        return bool(kind == XGMI)
