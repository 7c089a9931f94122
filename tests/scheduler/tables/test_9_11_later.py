"""Table 9.11 of hami-scheduler.md: what later versions test. Rows that other tests of ours have are
named in the index.
"""

from __future__ import annotations

import asyncio
import io
import json
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from deviceplugin.api.hami import nodelock
from deviceplugin.api.hami.keys import MUTEX_LOCK
from deviceplugin.scheduler.settings import SchedulerSettings

MEMORY = "nvidia.com/gpumem"


def quota(limit: int) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "default", "name": "q"},
        "spec": {"hard": {f"limits.{MEMORY}": str(limit)}},
    }


async def test_a_decision_that_is_not_written_takes_nothing_of_the_quota(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", make.node("a"))
    bench.server.create("resourcequotas", quota(1000))
    for name in ("p", "q"):
        bench.server.create("pods", make.pod(name, memory=1000))
    made, address = await bench.scheduler()
    bench.server.faults.deny.add(("patch", "pods"))
    assert (await bench.filter(address, "p", ["a"]))["Error"] != ""
    assert made.quotas.used("default") == {}
    bench.server.faults.deny.clear()
    assert (await bench.filter(address, "q", ["a"]))["NodeNames"] == ["a"]


async def test_a_pod_that_terminates_keeps_its_devices_until_it_is_gone(
    bench: Any, make: Any
) -> None:
    """After a restart of the scheduler too."""
    bench.server.create("nodes", make.node("a", cards=1, memory=1000, deferred=True))
    for name in ("p", "q"):
        bench.server.create("pods", make.pod(name, memory=600))
    made, address = await bench.scheduler()
    assert (await bench.filter(address, "p", ["a"]))["NodeNames"] == ["a"]
    assert await bench.bind(address, "p", "a") == ""
    bench.server.delete("pods", "p", "default", grace=30)
    pod = bench.server.get("pods", "p", "default")
    assert pod["metadata"]["deletionTimestamp"]
    version = int(pod["metadata"]["resourceVersion"])
    await bench.until(lambda: made.watching.pods._heard >= version)
    assert (await bench.filter(address, "q", ["a"]))["NodeNames"] is None
    _, other = await bench.scheduler()
    assert (await bench.filter(other, "q", ["a"]))["NodeNames"] is None
    bench.server.delete("pods", "p", "default")
    await bench.until(lambda: not list(made.cluster.holdings()))
    assert (await bench.filter(address, "q", ["a"]))["NodeNames"] == ["a"]


async def test_an_init_container_that_is_done_counts_as_kubernetes_counts_it(
    bench: Any, make: Any
) -> None:
    """Version 2.10 lets others have what it had. It runs again when the pod's sandbox is made anew."""
    node = make.node("a", cards=1, memory=1000, deferred=True)
    node["metadata"]["annotations"]["node.deviceplugin.dev/announces"] = "x"
    bench.server.create("nodes", node)
    pod = make.pod("p", memory=100)
    first = make.pod("x", memory=900)["spec"]["containers"][0]
    pod["spec"]["initContainers"] = [{**first, "name": "first"}]
    bench.server.create("pods", pod)
    bench.server.create("pods", make.pod("q", memory=200))
    made, address = await bench.scheduler()
    assert (await bench.filter(address, "p", ["a"]))["NodeNames"] == ["a"]
    assert await bench.bind(address, "p", "a") == ""
    done = {"name": "first", "state": {"terminated": {"exitCode": 0}}}
    status = {"phase": "Running", "initContainerStatuses": [done]}
    version = bench.server.patch("pods", "p", {"status": status}, "default")["metadata"]
    await bench.until(lambda: made.watching.pods._heard >= int(version["resourceVersion"]))
    (card,) = made.cluster.view("a").cards["NVIDIA"]
    assert card.used_memory_mib == 900
    assert (await bench.filter(address, "q", ["a"]))["NodeNames"] is None


def both(name: str) -> dict[str, Any]:
    """A pod that needs two locks: Cambricon's is its own."""
    limits = {"nvidia.com/gpu": "1", MEMORY: "100", "cambricon.com/vmlu": "1"}
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "schedulerName": "hami-scheduler",
            "containers": [{"name": "c", "image": "x", "resources": {"limits": limits}}],
        },
    }


DSMLU = "cambricon.com/dsmlu.lock"


async def test_locks_of_two_vendors_are_taken_in_order_and_all_or_none(
    every_vendor: Any, make: Any
) -> None:
    bench = every_vendor
    node = make.node("a")
    node["status"]["capacity"]["cambricon.com/vmlu"] = "1"
    bench.server.create("nodes", node)
    bench.server.create("pods", both("p"))
    bench.server.create("pods", both("other"))
    _, address = await bench.scheduler(SchedulerSettings(bind_patience=0.5))
    assert (await bench.filter(address, "p", ["a"]))["NodeNames"] == ["a"]
    assert sorted([MUTEX_LOCK, DSMLU]) == [DSMLU, MUTEX_LOCK]
    held = lock_text("other")
    bench.server.patch("nodes", "a", {"metadata": {"annotations": {MUTEX_LOCK: held}}})
    assert "has been locked within" in await bench.bind(address, "p", "a")
    annotations = bench.server.get("nodes", "a")["metadata"]["annotations"]
    assert DSMLU not in annotations
    assert annotations[MUTEX_LOCK] == held
    bench.server.patch("nodes", "a", {"metadata": {"annotations": {MUTEX_LOCK: None}}})
    assert (await bench.filter(address, "p", ["a"]))["NodeNames"] == ["a"]
    assert await bench.bind(address, "p", "a") == ""
    annotations = bench.server.get("nodes", "a")["metadata"]["annotations"]
    assert {DSMLU, MUTEX_LOCK} <= annotations.keys()


