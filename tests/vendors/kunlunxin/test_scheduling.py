"""Kunlunxin's rules, with the numbers of metax-iluvatar-kunlunxin-hygon.md 3 and 7.1."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deviceplugin.placement.fit import Placement, place
from deviceplugin.placement.observe import NodeView
from deviceplugin.placement.request import asks
from deviceplugin.vendor.scheduling import (
    Card,
    ContainerSpec,
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
from deviceplugin.vendors.kunlunxin.scheduling import (
    CARD_MIB,
    SIZES,
    Slices,
    WholeCards,
    backends,
    slice_of,
)
from deviceplugin.vendors.kunlunxin.topology import COUNTS, bubbles, connected, most_mended, select

WHOLE, SLICED = backends(SchedulingSettings())
assert isinstance(WHOLE, WholeCards)
assert isinstance(SLICED, Slices)
QUARTER, HALF = SIZES[0], SIZES[1]


def pod(resource: str, count: object, memory: object = None, **annotations: str) -> PodSpec:
    limits = {resource: str(count)}
    if memory is not None:
        limits["kunlunxin.com/vxpu-memory"] = str(memory)
    return PodSpec("n", "p", "u", annotations, (ContainerSpec("c", limits, limits),))


def sliced(used: dict[int, tuple[int, int]], number: int = 8) -> NodeView:
    """Cards with so many slices of such a size in use."""
    cards = []
    for i in range(number):
        device = NodeDevice(
            uuid=f"XPU-{i}", index=i, count=4, memory=CARD_MIB, cores=100, type="XPU", healthy=True
        )
        card = Card(device)
        slices, size = used.get(i, (0, 0))
        for n in range(slices):
            card = card.with_tenant(Tenant(f"n/{n}", size, size * 100 // CARD_MIB))
        cards.append(card)
    return NodeView(NodeFacts("n"), {"XPU": tuple(cards)})


def placed(backend: Any, view: NodeView, wanted: PodSpec) -> list[int] | Unfit:
    word = backend.keys.common_word
    found = place(
        view, wanted, asks(wanted, [backend]), {word: backend}, Policy.SPREAD, Policy.BINPACK
    )
    if isinstance(found, Unfit):
        return found
    index = {card.uuid: card.device.index for card in view.cards[word]}
    return [index[device.uuid] for device in found.containers[word][0]]


@pytest.mark.parametrize(
    ("used", "count", "wanted"),
    [
        (set(), 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({5}, 8, []),
        ({5}, 2, [4, 6]),
        ({5}, 1, [4]),
        ({6, 7}, 1, [4]),
        ({0, 1, 2, 4, 5, 6}, 2, [3, 7]),
        ({2, 3, 7}, 4, [0, 1, 4, 5]),
        ({3, 6}, 4, [0, 1, 4, 5]),
        ({2, 6}, 4, [0, 1, 4, 5]),
        (set(), 1, [0]),
        ({4, 5, 6, 7}, 4, [0, 1, 2, 3]),
        (set(), 3, []),
    ],
)
def test_cards_are_chosen_by_the_wings(used: set[int], count: int, wanted: list[int]) -> None:
    assert list(select(set(range(8)) - used, count)) == wanted


@given(st.sets(st.integers(0, 7)), st.sampled_from(COUNTS))
def test_a_choice_is_made_of_free_cards_and_is_wired_together(free: set[int], count: int) -> None:
    found = select(free, count)
    assert set(found) <= free
    assert len(found) in (0, count)
    for card in found:
        if len(found) in (2, 4):
            assert any(connected(card, other) for other in found if other != card)


@given(st.sets(st.integers(0, 7)), st.sampled_from(COUNTS))
def test_a_wing_with_enough_cards_is_always_used(free: set[int], count: int) -> None:
    wings = [len([c for c in free if c // 4 == side]) for side in (0, 1)]
    if count <= 4 and max(wings) >= count:
        found = select(free, count)
        assert len({card // 4 for card in found}) == 1


@given(st.sets(st.integers(0, 15)), st.sets(st.integers(0, 15), min_size=1))
def test_no_choice_mends_more_than_is_said(used: set[int], taken: set[int]) -> None:
    count = len(taken - used)
    assert bubbles(used) - bubbles(used | taken) <= most_mended(count, count)


@pytest.mark.parametrize(
    ("least", "most", "mended"), [(1, 1, 1), (2, 2, 2), (4, 4, 3), (4, 8, 4), (8, 8, 3), (9, 9, 3)]
)
def test_some_choice_mends_as_much_as_is_said(least: int, most: int, mended: int) -> None:
    assert most_mended(least, most) == mended


@given(
    st.sampled_from((8, 16)),
    st.sets(st.integers(0, 15)),
    st.lists(st.tuples(st.booleans(), st.sampled_from(COUNTS)), min_size=1, max_size=3),
)
@example(8, {0, 4}, [(True, 4), (False, 4)])
@example(16, {0, 4}, [(False, 8)])
def test_no_node_is_better_than_is_said(
    cards: int, used: set[int], wanted: list[tuple[bool, int]]
) -> None:
    resource = WHOLE.resources.count
    containers = tuple(
        ContainerSpec(f"c{n}", {resource: str(count)}, init=init)
        for n, (init, count) in enumerate(wanted)
    )
    these = PodSpec(
        "n",
        "p",
        "u",
        containers=tuple(each for each in containers if not each.init),
        init_containers=tuple(each for each in containers if each.init),
    )
    devices = WHOLE.devices(NodeFacts("n", capacity={resource: cards}))
    there = Tenant("n/other", CARD_MIB, 100)
    view = NodeView(
        NodeFacts("n"),
        {
            WHOLE.keys.common_word: tuple(
                Card(device).with_tenant(there) if device.index in used else Card(device)
                for device in devices
            )
        },
    )
    word, wishes = WHOLE.keys.common_word, asks(these, [WHOLE])
    found = place(view, these, wishes, {word: WHOLE}, Policy.SPREAD, Policy.BINPACK)
    if isinstance(found, Placement):
        score = WHOLE.score(
            view.facts, view.cards[word], found.containers[word], these, Policy.BINPACK
        )
        demands = [ask.demands[word] for ask in wishes]
        assert score <= WHOLE.most(demands, these, Policy.BINPACK)


@pytest.mark.parametrize(
    ("asked", "size"),
    [(0, 24576), (24576, 24576), (24577, 49152), (49152, 49152), (49153, 98304), (98304, 98304)],
)
def test_memory_becomes_one_of_three_slices(asked: int, size: int) -> None:
    assert slice_of(asked) == size
    demand = SLICED.demand(pod("kunlunxin.com/vxpu", 1, asked).containers[0], PodSpec())
    assert demand is not None
    assert (demand.memory_mib, demand.cores_percent) == (size, size * 100 // CARD_MIB)


@pytest.mark.parametrize(
    ("used", "memory", "count", "wanted"),
    [
        ({1: (1, QUARTER), 3: (2, QUARTER), 5: (1, HALF)}, QUARTER, 4, [0, 1, 2, 3]),
        ({1: (2, QUARTER), 3: (1, HALF), 5: (1, QUARTER)}, QUARTER, 4, [4, 5, 6, 7]),
        ({0: (1, QUARTER), 1: (1, QUARTER), 2: (1, HALF), 5: (1, QUARTER)}, QUARTER, 1, [0]),
        (
            {1: (2, QUARTER), 2: (1, QUARTER), 3: (1, HALF), 6: (1, QUARTER)},
            QUARTER,
            2,
            [0, 1],
        ),
    ],
)
def test_slices_of_one_size_share_a_card(
    used: dict[int, tuple[int, int]], memory: int, count: int, wanted: list[int]
) -> None:
    assert placed(SLICED, sliced(used), pod("kunlunxin.com/vxpu", count, memory)) == wanted


def test_a_card_with_slices_of_another_size_is_refused_for_that() -> None:
    found = placed(
        SLICED,
        sliced(dict.fromkeys(range(8), (1, HALF))),
        pod("kunlunxin.com/vxpu", 2, QUARTER),
    )
    assert isinstance(found, Unfit)
    assert {reason.obstacle for reason in found.reasons} == {Obstacle.VENDOR_RULE}
    assert "its slices have 49152 MiB, the pod asks for 24576" in found.reasons[0].detail


def test_a_third_half_does_not_fit_on_a_card() -> None:
    found = placed(SLICED, sliced({0: (2, HALF)}, 1), pod("kunlunxin.com/vxpu", 1, HALF))
    assert isinstance(found, Unfit)
    assert found.reasons[0].obstacle is Obstacle.MEMORY


@pytest.mark.parametrize(
    ("memory", "fits"), [(QUARTER, False), (HALF, True), (CARD_MIB, True), (None, True)]
)
def test_the_drivers_handles_limit_how_many_cards_are_quartered(
    memory: int | None, fits: bool
) -> None:
    found = placed(SLICED, sliced({}), pod("kunlunxin.com/vxpu", 8, memory))
    if fits:
        assert found == list(range(8))
    else:
        assert isinstance(found, Unfit)
        assert "32 handles" in found.reasons[0].detail


def test_six_cards_may_be_quartered_and_no_seventh() -> None:
    view = sliced(dict.fromkeys(range(4), (1, QUARTER)))
    assert placed(SLICED, view, pod("kunlunxin.com/vxpu", 2, QUARTER)) == [0, 1]
    six = sliced(dict.fromkeys(range(6), (4, QUARTER)))
    assert isinstance(placed(SLICED, six, pod("kunlunxin.com/vxpu", 1, QUARTER)), Unfit)


@pytest.mark.parametrize("backend", [WHOLE, SLICED])
@pytest.mark.parametrize("count", [3, 5, 6, 7, 9, 1000000])
def test_a_count_that_no_wiring_allows_is_refused_with_those_that_do(
    backend: Any, count: int
) -> None:
    wanted = pod(backend.resources.count, count)
    with pytest.raises(RefusedError):
        backend.admit(wanted.containers[0], wanted)


def test_more_memory_than_a_card_has_is_refused() -> None:
    wanted = pod("kunlunxin.com/vxpu", 1, CARD_MIB + 1)
    with pytest.raises(RefusedError, match="98304 MiB"):
        SLICED.admit(wanted.containers[0], wanted)


def test_admission_writes_the_slice_that_is_meant() -> None:
    wanted = pod("kunlunxin.com/vxpu", 2, 30000)
    admission = SLICED.admit(wanted.containers[0], wanted)
    assert admission.found
    assert admission.resources == {"kunlunxin.com/vxpu-memory": "49152"}
    assert SLICED.admit(ContainerSpec("c"), wanted).found is False


@pytest.mark.parametrize(
    ("backend", "key"),
    [
        (SLICED, "hami.io/use-xpu-uuid"),
        (SLICED, "baidu.com/use-gpuuuid"),
        (WHOLE, "baidu.com/use-gpuuuid"),
        (WHOLE, "hami.io/use-xpu-uuid"),
    ],
)
def test_both_selectors_count_for_both_sorts(backend: Any, key: str) -> None:
    if backend is SLICED:
        view, resource, name = sliced({}), "kunlunxin.com/vxpu", "XPU-6"
    else:
        view, resource, name = whole(), "kunlunxin.com/xpu", "n-kunlun-6"
    assert placed(backend, view, pod(resource, 1, **{key: f" {name} "})) == [6]
    avoid = key.replace("/use-", "/no-use-" if key.startswith("hami") else "/nouse-")
    others = pod(resource, 1, **{avoid: ",".join(c.uuid for c in view.cards[word(backend)][:7])})
    assert placed(backend, view, others) == [7]


def word(backend: Any) -> str:
    return str(backend.keys.common_word)


def whole(*used: int, number: int = 8) -> NodeView:
    facts = NodeFacts("n", {}, {}, {"kunlunxin.com/xpu": number})
    cards = [Card(device) for device in WHOLE.devices(facts)]
    for index in used:
        cards[index] = cards[index].with_tenant(Tenant("n/x", CARD_MIB, 100))
    return NodeView(facts, {"kunlun": tuple(cards)})


def test_whole_cards_are_counted_off_the_capacity() -> None:
    cards = [card.device for card in whole().cards["kunlun"]]
    assert [card.uuid for card in cards] == [f"n-kunlun-{i}" for i in range(8)]
    assert [card.numa for card in cards] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert {(card.memory, card.cores) for card in cards} == {(98304, 100)}
    assert WHOLE.devices(NodeFacts("n")) == []


@pytest.mark.parametrize("number", range(1, 9))
def test_smaller_machines_are_served_too(number: int) -> None:
    found = placed(WHOLE, whole(number=number), pod("kunlunxin.com/xpu", 1))
    assert isinstance(found, list)
    assert found[0] < number


def test_a_used_card_is_nobody_elses() -> None:
    found = placed(WHOLE, whole(*range(8)), pod("kunlunxin.com/xpu", 1))
    assert isinstance(found, Unfit)
    assert {reason.obstacle for reason in found.reasons} == {Obstacle.EXCLUSIVE}


@pytest.mark.parametrize(("used", "number"), [((), 1), ((0, 1, 2, 3), 1), ((0,), 3), ((4,), 3)])
def test_bubbles_are_counted(used: tuple[int, ...], number: int) -> None:
    assert bubbles(used) == number


def test_bubbles_of_a_pair() -> None:
    assert bubbles((0, 1)) == 2


@pytest.mark.parametrize(
    ("before", "count", "score"),
    [
        ((0, 1, 2, 3), 4, 3000.0),
        ((), 1, 0.0),
        ((0,), 1, 3000.0),
        ((1, 2, 3, 4, 5, 6, 7), 1, 3000.0),
    ],
)
def test_a_node_whose_wings_get_whole_again_is_better(
    before: tuple[int, ...], count: int, score: float
) -> None:
    view = whole(*before)
    wanted = pod("kunlunxin.com/xpu", count)
    found = place(
        view, wanted, asks(wanted, [WHOLE]), {"kunlun": WHOLE}, Policy.SPREAD, Policy.BINPACK
    )
    assert isinstance(found, Placement)
    devices = found.containers["kunlun"]
    assert WHOLE.score(view.facts, view.cards["kunlun"], devices, wanted, Policy.BINPACK) == score


def test_the_pod_is_told_its_indices() -> None:
    view = whole(0, 1)
    wanted = pod("kunlunxin.com/xpu", 2)
    found = place(
        view, wanted, asks(wanted, [WHOLE]), {"kunlun": WHOLE}, Policy.SPREAD, Policy.BINPACK
    )
    assert isinstance(found, Placement)
    told = WHOLE.annotations(
        view.facts, view.cards["kunlun"], found.containers["kunlun"], wanted, 0
    )
    assert told == {"BAIDU_COM_DEVICE_IDX": "2,3"}
