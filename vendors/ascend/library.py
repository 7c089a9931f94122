"""DCMI, the library of Huawei's driver: its structures, calls and what its numbers mean.

Source: ascend-and-mock.md A.5. The layouts are those of a 64-bit machine with natural alignment;
the tests hold their sizes against the contract. Only the probe loads the library.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import POINTER, c_char, c_char_p, c_float, c_int, c_uint, c_ushort
from ctypes import c_uint64 as u64
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from deviceplugin.vendor import DriverError
from deviceplugin.vendor.devices import answering, told
from deviceplugin.vendor.driver import DriverLibrary, Function, text_of
from deviceplugin.vendor.sysfs import address

__all__ = ["Dcmi", "Unit", "Vnpu"]

MOST_CARDS = 64
MOST_IN_CARD = 4
MOST_IDS = 256
"""Logic and physical ids are below this (A.5.2)."""
MOST_VDEVICES = 32
MOST_PROCESSES = 32
MOST_CODES = 128
NO_DEVICE = 2**31 - 1
"""From here on a state of health means that there is no such device (A.5.5)."""

NPU, VDIE = 0, 1
VDEV_MANAGEMENT, ONE_VDEV, ALL_VDEVS = 52, 0, 1
CHIP_INFO, SUPER_POD = 12, 1
AI_CORES, MEMORY_BANDWIDTH = 2, 5


class ChipInfo(ctypes.Structure):
    """``dcmi_chip_info``."""

    _fields_ = (
        ("chip_type", c_char * 32),
        ("chip_name", c_char * 32),
        ("chip_ver", c_char * 32),
        ("aicore_cnt", c_uint),
    )


class ChipInfoV2(ctypes.Structure):
    """``dcmi_chip_info_v2``."""

    _fields_ = (*ChipInfo._fields_, ("npu_name", c_char * 32))


class DieId(ctypes.Structure):
    """``dcmi_die_id``."""

    _fields_ = (("soc_die", c_uint * 5),)


class HbmInfo(ctypes.Structure):
    """``dcmi_hbm_info``; memory in MiB."""

    _fields_ = (
        ("memory_size", u64),
        ("freq", c_uint),
        ("memory_usage", u64),
        ("temp", c_int),
        ("bandwidth_util", c_uint),
    )


class MemoryInfo(ctypes.Structure):
    """``dcmi_get_memory_info_stru`` of the call's third version; memory in MiB."""

    _fields_ = (
        ("memory_size", u64),
        ("memory_available", u64),
        ("freq", c_uint),
        ("hugepagesize", ctypes.c_ulong),
        ("hugepages_total", ctypes.c_ulong),
        ("hugepages_free", ctypes.c_ulong),
        ("utiliza", c_uint),
        ("reserve", ctypes.c_ubyte * 60),
    )


class BaseResource(ctypes.Structure):
    """``dcmi_base_resource``."""

    _fields_ = (
        ("token", u64),
        ("token_max", u64),
        ("task_timeout", u64),
        ("vfg_id", c_uint),
        ("vip_mode", ctypes.c_ubyte),
        ("reserved", ctypes.c_ubyte * 31),
    )


class ComputingResource(ctypes.Structure):
    """``dcmi_computing_resource``; `memory_size` in MiB."""

    _fields_ = (
        ("aic", c_float),
        ("aiv", c_float),
        *(
            (name, c_ushort)
            for name in ("dsa", "rtsq", "acsq", "cdqm", "c_core", "ffts", "sdma", "pcie_dma")
        ),
        ("memory_size", u64),
        *((name, c_uint) for name in ("event_id", "notify_id", "stream_id", "model_id")),
        ("topic_schedule_aicpu", c_ushort),
        ("host_ctrl_cpu", c_ushort),
        ("host_aicpu", c_ushort),
        ("device_aicpu", c_ushort),
        ("topic_ctrl_cpu_slot", c_ushort),
        ("vdev_aicore_utilization", c_uint),
        ("vdev_memory_total", u64),
        ("vdev_memory_free", u64),
        ("reserved", ctypes.c_ubyte * 12),
    )


