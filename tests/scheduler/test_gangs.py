"""Groups of pods that are placed one after another and bound in one moment, or given up; and pods
that are not to be placed yet (docs/kueue.md).
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from deviceplugin.api.hami import nodelock
from deviceplugin.api.hami.keys import BIND_PHASE, MUTEX_LOCK
from deviceplugin.scheduler import nodelock as locking
from deviceplugin.scheduler.settings import SchedulerSettings

MEMBERS = 40
PATIENT = SchedulerSettings(bind_patience=100.0)


async def placed(bench: Any, make: Any, address: str, members: int = MEMBERS) -> list[str]:
    """A group whose members all have a place on node a, and wait for each other."""
    names = [f"member-{number}" for number in range(members)]
    for name in names:
        bench.server.create("pods", make.pod(name, memory=100, cores=1))
        assert (await bench.filter(address, name, ["a"]))["NodeNames"] == ["a"]
    return names


def order(bench: Any, name: str) -> bytes:
    """kube-scheduler's bind."""
    uid = bench.server.get("pods", name, "default")["metadata"]["uid"]
    body = {"PodName": name, "PodNamespace": "default", "PodUID": uid, "Node": "a"}
    return json.dumps(body).encode()


def lock(bench: Any, text: str | None) -> None:
    bench.server.patch("nodes", "a", {"metadata": {"annotations": {MUTEX_LOCK: text}}})


def holder(bench: Any) -> str:
    """The pod that the node is locked for; empty for none."""
    text = bench.server.get("nodes", "a")["metadata"]["annotations"].get(MUTEX_LOCK)
    found = nodelock.decode(text) if text else None
    return found.name if found else ""


@pytest.fixture
def asked(bench: Any) -> Any:
    """The verb and the end of the path of each call of the API server since, but for events."""

    def since(number: int) -> list[tuple[str, str]]:
        return [
            (call.verb, call.path.rpartition("/")[2])
            for call in bench.server.calls[number:]
            if call.verb != "watch" and "events" not in call.path
        ]

    return since


async def test_members_that_wait_for_a_lock_ask_nobody_and_get_it_in_their_order(
    bench: Any, make: Any, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "LOOK_SECONDS", 3600.0)  # nothing but news wakes who waits
    bench.server.create("nodes", make.node("a", cards=8))
    other = bench.server.create("pods", make.pod("other", annotations={BIND_PHASE: "allocating"}))
    made, address = await bench.scheduler(PATIENT)
    names = await placed(bench, make, address)
    lock(bench, nodelock.encode(nodelock.NodeLock(datetime.now(UTC), "default", "other")))
    await bench.until(lambda: MUTEX_LOCK in made.cluster.record("a").facts.annotations)
    before = len(bench.server.calls)
    binds = [asyncio.create_task(made.service.bind(order(bench, name))) for name in names]
    await bench.until(lambda: made.locks.waiting == MEMBERS)
    await bench.until(lambda: asked(before))
    # Forty wait, and one of them has looked whether the holder is still there.
    assert asked(before) == [("get", "other")]
    served = []
    lock(bench, None)
    while len(served) < MEMBERS:
        await bench.until(lambda: holder(bench), 30)
        served.append(holder(bench))
        # The agent serves a pod once it is bound, and gives the lock back.
        await bench.until(
            lambda: bench.server.get("pods", served[-1], "default")["spec"].get("nodeName")
        )
        lock(bench, None)
    answers = [json.loads(await bind)["Error"] for bind in binds]
    assert answers == [""] * MEMBERS
    assert served == names
    calls = asked(before)
    assert len([call for call in calls if call == ("create", "binding")]) == MEMBERS
    # A lock and a binding each, and a look at the holder where the next was there before the news.
    assert len(calls) <= 4 * MEMBERS
    assert other["metadata"]["name"] not in served


async def test_where_no_lock_is_needed_all_are_bound_with_one_call_each(
    bench: Any, make: Any, asked: Any
) -> None:
    bench.server.create("nodes", make.node("a", cards=8, deferred=True))
    made, address = await bench.scheduler(PATIENT)
    names = await placed(bench, make, address)
    before = len(bench.server.calls)
    answers = await asyncio.gather(*(made.service.bind(order(bench, name)) for name in names))
    assert [json.loads(answer)["Error"] for answer in answers] == [""] * MEMBERS
    assert asked(before) == [("create", "binding")] * MEMBERS


@pytest.mark.parametrize("deferred", [True, False], ids=["deferred", "locked"])
async def test_a_group_that_is_deleted_frees_everything(
    bench: Any, make: Any, deferred: bool
) -> None:
    bench.server.create("nodes", make.node("a", cards=1, deferred=deferred))
    made, address = await bench.scheduler(PATIENT)
    names = await placed(bench, make, address, 8)
    assert made.cluster.view("a").cards["NVIDIA"][0].used == 8
    for name in names:
        bench.server.delete("pods", name, "default")
    await bench.until(lambda: not list(made.cluster.holdings()))
    assert made.cluster.view("a").cards["NVIDIA"][0].used == 0
    assert made.quotas.used("default") == {}
    assert holder(bench) == ""


