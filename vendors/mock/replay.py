"""A profile of what a real driver said, to be replayed by the mock vendor.

Reading the text again gives exactly the same devices (``docs/vendors/mock.md``, record and replay).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from deviceplugin.vendor import PhysicalDevice, Snapshot, Usage
from deviceplugin.vendors.mock.masking import masked
from deviceplugin.vendors.mock.profile import Origin
from deviceplugin.vendors.mock.reading import KIND, VERSION

SECRET_ATTRIBUTES = ("serial", "uuid")
"""An attribute with one of these in its name identifies a device."""


def profile_from_snapshot(
    vendor_name: str,
    resource: str,
    snapshot: Snapshot,
    settings_summary: Mapping[str, Any],
    mask_serials: bool,
    usages: Sequence[Usage] = (),
) -> str:
    """The profile of one answer, as YAML text. Pure.

    `settings_summary` is plain data about the settings of the recorded vendor, kept for people.
    With `mask_serials`, uuids and serial numbers become false ones of the same shape. `usages` are
    how busy the devices were.
    """
    frames = ((0.0, snapshot),)
    readings = ((0.0, usages),) if usages else ()
    return profile_from_stream(
        vendor_name, resource, frames, settings_summary, mask_serials, readings
    )


def profile_from_stream(
    vendor_name: str,
    resource: str,
    frames: Sequence[tuple[float, Snapshot]],
    settings_summary: Mapping[str, Any],
    mask_serials: bool,
    readings: Sequence[tuple[float, Sequence[Usage]]] = (),
) -> str:
    """The profile of a stream of answers, each with its second after the first one. Pure.

    The first one holds from the start on. `readings` are how busy devices were, at their seconds;
    of devices that no answer lists they are left out. Raises `ValueError` without an answer.
    """
    import yaml  # only who records pays for it

    if not frames:
        raise ValueError("nothing was recorded; a profile needs at least one snapshot")
    listed = {device.uuid for _, snapshot in frames for device in snapshot.devices} - {""}
    names = {uuid: uuid for uuid in listed}
    if mask_serials:
        false = _false_names(snapshot for _, snapshot in frames)
        frames = [(at, _masked(snapshot, false)) for at, snapshot in frames]
        names = {uuid: false[uuid] for uuid in listed}
    data: dict[str, Any] = {
        "kind": KIND,
        "version": VERSION,
        "origin": Origin.RECORDED.value,
        "recorded": {
            "vendor": vendor_name,
            "settings": dict(settings_summary),
            "masked": mask_serials,
        },
        "resource": resource,
        **_snapshot(frames[0][1]),
    }
    if later := [{"at": at, **_snapshot(snapshot)} for at, snapshot in frames[1:]]:
        data["changes"] = later
    usage = [
        _busy(at, replace(one, uuid=names[one.uuid]))
        for at, usages in readings
        for one in usages
        if one.uuid in names
    ]
    if usage:
        data["usage"] = usage
    text: str = yaml.safe_dump(data, sort_keys=False, width=100)
    return text


def _snapshot(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "devices": [_device(device) for device in snapshot.devices],
        "attributes": dict(snapshot.attributes),
        "problems": list(snapshot.problems),
    }


def _busy(at: float, usage: Usage) -> dict[str, Any]:
    figures = {
        "usedMiB": usage.used_mib,
        "utilisationPercent": usage.utilisation_percent,
        "memoryControllerPercent": usage.memory_controller_percent,
    }
    known = {key: value for key, value in figures.items() if value is not None}
    return {"at": at, "device": usage.uuid, **known}


def _device(device: PhysicalDevice) -> dict[str, Any]:
    """A device under the keys of a profile; what a device has by default is left out."""
    plain = _values(PhysicalDevice("", "", ""))
    return {key: value for key, value in _values(device).items() if value != plain[key]}


def _values(device: PhysicalDevice) -> dict[str, Any]:
    return {
        "uuid": device.uuid,
        "index": device.index,
        "model": device.model,
        "memoryMiB": device.memory_mib,
        "coresPercent": device.cores_percent,
        "numaNode": device.numa_node,
        "links": dict(device.links),
        "deviceNodes": list(device.device_nodes),
        "healthy": device.healthy,
        "reason": device.reason,
        "parent": device.parent_uuid,
        "profile": device.profile,
        "attributes": dict(device.attributes),
    }


def _false_names(snapshots: Iterable[Snapshot]) -> Mapping[str, str]:
    """The false name of everything in the recording that identifies a device."""
    names: set[str] = set()
    for snapshot in snapshots:
        names.update(_secrets(snapshot.attributes))
        for device in snapshot.devices:
            names.update((device.uuid, device.parent_uuid, *device.links))
            names.update(_secrets(device.attributes))
    return masked(names)


def _secrets(attributes: Mapping[str, str]) -> list[str]:
    return [value for key, value in attributes.items() if _secret(key)]


def _secret(key: str) -> bool:
    return any(word in key.lower() for word in SECRET_ATTRIBUTES)


def _masked(snapshot: Snapshot, false: Mapping[str, str]) -> Snapshot:
    """The snapshot under false names, also where its texts mention a real one."""
    # The longest first: a name may be part of another.
    changed = sorted((n for n in false if n != false[n]), key=len, reverse=True)
    mentioned = re.compile("|".join(map(re.escape, changed)) or "(?!)")

    def text(value: str) -> str:
        return mentioned.sub(lambda found: false[found[0]], value)

    def texts(values: Mapping[str, str]) -> dict[str, str]:
        return {k: false[v] if _secret(k) else text(v) for k, v in values.items()}

    return Snapshot(
        tuple(
            replace(
                device,
                uuid=false[device.uuid],
                parent_uuid=false[device.parent_uuid],
                links={false[other]: score for other, score in device.links.items()},
                device_nodes=tuple(text(node) for node in device.device_nodes),
                reason=text(device.reason),
                attributes=texts(device.attributes),
            )
            for device in snapshot.devices
        ),
        texts(snapshot.attributes),
        tuple(text(problem) for problem in snapshot.problems),
    )
