"""A running scheduler decides by other backends from one moment to the next."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from deviceplugin import registry
from deviceplugin.api.hami.keys import MUTEX_LOCK, VENDORS, VGPU_NODE
from deviceplugin.scheduler.cluster import Cluster
from deviceplugin.scheduler.settings import SchedulerSettings

OTHER, OTHER_MEMORY = "example.com/gpu", "example.com/gpumem"
RENAMED = {
    "resourceCountName": OTHER,
    "resourceMemoryName": OTHER_MEMORY,
    "resourceCoreName": "example.com/gpucores",
}


def backends(*vendors: str, section: Any = None) -> Any:
    found = registry.load().vendors
    return [b for v in vendors for b in registry.load_scheduling(found[v], section or {})]


def node(make: Any, name: str = "a", **how: Any) -> Any:
    """A node that offers the resource under both names, as while its agent changes over."""
    item = make.node(name, **how)
    for part in item["status"].values():
        part[OTHER] = "20"
    return item


def pod(make: Any, name: str, memory: int) -> Any:
    """A pod that asks under the new names."""
    item = make.pod(name)
    limits = {OTHER: "1", OTHER_MEMORY: str(memory)}
    item["spec"]["containers"][0]["resources"]["limits"] = limits
    return item


async def bound(bench: Any, address: str, name: str) -> None:
    assert (await bench.filter(address, name, ["a"]))["NodeNames"] == ["a"]
    assert await bench.bind(address, name, "a") == ""


async def test_what_is_in_use_and_what_is_decided_stay_so_under_another_name(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", node(make, cards=1, memory=8000, deferred=True))
    hard = {f"limits.{OTHER_MEMORY}": "7500"}
    bench.server.create(
        "resourcequotas",
        {"metadata": {"name": "q", "namespace": "default"}, "spec": {"hard": hard}},
    )
    for name, memory in (("running", 5000), ("decided", 2000)):
        bench.server.create("pods", make.pod(name, memory=memory))
    made, address = await bench.scheduler()
    await bound(bench, address, "running")
    await bench.until(lambda: not made.cluster._assumed)
    await bench.filter(address, "decided", ["a"])
    await made.serve(backends("nvidia", section=RENAMED))
    (card,) = made.cluster.view("a").cards["NVIDIA"]
    assert (card.used_memory_mib, card.used) == (7000, 2)
    assert made.quotas.used("default")[OTHER_MEMORY] == 7000
    for name, memory in (("too-large", 501), ("just-so", 500)):
        bench.server.create("pods", pod(make, name, memory))
        answer = await bench.filter(address, name, ["a"])
        if memory <= 500:
            assert answer["NodeNames"] == ["a"]
        else:
            assert answer["FailedNodes"]["a"].startswith("ResourceQuotaNotFit")
    assert await bench.bind(address, "decided", "a") == ""
    assert not made.cluster.drift("a")
    assert {h.name for h in made.cluster.holdings()} == {"running", "decided", "just-so"}


async def test_a_word_that_was_not_served_counts_from_the_moment_on_when_it_is(
    bench: Any, make: Any
) -> None:
    """Its pods run since before: their agent, or another scheduler, saw to them."""
    keys = VENDORS["DCU"]
    annotations = {VGPU_NODE: "a", keys.allocated: "DCU-0,DCU,1024,60:;"}
    item = make.pod("old", annotations=annotations)
    limits = {"hygon.com/dcunum": "1", "hygon.com/dcumem": "1024", "hygon.com/dcucores": "60"}
    item["spec"]["containers"][0]["resources"]["limits"] = limits
    item["spec"]["nodeName"] = "a"
    bench.server.create("pods", item)
    described = make.node("a")
    assert keys.register is not None
    described["metadata"]["annotations"][keys.register] = (
        "DCU-0,4,16384,100,DCU-K100_AI,0,true,0,hami-core:"
    )
    bench.server.create("nodes", described)
    made, _ = await bench.scheduler()
    assert "DCU" not in made.cluster.view("a").cards
    await made.serve(backends("nvidia", "hygon"))
    (card,) = made.cluster.view("a").cards["DCU"]
    assert (card.used_memory_mib, card.used_cores) == (1024, 60)
    await made.serve(backends("nvidia"))
    assert "DCU" not in made.cluster.view("a").cards
    assert list(made.cluster.holdings()) == []


async def test_a_bind_that_waits_goes_on(bench: Any, make: Any) -> None:
    bench.server.create("nodes", node(make))
    for name in ("first", "second"):
        bench.server.create("pods", make.pod(name))
    made, address = await bench.scheduler(SchedulerSettings(bind_patience=20.0))
    await bound(bench, address, "first")
    await bench.filter(address, "second", ["a"])
    waiting = asyncio.create_task(bench.bind(address, "second", "a"))
    await bench.until(lambda: made.locks.waiting)
    await made.serve(backends("nvidia", section=RENAMED))
    bench.server.patch("nodes", "a", {"metadata": {"annotations": {MUTEX_LOCK: None}}})
    assert await waiting == ""
    assert {h.name for h in made.cluster.holdings()} == {"first", "second"}


async def test_a_filter_whose_write_fails_leaves_nothing_behind(bench: Any, make: Any) -> None:
    bench.server.create("nodes", node(make))
    bench.server.create("pods", make.pod("p"))
    made, address = await bench.scheduler()
    bench.server.faults.deny.add(("patch", "pods"))
    bench.server.faults.hold["patch", "pods"] = held = threading.Event()
    asked = asyncio.create_task(bench.filter(address, "p", ["a"]))
    await bench.until(lambda: list(made.cluster.holdings()))
    await made.serve(backends("nvidia", section=RENAMED))
    assert [h.name for h in made.cluster.holdings()] == ["p"]
    held.set()
    assert (await asked)["Error"] != ""
    assert list(made.cluster.holdings()) == []


async def test_a_backend_that_raises_changes_nothing(bench: Any, make: Any) -> None:
    bench.server.create("nodes", node(make))
    bench.server.create("pods", make.pod("p"))
    made, address = await bench.scheduler()
    (broken,) = backends("nvidia", section=RENAMED)

    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(broken, name)

        def devices(self, _node: Any) -> Any:
            raise RuntimeError("a vendor's mistake")

    before = made.cluster.backends, made.cluster.view("a")
    with pytest.raises(RuntimeError, match="a vendor's mistake"):
        await made.serve([Broken()])
    assert (made.cluster.backends, made.cluster.view("a")) == before
    await bound(bench, address, "p")


async def test_what_happens_while_everything_is_read_anew_counts(
    bench: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "gone"):
        bench.server.create("nodes", node(make, name, cards=1, memory=8000, deferred=True))
    for name in ("stays", "leaves", "comes"):
        bench.server.create("pods", make.pod(name, memory=1000))
    made, address = await bench.scheduler()
    for name in ("stays", "leaves"):
        await bound(bench, address, name)
    await bench.until(lambda: not made.cluster._assumed)
    begun, go, real = threading.Event(), threading.Event(), Cluster.of

    def slow(*given: Any) -> Cluster:
        found = real(*given)
        begun.set()
        go.wait(30)
        return found

    monkeypatch.setattr(Cluster, "of", slow)
    serving = asyncio.create_task(made.serve(backends("nvidia", section=RENAMED)))
    await bench.until(begun.is_set)
    bench.server.delete("pods", "leaves", "default")
    bench.server.delete("nodes", "gone")
    bench.server.create("nodes", node(make, "new", cards=1, memory=8000, deferred=True))
    await bound(bench, address, "comes")
    await bench.until(lambda: set(made.cluster.names()) == {"a", "new"})
    await bench.until(lambda: {h.name for h in made.cluster.holdings()} == {"stays", "comes"})
    go.set()
    await serving
    assert OTHER in made.cluster.backends["NVIDIA"].resources.names()
    assert set(made.cluster.names()) == {"a", "new"}
    assert {h.name for h in made.cluster.holdings()} == {"stays", "comes"}
    (card,) = made.cluster.view("a").cards["NVIDIA"]
    assert (card.used_memory_mib, card.used) == (2000, 2)
    assert not made.cluster.drift("a")


async def test_the_webhook_asks_the_new_backends(bench: Any, make: Any) -> None:
    made, address = await bench.scheduler()

    async def named(item: Any) -> bool:
        """Whether a pod of the default scheduler is taken over."""
        item["spec"]["schedulerName"] = "default-scheduler"
        request = {"uid": "1", "operation": "CREATE", "namespace": "default", "object": item}
        body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
        answer = await bench.post(f"{address}/webhook", body)
        return "patch" in answer["response"]

    assert (await named(make.pod("p")), await named(pod(make, "p", 1))) == (True, False)
    await made.serve(backends("nvidia", section=RENAMED))
    assert (await named(make.pod("p")), await named(pod(make, "p", 1))) == (False, True)
