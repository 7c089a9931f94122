"""Table 9.2 of hami-scheduler.md: a filter from end to end, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from deviceplugin.api.hami import poddevices, register
from deviceplugin.api.hami.keys import DEVICE_POLICY, NODE_POLICY, NVIDIA_REGISTER, VENDORS
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.vendor.scheduling import Policy

NVIDIA = VENDORS["NVIDIA"]


def node(name: str, *cards: str) -> dict[str, Any]:
    devices = [
        NodeDevice(
            uuid=uuid, index=index, count=10, memory=8000, cores=100, type="NVIDIA-x", healthy=True
        )
        for index, uuid in enumerate(cards)
    ]
    return {
        "metadata": {"name": name, "annotations": {NVIDIA_REGISTER: register.encode(devices)}},
        "status": {"allocatable": {"nvidia.com/gpu": "20"}},
    }


def running(make: Any, name: str, where: str, card: str, cores: int, memory: int) -> dict[str, Any]:
    text = poddevices.encode(
        [[poddevices.ContainerDevice(card, "NVIDIA", memory, cores)]], NVIDIA.allocated
    )
    told = {"hami.io/vgpu-node": where, NVIDIA.allocated: text}
    pod = make.pod(name, memory=memory, cores=cores, annotations=told)
    pod["spec"]["nodeName"] = where
    return pod  # type: ignore[no-any-return]


@pytest.fixture
async def cluster(bench: Any, make: Any) -> Any:
    bench.server.create("nodes", node("node1", "device1", "device2"))
    bench.server.create("nodes", node("node2", "device3", "device4"))
    bench.server.create("pods", running(make, "one", "node1", "device1", 25, 2000))
    bench.server.create("pods", running(make, "two", "node2", "device4", 75, 6000))
    return bench


POLICIES = [
    pytest.param(Policy.BINPACK, Policy.BINPACK, "node2", "device4", id="binpack, binpack"),
    pytest.param(Policy.BINPACK, Policy.SPREAD, "node2", "device3", id="binpack, spread"),
    pytest.param(Policy.SPREAD, Policy.BINPACK, "node1", "device1", id="spread, binpack"),
    pytest.param(Policy.SPREAD, Policy.SPREAD, "node1", "device2", id="spread, spread"),
]


async def chosen(cluster: Any, address: str) -> tuple[str, str]:
    answer = await cluster.filter(address, "p", ["node1", "node2"])
    assert answer["Error"] == ""
    text = cluster.server.get("pods", "p", "default")["metadata"]["annotations"][NVIDIA.allocated]
    ((device,),) = poddevices.decode(text, NVIDIA.allocated)
    return answer["NodeNames"][0], device.uuid


@pytest.mark.parametrize(("nodes", "cards", "where", "card"), POLICIES)
async def test_the_schedulers_policies(
    cluster: Any, make: Any, nodes: Policy, cards: Policy, where: str, card: str
) -> None:
    cluster.server.create("pods", make.pod("p", memory=1000, cores=20))
    settings = SchedulerSettings(node_policy=nodes, card_policy=cards)
    _, address = await cluster.scheduler(settings)
    assert await chosen(cluster, address) == (where, card)


@pytest.mark.parametrize(("nodes", "cards", "where", "card"), POLICIES)
async def test_the_pods_own_policies(
    cluster: Any, make: Any, nodes: Policy, cards: Policy, where: str, card: str
) -> None:
    told = {NODE_POLICY: str(nodes), DEVICE_POLICY: str(cards)}
    cluster.server.create("pods", make.pod("p", memory=1000, cores=20, annotations=told))
    opposite = {Policy.BINPACK: Policy.SPREAD, Policy.SPREAD: Policy.BINPACK}
    settings = SchedulerSettings(node_policy=opposite[nodes], card_policy=opposite[cards])
    _, address = await cluster.scheduler(settings)
    assert await chosen(cluster, address) == (where, card)


async def test_the_scores_on_the_way(cluster: Any) -> None:
    made, _ = await cluster.scheduler()
    scores = {name: made.cluster.room(name).score for name in ("node1", "node2")}
    assert scores == pytest.approx({"node1": 3.0, "node2": 8.0})


async def test_nodes_that_are_not_known_and_nodes_that_do_not_fit(cluster: Any, make: Any) -> None:
    cluster.server.create("pods", make.pod("p", memory=9000))
    _, address = await cluster.scheduler()
    answer = await cluster.filter(address, "p", ["node1", "elsewhere"])
    assert answer["NodeNames"] is None
    assert answer["FailedNodes"]["elsewhere"] == "NodeInsufficientDevice: node unregistered"
    # Upstream says NodeUnfitPod of every node that does not fit; ours says why.
    assert answer["FailedNodes"]["node1"] == "CardInsufficientMemory"
