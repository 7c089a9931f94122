"""The file's ``sharing`` half: replicas a resource (kubelet-deviceplugin.md 4.1). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from deviceplugin.api.fields import FLAG, TEXT, Fields, Kind, UnfitError, pick, resource_name, whole
from deviceplugin.api.problems import Problem, unknown_keys
from deviceplugin.config.schema import Replicas, Sharing

__all__ = ["parse_sharing"]

_KINDS = ("timeSlicing", "mps")
_KEYS = ("renameByDefault", "failRequestsGreaterThanOne", "resources")
_ENTRY_KEYS = ("name", "rename", "devices", "replicas")
_FAIL_BY_DEFAULT = {"timeSlicing": False, "mps": True}
_DEVICE = re.compile(r"\d+(:\d+)?|(MIG-)?(GPU-)?[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
                     r"(/\d+/\d+)?", re.ASCII)  # fmt: skip

NONE: Mapping[str, Replicas] = MappingProxyType({})
SHARED = ".shared"


def _with_domain(value: object) -> object:
    return f"nvidia.com/{value}" if isinstance(value, str) and value and "/" not in value else value


_NAME: Kind[str] = pick(Kind("domain/name", resource_name), _with_domain)


def parse_sharing(
    document: Mapping[str, object], source: str, problems: list[Problem], warnings: list[Problem]
) -> Sharing:
    """What the document says of sharing. A part that is wrong is left out and is a problem.

    With both kinds MPS wins as a whole, and time slicing is checked all the same.
    """
    sharing = Fields(document, source, "", problems).mapping("sharing")
    warnings += unknown_keys(sharing.data, _KINDS, source, "sharing")
    parsed = {
        kind: _resources(sharing, kind, warnings) if sharing.data.get(kind) is not None else NONE
        for kind in _KINDS
    }
    if parsed["mps"] and parsed["timeSlicing"]:
        warnings.append(
            Problem(
                source,
                "sharing.timeSlicing",
                None,
                "ignored, because sharing.mps wins",
                "remove one of the two",
            )
        )
        parsed["timeSlicing"] = NONE
    return Sharing(time_slicing=parsed["timeSlicing"], mps=parsed["mps"])


def _resources(sharing: Fields, kind: str, warnings: list[Problem]) -> Mapping[str, Replicas]:
    block = sharing.mapping(kind)
    warnings += unknown_keys(block.data, _KEYS, block.source, block.path)
    renamed = block.get("renameByDefault", FLAG, False)
    fail = block.get("failRequestsGreaterThanOne", FLAG, _FAIL_BY_DEFAULT[kind])
    entries = block.mappings("resources")
    empty = block.data.get("resources") in (None, ())
    if not entries and empty and isinstance(sharing.data[kind], Mapping):
        block.wrong(
            "resources", "an empty list", f"name a resource and its replicas, or remove {kind}"
        )
    found: dict[str, Replicas] = {}
    for entry in entries:
        warnings += unknown_keys(entry.data, _ENTRY_KEYS, entry.source, entry.path)
        for key in ("name", "replicas"):
            if entry.data.get(key) in (None, ""):
                entry.wrong(key, "missing", "write both name and replicas")
        name = entry.get("name", _NAME, "")
        replicas = entry.get("replicas", whole(2, 10_000), 0)
        _ignored(entry, name, renamed, warnings)
        if not name or not replicas:
            continue
        if name in found:
            entry.wrong("name", f"{name} stands in the list twice", "keep one entry a resource")
        elif renamed and len(name + SHARED) > 63:
            entry.wrong("name", f"longer than 63 characters with {SHARED}", "shorten the name")
        else:
            found[name] = Replicas(replicas, fail, renamed)
    return MappingProxyType(found)


def _ignored(entry: Fields, name: str, renamed: bool, warnings: list[Problem]) -> None:
    """The two keys that NVIDIA's plugin reads, checks and then drops with a warning."""
    rename = entry.get("rename", TEXT, "")
    expected = name + SHARED if renamed else ""
    if rename and name and rename not in (expected, expected.partition("/")[2]):
        remedy = "remove it; renameByDefault gives the name a suffix"
        warnings.append(
            Problem(
                entry.source, entry.place("rename"), rename, "ignored: no free renaming", remedy
            )
        )
    devices = entry.get("devices", _DEVICES, "all")
    if devices != "all":
        warnings.append(
            Problem(
                entry.source,
                entry.place("devices"),
                entry.data.get("devices"),
                "ignored: replicas are made of all devices",
                "write devices: all, or remove it",
            )
        )


def _devices(value: object) -> str:
    """``all``, or ``some`` for a count or a list; only that difference matters."""
    if value == "all":
        return "all"
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return "some"
    if isinstance(value, tuple | list) and value:
        for item in value:
            known = isinstance(item, int) and not isinstance(item, bool) and item >= 0
            if not known and not (isinstance(item, str) and _DEVICE.fullmatch(item)):
                raise UnfitError("not a device", "write indexes (0), MIG indexes (0:1) or uuids")
        return "some"
    raise UnfitError("not a choice of devices", "write all, a positive count, or a list")


_DEVICES: Kind[str] = Kind("all", _devices)
