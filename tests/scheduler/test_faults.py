"""Whatever happens between filter and bind: no card is given twice, no pod is bound twice, and what
was not bound leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import pytest

from deviceplugin.api.hami.keys import BIND_PHASE, BIND_TIME, MUTEX_LOCK, VENDORS, VGPU_NODE
from deviceplugin.scheduler.podwrites import VOIDED
from deviceplugin.scheduler.settings import SchedulerSettings

NVIDIA = VENDORS["NVIDIA"]
BINDING = ("create", "pods")
DECISION = ("patch", "pods")


def pod(bench: Any, name: str = "p") -> Any:
    return bench.server.get("pods", name, "default")


def told(bench: Any, name: str = "p") -> dict[str, str]:
    return dict(pod(bench, name)["metadata"].get("annotations") or {})


def node_of(bench: Any, name: str = "p") -> str:
    return str(pod(bench, name)["spec"].get("nodeName") or "")


def lock(bench: Any, node: str = "a") -> str | None:
    annotations = bench.server.get("nodes", node)["metadata"]["annotations"]
    return None if MUTEX_LOCK not in annotations else str(annotations[MUTEX_LOCK])


def holders(made: Any) -> list[str]:
    return sorted(holding.name for holding in made.cluster.holdings())


async def placed(bench: Any, address: str, name: str = "p", *nodes: str) -> str:
    answer = await bench.filter(address, name, list(nodes or ("a",)))
    assert answer["Error"] == ""
    assert answer["NodeNames"], answer
    return str(answer["NodeNames"][0])


def room_for_one(bench: Any, make: Any, *, deferred: bool = True) -> None:
    """One card, and two pods of which it takes one."""
    bench.server.create("nodes", make.node("a", cards=1, memory=1000, deferred=deferred))
    for name in ("p", "q"):
        bench.server.create("pods", make.pod(name, memory=600))


# --- leaders that come and go ---------------------------------------------------------------------


async def test_a_binding_of_a_former_leader_that_lands_late_has_no_effect(
    bench: Any, make: Any
) -> None:
    """It was sent in time, and held up on its way for longer than anybody waits."""
    room_for_one(bench, make)
    first, second = make.leading(), make.leading(0)
    _, here = await bench.scheduler(leading=first)
    other, there = await bench.scheduler(leading=second)
    await placed(bench, here)
    held = bench.server.faults.hold[BINDING] = threading.Event()
    late = asyncio.create_task(bench.bind(here, "p", "a"))
    await bench.until(lambda: bench.server.faults.held)
    first.seconds, second.seconds, second.term = 0, math.inf, 1
    assert await placed(bench, there, "q") == "a"
    held.set()
    assert await late != ""
    assert node_of(bench) == ""
    assert await bench.bind(there, "q", "a") == ""
    assert (await bench.filter(there, "p", ["a"]))["NodeNames"] is None
    await bench.until(lambda: holders(other) == ["q"])


async def test_a_binding_that_landed_before_is_seen_by_the_next_leader(
    bench: Any, make: Any
) -> None:
    """Although its watch hears nothing."""
    room_for_one(bench, make)
    first, second = make.leading(), make.leading(0)
    _, here = await bench.scheduler(leading=first)
    other, there = await bench.scheduler(leading=second)
    await placed(bench, here)
    other.watching.pods._take = lambda *_: ""
    assert await bench.bind(here, "p", "a") == ""
    first.seconds, second.seconds, second.term = 0, math.inf, 1
    answer = await bench.filter(there, "q", ["a"])
    assert answer["NodeNames"] is None, answer


async def test_a_decision_of_a_former_leader_that_lands_late_does_not_replace_the_next_ones(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", make.node("a", cards=1, deferred=True))
    bench.server.create("nodes", make.node("b", cards=1, deferred=True))
    bench.server.create("pods", make.pod("p"))
    first, second = make.leading(), make.leading(0)
    _, here = await bench.scheduler(leading=first)
    _, there = await bench.scheduler(leading=second)
    held = bench.server.faults.hold[DECISION] = threading.Event()
    late = asyncio.create_task(bench.filter(here, "p", ["a"]))
    await bench.until(lambda: bench.server.faults.held)
    del bench.server.faults.hold[DECISION]
    first.seconds, second.seconds, second.term = 0, math.inf, 1
    assert await placed(bench, there, "p", "b") == "b"
    held.set()
    answer = await late
    assert answer["NodeNames"] is None
    assert told(bench)[VGPU_NODE] == "b"
    assert await bench.bind(there, "p", "b") == ""


@pytest.mark.parametrize("step", ["before the decision", "decided", "locked", "bound"])
async def test_a_leader_that_dies_at_any_step_leaves_a_pod_that_the_next_one_serves(
    bench: Any, make: Any, step: str
) -> None:
    """It dies in the middle of a request, so that nothing of its own is tidied up."""
    room_for_one(bench, make, deferred=False)
    first, second = make.leading(), make.leading(0)
    made, here = await bench.scheduler(leading=first)
    other, there = await bench.scheduler(leading=second)
    faults = bench.server.faults
    if step == "before the decision":
        faults.hold[DECISION] = threading.Event()
        asking: Any = asyncio.create_task(bench.filter(here, "p", ["a"]))
    else:
        await placed(bench, here)
        if step == "locked":
            faults.hold[BINDING] = threading.Event()
        asking = asyncio.create_task(bench.bind(here, "p", "a") if step != "decided" else _none())
    if step in ("before the decision", "locked"):
        await bench.until(lambda: faults.held)
    else:
        await asking
    first.seconds, second.seconds, second.term = 0, math.inf, 1
    holding_up = list(faults.hold.values())
    faults.hold.clear()
    if step == "bound":
        assert (await bench.filter(there, "q", ["a"]))["NodeNames"] is None
    else:
        assert await placed(bench, there) == "a"
        assert await bench.bind(there, "p", "a") == ""
    for event in holding_up:
        event.set()
    await asking
    assert node_of(bench) == "a"
    assert told(bench)[BIND_PHASE] == "allocating"
    assert lock(bench)
    await bench.until(lambda: holders(other) == ["p"])
    assert holders(made) in (["p"], [])


async def _none() -> None:
    return None


async def test_who_begins_to_lead_voids_what_was_decided_and_not_bound(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", make.node("a", cards=2, deferred=True))
    foreign = make.pod("foreign", annotations={VGPU_NODE: "a"})
    foreign["spec"]["schedulerName"] = "volcano"
    bench.server.create("pods", foreign)
    for name in ("p", "q"):
        bench.server.create("pods", make.pod(name))
    _, here = await bench.scheduler()
    await placed(bench, here)
    await placed(bench, here, "q")
    assert await bench.bind(here, "q", "a") == ""
    other, _ = await bench.scheduler()
    await bench.until(lambda: VOIDED in told(bench))
    assert set(told(bench)) == {VOIDED}
    assert VGPU_NODE not in pod(bench)["metadata"]["labels"]
    assert told(bench, "q")[VGPU_NODE] == told(bench, "foreign")[VGPU_NODE] == "a"
    assert await other.takeover.ready() == ""


async def test_a_leader_that_cannot_look_around_does_not_decide(bench: Any, make: Any) -> None:
    room_for_one(bench, make)
    leading = make.leading(0)
    _, address = await bench.scheduler(leading=leading)
    bench.server.faults.deny.add(("list", "pods"))
    leading.seconds, leading.term = math.inf, 1
    answer = await bench.filter(address, "p", ["a"])
    assert "has just begun to lead" in answer["Error"]
    assert "has just begun to lead" in await bench.bind(address, "p", "a")
    bench.server.faults.deny.clear()
    assert await placed(bench, address) == "a"


# --- answers that do not come ---------------------------------------------------------------------


async def test_a_binding_whose_answer_is_lost_is_a_binding(bench: Any, make: Any) -> None:
    room_for_one(bench, make, deferred=False)
    made, address = await bench.scheduler()
    await placed(bench, address)
    bench.server.faults.mute.add(BINDING)
    assert await bench.bind(address, "p", "a") == ""
    assert node_of(bench) == "a"
    assert lock(bench)
    bench.server.faults.mute.clear()
    await bench.until(lambda: made.cluster.bound(pod(bench)["metadata"]["uid"]) == "a")
    before = len(bench.server.calls)
    assert await bench.bind(address, "p", "a") == ""  # asked again
    assert not [call for call in bench.server.calls[before:] if "/pods/" in call.path]


async def test_a_binding_that_failed_is_none_later_and_leaves_nothing(
    bench: Any, make: Any
) -> None:
    room_for_one(bench, make, deferred=False)
    made, address = await bench.scheduler()
    await placed(bench, address)
    await bench.until(lambda: any("events" in call.path for call in bench.server.calls))
    held = bench.server.faults.hold[BINDING] = threading.Event()
    binding = asyncio.create_task(bench.bind(address, "p", "a"))
    await bench.until(lambda: bench.server.faults.held)
    bench.server.faults.errors = 1
    held.set()
    assert "500" in await binding
    assert VOIDED in told(bench)
    assert (lock(bench), node_of(bench), holders(made)) == (None, "", [])
    bench.server.faults.errors = 0
    assert await placed(bench, address) == "a"
    assert await bench.bind(address, "p", "a") == ""


async def test_while_nobody_knows_whether_a_pod_was_bound_its_room_is_its_own(
    bench: Any, make: Any
) -> None:
    room_for_one(bench, make, deferred=False)
    made, address = await bench.scheduler()
    await placed(bench, address)
    bench.server.faults.mute |= {BINDING, ("get", "pods")}
    error = await bench.bind(address, "p", "a")
    assert "not known whether the pod was bound" in error
    assert lock(bench)
    assert holders(made) == ["p"]
    assert (await bench.filter(address, "q", ["a"]))["NodeNames"] is None
    bench.server.faults.mute.clear()
    answer = await bench.filter(address, "p", ["a"])
    assert "on node a already" in answer["Error"]
    assert node_of(bench) == "a"


async def test_a_pod_that_may_yet_be_bound_is_not_decided_about_again_before_that_is_over(
    bench: Any, make: Any
) -> None:
    """The first Binding is on its way for ever, and comes when the pod has gone elsewhere."""
    bench.server.create("nodes", make.node("a", cards=1, deferred=True))
    bench.server.create("nodes", make.node("b", cards=1, deferred=True))
    bench.server.create("pods", make.pod("p"))
    leading = make.leading()
    _, address = await bench.scheduler(leading=leading)
    await placed(bench, address, "p", "a")
    held = bench.server.faults.hold[BINDING] = threading.Event()
    leading.seconds = 0.5  # all that it may take
    error = await bench.bind(address, "p", "a")
    assert "no answer" in error
    leading.seconds = math.inf
    del bench.server.faults.hold[BINDING]
    assert await placed(bench, address, "p", "b") == "b"
    held.set()
    assert await bench.bind(address, "p", "b") == ""
    assert node_of(bench) == told(bench)[VGPU_NODE] == "b"


async def test_a_server_that_has_no_time_is_asked_again_when_it_says(bench: Any, make: Any) -> None:
    room_for_one(bench, make, deferred=False)
    made, address = await bench.scheduler()
    await made.takeover.ready()
    for step in (placed(bench, address), bench.bind(address, "p", "a")):
        bench.server.faults.throttle = 3
        assert await step in ("a", "")
        bench.server.faults.throttle = 0
    assert node_of(bench) == "a"


async def test_a_bind_ends_before_who_asked_gives_up_however_slow_the_server(
    bench: Any, make: Any
) -> None:
    room_for_one(bench, make, deferred=False)
    _, address = await bench.scheduler(SchedulerSettings(bind_patience=0.6))
    await placed(bench, address)
    bench.server.faults.slow = 0.4
    loop = asyncio.get_running_loop()
    began = loop.time()
    error = await bench.bind(address, "p", "a")
    bench.server.faults.slow = 0
    assert error
    assert loop.time() - began < 30  # 0.6 s, and 3 s to find out what became of it
    await asyncio.sleep(0.5)
    assert node_of(bench) == ""


async def test_a_server_that_is_away_costs_no_decision_that_holds(bench: Any, make: Any) -> None:
    room_for_one(bench, make)
    _, address = await bench.scheduler()
    await placed(bench, address)
    bench.server.stop()
    stored = {"PodName": "p", "PodNamespace": "default", "PodUID": pod(bench)["metadata"]["uid"]}
    answer = await bench.post(f"{address}/bind", {**stored, "Node": "a"})
    assert "no answer" in answer["Error"]
    bench.server.start()
    assert await placed(bench, address) == "a"
    assert await bench.bind(address, "p", "a") == ""


# --- what others do meanwhile ---------------------------------------------------------------------


async def test_a_pod_that_changes_otherwise_is_bound_all_the_same(bench: Any, make: Any) -> None:
    """kube-scheduler writes conditions and nominated nodes on pods that it is about to bind."""
    room_for_one(bench, make)
    made, address = await bench.scheduler()
    await placed(bench, address)
    made.watching.pods._hear = lambda *_: None  # the watch is late
    status = {"status": {"nominatedNodeName": "a"}}
    bench.server.patch("pods", "p", status, "default")
    before = len(bench.server.calls)
    assert await bench.bind(address, "p", "a") == ""
    calls = [c.verb for c in bench.server.calls[before:] if "/pods/p" in c.path]
    assert calls == ["create", "get", "create"]


async def test_a_change_that_the_watch_has_shown_costs_no_call(bench: Any, make: Any) -> None:
    room_for_one(bench, make)
    made, address = await bench.scheduler()
    await placed(bench, address)
    bench.server.patch("pods", "p", {"status": {"nominatedNodeName": "a"}}, "default")
    version = pod(bench)["metadata"]["resourceVersion"]
    await bench.until(lambda: made.watching.pods.objects["default/p"].version == version)
    before = len(bench.server.calls)
    assert await bench.bind(address, "p", "a") == ""
    calls = [c.verb for c in bench.server.calls[before:] if "/pods/p" in c.path]
    assert calls == ["create"]


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "not seen yet"])
async def test_what_somebody_else_writes_over_a_decision_is_not_bound(
    bench: Any, make: Any, seen: bool
) -> None:
    room_for_one(bench, make)
    made, address = await bench.scheduler()
    await placed(bench, address)
    if not seen:
        made.watching.pods._hear = lambda *_: None
    forged = {NVIDIA.allocated: "GPU-a-0,NVIDIA,1,1:;", NVIDIA.to_allocate: "GPU-a-0,NVIDIA,9,9:;"}
    bench.server.patch("pods", "p", {"metadata": {"annotations": forged}}, "default")
    if seen:
        version = pod(bench)["metadata"]["resourceVersion"]
        await bench.until(lambda: made.watching.pods.objects["default/p"].version == version)
    assert "changed by somebody else" in await bench.bind(address, "p", "a")
    assert node_of(bench) == ""
    assert holders(made) == []


async def test_a_decision_replaces_what_was_written_on_the_pod_before(
    bench: Any, make: Any
) -> None:
    room_for_one(bench, make)
    forged = {BIND_TIME: "1", BIND_PHASE: "success", "mine.example.com/x": "1"}
    bench.server.create("pods", make.pod("forged", annotations=forged))
    _, address = await bench.scheduler()
    await placed(bench, address, "forged")
    assert not {BIND_TIME, BIND_PHASE} & told(bench, "forged").keys()
    assert told(bench, "forged")["mine.example.com/x"] == "1"


async def test_a_pod_that_changed_since_it_was_sent_is_decided_about_as_it_was(
    bench: Any, make: Any
) -> None:
    """If it still asks for the same."""
    room_for_one(bench, make)
    _, address = await bench.scheduler()
    stale = pod(bench)
    labels = {"metadata": {"labels": {"team": "x"}}}
    bench.server.patch("pods", "p", labels, "default")
    body = {"Pod": stale, "NodeNames": ["a"]}
    answer = await bench.post(f"{address}/filter", body)
    assert answer["NodeNames"] == ["a"]
    wish = {"metadata": {"annotations": {"nvidia.com/use-gpuuuid": "GPU-none"}}}
    bench.server.patch("pods", "p", wish, "default")
    answer = await bench.post(f"{address}/filter", body)
    assert "something else" in answer["Error"]
    bench.server.delete("pods", "p", "default")
    answer = await bench.post(f"{address}/filter", body)
    assert "not found" in answer["Error"]
    bench.server.create("pods", make.pod("p", memory=600))
    answer = await bench.post(f"{address}/filter", body)
    assert "was made anew" in answer["Error"]


async def test_a_pod_that_is_bound_already_is_not_decided_about(bench: Any, make: Any) -> None:
    room_for_one(bench, make)
    made, address = await bench.scheduler()
    stale = pod(bench)
    await placed(bench, address)
    assert await bench.bind(address, "p", "a") == ""
    before = told(bench)
    answer = await bench.post(f"{address}/filter", {"Pod": stale, "NodeNames": ["a"]})
    assert "on node a already" in answer["Error"]
    assert told(bench) == before
    await bench.until(lambda: holders(made) == ["p"])


@pytest.mark.parametrize("what", ["node", "card", "health"])
async def test_what_is_gone_between_filter_and_bind_is_not_bound_to(
    bench: Any, make: Any, what: str
) -> None:
    bench.server.create("nodes", make.node("a", cards=2))
    bench.server.create("pods", make.pod("p"))
    made, address = await bench.scheduler()
    await placed(bench, address)
    if what == "node":
        bench.server.delete("nodes", "a")
        await bench.until(lambda: made.cluster.record("a") is None)
    else:
        (key,) = [k for k in make.node("a")["metadata"]["annotations"] if "register" in k]
        now = make.node("a", cards=0)["metadata"]["annotations"][key]
        if what == "health":
            now = make.node("a")["metadata"]["annotations"][key].replace("true", "false")
        bench.server.patch("nodes", "a", {"metadata": {"annotations": {key: now}}})
        await bench.until(lambda: made.watching.nodes.objects["/a"].facts.annotations[key] == now)
    error = await bench.bind(address, "p", "a")
    assert "gone" in error or "not to be had any more" in error
    assert node_of(bench) == ""
    assert holders(made) == []
    if what != "node":
        assert lock(bench) is None


# --- decisions that nobody comes for --------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_decision_that_nobody_comes_for_lapses_and_a_late_bind_is_decided_anew(
    bench: Any, make: Any
) -> None:
    room_for_one(bench, make)
    made, address = await bench.scheduler()
    clock = made.decisions._monotonic = Clock()
    await placed(bench, address)
    clock.now += 299
    made.decisions.lapse()
    assert holders(made) == ["p"]
    assert made.decisions.oldest() == 299
    clock.now += 1
    made.decisions.lapse()
    assert (holders(made), made.decisions.lapsed) == ([], 1)
    # A gang waited for longer: its room is still there.
    assert await bench.bind(address, "p", "a") == ""
    await bench.until(lambda: made.cluster.bound(pod(bench)["metadata"]["uid"]))
    assert holders(made) == ["p"]


async def test_the_room_of_a_decision_that_lapsed_is_not_given_twice(bench: Any, make: Any) -> None:
    room_for_one(bench, make)
    made, address = await bench.scheduler()
    clock = made.decisions._monotonic = Clock()
    await placed(bench, address)
    clock.now += 300
    made.decisions.lapse()
    await placed(bench, address, "q")
    assert "does not fit on node a now" in await bench.bind(address, "p", "a")
    assert await bench.bind(address, "q", "a") == ""
    assert (node_of(bench, "p"), node_of(bench, "q")) == ("", "a")


async def test_a_decision_whose_binding_may_yet_happen_does_not_lapse(
    bench: Any, make: Any
) -> None:
    room_for_one(bench, make)
    made, address = await bench.scheduler()
    clock = made.decisions._monotonic = Clock()
    await placed(bench, address)
    held = bench.server.faults.hold[BINDING] = threading.Event()
    bench.server.faults.mute.add(("get", "pods"))
    try:
        assert "not known whether the pod was bound" in await bench.bind(address, "p", "a")
        clock.now += 300
        made.decisions.lapse()
        assert (holders(made), made.decisions.lapsed) == (["p"], 0)
        assert (await bench.filter(address, "q", ["a"]))["NodeNames"] is None
    finally:
        held.set()


async def test_a_pod_that_vanishes_while_nobody_hears_of_it_holds_nothing_for_ever(
    bench: Any, make: Any
) -> None:
    room_for_one(bench, make)
    made, address = await bench.scheduler()
    made.watching.pods._hear = lambda *_: None
    clock = made.decisions._monotonic = Clock()
    await placed(bench, address)
    bench.server.delete("pods", "p", "default")
    clock.now += 300
    made.decisions.lapse()
    assert holders(made) == []


# --- what it costs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deferred", "anew", "most"),
    [(False, False, 2), (True, False, 1), (False, True, 3), (True, True, 2)],
)
async def test_a_bind_costs_few_calls(
    bench: Any, make: Any, deferred: bool, anew: bool, most: int
) -> None:
    room_for_one(bench, make, deferred=deferred)
    made, address = await bench.scheduler()
    await placed(bench, address)
    if anew:
        made.decisions.drop_all()
    before = len(bench.server.calls)
    assert await bench.bind(address, "p", "a") == ""
    calls = [c for c in bench.server.calls[before:] if c.verb != "watch" and "events" not in c.path]
    assert len(calls) == most, calls


# --- a replica that stops -------------------------------------------------------------------------


async def test_who_waits_for_a_lock_does_not_keep_a_replica_from_stopping(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", make.node("a"))
    for name in ("other", "p", "q"):
        bench.server.create("pods", make.pod(name, cores=1))
    made, address = await bench.scheduler(SchedulerSettings(bind_patience=3600.0))
    for name in ("other", "p", "q"):
        await placed(bench, address, name)
    assert await bench.bind(address, "other", "a") == ""
    waiting = [asyncio.create_task(bench.bind(address, name, "a")) for name in ("p", "q")]
    await bench.until(lambda: made.locks.waiting == 2)
    made.locks.close()
    for error in await asyncio.gather(*waiting):
        assert "this replica stops" in error
    assert holders(made) == ["other"]
    assert "default,other" in str(lock(bench))


@pytest.mark.parametrize("what", ["nodes/a", "pods/p"])
async def test_conflicts_without_end_end_a_request_and_leave_nothing(
    bench: Any, make: Any, what: str
) -> None:
    room_for_one(bench, make, deferred=False)
    made, address = await bench.scheduler(SchedulerSettings(bind_patience=0.6))
    if what == "nodes/a":
        await placed(bench, address)
    bench.server.faults.conflicts.add(what)
    if what == "nodes/a":
        assert "node lock contention" in await bench.bind(address, "p", "a")
    else:
        assert "Conflict" in (await bench.filter(address, "p", ["a"]))["Error"]
    assert (holders(made), node_of(bench), lock(bench)) == ([], "", None)
    bench.server.faults.conflicts.clear()
    await placed(bench, address)
    assert await bench.bind(address, "p", "a") == ""
