"""Admission: which ids are chosen, which calls are made, what refusals say (2.6, 2.9)."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.testing.kubelet import (
    Admitted,
    AllocationError,
    Container,
    Failed,
    PluginError,
    Pod,
    topology,
)

R, S = "example.com/resource", "example.com/second"


def pod(count: int = 1, resource: str = R) -> Pod:
    return Pod("pod", (Container("main", {resource: count}),))


def init(name: str, count: int, *, sidecar: bool = False) -> Container:
    return Container(name, {R: count}, init=True, restartable=sidecar)


def preferring(*ids: str) -> Any:
    return lambda request: pb.PreferredAllocationResponse(
        container_responses=[pb.ContainerPreferredAllocationResponse(deviceIDs=ids)]
    )


def ask_of(request: pb.PreferredAllocationRequest) -> tuple[set[str], set[str], int]:
    (ask,) = request.container_requests
    return {*ask.available_deviceIDs}, {*ask.must_include_deviceIDs}, ask.allocation_size


# --- calls ---


async def test_28_one_allocate_for_each_container_and_resource(bench: Any) -> None:
    await bench.kubelet()
    first = await bench.plugin(["a", "b", "c"])
    second = await bench.plugin(["x", "y"], resource=S)
    two = Container("two", {R: 1})
    await bench.run(Pod("pod", (Container("one", {R: 2, S: 1}), two)))
    sizes = [
        [len(c.devices_ids) for c in ask.container_requests] for ask in first.asked("allocate")
    ]
    assert sizes == [[2], [1]]
    assert len(second.asked("allocate")) == 1


async def test_the_order_of_resources_and_ids_is_random_and_repeatable(bench: Any) -> None:
    async def outcome(seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        kubelet = await bench.kubelet(seed=seed)
        await bench.plugin(["a", "b", "c"])
        await bench.plugin(["x"], resource=S)
        await kubelet.admit(Pod("pod", (Container("main", {R: 3, S: 1}),)))
        calls = [call for call in kubelet.calls if call.method == "Allocate"]
        await bench.close()
        asked = {call.resource: call.request.container_requests[0] for call in calls}  # type: ignore[attr-defined]
        return tuple(call.resource for call in calls), tuple(asked[R].devices_ids)

    seen = [await outcome(seed) for seed in range(6)]
    assert len({order for order, _ in seen}) == 2
    assert len({ids for _, ids in seen}) > 1
    assert await outcome(0) == seen[0]


async def test_a_resource_without_a_plugin_is_skipped_silently(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a"])
    found = Pod("pod", (Container("main", {R: 1, "nvidia.com/gpumem": 4000}),))
    assert isinstance(await kubelet.admit(found), Admitted)
    assert set(kubelet.held(found.uid, "main")) == {R}


async def test_57_quantity_0_makes_no_call_and_is_refused_where_nothing_is_healthy(
    bench: Any,
) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    assert isinstance(await kubelet.admit(pod(0)), Admitted)
    await bench.relist(plugin, bench.device("a", health="Unhealthy"))
    assert await bench.refused(pod(0)) == (
        f"no healthy devices present; cannot allocate unhealthy devices {R}"
    )
    assert plugin.asked("allocate") == []


# --- refusals ---


async def test_29_too_few_devices_is_said_in_numbers(bench: Any) -> None:
    await bench.kubelet()
    await bench.plugin(["a", "b"])
    await bench.run(pod())
    assert await bench.refused(pod(2)) == (
        f"requested number of devices unavailable for {R}. Requested: 2, Available: 1"
    )


async def test_30_a_held_resource_without_registration_is_refused(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])
    await bench.run(pod())
    await plugin.stop()
    await kubelet.wait_for(lambda: kubelet.allocatable()[R] == 0)
    kubelet.advance(301)
    assert kubelet.capacity() == {R: 0}
    assert await bench.refused(pod()) == f"cannot allocate unregistered device {R}"


async def test_30_a_device_that_is_held_and_no_longer_healthy_is_refused(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])
    held = pod()
    await bench.run(held)
    (mine,) = kubelet.held(held.uid, "main")[R]
    (other,) = {"a", "b"} - {mine}
    await bench.relist(plugin, other, bench.device(mine, health="Unhealthy"))
    assert await bench.refused(held) == (
        f"previously allocated devices are no longer healthy; cannot allocate unhealthy devices {R}"
    )


async def test_31_a_changed_request_is_refused(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a", "b"])
    before = pod(1)
    await kubelet.admit(before)
    after = Pod("pod", (Container("main", {R: 2}),), uid=before.uid)
    assert await bench.refused(after) == (
        f'pod "{before.uid}" container "main" changed request for resource "{R}" from 1 to 2'
    )


async def test_admitting_the_same_pod_again_makes_no_call(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])
    again = pod()
    await kubelet.admit(again)
    held = kubelet.held(again.uid, "main")
    await kubelet.admit(again)
    assert kubelet.held(again.uid, "main") == held
    assert len(plugin.asked("allocate")) == 1


async def test_48_an_allocate_error_shows_its_text_and_frees_the_ids(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])

    async def refuse(request: Any) -> Any:
        raise RuntimeError("card on fire")

    plugin.on_allocate = refuse
    text = await bench.refused(pod())
    assert text.startswith("rpc error: code = Unknown desc = ")
    assert "card on fire" in text
    plugin.on_allocate = None
    second = pod()
    assert isinstance(await kubelet.admit(second), Admitted)
    assert kubelet.held(second.uid, "main") == {R: ("a",)}


async def test_an_answer_without_containers_is_refused_and_its_ids_stay_in_use(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])
    plugin.on_allocate = lambda request: pb.AllocateResponse()
    text = await bench.refused(pod())
    assert text.startswith("no containers return in allocation response")
    assert [finding.rule for finding in kubelet.findings] == [6]
    plugin.on_allocate = None
    assert "Available: 1" in await bench.refused(pod(2))


async def test_49_what_the_first_container_got_stays_recorded_until_the_lazy_release(
    bench: Any,
) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])
    answers = iter([bench.answer(), None])

    def once(request: Any) -> Any:
        answer = next(answers)
        if answer is None:
            raise RuntimeError("second container")
        return answer(request)

    plugin.on_allocate = once
    refused = Pod("pod", (Container("one", {R: 1}), Container("two", {R: 1})))
    await bench.refused(refused)
    assert len(kubelet.held(refused.uid, "one")[R]) == 1
    plugin.on_allocate = None
    assert isinstance(await kubelet.admit(pod(2)), Admitted)
    assert kubelet.held(refused.uid, "one") == {}


async def test_a_pod_may_be_refused_after_its_allocate(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    kubelet.faults.refuse_after_allocation = 1
    result = await kubelet.admit(pod())
    assert isinstance(result, Failed)
    assert result.reason == "NodeAffinity"
    assert len(plugin.asked("allocate")) == 1
    assert isinstance(await kubelet.admit(pod()), Admitted)


async def test_40_a_pod_with_devices_fits_after_the_capacity_fell(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b", "c"])
    await bench.run(pod(2))
    holding = pod(1)
    await bench.run(holding)
    (mine,) = kubelet.held(holding.uid, "main")[R]
    await bench.relist(plugin, mine)
    assert kubelet.allocatable() == {R: 1}
    assert isinstance(await kubelet.admit(holding), Admitted)


async def test_a_pod_that_the_node_has_too_little_for_is_out_of_it(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    await plugin.stop()
    await kubelet.wait_for(lambda: kubelet.allocatable()[R] == 0)
    kubelet.advance(301)
    kubelet.capacity()
    result = await kubelet.admit(pod(1))
    assert isinstance(result, Failed)
    assert result.message == (
        f"Node didn't have enough resource: {R}, requested: 1, used: 0, capacity: 0"
    )


async def test_a_checkpoint_that_cannot_be_written_fails_the_allocation(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a"])
    path = kubelet.plugin_dir / "kubelet_internal_checkpoint"
    path.unlink()
    path.mkdir()
    assert (await bench.refused(pod())).startswith("failed to write checkpoint file")


# --- init containers ---


async def test_33_an_init_containers_device_is_used_again_with_a_call_of_its_own(
    bench: Any,
) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b", "c"])
    found = Pod("pod", (init("first", 1), init("second", 1), Container("main", {R: 1})))
    await bench.run(found)
    held = {name: kubelet.held(found.uid, name)[R] for name in ("first", "second", "main")}
    assert len(set(held.values())) == 1
    assert len(plugin.asked("allocate")) == 3


async def test_33_a_container_that_needs_more_takes_the_reusable_first(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b", "c", "d"], get_preferred_allocation_available=True)
    found = Pod("pod", (init("first", 2), Container("main", {R: 3})))
    await bench.run(found)
    reused = set(kubelet.held(found.uid, "first")[R])
    assert reused < set(kubelet.held(found.uid, "main")[R])
    _, must_include, size = ask_of(plugin.asked("prefer")[-1])
    assert (must_include, size) == (reused, 3)


async def test_33_app_containers_of_one_pod_do_not_share_what_init_containers_left(
    bench: Any,
) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a", "b", "c"])
    found = Pod("pod", (init("first", 1), Container("one", {R: 1}), Container("two", {R: 1})))
    await bench.run(found)
    left, one, two = (kubelet.held(found.uid, name)[R] for name in ("first", "one", "two"))
    assert left == one != two


async def test_33_another_pod_gets_none_of_it(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a", "b"])
    found, other = Pod("pod", (init("first", 1), Container("main"))), pod()
    await bench.run(found)
    await bench.run(other)
    assert kubelet.held(found.uid, "first") != kubelet.held(other.uid, "main")


async def test_34_a_sidecar_reuses_and_keeps_its_device(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a", "b"])
    found = Pod("pod", (init("first", 1), init("side", 1, sidecar=True), Container("main", {R: 1})))
    await bench.run(found)
    first, side, main = (kubelet.held(found.uid, name)[R] for name in ("first", "side", "main"))
    assert first == side != main


async def test_init_containers_come_first_wherever_they_stand(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a"])
    found = Pod("pod", (Container("main", {R: 1}), init("first", 1)))
    configs = await bench.run(found)
    assert list(configs) == ["first", "main"]
    assert kubelet.held(found.uid, "first") == kubelet.held(found.uid, "main")


# --- preference ---


def nodes(zero: range, one: range = range(0)) -> dict[str, int]:
    return {f"Dev{n}": 0 for n in zero} | {f"Dev{n}": 1 for n in one}


@pytest.mark.parametrize(
    ("devices", "used", "reusable", "request_size", "available", "must_include"),
    [
        (nodes(range(4)), "", "", 1, "0123", ""),
        (nodes(range(8)), "05", "05", 4, "01234567", "05"),
        (nodes(range(8)), "0541", "05", 4, "023567", "05"),
        (nodes(range(4), range(4, 8)), "16", "16", 6, "01234567", "01236"),
        (nodes(range(4), range(4, 8)), "0167", "16", 6, "123456", "1236"),
    ],
)
async def test_36_the_plugin_is_asked_with_kubelets_parameters(
    bench: Any,
    devices: dict[str, int],
    used: str,
    reusable: str,
    request_size: int,
    available: str,
    must_include: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An init container leaves the reusable ids, another pod holds the rest of the used ones, and
    the last container gets the hint of node 0 that the vectors suppose.
    """
    kubelet = await bench.kubelet(numa_nodes=2)
    listed = [bench.device(name, node) for name, node in devices.items()]
    plugin = await bench.plugin(listed, get_preferred_allocation_available=True)
    found = Pod(
        "pod",
        (
            *((init("first", len(reusable)),) if reusable else ()),
            Container("main", {R: request_size}),
        ),
    )
    held = Pod("held", (Container("main", {R: len(used) - len(reusable)}),))
    others = [f"Dev{n}" for n in used if n not in reusable]
    plugin.on_prefer = preferring(*others)
    if others:
        await bench.run(held)
    plugin.on_prefer = preferring(*(f"Dev{n}" for n in reusable))
    coming = [topology.ANYWHERE, topology.Hint(frozenset({0}), True)][-len(found.containers) :]
    monkeypatch.setattr(topology, "merge", lambda *_: (coming.pop(0), True))
    await kubelet.admit(found)
    assert ask_of(plugin.asked("prefer")[-1]) == (
        {f"Dev{n}" for n in available},
        {f"Dev{n}" for n in must_include},
        request_size,
    )


