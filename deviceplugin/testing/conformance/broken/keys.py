"""The annotations of the sound vendor."""

from deviceplugin.api.hami.keys import MUTEX_LOCK, Registration, VendorKeys

RESOURCE = "sound.example.com/card"
KEYS = VendorKeys(
    common_word="Sound",
    registration=Registration.JSON,
    register="sound.example.com/node-register",
    handshake="sound.example.com/node-handshake",
    lock=MUTEX_LOCK,
    to_allocate="sound.example.com/devices-to-allocate",
    allocated="sound.example.com/devices-allocated",
    use_uuid="sound.example.com/use-uuid",
)
