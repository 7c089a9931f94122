"""NVIDIA GPUs: whole, in shares that libvgpu limits, time-sliced, by MPS, or as MIG instances.

`discovery` reads the driver through NVML, `plan` divides what it found, `edits`, `exposure` and
`cdi` say what a container gets, `health` listens to the driver, `mps` runs NVIDIA's daemons.
"""

from deviceplugin.vendor import Vendor

VENDOR = Vendor(
    name="nvidia",
    node="deviceplugin.vendors.nvidia.node:NvidiaNode",
    resource="nvidia.com/gpu",
    scheduling="deviceplugin.vendors.nvidia.scheduling:backends",
    profile="deviceplugin.vendors.nvidia:profile.yaml",
    presence=(
        "dev/nvidiactl",
        "dev/nvidia[0-9]*",
        "dev/dxg",
        "proc/driver/nvidia/version",
        "run/nvidia/driver/dev/nvidiactl",
        "etc/nv_tegra_release",
    ),
)
