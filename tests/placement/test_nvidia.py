"""Placement of NVIDIA's requests, with the numbers of hami-scheduler.md 9; where ours differ on
purpose, docs/compatibility.md has the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.hami.scores import PairScores
from deviceplugin.placement.admit import admitted
from deviceplugin.placement.fit import Placement, place
from deviceplugin.placement.observe import Held, NodeView, cards_with, held_of
from deviceplugin.placement.rank import card_score, node_score
from deviceplugin.placement.request import asks
from deviceplugin.placement.write import decision
from deviceplugin.vendor.scheduling import (
    Card,
    ContainerDevice,
    ContainerSpec,
    Demand,
    NodeDevice,
    NodeFacts,
    Obstacle,
    PodSpec,
    Policy,
    RefusedError,
    SchedulingSettings,
    Tenant,
    Unfit,
)
from deviceplugin.vendors.nvidia.scheduling import backends

GPU, MEM, CORES = "nvidia.com/gpu", "nvidia.com/gpumem", "nvidia.com/gpucores"
PERCENT, PRIORITY = "nvidia.com/gpumem-percentage", "nvidia.com/priority"


def nvidia(**section: Any) -> Any:
    return backends(SchedulingSettings(section))[0]


def card(index: int = 0, used: Sequence[tuple[int, int]] = (), **more: Any) -> Card:
    given = {
        "uuid": f"device{index}",
        "index": index,
        "count": 10,
        "memory": 8000,
        "cores": 100,
        "type": "NVIDIA-Test",
        "healthy": True,
    }
    found = Card(NodeDevice(**{**given, **more}))
    for memory, cores in used:
        found = found.with_tenant(Tenant("n/x", memory, cores))
    return found


def pod(
    *containers: Mapping[str, object], annotations: Mapping[str, str] | None = None, init: int = 0
) -> PodSpec:
    made = tuple(
        ContainerSpec(f"c{i}", {k: str(v) for k, v in limits.items()}, init=i < init)
        for i, limits in enumerate(containers)
    )
    return PodSpec("n", "p", "u", annotations or {}, made[init:], made[:init])


def fit(
    cards: Sequence[Card],
    wanted: PodSpec,
    backend: Any = None,
    policy: Policy = Policy.SPREAD,
    node: Policy = Policy.BINPACK,
) -> Placement | Unfit:
    backend = backend or nvidia()
    view = NodeView(NodeFacts("n"), {"NVIDIA": tuple(cards)})
    return place(view, wanted, asks(wanted, [backend]), {"NVIDIA": backend}, policy, node)


def uuids(found: Placement | Unfit) -> list[list[str]]:
    assert isinstance(found, Placement), found
    return [[device.uuid for device in devices] for devices in found.containers["NVIDIA"]]


def why(found: Placement | Unfit) -> list[Obstacle]:
    assert isinstance(found, Unfit), found
    return [reason.obstacle for reason in found.reasons]


# --- 9.1 scores ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("demand", "score"),
    [
        (Demand("x", 1, 0, None, 0), 8.0),  # of 7 before it, and its own slot
        (Demand("x", 1, 1024, None, 1), 11.75),
        (Demand("x", 1, 0, 50, 2), 18.0),  # half of the memory is half: upstream counts 0
    ],
)
def test_a_cards_score(demand: Demand, score: float) -> None:
    full = Card(
        NodeDevice(uuid="u", count=10, memory=8192, cores=4, type="x", healthy=True),
        (),
        2,
        2048,
        1,
    )
    assert card_score(full, demand) == pytest.approx(score)


def test_a_nodes_score() -> None:
    one = Card(
        NodeDevice(uuid="a", count=100, memory=100, cores=100, type="x", healthy=True),
        (),
        50,
        100,
        100,
    )
    two = Card(
        NodeDevice(uuid="b", count=150, memory=200, cores=200, type="x", healthy=True),
        (),
        75,
        200,
        200,
    )
    assert node_score([one, two]) == pytest.approx(25)
    assert node_score([]) == 0
    half = card(0, [(800, 10)] * 5)
    assert node_score([half]) == pytest.approx(15)
    assert node_score([half, card(1)]) == pytest.approx(7.5)


# --- 9.2, 9.3 which card ------------------------------------------------------------------------

NODES = {
    "node1": [card(1, [(2000, 25)]), card(2)],
    "node2": [card(3), card(4, [(6000, 75)])],
}


@pytest.mark.parametrize(
    ("node_policy", "card_policy", "wanted"),
    [
        (Policy.BINPACK, Policy.BINPACK, "device4"),
        (Policy.BINPACK, Policy.SPREAD, "device3"),
        (Policy.SPREAD, Policy.BINPACK, "device1"),
        (Policy.SPREAD, Policy.SPREAD, "device2"),
    ],
)
def test_policies_choose_node_and_card(
    node_policy: Policy, card_policy: Policy, wanted: str
) -> None:
    asked = pod({GPU: 1, CORES: 20, MEM: 1000})
    found = [fit(cards, asked, policy=card_policy, node=node_policy) for cards in NODES.values()]
    scores = [place_.score for place_ in found if isinstance(place_, Placement)]
    assert scores == pytest.approx([3.0, 8.0])
    best = max if node_policy is Policy.BINPACK else min
    assert uuids(found[scores.index(best(scores))]) == [[wanted]]


@pytest.mark.parametrize(
    ("containers", "lengths"),
    [((1,), [1]), ((1, 0), [1, 0]), ((0, 1), [0, 1]), ((0, 1, 0), [0, 1, 0])],
)
def test_every_container_keeps_its_place(containers: tuple[int, ...], lengths: list[int]) -> None:
    found = fit([card()], pod(*({GPU: n, MEM: 1} if n else {} for n in containers)))
    assert [len(devices) for devices in uuids(found)] == lengths


def test_of_equal_cards_the_last_is_taken_first() -> None:
    half = [card(0, [(100, 10)]), card(1, [(100, 10)])]
    assert uuids(fit(half, pod({GPU: 2, MEM: 100}))) == [["device1", "device0"]]
    assert uuids(fit([card(0, [(1, 1)]), card(1)], pod({GPU: 1, MEM: 1}))) == [["device1"]]


def test_containers_of_a_pod_see_each_other() -> None:
    found = fit([card(0), card(1)], pod({GPU: 1, MEM: 8000}, {GPU: 1, MEM: 1000}))
    assert uuids(found) == [["device1"], ["device0"]]
    found = fit([card(0)], pod({GPU: 1, MEM: 1, CORES: 30}, {GPU: 1, MEM: 1, CORES: 40}))
    assert uuids(found) == [["device0"], ["device0"]]
    found = fit([card(0)], pod({GPU: 1, MEM: 1, CORES: 70}, {GPU: 1, MEM: 1, CORES: 40}))
    assert why(found) == [Obstacle.CORES]


def test_an_init_container_may_use_what_the_others_get() -> None:
    whole = {GPU: 1, MEM: 8000}
    assert uuids(fit([card()], pod(whole, whole, init=1))) == [["device0"], ["device0"]]
    side = PodSpec(
        "n",
        "p",
        "u",
        {},
        (ContainerSpec("c", {GPU: "1", MEM: "8000"}),),
        (ContainerSpec("s", {GPU: "1", MEM: "1"}, init=True, sidecar=True),),
    )
    assert why(fit([card()], side)) == [Obstacle.MEMORY]


@given(
    st.lists(
        st.tuples(st.sampled_from(["init", "sidecar", "regular"]), st.integers(0, 9)), max_size=6
    )
)
def test_a_card_is_taken_for_what_runs_on_it_at_a_time(parts: list[tuple[str, int]]) -> None:
    """Counted here moment by moment, as kubelet starts them."""
    parts = sorted(parts, key=lambda part: part[0] == "regular")
    moments = [
        sum(mib for kind, mib in parts[:position] if kind != "init") + parts[position][1]
        for position in range(len(parts))
    ]
    held = [
        Held("u", "n/p", (ContainerDevice("device0", "NVIDIA", mib, mib),), kind == "init")
        for kind, mib in parts
    ]
    (found,) = cards_with([card()], held)
    assert found.used_memory_mib == found.used_cores == max(moments, default=0)


# --- 9.4 reasons --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "limits", "annotations", "wanted"),
    [
        (card(used=[(1, 1)] * 10), {GPU: 1, MEM: 1, CORES: 1}, {}, Obstacle.SLOTS),
        (card(used=[(1, 1)]), {GPU: 1, MEM: 1, CORES: 200}, {}, Obstacle.CORES),
        (card(used=[(8000, 0)]), {GPU: 1, PERCENT: 100}, {}, Obstacle.MEMORY),
        (card(used=[(1, 0)]), {GPU: 1, MEM: 1, CORES: 100}, {}, Obstacle.EXCLUSIVE),
        (card(used=[(1, 100)]), {GPU: 1, MEM: 1, CORES: 0}, {}, Obstacle.EXHAUSTED),
        (card(healthy=False), {GPU: 1, MEM: 1}, {}, Obstacle.HEALTH),
        (card(), {GPU: 1, MEM: 1}, {"nvidia.com/use-gpuuuid": "other"}, Obstacle.UUID),
        (card(), {GPU: 1, MEM: 1}, {"nvidia.com/nouse-gpuuuid": "x, device0"}, Obstacle.UUID),
        (card(), {GPU: 1, MEM: 1}, {"nvidia.com/use-gputype": "A100"}, Obstacle.TYPE),
        (card(), {GPU: 1, MEM: 1}, {"nvidia.com/nouse-gputype": "TEST"}, Obstacle.TYPE),
        (card(mode="hami-core"), {GPU: 1, MEM: 1}, {"nvidia.com/vgpu-mode": "mig"}, Obstacle.MODE),
        (card(mode="mps"), {GPU: 1, MEM: 1}, {"nvidia.com/vgpu-mode": "hami-core"}, Obstacle.MODE),
        (card(mode="hami-core"), {GPU: 1, MEM: 1}, {"nvidia.com/vgpu-mode": "mps"}, Obstacle.MODE),
        (card(mode="mps", used=[(4000, 60)]), {GPU: 1, MEM: 5000}, {}, Obstacle.MEMORY),
        (card(mode="mps", used=[(4000, 60)]), {GPU: 1, MEM: 9, CORES: 50}, {}, Obstacle.CORES),
        (card(mode="mig"), {GPU: 1, MEM: 1}, {}, Obstacle.VENDOR_RULE),
    ],
)
def test_a_card_says_why_it_does_not_serve(
    given: Card, limits: dict[str, object], annotations: dict[str, str], wanted: Obstacle
) -> None:
    assert why(fit([given], pod(limits, annotations=annotations))) == [wanted]


@pytest.mark.parametrize("policy", [Policy.SPREAD, Policy.TOPOLOGY_AWARE])
def test_cards_that_mps_shares_are_placed_by_amounts_like_others(policy: Policy) -> None:
    cards = [card(i, mode="mps") for i in range(2)]
    found = fit(
        cards,
        pod({GPU: 2, MEM: 3000, CORES: 30}, annotations={"nvidia.com/vgpu-mode": "mps"}),
        policy=policy,
    )
    assert isinstance(found, Placement)
    (given,) = found.containers["NVIDIA"]
    assert {(one.uuid, one.memory, one.cores, one.slot) for one in given} == {
        ("device0", 3000, 30, None),
        ("device1", 3000, 30, None),
    }


@pytest.mark.parametrize("value", ["", " ", ",,"])
def test_an_empty_selector_is_no_constraint(value: str) -> None:
    asked = pod({GPU: 1, MEM: 1}, annotations={"nvidia.com/use-gpuuuid": value})
    assert uuids(fit([card()], asked)) == [["device0"]]


def test_more_cards_than_there_are() -> None:
    assert Obstacle.TOO_FEW_FIT in why(fit([card()], pod({GPU: 2, MEM: 1})))
    assert why(fit([], pod({GPU: 1, MEM: 1}))) == [Obstacle.TOO_FEW_CARDS]


def test_cards_of_one_numa_node_where_the_pod_wants_that() -> None:
    cards = [card(0, numa=0), card(1, numa=1), card(2, numa=0)]
    bound = {"nvidia.com/numa-bind": "true"}
    assert sorted(uuids(fit(cards, pod({GPU: 2, MEM: 1}, annotations=bound)))[0]) == [
        "device0",
        "device2",
    ]
    assert set(why(fit(cards, pod({GPU: 3, MEM: 1}, annotations=bound)))) == {Obstacle.NUMA}


# --- topology -------------------------------------------------------------------------------------


def wired(scores: Mapping[tuple[int, int], int], number: int = 6, default: int = 1) -> list[Card]:
    cards = []
    for i in range(number):
        pairs = {
            f"device{j}": scores.get((i, j), scores.get((j, i), default))
            for j in range(number)
            if j != i
        }
        cards.append(card(i, pair_scores=PairScores(f"device{i}", pairs)))
    return cards


def test_cards_that_are_connected_best_go_together() -> None:
    cards = wired({(0, 5): 100, (2, 5): 100})
    found = fit(cards, pod({GPU: 3, MEM: 1}), policy=Policy.TOPOLOGY_AWARE)
    assert sorted(uuids(found)[0]) == ["device0", "device2", "device5"]


def test_a_single_card_is_the_one_that_the_others_miss_least() -> None:
    cards = wired({(i, 5): 1 for i in range(5)}, default=100)
    assert uuids(fit(cards, pod({GPU: 1, MEM: 1}), policy=Policy.TOPOLOGY_AWARE)) == [["device5"]]


def test_cards_without_links_are_still_taken() -> None:
    found = fit(wired({}, default=0), pod({GPU: 4, MEM: 1}), policy=Policy.TOPOLOGY_AWARE)
    assert len(set(uuids(found)[0])) == 4


# --- 9.6 MIG --------------------------------------------------------------------------------------


def geometry(*profiles: tuple[str, int, int, int]) -> list[dict[str, object]]:
    return [
        {"name": name, "core": core, "memory": memory, "count": count}
        for name, core, memory, count in profiles
    ]


def mig(*geometries: list[dict[str, object]]) -> Any:
    rows = [{"models": ["Test"], "allowedGeometries": list(geometries)}]
    return nvidia(knownMigGeometries=rows)


@pytest.mark.parametrize(
    ("geometries", "asked", "wanted"),
    [
        (
            [geometry(("1g", 25, 5120, 1)), geometry(("1g", 25, 5120, 1), ("2g", 50, 10240, 1))],
            6000,
            ("1-1", 10240, 50),
        ),
        (
            [geometry(("1g", 25, 3072, 1)), geometry(("1g", 25, 5120, 1), ("2g", 50, 10240, 1))],
            8000,
            ("1-1", 10240, 50),
        ),
        (
            [geometry(("1g", 25, 5120, 1), ("2g", 50, 10240, 1)), geometry(("3g", 100, 20480, 1))],
            6000,
            ("0-1", 10240, 50),
        ),
    ],
)
def test_the_first_geometry_with_a_large_enough_partition_is_made(
    geometries: list[Any], asked: int, wanted: tuple[str, int, int]
) -> None:
    found = fit([card(mode="mig", memory=40960)], pod({GPU: 1, MEM: asked}), mig(*geometries))
    assert isinstance(found, Placement)
    (device,) = found.containers["NVIDIA"][0]
    assert device.slot is not None
    assert (f"{device.slot.geometry}-{device.slot.position}", device.memory, device.cores) == wanted


SEVENTHS = geometry(("1g", 14, 5120, 7))


def test_several_partitions_of_a_card_serve_one_container() -> None:
    found = fit([card(mode="mig", memory=40960)], pod({GPU: 3, MEM: 5000}), mig(SEVENTHS))
    assert isinstance(found, Placement)
    assert [str(d.slot) for d in found.containers["NVIDIA"][0]] == ["[0-0]", "[0-1]", "[0-2]"]


def test_partitions_in_use_are_left_alone() -> None:
    used = card(mode="mig", memory=40960).with_tenant(Tenant("n/x", 5120, 14, "0-0"))
    found = fit([used], pod({GPU: 1, MEM: 5000}), mig(SEVENTHS))
    assert isinstance(found, Placement)
    assert str(found.containers["NVIDIA"][0][0].slot) == "[0-1]"
    found = fit([used], pod({GPU: 1, MEM: 6000}), mig(SEVENTHS, geometry(("7g", 100, 40960, 1))))
    assert why(found) == [Obstacle.VENDOR_RULE]


def test_an_init_container_may_have_a_card_divided_otherwise_when_nobody_else_is_on_it() -> None:
    backend = mig(SEVENTHS, geometry(("3g", 42, 20480, 2)))
    whole = card(mode="mig", memory=40960)
    wanted = pod({GPU: 1, MEM: 5000}, {GPU: 1, MEM: 15000}, init=1)
    found = fit([whole], wanted, backend)
    assert isinstance(found, Placement)
    given = found.containers["NVIDIA"]
    assert [str(devices[0].slot) for devices in given] == ["[0-0]", "[1-0]"]
    held = [Held("u", "n/p", devices, init=n == 0) for n, devices in enumerate(given)]
    shared = cards_with([whole], held)
    assert why(fit(shared, pod({GPU: 1, MEM: 100}), backend)) == [Obstacle.VENDOR_RULE]
    other = whole.with_tenant(Tenant("n/x", 5120, 14, "0-3"))
    assert why(fit([other], wanted, backend)) == [Obstacle.VENDOR_RULE]


# --- requests and admission -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "section", "wanted"),
    [
        ({GPU: 1}, {}, (1, 0, 100, 0)),
        ({GPU: 2, MEM: 3000, CORES: 30}, {}, (2, 3000, 100, 30)),
        ({GPU: 1, PERCENT: 50}, {}, (1, 0, 50, 0)),
        ({GPU: 1, MEM: 3}, {"memoryFactor": 1024}, (1, 3072, 100, 0)),
        ({GPU: 1}, {"defaultMemory": 5000, "defaultCores": 20}, (1, 5000, 100, 20)),
    ],
)
def test_requests_are_read(
    limits: dict[str, object], section: dict[str, Any], wanted: tuple[int, ...]
) -> None:
    demand = nvidia(**section).demand(pod(limits).containers[0], PodSpec())
    assert (demand.count, demand.memory_mib, demand.memory_percent, demand.cores_percent) == wanted


def manifest(
    limits: dict[str, object], requests: dict[str, object] | None = None
) -> dict[str, Any]:
    return {
        "metadata": {"name": "p"},
        "spec": {
            "containers": [
                {
                    "name": "c",
                    "resources": {
                        "limits": {k: str(v) for k, v in limits.items()},
                        "requests": {k: str(v) for k, v in (requests or {}).items()},
                    },
                }
            ]
        },
    }


@pytest.mark.parametrize(
    ("limits", "requests", "wanted"),
    [
        ({GPU: 1}, {}, {GPU: "1", CORES: "100"}),
        ({GPU: 1, PERCENT: 100}, {}, {GPU: "1", PERCENT: "100", CORES: "100"}),
        ({GPU: 1}, {PERCENT: 100}, {GPU: "1", CORES: "100"}),
        ({GPU: 1, PERCENT: 50}, {}, {GPU: "1", PERCENT: "50"}),
        ({GPU: 1, CORES: 70}, {}, {GPU: "1", CORES: "70"}),
        ({GPU: 1}, {CORES: 55}, {GPU: "1"}),
        ({GPU: 1, MEM: 3000}, {}, {GPU: "1", MEM: "3000"}),
        ({MEM: 3000}, {}, {MEM: "3000", GPU: "1"}),
        ({CORES: 30}, {}, {CORES: "30", GPU: "1"}),
        ({}, {}, {}),
    ],
)
def test_admission_fills_in_what_is_meant(
    limits: dict[str, object], requests: dict[str, object], wanted: dict[str, str]
) -> None:
    stored, _ = admitted(manifest(limits, requests), [nvidia()])
    assert stored["spec"]["containers"][0]["resources"]["limits"] == wanted


def test_who_asks_for_nothing_sees_nothing_where_the_operator_says_so() -> None:
    stored, words = admitted(manifest({}), [nvidia(overwriteEnv=True)])
    assert words == frozenset()
    assert stored["spec"]["containers"][0]["env"] == [
        {"name": "NVIDIA_VISIBLE_DEVICES", "value": "none"}
    ]


def test_priority_policy_and_runtime_class_reach_the_pod() -> None:
    backend = nvidia(gpuCorePolicy="force", runtimeClassName="nvidia")
    stored, words = admitted(manifest({GPU: 1, PRIORITY: 0}), [backend])
    assert words == {"NVIDIA"}
    assert stored["spec"]["runtimeClassName"] == "nvidia"
    assert {e["name"]: e["value"] for e in stored["spec"]["containers"][0]["env"]} == {
        "CUDA_TASK_PRIORITY": "0",
        "GPU_CORE_UTILIZATION_POLICY": "force",
    }


@pytest.mark.parametrize(
    "limits",
    [{GPU: 1, PERCENT: 101}, {GPU: -1}, {GPU: 1, MEM: "1.5"}, {GPU: 1, MEM: "9Ei"}, {GPU: "x"}],
)
def test_absurd_requests_are_refused(limits: dict[str, object]) -> None:
    with pytest.raises(RefusedError, match=r"container c: nvidia\.com/"):
        admitted(manifest(limits), [nvidia()])


# --- whatever is asked ----------------------------------------------------------------------------

LIMITS = st.fixed_dictionaries(
    {GPU: st.integers(0, 4)},
    optional={MEM: st.integers(0, 9000), CORES: st.integers(0, 110), PERCENT: st.integers(0, 100)},
)


@given(
    st.lists(st.lists(LIMITS, min_size=1, max_size=4), max_size=12),
    st.integers(1, 4),
    st.integers(0, 2),
    st.sampled_from(Policy),
)
def test_nothing_is_ever_given_twice(
    pods: list[list[dict[str, int]]], number: int, init: int, policy: Policy
) -> None:
    backend, cards = nvidia(), tuple(card(i) for i in range(number))
    held: list[Held] = []
    for position, containers in enumerate(pods):
        wanted = pod(*containers, init=min(init, len(containers) - 1))
        wanted = PodSpec(
            "n", f"p{position}", f"u{position}", {}, wanted.containers, wanted.init_containers
        )
        full = cards_with(cards, held)
        found = fit(full, wanted, backend, policy)
        if isinstance(found, Unfit):
            assert found.reasons
            continue
        containers_given = found.containers.get("NVIDIA", ())
        every = (*wanted.init_containers, *wanted.containers)
        for container, devices in zip(every, containers_given, strict=False):
            assert len({d.uuid for d in devices}) == len(devices)
            if devices:
                held.append(Held(wanted.uid, wanted.name, devices, container.init))
    for found_card in cards_with(cards, held):
        assert found_card.used <= found_card.device.count
        assert found_card.used_memory_mib <= found_card.device.memory
        assert found_card.used_cores <= found_card.device.cores


@given(
    st.lists(st.tuples(st.integers(0, 8000), st.integers(0, 100)), min_size=1, max_size=4), LIMITS
)
def test_what_fits_somewhere_is_placed(used: list[tuple[int, int]], limits: dict[str, int]) -> None:
    cards = [card(i, [amount]) for i, amount in enumerate(used)]
    wanted = pod(limits)
    demand = nvidia().demand(wanted.containers[0], wanted)
    found = fit(cards, wanted)
    if demand is None:
        assert isinstance(found, Placement)
        return
    cores = min(demand.cores_percent, 100)
    serve = [
        c
        for c in cards
        if demand.memory_of(8000) <= c.free_memory_mib
        and cores <= c.free_cores
        and not (cores == 100 and c.used)
        and not (cores == 0 and c.free_cores == 0)
    ]
    assert isinstance(found, Placement) is (len(serve) >= demand.count)


@given(st.lists(LIMITS, min_size=1, max_size=4))
def test_a_decision_is_read_back_as_it_was_made(containers: list[dict[str, int]]) -> None:
    backend, wanted = nvidia(), pod(*containers)
    view = NodeView(NodeFacts("n"), {"NVIDIA": tuple(card(i) for i in range(4))})
    asked = asks(wanted, [backend])
    found = place(view, wanted, asked, {"NVIDIA": backend}, Policy.SPREAD, Policy.BINPACK)
    if isinstance(found, Unfit) or not found.containers:
        return
    told = decision(found, view, wanted, asked, {"NVIDIA": backend}, 10**18, init_listed=False)
    assert held_of(told, backend) == found.containers["NVIDIA"]
    assert told["hami.io/vgpu-time"] == "1000000000"


@given(LIMITS, LIMITS)
def test_admission_is_idempotent(limits: dict[str, int], requests: dict[str, int]) -> None:
    try:
        once, _ = admitted(manifest(dict(limits), dict(requests)), [nvidia()])
    except RefusedError:
        return
    assert admitted(once, [nvidia()])[0] == once
