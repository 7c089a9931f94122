"""Hints, their merging, and alignment (kubelet-deviceplugin.md 2.6; 3.5: 37, 38)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.testing.kubelet import topology
from deviceplugin.testing.kubelet.topology import Hint, Policy, by_affinity, hints, merge

ZERO, ONE, BOTH = frozenset({0}), frozenset({1}), frozenset({0, 1})
TWO_EACH = {"d1": (0,), "d2": (1,), "d3": (0,), "d4": (1,)}


def of(devices: dict[str, tuple[int, ...]], request: int, **given: object) -> list[Hint]:
    used = given.get("used", set())
    reusable = given.get("reusable", set())
    assert isinstance(used, set)
    assert isinstance(reusable, set)
    machine = given.get("machine", range(2))
    return hints(
        devices,
        set(devices) - used,
        reusable,
        request,
        machine,  # type: ignore[arg-type]
        by_device_nodes=bool(given.get("by_device_nodes", True)),
    )


def test_37_a_request_that_fits_one_node_prefers_single_nodes() -> None:
    assert of(TWO_EACH, 2) == [Hint(ZERO, True), Hint(ONE, True), Hint(BOTH, False)]


def test_37_a_request_too_large_for_one_node_gets_the_two_node_hint() -> None:
    assert of({"d1": (0,), "d2": (1,)}, 2) == [Hint(BOTH, True)]


def test_37_without_any_topology_there_is_no_hint() -> None:
    assert not topology.has_topology({"d1": (), "d2": ()})
    assert topology.has_topology({"d1": (), "d2": (1,)})


def test_devices_without_topology_do_not_count_in_a_mask() -> None:
    assert of({"d1": (), "d2": (1,)}, 1) == [Hint(ONE, True)]


def test_what_is_in_use_does_not_lower_the_wanted_size() -> None:
    assert of(TWO_EACH, 2, used={"d1", "d2"}) == [Hint(BOTH, False)]


def test_reusable_devices_must_be_inside_the_mask() -> None:
    found = of(TWO_EACH, 2, used={"d1"}, reusable={"d1"})
    assert [hint.mask for hint in found] == [ZERO, BOTH]


def test_masks_range_over_nodes_with_devices_or_over_all_by_version() -> None:
    devices = {"d1": (1,), "d2": (3,)}
    narrow = of(devices, 1, machine=range(4))
    wide = of(devices, 1, machine=range(4), by_device_nodes=False)
    assert {hint.mask for hint in narrow} == {ONE, frozenset({3}), frozenset({1, 3})}
    assert len(wide) == 12
    assert {hint.mask for hint in wide if hint.preferred} == {ONE, frozenset({3})}


def test_nodes_that_the_machine_lacks_are_dropped() -> None:
    assert of({"d1": (7,), "d2": (0,)}, 1) == [Hint(ZERO, True)]
    assert of({"d1": (7,)}, 1) == []


@pytest.mark.parametrize(
    ("policy", "offers", "mask", "admitted"),
    [
        ("none", [[]], None, True),
        ("best-effort", [None], BOTH, True),
        ("best-effort", [[]], BOTH, True),
        ("restricted", [[]], BOTH, False),
        ("single-numa-node", [None], None, True),
        ("single-numa-node", [[]], None, False),
        ("restricted", [[Hint(BOTH, True)]], BOTH, True),
        ("single-numa-node", [[Hint(BOTH, True)]], None, False),
        ("best-effort", [[Hint(BOTH, False)]], BOTH, True),
        ("restricted", [[Hint(BOTH, False)]], BOTH, False),
        ("single-numa-node", [[Hint(ONE, True), Hint(BOTH, False)]], ONE, True),
        ("restricted", [[Hint(ZERO, True)], [Hint(ONE, True)]], BOTH, False),
        ("restricted", [[Hint(ZERO, True), Hint(ONE, True)], [Hint(ONE, True)]], ONE, True),
        ("restricted", [[Hint(ONE, True), Hint(ZERO, True)]], ZERO, True),
        (
            "best-effort",
            [[Hint(ZERO, True), Hint(BOTH, False)], [Hint(BOTH, False)]],
            BOTH,
            True,
        ),
    ],
)
def test_policies_admit_by_the_best_common_hint(
    policy: Policy, offers: list[list[Hint] | None], mask: topology.Mask | None, admitted: bool
) -> None:
    found, verdict = merge(policy, offers, range(2))
    assert (found.mask, verdict) == (mask, admitted)


def test_without_a_preferred_hint_the_size_comes_close_to_what_is_needed() -> None:
    three = frozenset({0, 1, 2})
    offers = [
        [Hint(ZERO, False), Hint(BOTH, False), Hint(three, False)],
        [Hint(BOTH, False), Hint(three, False)],
    ]
    found, _ = merge("best-effort", offers, range(3))
    assert found.mask == BOTH


masks = st.frozensets(st.integers(0, 3), min_size=1)
offers = st.lists(
    st.none() | st.lists(st.builds(Hint, masks, st.booleans()), max_size=4), max_size=3
)


@given(offers)
def test_stricter_policies_admit_no_more(given_offers: list[list[Hint] | None]) -> None:
    verdicts = [
        merge(policy, given_offers, range(4))[1]
        for policy in ("single-numa-node", "restricted", "best-effort", "none")
    ]
    assert verdicts == sorted(verdicts)


@given(offers, st.randoms())
def test_the_order_of_hints_and_resources_decides_nothing(
    given_offers: list[list[Hint] | None], shuffler: random.Random
) -> None:
    shuffled = [None if o is None else shuffler.sample(o, len(o)) for o in given_offers]
    shuffler.shuffle(shuffled)
    for policy in ("single-numa-node", "restricted", "best-effort"):
        assert merge(policy, given_offers, range(4)) == merge(policy, shuffled, range(4))


SPREAD = {"dev1": (1,), "dev2": (1, 2), "dev3": (2,), "dev4": (2,), "dev5": ()}


@pytest.mark.parametrize(
    ("available", "aligned", "unaligned", "without"),
    [
        ({"dev1", "dev2"}, {"dev2"}, {"dev1"}, set()),
        ({"dev1", "dev2", "dev3", "dev4"}, {"dev2", "dev3", "dev4"}, {"dev1"}, set()),
        ({"dev1", "dev5"}, set(), {"dev1"}, {"dev5"}),
    ],
)
def test_38_devices_are_split_by_affinity(
    available: set[str], aligned: set[str], unaligned: set[str], without: set[str]
) -> None:
    assert by_affinity(available, SPREAD, frozenset({2})) == (aligned, unaligned, without)


def test_38_without_a_mask_or_a_topology_nothing_is_aligned() -> None:
    assert by_affinity({"dev1"}, SPREAD, None) == (set(), set(), {"dev1"})
    assert by_affinity({"x"}, {"x": ()}, frozenset({0})) == (set(), set(), {"x"})
