"""Acme accelerators: the descriptor, cheap to import."""

from deviceplugin.vendor import Vendor

VENDOR = Vendor(
    name="acme",
    node="acme_accelerator.node:AcmeNode",
    resource="acme.example.com/accelerator",
    presence=("dev/acme[0-9]*",),
    scheduling="acme_accelerator.scheduling:backends",
    profile="acme_accelerator:profile.yaml",
)
