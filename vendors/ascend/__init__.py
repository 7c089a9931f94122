"""Huawei Ascend NPUs: whole, or in virtual NPUs that driver and runtime hold apart."""

from deviceplugin.vendor import Vendor

VENDOR = Vendor(
    name="ascend",
    node="deviceplugin.vendors.ascend.node:AscendNode",
    resource="huawei.com/Ascend910B4",
    presence=("dev/davinci_manager", "dev/davinci[0-9]*"),
    library_path=(
        "/usr/local/Ascend/driver/lib64",
        "/usr/local/Ascend/driver/lib64/driver",
        "/usr/local/Ascend/driver/lib64/common",
    ),
    scheduling="deviceplugin.vendors.ascend.scheduling:backends",
    shared_sections=("vnpus",),
    profile="deviceplugin.vendors.ascend:profile.yaml",
)
