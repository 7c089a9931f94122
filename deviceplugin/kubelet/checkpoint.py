"""Reads kubelet's device checkpoint, which lies beside our sockets.

It tells two things that PodResources does not: the uid of the pod that holds ids, so that a pod is
never taken for its namesake, and the ids of ordinary init containers. It is kubelet's own file and
no API, so it only ever adds evidence: what it lacks or contradicts makes us wait, never guess
(kubelet-deviceplugin.md 2.7). The checksum is kubelet's business; the file is replaced whole.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb

FILE_NAME = "kubelet_internal_checkpoint"
MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One container's ids of one resource, as kubelet remembers them; its pod may be gone."""

    pod_uid: str
    container: str
    resource: str
    ids: frozenset[str]
    answer: str = ""
    """The answer to Allocate as kubelet keeps it: a serialized message in base64."""

    def response(self) -> pb.ContainerAllocateResponse:
        """That answer; an empty one where it cannot be read."""
        try:
            return pb.ContainerAllocateResponse.FromString(self._raw())
        except DecodeError:
            return pb.ContainerAllocateResponse()

    def mentions(self, text: str) -> bool:
        """Whether the text stands anywhere in that answer."""
        return text.encode() in self._raw()

    def _raw(self) -> bytes:
        try:
            return base64.b64decode(self.answer)
        except ValueError:
            return b""


class Checkpoint:
    """The file, read again when it was replaced. Blocking, a few milliseconds at most."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._seen: tuple[int, int, int] | None = None
        self._entries: tuple[Entry, ...] | None = None

    def entries(self) -> tuple[Entry, ...] | None:
        """All entries; None when the file is not there or not readable."""
        try:
            state = self._path.stat()
            seen = (state.st_ino, state.st_mtime_ns, state.st_size)
            if seen != self._seen:
                self._entries = tuple(_entries(self._read()))
                self._seen = seen
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
            self._seen, self._entries = None, None
        return self._entries

    def _read(self) -> Any:
        with self._path.open("rb") as file:
            return json.loads(file.read(MAX_BYTES))


def _entries(document: Mapping[str, Any]) -> Iterator[Entry]:
    for item in document["Data"]["PodDeviceEntries"] or ():
        ids = frozenset(identity for some in item["DeviceIDs"].values() for identity in some)
        yield Entry(
            str(item["PodUID"]),
            str(item["ContainerName"]),
            str(item["ResourceName"]),
            ids,
            str(item.get("AllocResp") or ""),
        )
