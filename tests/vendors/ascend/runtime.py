"""What ascend-docker-runtime asks of the fake driver: it makes the vNPU of a container.

Source: ascend-and-mock.md A.5, A.8. Run with the driver's path and a list of templates in JSON.
"""

from __future__ import annotations

import ctypes
import json
import sys
from ctypes import c_char, c_uint

from deviceplugin.vendors.ascend.library import (
    VDEV_MANAGEMENT,
    BaseResource,
    ComputingResource,
    MediaResource,
)

DRIVER_CHOOSES = 0xFFFFFFFF
FREE = 2


class CreateVdevice(ctypes.Structure):
    """``dcmi_create_vdev_res_stru``."""

    _fields_ = (
        ("vdev_id", c_uint),
        ("vfg_id", c_uint),
        ("template_name", c_char * 32),
        ("reserved", ctypes.c_ubyte * 64),
    )


class CreatedVdevice(ctypes.Structure):
    """``dcmi_create_vdev_out``."""

    _fields_ = (
        ("vdev_id", c_uint),
        ("pcie_bus", c_uint),
        ("pcie_device", c_uint),
        ("pcie_func", c_uint),
        ("vfg_id", c_uint),
        ("reserved", ctypes.c_ubyte * 32),
    )


class SocFree(ctypes.Structure):
    """``dcmi_soc_free_resource``."""

    _fields_ = (
        ("vfg_num", c_uint),
        ("vfg_bitmap", c_uint),
        ("base", BaseResource),
        ("computing", ComputingResource),
        ("media", MediaResource),
    )


def main(library: str, templates: list[str]) -> None:
    """Makes vNPUs on the first card; what became of each, and what the card has left."""
    dcmi, made = ctypes.CDLL(library), []
    assert dcmi.dcmi_init() == 0
    sizes = [ctypes.sizeof(kind) for kind in (CreateVdevice, CreatedVdevice, SocFree)]
    assert sizes == [104, 52, 224], sizes
    for name in templates:
        out = CreatedVdevice()
        asked = CreateVdevice(DRIVER_CHOOSES, DRIVER_CHOOSES, name.encode())
        status = dcmi.dcmi_create_vdevice(0, 0, ctypes.byref(asked), ctypes.byref(out))
        made.append(status or out.vdev_id)
    left, size = SocFree(), c_uint(ctypes.sizeof(SocFree))
    dcmi.dcmi_get_device_info(0, 0, VDEV_MANAGEMENT, FREE, ctypes.byref(left), ctypes.byref(size))
    free = left.computing
    told = {"cores": free.aic, "cpus": free.device_aicpu, "memory": free.memory_size}
    json.dump({"made": made, **told}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