def lock_text(pod: str) -> str:
    return nodelock.encode(nodelock.NodeLock(datetime.now(UTC), "default", pod))


async def test_a_quota_that_changes_is_in_force_all_the_while(bench: Any, make: Any) -> None:
    """Upstream's is taken away and put back, and pods pass in between."""
    bench.server.create("nodes", make.node("a", cards=4))
    bench.server.create("resourcequotas", quota(1000))
    bench.server.create("pods", make.pod("p", memory=1500))
    made, address = await bench.scheduler()
    passed: list[bool] = []

    def look(*_: Any) -> None:
        passed.append(made.quotas.refusal("default", {MEMORY: 1500}) is None)

    for name in ("drop_quota", "set_quota"):
        change = getattr(made.quotas, name)
        setattr(made.quotas, name, lambda *a, change=change: (change(*a), look())[0])
    for limit in (1100, 1200, 1300):
        hard = {"spec": {"hard": {f"limits.{MEMORY}": str(limit)}}}
        bench.server.patch("resourcequotas", "q", hard, "default")
        await bench.until(
            lambda limit=limit: ("default", "q", MEMORY, limit) in made.quotas.limits()
        )
    assert passed
    assert not any(passed)
    assert (await bench.filter(address, "p", ["a"]))["NodeNames"] is None


async def test_a_lock_that_somebody_takes_meanwhile_is_his(bench: Any, make: Any) -> None:
    """A write that was made for an older node is refused, and what stands there is looked at again:
    2.8 overwrites it after a conflict.
    """
    bench.server.create("nodes", make.node("a"))
    for name in ("p", "other"):
        bench.server.create("pods", make.pod(name))
    made, address = await bench.scheduler(SchedulerSettings(bind_patience=0.5))
    assert (await bench.filter(address, "p", ["a"]))["NodeNames"] == ["a"]
    held = lock_text("other")
    patch = made.locks._api.patch

    class Late:
        """Somebody is faster, once."""

        def __init__(self, api: Any) -> None:
            self.api, self.get, self.done = api, api.get, False

        async def patch(self, *arguments: Any, **more: Any) -> Any:
            if not self.done:
                self.done = True
                bench.server.patch("nodes", "a", {"metadata": {"annotations": {MUTEX_LOCK: held}}})
            return await patch(*arguments, **more)

    made.locks._api = Late(made.locks._api)
    assert "default,other" in await bench.bind(address, "p", "a")
    found = bench.server.get("nodes", "a")["metadata"]["annotations"][MUTEX_LOCK]
    assert found == held


@pytest.mark.parametrize("megabytes", [2, 12])
async def test_a_large_request_is_served(bench: Any, make: Any, megabytes: int) -> None:
    """2.10 refuses more than 1 MiB; autoscalers send whole nodes, thousands of them."""
    bench.server.create("pods", make.pod("p"))
    _, address = await bench.scheduler()
    one = make.node("imagined", labels={"x": "y" * 60, "z": "y" * 60})
    nodes = [one] * (megabytes * 1024 * 1024 // len(str(one)))
    body = {"Pod": bench.server.get("pods", "p", "default"), "Nodes": {"items": nodes}}
    data = io.BytesIO(json.dumps(body).encode())
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{address}/filter", data=data) as response,
    ):
        answer = await response.json()
    assert len(answer["Nodes"]["items"]) == 1


async def test_a_request_before_the_cluster_is_known_is_told_so(bench: Any, make: Any) -> None:
    bench.server.create("pods", make.pod("p"))
    made, address = await bench.scheduler()
    made.watching.nodes.synced = False
    answer = await bench.filter(address, "p", ["a"])
    assert "cache not synced" in answer["Error"]
    assert "cache not synced" in await bench.bind(address, "p", "a")


async def test_fifty_who_want_one_node_do_not_write_in_step(bench: Any, make: Any) -> None:
    """Upstream's spread their tries; ours wait in line, and write once each."""
    bench.server.create("nodes", make.node("a", cards=8))
    names = [f"p{number}" for number in range(50)]
    for name in names:
        bench.server.create("pods", make.pod(name, memory=10, cores=1))
    made, address = await bench.scheduler(SchedulerSettings(bind_patience=60.0))
    for name in names:
        assert (await bench.filter(address, name, ["a"]))["NodeNames"] == ["a"]

    async def agent() -> None:
        while True:
            if MUTEX_LOCK in bench.server.get("nodes", "a")["metadata"]["annotations"]:
                bench.server.patch("nodes", "a", {"metadata": {"annotations": {MUTEX_LOCK: None}}})
            await asyncio.sleep(0.005)

    before = len(bench.server.calls)
    serving = asyncio.create_task(agent())
    errors = await asyncio.gather(*(bench.bind(address, name, "a") for name in names))
    serving.cancel()
    assert errors == [""] * 50
    writes = [c for c in bench.server.calls[before:] if c.verb == "patch" and "/nodes/" in c.path]
    assert len(writes) == 50
    assert made.locks.waiting == 0
