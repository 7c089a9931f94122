"""Between a specification and the text of its file (cdi.md 1.1).

Written is JSON, the safest form that every reader takes. Read are JSON and YAML, strictly: an
unknown or a doubled key is an error, because it is one for the runtime, which then does not see the
whole file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deviceplugin.cdi.errors import CDIError, Problem, error
from deviceplugin.cdi.model import (
    ContainerEdits,
    Device,
    DeviceNode,
    Hook,
    IntelRdt,
    Mount,
    NetDevice,
    Spec,
)
from deviceplugin.cdi.validation import check
from deviceplugin.cdi.versions import CURRENT, rank, required_version

# Per type: name in the file -> (attribute, Python type of the value, must be there).
_Fields = dict[str, tuple[str, type, bool]]
_NODE: _Fields = {
    "path": ("path", str, True),
    "hostPath": ("host_path", str, False),
    "type": ("type", str, False),
    "major": ("major", int, False),
    "minor": ("minor", int, False),
    "fileMode": ("file_mode", int, False),
    "permissions": ("permissions", str, False),
    "uid": ("uid", int, False),
    "gid": ("gid", int, False),
}
_MOUNT: _Fields = {
    "hostPath": ("host_path", str, True),
    "containerPath": ("container_path", str, True),
    "options": ("options", tuple, False),
    "type": ("type", str, False),
}
_HOOK: _Fields = {
    "hookName": ("hook_name", str, True),
    "path": ("path", str, True),
    "args": ("args", tuple, False),
    "env": ("env", tuple, False),
    "timeout": ("timeout", int, False),
}
_NET: _Fields = {
    "hostInterfaceName": ("host_interface_name", str, True),
    "name": ("name", str, True),
}
_RDT: _Fields = {
    "closID": ("clos_id", str, False),
    "l3CacheSchema": ("l3_cache_schema", str, False),
    "memBwSchema": ("mem_bw_schema", str, False),
    "schemata": ("schemata", tuple, False),
    "enableMonitoring": ("enable_monitoring", bool, False),
}
_LISTS: dict[str, tuple[str, type, _Fields]] = {
    "deviceNodes": ("device_nodes", DeviceNode, _NODE),
    "netDevices": ("net_devices", NetDevice, _NET),
    "hooks": ("hooks", Hook, _HOOK),
    "mounts": ("mounts", Mount, _MOUNT),
}
_EDIT_KEYS = ("env", *_LISTS, "intelRdt", "additionalGids")


def with_version(spec: Spec) -> Spec:
    """The specification with the lowest version that covers it, where it states none."""
    return spec if spec.cdi_version else replace(spec, cdi_version=required_version(spec))


def to_dict(spec: Spec) -> dict[str, Any]:
    """The specification as the plain data of its file; what is empty is left out."""
    spec = with_version(spec)
    data: dict[str, Any] = {"cdiVersion": spec.cdi_version, "kind": spec.kind}
    if spec.annotations:
        data["annotations"] = dict(spec.annotations)
    data["devices"] = [_device_to_dict(device) for device in spec.devices]
    if spec.container_edits:
        data["containerEdits"] = edits_to_dict(spec.container_edits)
    return data


def edits_to_dict(edits: ContainerEdits) -> dict[str, Any]:
    """Edits as plain data; what is empty is left out."""
    data: dict[str, Any] = {"env": list(edits.env)} if edits.env else {}
    for key, (attribute, _, fields) in _LISTS.items():
        if items := getattr(edits, attribute):
            data[key] = [_object_to_dict(item, fields) for item in items]
    if edits.intel_rdt:
        data["intelRdt"] = _object_to_dict(edits.intel_rdt, _RDT)
    if edits.additional_gids:
        data["additionalGids"] = list(edits.additional_gids)
    return data


def dumps(spec: Spec) -> str:
    """The text of the file, as JSON. Raises `CDIError` when the specification is not valid."""
    check(spec := with_version(spec))
    return json.dumps(to_dict(spec), separators=(",", ":")) + "\n"


def loads(text: str, source: str = "", *, yaml: bool = False, newest: str = CURRENT) -> Spec:
    """The valid specification in a text. `newest` is the newest version that the reader knows.

    Raises `CDIError` naming `source` and the field.
    """
    if not text.strip():
        raise error("the file is empty", source=source)
    data = _parse_yaml(text, source) if yaml else _parse_json(text, source)
    spec = _Reader(source).spec(data)
    check(spec, source, strict=False)
    if rank(spec.cdi_version) > rank(newest):
        raise error(
            f"this reader knows versions up to {newest}",
            spec.cdi_version,
            source=source,
            field="cdiVersion",
        )
    return spec


def _device_to_dict(device: Device) -> dict[str, Any]:
    data: dict[str, Any] = {"name": device.name}
    if device.annotations:
        data["annotations"] = dict(device.annotations)
    data["containerEdits"] = edits_to_dict(device.container_edits)
    return data


def _object_to_dict(value: object, fields: _Fields) -> dict[str, Any]:
    data = {}
    for key, (attribute, kind, required) in fields.items():
        item = getattr(value, attribute)
        # uid, gid and timeout of 0 say something; every other empty value says nothing
        if required or (item is not None and (item or attribute in ("uid", "gid", "timeout"))):
            data[key] = list(item) if kind is tuple else item
    return data


def _parse_json(text: str, source: str) -> object:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise error("the key stands twice", key, source=source)
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except (json.JSONDecodeError, RecursionError) as problem:
        raise error(f"not JSON: {problem}", source=source) from None


def _parse_yaml(text: str, source: str) -> object:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses doubled keys, which YAML readers of runtimes refuse too."""

    def mapping(loader: Loader, node: yaml.MappingNode) -> dict[object, object]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise error("the key stands twice", str(key), source=source)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        return yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as problem:
        raise error(f"not YAML: {problem}", source=source) from None
    except RecursionError:
        raise error("not YAML: nested too deeply", source=source) from None


