"""Each rule of kubelet-deviceplugin.md 3.4 is found when a plugin breaks it, and only then."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import grpc.aio
import pytest

from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.testing.kubelet import Admitted, Container, Pod, findings

R, S = "example.com/resource", "example.com/second"


def pod(count: int = 1) -> Pod:
    return Pod("pod", (Container("main", {R: count}),))


def rules(kubelet: Any) -> list[int]:
    return [finding.rule for finding in kubelet.findings]


def text(kubelet: Any) -> str:
    (finding,) = kubelet.findings
    return str(finding)


async def served(bench: Any, *devices: Any) -> Any:
    plugin = bench.new_plugin()
    await bench.list(plugin, *devices)
    await plugin.serve()
    return plugin


async def test_a_good_plugin_is_found_no_fault_with(bench: Any) -> None:
    kubelet = await bench.kubelet(settle=0.05)
    plugin = await bench.plugin(
        ["a", "b"], get_preferred_allocation_available=True, pre_start_required=True
    )
    found = pod(2)
    await bench.run(found)
    await kubelet.restart_container(found.uid, "main")
    await bench.relist(plugin, "a", bench.device("b", health="Unhealthy"))
    await kubelet.restart()
    await plugin.serve_again()
    await plugin.stop()
    await kubelet.wait_for(lambda: kubelet.allocatable()[R] == 0)
    await asyncio.sleep(0.1)
    assert kubelet.findings == []


# --- 1 to 3: registration ---


async def test_rule_1_other_options_in_register_than_in_the_answer(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await served(bench, "a")
    await plugin.register(options=pb.DevicePluginOptions(pre_start_required=True))
    assert rules(kubelet) == [1]


@pytest.mark.parametrize("endpoint", ["../p.sock", "/tmp/p.sock", "sub/p.sock", ""])
async def test_rule_2_an_endpoint_that_is_no_plain_file_name(bench: Any, endpoint: str) -> None:
    kubelet = await bench.kubelet(dial_timeout=0.1)
    plugin = await served(bench, "a")
    with pytest.raises(grpc.aio.AioRpcError, match="failed to dial"):
        await plugin.register(endpoint=endpoint)
    assert text(kubelet) == f"2: endpoint {endpoint!r} is not a plain file name"


async def test_rule_2_a_path_that_no_socket_can_have(bench: Any) -> None:
    kubelet = await bench.kubelet(dial_timeout=0.1)
    plugin = await served(bench, "a")
    room = 107 - len(f"{kubelet.plugin_dir}/")
    with pytest.raises(grpc.aio.AioRpcError):
        await plugin.register(endpoint="x" * room)
    assert kubelet.findings == []
    with pytest.raises(grpc.aio.AioRpcError):
        await plugin.register(endpoint="x" * (room + 1))
    assert text(kubelet) == "2: the socket path is longer than 107 bytes"


async def test_rule_3_a_registration_while_the_old_stream_is_open(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a"])
    await bench.plugin(["a"])
    assert text(kubelet) == f"3: {R} registered while the old stream is open"


async def test_rule_3_is_not_broken_after_the_old_stream_has_ended(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    await plugin.stop()
    await kubelet.wait_for(lambda: kubelet.allocatable()[R] == 0)
    await bench.plugin(["a"])
    assert kubelet.findings == []


# --- 4 and 5: lists ---


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (pb.Device(ID="a", health="healthy"), "device 'a' has the health 'healthy'"),
        (pb.Device(ID="a"), "device 'a' has the health ''"),
        (pb.Device(health="Healthy"), "a device has no id"),
        (pb.Device(ID="x" * 64, health="Healthy"), "is longer than 63 characters"),
        (
            pb.Device(ID="a", health="Healthy", topology=pb.TopologyInfo()),
            "device 'a' has a topology without nodes",
        ),
        (
            pb.Device(
                ID="a", health="Healthy", topology=pb.TopologyInfo(nodes=[pb.NUMANode(ID=-1)])
            ),
            "device 'a' names NUMA node -1",
        ),
        (
            pb.Device(
                ID="a", health="Healthy", topology=pb.TopologyInfo(nodes=[pb.NUMANode(ID=2)])
            ),
            "device 'a' names NUMA node 2",
        ),
    ],
)
async def test_rule_4_a_device_as_it_should_not_be(
    bench: Any, device: pb.Device, said: str
) -> None:
    kubelet = await bench.kubelet(numa_nodes=2)
    await bench.plugin([device])
    assert text(kubelet).startswith("4: ")
    assert said in text(kubelet)


async def test_rule_4_an_id_that_stands_twice(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a", "a"])
    assert text(kubelet) == "4: device id 'a' stands twice in one message"


async def test_rule_4_allows_63_characters_and_the_last_node(bench: Any) -> None:
    kubelet = await bench.kubelet(numa_nodes=2)
    await bench.plugin([bench.device("x" * 63, 1)])
    assert kubelet.findings == []


@pytest.mark.parametrize(("waited", "found"), [(5.0, []), (5.1, [5])])
async def test_rule_5_a_first_list_that_comes_late(
    bench: Any, waited: float, found: list[int]
) -> None:
    kubelet = await bench.kubelet(clock=lambda: 0.0)
    plugin = bench.new_plugin()
    await plugin.serve()
    await plugin.register()
    await kubelet.wait_for(lambda: plugin.streams == 1)
    kubelet.advance(waited)
    await bench.relist(plugin, "a")
    assert rules(kubelet) == found


@pytest.mark.parametrize(
    ("lists", "changing", "pause", "found"),
    [
        (10, False, 0.0, []),
        (11, False, 0.0, [5]),
        (11, False, 0.09, [5]),
        (11, False, 0.11, []),
        (30, True, 0.0, []),
    ],
)
async def test_rule_5_the_same_list_again_and_again(
    bench: Any, lists: int, changing: bool, pause: float, found: list[int]
) -> None:
    kubelet = await bench.kubelet(clock=lambda: 0.0)
    plugin = bench.new_plugin()

    async def loop() -> Any:
        for number in range(lists):
            names = ["a", "b"] if number % 2 and not changing else ["b", "a"]
            health = "Unhealthy" if changing and number % 2 else "Healthy"
            yield pb.ListAndWatchResponse(
                devices=[bench.device(name, health=health) for name in names]
            )
            await kubelet.wait_for(lambda: kubelet._manager.registry.received[R] > number)  # noqa: B023
            kubelet.advance(pause)
        yield pb.ListAndWatchResponse(devices=[bench.device("last")])
        await asyncio.Event().wait()

    plugin.on_list = loop
    await plugin.serve()
    await plugin.register()
    await kubelet.wait_devices(R, lambda listed: "last" in listed)
    assert rules(kubelet) == found


# --- 6 to 10: answers ---


@pytest.mark.parametrize("given", [0, 2])
async def test_rule_6_allocate_for_another_number_of_containers(bench: Any, given: int) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    plugin.on_allocate = lambda request: pb.AllocateResponse(
        container_responses=[pb.ContainerAllocateResponse()] * given
    )
    assert isinstance(await kubelet.admit(pod()), Admitted) == (given == 2)
    assert text(kubelet) == f"6: Allocate answered {given} containers for 1"


@pytest.mark.parametrize("given", [0, 2])
async def test_rule_6_a_preference_for_another_number_of_containers(bench: Any, given: int) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"], get_preferred_allocation_available=True)
    plugin.on_prefer = lambda request: pb.PreferredAllocationResponse(
        container_responses=[pb.ContainerPreferredAllocationResponse(deviceIDs=["a"])] * given
    )
    await bench.run(pod())
    assert text(kubelet) == f"6: GetPreferredAllocation answered {given} containers for 1"


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["a"], ["gave 1 ids for 2"]),
        (["a", "a"], ["gave an id twice"]),
        (["a", "zzz"], ["not available: ['zzz']"]),
        (["a", "b", "c"], ["gave 3 ids for 2"]),
    ],
)
async def test_rule_7_a_preference_that_is_none(
    bench: Any, ids: list[str], said: list[str]
) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b", "c"], get_preferred_allocation_available=True)
    plugin.on_prefer = lambda request: pb.PreferredAllocationResponse(
        container_responses=[pb.ContainerPreferredAllocationResponse(deviceIDs=ids)]
    )
    await bench.run(pod(2))
    assert rules(kubelet) == [7] * len(said)
    for finding, part in zip(kubelet.findings, said, strict=True):
        assert part in finding.text


async def test_rule_7_a_preference_without_what_must_be_in_it(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b", "c"], get_preferred_allocation_available=True)
    first = Container("first", {R: 1}, init=True)

    def ignore(request: Any) -> Any:
        (ask,) = request.container_requests
        free = sorted({*ask.available_deviceIDs} - {*ask.must_include_deviceIDs})
        ids = free[: ask.allocation_size]
        return pb.PreferredAllocationResponse(
            container_responses=[pb.ContainerPreferredAllocationResponse(deviceIDs=ids)]
        )

    plugin.on_prefer = ignore
    await bench.run(Pod("pod", (first, Container("main", {R: 2}))))
    assert text(kubelet).startswith("7: GetPreferredAllocation left out ids that must be in")


@pytest.mark.parametrize(
    ("content", "rule", "said"),
    [
        ({"devices": [("/dev/x", "/dev/x", "")]}, 8, "permissions ''"),
        ({"devices": [("/dev/x", "/dev/x", "rwx")]}, 8, "permissions 'rwx'"),
        ({"devices": [("", "/dev/x", "rw")]}, 8, "device path '' is empty or relative"),
        ({"devices": [("/dev/x", "dev/x", "rw")]}, 8, "device path 'dev/x' is empty or relative"),
        ({"mounts": [("/m", "")]}, 8, "mount path '' is empty or relative"),
        ({"mounts": [("m", "/h")]}, 8, "mount path 'm' is empty or relative"),
        ({"envs": {"": "1"}}, 9, "env name '' is empty"),
        ({"envs": {"A=B": "1"}}, 9, "env name 'A=B' is empty or contains ="),
        ({"cdi": ["gpu0"]}, 9, "CDI name 'gpu0' is not fully qualified"),
        ({"annotations": {"cdi.k8s.io/x": "gpu0"}}, 9, "a CDI annotation does not parse"),
    ],
)
async def test_rules_8_and_9_an_answer_that_no_runtime_takes(
    bench: Any, content: dict[str, Any], rule: int, said: str
) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    plugin.on_allocate = bench.answer(
        envs=content.get("envs", {}),
        annotations=content.get("annotations", {}),
        cdi_devices=[{"name": name} for name in content.get("cdi", ())],
        mounts=[{"container_path": c, "host_path": h} for c, h in content.get("mounts", ())],
        devices=[
            {"container_path": c, "host_path": h, "permissions": p}
            for c, h, p in content.get("devices", ())
        ],
    )
    await kubelet.admit(pod())
    assert text(kubelet).startswith(f"{rule}: ")
    assert said in text(kubelet)


@pytest.mark.parametrize(
    ("kind", "one", "two"),
    [
        ("env A", {"envs": {"A": "1"}}, {"envs": {"A": "2"}}),
        ("annotation k", {"annotations": {"k": "1"}}, {"annotations": {"k": "2"}}),
        (
            "mount /m",
            {"mounts": [{"container_path": "/m", "host_path": "/1"}]},
            {"mounts": [{"container_path": "/m", "host_path": "/2"}]},
        ),
        (
            "device /dev/x",
            {"devices": [{"container_path": "/dev/x", "host_path": "/1", "permissions": "rw"}]},
            {"devices": [{"container_path": "/dev/x", "host_path": "/2", "permissions": "rw"}]},
        ),
    ],
)
async def test_rule_10_two_resources_that_contradict_each_other(
    bench: Any, kind: str, one: dict[str, Any], two: dict[str, Any]
) -> None:
    kubelet = await bench.kubelet()
    first, second = await bench.plugin(["a"]), await bench.plugin(["x"], resource=S)
    first.on_allocate, second.on_allocate = bench.answer(**one), bench.answer(**two)
    both = Pod("pod", (Container("main", {R: 1, S: 1}),))
    await bench.run(both)
    assert text(kubelet) == f"10: two resources give different values for {kind}"


async def test_rule_10_is_not_broken_by_agreement_or_by_two_containers(bench: Any) -> None:
    kubelet = await bench.kubelet()
    first, second = await bench.plugin(["a", "b"]), await bench.plugin(["x"], resource=S)
    first.on_allocate = second.on_allocate = bench.answer(envs={"A": "1"})
    await bench.run(Pod("pod", (Container("main", {R: 1, S: 1}),)))
    first.on_allocate = bench.answer(envs={"A": "2"})
    await bench.run(pod())
    assert kubelet.findings == []


# --- 11 and 12: calls ---


@pytest.mark.parametrize(
    ("took", "said"), [(5.0, None), (6.0, "took 6.0 s: slow"), (31.0, "took 31.0 s: failed")]
)
@pytest.mark.parametrize("method", ["Allocate", "PreStartContainer"])
async def test_rule_11_a_slow_call(bench: Any, method: str, took: float, said: str | None) -> None:
    kubelet = await bench.kubelet(clock=lambda: 0.0)
    plugin = await bench.plugin(["a"], pre_start_required=True)

    def slow(request: Any) -> Any:
        kubelet.advance(took)
        if method == "Allocate":
            return bench.answer()(request)
        return pb.PreStartContainerResponse()

    if method == "Allocate":
        plugin.on_allocate = slow
    else:
        plugin.on_start = slow
    await bench.run(pod())
    assert [str(finding) for finding in kubelet.findings] == (
        [f"11: {method} {said}"] if said else []
    )


async def test_rule_11_an_allocate_that_never_answers(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    kubelet.timeouts.watchdog = 0.2
    plugin.on_allocate = lambda request: asyncio.sleep(60)
    assert "DeadlineExceeded" in await bench.refused(pod())
    assert text(kubelet) == "11: Allocate did not answer within 0.2 s"


async def test_rule_12_an_allocate_of_what_is_not_there_or_not_healthy(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a", bench.device("b", health="Unhealthy")])
    await kubelet.allocate(R, ["a"])
    assert kubelet.findings == []
    await kubelet.allocate(R, ["a", "b", "zzz"])
    assert [str(finding) for finding in kubelet.findings] == [
        "12: Allocate took 'b', which is unhealthy",
        "12: Allocate took 'zzz', which is not in the list",
    ]


# --- 13 and 14: ends ---


async def test_rule_13_a_stream_that_ends_while_the_plugin_serves_on(bench: Any) -> None:
    kubelet = await bench.kubelet(settle=0.05)
    plugin = await bench.plugin(["a"])
    await plugin.end_stream()
    await kubelet.wait_for(lambda: kubelet.findings)
    assert text(kubelet) == f"13: the stream of {R} ended while its plugin goes on serving"


async def test_rule_13_is_not_broken_by_a_plugin_that_registers_again(bench: Any) -> None:
    kubelet = await bench.kubelet(settle=1.0)
    plugin = await bench.plugin(["a"])
    await plugin.end_stream()
    await kubelet.wait_for(lambda: kubelet.allocatable()[R] == 0)
    plugin._ended = False
    await plugin.register()
    await kubelet.wait_registered(R)
    await asyncio.sleep(1.2)
    assert kubelet.findings == []


async def test_rule_13_is_not_broken_by_an_end_that_kubelet_made(bench: Any) -> None:
    kubelet = await bench.kubelet(settle=0.05)
    await bench.plugin(["a"])
    await kubelet.drop_stream(R)
    await asyncio.sleep(0.2)
    assert kubelet.findings == []


async def test_rule_13_a_probe_finds_nothing_at_a_good_plugin(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])
    await kubelet.probe_stream(R, lambda: bench.list(plugin, "a"), quiet=0.1)
    assert kubelet.findings == []
    assert plugin.streams == 2
    assert kubelet.is_watched(R)
    assert kubelet.allocatable() == {R: 1}


def one_queue(bench: Any, first: list[str]) -> tuple[Any, asyncio.Queue[list[str]]]:
    """Streams that share one queue and do not notice their end: a leaked one takes an update."""
    queue: asyncio.Queue[list[str]] = asyncio.Queue()
    pending: list[asyncio.Task[list[str]]] = []

    async def lists() -> Any:
        yield pb.ListAndWatchResponse(devices=[bench.device(name) for name in first])
        while True:
            getter = asyncio.ensure_future(queue.get())
            pending.append(getter)
            names = await asyncio.shield(getter)
            yield pb.ListAndWatchResponse(devices=[bench.device(name) for name in names])

    return lists, queue


async def test_rule_13_an_update_that_a_dead_stream_took_is_missed(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = bench.new_plugin()
    plugin.on_list, queue = one_queue(bench, ["a", "b"])
    await plugin.serve()
    await plugin.register()
    await kubelet.wait_registered(R)
    await kubelet.probe_stream(R, lambda: queue.put(["a"]), timeout=0.3, quiet=0.1)
    assert text(kubelet) == "13: the change of a device was lost"


async def test_rule_13_a_second_stream_without_a_list_is_found(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = bench.new_plugin()

    async def once() -> Any:
        if plugin.streams == 1:
            yield pb.ListAndWatchResponse(devices=[bench.device("a")])
        await asyncio.Event().wait()

    plugin.on_list = once
    await plugin.serve()
    await plugin.register()
    await kubelet.wait_registered(R)
    await kubelet.probe_stream(R, lambda: asyncio.sleep(0), timeout=0.2)
    assert text(kubelet) == "13: the second stream got no list"


@pytest.mark.parametrize(
    ("on_second", "said"),
    [
        ((["b"], ["c"]), "the second stream began with another list"),
        ((["a"], ["c"], ["c"]), "one change of a device brought 2 lists"),
    ],
)
async def test_rule_13_a_second_stream_that_says_other_things(
    bench: Any, on_second: tuple[list[str], ...], said: str
) -> None:
    kubelet = await bench.kubelet()
    plugin = bench.new_plugin()
    go = asyncio.Event()

    async def lists() -> Any:
        for number, names in enumerate(on_second if plugin.streams == 2 else (["a"],)):
            if number:
                await go.wait()
            yield pb.ListAndWatchResponse(devices=[bench.device(name) for name in names])
        await asyncio.Event().wait()

    async def change() -> None:
        go.set()

    plugin.on_list = lists
    await plugin.serve()
    await plugin.register()
    await kubelet.wait_registered(R)
    await kubelet.probe_stream(R, change, timeout=2, quiet=0.2)
    assert text(kubelet) == f"13: {said}"


async def test_rule_14_a_socket_that_a_dead_plugin_leaves(bench: Any) -> None:
    kubelet = await bench.kubelet(settle=0.05)
    plugin = await bench.plugin(["a"])
    kept = plugin.socket.with_suffix(".kept")
    os.link(plugin.socket, kept)
    await plugin.stop()
    kept.rename(plugin.socket)
    await kubelet.wait_for(lambda: kubelet.findings)
    assert text(kubelet) == f"14: {plugin.socket.name} lies there and nobody listens"


async def test_rule_14_also_when_a_new_plugin_has_taken_over_beside_it(bench: Any) -> None:
    kubelet = await bench.kubelet(settle=0.3)
    plugin = await bench.plugin(["a"])
    await plugin.stop()
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(plugin.socket))
    stale.close()
    await kubelet.wait_for(lambda: kubelet.allocatable()[R] == 0)
    await bench.plugin(["a"])
    await kubelet.wait_for(lambda: kubelet.findings)
    assert rules(kubelet) == [14]


# --- 15: lists and Allocate ---


@pytest.mark.parametrize(("during", "found"), [(["a"], [15]), (["a", "b", "c"], [])])
async def test_rule_15_a_list_that_shrinks_during_an_allocate(
    bench: Any, during: list[str], found: list[int]
) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])

    async def shrink(request: Any) -> Any:
        await bench.relist(plugin, *during)
        return bench.answer()(request)

    plugin.on_allocate = shrink
    await kubelet.admit(pod())
    assert rules(kubelet) == found


async def test_rule_15_concerns_the_resource_that_is_being_allocated(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin, other = await bench.plugin(["a"]), await bench.plugin(["x", "y"], resource=S)

    async def shrink(request: Any) -> Any:
        await bench.relist(other, "x")
        return bench.answer()(request)

    plugin.on_allocate = shrink
    await kubelet.admit(pod())
    assert kubelet.findings == []


def test_a_finding_reads_with_its_number() -> None:
    assert str(findings.Finding(3, "text")) == "3: text"
