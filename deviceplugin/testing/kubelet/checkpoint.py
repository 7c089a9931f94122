"""Kubelet's checkpoint file and its checksum (kubelet-deviceplugin.md 2.7)."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE_NAME = "kubelet_internal_checkpoint"


@dataclass(frozen=True, slots=True)
class Entry:
    """What one container holds of one resource: ids by NUMA node ("-1" for none), and the
    serialized ContainerAllocateResponse.
    """

    pod_uid: str
    container: str
    resource: str
    ids: Mapping[str, tuple[str, ...]]
    response: bytes | None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The whole content; None stands for a null list or map, which has a checksum of its own."""

    entries: Sequence[Entry] | None
    registered: Mapping[str, Sequence[str]] | None


class CorruptCheckpointError(ValueError):
    """The file is not JSON of the right shape, or its checksum is wrong."""


def checksum(checkpoint: Checkpoint) -> int:
    """FNV-1a, 32 bits, over the text form of the content."""
    value = 0x811C9DC5
    for byte in _dump(checkpoint).encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def to_json(checkpoint: Checkpoint) -> str:
    """The content of the file."""
    entries = checkpoint.entries
    data = {
        "PodDeviceEntries": None if entries is None else [_entry_to_dict(e) for e in entries],
        "RegisteredDevices": None
        if checkpoint.registered is None
        else {name: list(ids) for name, ids in sorted(checkpoint.registered.items())},
    }
    return json.dumps({"Data": data, "Checksum": checksum(checkpoint)}, separators=(",", ":"))


def from_json(text: str) -> Checkpoint:
    """The content of a file. Raises `CorruptCheckpointError`."""
    try:
        document = json.loads(text)
        data, stated = document["Data"], document["Checksum"]
        entries = data["PodDeviceEntries"]
        checkpoint = Checkpoint(
            None if entries is None else tuple(_entry_from_dict(item) for item in entries),
            data["RegisteredDevices"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpointError(f"not a checkpoint: {error!r}") from None
    if (found := checksum(checkpoint)) != stated:
        raise CorruptCheckpointError(f"checksum is {stated}, the content has {found}")
    return checkpoint


def read(directory: Path) -> Checkpoint | None:
    """The checkpoint in a directory, None when there is none. Raises `CorruptCheckpointError`."""
    try:
        return from_json((directory / FILE_NAME).read_text())
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise CorruptCheckpointError(f"not a checkpoint: {error!r}") from None


def write(directory: Path, checkpoint: Checkpoint) -> None:
    """Write the file as kubelet does: a hidden temporary file, fsync, rename. Raises `OSError`."""
    temporary = directory / f".{FILE_NAME}.tmp"
    with temporary.open("w") as file:
        file.write(to_json(checkpoint))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(directory / FILE_NAME)


def _entry_to_dict(entry: Entry) -> dict[str, Any]:
    response = entry.response
    return {
        "PodUID": entry.pod_uid,
        "ContainerName": entry.container,
        "ResourceName": entry.resource,
        "DeviceIDs": {node: list(ids) for node, ids in sorted(entry.ids.items())},
        "AllocResp": None if response is None else base64.b64encode(response).decode(),
    }


def _entry_from_dict(data: Mapping[str, Any]) -> Entry:
    return Entry(
        data["PodUID"],
        data["ContainerName"],
        data["ResourceName"],
        {node: tuple(ids) for node, ids in data["DeviceIDs"].items()},
        None if data["AllocResp"] is None else base64.b64decode(data["AllocResp"]),
    )


def _dump(checkpoint: Checkpoint) -> str:
    """The text that Go's dump of the structure gives."""
    entries = checkpoint.entries
    listed = "<nil>" if entries is None else f"[{' '.join(_dump_entry(e) for e in entries)}]"
    registered = checkpoint.registered
    mapped = "<nil>" if registered is None else _dump_map(registered)
    return (
        "(checkpoint.checkpointData){PodDeviceEntries:([]checkpoint.PodDevicesEntry)"
        f"{listed} RegisteredDevices:(map[string][]string){mapped}}}"
    )


def _dump_entry(entry: Entry) -> str:
    response = entry.response
    dumped = "<nil>" if response is None else f"[{' '.join(map(str, response))}]"
    ids = {int(node): found for node, found in entry.ids.items()}
    return (
        f"{{PodUID:(string){entry.pod_uid} ContainerName:(string){entry.container} "
        f"ResourceName:(string){entry.resource} "
        f"DeviceIDs:(checkpoint.DevicesPerNUMA){_dump_map(ids)} AllocResp:([]uint8){dumped}}}"
    )


def _dump_map(values: Mapping[Any, Sequence[str]]) -> str:
    items = [f"{key}:[{' '.join(values[key])}]" for key in sorted(values)]
    return f"map[{' '.join(items)}]"
