"""The virtual devices of one resource as kubelet's streams see them: a version and a wake-up.

Every stream sends the newest list when the version changed, so nothing is lost, nothing is stolen
by a stream that is already dead, and a slow reader skips what is out of date.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.splitting import Table

HEALTHY, UNHEALTHY = "Healthy", "Unhealthy"

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""What kubelet's gRPC client receives at most; a longer list ends the stream and leaves the
resource at 0 (kubelet-deviceplugin.md 1.1)."""


def list_message(table: Table, impediment: str = "") -> pb.ListAndWatchResponse:
    """The list of a table; with an impediment nothing in it may be handed out."""
    devices = []
    for item in table.virtual.values():
        device = table.devices[item.uuid]
        # A device whose NUMA node is unknown has no topology at all: kubelet takes -1 for a node.
        topology = (
            None
            if device.numa_node is None
            else pb.TopologyInfo(nodes=[pb.NUMANode(ID=device.numa_node)])
        )
        good = device.healthy and not impediment and item.id not in table.withheld
        health = HEALTHY if good else UNHEALTHY
        devices.append(pb.Device(ID=item.id, health=health, topology=topology))
    return pb.ListAndWatchResponse(devices=devices)


class Resource:
    """The published list of one resource. Lives on the event loop; nothing here blocks."""

    def __init__(self, name: str, table: Table, impediment: str = "") -> None:
        self.name = name
        self.table = table
        self.impediment = impediment
        self.version = 0
        self.message = list_message(table, impediment)
        self._changed = asyncio.Event()
        self._next: tuple[Table, str] | None = None
        self._allocating = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def problem(self) -> str:
        """Why the list cannot be sent at all; empty when it can."""
        size = self.message.ByteSize()
        if size <= MAX_MESSAGE_BYTES:
            return ""
        return (
            f"{len(self.message.devices)} virtual devices of {self.name} need {size} bytes, but "
            f"kubelet takes {MAX_MESSAGE_BYTES} in one list: lower deviceSplitCount or replicas"
        )

    def publish(self, table: Table, impediment: str = "") -> None:
        """Show another table. A list that lost ids waits for the Allocate calls under way:
        kubelet looks the chosen ids up in its current list afterwards (2.6).
        """
        self._next = (table, impediment)
        if not self._allocating or self.table.virtual.keys() <= table.virtual.keys():
            self._apply()

    @contextlib.contextmanager
    def allocating(self) -> Iterator[None]:
        """Around an Allocate: until its end the list loses no id."""
        self._allocating += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._allocating -= 1
            if not self._allocating:
                self._idle.set()
                self._apply()

    async def idle(self) -> None:
        """Wait until no Allocate is under way."""
        await self._idle.wait()

    async def next_version(self, seen: int) -> int:
        """Wait until the list is newer than version `seen`."""
        while self.version == seen:
            await self._changed.wait()
        return self.version

    def _apply(self) -> None:
        if self._next is None:
            return
        (self.table, self.impediment), self._next = self._next, None
        self.show(list_message(self.table, self.impediment))

    def show(self, message: pb.ListAndWatchResponse) -> None:
        """Send this list to every stream, if it is another."""
        if message != self.message:
            self.message = message
            self.version += 1
            self._changed.set()
            self._changed = asyncio.Event()
