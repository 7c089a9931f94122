"""Table 9.9 of hami-scheduler.md: node locks, informers, events, routes; leadership has its tests
in tests/scheduler/test_leadership.py.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deviceplugin.api.hami import nodelock, poddevices
from deviceplugin.api.hami.keys import BIND_PHASE, MUTEX_LOCK, VENDORS
from deviceplugin.scheduler.settings import SchedulerSettings

NVIDIA = VENDORS["NVIDIA"]


def lock(pod: str = "other", age: float = 0, namespace: str = "default") -> str:
    at = datetime.now(UTC) - timedelta(seconds=age)
    return nodelock.encode(nodelock.NodeLock(at, namespace, pod))


async def placed(bench: Any, make: Any, address: str, name: str, node: str) -> None:
    bench.server.create("pods", make.pod(name, memory=100, cores=1))
    assert (await bench.filter(address, name, [node]))["NodeNames"] == [node]


def locked(bench: Any, node: str) -> str | None:
    found: str | None = bench.server.get("nodes", node)["metadata"]["annotations"].get(MUTEX_LOCK)
    return found


def write(bench: Any, node: str, text: str | None) -> None:
    bench.server.patch("nodes", node, {"metadata": {"annotations": {MUTEX_LOCK: text}}})


# --- the node lock -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pods", "said"),
    [
        pytest.param(lambda: lock(), ["other"], "has been locked within 2m0s", id="another's, fresh"),
        pytest.param(lambda: "a,b", [], MUTEX_LOCK, id="malformed"),
        pytest.param(lambda: "yesterday,default,other", ["other"], MUTEX_LOCK, id="no time"),
        pytest.param(lambda: lock("gone"), [], "", id="whose pod does not exist"),
        pytest.param(lambda: lock("p"), [], "", id="its own"),
        pytest.param(lambda: lock(age=130), ["other"], "", id="older than the timeout, not waiting"),
    ],
)  # fmt: skip
async def test_a_node_that_is_locked(
    bench: Any, make: Any, text: Any, pods: list[str], said: str
) -> None:
    bench.server.create("nodes", make.node("a"))
    for name in pods:
        bench.server.create("pods", make.pod(name))
    patience = 0.5 if "has been locked" in said else 30.0  # nobody waits but for another's
    settings = SchedulerSettings(bind_patience=patience, lock_timeout=timedelta(minutes=2))
    made, address = await bench.scheduler(settings)
    await placed(bench, make, address, "p", "a")
    write(bench, "a", text())
    await bench.until(lambda: MUTEX_LOCK in made.cluster.record("a").facts.annotations)
    error = await bench.bind(address, "p", "a")
    assert said in error if said else error == ""
    if not said:
        assert nodelock.decode(locked(bench, "a") or "").held_by("default", "p")


async def test_a_node_that_is_gone(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a"))
    made, address = await bench.scheduler()
    await placed(bench, make, address, "p", "a")
    bench.server.delete("nodes", "a")
    await bench.until(lambda: made.cluster.record("a") is None)
    assert "node a is gone" in await bench.bind(address, "p", "a")


async def test_who_does_not_hold_a_lock_does_not_release_it(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a"))
    made, _ = await bench.scheduler()
    write(bench, "a", text := lock())
    await bench.until(lambda: MUTEX_LOCK in made.cluster.record("a").facts.annotations)
    await made.locks.release("a", MUTEX_LOCK, lock("somebody"))
    assert locked(bench, "a") == text
    await made.locks.release("a", MUTEX_LOCK, text)
    assert locked(bench, "a") is None


async def test_two_nodes_lock_at_once_and_one_node_for_one_at_a_time(bench: Any, make: Any) -> None:
    for node in ("a", "b"):
        bench.server.create("nodes", make.node(node))
    made, address = await bench.scheduler(SchedulerSettings(bind_patience=30.0))
    for name, node in (("p", "a"), ("q", "b"), ("r", "a")):
        await placed(bench, make, address, name, node)
    assert await bench.bind(address, "p", "a") == ""
    waiting = asyncio.create_task(bench.bind(address, "r", "a"))
    await bench.until(lambda: made.locks.waiting == 1)
    assert await bench.bind(address, "q", "b") == ""
    assert not waiting.done()
    bench.server.patch(
        "pods", "p", {"metadata": {"annotations": {BIND_PHASE: "success"}}}, "default"
    )
    write(bench, "a", None)
    assert await waiting == ""


async def test_a_line_ends_with_those_who_wait_in_it(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a"))
    made, address = await bench.scheduler()
    await placed(bench, make, address, "p", "a")
    assert await bench.bind(address, "p", "a") == ""
    assert made.locks._lines == {}
    assert made.locks.waiting == 0


# --- informers ---------------------------------------------------------------------------------------


async def test_two_pods_on_one_card(bench: Any, make: Any) -> None:
    """Used 2, 200 MiB, 20 cores; and nothing once both are gone, or their node is."""
    bench.server.create("nodes", make.node("a", cards=1))
    text = poddevices.encode(
        [[poddevices.ContainerDevice("GPU-a-0", "NVIDIA", 100, 10)]], NVIDIA.allocated
    )
    for name in ("p", "q"):
        told = {"hami.io/vgpu-node": "a", NVIDIA.allocated: text}
        pod = make.pod(name, memory=100, cores=10, annotations=told)
        pod["spec"]["nodeName"] = "a"
        bench.server.create("pods", pod)
    made, _ = await bench.scheduler()

    def use() -> tuple[int, int, int] | None:
        view = made.cluster.view("a")
        if view is None:
            return None
        (card,) = view.cards["NVIDIA"]
        return (card.used, card.used_memory_mib, card.used_cores)

    await bench.until(lambda: use() == (2, 200, 20))
    bench.server.delete("pods", "p", "default")
    await bench.until(lambda: use() == (1, 100, 10))
    item = bench.server.get("nodes", "a")
    bench.server.delete("nodes", "a")
    await bench.until(lambda: use() is None)
    bench.server.create("nodes", {**item, "metadata": {k: v for k, v in item["metadata"].items() if k in ("name", "annotations")}})  # fmt: skip
    await bench.until(lambda: use() == (1, 100, 10))


async def test_what_is_no_node_costs_nobody_else(bench: Any, make: Any) -> None:
    """Garbage in one object is left out, told of, and heals with the next that can be read."""
    bench.server.create("nodes", make.node("a"))
    broken = make.node("b")
    register = broken["metadata"]["annotations"][NVIDIA.register]
    broken["metadata"]["annotations"][NVIDIA.register] = "[{]"
    bench.server.create("nodes", broken)
    made, address = await bench.scheduler()
    bench.server.create("pods", make.pod("p"))
    answer = await bench.filter(address, "p", ["b"])
    assert NVIDIA.register in answer["FailedNodes"]["b"]
    assert (await bench.filter(address, "p", ["a", "b"]))["NodeNames"] == ["a"]
    bench.server.patch("nodes", "b", {"metadata": {"annotations": {NVIDIA.register: register}}})
    await bench.until(lambda: made.cluster.problems("b") == ())
    assert (await bench.filter(address, "p", ["b"]))["NodeNames"] == ["b"]


# --- events ------------------------------------------------------------------------------------------


async def test_events_of_success_are_normal_and_those_of_failure_warnings(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", make.node("a", deferred=True))
    _, address = await bench.scheduler()
    bench.server.create("pods", make.pod("large", memory=99999))
    assert (await bench.filter(address, "large", ["a"]))["NodeNames"] is None
    await placed(bench, make, address, "p", "a")
    assert await bench.bind(address, "p", "a") == ""
    assert await bench.bind(address, "large", "a") != ""
    await bench.until(lambda: len(bench.server.objects("events")) == 4)
    found = {event["reason"]: event for event in bench.server.objects("events")}
    assert {reason: event["type"] for reason, event in found.items()} == {
        "FilteringFailed": "Warning",
        "FilteringSucceed": "Normal",
        "BindingSucceed": "Normal",
        "BindingFailed": "Warning",
    }
    assert found["BindingSucceed"]["message"] == "Successfully binding node [a] to default/p"
    assert found["FilteringSucceed"]["message"].startswith("find fit node(a), 0 nodes not fit, ")
    assert {event["source"]["component"] for event in found.values()} == {"hami-scheduler"}


async def test_there_is_no_event_of_a_pod_that_is_none(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a"))
    _, address = await bench.scheduler()
    answer = await bench.post(f"{address}/filter", {"Pod": None, "NodeNames": ["a"]})
    assert answer["Error"] == "extender args missing pod"
    bench.server.create("pods", make.pod("p"))
    assert (await bench.filter(address, "p", ["a"]))["NodeNames"] == ["a"]
    await bench.until(lambda: bench.server.objects("events"))
    assert len(bench.server.objects("events")) == 1


# --- routes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param("POST", "/filter", 400, id="filter, no body"),
        pytest.param("POST", "/bind", 400, id="bind, no body"),
        pytest.param("POST", "/webhook", 400, id="webhook, no body"),
        pytest.param("GET", "/filter", 405, id="filter by GET"),
        pytest.param("GET", "/healthz", 200, id="healthz"),
        pytest.param("GET", "/readyz", 200, id="readyz"),
        pytest.param("POST", "/elsewhere", 404, id="elsewhere"),
    ],
)
async def test_routes(bench: Any, method: str, path: str, status: int) -> None:
    import aiohttp

    _, address = await bench.scheduler()
    async with aiohttp.ClientSession() as session, session.request(method, address + path) as found:
        assert found.status == status
        if status == 400:
            assert "Please send a request body" in await found.text()
