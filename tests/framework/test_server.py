"""One resource's server against kubelets that hang, refuse, vanish and forget."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2_grpc as rpc
from deviceplugin.injection.render import Injection
from deviceplugin.kubelet.resource import Resource
from deviceplugin.kubelet.server import ResourceServer, Timing
from deviceplugin.metrics import Metrics
from deviceplugin.readiness import Readiness
from deviceplugin.splitting import split
from deviceplugin.vendor import PhysicalDevice, ResourcePlan, Snapshot

NAME = "a.b/gpu"
TABLE = split(ResourcePlan(NAME, ("u",)), Snapshot((PhysicalDevice("u", "0", "M"),)))
QUICK = Timing(register=0.5, first_stream=5.0, settle=0.05, backoff_first=0.02, backoff_most=0.1)


class Allocator:
    pre_start_required = False

    def prefer(self, available: Any, must_include: Any, size: int) -> list[str]:
        raise KeyError("a fault of ours")

    async def allocate(self, ids: Any) -> Injection:
        raise KeyError("a fault of ours")

    async def pre_start(self, ids: Any) -> None:
        raise KeyError("a fault of ours")


class Kubelet(rpc.RegistrationServicer):
    """Registration alone, as wanted: ``yes``, ``hang`` or a text of refusal."""

    def __init__(self, path: Path) -> None:
        self.path, self.mood, self.endpoints = path, "yes", []
        self.streams: list[Any] = []

    async def start(self) -> None:
        self.server = grpc.aio.server()
        rpc.add_RegistrationServicer_to_server(self, self.server)
        self.server.add_insecure_port(f"unix:{self.path}")
        await self.server.start()

    async def Register(self, request: pb.RegisterRequest, context: Any) -> pb.Empty:
        self.endpoints.append(request.endpoint)
        if self.mood == "hang":
            await asyncio.sleep(60)
        if self.mood != "yes":
            await context.abort(grpc.StatusCode.UNKNOWN, self.mood)
        channel = grpc.aio.insecure_channel(
            f"unix:{self.path.parent / request.endpoint}",
            options=[("grpc.use_local_subchannel_pool", 1)],
        )
        stream = rpc.DevicePluginStub(channel).ListAndWatch(pb.Empty())
        self.streams.append((channel, stream, asyncio.create_task(stream.read())))
        return pb.Empty()


@pytest.fixture
async def kubelet() -> AsyncIterator[Kubelet]:
    directory = Path(tempfile.mkdtemp(prefix="dp-", dir="/tmp"))
    kubelet = Kubelet(directory / "kubelet.sock")
    await kubelet.start()
    yield kubelet
    for channel, _, reading in kubelet.streams:
        reading.cancel()
        await channel.close()
    await kubelet.server.stop(None)
    shutil.rmtree(directory)


class Served:
    def __init__(self, kubelet: Kubelet, timing: Timing) -> None:
        self.metrics = Metrics()
        self.readiness = Readiness(self.metrics)
        self.resource = Resource(NAME, TABLE)
        self.directory = kubelet.path.parent
        self.server = ResourceServer(
            self.resource,
            Allocator(),
            self.metrics,
            self.readiness,
            self.directory,
            kubelet.path,
            timing,
        )
        self.task = asyncio.create_task(self.server.run())

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(15):
            while not condition():
                assert not self.task.done()
                self.server.changed.set()  # as the watch of the directory does
                await asyncio.sleep(0.02)

    def registered(self) -> bool:
        read = self.metrics.registry.get_sample_value
        return read("deviceplugin_registered", {"resource": NAME}) == 1

    def sockets(self) -> list[Path]:
        return list(self.directory.glob("deviceplugin-*.sock"))

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@pytest.fixture
async def served(kubelet: Kubelet) -> AsyncIterator[Callable[..., Served]]:
    running: list[Served] = []

    def start(timing: Timing = QUICK) -> Served:
        running.append(Served(kubelet, timing))
        return running[-1]

    yield start
    for one in running:
        await one.stop()


async def test_a_register_that_hangs_is_given_up_and_tried_again(
    kubelet: Kubelet, served: Callable[..., Served]
) -> None:
    kubelet.mood = "hang"
    one = served()
    await one.until(lambda: len(kubelet.endpoints) >= 2)
    assert "Deadline" in one.readiness.blockers()[NAME]
    kubelet.mood = "yes"
    await one.until(one.registered)


async def test_stopping_while_kubelet_hangs_leaves_no_socket(
    kubelet: Kubelet, served: Callable[..., Served]
) -> None:
    kubelet.mood = "hang"
    one = served(Timing(register=60.0))
    await one.until(lambda: kubelet.endpoints)
    await one.stop()
    assert one.sockets() == []


async def test_a_refusal_for_good_is_told_and_not_repeated_until_kubelet_is_another(
    kubelet: Kubelet, served: Callable[..., Served]
) -> None:
    kubelet.mood = f'the ResourceName "{NAME}" is invalid'
    one = served()
    await one.until(lambda: "is invalid" in one.readiness.blockers().get(NAME, ""))
    for _ in range(20):
        one.server.changed.set()
        await asyncio.sleep(0.01)
    assert len(kubelet.endpoints) == 1
    await kubelet.server.stop(None)
    kubelet.mood = "yes"
    await kubelet.start()
    await one.until(one.registered)


async def test_a_refusal_of_the_moment_is_repeated(
    kubelet: Kubelet, served: Callable[..., Served]
) -> None:
    kubelet.mood = "failed to dial device plugin: busy"
    one = served()
    await one.until(lambda: len(kubelet.endpoints) >= 3)
    kubelet.mood = "yes"
    await one.until(one.registered)


async def test_kubelets_socket_coming_and_going_quickly_ends_registered_with_the_last(
    kubelet: Kubelet, served: Callable[..., Served]
) -> None:
    one = served()
    await one.until(one.registered)
    for _ in range(5):
        await kubelet.server.stop(None)
        for path in one.sockets():
            path.unlink(missing_ok=True)  # as a kubelet that starts does
        await kubelet.start()
        one.server.changed.set()
        await asyncio.sleep(0.03)
    await one.until(lambda: one.registered() and len(one.sockets()) == 1)
    assert kubelet.endpoints[-1] == one.sockets()[0].name


async def test_streams_of_clients_that_went_away_are_gone(
    kubelet: Kubelet, served: Callable[..., Served]
) -> None:
    one = served()
    await one.until(one.registered)
    (path,) = one.sockets()
    registered = asyncio.all_tasks()
    for how in ("close", "cancel") * 4:
        channel = grpc.aio.insecure_channel(
            f"unix:{path}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        stream = rpc.DevicePluginStub(channel).ListAndWatch(pb.Empty())
        assert len((await stream.read()).devices) == 1
        if how == "cancel":
            stream.cancel()
        await channel.close()
    await one.until(lambda: len(asyncio.all_tasks() - registered) <= 1)


async def test_every_open_stream_hears_of_a_change(
    kubelet: Kubelet, served: Callable[..., Served]
) -> None:
    one = served()
    await one.until(one.registered)
    (path,) = one.sockets()
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        streams = [rpc.DevicePluginStub(channel).ListAndWatch(pb.Empty()) for _ in range(3)]
        for stream in streams:
            assert (await stream.read()).devices[0].health == "Healthy"
        one.resource.publish(TABLE, "an impediment")
        for stream in streams:
            assert (await stream.read()).devices[0].health == "Unhealthy"


@pytest.mark.parametrize("call", ["GetPreferredAllocation", "Allocate", "PreStartContainer"])
async def test_a_fault_of_ours_is_a_status_with_words_and_a_count(
    kubelet: Kubelet, served: Callable[..., Served], call: str
) -> None:
    one = served()
    await one.until(one.registered)
    (path,) = one.sockets()
    requests = {
        "GetPreferredAllocation": pb.PreferredAllocationRequest(
            container_requests=[pb.ContainerPreferredAllocationRequest(available_deviceIDs=["u"])]
        ),
        "Allocate": pb.AllocateRequest(
            container_requests=[pb.ContainerAllocateRequest(devices_ids=["u"])]
        ),
        "PreStartContainer": pb.PreStartContainerRequest(devices_ids=["u"]),
    }
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(rpc.DevicePluginStub(channel), call)(requests[call])
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert f"{NAME}: {call} failed in the agent: KeyError" in str(caught.value.details())
    labels = {"resource": NAME, "call": call, "reason": "internal"}
    assert one.metrics.registry.get_sample_value("deviceplugin_errors_total", labels) == 1
