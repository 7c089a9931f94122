"""Filter, bind and preempt over HTTP, on an API server (hami-scheduler.md 1.4, 3.6, 3.7, 4)."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deviceplugin.api.hami import nodelock, poddevices
from deviceplugin.api.hami.keys import BIND_PHASE, MUTEX_LOCK, VENDORS, VGPU_NODE
from deviceplugin.api.node import ANNOUNCES
from deviceplugin.scheduler import nodelock as nodelocks
from deviceplugin.scheduler.settings import SchedulerSettings

NVIDIA = VENDORS["NVIDIA"]


def lock_text(age_seconds: float = 0, pod: str = "other", namespace: str = "default") -> str:
    at = datetime.now(UTC) - timedelta(seconds=age_seconds)
    return nodelock.encode(nodelock.NodeLock(at, namespace, pod))


async def placed(bench: Any, address: str, name: str, nodes: list[str]) -> str:
    answer = await bench.filter(address, name, nodes)
    assert answer["Error"] == ""
    (node,) = answer["NodeNames"]
    return str(node)


async def test_a_pod_is_placed_and_bound_with_two_writes(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a"))
    bench.server.create("pods", make.pod("p", memory=2000, cores=20))
    _, address = await bench.scheduler()
    assert await placed(bench, address, "p", ["a"]) == "a"
    pod = bench.server.get("pods", "p", "default")
    assert pod["metadata"]["labels"][VGPU_NODE] == pod["metadata"]["annotations"][VGPU_NODE] == "a"
    text = pod["metadata"]["annotations"][NVIDIA.allocated]
    assert pod["metadata"]["annotations"][NVIDIA.to_allocate] == text
    ((device,),) = poddevices.decode(text, NVIDIA.allocated)
    assert (device.memory, device.cores) == (2000, 20)
    before = len(bench.server.calls)
    assert await bench.bind(address, "p", "a") == ""
    writes = [
        c for c in bench.server.calls[before:] if c.verb != "watch" and "events" not in c.path
    ]
    assert [c.path.rpartition("/")[2] for c in writes] == ["a", "binding"]
    pod = bench.server.get("pods", "p", "default")
    assert pod["spec"]["nodeName"] == "a"
    assert pod["metadata"]["annotations"][BIND_PHASE] == "allocating"
    lock = bench.server.get("nodes", "a")["metadata"]["annotations"][MUTEX_LOCK]
    assert nodelock.decode(lock).held_by("default", "p")


async def test_a_node_that_hands_over_by_evidence_needs_no_lock(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a", deferred=True))
    bench.server.create("pods", make.pod("p"))
    _, address = await bench.scheduler()
    await placed(bench, address, "p", ["a"])
    before = len(bench.server.calls)
    assert await bench.bind(address, "p", "a") == ""
    writes = [
        c for c in bench.server.calls[before:] if c.verb != "watch" and "events" not in c.path
    ]
    assert [c.path.rpartition("/")[2] for c in writes] == ["binding"]
    assert MUTEX_LOCK not in bench.server.get("nodes", "a")["metadata"]["annotations"]


async def test_what_was_given_away_is_given_once(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a", cards=1, memory=1000))
    for name in ("p", "q"):
        bench.server.create("pods", make.pod(name, memory=600))
    _, address = await bench.scheduler()
    answers = await asyncio.gather(*(bench.filter(address, name, ["a"]) for name in ("p", "q")))
    assert sorted(a["NodeNames"] or [] for a in answers) == [[], ["a"]]
    (failed,) = [a["FailedNodes"] for a in answers if a["FailedNodes"]]
    assert "CardInsufficientMemory" in failed["a"]


async def test_why_nothing_fits_is_said_for_each_node(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a", cards=1))
    bench.server.create("nodes", make.node("b", cards=2))
    bench.server.create("pods", make.pod("p", count=2, memory=99999))
    _, address = await bench.scheduler()
    answer = await bench.filter(address, "p", ["a", "b", "c"])
    assert answer["NodeNames"] is None
    assert answer["FailedNodes"]["c"] == "NodeInsufficientDevice: node unregistered"
    assert answer["FailedNodes"]["b"].startswith("CardInsufficientMemory")
    await bench.until(lambda: bench.server.objects("events"))
    (event,) = bench.server.objects("events")
    assert event["reason"] == "FilteringFailed"
    assert "no available node, 3 nodes do not meet" in event["message"]


async def test_a_pod_that_asks_for_nothing_goes_anywhere(bench: Any, make: Any) -> None:
    pod = make.pod("p")
    pod["spec"]["containers"][0]["resources"] = {}
    bench.server.create("pods", pod)
    _, address = await bench.scheduler()
    answer = await bench.filter(address, "p", ["x", "y"])
    assert answer["NodeNames"] == ["x", "y"]


async def test_whole_nodes_are_judged_without_a_trace(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a"))
    pod = bench.server.create("pods", make.pod("p"))
    made, address = await bench.scheduler()
    before = bench.server.get("pods", "p", "default")
    nodes = [make.node("imagined", memory=32000), make.node("small", memory=100)]
    body = {"Pod": pod, "Nodes": {"items": nodes}, "NodeNames": None}
    answer = await bench.post(f"{address}/filter", body)
    assert [n["metadata"]["name"] for n in answer["Nodes"]["items"]] == ["imagined"]
    assert bench.server.get("pods", "p", "default") == before
    assert list(made.cluster.holdings()) == []


async def test_a_lock_that_is_released_lets_the_next_in(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a"))
    bench.server.create("pods", make.pod("p"))
    bench.server.create("pods", make.pod("other"))
    _, address = await bench.scheduler()
    await placed(bench, address, "p", ["a"])
    held = {"metadata": {"annotations": {MUTEX_LOCK: lock_text()}}}
    bench.server.patch("nodes", "a", held)
    bound = asyncio.create_task(bench.bind(address, "p", "a"))
    await asyncio.sleep(0.2)
    assert not bound.done()
    bench.server.patch("nodes", "a", {"metadata": {"annotations": {MUTEX_LOCK: None}}})
    assert await bound == ""


async def test_who_waits_in_vain_is_told_for_whom_and_leaves_nothing(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a"))
    for name in ("p", "other"):
        bench.server.create("pods", make.pod(name))
    made, address = await bench.scheduler(SchedulerSettings(bind_patience=0.5))
    await placed(bench, address, "p", ["a"])
    text = lock_text()
    bench.server.patch("nodes", "a", {"metadata": {"annotations": {MUTEX_LOCK: text}}})
    error = await bench.bind(address, "p", "a")
    assert "node a has been locked within 5m0s" in error
    assert "default,other" in error
    assert bench.server.get("nodes", "a")["metadata"]["annotations"][MUTEX_LOCK] == text
    assert list(made.cluster.holdings()) == []
    assert not bench.server.get("pods", "p", "default")["spec"].get("nodeName")


OWNERS: dict[str, tuple[dict[str, Any], dict[str, Any], bool, bool]] = {
    # spec, status, whether a young lock is taken over, and whether an expired one
    "waits there": ({"nodeName": "a"}, {}, False, False),
    "was served": ({"nodeName": "a"}, {"phase": "Running"}, False, True),
    "has ended": ({"nodeName": "a"}, {"phase": "Failed"}, True, True),
    "is elsewhere": ({"nodeName": "b"}, {}, True, True),
    "is nowhere": ({}, {}, False, True),
}


@pytest.mark.parametrize(
    "age", [0, 600, -600], ids=["young", "expired", "of a clock that is ahead"]
)
@pytest.mark.parametrize("owner", list(OWNERS))
async def test_a_lock_is_taken_over_only_from_who_no_longer_needs_it(
    bench: Any, make: Any, age: float, owner: str
) -> None:
    bench.server.create("nodes", make.node("a"))
    bench.server.create("pods", make.pod("p"))
    spec, status, young, old = OWNERS[owner]
    phase = "success" if status.get("phase") == "Running" else "allocating"
    other = make.pod("other", annotations={BIND_PHASE: phase})
    bench.server.create("pods", {**other, "spec": {**other["spec"], **spec}})
    if status:
        bench.server.patch("pods", "other", {"status": status}, "default")
    _, address = await bench.scheduler(SchedulerSettings(bind_patience=0.5))
    await placed(bench, address, "p", ["a"])
    bench.server.patch("nodes", "a", {"metadata": {"annotations": {MUTEX_LOCK: lock_text(age)}}})
    error = await bench.bind(address, "p", "a")
    assert (error == "") is (old if age else young)


async def test_a_lock_of_a_pod_that_is_gone_or_about_to_be_keeps_nobody_out(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", make.node("a"))
    for name in ("p", "q"):
        bench.server.create("pods", make.pod(name))
    other = make.pod("other", annotations={BIND_PHASE: "allocating"})
    bench.server.create("pods", {**other, "spec": {**other["spec"], "nodeName": "a"}})
    bench.server.delete("pods", "other", "default", grace=30)
    _, address = await bench.scheduler(SchedulerSettings(bind_patience=0.5))
    for name, age, owner in (("p", 0, "nobody"), ("q", 600, "other")):
        await placed(bench, address, name, ["a"])
        lock = {"metadata": {"annotations": {MUTEX_LOCK: lock_text(age, owner)}}}
        bench.server.patch("nodes", "a", lock)
        assert await bench.bind(address, name, "a") == ""


async def test_a_lock_that_nobody_can_read_is_named(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a"))
    bench.server.create("pods", make.pod("p"))
    _, address = await bench.scheduler()
    await placed(bench, address, "p", ["a"])
    bench.server.patch("nodes", "a", {"metadata": {"annotations": {MUTEX_LOCK: "a,b"}}})
    error = await bench.bind(address, "p", "a")
    assert MUTEX_LOCK in error
    assert "remove the annotation" in error


async def test_pods_for_one_node_wait_in_line(bench: Any, make: Any) -> None:
    """Each gets the lock in its turn, as the node's agent gives it back."""
    bench.server.create("nodes", make.node("a"))
    names = [f"p{i}" for i in range(8)]
    for name in names:
        bench.server.create("pods", make.pod(name, cores=1))
    _, address = await bench.scheduler(SchedulerSettings(bind_patience=20.0))
    for name in names:
        await placed(bench, address, name, ["a"])

    async def agent() -> None:
        while True:
            node = bench.server.get("nodes", "a")
            if MUTEX_LOCK in node["metadata"]["annotations"]:
                bench.server.patch("nodes", "a", {"metadata": {"annotations": {MUTEX_LOCK: None}}})
            await asyncio.sleep(0.02)

    serving = asyncio.create_task(agent())
    errors = await asyncio.gather(*(bench.bind(address, name, "a") for name in names))
    serving.cancel()
    assert errors == [""] * len(names)


