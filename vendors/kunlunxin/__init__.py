"""Kunlunxin XPUs: whole, or in virtual XPUs that the container toolkit limits."""

from deviceplugin.vendor import Vendor

VENDOR = Vendor(
    name="kunlunxin",
    node="deviceplugin.vendors.kunlunxin.node:KunlunxinNode",
    resource="kunlunxin.com/xpu",
    presence=("dev/xpuctrl", "dev/xpu[0-9]*"),
    scheduling="deviceplugin.vendors.kunlunxin.scheduling:backends",
    section="kunlun",
    profile="deviceplugin.vendors.kunlunxin:profile.yaml",
)
