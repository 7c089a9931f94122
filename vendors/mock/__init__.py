"""The mock vendor: every part of the product without hardware.

A *profile* describes a node and what happens to it over time; `scenario` says what a driver
would answer at any moment of it, `node` is the backend, `replay` makes a profile of what a real
driver said. Serves only where the operator names it.
"""

from deviceplugin.vendor import Vendor

VENDOR = Vendor(
    name="mock",
    node="deviceplugin.vendors.mock.node:create",
    resource="mock.deviceplugin.dev/gpu",
    scheduling="deviceplugin.vendors.mock.scheduling:backends",
)