class _Reader:
    """Plain data to values; collects nothing, the first wrong shape ends it with its place."""

    def __init__(self, source: str) -> None:
        self._source = source

    def spec(self, data: object) -> Spec:
        top = self._mapping("", data)
        self._known("", top, ("cdiVersion", "kind", "annotations", "devices", "containerEdits"))
        for key in ("cdiVersion", "kind"):
            if key not in top:
                raise self._wrong(key, "", "the field is missing")
        devices = top.get("devices") or []
        if not isinstance(devices, list):
            raise self._wrong("devices", devices, "a list is wanted")
        spec = Spec(
            kind=self._value("kind", top["kind"], str),
            devices=tuple(self._device(f"devices[{i}]", item) for i, item in enumerate(devices)),
            container_edits=self._edits("containerEdits", top.get("containerEdits")),
            annotations=self._texts("annotations", top.get("annotations")),
            cdi_version=self._value("cdiVersion", top["cdiVersion"], str),
        )
        if not spec.cdi_version:
            raise self._wrong("cdiVersion", "", "the field is empty")
        return spec

    def _device(self, place: str, data: object) -> Device:
        device = self._mapping(place, data)
        self._known(place, device, ("name", "annotations", "containerEdits"))
        return Device(
            name=self._value(f"{place}.name", device.get("name", ""), str),
            container_edits=self._edits(f"{place}.containerEdits", device.get("containerEdits")),
            annotations=self._texts(f"{place}.annotations", device.get("annotations")),
        )

    def _edits(self, place: str, data: object) -> ContainerEdits:
        if data is None:
            return ContainerEdits()
        edits = self._mapping(place, data)
        self._known(place, edits, _EDIT_KEYS)
        lists = {
            attribute: tuple(
                self._object(f"{place}.{key}[{i}]", item, fields, kind)
                for i, item in enumerate(self._value(f"{place}.{key}", edits[key] or [], list))
            )
            for key, (attribute, kind, fields) in _LISTS.items()
            if key in edits
        }
        rdt = edits.get("intelRdt")
        return ContainerEdits(
            env=self._strings(f"{place}.env", edits.get("env")),
            intel_rdt=self._object(f"{place}.intelRdt", rdt, _RDT, IntelRdt) if rdt else None,
            additional_gids=self._gids(f"{place}.additionalGids", edits.get("additionalGids")),
            **lists,
        )

    def _object(self, place: str, data: object, fields: _Fields, kind: type) -> Any:
        found = self._mapping(place, data)
        self._known(place, found, tuple(fields))
        values: dict[str, Any] = {}
        for key, (attribute, wanted, required) in fields.items():
            if found.get(key) is None:
                if required:
                    values[attribute] = ""
            elif wanted is tuple:
                values[attribute] = self._strings(f"{place}.{key}", found[key])
            else:
                values[attribute] = self._value(f"{place}.{key}", found[key], wanted)
        return kind(**values)

    def _mapping(self, place: str, data: object) -> Mapping[str, Any]:
        if not isinstance(data, dict):
            raise self._wrong(place, data, "an object is wanted")
        return data

    def _known(self, place: str, data: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in data:
            if key not in known:
                raise self._wrong(f"{place}.{key}".strip("."), "", "unknown field")

    def _value(self, place: str, data: object, wanted: type) -> Any:
        if not isinstance(data, wanted) or (wanted is int and isinstance(data, bool)):
            remedy = "; quote it" if wanted is str else ""
            raise self._wrong(place, data, f"a {wanted.__name__} is wanted{remedy}")
        return data

    def _strings(self, place: str, data: object) -> tuple[str, ...]:
        items = self._value(place, [] if data is None else data, list)
        return tuple(self._value(f"{place}[{i}]", item, str) for i, item in enumerate(items))

    def _gids(self, place: str, data: object) -> tuple[int, ...]:
        items = self._value(place, [] if data is None else data, list)
        for i, item in enumerate(items):
            if self._value(f"{place}[{i}]", item, int) < 0:
                raise self._wrong(f"{place}[{i}]", item, "a group id is not negative")
        return tuple(items)

    def _texts(self, place: str, data: object) -> Mapping[str, str]:
        texts = self._mapping(place, {} if data is None else data)
        return {key: self._value(f"{place}.{key}", value, str) for key, value in texts.items()}

    def _wrong(self, place: str, value: object, rule: str) -> CDIError:
        return CDIError([Problem(self._source, place, str(value), rule)])
