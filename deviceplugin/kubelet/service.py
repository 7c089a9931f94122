"""The five calls that kubelet makes, for one resource: protocol in, values out, and back.

What is granted is decided elsewhere, by the `Allocator`; a `RefusalError` from there becomes a
gRPC status whose text ends up in the pod's status, so it is written for the person who reads that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NoReturn, Protocol

import grpc
import grpc.aio
import structlog

from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2_grpc as rpc
from deviceplugin.injection.render import Injection
from deviceplugin.kubelet.resource import Resource
from deviceplugin.refusal import Blame, RefusalError

_STATUS = {
    Blame.REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Blame.NODE: grpc.StatusCode.FAILED_PRECONDITION,
    Blame.TRY_AGAIN: grpc.StatusCode.UNAVAILABLE,
}


class Allocator(Protocol):
    """What stands behind the service."""

    pre_start_required: bool

    def prefer(
        self, available: Sequence[str], must_include: Sequence[str], size: int
    ) -> Sequence[str]:
        """The ids that go together best. Raises `RefusalError`."""

    async def allocate(self, ids: Sequence[str]) -> Injection:
        """What the container with these ids gets. Raises `RefusalError`."""

    async def pre_start(self, ids: Sequence[str]) -> None:
        """Right before the container starts. Raises `RefusalError`; kubelet tries again."""


class Observer(Protocol):
    """Who counts what the service does."""

    def sent(self, resource: str) -> None:
        """A list went out."""

    def allocated(self, resource: str, seconds: float) -> None:
        """A container was served."""

    def refused(self, resource: str, call: str, reason: str) -> None:
        """A call was refused."""


class DevicePluginService(rpc.DevicePluginServicer):
    """One resource's side of the device plugin API (kubelet-deviceplugin.md 1.1, 2.4 to 2.9)."""

    def __init__(
        self,
        resource: Resource,
        allocator: Allocator,
        observer: Observer,
        streams_changed: Callable[[], None],
    ) -> None:
        self._resource, self._allocator, self._observer = resource, allocator, observer
        self._streams_changed = streams_changed
        self._stopping = asyncio.Event()
        self.streams = 0
        self.streams_opened = 0

    def options(self) -> pb.DevicePluginOptions:
        """The same in Register and in GetDevicePluginOptions; kubelet believes only the latter."""
        return pb.DevicePluginOptions(
            pre_start_required=self._allocator.pre_start_required,
            get_preferred_allocation_available=True,
        )

    def stop(self) -> None:
        """End every stream, so that kubelet sees a plugin that left and not one that broke."""
        self._stopping.set()

    async def GetDevicePluginOptions(  # noqa: N802
        self, request: pb.Empty, context: grpc.aio.ServicerContext[pb.Empty, pb.DevicePluginOptions]
    ) -> pb.DevicePluginOptions:
        """See `options`."""
        return self.options()

    async def ListAndWatch(  # noqa: N802
        self,
        request: pb.Empty,
        context: grpc.aio.ServicerContext[pb.Empty, pb.ListAndWatchResponse],
    ) -> AsyncIterator[pb.ListAndWatchResponse]:
        """The whole list now, and again whenever it changed; ends with the caller or with us."""
        self.streams += 1
        self.streams_opened += 1
        self._streams_changed()
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while not stopping.done():
                version = self._resource.version
                yield self._resource.message
                self._observer.sent(self._resource.name)
                newer = asyncio.create_task(self._resource.next_version(version))
                try:
                    await asyncio.wait({newer, stopping}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    newer.cancel()
        finally:
            stopping.cancel()
            self.streams -= 1
            self._streams_changed()

    async def GetPreferredAllocation(  # noqa: N802
        self,
        request: pb.PreferredAllocationRequest,
        context: grpc.aio.ServicerContext[
            pb.PreferredAllocationRequest, pb.PreferredAllocationResponse
        ],
    ) -> pb.PreferredAllocationResponse:
        """One answer a container request, in order."""
        answers = []
        for ask in request.container_requests:
            try:
                ids = self._allocator.prefer(
                    ask.available_deviceIDs, ask.must_include_deviceIDs, ask.allocation_size
                )
                answers.append(pb.ContainerPreferredAllocationResponse(deviceIDs=ids))
            except Exception as error:
                await self._refuse(context, "GetPreferredAllocation", error)
        return pb.PreferredAllocationResponse(container_responses=answers)

    async def Allocate(  # noqa: N802
        self,
        request: pb.AllocateRequest,
        context: grpc.aio.ServicerContext[pb.AllocateRequest, pb.AllocateResponse],
    ) -> pb.AllocateResponse:
        """One answer a container request, in order; all or none."""
        if not request.container_requests:
            refusal = RefusalError("the Allocate request names no container", "empty-request")
            await self._refuse(context, "Allocate", refusal)
        loop = asyncio.get_running_loop()
        answers = []
        with self._resource.allocating():
            for ask in request.container_requests:
                started = loop.time()
                try:
                    injection = await self._allocator.allocate(list(ask.devices_ids))
                    answers.append(container_response(injection))
                except Exception as error:
                    await self._refuse(context, "Allocate", error)
                self._observer.allocated(self._resource.name, loop.time() - started)
        return pb.AllocateResponse(container_responses=answers)

    async def PreStartContainer(  # noqa: N802
        self,
        request: pb.PreStartContainerRequest,
        context: grpc.aio.ServicerContext[
            pb.PreStartContainerRequest, pb.PreStartContainerResponse
        ],
    ) -> pb.PreStartContainerResponse:
        """Kubelet starts the container only after this, and retries when it fails."""
        try:
            await self._allocator.pre_start(list(request.devices_ids))
        except Exception as error:
            await self._refuse(context, "PreStartContainer", error)
        return pb.PreStartContainerResponse()

    async def _refuse(
        self, context: grpc.aio.ServicerContext[Any, Any], call: str, error: Exception
    ) -> NoReturn:
        """Answer with a status whose text people understand, also where we are at fault."""
        if isinstance(error, RefusalError):
            refusal = error
        else:
            text = f"{self._resource.name}: {call} failed in the agent: {type(error).__name__}"
            refusal = RefusalError(f"{text}: {error}", "internal", Blame.NODE)
            structlog.get_logger().error(
                "a call failed", resource=self._resource.name, call=call, exc_info=error
            )
        self._observer.refused(self._resource.name, call, refusal.reason)
        await context.abort(_STATUS[refusal.blame], str(refusal))
        raise refusal  # abort always raises; this tells so to type checkers


def container_response(injection: Injection) -> pb.ContainerAllocateResponse:
    """An injection in kubelet's words; a device node without permissions gets read and write."""
    return pb.ContainerAllocateResponse(
        envs=injection.envs,
        mounts=[
            pb.Mount(
                container_path=mount.container_path,
                host_path=mount.host_path,
                read_only="ro" in mount.options,
            )
            for mount in injection.mounts
        ],
        devices=[
            pb.DeviceSpec(
                container_path=node.path,
                host_path=node.host_path or node.path,
                permissions=node.permissions or "rw",
            )
            for node in injection.devices
        ],
        annotations=injection.annotations,
        cdi_devices=[pb.CDIDevice(name=name) for name in injection.cdi_names],
    )
