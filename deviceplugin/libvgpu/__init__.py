"""libvgpu's shared region: the file in which the processes of one container keep what they may use
and what they use of their devices.

A library in its own right: it reads files of every layout that HAMi-core wrote, writes the two
fields that are a monitor's to write, and says whether limits are in force. It trusts no byte of
these files and imports nothing of ours. Source: hami-nvidia-node.md 6.
"""

from deviceplugin.libvgpu.contents import MOUNT_POINT, is_region, names, region_name
from deviceplugin.libvgpu.files import (
    Fault,
    Field,
    RegionError,
    directory,
    read_region,
    read_region_at,
    write_fields_at,
)
from deviceplugin.libvgpu.isolation import DeviceGrant, Isolation, Reason, isolation, positions
from deviceplugin.libvgpu.layouts import LAYOUTS, Layout
from deviceplugin.libvgpu.region import FileFacts, Memory, Process, Region, Utilisation

__all__ = [
    "LAYOUTS",
    "MOUNT_POINT",
    "DeviceGrant",
    "Fault",
    "Field",
    "FileFacts",
    "Isolation",
    "Layout",
    "Memory",
    "Process",
    "Reason",
    "Region",
    "RegionError",
    "Utilisation",
    "directory",
    "is_region",
    "isolation",
    "names",
    "positions",
    "read_region",
    "read_region_at",
    "region_name",
    "write_fields_at",
]
