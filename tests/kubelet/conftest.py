"""A plugin that speaks raw gRPC, does what a test tells it, and knows nothing of our agent."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2_grpc as rpc
from deviceplugin.api.kubelet.pluginregistration_v1 import pluginregistration_pb2 as reg
from deviceplugin.api.kubelet.pluginregistration_v1 import pluginregistration_pb2_grpc as reg_rpc
from deviceplugin.testing.kubelet import Admitted, EmbeddedKubelet, Failed, Pod

RESOURCE = "example.com/resource"

_numbers = itertools.count()


class RawPlugin(rpc.DevicePluginServicer, reg_rpc.RegistrationServicer):
    """Answers well unless a hook says otherwise. Hooks take the request and return the answer."""

    def __init__(self, kubelet: EmbeddedKubelet, resource: str) -> None:
        self.kubelet, self.resource = kubelet, resource
        self.socket = kubelet.plugin_dir / f"p{next(_numbers)}.sock"
        self.options = pb.DevicePluginOptions()
        self.on_options: Callable[[Any], Any] | None = None
        self.on_list: Callable[[], AsyncIterator[pb.ListAndWatchResponse]] | None = None
        self.on_allocate: Callable[[Any], Any] | None = None
        self.on_prefer: Callable[[Any], Any] | None = None
        self.on_start: Callable[[Any], Any] | None = None
        self.on_notify: Callable[[Any], Any] | None = None
        self.info = reg.PluginInfo(
            type="DevicePlugin", name=resource, supported_versions=["v1beta1"]
        )
        self.notified: list[reg.RegistrationStatus] = []
        self.seen: list[tuple[str, Any]] = []
        self.streams = 0
        self.context: Any = None
        """Of the last Allocate, for hooks that want to abort it."""
        self._message = pb.ListAndWatchResponse()
        self._version, self._changed = 0, asyncio.Condition()
        self._ended = False
        self._server: grpc.aio.Server | None = None

    async def serve(self) -> None:
        self._server = grpc.aio.server()
        rpc.add_DevicePluginServicer_to_server(self, self._server)
        reg_rpc.add_RegistrationServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{self.socket}")
        await self._server.start()

    async def register(self, timeout: float = 15.0, **changes: Any) -> None:
        request = pb.RegisterRequest(
            version="v1beta1",
            endpoint=self.socket.name,
            resource_name=self.resource,
            options=self.options,
        )
        request.MergeFrom(pb.RegisterRequest(**changes))
        if changes.get("endpoint") == "":
            request.endpoint = ""
        async with grpc.aio.insecure_channel(
            f"unix:{self.kubelet.kubelet_socket}",
            options=[("grpc.use_local_subchannel_pool", 1)],
        ) as channel:
            await rpc.RegistrationStub(channel).Register(
                request, timeout=timeout, wait_for_ready=True
            )

    async def serve_again(self) -> None:
        """What a good plugin does after a kubelet restart: a new server, and Register."""
        if self._server is not None:
            await self._server.stop(0)
        await self.serve()
        await self.register()
        await self.kubelet.wait_registered(self.resource)

    async def send(self, *devices: pb.Device) -> None:
        """Put a list on every open stream, and on those to come."""
        async with self._changed:
            self._message = pb.ListAndWatchResponse(devices=devices)
            self._version += 1
            self._changed.notify_all()

    async def end_stream(self) -> None:
        """Return from ListAndWatch while the server goes on."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def stop(self) -> None:
        """A clean exit: streams end, the socket goes."""
        await self.end_stream()
        if self._server is not None:
            await self._server.stop(0)
        self._server = None

    # --- the services ---

    async def _answer(self, method: str, request: Any, hook: Any, default: Any) -> Any:
        self.seen.append((method, request))
        if hook is None:
            return default
        answer = hook(request)
        return await answer if isinstance(answer, Awaitable) else answer

    async def GetDevicePluginOptions(self, request: Any, context: Any) -> Any:
        return await self._answer("options", request, self.on_options, self.options)

    async def ListAndWatch(self, request: Any, context: Any) -> Any:
        self.streams += 1
        if self.on_list is not None:
            async for message in self.on_list():
                yield message
            return
        sent = 0
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._version > sent or self._ended)  # noqa: B023
                if self._ended:
                    return
                sent, message = self._version, self._message
            yield message

    async def GetPreferredAllocation(self, request: Any, context: Any) -> Any:
        default = pb.PreferredAllocationResponse(
            container_responses=[
                pb.ContainerPreferredAllocationResponse(
                    deviceIDs=[
                        *ask.must_include_deviceIDs,
                        *sorted({*ask.available_deviceIDs} - {*ask.must_include_deviceIDs}),
                    ][: ask.allocation_size]
                )
                for ask in request.container_requests
            ]
        )
        return await self._answer("prefer", request, self.on_prefer, default)

    async def Allocate(self, request: Any, context: Any) -> Any:
        default = pb.AllocateResponse(
            container_responses=[
                pb.ContainerAllocateResponse(envs={"IDS": ",".join(sorted(ask.devices_ids))})
                for ask in request.container_requests
            ]
        )
        self.context = context
        return await self._answer("allocate", request, self.on_allocate, default)

    async def PreStartContainer(self, request: Any, context: Any) -> Any:
        return await self._answer("start", request, self.on_start, pb.PreStartContainerResponse())

    async def GetInfo(self, request: Any, context: Any) -> Any:
        return self.info

    async def NotifyRegistrationStatus(self, request: Any, context: Any) -> Any:
        self.notified.append(request)
        return await self._answer(
            "notify", request, self.on_notify, reg.RegistrationStatusResponse()
        )

    def asked(self, method: str) -> list[Any]:
        return [request for name, request in self.seen if name == method]


