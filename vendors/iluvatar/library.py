"""libixml by ctypes (metax-iluvatar-kunlunxin-hygon.md 2.3.3): NVIDIA's names and structures, and a
few calls of its own. Only the probe loads it.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_uint, c_uint64, c_void_p
from types import MappingProxyType

from deviceplugin.vendor.driver import NVML_MEANINGS, DriverLibrary, Function
from deviceplugin.vendor.sysfs import address

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


_HANDLE, _TO_INT = c_void_p, POINTER(c_int)


class Ixml(DriverLibrary):
    """Chips by their index. Every method raises `DriverError`; what older libraries cannot tell is
    what it would be of a healthy chip alone on its board.
    """

    names = ("libixml.so",)
    directories = ("/usr/local/corex/lib64", "/usr/local/corex/lib")
    presence = "/dev/itrctl"
    functions = MappingProxyType(
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
            "nvmlDeviceOnSameBoard": Function((_HANDLE, _HANDLE, _TO_INT)),
            "nvmlDeviceGetTopologyCommonAncestor": Function((_HANDLE, _HANDLE, _TO_INT)),
            "ixmlDeviceGetBoardPosition": Function((_HANDLE, POINTER(c_uint))),
            "ixmlDeviceGetHealth": Function((_HANDLE, POINTER(c_uint64))),
        }
    )
    starts = ("nvmlInit_v2",)
    ends = "nvmlShutdown"
    meanings = NVML_MEANINGS
    remedy = "see ixsmi and dmesg"

    def driver_version(self) -> str:
        """The driver's version, empty where it does not tell."""
        call = "nvmlSystemGetDriverVersion"
        return self.text(call, 80) if self.has(call) else ""

    def count(self) -> int:
        """How many chips there are."""
        return int(self.value("nvmlDeviceGetCount_v2", c_uint))

    def uuid(self, chip: int) -> str:
        """Its uuid."""
        return self.text("nvmlDeviceGetUUID", 80, self._handle(chip))

    def name(self, chip: int) -> str:
        """Its model."""
        return self.text("nvmlDeviceGetName", 64, self._handle(chip))

    def minor(self, chip: int) -> int:
        """The number of its device node."""
        return int(self.value("nvmlDeviceGetMinorNumber", c_uint, self._handle(chip)))

    def memory(self, chip: int) -> Memory:
        """Its memory in bytes."""
        return self.filled("nvmlDeviceGetMemoryInfo", Memory, self._handle(chip))

    def address(self, chip: int) -> str:
        """Its place on the bus."""
        found = self.filled("nvmlDeviceGetPciInfo_v3", PciInfo, self._handle(chip))
        return address(found.domain, found.bus, found.device)

    def health(self, chip: int) -> int:
        """A bit for everything that is wrong: see `HEALTH`."""
        call = "ixmlDeviceGetHealth"
        return int(self.value(call, c_uint64, self._handle(chip))) if self.has(call) else 0

    def board_position(self, chip: int) -> int:
        """0 for the first chip of its board."""
        call = "ixmlDeviceGetBoardPosition"
        return int(self.value(call, c_uint, self._handle(chip))) if self.has(call) else 0

    @property
    def tells_boards(self) -> bool:
        """Whether it tells which chips are on one board."""
        return self.has("nvmlDeviceOnSameBoard")

    def on_same_board(self, one: int, other: int) -> bool:
        """Whether two chips are."""
        handles = self._handle(one), self._handle(other)
        return bool(self.value("nvmlDeviceOnSameBoard", c_int, *handles))

    def common_ancestor(self, one: int, other: int) -> int | None:
        """How far apart two chips are: 0 near, 50 at other ends of the machine; None where it does
        not tell.
        """
        call = "nvmlDeviceGetTopologyCommonAncestor"
        if not self.has(call):
            return None
        return int(self.value(call, c_int, self._handle(one), self._handle(other)))

    def _handle(self, chip: int) -> c_void_p:
        return self.handle("nvmlDeviceGetHandleByIndex_v2", chip)
