"""Finds vendors by entry point and loads their halves; a broken one is reported and left out.

Built-in vendors come through the same group as a stranger's, so nothing here knows a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deviceplugin.vendor import NodeBackend, Vendor, VendorSettings

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from deviceplugin.vendor.scheduling import SchedulingBackend

GROUP = "deviceplugin.vendors"

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class BrokenVendor:
    """An entry point that gave no vendor: whose it is and why, for people."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Registry:
    """The vendors that can be served, by name, and those that cannot."""

    vendors: dict[str, Vendor]
    broken: tuple[BrokenVendor, ...] = ()


def installed() -> Iterable[EntryPoint]:
    """The entry points of all installed distributions."""
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def load(entries: Iterable[EntryPoint] | None = None) -> Registry:
    """Load every descriptor. Never raises for what a stranger's module does on import.

    `entries` defaults to what is installed. Two entry points of one name: the first in the order
    of their values serves, the other is reported.
    """
    vendors: dict[str, Vendor] = {}
    broken: list[BrokenVendor] = []
    for entry in sorted(installed() if entries is None else entries, key=lambda e: e.value):
        reason = ""
        try:
            vendor = entry.load()
        except (Exception, SystemExit) as error:
            vendor, reason = None, _why(error)
        reason = reason or _unfit(vendor)
        if not reason and vendor.name in vendors:
            reason = f"the name {vendor.name!r} is taken by another entry point"
        if reason:
            broken.append(BrokenVendor(entry.name, entry.value, reason))
        else:
            vendors[vendor.name] = vendor
    return Registry(dict(sorted(vendors.items())), tuple(broken))


def _unfit(vendor: object) -> str:
    """Why an object cannot be served as a vendor; its name becomes part of file and CDI names."""
    if not isinstance(vendor, Vendor):
        return f"it is a {type(vendor).__name__}, not a deviceplugin.vendor.Vendor"
    if not isinstance(vendor.name, str) or not _NAME.fullmatch(vendor.name):
        return (
            f"its name {vendor.name!r:.80} is not made of lower-case letters, digits and - only, "
            "a letter first, 2 to 32 of them"
        )
    for field in ("presence", "library_path", "shared_sections"):
        value = getattr(vendor, field)
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            return f"its {field} is {value!r:.80}, not a tuple of strings"
    return ""


def _why(error: BaseException) -> str:
    """A sentence about a failed import; a clash of protobuf stubs gets its own explanation."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, TypeError) and "duplicate symbol" in text:
        return (
            "it brings its own generated stubs of a kubelet API that this process has already "
            "loaded; import deviceplugin.api.kubelet instead of a second copy "
            f"({text.splitlines()[0]})"
        )
    return text


def is_present(vendor: Vendor, root: Path) -> bool:
    """Whether one of the vendor's traces is below the host's root. Raises what looking for them
    raises: `OSError`, and `ValueError` and `NotImplementedError` for a pattern that is none.
    """
    return any(
        next(root.glob(pattern.lstrip("/")), None) is not None for pattern in vendor.presence
    )


def load_backend(vendor: Vendor, settings: VendorSettings) -> NodeBackend:
    """The node half of a vendor. Raises `RuntimeError` for whatever its module raises on import
    or creation.
    """
    try:
        return load_node(vendor.node, settings)
    except (Exception, SystemExit) as error:
        raise RuntimeError(
            f"its node half {vendor.node} cannot be loaded: {_why(error)}"
        ) from error


def load_scheduling(vendor: Vendor, section: Mapping[str, Any]) -> tuple[SchedulingBackend, ...]:
    """The scheduling half of a vendor for its section, empty where it has none. Raises
    `RuntimeError` for whatever its module raises.
    """
    if not vendor.scheduling:
        return ()
    from deviceplugin.vendor.scheduling import SchedulingSettings

    module, _, attribute = vendor.scheduling.partition(":")
    try:
        return tuple(getattr(import_module(module), attribute)(SchedulingSettings(section)))
    except (Exception, SystemExit) as error:
        raise RuntimeError(
            f"its scheduling half {vendor.scheduling} cannot be loaded: {_why(error)}"
        ) from error


def load_node(node: str, settings: VendorSettings) -> NodeBackend:
    """The node half that ``module:attribute`` names, made for these settings."""
    module, _, attribute = node.partition(":")
    backend = getattr(import_module(module), attribute)(settings)
    if not isinstance(backend, NodeBackend):
        raise TypeError(f"{node} gives a {type(backend).__name__} without discover() and edits()")
    return backend
