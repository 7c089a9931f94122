"""The scheduling half: that of the vendor whose part is played, or plain shares of our own."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from deviceplugin.vendor import VendorSettings
from deviceplugin.vendor.plain import Plain
from deviceplugin.vendor.scheduling import Resources, SchedulingBackend, SchedulingSettings
from deviceplugin.vendors.mock.configuration import configured


def backends(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """Whatever the section says that the mock is. Raises `ValueError`."""
    found = configured(VendorSettings(section=settings.section))
    vendor = found.imitated
    if vendor is None:
        count = found.profile.resource
        names = Resources(count, f"{count}-memory", f"{count}-cores")
        return [Plain(found.keys, names)]
    if not vendor.scheduling:
        return []
    module, _, attribute = vendor.scheduling.partition(":")
    made: Sequence[SchedulingBackend] = getattr(import_module(module), attribute)(
        SchedulingSettings(found.section)
    )
    return made
