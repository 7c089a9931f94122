"""What agent and probe tell each other about MIG partitions, as plain data. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deviceplugin.api.hami.poddevices import MigSlot
from deviceplugin.api.hami_config import MigGeometry
from deviceplugin.vendor import DriverError, PhysicalDevice
from deviceplugin.vendors.nvidia import geometry
from deviceplugin.vendors.nvidia.geometry import Holder


@dataclass(frozen=True, slots=True)
class Request:
    """The partition `slot` of the card `device`, when that is divided into `profiles`, the
    flattened list of a geometry. `holders` is None when nobody said who else holds partitions of
    the card.
    """

    device: str
    slot: MigSlot
    profiles: tuple[str, ...]
    holders: tuple[Holder, ...] | None


def request(device: str, slot: MigSlot, chosen: MigGeometry, owner: str) -> dict[str, Any]:
    """A request as plain data; `owner` is the container that it is made for."""
    return {
        "device": device,
        "slot": f"{slot.geometry}-{slot.position}",
        "geometry": [{"profile": profile.name, "count": profile.count} for profile in chosen],
        "position": slot.position,
        "owner": owner,
    }


def parsed(data: Mapping[str, Any]) -> Request:
    """The request of plain data, with the holders that the agent added as ``in_use``.

    Raises `DriverError` for what is no request.
    """
    try:
        slot = geometry.slot(data["slot"])
        profiles = tuple(
            str(entry["profile"]) for entry in data["geometry"] for _ in range(entry["count"])
        )
        if slot.position != data["position"] or slot.position >= len(profiles):
            raise ValueError(f"position {data['position']!r:.20} of {len(profiles)} partitions")
        given = data.get("in_use")
        holders = None if given is None else tuple(_holder(each) for each in given)
        return Request(str(data["device"]), slot, profiles, holders)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DriverError(f"not a request for a MIG partition: {error!r:.200}") from None


def _holder(data: Mapping[str, Any]) -> Holder:
    return Holder(str(data["slot"]), str(data["owner"]), str(data.get("uuid") or ""))


def answer(device: PhysicalDevice) -> dict[str, Any]:
    """The MIG device of a request as plain data."""
    return {
        "device": {
            "uuid": device.uuid,
            "index": device.index,
            "model": device.model,
            "memory_mib": device.memory_mib,
            "numa_node": device.numa_node,
            "device_nodes": list(device.device_nodes),
            "parent_uuid": device.parent_uuid,
            "profile": device.profile,
            "attributes": dict(device.attributes),
        }
    }


def answered(data: Mapping[str, Any]) -> PhysicalDevice:
    """The MIG device of an answer. Raises `ValueError` for what is none."""
    try:
        fields = dict(data["device"])
        device = PhysicalDevice(**{**fields, "device_nodes": tuple(fields["device_nodes"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the probe answered no MIG device: {error!r:.200}") from None
    if not (device.uuid and device.parent_uuid):
        raise ValueError(f"the probe answered no MIG device: {data!r:.200}")
    return device