async def test_members_that_find_no_place_any_more_give_up_the_one_that_they_had(
    bench: Any, make: Any
) -> None:
    """kube-scheduler gave the group up and tries it again; meanwhile the node is not offered."""
    bench.server.create("nodes", make.node("a", cards=1))
    made, address = await bench.scheduler()
    names = await placed(bench, make, address, 8)
    for name in names:
        assert (await bench.filter(address, name, []))["NodeNames"] is None
    assert list(made.cluster.holdings()) == []
    assert made.cluster.view("a").cards["NVIDIA"][0].used == 0


async def test_members_that_nobody_comes_back_to_make_room_for_another_group(
    bench: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kube-scheduler gave the group up and forgot it: half of it was never placed."""
    bench.server.create("nodes", make.node("a", cards=1, memory=1000, deferred=True))
    made, address = await bench.scheduler()
    for name in ("first", "second"):
        bench.server.create("pods", make.pod(name, memory=600))
    assert (await bench.filter(address, "first", ["a"]))["NodeNames"] == ["a"]
    assert (await bench.filter(address, "second", ["a"]))["NodeNames"] is None
    later = time.monotonic() + made.settings.decisions_lapse_after
    monkeypatch.setattr(made.decisions, "_monotonic", lambda: later)
    made.decisions.lapse()
    assert (await bench.filter(address, "second", ["a"]))["NodeNames"] == ["a"]
    assert "does not fit on node a now" in await bench.bind(address, "first", "a")
    assert await bench.bind(address, "second", "a") == ""
    assert [holding.name for holding in made.cluster.holdings()] == ["second"]


async def test_members_that_cannot_be_bound_in_time_leave_neither_lock_nor_devices(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", make.node("a", cards=1))
    bench.server.create("pods", make.pod("other", annotations={BIND_PHASE: "allocating"}))
    made, address = await bench.scheduler(SchedulerSettings(bind_patience=1.0))
    names = await placed(bench, make, address, 8)
    lock(bench, nodelock.encode(nodelock.NodeLock(datetime.now(UTC), "default", "other")))
    await bench.until(lambda: MUTEX_LOCK in made.cluster.record("a").facts.annotations)
    answers = await asyncio.gather(*(made.service.bind(order(bench, name)) for name in names))
    assert all("node lock contention" in json.loads(answer)["Error"] for answer in answers)
    assert holder(bench) == "other"
    assert made.locks.waiting == 0
    assert list(made.cluster.holdings()) == []
    # They come again, and the lock is free.
    lock(bench, None)
    await bench.until(lambda: MUTEX_LOCK not in made.cluster.record("a").facts.annotations)
    assert (await bench.filter(address, names[0], ["a"]))["NodeNames"] == ["a"]
    assert await bench.bind(address, names[0], "a") == ""


async def test_one_member_that_is_deleted_while_it_waits_holds_nobody_up(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", make.node("a", cards=1))
    bench.server.create("pods", make.pod("other", annotations={BIND_PHASE: "allocating"}))
    made, address = await bench.scheduler(PATIENT)
    names = await placed(bench, make, address, 3)
    lock(bench, nodelock.encode(nodelock.NodeLock(datetime.now(UTC), "default", "other")))
    await bench.until(lambda: MUTEX_LOCK in made.cluster.record("a").facts.annotations)
    binds = [asyncio.create_task(made.service.bind(order(bench, name))) for name in names]
    await bench.until(lambda: made.locks.waiting == len(names))
    bench.server.delete("pods", names[0], "default")
    await bench.until(lambda: len(list(made.cluster.holdings())) == 2)
    lock(bench, None)
    gone = json.loads(await binds[0])["Error"]
    assert "no longer valid" in gone
    for name, bind in zip(names[1:], binds[1:], strict=True):
        await bench.until(lambda n=name: holder(bench) == n)
        assert json.loads(await bind)["Error"] == ""
        lock(bench, None)
    assert {h.name for h in made.cluster.holdings()} == set(names[1:])


async def test_a_gated_pod_is_changed_by_the_webhook_and_holds_nothing_until_it_is_placed(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", make.node("a"))
    made, address = await bench.scheduler()
    item = make.pod("p")
    item["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]
    item["spec"]["schedulerName"] = "default-scheduler"
    item["spec"]["containers"][0]["resources"]["limits"] = {"nvidia.com/gpumem": "1000"}
    request = {"uid": "1", "operation": "CREATE", "namespace": "default", "object": item}
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    answer = (await bench.post(f"{address}/webhook", review))["response"]
    changed = changes(answer["patch"])
    assert changed["/spec/schedulerName"] == "hami-scheduler"
    assert changed["/spec/containers/0/resources/limits/nvidia.com~1gpu"] == "1"
    item["spec"]["schedulerName"] = "hami-scheduler"
    item["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "1"
    bench.server.create("pods", item)
    await bench.until(lambda: made.watching.pods.objects)
    assert list(made.cluster.holdings()) == []
    assert made.quotas.used("default") == {}
    assert holder(bench) == ""
    bench.server.patch("pods", "p", {"spec": {"schedulingGates": None}}, "default")
    assert (await bench.filter(address, "p", ["a"]))["NodeNames"] == ["a"]
    assert [h.name for h in made.cluster.holdings()] == ["p"]
    assert holder(bench) == ""
    assert await bench.bind(address, "p", "a") == ""
    assert holder(bench) == "p"


def changes(patch: str) -> dict[str, Any]:
    """What a patch writes, by path."""
    import base64

    return {c["path"]: c.get("value") for c in json.loads(base64.b64decode(patch))}
