"""The sweep in a running scheduler: what it tells of, to whom, and how often."""

from __future__ import annotations

import copy
from typing import Any

from deviceplugin.scheduler.events import CAME_PAST_WEBHOOK


class Follower:
    """A replica that does not decide, until it does."""

    holder, term = "another", 0

    def __init__(self) -> None:
        self.leads = False

    def is_leader(self) -> bool:
        return self.leads

    async def run(self) -> None:
        import asyncio

        await asyncio.Event().wait()


def told(bench: Any) -> list[dict[str, Any]]:
    return [e for e in bench.server.objects("events") if e["reason"] == CAME_PAST_WEBHOOK]


def past(make: Any, name: str) -> dict[str, Any]:
    item: dict[str, Any] = copy.deepcopy(make.pod(name))
    item["spec"]["schedulerName"] = "default-scheduler"
    return item


async def test_each_pod_is_told_of_once_and_counted_while_it_is_there(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", make.node("a"))
    bench.server.create("pods", make.pod("waits"))
    bench.server.create("pods", past(make, "one"))
    made, _ = await bench.scheduler()
    await made.sweep.round()
    await made.sweep.round()
    bench.server.create("pods", past(make, "two"))
    await bench.until(lambda: "default/two" in made.watching.pods.objects)
    await made.sweep.round()
    await bench.until(lambda: len(told(bench)) == 2)
    first, second = told(bench)
    assert [e["involvedObject"]["name"] for e in (first, second)] == ["one", "two"]
    assert first["type"] == "Warning"
    assert first["count"] == 1
    assert "names scheduler default-scheduler" in first["message"]
    assert "delete it" in first["message"]
    assert made.moment().facts["slipped_pods"] == 2
    bench.server.delete("pods", "one", "default")
    await bench.until(lambda: "default/one" not in made.watching.pods.objects)
    await made.sweep.round()
    assert made.moment().facts["slipped_pods"] == 1


async def test_only_who_leads_tells_and_it_tells_of_those_that_were_there(
    bench: Any, make: Any
) -> None:
    bench.server.create("pods", past(make, "one"))
    leading = Follower()
    made, _ = await bench.scheduler(leading=leading)
    await made.sweep.round()
    assert made.moment().facts["slipped_pods"] == 1
    leading.leads = True
    bench.server.create("pods", past(make, "two"))
    await bench.until(lambda: "default/two" in made.watching.pods.objects)
    await made.sweep.round()
    await bench.until(lambda: len(told(bench)) == 2)


async def test_a_pod_on_a_node_with_devices_that_nobody_gave_it(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("gpu"))
    bench.server.create("nodes", {"metadata": {"name": "cpu"}, "status": {}})
    for node in ("gpu", "cpu"):
        item = past(make, f"on-{node}")
        item["spec"]["nodeName"] = node
        bench.server.create("pods", item)
    made, _ = await bench.scheduler()
    await made.sweep.round()
    (found,) = made.sweep.found
    assert (found.name, found.slip) == ("on-gpu", "NotDecided")
