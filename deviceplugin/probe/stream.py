"""The JSON lines between a probe and the agent, which are also what a recording saves.

One object a line, told apart by ``type``. Child to agent: ``discovering``, ``snapshot``,
``unchanged``, ``absent``, ``failed``, ``health``, ``usage``, ``answer``. Agent to child:
``settings`` (the first line), ``discover``, ``partition``, ``release``. What the other side sends
is checked here, so that garbage is an error with a name and never an exception from deep inside.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from deviceplugin.vendor import HealthEvent, PhysicalDevice, Replicas, Sharing, Snapshot, Usage
from deviceplugin.vendor import VendorSettings as Settings

T = TypeVar("T")

MAX_LINE_BYTES = 4 * 1024 * 1024
"""A line longer than this is a fault of the probe: 4 MiB hold thousands of devices, and the agent
may have to hold twice as much before it knows."""


class StreamError(ValueError):
    """A line that is not of this protocol; the text says what is wrong with it."""


def encode(message: Mapping[str, Any]) -> bytes:
    """One message as one line, ended by a newline.

    Half characters, which Python makes of names that are no UTF-8, become question marks: nobody
    after us could send them on.
    """
    text = json.dumps(message, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return text.encode(errors="replace") + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The message of one line. Raises `StreamError`."""
    try:
        message = json.loads(line)
        if b"\\u" in line:  # only so can half a character come through, and nobody could send it on
            json.dumps(message, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise StreamError(f"a line that is not JSON ({error}): {line[:80]!r}") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise StreamError(f"a line without a type: {line[:80]!r}")
    return message


def snapshot_to_dict(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as plain data; what has its default value is left out."""
    return {
        "devices": [device_to_dict(device) for device in snapshot.devices],
        "attributes": dict(snapshot.attributes),
        "problems": list(snapshot.problems),
    }


def device_to_dict(device: PhysicalDevice) -> dict[str, Any]:
    """A device as plain data."""
    return {
        "uuid": device.uuid,
        "index": device.index,
        "model": device.model,
        "memory_mib": device.memory_mib,
        "cores_percent": device.cores_percent,
        "numa_node": device.numa_node,
        "links": dict(device.links),
        "device_nodes": list(device.device_nodes),
        "healthy": device.healthy,
        "reason": device.reason,
        "parent_uuid": device.parent_uuid,
        "profile": device.profile,
        "attributes": dict(device.attributes),
    }


def snapshot_from_dict(data: object) -> Snapshot:
    """The snapshot of plain data. Raises `StreamError` naming the field."""
    fields = _Fields(data, "snapshot")
    return Snapshot(
        devices=tuple(
            device_from_dict(item, f"snapshot.devices[{position}]")
            for position, item in enumerate(fields.items("devices"))
        ),
        attributes=fields.texts("attributes"),
        problems=fields.strings("problems"),
    )


def device_from_dict(data: object, where: str = "device") -> PhysicalDevice:
    """The device of plain data. Raises `StreamError` naming the field."""
    fields = _Fields(data, where)
    return PhysicalDevice(
        uuid=fields.get("uuid", str, ""),
        index=fields.get("index", str, ""),
        model=fields.get("model", str, ""),
        memory_mib=fields.optional("memory_mib"),
        cores_percent=fields.get("cores_percent", int, 100),
        numa_node=fields.optional("numa_node"),
        links=fields.numbers("links"),
        device_nodes=fields.strings("device_nodes"),
        healthy=fields.get("healthy", bool, True),
        reason=fields.get("reason", str, ""),
        parent_uuid=fields.get("parent_uuid", str, ""),
        profile=fields.get("profile", str, ""),
        attributes=fields.texts("attributes"),
    )


def health_from_dict(data: object) -> HealthEvent:
    """The health event of plain data. Raises `StreamError` naming the field."""
    fields = _Fields(data, "health")
    return HealthEvent(
        uuid=fields.get("uuid", str, ""),
        healthy=fields.get("healthy", bool, False),
        reason=fields.get("reason", str, ""),
    )


def usage_to_dict(usage: Usage) -> dict[str, Any]:
    """A reading of one device as plain data; what is not known is left out."""
    figures = {
        "used_mib": usage.used_mib,
        "utilisation_percent": usage.utilisation_percent,
        "memory_controller_percent": usage.memory_controller_percent,
    }
    known = {name: value for name, value in figures.items() if value is not None}
    return {"uuid": usage.uuid, **known}


def usages_from_dict(data: object) -> tuple[Usage, ...]:
    """The readings of a ``usage`` message. Raises `StreamError` naming the field."""
    return tuple(
        _usage(_Fields(item, f"usage.devices[{position}]"))
        for position, item in enumerate(_Fields(data, "usage").items("devices"))
    )


def _usage(fields: _Fields) -> Usage:
    return Usage(
        uuid=fields.get("uuid", str, ""),
        used_mib=fields.figure("used_mib"),
        utilisation_percent=fields.figure("utilisation_percent"),
        memory_controller_percent=fields.figure("memory_controller_percent"),
    )


def settings_to_dict(settings: Settings) -> dict[str, Any]:
    """Vendor settings as plain data, for the probe's first line."""
    return {
        "node_name": settings.node_name,
        "host_root": settings.host_root,
        "enforce_isolation": settings.enforce_isolation,
        "section": _plain(settings.section),
        "options": _plain(settings.options),
        "sharing": {
            resource: {
                "count": replicas.count,
                "sharing": replicas.sharing.value,
                "rename": replicas.rename,
                "fail_requests_greater_than_one": replicas.fail_requests_greater_than_one,
            }
            for resource, replicas in settings.sharing.items()
        },
    }


def settings_from_dict(data: Mapping[str, Any]) -> Settings:
    """The vendor settings that `settings_to_dict` wrote."""
    return Settings(
        node_name=data["node_name"],
        host_root=data["host_root"],
        enforce_isolation=data["enforce_isolation"],
        section=data["section"],
        options=data["options"],
        sharing={
            resource: Replicas(**{**item, "sharing": Sharing(item["sharing"])})
            for resource, item in data["sharing"].items()
        },
    )


def _plain(value: Any) -> Any:
    """Mappings and sequences of any kind as dict and list, which is what JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


class _Fields:
    """Typed access to one object; every wrong type names its place."""

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, Mapping):
            raise StreamError(f"{where} is {type(data).__name__}, not an object")
        self._data, self._where = data, where

    def get(self, key: str, kind: type[T], default: T) -> T:
        value = self._data.get(key, default)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self._wrong(key, value, kind.__name__)
        return value

    def optional(self, key: str) -> int | None:
        return None if self._data.get(key) is None else self.get(key, int, 0)

    def figure(self, key: str) -> float | None:
        value = self._data.get(key)
        if value is None:
            return None
        if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
            raise self._wrong(key, value, "finite number of 0 or more")
        return float(value)

    def items(self, key: str) -> list[Any]:
        return self.get(key, list, [])

    def strings(self, key: str) -> tuple[str, ...]:
        values = self.items(key)
        if not all(isinstance(value, str) for value in values):
            raise self._wrong(key, values, "list of strings")
        return tuple(values)

    def texts(self, key: str) -> dict[str, str]:
        values = self.get(key, dict, {})
        if not all(isinstance(value, str) for value in values.values()):
            raise self._wrong(key, values, "object of strings")
        return values

    def numbers(self, key: str) -> dict[str, int]:
        values = self.get(key, dict, {})
        if not all(type(value) is int for value in values.values()):
            raise self._wrong(key, values, "object of whole numbers")
        return values

    def _wrong(self, key: str, value: object, wanted: str) -> StreamError:
        return StreamError(f"{self._where}.{key} is {value!r:.60}, not a {wanted}")
