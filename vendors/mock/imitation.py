"""Another vendor over simulated devices: what is discovered comes from the profile, everything
else (resources, annotations, what containers get) from the vendor itself, found by entry point
like any other. So an imitation answers exactly what the vendor would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any

from deviceplugin import cdi
from deviceplugin.vendor import (
    ContainerEdits,
    Grant,
    InventoryWriter,
    NodeBackend,
    Owner,
    Snapshot,
    Vendor,
    VendorSettings,
)

GROUP = "deviceplugin.vendors"

SIMULATED = ("discover", "watch_health", "usage")
"""What the profile answers in the vendor's place."""

UNNEEDED = ("impediment",)
"""What checks that the machine can hold limits: there are none to hold."""


def installed_names() -> list[str]:
    """The vendors that can be imitated."""
    from importlib.metadata import entry_points  # only who imitates pays for it

    return sorted({entry.name for entry in entry_points(group=GROUP)} - {"mock"})


def vendor_named(name: str) -> Vendor | None:
    """The installed vendor of that name, None when there is none."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP, name=name):
        found = entry.load()
        if isinstance(found, Vendor):
            return found
    return None


def own_profile(vendor: Vendor) -> str:
    """The text of the profile that a vendor brings along; empty when it brings none."""
    from importlib import resources

    package, _, name = vendor.profile.partition(":")
    return resources.files(package).joinpath(name).read_text("utf-8") if name else ""


def imitation(
    vendor: Vendor, settings: VendorSettings, simulated: object, *, harmless: bool
) -> NodeBackend:
    """The vendor's backend with its devices simulated. `settings` are the imitated vendor's own.

    One that is `harmless` can be run where nothing of the vendor is installed: device nodes come
    from /dev/null, and mounts and hooks of what is not there are left out.
    """
    module, _, attribute = vendor.node.partition(":")
    real = getattr(import_module(module), attribute)(settings)
    members: dict[str, Callable[..., Any]] = {}
    for name in dir(real):
        if name.startswith("_") or name in (*SIMULATED, *UNNEEDED):
            continue
        if callable(getattr(real, name)):
            members[name] = _forwarded(real, name)
    for name in SIMULATED:
        if hasattr(simulated, name):
            members[name] = _forwarded(simulated, name)
    if harmless:
        members["edits"] = _harmless(real)
        if isinstance(real, InventoryWriter):
            members["cdi_specs"] = _harmless_specs(real)
    made: NodeBackend = type(f"Imitated{vendor.name.capitalize()}", (), members)()
    return made


def _forwarded(target: object, name: str) -> Callable[..., Any]:
    """A method of the class, because capabilities are told by what a class has."""

    def call(_self: object, *arguments: Any) -> Any:
        return getattr(target, name)(*arguments)

    return call


def _harmless(real: NodeBackend) -> Callable[..., ContainerEdits]:
    def edits(_self: object, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        found = real.edits(grants, owner)
        made = [PurePosixPath(one.path) for one in found.host_directories]
        return replace(
            found,
            device_nodes=tuple(replace(n, host_path="/dev/null") for n in found.device_nodes),
            mounts=tuple(
                mount
                for mount in found.mounts
                if any(PurePosixPath(mount.host_path).is_relative_to(path) for path in made)
            ),
            hooks=(),
        )

    return edits


def _harmless_specs(real: InventoryWriter) -> Callable[..., Sequence[cdi.Spec]]:
    def tamed(edits: cdi.ContainerEdits) -> cdi.ContainerEdits:
        nodes = tuple(replace(n, host_path="/dev/null", type="") for n in edits.device_nodes)
        return replace(edits, device_nodes=nodes, mounts=(), hooks=())

    def cdi_specs(_self: object, snapshot: Snapshot) -> Sequence[cdi.Spec]:
        return [
            replace(
                spec,
                container_edits=tamed(spec.container_edits),
                devices=tuple(
                    replace(device, container_edits=tamed(device.container_edits))
                    for device in spec.devices
                ),
            )
            for spec in real.cdi_specs(snapshot)
        ]

    return cdi_specs
