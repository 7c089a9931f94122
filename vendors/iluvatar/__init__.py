"""Iluvatar GPUs: whole, or in shares that a scheduler counts."""

from deviceplugin.vendor import Vendor

VENDOR = Vendor(
    name="iluvatar",
    node="deviceplugin.vendors.iluvatar.node:IluvatarNode",
    resource="iluvatar.ai/BI-V150-vgpu",
    presence=("dev/iluvatar[0-9]*", "dev/itrctl"),
    scheduling="deviceplugin.vendors.iluvatar.scheduling:backends",
    shared_sections=("iluvatars",),
    profile="deviceplugin.vendors.iluvatar:profile.yaml",
)