async def test_36_the_preference_is_followed_and_only_where_it_is_permitted(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b", "c", "d"], get_preferred_allocation_available=True)
    plugin.on_prefer = preferring("c", "zzz")
    first = pod(2)
    await bench.run(first)
    assert "c" in kubelet.held(first.uid, "main")[R]
    second = pod(1)
    await bench.run(second)
    assert "c" not in kubelet.held(second.uid, "main")[R]


async def test_36_an_answer_without_containers_is_no_preference(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"], get_preferred_allocation_available=True)
    plugin.on_prefer = lambda request: pb.PreferredAllocationResponse()
    assert isinstance(await kubelet.admit(pod()), Admitted)


async def test_36_an_error_of_the_preference_fails_the_admission(bench: Any) -> None:
    await bench.kubelet()
    plugin = await bench.plugin(["a", "b"], get_preferred_allocation_available=True)

    async def fail(request: Any) -> Any:
        raise RuntimeError("no opinion")

    plugin.on_prefer = fail
    text = await bench.refused(pod())
    assert text.startswith("device plugin GetPreferredAllocation rpc failed with err: rpc error")


async def test_36_an_unaligned_preference_is_ignored_when_the_aligned_suffice(bench: Any) -> None:
    kubelet = await bench.kubelet(numa_nodes=2, topology_policy="restricted")
    listed = [*(bench.device(i, 0) for i in "abc"), *(bench.device(i, 1) for i in "xyz")]
    plugin = await bench.plugin(listed, get_preferred_allocation_available=True)
    plugin.on_prefer = preferring("x", "y")
    found = pod(2)
    await bench.run(found)
    assert set(kubelet.held(found.uid, "main")[R]) <= {*"abc"}
    available, _, _ = ask_of(plugin.asked("prefer")[-1])
    assert available == {*"abc"}


async def test_without_the_option_the_plugin_is_not_asked(bench: Any) -> None:
    await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])
    await bench.run(pod())
    assert plugin.asked("prefer") == []


