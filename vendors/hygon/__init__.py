"""Hygon DCUs: whole, or in virtual DCUs of some compute units and memory."""

from deviceplugin.vendor import Vendor

VENDOR = Vendor(
    name="hygon",
    node="deviceplugin.vendors.hygon.node:HygonNode",
    resource="hygon.com/dcunum",
    presence=("dev/mkfd",),
    library_path=("/opt/hyhal/lib", "/opt/dtk/lib", "/opt/dtk/rocm_smi/lib"),
    scheduling="deviceplugin.vendors.hygon.scheduling:backends",
    profile="deviceplugin.vendors.hygon:profile.yaml",
)
