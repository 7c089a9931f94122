"""libmxsml by ctypes (metax-iluvatar-kunlunxin-hygon.md 1.4). Only the probe loads it."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char, c_int, c_long, c_uint
from types import MappingProxyType

from deviceplugin.vendor import DriverError
from deviceplugin.vendor.driver import DriverLibrary, Function, text_of


class DeviceInfo(ctypes.Structure):
    """What a card is."""

    _fields_ = (
        ("device_id", c_uint),
        ("type", c_uint),
        ("bdf", c_char * 32),
        ("gpu_id", c_uint),
        ("node_id", c_uint),
        ("uuid", c_char * 96),
        ("brand", c_uint),
        ("mode", c_uint),
        ("name", c_char * 32),
    )


class MemoryInfo(ctypes.Structure):
    """KiB."""

    _fields_ = (
        ("visible_total", c_long),
        ("visible_used", c_long),
        ("vram_total", c_long),
        ("vram_used", c_long),
        ("xtt_total", c_long),
        ("xtt_used", c_long),
    )


class Unavailable(ctypes.Structure):
    """Why a die does not work."""

    _fields_ = (("code", c_int), ("reason", c_char * 64))


class Mxsml(DriverLibrary):
    """Cards by their index. Every method raises `DriverError`."""

    names = ("libmxsml.so",)
    directories = ("/opt/mxdriver/lib", "/opt/maca/lib", "/opt/mxn100/lib")
    presence = "/dev/mxcd"
    functions = MappingProxyType(
        {
            "mxSmlInit": Function((), c_uint),
            "mxSmlGetDeviceCount": Function((), c_uint, checked=False),
            "mxSmlGetDeviceInfo": Function((c_uint, POINTER(DeviceInfo)), c_uint),
            "mxSmlGetMemoryInfo": Function((c_uint, POINTER(MemoryInfo)), c_uint),
            "mxSmlGetDeviceState": Function((c_uint, POINTER(c_int)), c_uint),
            "mxSmlGetDieUnavailableReason": Function(
                (c_uint, c_uint, POINTER(Unavailable)), c_uint
            ),
        }
    )
    starts = ("mxSmlInit",)
    meanings = MappingProxyType(
        {
            1: "failure",
            2: "no device",
            3: "not supported",
            4: "a file of the kernel cannot be read",
            5: "a file of the kernel cannot be written",
            6: "no such device",
            8: "no permission",
            23: "busy",
            26: "a library cannot be loaded",
        }
    )
    remedy = "see mx-smi and dmesg"

    def count(self) -> int:
        """How many cards there are."""
        return int(self.call("mxSmlGetDeviceCount"))

    def info(self, card: int) -> DeviceInfo:
        """What the card is."""
        return self.filled("mxSmlGetDeviceInfo", DeviceInfo, card)

    def memory(self, card: int) -> MemoryInfo:
        """Its memory."""
        return self.filled("mxSmlGetMemoryInfo", MemoryInfo, card)

    def ailment(self, card: int) -> str:
        """Why it does not work; empty when it does, and where the driver cannot tell."""
        state = "mxSmlGetDeviceState"
        if not self.has(state) or self.value(state, c_int, card):
            return ""
        why = "the driver says that it is not available"
        try:
            found = self.filled("mxSmlGetDieUnavailableReason", Unavailable, card, 0)
        except DriverError:
            return why
        return f"{why}: {text_of(found.reason) or found.code}"