class MediaResource(ctypes.Structure):
    """``dcmi_media_resource``."""

    _fields_ = (
        *((name, c_float) for name in ("jpegd", "jpege", "vpc", "vdec", "pngd", "venc")),
        ("reserved", ctypes.c_ubyte * 32),
    )


class _VdevInfo(ctypes.Structure):
    _fields_ = (
        ("name", c_char * 16),
        ("status", c_uint),
        ("is_container_used", c_uint),
        ("vfid", c_uint),
        ("vfg_id", c_uint),
        ("container_id", u64),
        ("base", BaseResource),
        ("computing", ComputingResource),
        ("media", MediaResource),
    )


class VdevQuery(ctypes.Structure):
    """``dcmi_vdev_query_stru``."""

    _fields_ = (("vdev_id", c_uint), ("query_info", _VdevInfo))


class SocTotal(ctypes.Structure):
    """``dcmi_soc_total_resource``."""

    _fields_ = (
        ("vdev_num", c_uint),
        ("vdev_id", c_uint * MOST_VDEVICES),
        ("vfg_num", c_uint),
        ("vfg_bitmap", c_uint),
        ("base", BaseResource),
        ("computing", ComputingResource),
        ("media", MediaResource),
    )


class SuperPod(ctypes.Structure):
    """``dcmi_spod_info``."""

    _fields_ = (
        ("sdid", c_uint),
        ("scale_type", c_uint),
        ("super_pod_id", c_uint),
        ("server_id", c_uint),
        ("chassis_id", c_uint),
        ("super_pod_type", ctypes.c_ubyte),
        ("reserve", ctypes.c_ubyte * 27),
    )


class ProcessMemory(ctypes.Structure):
    """``dcmi_proc_mem_info``."""

    _fields_ = (("proc_id", c_int), ("proc_mem_usage", ctypes.c_ulong))


class PcieInfo(ctypes.Structure):
    """``dcmi_pcie_info_all``."""

    _fields_ = (
        ("venderid", c_uint),
        ("subvenderid", c_uint),
        ("deviceid", c_uint),
        ("subdeviceid", c_uint),
        ("domain", c_int),
        ("bdf_busid", c_uint),
        ("bdf_deviceid", c_uint),
        ("bdf_funcid", c_uint),
        ("reserve", ctypes.c_ubyte * 32),
    )


_INT, _UINT = POINTER(c_int), POINTER(c_uint)
_UNIT = (c_int, c_int)


class Unit(NamedTuple):
    """A device by DCMI's two numbers: ``npu-smi`` calls them NPU and Chip (A.5.2)."""

    card: int
    device: int

    def __str__(self) -> str:
        return f"card {self.card}, device {self.device}"


@dataclass(frozen=True, slots=True)
class Vnpu:
    """A virtual NPU that exists. `used` says that a container has it open."""

    id: int
    template: str
    used: bool


