"""The configuration in the words of others: of a vendor's node half, and of a listing. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from deviceplugin import vendor
from deviceplugin.config.options import OPTIONS, Option
from deviceplugin.config.schema import Config

__all__ = ["effective", "section_of", "settings_of", "vendor_settings"]

NONE: Mapping[str, object] = MappingProxyType({})


def effective(config: Config, option: Option) -> object:
    """The value that an option has in a configuration. `option.field` must not be empty."""
    value: object = config
    for part in option.field.split("."):
        value = getattr(value, part)
    return value


def section_of(config: Config, descriptor: vendor.Vendor) -> Mapping[str, object]:
    """A vendor's part of the file: its own section, and below it what it shares with others."""
    own = config.sections.get(descriptor.section or descriptor.name, NONE)
    shared: dict[str, object] = {}
    for key in descriptor.shared_sections:
        found = config.sections.get(key)
        if found is not None:  # a list is kept below its own name
            shared[key] = found[key] if set(found) == {key} else found
    return MappingProxyType({**own, **shared}) if shared else own


def settings_of(config: Config, descriptor: vendor.Vendor) -> vendor.VendorSettings:
    """What a vendor may know of this node."""
    return replace(vendor_settings(config, ""), section=section_of(config, descriptor))


def vendor_settings(config: Config, section: str) -> vendor.VendorSettings:
    """What a vendor may know: its `section` of the file, the options that concern vendors by
    their file key, and the operator's replicas by resource.
    """
    sharing = {
        resource: vendor.Replicas(
            count=entry.replicas,
            sharing=kind,
            rename=f"{resource}.shared" if entry.renamed else "",
            fail_requests_greater_than_one=entry.fail_requests_greater_than_one,
        )
        for kind, entries in (
            (vendor.Sharing.TIME_SLICING, config.sharing.time_slicing),
            (vendor.Sharing.MPS, config.sharing.mps),
        )
        for resource, entry in entries.items()
    }
    return vendor.VendorSettings(
        node_name=config.node_name,
        host_root=config.paths.host_root,
        enforce_isolation=config.isolation != "none",
        section=config.sections.get(section, NONE),
        options=MappingProxyType(
            {
                option.vendor_key: effective(config, option)
                for option in OPTIONS
                if option.vendor_key
            }
        ),
        sharing=MappingProxyType(sharing),
    )
