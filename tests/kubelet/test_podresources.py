"""The PodResources socket (kubelet-deviceplugin.md 1.2; 3.5: 22, 58)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from deviceplugin.api.kubelet.podresources_v1 import podresources_pb2 as pb
from deviceplugin.api.kubelet.podresources_v1 import podresources_pb2_grpc as rpc
from deviceplugin.testing.kubelet import Container, Pod

R, S = "example.com/resource", "example.com/second"
ANY = pb.ListPodResourcesRequest()


@contextlib.asynccontextmanager
async def asking(bench: Any) -> AsyncIterator[rpc.PodResourcesListerStub]:
    """A client with a connection of its own."""
    async with grpc.aio.insecure_channel(
        f"unix:{bench.root}/pod-resources/kubelet.sock",
        options=[("grpc.use_local_subchannel_pool", 1)],
    ) as channel:
        yield rpc.PodResourcesListerStub(channel)


@pytest.fixture
async def ask(bench: Any) -> AsyncIterator[rpc.PodResourcesListerStub]:
    async with asking(bench) as client:
        yield client


async def listed(ask: Any) -> dict[str, dict[str, list[tuple[str, str, list[int]]]]]:
    response = await ask.List(ANY)
    return {
        pod.name: {
            container.name: [
                (entry.resource_name, *entry.device_ids, [n.ID for n in entry.topology.nodes])
                for entry in container.devices
            ]
            for container in pod.containers
        }
        for pod in response.pod_resources
    }


async def allocatable(ask: Any) -> set[tuple[str, str]]:
    response = await ask.GetAllocatableResources(pb.AllocatableResourcesRequest())
    return {(entry.resource_name, *entry.device_ids) for entry in response.devices}


async def error(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), str(raised.value.details())


# --- List ---


async def test_58_each_id_and_node_is_an_entry_of_its_own(bench: Any, ask: Any) -> None:
    await bench.kubelet(numa_nodes=2)
    await bench.plugin([bench.device("a", 0, 1), bench.device("b", 1), bench.device("c")])
    await bench.run(Pod("pod", (Container("main", {R: 3}),)))
    found = await listed(ask)
    assert sorted(found["pod"]["main"]) == [
        (R, "a", [0]),
        (R, "a", [1]),
        (R, "b", [1]),
        (R, "c", []),
    ]


async def test_58_pods_without_devices_are_listed_with_empty_containers(
    bench: Any, ask: Any
) -> None:
    await bench.kubelet()
    await bench.run(Pod("plain", (Container("one"), Container("two"))))
    assert await listed(ask) == {"plain": {"one": [], "two": []}}


async def test_58_sidecars_are_listed_and_ordinary_init_containers_are_not(
    bench: Any, ask: Any
) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a", "b"])
    pod = Pod(
        "pod",
        (
            Container("first", {R: 1}, init=True),
            Container("side", {R: 1}, init=True, restartable=True),
            Container("main", {R: 1}),
        ),
    )
    await bench.run(pod)
    held = {name: kubelet.held(pod.uid, name)[R] for name in ("side", "main")}
    assert await listed(ask) == {
        "pod": {name: [(R, ids[0], [])] for name, ids in held.items()},
    }


async def test_58_a_pod_is_listed_before_its_containers_start(bench: Any, ask: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a"])
    await kubelet.admit(Pod("pod", (Container("main", {R: 1}),)))
    assert await listed(ask) == {"pod": {"main": [(R, "a", [])]}}


@pytest.mark.parametrize("version", [(1, 33), (1, 34)])
async def test_58_finished_pods_are_listed_by_old_versions_only_and_hold_nothing(
    bench: Any, ask: Any, version: tuple[int, int]
) -> None:
    kubelet = await bench.kubelet(kubelet_version=version)
    await bench.plugin(["a"])
    pod = Pod("pod", (Container("main", {R: 1}),))
    await bench.run(pod)
    kubelet.finish_pod(pod.uid)
    assert await listed(ask) == ({} if version == (1, 34) else {"pod": {"main": []}})
    assert kubelet.records == {}


async def test_58_pods_refused_at_admission_are_not_listed(bench: Any, ask: Any) -> None:
    await bench.kubelet()
    await bench.plugin(["a"])
    await bench.refused(Pod("pod", (Container("main", {R: 2}),)))
    assert await listed(ask) == {}


async def test_42_after_a_restart_the_same_ids_are_listed_without_a_plugin(
    bench: Any, ask: Any
) -> None:
    kubelet = await bench.kubelet(numa_nodes=2)
    await bench.plugin([bench.device("a", 1)])
    await bench.run(Pod("pod", (Container("main", {R: 1}),)))
    before = await listed(ask)
    await kubelet.restart()
    # The connection of before may take a call and only then learn that it is broken.
    async with asking(bench) as again:
        assert await listed(again) == before == {"pod": {"main": [(R, "a", [1])]}}


# --- Get ---


async def test_58_get_names_one_pod(bench: Any, ask: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a"])
    for namespace in ("one", "two"):
        pod = Pod("pod", (Container("main", {R: int(namespace == "two")}),), namespace)
        await kubelet.admit(pod)
    request = pb.GetPodResourcesRequest(pod_name="pod", pod_namespace="two")
    found = (await ask.Get(request)).pod_resources
    assert (found.namespace, len(found.containers[0].devices)) == ("two", 1)


async def test_58_get_of_an_unknown_pod_says_so(bench: Any, ask: Any) -> None:
    await bench.kubelet()
    request = pb.GetPodResourcesRequest(pod_name="pod", pod_namespace="ns")
    assert await error(ask.Get(request)) == (
        grpc.StatusCode.UNKNOWN,
        "pod pod in namespace ns not found",
    )


async def test_58_get_knows_finished_pods_which_list_does_not(bench: Any, ask: Any) -> None:
    kubelet = await bench.kubelet()
    pod = Pod("pod", (Container("main"),))
    await bench.run(pod)
    kubelet.finish_pod(pod.uid)
    assert await listed(ask) == {}
    request = pb.GetPodResourcesRequest(pod_name="pod", pod_namespace="default")
    assert (await ask.Get(request)).pod_resources.name == "pod"


async def test_58_get_is_off_before_1_34_and_can_be_gated_on(bench: Any, ask: Any) -> None:
    kubelet = await bench.kubelet(kubelet_version=(1, 33))
    request = pb.GetPodResourcesRequest(pod_name="pod", pod_namespace="ns")
    code, text = await error(ask.Get(request))
    assert (code, "disabled" in text) == (grpc.StatusCode.UNKNOWN, True)
    await kubelet.stop()
    await bench.kubelet(kubelet_version=(1, 33), gates={"KubeletPodResourcesGet": True})
    _, text = await error(ask.Get(request, wait_for_ready=True))
    assert "not found" in text


# --- GetAllocatableResources ---


async def test_22_only_healthy_devices_are_allocatable_and_resources_do_not_mix(
    bench: Any, ask: Any
) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", bench.device("b", health="Unhealthy")])
    await bench.plugin(["a"], resource=S)
    assert await allocatable(ask) == {(R, "a"), (S, "a")}
    await bench.relist(plugin, bench.device("a", health="Unhealthy"), "b")
    assert await allocatable(ask) == {(R, "b"), (S, "a")}
    await plugin.stop()
    await kubelet.wait_for(lambda: kubelet.allocatable()[R] == 0)
    assert await allocatable(ask) == {(S, "a")}


async def test_22_devices_in_use_are_allocatable_still(bench: Any, ask: Any) -> None:
    await bench.kubelet()
    await bench.plugin(["a"])
    await bench.run(Pod("pod", (Container("main", {R: 1}),)))
    assert await allocatable(ask) == {(R, "a")}


async def test_22_a_topology_without_nodes_hides_a_device(bench: Any, ask: Any) -> None:
    await bench.kubelet(numa_nodes=2)
    empty = bench.device("empty")
    empty.topology.SetInParent()
    await bench.plugin([empty, bench.device("two", 0, 1), "none"])
    response = await ask.GetAllocatableResources(pb.AllocatableResourcesRequest())
    assert sorted(i for entry in response.devices for i in entry.device_ids) == [
        "none",
        "two",
        "two",
    ]


# --- limits and faults ---


async def test_58_the_rate_limit_is_one_for_all_methods(bench: Any, ask: Any) -> None:
    kubelet = await bench.kubelet()
    kubelet.pod_resources.rate = 0.0
    for _ in range(5):
        await ask.List(ANY)
        await ask.GetAllocatableResources(pb.AllocatableResourcesRequest())
    assert await error(ask.List(ANY)) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "rejected by rate limit",
    )
    kubelet.pod_resources.rate = 1e9
    await ask.List(ANY)


async def test_pod_resources_may_be_down_limited_or_slow(bench: Any, ask: Any) -> None:
    kubelet = await bench.kubelet()
    service = kubelet.pod_resources
    service.down = True
    assert (await error(ask.List(ANY)))[0] is grpc.StatusCode.UNAVAILABLE
    service.down, service.limited = False, True
    assert (await error(ask.List(ANY)))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    service.limited, service.delay = False, 30.0
    code, _ = await error(ask.List(ANY, timeout=0.2))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    service.delay = 0.0
    await ask.List(ANY)