async def test_with_the_policy_none_all_available_ids_are_sent(bench: Any) -> None:
    await bench.kubelet(numa_nodes=2)
    plugin = await bench.plugin(
        [bench.device("a", 0), bench.device("b", 1)], get_preferred_allocation_available=True
    )
    await bench.run(pod())
    assert ask_of(plugin.asked("prefer")[0]) == ({"a", "b"}, set(), 1)


async def test_32_a_list_of_pods_during_the_preference_disturbs_nothing(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"], get_preferred_allocation_available=True)
    ended = pod()
    await bench.run(ended)
    answer = preferring("a")

    def collect(request: Any) -> Any:
        kubelet.finish_pod(ended.uid)
        kubelet.listed_pods()
        return answer(request)

    plugin.on_prefer = collect
    assert isinstance(await kubelet.admit(pod()), Admitted)


# --- topology policies ---


@pytest.mark.parametrize(
    ("policy", "count", "admitted"),
    [
        ("none", 3, True),
        ("best-effort", 3, True),
        ("restricted", 3, True),
        ("single-numa-node", 3, False),
        ("single-numa-node", 2, True),
        ("restricted", 5, False),
    ],
)
async def test_37_policies_decide_over_devices_of_two_nodes(
    bench: Any, policy: Any, count: int, admitted: bool
) -> None:
    kubelet = await bench.kubelet(numa_nodes=2, topology_policy=policy)
    await bench.plugin([bench.device(i, n) for i, n in zip("abcd", (0, 0, 1, 1), strict=True)])
    result = await kubelet.admit(pod(count))
    assert isinstance(result, Admitted) == admitted
    if not admitted:
        assert result.reason == "TopologyAffinityError"
        assert result.message == "Resources cannot be allocated with Topology locality"


@pytest.mark.parametrize("seed", range(4))
async def test_37_two_resources_come_from_one_node(bench: Any, seed: int) -> None:
    kubelet = await bench.kubelet(numa_nodes=2, topology_policy="single-numa-node", seed=seed)
    await bench.plugin([bench.device("a", 0), bench.device("b", 1)])
    await bench.plugin([bench.device("y", 1)], resource=S)
    found = Pod("pod", (Container("main", {R: 1, S: 1}),))
    await bench.run(found)
    assert kubelet.held(found.uid, "main") == {R: ("b",), S: ("y",)}


@pytest.mark.parametrize(("policy", "admitted"), [("restricted", False), ("best-effort", True)])
async def test_37_what_one_node_could_hold_is_counted_over_unhealthy_devices_too(
    bench: Any, policy: Any, admitted: bool
) -> None:
    kubelet = await bench.kubelet(numa_nodes=2, topology_policy=policy)
    sick = [bench.device("b", 0, health="Unhealthy"), bench.device("d", 1, health="Unhealthy")]
    await bench.plugin([bench.device("a", 0), bench.device("c", 1), *sick])
    assert isinstance(await kubelet.admit(pod(2)), Admitted) == admitted


async def test_37_reusable_devices_hold_a_pod_to_their_node(bench: Any) -> None:
    kubelet = await bench.kubelet(numa_nodes=2, topology_policy="single-numa-node")
    listed = [bench.device(i, n) for i, n in zip("abcd", (0, 0, 1, 1), strict=True)]
    await bench.plugin(listed)
    found = Pod("pod", (init("first", 1), Container("main", {R: 2})))
    await bench.run(found)
    assert kubelet.held(found.uid, "main") == {R: ("a", "b")}


async def test_37_what_a_pod_holds_is_its_hint_when_it_is_admitted_again(bench: Any) -> None:
    kubelet = await bench.kubelet(numa_nodes=2, topology_policy="single-numa-node")
    await bench.plugin([bench.device("a", 0), bench.device("b", 0)])
    again = pod(2)
    await bench.run(again)
    assert isinstance(await kubelet.admit(again), Admitted)
    changed = Pod("pod", (Container("main", {R: 1}),), uid=again.uid)
    assert (await kubelet.admit(changed)).reason == "TopologyAffinityError"


async def test_records_know_the_node_of_each_id(bench: Any) -> None:
    kubelet = await bench.kubelet(numa_nodes=3)
    await bench.plugin([bench.device("a", 0, 2), bench.device("b")])
    found = pod(2)
    await bench.run(found)
    (record,) = kubelet.records.values()
    assert record.by_node == {0: ("a",), 2: ("a",), -1: ("b",)}
    assert kubelet.held(found.uid, "main") == {R: ("a", "b")}


# --- what a test can do to a plugin ---


async def test_52_admissions_at_once_overlap_in_allocate_and_get_different_ids(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b", "c"], get_preferred_allocation_available=True)
    together = asyncio.Event()

    async def wait(request: Any) -> Any:
        if kubelet.in_flight("Allocate") == 3:
            together.set()
        await together.wait()
        return bench.answer()(request)

    plugin.on_allocate = wait
    pods = [pod() for _ in range(3)]
    results = await asyncio.gather(*(kubelet.admit(found) for found in pods))
    assert all(isinstance(result, Admitted) for result in results)
    assert {kubelet.held(found.uid, "main")[R] for found in pods} == {("a",), ("b",), ("c",)}


async def test_a_cancelled_allocate_is_seen_by_the_plugin_and_frees_its_ids(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    cancelled = asyncio.Event()

    async def hang(request: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    plugin.on_allocate = hang
    admission = asyncio.create_task(kubelet.admit(pod()))
    await kubelet.wait_for(lambda: plugin.asked("allocate"))
    admission.cancel()
    await asyncio.gather(admission, return_exceptions=True)
    await asyncio.wait_for(cancelled.wait(), 5)
    plugin.on_allocate = None
    assert isinstance(await kubelet.admit(pod()), Admitted)


async def test_50_calls_are_repeated_as_often_as_asked(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"], pre_start_required=True)
    kubelet.faults.repeats = {"Allocate": 2, "PreStartContainer": 1}
    await bench.run(pod())
    first, *others = plugin.asked("allocate")
    assert others == [first, first]
    assert len(plugin.asked("start")) == 2
    assert len([call for call in kubelet.calls if call.method == "Allocate"]) == 3


async def test_a_delayed_allocate_reaches_the_plugin_after_its_list_has_changed(
    bench: Any,
) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    kubelet.faults.delays = {"Allocate": 0.2}
    admission = asyncio.create_task(kubelet.admit(pod()))
    await bench.relist(plugin, bench.device("a", health="Unhealthy"))
    assert plugin.asked("allocate") == []
    await admission
    assert len(plugin.asked("allocate")) == 1


async def test_a_plugin_that_dies_during_allocate_fails_the_pod_as_in_go(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])

    async def die(request: Any) -> Any:
        await kubelet.drop_stream(R)
        await asyncio.Event().wait()

    plugin.on_allocate = die
    assert await bench.refused(pod()) == (
        "rpc error: code = Canceled desc = grpc: the client connection is closing"
    )
    assert (await bench.refused(pod())).startswith("no healthy devices present")


async def test_a_call_that_was_delayed_until_the_connection_closed_fails(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a"])
    kubelet.faults.delays = {"Allocate": 0.2}
    admission = asyncio.create_task(kubelet.admit(pod()))
    await asyncio.sleep(0.05)
    await kubelet.drop_stream(R)
    result = await admission
    assert isinstance(result, Failed)
    assert "grpc: the client connection is closing" in result.message


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (grpc.StatusCode.CANCELLED, "Canceled"),
        (grpc.StatusCode.INVALID_ARGUMENT, "InvalidArgument"),
        (grpc.StatusCode.UNAVAILABLE, "Unavailable"),
    ],
)
async def test_errors_read_as_go_prints_them(bench: Any, code: grpc.StatusCode, name: str) -> None:
    await bench.kubelet()
    plugin = await bench.plugin(["a"])

    async def abort(request: Any) -> Any:
        await plugin.context.abort(code, "because")

    plugin.on_allocate = abort
    assert await bench.refused(pod()) == f"rpc error: code = {name} desc = because"


async def test_55_a_plugin_can_be_called_with_any_containers(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])
    assert await kubelet.allocate(R) == pb.AllocateResponse()
    response = await kubelet.allocate(R, ["a"], ["b"])
    assert [dict(c.envs) for c in response.container_responses] == [{"IDS": "a"}, {"IDS": "b"}]
    assert len(plugin.asked("allocate")) == 2
    assert kubelet.records == {}


async def test_56_what_the_plugin_refuses_comes_as_an_error(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])

    async def refuse(request: Any) -> Any:
        raise RuntimeError("no device zzz")

    plugin.on_allocate = refuse
    with pytest.raises(PluginError, match="no device zzz"):
        await kubelet.allocate(R, ["zzz"])
    with pytest.raises(AllocationError, match=f"unknown Device Plugin {S}"):
        await kubelet.allocate(S, ["zzz"])
    assert kubelet.findings == []
