"""Anybody may write annotations on pods of his own, where nobody keeps him from it: what they say
costs nobody a card, and hides nothing that is in use.
"""

from __future__ import annotations

from typing import Any

import pytest

from deviceplugin import registry
from deviceplugin.api.hami.keys import VENDORS, VGPU_NODE
from deviceplugin.api.hami.poddevices import ContainerDevice
from deviceplugin.placement.observe import Held, NodeView
from deviceplugin.scheduler.cluster import Cluster, Holding
from deviceplugin.scheduler.nodes import node_record
from deviceplugin.scheduler.pods import PodRecord, pod_record
from deviceplugin.vendor.scheduling import Card

NVIDIA = VENDORS["NVIDIA"]
GPU, MEMORY, CORES = "nvidia.com/gpu", "nvidia.com/gpumem", "nvidia.com/gpucores"
PERCENT = "nvidia.com/gpumem-percentage"


@pytest.fixture(scope="module")
def backends() -> Any:
    """NVIDIA's and another vendor's."""
    vendors = registry.load().vendors
    found = [
        *registry.load_scheduling(vendors["nvidia"], {}),
        *registry.load_scheduling(vendors["hygon"], {}),
    ]
    return {backend.keys.common_word: backend for backend in found}


@pytest.fixture
def cluster(backends: Any, make: Any) -> Cluster:
    made = Cluster(backends)
    made.set_node(node_record(make.node("a", cards=2, memory=10000)))
    return made


def seen(
    told: str | None, bound: str = "a", limits: dict[str, str] | None = None, **more: str
) -> PodRecord:
    """A pod of one container that asks for 1000 MiB and 10 % of one card, unless told otherwise."""
    annotations = {VGPU_NODE: "a", **more}
    if told is not None:
        annotations[NVIDIA.allocated] = told
    limits = {GPU: "1", MEMORY: "1000", CORES: "10"} if limits is None else limits
    found = pod_record(
        {
            "metadata": {
                "name": "p",
                "namespace": "default",
                "uid": "u",
                "annotations": annotations,
            },
            "spec": {
                "containers": [{"name": "main", "resources": {"limits": limits}}],
                "nodeName": bound,
            },
        }
    )
    assert found is not None
    return found


def used(cluster: Cluster) -> dict[str, tuple[int, int, int]]:
    """By card: containers, MiB and percent."""
    view = cluster.view("a")
    assert isinstance(view, NodeView)
    cards: tuple[Card, ...] = view.cards["NVIDIA"]
    return {c.uuid: (c.used, c.used_memory_mib, c.used_cores) for c in cards if c.used}


@pytest.mark.parametrize(
    "told",
    [
        "GPU-a-0,NVIDIA,1000,10:;",
        "GPU-a-0,NVIDIA,10000,100:;",
        "GPU-a-0,NVIDIA,2147483647,2147483647:;",
        "GPU-a-0,NVIDIA,1,0:;",
        "GPU-a-0,NVIDIA,0,0:;",
        "GPU-a-0,NVIDIA,1000,10:GPU-a-1,NVIDIA,10000,100:;",
    ],
    ids=["true", "all", "absurd", "little", "nothing", "another card too"],
)
def test_how_much_of_a_card_counts_is_what_the_container_asks_for(
    cluster: Cluster, told: str
) -> None:
    problems = cluster.set_pod(seen(told))
    assert used(cluster) == {"GPU-a-0": (1, 1000, 10)}
    assert bool(problems) is (told != "GPU-a-0,NVIDIA,1000,10:;")


@pytest.mark.parametrize("told", ["1", "5000", "10000"])
def test_a_part_of_a_card_counts_by_the_card(cluster: Cluster, told: str) -> None:
    limits = {GPU: "1", PERCENT: "40", CORES: "10"}
    cluster.set_pod(seen(f"GPU-a-0,NVIDIA,{told},10:;", limits=limits))
    assert used(cluster) == {"GPU-a-0": (1, 4000, 10)}


def test_who_asks_for_nothing_holds_nothing(cluster: Cluster) -> None:
    problems = cluster.set_pod(seen("GPU-a-0,NVIDIA,10000,100:;", limits={"example.com/x": "1"}))
    assert used(cluster) == {}
    assert "container main" in problems[0]


def test_another_vendors_devices_that_nobody_asked_for_count_nowhere(cluster: Cluster) -> None:
    dcu = VENDORS["DCU"]
    forged = {dcu.allocated: "DCU-0,DCU,10000,100:;"}
    cluster.set_pod(seen("GPU-a-0,NVIDIA,1000,10:;", **forged))
    assert [set(found.held) for found in cluster.holdings()] == [{"NVIDIA"}]


def test_a_partition_is_not_larger_than_its_card(cluster: Cluster) -> None:
    cluster.set_pod(seen("GPU-a-0[0-1],NVIDIA,2147483647,2147483647:;"))
    assert used(cluster) == {"GPU-a-0": (1, 10000, 100)}


