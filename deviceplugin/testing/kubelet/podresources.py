"""The PodResources socket of the embedded kubelet (kubelet-deviceplugin.md 1.2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import grpc
import grpc.aio

from deviceplugin.api.kubelet.podresources_v1 import podresources_pb2 as pb
from deviceplugin.api.kubelet.podresources_v1 import podresources_pb2_grpc as rpc
from deviceplugin.testing.kubelet.ledger import WITHOUT_NODE, Record
from deviceplugin.testing.kubelet.pods import Pod

RATE, BURST = 100.0, 10.0


class Source(Protocol):
    """What the service needs to know of kubelet."""

    def listed_pods(self) -> Sequence[Pod]:
        """The pods that List shows."""

    def pod_by_name(self, namespace: str, name: str) -> Pod | None:
        """Any pod that kubelet knows, ended or not."""

    def container_records(self, uid: str, container: str) -> Mapping[str, Record]:
        """What a container holds, by resource."""

    def healthy_devices(self) -> Iterator[tuple[str, str, tuple[int, ...] | None]]:
        """Resource, id and NUMA nodes of every healthy device; no nodes at all is None."""

    @property
    def has_get(self) -> bool:
        """Whether Get is served."""


class PodResourcesService(rpc.PodResourcesListerServicer):
    """List, Get and GetAllocatableResources.

    Set `down` to let every call fail with UNAVAILABLE, `limited` with RESOURCE_EXHAUSTED, `delay`
    to answer so many seconds late; `rate` a second and `burst` are kubelet's own limits.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.down = self.limited = False
        self.delay = 0.0
        self.rate, self.burst = RATE, BURST
        self._tokens, self._filled = BURST, time.monotonic()

    async def List(  # noqa: N802
        self,
        request: pb.ListPodResourcesRequest,
        context: grpc.aio.ServicerContext[pb.ListPodResourcesRequest, pb.ListPodResourcesResponse],
    ) -> pb.ListPodResourcesResponse:
        """The pods with what their containers hold; ordinary init containers are never listed."""
        if refused := await self._refused():
            await context.abort(*refused)
        pods = [self._pod(pod) for pod in self._source.listed_pods()]
        return pb.ListPodResourcesResponse(pod_resources=pods)

    async def Get(  # noqa: N802
        self,
        request: pb.GetPodResourcesRequest,
        context: grpc.aio.ServicerContext[pb.GetPodResourcesRequest, pb.GetPodResourcesResponse],
    ) -> pb.GetPodResourcesResponse:
        """One pod by name."""
        if refused := await self._refused():
            await context.abort(*refused)
        if not self._source.has_get:
            await context.abort(grpc.StatusCode.UNKNOWN, "PodResources API Get method disabled")
        pod = self._source.pod_by_name(request.pod_namespace, request.pod_name)
        if pod is None:
            text = f"pod {request.pod_name} in namespace {request.pod_namespace} not found"
            await context.abort(grpc.StatusCode.UNKNOWN, text)
            raise AssertionError("abort raises")
        return pb.GetPodResourcesResponse(pod_resources=self._pod(pod))

    async def GetAllocatableResources(  # noqa: N802
        self,
        request: pb.AllocatableResourcesRequest,
        context: grpc.aio.ServicerContext[
            pb.AllocatableResourcesRequest, pb.AllocatableResourcesResponse
        ],
    ) -> pb.AllocatableResourcesResponse:
        """Healthy devices of every resource. One whose topology names no node is not shown."""
        if refused := await self._refused():
            await context.abort(*refused)
        found = [
            _entry(resource, identity, node)
            for resource, identity, nodes in self._source.healthy_devices()
            for node in ((None,) if nodes is None else nodes)
        ]
        return pb.AllocatableResourcesResponse(devices=found)

    async def _refused(self) -> tuple[grpc.StatusCode, str] | None:
        await asyncio.sleep(self.delay)
        if self.down:
            return grpc.StatusCode.UNAVAILABLE, "down for the test"
        now = time.monotonic()
        self._tokens = min(self.burst, self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        if self.limited or self._tokens < 1:
            return grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit"
        self._tokens -= 1
        return None

    def _pod(self, pod: Pod) -> pb.PodResources:
        containers = [
            pb.ContainerResources(
                name=container.name,
                devices=[
                    _entry(resource, identity, None if node == WITHOUT_NODE else node)
                    for resource, record in self._source.container_records(
                        pod.uid, container.name
                    ).items()
                    for node, ids in record.by_node.items()
                    for identity in ids
                ],
            )
            for container in pod.ordered()
            if not container.init or container.restartable
        ]
        return pb.PodResources(name=pod.name, namespace=pod.namespace, containers=containers)


def _entry(resource: str, identity: str, node: int | None) -> pb.ContainerDevices:
    """One entry for each id and NUMA node."""
    entry = pb.ContainerDevices(resource_name=resource, device_ids=[identity])
    if node is not None:
        entry.topology.nodes.add(ID=node)
    return entry


async def serve_pod_resources(socket: Path, service: PodResourcesService) -> grpc.aio.Server:
    """Serve on a unix socket; a file that a former server left is replaced."""
    socket.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)
    server = grpc.aio.server()
    rpc.add_PodResourcesListerServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    return server