class Bench:
    """Kubelets and plugins of one test."""

    resource = RESOURCE

    def __init__(self, root: Path) -> None:
        self.root = root
        self.plugins: list[RawPlugin] = []
        self._kubelets: list[EmbeddedKubelet] = []

    @staticmethod
    def device(identity: str, *nodes: int, health: str = "Healthy") -> pb.Device:
        """A device on NUMA nodes; without nodes it has no topology."""
        topology = pb.TopologyInfo(nodes=[pb.NUMANode(ID=n) for n in nodes]) if nodes else None
        return pb.Device(ID=identity, health=health, topology=topology)

    @staticmethod
    def answer(**content: Any) -> Callable[[Any], pb.AllocateResponse]:
        """A hook that answers Allocate for one container."""
        return lambda request: pb.AllocateResponse(
            container_responses=[pb.ContainerAllocateResponse(**content)]
        )

    async def kubelet(self, **options: Any) -> EmbeddedKubelet:
        kubelet = EmbeddedKubelet(self.root, **options)
        kubelet.timeouts.reconcile = 0.05
        self._kubelets.append(kubelet)
        await kubelet.start()
        return kubelet

    def new_plugin(self, resource: str = RESOURCE) -> RawPlugin:
        """A plugin that does not serve yet."""
        plugin = RawPlugin(self._kubelets[-1], resource)
        self.plugins.append(plugin)
        return plugin

    async def plugin(
        self,
        devices: Sequence[pb.Device | str] = ("a", "b"),
        resource: str = RESOURCE,
        **options: bool,
    ) -> RawPlugin:
        """A plugin that is registered and whose list has arrived."""
        plugin = self.new_plugin(resource)
        plugin.options = pb.DevicePluginOptions(**options)
        await plugin.serve()
        await self.list(plugin, *devices)
        await plugin.register()
        await self.listed(plugin)
        return plugin

    async def list(self, plugin: RawPlugin, *devices: pb.Device | str) -> None:
        """Let a plugin send a list."""
        await plugin.send(*(self.device(d) if isinstance(d, str) else d for d in devices))

    async def listed(self, plugin: RawPlugin) -> None:
        """Wait until kubelet has the plugin's present list."""
        wanted = {device.ID: device for device in plugin._message.devices}
        kubelet = plugin.kubelet
        await kubelet.wait_for(
            lambda: (
                kubelet.is_watched(plugin.resource) and kubelet.devices(plugin.resource) == wanted
            )
        )

    async def relist(self, plugin: RawPlugin, *devices: pb.Device | str) -> None:
        """Send a list and wait for it."""
        await self.list(plugin, *devices)
        await self.listed(plugin)

    async def run(self, pod: Pod) -> dict[str, Any]:
        """Admit a pod and start all of it."""
        result = await self._kubelets[-1].admit(pod)
        assert isinstance(result, Admitted), result
        return await self._kubelets[-1].start_pod(pod.uid)

    async def refused(self, pod: Pod) -> str:
        """The text between kubelet's words for a pod that must be refused."""
        result = await self._kubelets[-1].admit(pod)
        assert isinstance(result, Failed), result
        assert result.reason == "UnexpectedAdmissionError"
        head, tail = "Allocate failed due to ", ", which is unexpected"
        assert result.message.startswith(head)
        assert result.message.endswith(tail)
        return result.message.removeprefix(head).removesuffix(tail)

    async def close(self) -> None:
        for plugin in self.plugins:
            await plugin.stop()
        for kubelet in self._kubelets:
            await kubelet.stop()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    root = Path(tempfile.mkdtemp(prefix="ek-", dir="/tmp"))
    bench = Bench(root)
    yield bench
    await bench.close()
    shutil.rmtree(root, ignore_errors=True)