class Dcmi(DriverLibrary):
    """Devices by their unit. Every method raises `DriverError`."""

    names = ("libdcmi.so",)
    directories = (
        "/usr/local/Ascend/driver/lib64/driver",
        "/usr/local/Ascend/driver/lib64",
        "/usr/local/Ascend/driver/lib64/common",
        "/usr/local/dcmi",
    )
    presence = "/dev/davinci_manager"
    functions = MappingProxyType(
        {
            "dcmi_init": Function(),
            "dcmiv2_init": Function(),
            "dcmi_get_dcmi_version": Function((c_char_p, c_int)),
            "dcmi_get_card_list": Function((_INT, _INT, c_int)),
            "dcmi_get_device_num_in_card": Function((c_int, _INT)),
            "dcmi_get_device_type": Function((*_UNIT, _INT)),
            "dcmi_get_device_logic_id": Function((_INT, *_UNIT)),
            "dcmi_get_device_phyid_from_logicid": Function((c_uint, _UINT)),
            "dcmi_get_device_chip_info": Function((*_UNIT, POINTER(ChipInfo))),
            "dcmi_get_device_chip_info_v2": Function((*_UNIT, POINTER(ChipInfoV2))),
            "dcmi_get_device_die_v2": Function((*_UNIT, c_int, POINTER(DieId))),
            "dcmi_get_device_health": Function((*_UNIT, _UINT)),
            "dcmi_get_device_errorcode_v2": Function((*_UNIT, _INT, _UINT, c_uint)),
            "dcmi_get_device_hbm_info": Function((*_UNIT, POINTER(HbmInfo))),
            "dcmi_get_device_memory_info_v3": Function((*_UNIT, POINTER(MemoryInfo))),
            "dcmi_get_device_utilization_rate": Function((*_UNIT, c_int, _UINT)),
            "dcmi_get_device_pcie_info_v2": Function((*_UNIT, POINTER(PcieInfo))),
            "dcmi_get_device_resource_info": Function((*_UNIT, POINTER(ProcessMemory), _INT)),
            "dcmi_get_device_info": Function((*_UNIT, c_int, c_uint, ctypes.c_void_p, _UINT)),
            "dcmi_set_destroy_vdevice": Function((*_UNIT, c_uint)),
        }
    )
    starts = ("dcmi_init",)
    meanings = MappingProxyType(
        {
            -8001: "bad parameter",
            -8002: "no permission: the agent must run as root in a privileged container",
            -8003: "a memory operation failed",
            -8004: "a secure function failed",
            -8005: "internal error",
            -8006: "timeout",
            -8007: "invalid device id",
            -8008: "the device does not exist",
            -8009: "ioctl failed",
            -8010: "a message could not be sent",
            -8011: "a message could not be received",
            -8012: "not ready: the card has dropped",
            -8013: "not supported in a container",
            -8014: "a file operation failed",
            -8015: "the reset failed",
            -8016: "the reset was cancelled",
            -8017: "an upgrade is under way",
            -8020: "the device's resources are occupied",
            -8022: "partitions are inconsistent",
            -8023: "no such configuration",
            -8255: "not supported by this device",
        }
    )
    remedy = "see `npu-smi info` and the kernel's log on the node"

    def start(self) -> None:
        """Other cards have other calls."""
        if not self.has("dcmi_init") and self.has("dcmiv2_init"):
            raise DriverError(
                f"{self.path} offers dcmiv2_* calls only, as drivers of Ascend 950 do: these "
                "cards are not supported; serve them with Huawei's own plugin"
            )
        super().start()

    def version(self) -> str:
        """The version of DCMI."""
        return self.text("dcmi_get_dcmi_version", 33)

    def units(self, problems: list[str]) -> Iterator[Unit]:
        """Every device of every card; of one that does not answer the reason is in `problems`."""
        number, cards = c_int(0), (c_int * MOST_CARDS)()
        self.call("dcmi_get_card_list", number, cards, MOST_CARDS)
        present = cards[: self._checked("dcmi_get_card_list", number.value, MOST_CARDS)]
        for units in answering(present, self._units, problems):
            yield from units

    def _units(self, card: int) -> list[Unit]:
        call = "dcmi_get_device_num_in_card"
        count = self._checked(call, self.value(call, c_int, card), MOST_IN_CARD)
        return [Unit(card, device) for device in range(count)]

    def is_npu(self, unit: Unit) -> bool:
        """Whether it is an NPU, and no controller or CPU of the card."""
        if not self.has("dcmi_get_device_type"):
            return True
        return bool(self.value("dcmi_get_device_type", c_int, *unit) == NPU)

    def ids(self, unit: Unit) -> tuple[int, int]:
        """The logic id, which is dense on the host, and the physical one of ``/dev/davinci<n>``."""
        logic = c_int(-1)
        call = "dcmi_get_device_logic_id"
        self.call(call, logic, *unit)
        self._checked(call, logic.value, MOST_IDS - 1)
        call = "dcmi_get_device_phyid_from_logicid"
        physical = self.value(call, lambda: c_uint(MOST_IDS), logic.value)
        return logic.value, self._checked(call, physical, MOST_IDS - 1)

    def chip(self, unit: Unit) -> tuple[str, str]:
        """Type and name of the chip. Older drivers know the first version of the call only."""
        newer = partial(self.filled, "dcmi_get_device_chip_info_v2", ChipInfoV2, *unit)
        older = partial(self.filled, "dcmi_get_device_chip_info", ChipInfo, *unit)
        info = (told(newer) or older()) if self.has("dcmi_get_device_chip_info") else newer()
        return text_of(info.chip_type), text_of(info.chip_name)

    def vdie(self, unit: Unit) -> str:
        """The uuid: five words of the die in hexadecimal (A.5.5); empty where it has none."""
        if not self.has("dcmi_get_device_die_v2"):
            return ""
        die = self.filled("dcmi_get_device_die_v2", DieId, *unit, VDIE)
        return "-".join(f"{word:08X}" for word in die.soc_die) if any(die.soc_die) else ""

    def health(self, unit: Unit) -> int:
        """0 is healthy; what other numbers mean is documented nowhere."""
        state = int(self.value("dcmi_get_device_health", c_uint, *unit))
        if state >= NO_DEVICE:
            raise DriverError(f"dcmi_get_device_health tells {state:#x}: no such device")
        return state

    def error_codes(self, unit: Unit) -> tuple[int, ...]:
        """The faults that the driver has found in it."""
        count, codes = c_int(0), (c_uint * MOST_CODES)()
        name = "dcmi_get_device_errorcode_v2"
        self.call(name, *unit, count, codes, MOST_CODES)
        return tuple(codes[: self._checked(name, count.value, MOST_CODES)])

    def memory_mib(self, unit: Unit) -> tuple[int, int]:
        """What there is and what is in use, of HBM or else of DDR: chips have one or the other."""
        hbm = told(partial(self.filled, "dcmi_get_device_hbm_info", HbmInfo, *unit))
        if hbm and hbm.memory_size:
            return int(hbm.memory_size), int(hbm.memory_usage)
        memory = self.filled("dcmi_get_device_memory_info_v3", MemoryInfo, *unit)
        return int(memory.memory_size), max(0, memory.memory_size - memory.memory_available)

    def rate(self, unit: Unit, kind: int) -> int:
        """How busy a part of it is, in percent."""
        name = "dcmi_get_device_utilization_rate"
        return self._checked(name, self.value(name, c_uint, *unit, kind), 100)

    def bus(self, unit: Unit) -> str:
        """The place on the PCI bus."""
        info = self.filled("dcmi_get_device_pcie_info_v2", PcieInfo, *unit)
        domain = info.domain & 0xFFFFFFFF
        return address(domain, info.bdf_busid, info.bdf_deviceid, info.bdf_funcid)

    def super_pod(self, unit: Unit) -> int:
        """The number of the super pod that it belongs to."""
        info = SuperPod()
        self._info(unit, CHIP_INFO, SUPER_POD, info)
        return int(info.super_pod_id)

    def vnpus(self, unit: Unit) -> tuple[Vnpu, ...]:
        """The vNPUs that exist on it."""
        total = SocTotal()
        self._info(unit, VDEV_MANAGEMENT, ALL_VDEVS, total)
        found = []
        for identity in total.vdev_id[: self._checked("vdev_num", total.vdev_num, MOST_VDEVICES)]:
            one = VdevQuery(vdev_id=identity)
            self._info(unit, VDEV_MANAGEMENT, ONE_VDEV, one)
            info = one.query_info
            found.append(Vnpu(identity, text_of(info.name), info.is_container_used != 0))
        return tuple(found)

    def busy(self, unit: Unit) -> bool:
        """Whether a process of the host or of a container uses it."""
        found, count = (ProcessMemory * MOST_PROCESSES)(), c_int(0)
        name = "dcmi_get_device_resource_info"
        self.call(name, *unit, found, count)
        return self._checked(name, count.value, MOST_PROCESSES) > 0

    def destroy(self, unit: Unit, vnpu: int) -> None:
        """Remove a vNPU."""
        self.call("dcmi_set_destroy_vdevice", *unit, vnpu)

    def _info(self, unit: Unit, main: int, sub: int, buffer: ctypes.Structure) -> None:
        size = c_uint(ctypes.sizeof(buffer))
        self.call("dcmi_get_device_info", *unit, main, sub, ctypes.byref(buffer), size)

    @staticmethod
    def _checked(what: str, value: int, most: int) -> int:
        if not 0 <= value <= most:
            raise DriverError(
                f"{what} tells {value}, of 0 to {most} that there may be: library and driver do "
                "not fit together; install both from one package"
            )
        return value
