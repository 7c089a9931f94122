"""The PodResources socket of the embedded kubelet (kubelet-deviceplugin.md 1.2)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from deviceplugin.api.kubelet.podresources_v1 import podresources_pb2 as pb
from deviceplugin.api.kubelet.podresources_v1 import podresources_pb2_grpc as rpc
from deviceplugin.testing.kubelet.pods import Pod

if TYPE_CHECKING:
    from deviceplugin.testing.kubelet.kubelet import EmbeddedKubelet

RATE, BURST = 100.0, 10.0


class PodResourcesService(rpc.PodResourcesListerServicer):
    """List, Get and GetAllocatableResources; set `down` to let every call fail."""

    def __init__(self, kubelet: EmbeddedKubelet) -> None:
        self._kubelet = kubelet
        self._tokens, self._filled = BURST, time.monotonic()
        self.down = False

    async def List(  # noqa: N802
        self,
        request: pb.ListPodResourcesRequest,
        context: grpc.aio.ServicerContext[pb.ListPodResourcesRequest, pb.ListPodResourcesResponse],
    ) -> pb.ListPodResourcesResponse:
        """Active pods; ordinary init containers are never listed."""
        if refused := self._refused():
            await context.abort(*refused)
        pods = [self._pod(pod) for pod in self._kubelet.active_pods()]
        return pb.ListPodResourcesResponse(pod_resources=pods)

    async def Get(  # noqa: N802
        self,
        request: pb.GetPodResourcesRequest,
        context: grpc.aio.ServicerContext[pb.GetPodResourcesRequest, pb.GetPodResourcesResponse],
    ) -> pb.GetPodResourcesResponse:
        """One pod by name."""
        if refused := self._refused():
            await context.abort(*refused)
        wanted = (request.pod_namespace, request.pod_name)
        for pod in self._kubelet.active_pods():
            if (pod.namespace, pod.name) == wanted:
                return pb.GetPodResourcesResponse(pod_resources=self._pod(pod))
        text = f"pod {request.pod_name} in namespace {request.pod_namespace} not found"
        await context.abort(grpc.StatusCode.UNKNOWN, text)
        raise AssertionError("abort raises")

    async def GetAllocatableResources(  # noqa: N802
        self,
        request: pb.AllocatableResourcesRequest,
        context: grpc.aio.ServicerContext[
            pb.AllocatableResourcesRequest, pb.AllocatableResourcesResponse
        ],
    ) -> pb.AllocatableResourcesResponse:
        """Healthy devices of every resource."""
        if refused := self._refused():
            await context.abort(*refused)
        found = [
            entry
            for resource in self._kubelet.allocatable()
            for identity, device in self._kubelet.devices(resource).items()
            if device.health == "Healthy"
            for entry in self._entries(resource, identity)
        ]
        return pb.AllocatableResourcesResponse(devices=found)

    def _refused(self) -> tuple[grpc.StatusCode, str] | None:
        if self.down:
            return grpc.StatusCode.UNAVAILABLE, "down for the test"
        now = time.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._filled) * RATE)
        self._filled = now
        if self._tokens < 1:
            return grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit"
        self._tokens -= 1
        return None

    def _pod(self, pod: Pod) -> pb.PodResources:
        containers = [
            pb.ContainerResources(
                name=container.name,
                devices=[
                    entry
                    for resource, ids in self._kubelet.held(pod.uid, container.name).items()
                    for identity in ids
                    for entry in self._entries(resource, identity)
                ],
            )
            for container in pod.containers
            if not container.init or container.restartable
        ]
        return pb.PodResources(name=pod.name, namespace=pod.namespace, containers=containers)

    def _entries(self, resource: str, identity: str) -> list[pb.ContainerDevices]:
        """One entry for each id, and for each of its NUMA nodes."""
        device = self._kubelet.devices(resource).get(identity)
        nodes = [node.ID for node in device.topology.nodes] if device is not None else []
        entry = {"resource_name": resource, "device_ids": [identity]}
        if not nodes:
            return [pb.ContainerDevices(**entry)]  # type: ignore[arg-type]
        return [
            pb.ContainerDevices(
                **entry,  # type: ignore[arg-type]
                topology=pb.TopologyInfo(nodes=[pb.NUMANode(ID=node)]),
            )
            for node in nodes
        ]


async def serve_pod_resources(socket: Path, service: PodResourcesService) -> grpc.aio.Server:
    """Serve on a unix socket; a file that a former server left is replaced."""
    socket.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)
    server = grpc.aio.server()
    rpc.add_PodResourcesListerServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    return server
