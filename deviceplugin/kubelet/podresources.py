"""Asks kubelet which container holds which device ids.

The socket takes 100 requests a second from everybody together, with bursts of 10
(kubelet-deviceplugin.md 1.2), so callers that come while a question is under way share the next
one: never the one under way, whose answer may be older than the allocation they ask about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from deviceplugin.api.kubelet.podresources_v1 import podresources_pb2 as pb
from deviceplugin.api.kubelet.podresources_v1 import podresources_pb2_grpc as rpc

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""A dense node's answer passes gRPC's default of 4 MiB."""

LIMIT_SECONDS = 10.0
RATE_PAUSE_SECONDS = 0.03


@dataclass(frozen=True, slots=True)
class Holding:
    """One container's ids of one resource."""

    namespace: str
    pod: str
    container: str
    resource: str
    ids: frozenset[str]


class PodResourcesError(Exception):
    """Kubelet did not answer; the text says how and on which socket."""


class PodResources:
    """A client of the PodResources socket that connects when asked and survives kubelet."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._channel: grpc.aio.Channel | None = None
        self._running: asyncio.Task[tuple[Holding, ...]] | None = None
        self._next: asyncio.Task[tuple[Holding, ...]] | None = None

    async def holdings(self) -> tuple[Holding, ...]:
        """What all containers on the node hold, as of after this call.

        Ordinary init containers are never listed. Raises `PodResourcesError`.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._running))
        return await asyncio.shield(self._next)

    async def close(self) -> None:
        """Drop the connection."""
        for task in (self._running, self._next):
            if task:
                task.cancel()
        if self._channel:
            await self._channel.close()

    async def _after(
        self, running: asyncio.Task[tuple[Holding, ...]] | None
    ) -> tuple[Holding, ...]:
        if running is not None:
            await asyncio.wait([running])
        self._running, self._next = self._next, None
        try:
            return await self._list()
        finally:
            self._running = None

    async def _list(self) -> tuple[Holding, ...]:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(
                f"unix:{self._socket}",
                options=[
                    ("grpc.default_authority", "localhost"),
                    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                    ("grpc.initial_reconnect_backoff_ms", 100),
                    ("grpc.max_reconnect_backoff_ms", 1000),
                ],
            )
        stub = rpc.PodResourcesListerStub(self._channel)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LIMIT_SECONDS
        while True:
            try:
                answer = await stub.List(pb.ListPodResourcesRequest(), timeout=LIMIT_SECONDS)
            except grpc.aio.AioRpcError as error:
                # Others may have used the rate up, which lasts for moments.
                exhausted = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                if exhausted and loop.time() < deadline:
                    await asyncio.sleep(RATE_PAUSE_SECONDS)
                    continue
                raise PodResourcesError(
                    f"kubelet's PodResources socket {self._socket} did not answer: "
                    f"{error.code().name} {error.details()}"
                ) from None
            return tuple(_holdings(answer))


def _holdings(answer: pb.ListPodResourcesResponse) -> Iterable[Holding]:
    """Kubelet lists every id on its own, and once for each NUMA node: put them together."""
    for pod in answer.pod_resources:
        for container in pod.containers:
            ids: dict[str, set[str]] = {}
            for devices in container.devices:
                ids.setdefault(devices.resource_name, set()).update(devices.device_ids)
            for resource, found in ids.items():
                yield Holding(pod.namespace, pod.name, container.name, resource, frozenset(found))


def holder(holdings: Iterable[Holding], resource: str, ids: Iterable[str]) -> tuple[Holding, ...]:
    """The containers that hold exactly these ids of the resource; more than one only where
    kubelet gave the ids of a finished init container on.
    """
    wanted = frozenset(ids)
    return tuple(h for h in holdings if h.resource == resource and h.ids == wanted)
