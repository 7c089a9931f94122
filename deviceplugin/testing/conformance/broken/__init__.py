"""A sound vendor, and vendors that break one promise each: the checks' own test, and examples of
what goes wrong. `VENDORS` are the broken ones by the check that each fails.
"""

from deviceplugin.testing.conformance.broken.vendors import SOUND, VENDORS

__all__ = ["SOUND", "VENDORS"]
