"""Table 9.4 of hami-scheduler.md: why one card does not serve, for NVIDIA with its numbers and for
every other vendor with the same table on its own cards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from deviceplugin import registry
from deviceplugin.api.hami.scores import PairScores
from deviceplugin.placement.fit import Placement, place
from deviceplugin.placement.observe import NodeView
from deviceplugin.placement.request import Ask
from deviceplugin.scheduler.cluster import Cluster
from deviceplugin.scheduler.filtering import Nowhere, choose, request
from deviceplugin.scheduler.nodes import node_record
from deviceplugin.testing.placing import scheduling_backends
from deviceplugin.vendor.scheduling import (
    Card,
    ContainerSpec,
    Demand,
    NodeDevice,
    NodeFacts,
    Obstacle,
    PodSpec,
    Policy,
    Rule,
    Tenant,
    Unfit,
)

MIG_ROW = {
    "models": ["Slices"],
    "allowedGeometries": [[{"name": "1g", "core": 25, "memory": 2048, "count": 1}]],
}


def card(
    used: int = 1,
    memory: int = 2048,
    cores: int = 1,
    *,
    of: tuple[int, int, int] = (4, 8192, 4),
    **more: Any,
) -> Card:
    """The base card of the table: one container on it, 2048 of 8192 MiB, 1 of 4 cores."""
    count, mib, percent = of
    values = {"uuid": "d0", "count": count, "memory": mib, "cores": percent, "type": "NVIDIA-x"}
    tenants = (Tenant("n/other", memory, cores),) * used
    return Card(NodeDevice(**{**values, "healthy": True, **more}), tenants, used, memory, cores)


def fit(
    backend: Any,
    cards: Sequence[Card],
    demand: Demand,
    annotations: Mapping[str, str] | None = None,
) -> Placement | Unfit:
    word = backend.keys.common_word
    asks = [Ask(ContainerSpec("c"), {demand.word: demand})]
    pod = PodSpec("n", "p", "u", annotations or {})
    view = NodeView(NodeFacts("n"), {word: tuple(cards)})
    backends = {word: backend, demand.word: backend}
    return place(view, pod, asks, backends, Policy.SPREAD, Policy.BINPACK)


def counted(found: Placement | Unfit) -> dict[str, int]:
    """Reasons as upstream counts them; empty where it fits."""
    if isinstance(found, Placement):
        return {}
    return dict(Counter(str(reason.obstacle) for reason in found.reasons))


def nvidia(count: int = 1, memory: int = 0, percent: int | None = 100, cores: int = 0) -> Demand:
    return Demand("NVIDIA", count, memory, percent, cores)


USUAL = nvidia(1, 1024, None, 1)
MIG = {"mode": "mig", "type": "NVIDIA-Slices", "of": (4, 8192, 100)}


@pytest.mark.parametrize(
    ("cards", "demand", "annotations", "reasons"),
    [
        pytest.param([card()], USUAL, {}, {}, id="1024 MiB and a core"),
        pytest.param([card()], replace(USUAL, word="test"), {}, {"NodeInsufficientDevice": 1},
                     id="another type: a word sees its own cards only"),
        pytest.param([card(5)], USUAL, {}, {"CardTimeSlicingExhausted": 1}, id="5 of 4 containers"),
        pytest.param([card()], nvidia(1, 1024, None, 200), {}, {"CardInsufficientCore": 1},
                     id="200 cores are 100"),
        pytest.param([card(1, 8000, 1, of=(4, 8000, 4))], nvidia(), {},
                     {"CardInsufficientMemory": 1}, id="100 % of what is full"),
        pytest.param([card(1, 2048, 0, of=(4, 8192, 100))], nvidia(1, 1024, None, 100), {},
                     {"ExclusiveDeviceAllocateConflict": 1}, id="100 cores of a used card"),
        pytest.param([card(1, 2048, 1, of=(4, 8192, 1))], nvidia(1, 1024, None, 0), {},
                     {"CardComputeUnitsExhausted": 1}, id="no core of a card without any"),
        # Upstream counts the card under CardNotFoundCustomFilterRule as well.
        pytest.param([card(0, 0, 0, **MIG)], nvidia(2, 1024, None, 0), {},
                     {"AllocatedCardsInsufficientRequest": 1}, id="two of one free partition"),
        pytest.param([card()], USUAL, {"nvidia.com/use-gpuuuid": "another"},
                     {"CardUuidMismatch": 1}, id="another uuid"),
        # Upstream counts NumaNotFit 1 and AllocatedCardsInsufficientRequest 1.
        pytest.param([card(), card(uuid="d1", numa=1)], replace(nvidia(2, 1024, None, 1), same_numa=True),
                     {}, {"NumaNotFit": 2}, id="two cards on different NUMA nodes"),
    ],
)  # fmt: skip
def test_nvidia(
    cards: list[Card], demand: Demand, annotations: dict[str, str], reasons: dict[str, int]
) -> None:
    (backend,) = scheduling_backends("nvidia", {"knownMigGeometries": [MIG_ROW]})
    assert counted(fit(backend, cards, demand, annotations)) == reasons


def test_ten_cards_are_counted_by_their_reasons() -> None:
    (backend,) = scheduling_backends("nvidia")
    avoided = [card(uuid=f"avoided{n}") for n in range(3)]
    shared = [card(4, uuid=f"shared{n}") for n in range(4)]
    full = [card(1, 8000, uuid=f"full{n}") for n in range(2)]
    busy = [card(1, 0, 4, uuid="busy")]
    told = {"nvidia.com/nouse-gpuuuid": ",".join(c.uuid for c in avoided)}
    found = fit(backend, [*avoided, *shared, *full, *busy], USUAL, told)
    assert counted(found) == {
        "CardUuidMismatch": 3,
        "CardTimeSlicingExhausted": 4,
        "CardInsufficientMemory": 2,
        "CardInsufficientCore": 1,
    }


# --- every other vendor ------------------------------------------------------------------------------

PLAIN = {
    backend.keys.common_word: backend
    for name, vendor in registry.load().vendors.items()
    if name != "mock"
    for backend in registry.load_scheduling(vendor, {})
    # Counted whole, or by wings: tables of their own (9.8).
    if backend.keys.common_word not in ("kunlun", "XPU", "Metax-GPU", "GCU")
}


def theirs(word: str, index: int = 0, used: tuple[int, int, int] = (0, 0, 0), **more: Any) -> Card:
    """Two cards of 128 MiB and 100 cores, ten shares of each."""
    count, memory, cores = used
    values = {"uuid": f"dev-{index}", "index": index, "count": 10, "memory": 128, "cores": 100}
    device = NodeDevice(**{**values, "type": f"{word}-K100_AI", "healthy": True, **more})
    return Card(device, (Tenant("n/other", memory, cores),) * count, count, memory, cores)


ROWS = [
    ("1 of two: the last", (1, 64, None, 10), {}, {}),
    ("100 MiB of 128 where 50 are used", (1, 100, None, 0), {"used": (1, 50, 0)}, "CardInsufficientMemory"),
    ("50 cores where 80 are used", (1, 16, None, 50), {"used": (1, 1, 80)}, "CardInsufficientCore"),
    ("all shares are taken", (1, 16, None, 10), {"used": (10, 10, 10)}, "CardTimeSlicingExhausted"),
    ("100 cores of a used card", (1, 16, None, 100), {"used": (1, 1, 0)}, "ExclusiveDeviceAllocateConflict"),
    ("no cores where none are left", (1, 16, None, 0), {"used": (1, 1, 100)}, "CardComputeUnitsExhausted"),
    ("120 cores are 100", (1, 16, None, 120), {}, {}),
    ("10 % fits", (1, 0, 10, 10), {}, {}),
    ("not healthy", (1, 16, None, 10), {"healthy": False}, "CardNotHealth"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
@pytest.mark.parametrize("word", PLAIN)
def test_every_vendor(word: str, row: tuple[str, Any, dict[str, Any], Any]) -> None:
    _, (count, memory, percent, cores), given, reason = row
    backend = PLAIN[word]
    demand = Demand(word, count, memory, percent, cores)
    cards = [theirs(word, index, **given) for index in range(2)]
    found = fit(backend, cards, demand)
    if reason:
        assert counted(found) == {reason: 2}
        return
    assert isinstance(found, Placement), found
    ((device,),) = found.containers[word]
    assert device.uuid == "dev-1"
    assert device.cores == min(cores, 100)


@pytest.mark.parametrize("word", [w for w, b in PLAIN.items() if b.keys.use_uuid])
def test_every_vendors_selectors(word: str) -> None:
    keys = PLAIN[word].keys
    cards = [theirs(word, index) for index in range(2)]
    for told, uuid in (
        ({keys.use_uuid: "dev-0"}, "dev-0"),
        ({keys.avoid_uuid: "dev-1"}, "dev-0"),
        ({keys.use_uuid: "dev-9"}, None),
    ):
        found = fit(PLAIN[word], cards, Demand(word, 1, 16, None, 10), told)  # type: ignore[arg-type]
        if uuid is None:
            assert counted(found) == {"CardUuidMismatch": 2}
        else:
            assert isinstance(found, Placement)
            assert found.containers[word][0][0].uuid == uuid


# --- the node as a whole -----------------------------------------------------------------------------


def test_two_cards_of_a_node_that_has_one(make: Any) -> None:
    backends = {b.keys.common_word: b for b in scheduling_backends("nvidia")}
    cluster = Cluster(backends)
    cluster.set_node(node_record(make.node("a", cards=1)))
    limits = {"nvidia.com/gpu": "2", "nvidia.com/gpumem": "1"}
    pod = PodSpec("n", "p", "u", {}, (ContainerSpec("c", limits),))
    found = choose(cluster, request(cluster, pod, Policy.BINPACK, Policy.SPREAD), ["a"])
    assert isinstance(found, Nowhere)
    assert found.reasons["a"].obstacle is Obstacle.TOO_FEW_CARDS


@pytest.mark.parametrize(
    ("count", "pairs", "default", "chosen"),
    [
        pytest.param(3, {("a", "f"): 100, ("c", "f"): 100}, 1, {"a", "c", "f"}, id="the three that are best connected"),
        pytest.param(1, {(x, "f"): 1 for x in "abcde"}, 100, {"f"}, id="the one that the others miss least"),
        pytest.param(2, {}, 0, None, id="no scores at all: cards are still taken"),
    ],
)  # fmt: skip
def test_topology(count: int, pairs: Any, default: int, chosen: set[str] | None) -> None:
    def score(one: str, other: str) -> int:
        found: int = pairs.get((one, other), pairs.get((other, one), default))
        return found

    cards = [
        card(
            0, 0, 0, uuid=uuid, index=index,
            pair_scores=PairScores(uuid, {o: score(uuid, o) for o in "abcdef" if o != uuid}),
        )
        for index, uuid in enumerate("abcdef")
    ]  # fmt: skip
    (backend,) = scheduling_backends("nvidia")
    demand = nvidia(count, 16, None, 0)
    view = NodeView(NodeFacts("n"), {"NVIDIA": tuple(cards)})
    asks = [Ask(ContainerSpec("c"), {"NVIDIA": demand})]
    found = place(view, PodSpec(), asks, {"NVIDIA": backend}, Policy.TOPOLOGY_AWARE, Policy.BINPACK)
    assert isinstance(found, Placement)
    uuids = {device.uuid for device in found.containers["NVIDIA"][0]}
    assert len(uuids) == count
    assert chosen in (None, uuids)


def test_who_asks_for_idle_cards_shares_with_nobody() -> None:
    (backend,) = scheduling_backends("enflame")
    demand = Demand("GCU", 1, rules=frozenset({Rule.IDLE}))
    assert counted(fit(backend, [theirs("GCU", used=(1, 0, 0))], demand)) == {
        "ExclusiveDeviceAllocateConflict": 1
    }
