"""libmxsml by ctypes (metax-iluvatar-kunlunxin-hygon.md 1.4). Only the probe loads it."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char, c_int, c_long, c_uint
from types import MappingProxyType

from deviceplugin.vendor import DriverError
from deviceplugin.vendor.driver import DriverLibrary, Function, find_library

NAMES = ("libmxsml.so",)
DIRECTORIES = ("/opt/mxdriver/lib", "/opt/maca/lib", "/opt/mxn100/lib")
PRESENCE = "/dev/mxcd"

MEANINGS = MappingProxyType(
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


FUNCTIONS = MappingProxyType(
    {
        "mxSmlInit": Function((), c_uint),
        "mxSmlGetDeviceCount": Function((), c_uint, checked=False),
        "mxSmlGetDeviceInfo": Function((c_uint, POINTER(DeviceInfo)), c_uint),
        "mxSmlGetMemoryInfo": Function((c_uint, POINTER(MemoryInfo)), c_uint),
        "mxSmlGetDeviceState": Function((c_uint, POINTER(c_int)), c_uint),
        "mxSmlGetDieUnavailableReason": Function((c_uint, c_uint, POINTER(Unavailable)), c_uint),
    }
)


class Mxsml:
    """An initialised library. Raises `DriverError`."""

    def __init__(self, root: str) -> None:
        path = find_library(root, NAMES, DIRECTORIES, PRESENCE)
        self._library = DriverLibrary(path, FUNCTIONS, MEANINGS, remedy="see mx-smi and dmesg")
        self._library.call("mxSmlInit")

    def count(self) -> int:
        """How many cards there are."""
        return int(self._library.call("mxSmlGetDeviceCount"))

    def info(self, card: int) -> DeviceInfo:
        """What the card is."""
        found = DeviceInfo()
        self._library.call("mxSmlGetDeviceInfo", card, byref(found))
        return found

    def memory(self, card: int) -> MemoryInfo:
        """Its memory."""
        found = MemoryInfo()
        self._library.call("mxSmlGetMemoryInfo", card, byref(found))
        return found

    def ailment(self, card: int) -> str:
        """Why it does not work; empty when it does, and where the driver cannot tell."""
        if not self._library.has("mxSmlGetDeviceState"):
            return ""
        state = c_int()
        self._library.call("mxSmlGetDeviceState", card, byref(state))
        if state.value:
            return ""
        found = Unavailable()
        try:
            self._library.call("mxSmlGetDieUnavailableReason", card, 0, byref(found))
        except DriverError:
            return "the driver says that it is not available"
        reason = bytes(found.reason).decode("utf-8", "backslashreplace")
        return f"the driver says that it is not available: {reason or found.code}"
