"""Table 9.10 of hami-scheduler.md, of which the node's part is tested with the agent (the index
names it): a pod that can never be served.
"""

from __future__ import annotations

from typing import Any


async def test_a_pod_with_a_container_thrice_on_a_node_of_one_gpu(bench: Any, make: Any) -> None:
    """Each wants all of it."""
    bench.server.create("nodes", make.node("a", cards=1))
    pod = make.pod("p", memory=16384, cores=100)
    (main,) = pod["spec"]["containers"]
    pod["spec"]["containers"] = [{**main, "name": f"c{number}"} for number in range(3)]
    bench.server.create("pods", pod)
    _, address = await bench.scheduler()
    answer = await bench.filter(address, "p", ["a"])
    assert answer["NodeNames"] is None
    await bench.until(lambda: bench.server.objects("events"))
    (event,) = bench.server.objects("events")
    assert event["reason"] == "FilteringFailed"
    assert "no available node" in event["message"]
