"""Table 9.1 of hami-scheduler.md: scores of cards and nodes. A card's score is ours, by the rows of
docs/compatibility.md; upstream's number stands beside it.
"""

from __future__ import annotations

from typing import Any

import pytest

from deviceplugin.placement.rank import card_score, node_score, ranked
from deviceplugin.testing.placing import scheduling_backends
from deviceplugin.vendor.scheduling import (
    Card,
    ContainerDevice,
    Demand,
    NodeDevice,
    NodeFacts,
    PodSpec,
    Policy,
)


def card(
    used: int = 0,
    memory: int = 0,
    cores: int = 0,
    of: tuple[int, int, int] = (10, 8000, 100),
    **more: Any,
) -> Card:
    """`of`: shares, MiB and percent that it has."""
    count, mib, percent = of
    values = {"uuid": "d", "count": count, "memory": mib, "cores": percent, "type": "x"}
    return Card(NodeDevice(**{**values, "healthy": True, **more}), (), used, memory, cores)


CARD = card(2, 2048, 1, of=(10, 8192, 4))


@pytest.mark.parametrize(
    ("demand", "score", "_theirs"),
    [
        # Seven before it. Ours counts the slot that a demand takes, one of each card.
        pytest.param(Demand("x", 1, 0, None, 0), 8.0, 7.0, id="nothing but a slot"),
        # Of two demands of different vendors each counts on its own cards.
        pytest.param(Demand("x", 1, 1024, None, 1), 11.75, 18.75, id="1024 MiB and a core, beside another vendor's"),
        pytest.param(Demand("x", 2, 0, 50, 2), 18.0, 18.75, id="50 % is half of it, and one slot"),
        pytest.param(Demand("x", 1, 1024, 30, 1), 11.75, 20.24414, id="an amount wins over a percentage, as in the fit"),
        pytest.param(Demand("x", 2, 200, None, 3), 15.74414, 20.24414, id="200 MiB and three cores"),
        pytest.param(Demand("x", 2, 0, 30, 3), 18.49927, 20.0, id="30 % is three tenths of it"),
    ],
)  # fmt: skip
def test_a_cards_score(demand: Demand, score: float, _theirs: float) -> None:
    assert card_score(CARD, demand) == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize(
    ("cards", "score"),
    [
        pytest.param(
            [card(50, 100, 100, of=(100, 100, 100)), card(75, 200, 200, of=(150, 200, 200))], 25,
            id="two that are full but for half of their shares",
        ),
        pytest.param([card()], 0, id="empty"),
        pytest.param([card(5, 4000, 50)], 15, id="half of everything"),
        pytest.param([card(5, 4000, 50), card()], 7.5, id="one of two is half full"),
        pytest.param([card(5, 4000, 50), card(5, 4000, 50)], 15, id="both are half full"),
        pytest.param([], 0, id="no card"),
        pytest.param([card(of=(0, 0, 0))], 0, id="cards that have nothing"),
    ],
)  # fmt: skip
def test_a_nodes_score_is_what_is_used_of_all_its_cards(cards: list[Card], score: float) -> None:
    assert node_score(cards) == pytest.approx(score)


@pytest.mark.parametrize(
    ("annotations", "score"),
    [
        pytest.param({"metax-tech.com/gpu.topology.losses": '{"1":123,"2":321}'}, 1679, id="2000 - 321"),
        pytest.param({}, 0, id="nothing is told"),
    ],
)  # fmt: skip
def test_metax_has_an_opinion_of_its_own(annotations: dict[str, str], score: float) -> None:
    whole = scheduling_backends("metax")[0]
    devices = [tuple(ContainerDevice(f"{i}", "Metax-GPU", 1, 100) for i in range(2)), ()]
    facts = NodeFacts("n", annotations)
    assert whole.score(facts, (), devices, PodSpec(), Policy.BINPACK) == score  # type: ignore[attr-defined]


FULL, EMPTY = card(5, 4000, 50, uuid="full"), card(uuid="empty")


@pytest.mark.parametrize(
    ("cards", "policy", "first"),
    [
        pytest.param([FULL, EMPTY], Policy.BINPACK, "full", id="binpack, one NUMA node"),
        pytest.param([FULL, EMPTY], Policy.SPREAD, "empty", id="spread, one NUMA node"),
        # Of equals the lower NUMA node is first under binpack, the higher under spread.
        pytest.param([card(uuid="low"), card(uuid="high", numa=1)], Policy.BINPACK, "low",
                     id="binpack, two NUMA nodes"),
        pytest.param([card(uuid="low"), card(uuid="high", numa=1)], Policy.SPREAD, "high",
                     id="spread, two NUMA nodes"),
        # Upstream's NUMA node decides before the policy; ours breaks ties.
        pytest.param([card(5, 4000, 50, uuid="full", numa=1), EMPTY], Policy.BINPACK, "full",
                     id="binpack before the NUMA node"),
        pytest.param([FULL, card(uuid="empty", numa=0)], Policy.SPREAD, "empty",
                     id="spread before the NUMA node"),
    ],
)  # fmt: skip
def test_the_order_of_cards(cards: list[Card], policy: Policy, first: str) -> None:
    for order in (cards, cards[::-1]):
        assert ranked(order, Demand("x", 1, 100), policy)[0].uuid == first
