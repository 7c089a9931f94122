"""MetaX GPUs: whole, or in sGPUs that the driver makes."""

from deviceplugin.vendor import Vendor

VENDOR = Vendor(
    name="metax",
    node="deviceplugin.vendors.metax.node:MetaxNode",
    resource="metax-tech.com/gpu",
    presence=("dev/mxcd",),
    scheduling="deviceplugin.vendors.metax.scheduling:backends",
    profile="deviceplugin.vendors.metax:profile.yaml",
)
