"""What both halves must say alike: names of resources, and the annotations by which scheduler and
agent understand each other. Nothing of the driver is here.
"""

from deviceplugin.vendor import MUTEX_LOCK, Registration, VendorKeys
from deviceplugin.vendor.scheduling import Resources

RESOURCES = Resources(
    count="acme.example.com/accelerator",
    memory="acme.example.com/memory",
    cores="acme.example.com/cores",
)
KEYS = VendorKeys(
    common_word="Acme",
    registration=Registration.JSON,
    register="acme.example.com/node-register",
    handshake="acme.example.com/node-handshake",
    lock=MUTEX_LOCK,
    to_allocate="acme.example.com/devices-to-allocate",
    allocated="acme.example.com/devices-allocated",
    use_uuid="acme.example.com/use-uuid",
    avoid_uuid="acme.example.com/no-use-uuid",
)