async def test_a_pod_made_anew_under_the_name_is_not_bound(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a", deferred=True))
    old = bench.server.create("pods", make.pod("p"))
    made, address = await bench.scheduler()
    await placed(bench, address, "p", ["a"])
    bench.server.delete("pods", "p", "default")
    bench.server.create("pods", make.pod("p"))
    body = {
        "PodName": "p",
        "PodNamespace": "default",
        "PodUID": old["metadata"]["uid"],
        "Node": "a",
    }
    answer = await bench.post(f"{address}/bind", body)
    assert answer["Error"] != ""
    assert not bench.server.get("pods", "p", "default")["spec"].get("nodeName")
    await bench.until(lambda: not list(made.cluster.holdings()))


async def test_another_replica_binds_what_still_fits_and_nothing_else(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", make.node("a", cards=1, memory=1000, deferred=True))
    for name in ("p", "q"):
        bench.server.create("pods", make.pod(name, memory=600))
    first, address = await bench.scheduler()
    await placed(bench, address, "p", ["a"])
    first.cluster.forget(bench.server.get("pods", "p", "default")["metadata"]["uid"])
    await placed(bench, address, "q", ["a"])
    second, other = await bench.scheduler()
    await bench.until(lambda: len(second.watching.pods.objects) == 2)
    assert await bench.bind(other, "p", "a") == ""
    pod = bench.server.get("pods", "p", "default")
    assert pod["metadata"]["annotations"][VGPU_NODE] == pod["spec"]["nodeName"] == "a"
    ((device,),) = poddevices.decode(
        pod["metadata"]["annotations"][NVIDIA.allocated], NVIDIA.allocated
    )
    assert device.memory == 600
    error = await bench.bind(other, "q", "a")
    assert "does not fit on node a now, CardInsufficientMemory" in error


async def test_a_server_that_refuses_the_decision_leaves_the_room_free(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", make.node("a"))
    bench.server.create("pods", make.pod("p"))
    made, address = await bench.scheduler()
    bench.server.faults.deny.add(("patch", "pods"))
    answer = await bench.filter(address, "p", ["a"])
    assert "Forbidden" in answer["Error"]
    assert list(made.cluster.holdings()) == []


async def test_a_binding_that_fails_gives_the_lock_back(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a"))
    bench.server.create("pods", make.pod("p"))
    made, address = await bench.scheduler()
    await placed(bench, address, "p", ["a"])
    bench.server.faults.deny.add(("create", "pods"))
    assert "Forbidden" in await bench.bind(address, "p", "a")
    assert MUTEX_LOCK not in bench.server.get("nodes", "a")["metadata"]["annotations"]
    assert list(made.cluster.holdings()) == []


async def test_who_does_not_lead_says_who_does(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a"))
    bench.server.create("pods", make.pod("p"))
    _, address = await bench.scheduler(leading=make.leading(0))
    answer = await bench.filter(address, "p", ["a"])
    assert "replica-b" in answer["Error"]
    assert "replica-b" in await bench.bind(address, "p", "a")


async def test_what_was_placed_and_not_bound_is_forgotten_once_another_has_led(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", make.node("a", cards=1))
    for name in ("p", "q"):
        bench.server.create("pods", make.pod(name, memory=10000))
    first, second = make.leading(), make.leading(0)
    one, here = await bench.scheduler(leading=first)
    _, there = await bench.scheduler(leading=second)
    assert (await bench.filter(here, "p", ["a"]))["NodeNames"] == ["a"]
    assert (await bench.filter(here, "q", ["a"]))["NodeNames"] is None
    # The other leads, gives the card to q, and p is not bound before this one leads again.
    first.seconds, second.seconds, second.term = 0, math.inf, 1
    assert (await bench.filter(there, "q", ["a"]))["NodeNames"] == ["a"]
    assert await bench.bind(there, "q", "a") == ""
    first.seconds, second.seconds, first.term = math.inf, 0, 2
    await bench.until(lambda: "q" in {holding.name for holding in one.cluster.holdings()})
    assert "does not fit on node a now" in await bench.bind(here, "p", "a")
    assert [holding.name for holding in one.cluster.holdings()] == ["q"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"NodeNames": ["a"]}',
        b'{"Pod": {}, "NodeNames": 3}',
        b'{"Pod": {"metadata": 1}}',
    ],
)
async def test_what_is_no_request_is_answered_with_an_error(bench: Any, body: bytes) -> None:
    _, address = await bench.scheduler()
    answer = await bench.post(f"{address}/filter", body)
    assert answer["Error"] != ""
    assert answer["NodeNames"] is None


async def test_a_node_on_which_a_bind_waited_in_vain_is_looked_at_last(
    bench: Any, make: Any
) -> None:
    """Its agent may be gone, and it is the fullest: every pod would be sent there to wait."""
    for name in ("a", "b"):
        bench.server.create("nodes", make.node(name, cards=1, memory=8000))
    owner = make.pod("owner", annotations={BIND_PHASE: "allocating"})
    bench.server.create("pods", {**owner, "spec": {**owner["spec"], "nodeName": "a"}})
    for name in ("first", "second", "third", "fourth", "huge"):
        size = {"first": 3000, "huge": 7900}.get(name, 1000)
        bench.server.create("pods", make.pod(name, memory=size))
    made, address = await bench.scheduler(SchedulerSettings(bind_patience=0.5))
    assert await placed(bench, address, "first", ["a"]) == "a"
    assert await placed(bench, address, "second", ["a", "b"]) == "a"
    lock = {"metadata": {"annotations": {MUTEX_LOCK: lock_text(0, "owner")}}}
    bench.server.patch("nodes", "a", lock)
    assert await placed(bench, address, "third", ["a", "b"]) == "a"  # so far nobody waited
    assert "node lock contention" in await bench.bind(address, "second", "a")
    assert await placed(bench, address, "second", ["a", "b"]) == "b"
    assert await placed(bench, address, "fourth", ["a"]) == "a"  # where nothing else serves
    answer = await bench.filter(address, "huge", ["a", "b"])
    assert set(answer["FailedNodes"]) == {"a", "b"}
    bench.server.patch("nodes", "a", {"metadata": {"annotations": {MUTEX_LOCK: None}}})
    await bench.until(lambda: not made.locks.stuck())
    assert await placed(bench, address, "second", ["a", "b"]) == "a"


async def test_a_node_is_not_looked_at_last_for_ever(
    bench: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock may have expired meanwhile, which only a bind finds out."""
    bench.server.create("nodes", make.node("a"))
    owner = make.pod("owner", annotations={BIND_PHASE: "allocating"})
    bench.server.create("pods", {**owner, "spec": {**owner["spec"], "nodeName": "a"}})
    bench.server.create("pods", make.pod("p"))
    made, address = await bench.scheduler(SchedulerSettings(bind_patience=0.5))
    await placed(bench, address, "p", ["a"])
    lock = {"metadata": {"annotations": {MUTEX_LOCK: lock_text(0, "owner")}}}
    bench.server.patch("nodes", "a", lock)
    assert "node lock contention" in await bench.bind(address, "p", "a")
    assert made.locks.stuck() == {"a"}
    monkeypatch.setattr(nodelocks, "AVOID_SECONDS", 0.0)
    assert made.locks.stuck() == frozenset()


async def test_preemption_keeps_the_nodes_where_it_helps(bench: Any, make: Any) -> None:
    for name in ("a", "b"):
        bench.server.create("nodes", make.node(name, cards=1, memory=1000, deferred=True))
    _, address = await bench.scheduler()
    uids = {}
    for name, node in (("small", "a"), ("large", "b")):
        size = 100 if name == "small" else 900
        stored = bench.server.create("pods", make.pod(name, memory=size))
        uids[name] = stored["metadata"]["uid"]
        assert await placed(bench, address, name, [node]) == node
        assert await bench.bind(address, name, node) == ""
    other = bench.server.create("pods", make.pod("other", memory=850))
    await placed(bench, address, "other", ["a"])
    wanted = bench.server.create("pods", make.pod("wanted", memory=950))
    body = {
        "Pod": wanted,
        "NodeNameToMetaVictims": {
            "a": {"Pods": [{"UID": uids["small"]}], "NumPDBViolations": 0},
            "b": {"Pods": [{"UID": uids["large"]}], "NumPDBViolations": 1},
        },
    }
    answer = await bench.post(f"{address}/preempt", body)
    assert answer == {
        "NodeNameToMetaVictims": {"b": {"Pods": [{"UID": uids["large"]}], "NumPDBViolations": 1}}
    }
    assert other["metadata"]["uid"]


async def test_who_preempts_for_devices_gets_the_least_important_that_are_enough(
    bench: Any, make: Any
) -> None:
    """kube-scheduler knows of no devices: what it offers is who has to go for the rest."""
    bench.server.create("nodes", make.node("a", cards=1, memory=1000, deferred=True))
    bench.server.create("nodes", make.node("free", cards=1, memory=1000, deferred=True))
    _, address = await bench.scheduler()
    uids = {}
    for name, size, priority in (
        ("tiny", 50, 1),
        ("small", 300, 2),
        ("large", 400, 3),
        ("peer", 200, 10),
    ):
        item = make.pod(name, memory=size)
        item["spec"]["priority"] = priority
        uids[name] = bench.server.create("pods", item)["metadata"]["uid"]
        assert await placed(bench, address, name, ["a"]) == "a"
        assert await bench.bind(address, name, "a") == ""
    without = {"metadata": {"name": "plain"}, "spec": {"containers": [{"name": "c"}]}}
    uids["plain"] = bench.server.create("pods", without)["metadata"]["uid"]

    async def going(size: int, *given: str, node: str = "a", priority: int = 10) -> Any:
        item = make.pod("wanted", memory=size)
        item["spec"]["priority"] = priority
        item["metadata"] |= {"uid": "w"}
        pods = [{"UID": uids[name]} for name in given]
        body = {"Pod": item, "NodeNameToMetaVictims": {node: {"Pods": pods}}}
        answer = (await bench.post(f"{address}/preempt", body))["NodeNameToMetaVictims"]
        names = {uid: name for name, uid in uids.items()}
        return {n: sorted(names[p["UID"]] for p in v["Pods"]) for n, v in answer.items()}

    assert await going(100, "plain") == {"a": ["plain", "tiny"]}
    assert await going(300, "plain") == {"a": ["plain", "small"]}
    assert await going(350) == {"a": ["small"]}
    assert await going(450) == {"a": ["large"]}
    assert await going(750) == {"a": ["large", "small"]}
    assert await going(790) == {"a": ["large", "small", "tiny"]}
    assert await going(850, "plain") == {}  # its peers do not go
    assert await going(100, "plain", priority=1) == {}
    assert await going(100, "peer") == {"a": ["peer"]}
    assert await going(100, node="free") == {}
    assert await going(100, "plain", node="free") == {"free": ["plain"]}


def protecting(name: str, allowed: int, **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "default", "name": name},
        "spec": {"selector": {"matchLabels": labels}},
        "status": {"disruptionsAllowed": allowed},
    }


async def test_pods_that_a_disruption_budget_protects_go_last_and_are_counted(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", make.node("a", cards=1, memory=1000, deferred=True))
    bench.server.create("poddisruptionbudgets", protecting("database", 0, app="database"))
    bench.server.create("poddisruptionbudgets", protecting("web", 1, app="web"))
    _, address = await bench.scheduler()
    uids = {}
    for name, app, priority in (
        ("database", "database", 1),
        ("web-0", "web", 2),
        ("web-1", "web", 3),
        ("batch", "batch", 4),
    ):
        item = make.pod(name, memory=200)
        item["spec"]["priority"] = priority
        item["metadata"]["labels"] = {"app": app}
        uids[name] = bench.server.create("pods", item)["metadata"]["uid"]
        assert await placed(bench, address, name, ["a"]) == "a"
        assert await bench.bind(address, name, "a") == ""

    async def going(size: int, *given: str, violations: int = 0) -> Any:
        item = make.pod("wanted", memory=size)
        item["spec"]["priority"] = 10
        item["metadata"] |= {"uid": "w"}
        named = {"Pods": [{"UID": uids[name]} for name in given], "NumPDBViolations": violations}
        body = {"Pod": item, "NodeNameToMetaVictims": {"a": named}}
        found = (await bench.post(f"{address}/preempt", body))["NodeNameToMetaVictims"]["a"]
        names = {uid: name for name, uid in uids.items()}
        return sorted(names[each["UID"]] for each in found["Pods"]), found["NumPDBViolations"]

    assert await going(400) == (["web-0"], 0)
    assert await going(600) == (["batch", "web-0"], 0)
    assert await going(800) == (["batch", "database", "web-0"], 1)
    assert await going(1000) == (["batch", "database", "web-0", "web-1"], 2)
    assert await going(600, "web-1") == (["batch", "web-1"], 0)  # the one that may go is given
    assert await going(400, "database", violations=1) == (["database"], 1)


async def test_whom_to_spare_has_to_be_known_where_it_can_be(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a", cards=1, memory=1000, deferred=True))
    _, address = await bench.scheduler()
    stored = bench.server.create("pods", make.pod("low", memory=900))
    assert await placed(bench, address, "low", ["a"]) == "a"
    assert await bench.bind(address, "low", "a") == ""
    wanted = make.pod("wanted", memory=500)
    wanted["spec"]["priority"] = 10
    wanted["metadata"] |= {"uid": "w"}
    body = {"Pod": wanted, "NodeNameToMetaVictims": {"a": {"Pods": []}}}
    helps = {"a": {"Pods": [{"UID": stored["metadata"]["uid"]}], "NumPDBViolations": 0}}
    assert (await bench.post(f"{address}/preempt", body))["NodeNameToMetaVictims"] == helps
    bench.server.faults.deny.add(("list", "poddisruptionbudgets"))
    assert (await bench.post(f"{address}/preempt", body))["NodeNameToMetaVictims"] == helps
    bench.server.faults.deny.clear()
    bench.server.faults.errors = 100
    status, text = await bench.post(f"{address}/preempt", body)
    bench.server.faults.errors = 0
    assert status == 503
    assert "whom to spare is not known" in text


async def test_preemption_does_not_evict_for_a_quota_that_stays_in_the_way(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", make.node("a", cards=1, memory=1000, deferred=True))
    hard = {"limits.nvidia.com/gpumem": "900"}
    quota = {"metadata": {"namespace": "default", "name": "q"}, "spec": {"hard": hard}}
    bench.server.create("resourcequotas", quota)
    _, address = await bench.scheduler()
    uids = []
    for name, size in (("small", 100), ("large", 700)):
        stored = bench.server.create("pods", make.pod(name, memory=size))
        uids.append(stored["metadata"]["uid"])
        assert await placed(bench, address, name, ["a"]) == "a"
        assert await bench.bind(address, name, "a") == ""
    wanted = bench.server.create("pods", make.pod("wanted", memory=300))

    async def left(victims: list[str]) -> dict[str, Any]:
        pods = [{"UID": uid} for uid in victims]
        body = {"Pod": wanted, "NodeNameToMetaVictims": {"a": {"Pods": pods}}}
        answer: dict[str, Any] = await bench.post(f"{address}/preempt", body)
        return answer["NodeNameToMetaVictims"]  # type: ignore[no-any-return]

    assert await left(uids[:1]) == {}  # the room is enough then, the quota is not
    assert list(await left(uids[1:])) == ["a"]


async def test_a_node_whose_agent_serves_no_init_containers_is_passed_over_for_another(
    bench: Any, make: Any
) -> None:
    """HAMi's agents do not; of two nodes the better by score is one of theirs."""
    bench.server.create("nodes", make.node("theirs"))
    ours = make.node("ours")
    ours["metadata"]["annotations"][ANNOUNCES] = "x"
    bench.server.create("nodes", ours)
    for name in ("filler", "p"):
        pod = make.pod(name)
        if name == "p":
            first = {**pod["spec"]["containers"][0], "name": "first"}
            pod["spec"]["initContainers"] = [first]
        bench.server.create("pods", pod)
    _, address = await bench.scheduler()
    assert await placed(bench, address, "filler", ["theirs"]) == "theirs"
    answer = await bench.filter(address, "p", ["theirs"])
    text = answer["FailedNodes"]["theirs"]
    assert text.startswith("NodeServesNoInitContainers: its agent does not serve init containers")
    assert "first asks for devices" in text
    assert await placed(bench, address, "p", ["theirs", "ours"]) == "ours"


async def test_what_a_pod_holds_itself_does_not_decide_where_it_goes(bench: Any, make: Any) -> None:
    """Filtered again it goes where it would go now, not where it is because it is there."""
    for name in ("a", "b"):
        bench.server.create("nodes", make.node(name, cards=1, deferred=True))
    for name, size in (("on-a", 100), ("on-b", 300), ("p", 5000)):
        bench.server.create("pods", make.pod(name, memory=size))
    _, address = await bench.scheduler()
    assert await placed(bench, address, "on-a", ["a"]) == "a"
    assert await placed(bench, address, "p", ["a", "b"]) == "a"
    assert await placed(bench, address, "on-b", ["b"]) == "b"
    assert await placed(bench, address, "p", ["a", "b"]) == "b"


async def test_after_a_restart_the_cluster_is_as_it_was(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a", cards=1, memory=1000, deferred=True))
    bench.server.create("pods", make.pod("p", memory=600))
    first, address = await bench.scheduler()
    await placed(bench, address, "p", ["a"])
    assert await bench.bind(address, "p", "a") == ""
    second, other = await bench.scheduler()
    assert list(second.cluster.holdings()) == list(first.cluster.holdings())
    bench.server.create("pods", make.pod("q", memory=600))
    answer = await bench.filter(other, "q", ["a"])
    assert answer["NodeNames"] is None


async def test_a_decision_that_a_stranger_wrote_on_his_pod_counts_for_nothing(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", make.node("a", cards=1, memory=1000))
    forged = {
        VGPU_NODE: "a",
        NVIDIA.allocated: "GPU-a-0,NVIDIA,1000,100:;",
        NVIDIA.to_allocate: "GPU-a-0,NVIDIA,1000,100:;",
    }
    bench.server.create("pods", make.pod("forged", annotations=forged))
    bench.server.create("pods", make.pod("p", memory=600))
    made, address = await bench.scheduler()
    assert list(made.cluster.holdings()) == []
    assert await placed(bench, address, "p", ["a"]) == "a"
