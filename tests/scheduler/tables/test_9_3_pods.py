"""Table 9.3 of hami-scheduler.md: scores and fits of whole pods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from deviceplugin.api.hami import register
from deviceplugin.api.hami.keys import NVIDIA_REGISTER
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.placement.fit import Placement, place
from deviceplugin.placement.observe import NodeView
from deviceplugin.placement.request import asks
from deviceplugin.testing.placing import scheduling_backends
from deviceplugin.vendor.scheduling import (
    Card,
    ContainerSpec,
    NodeFacts,
    PodSpec,
    Policy,
    Tenant,
    Unfit,
)

(NVIDIA,) = scheduling_backends("nvidia")
KUNLUN = scheduling_backends("kunlunxin")[0]
GPU, MEMORY, CORES = "nvidia.com/gpu", "nvidia.com/gpumem", "nvidia.com/gpucores"


def card(index: int, used: int = 0, memory: int = 0, cores: int = 0, mib: int = 8000) -> Card:
    device = NodeDevice(
        uuid=f"d{index}",
        index=index,
        count=10,
        memory=mib,
        cores=100,
        type="NVIDIA-x",
        healthy=True,
    )
    return Card(device, (), used, memory, cores)


HALF = (5, 4000, 50)


def fit(
    backend: Any, cards: Sequence[Card], *containers: dict[str, int], policy: Policy = Policy.SPREAD
) -> Placement | Unfit:
    made = tuple(
        ContainerSpec(f"c{n}", {key: str(value) for key, value in asked.items()})
        for n, asked in enumerate(containers)
    )
    pod, word = PodSpec("n", "p", "u", {}, made), backend.keys.common_word
    view = NodeView(NodeFacts("n"), {word: tuple(cards)})
    return place(view, pod, asks(pod, [backend]), {word: backend}, policy, Policy.BINPACK)


def given(found: Placement | Unfit) -> list[list[str]]:
    assert isinstance(found, Placement), found
    (containers,) = found.containers.values()
    return [[device.uuid for device in devices] for devices in containers]


ASK: dict[str, int] = {GPU: 1, MEMORY: 1000, CORES: 10}


@pytest.mark.parametrize(
    ("containers", "result"),
    [
        pytest.param([ASK], [["d0"]], id="ask"),
        pytest.param([ASK, {}], [["d0"], []], id="ask, none"),
        pytest.param([{}, ASK], [[], ["d0"]], id="none, ask"),
        pytest.param([{}, ASK, {}], [[], ["d0"], []], id="none, ask, none"),
    ],
)
def test_containers_keep_their_places(containers: list[dict[str, int]], result: Any) -> None:
    assert given(fit(NVIDIA, [card(0)], *containers)) == result


@pytest.mark.parametrize(
    ("cards", "containers", "result"),
    [
        pytest.param([card(0, *HALF), card(1)], [ASK], [["d1"]], id="the unused one of two"),
        pytest.param([card(0), card(1, *HALF)], [ASK], [["d0"]], id="the unused one, listed first"),
        pytest.param([card(0, *HALF), card(1, *HALF)], [{**ASK, GPU: 2}], [["d1", "d0"]],
                     id="both halves, the last listed first"),
        pytest.param([card(0), card(1)], [{GPU: 1, MEMORY: 8000}, {GPU: 1, MEMORY: 1000}],
                     [["d1"], ["d0"]], id="8000 and 1000 MiB on two cards"),
        pytest.param([card(0)], [{**ASK, CORES: 30}, {**ASK, CORES: 40}], [["d0"], ["d0"]],
                     id="30 and 40 cores on one card"),
    ],
)  # fmt: skip
def test_which_cards_under_spread(
    cards: list[Card], containers: list[dict[str, int]], result: Any
) -> None:
    assert given(fit(NVIDIA, cards, *containers)) == result


def test_two_nodes_one_half_used() -> None:
    scores = []
    for cards in ([card(0, *HALF)], [card(1)]):
        found = fit(NVIDIA, cards, ASK)
        assert isinstance(found, Placement)
        scores.append(found.score)
    assert scores == pytest.approx([15, 0])


async def test_1000_mib_of_cards_of_50(bench: Any, make: Any) -> None:
    """Both nodes are in the list, each with its reason."""
    for name in ("a", "b"):
        devices = [NodeDevice(uuid=name, count=10, memory=50, cores=100, type="x", healthy=True)]
        bench.server.create("nodes", {
            "metadata": {"name": name, "annotations": {NVIDIA_REGISTER: register.encode(devices)}},
            "status": {"allocatable": {GPU: "10"}},
        })  # fmt: skip
    bench.server.create("pods", make.pod("p", memory=1000))
    _, address = await bench.scheduler()
    answer = await bench.filter(address, "p", ["a", "b"])
    assert answer["FailedNodes"] == dict.fromkeys("ab", "CardInsufficientMemory")


def xpus(*used: int) -> list[Card]:
    """Eight, of which some are used by somebody who takes neither memory nor cores."""
    devices = KUNLUN.devices(NodeFacts("n", capacity={"kunlunxin.com/xpu": 8}))  # type: ignore[attr-defined]
    return [
        Card(d).with_tenant(Tenant("n/x", 0, 0)) if d.index in used else Card(d) for d in devices
    ]


@pytest.mark.parametrize(
    ("used", "containers", "score", "indices"),
    [
        pytest.param((), 1, 0.0, [0], id="all free, one card"),
        # Upstream's 1006.25 compares the cards that were used with the new one alone.
        pytest.param((3, 4, 5, 6, 7), 1, 3006.25, [0], id="3 to 7 used, one card"),
        pytest.param((), 2, 1000.0, [0, 1], id="all free, two containers"),
        pytest.param((3, 4, 5, 6, 7), 2, 3006.25, [0, 1], id="3 to 7 used, two containers"),
    ],
)
def test_kunlunxins_nodes(
    used: tuple[int, ...], containers: int, score: float, indices: list[int]
) -> None:
    found = fit(KUNLUN, xpus(*used), *[{"kunlunxin.com/xpu": 1}] * containers)
    assert isinstance(found, Placement)
    assert found.score == pytest.approx(score)
    assert given(found) == [[f"n-kunlun-{index}"] for index in indices]
    assert {(d.memory, d.cores) for devices in found.containers["kunlun"] for d in devices} == {
        (98304, 100)
    }