@pytest.mark.parametrize(
    "later",
    [
        seen("GPU-a-1,NVIDIA,1000,10:;"),
        seen("GPU-a-0,NVIDIA,1,1:;"),
        seen("no devices at all"),
        seen(""),
        seen(None),
        seen("GPU-a-0,NVIDIA,1000,10:;", **{VGPU_NODE: "b"}),
        seen("GPU-a-0,NVIDIA,1000,10:;", **{VGPU_NODE: ""}),
    ],
    ids=["another card", "less", "broken", "empty", "gone", "another node", "no node"],
)
def test_what_a_bound_pod_holds_stays_known_whatever_is_written_later(
    cluster: Cluster, later: PodRecord
) -> None:
    cluster.set_pod(seen("GPU-a-0,NVIDIA,1000,10:;"))
    cluster.set_pod(later)
    assert used(cluster) == {"GPU-a-0": (1, 1000, 10)}
    assert not cluster.drift("a")
    cluster.drop_pod("u")
    assert used(cluster) == {}


def test_what_this_process_decided_counts_before_what_the_pod_says(cluster: Cluster) -> None:
    device = ContainerDevice("GPU-a-1", "NVIDIA", 3000, 30)
    mine = Holding("u", "default", "p", "a", {"NVIDIA": (Held("u", "default/p", (device,)),)})
    cluster.assume(mine)
    cluster.set_pod(seen("GPU-a-0,NVIDIA,1,1:;", bound=""))
    assert used(cluster) == {"GPU-a-1": (1, 3000, 30)}
    cluster.set_pod(seen("GPU-a-0,NVIDIA,1,1:;"))
    assert used(cluster) == {"GPU-a-1": (1, 3000, 30)}
    assert cluster.bound("u") == "a"


def test_a_pod_that_somebody_else_bound_elsewhere_is_counted_there(
    cluster: Cluster, make: Any
) -> None:
    cluster.set_node(node_record(make.node("b", cards=2, memory=10000)))
    device = ContainerDevice("GPU-a-1", "NVIDIA", 3000, 30)
    mine = Holding("u", "default", "p", "a", {"NVIDIA": (Held("u", "default/p", (device,)),)})
    cluster.assume(mine)
    cluster.set_pod(seen("GPU-b-0,NVIDIA,1000,10:;", bound="b"))
    assert used(cluster) == {}
    (found,) = cluster.holdings()
    assert (found.node, cluster.bound("u")) == ("b", "b")


def test_a_vendor_that_makes_a_mistake_costs_nobody_elses_devices(backends: Any, make: Any) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(backends["DCU"], name)

        def demand(self, _container: Any, _pod: Any) -> Any:
            raise KeyError("a vendor's mistake")

    cluster = Cluster({**backends, "DCU": Broken()})
    cluster.set_node(node_record(make.node("a", cards=2, memory=10000)))
    both = {VENDORS["DCU"].allocated: "DCU-0,DCU,1,1:;"}
    problems = cluster.set_pod(seen("GPU-a-0,NVIDIA,1000,10:;", **both))
    assert used(cluster) == {"GPU-a-0": (1, 1000, 10)}
    assert "a vendor's mistake" in problems[0]


async def test_what_the_events_missed_is_found_by_the_check(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a", cards=2, memory=10000))
    told = {VGPU_NODE: "a", NVIDIA.allocated: "GPU-a-0,NVIDIA,1000,10:;"}
    pod = make.pod("p", annotations=told)
    pod["spec"]["nodeName"] = "a"
    uid = bench.server.create("pods", pod)["metadata"]["uid"]
    made, _ = await bench.scheduler()
    watching, cluster = made.watching, made.cluster
    assert used(cluster) == {"GPU-a-0": (1, 1000, 10)}
    cluster.drop_pod(uid)  # as if its event had been lost
    unseen = await watching.check_pods()
    assert used(cluster) == {"GPU-a-0": (1, 1000, 10)}
    assert (watching.drift, unseen) == (1, frozenset())
    del watching.pods.objects["default/p"]  # as if that it is gone had been
    unseen = await watching.check_pods(unseen)
    assert (unseen, len(used(cluster))) == ({uid}, 1)
    await watching.check_pods(unseen)
    assert used(cluster) == {}
    assert watching.drift == 2


def test_other_backends_forget_nothing_of_it(cluster: Cluster, backends: Any, make: Any) -> None:
    cluster.set_pod(seen("GPU-a-0,NVIDIA,1000,10:;"))
    broken = seen("no devices at all")
    cluster.set_pod(broken)
    node = node_record(make.node("a", cards=2, memory=10000))
    cluster.become(Cluster.of(backends, [node], [broken]))
    assert used(cluster) == {"GPU-a-0": (1, 1000, 10)}
