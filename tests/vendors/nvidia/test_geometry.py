"""Which partition a slot means, and what a card needs to have it."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.hami.poddevices import MigSlot
from deviceplugin.api.hami_config import MigModels, MigProfile, parse_nvidia_section
from deviceplugin.vendors.nvidia import geometry
from deviceplugin.vendors.nvidia.geometry import (
    Holder,
    Match,
    Place,
    Placement,
    Standing,
    State,
    Work,
)


def profiles(*parts: tuple[str, int]) -> tuple[MigProfile, ...]:
    return tuple(MigProfile(name, 14, 5120, count) for name, count in parts)


def row(*models: str, geometries: Any = ((("1g.5gb", 1),),)) -> MigModels:
    return MigModels(models, tuple(profiles(*parts) for parts in geometries))


A100 = row(
    "A100-SXM4-40GB",
    "A100-40GB-PCIe",
    geometries=[
        [("1g.5gb", 7)],
        [("1g.5gb", 1), ("2g.10gb", 3)],
        [("3g.20gb", 2)],
        [("7g.40gb", 1)],
    ],
)


def places(size: int, *starts: int) -> tuple[Placement, ...]:
    return tuple(Placement(start, size) for start in starts)


POSSIBLE = {
    "1g.5gb": places(1, 0, 1, 2, 3, 4, 5, 6),
    "2g.10gb": places(2, 0, 2, 4),
    "3g.20gb": places(4, 0, 4),
    "7g.40gb": places(8, 0),
    "1g.5gb+me": places(1, 0, 1, 2, 3, 4, 5, 6),
}


def place(profile: str, start: int) -> Place:
    return Place(profile, Placement(start, POSSIBLE[profile][0].size))


def standing(profile: str, start: int, state: State = State.WHOLE, *pids: int) -> Standing:
    uuids = () if state is State.BARE else (f"MIG-{profile}-{start}",)
    return Standing(place(profile, start), 7 + start, state, uuids, pids)


def names(number: int) -> list[str]:
    return [profile.name for profile in geometry.flattened(A100.geometries[number])]


def starts(found: Any) -> list[tuple[str, int]]:
    return [(each.profile, each.placement.start) for each in found]


# --- the table ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "by"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("NVIDIA A100-40GB-PCIe", "A100-40GB-PCIe"),
        ("NVIDIA A30", "A30"),
        ("NVIDIA H100 80GB HBM3", None),
        ("NVIDIA H100 PCIe", None),
        ("", None),
    ],
)
def test_a_model_is_matched_by_substring(model: str, by: str | None) -> None:
    table = (row("A30"), A100, row("H100-PCIE-80GB", "H100-SXM5-80GB"))
    found = geometry.match(model, table)
    assert (found.by if found else None) == by
    assert found is None or found.row in table


def test_the_first_row_wins_and_a_better_one_that_comes_later_is_told() -> None:
    h20, h200 = row("H20", "H100 on GH200"), row("H200 NVL", "H200-SXM5")
    assert geometry.match("NVIDIA H200 NVL", (h20, h200)) == Match(h20, "H20", "H200 NVL")
    assert geometry.match("NVIDIA H200 NVL", (h200, h20)) == Match(h200, "H200 NVL")
    assert geometry.match("NVIDIA GB200", (row("B200"),)) == Match(row("B200"), "B200")


@pytest.mark.parametrize("text", ["", "1", "-", "1-", "-0", "a-0", "0-b", "1-0-2", "[1-0]", " 1-0"])
def test_what_is_no_slot_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="written geometry-position"):
        geometry.slot(text)


@given(st.integers(0, 9999), st.integers(0, 9999))
def test_a_slot_is_read_back(number: int, position: int) -> None:
    assert geometry.slot(f"{number}-{position}") == MigSlot(number, position)


@pytest.mark.parametrize(
    ("slot", "profile"),
    [
        ("0-0", "1g.5gb"),
        ("0-6", "1g.5gb"),
        ("1-0", "1g.5gb"),
        ("1-1", "2g.10gb"),
        ("1-3", "2g.10gb"),
        ("2-1", "3g.20gb"),
        ("3-0", "7g.40gb"),
    ],
)
def test_a_position_counts_in_the_flattened_list(slot: str, profile: str) -> None:
    found = geometry.partition(geometry.slot(slot), Match(A100, "A100-SXM4-40GB"))
    assert found.name == profile


@pytest.mark.parametrize(
    ("slot", "reason"),
    [
        ("4-0", "geometry 4 of A100-SXM4-40GB is not known on this node, which has 4"),
        ("0-7", "has 7 partitions and no position 7"),
        ("3-1", "has 1 partitions and no position 1"),
    ],
)
def test_a_slot_beyond_the_table_says_that_the_tables_differ(slot: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        geometry.partition(geometry.slot(slot), Match(A100, "A100-SXM4-40GB"))
    assert "scheduler and node the same nvidia.knownMigGeometries" in str(refused.value)


# The worked examples of schedulers (hami-scheduler.md 9.6): geometries, suffix, what it means.
@pytest.mark.parametrize(
    ("geometries", "slot", "profile"),
    [
        ([[("1g.5gb", 1)], [("1g.5gb", 1), ("2g.10gb", 1)]], "1-1", "2g.10gb"),
        ([[("1g.3gb", 1)], [("1g.5gb", 1), ("2g.10gb", 1)]], "1-1", "2g.10gb"),
        ([[("1g.5gb", 1), ("2g.10gb", 1)], [("3g.20gb", 1)]], "0-1", "2g.10gb"),
    ],
)
def test_the_suffixes_of_schedulers_are_understood(
    geometries: Any, slot: str, profile: str
) -> None:
    found = Match(row("X", geometries=geometries), "X")
    assert geometry.partition(geometry.slot(slot), found).name == profile


def test_where_two_readings_differ_the_geometry_is_refused_when_it_is_read() -> None:
    """A fresh plan would say ``0-1`` for the 2g.10gb at position 2 (hami-scheduler.md 9.6)."""
    parts = [
        {"name": "1g.5gb", "core": 50, "memory": 5120, "count": 2},
        {"name": "2g.10gb", "core": 100, "memory": 10240, "count": 1},
    ]
    table = [{"models": ["X"], "allowedGeometries": [parts]}]
    _, problems = parse_nvidia_section({"knownMigGeometries": table})
    assert [problem.rule for problem in problems] == [
        "profile index and flattened position name different instances"
    ]


@pytest.mark.parametrize(
    ("wanted", "there", "found"),
    [
        ("1g.5gb", ["1g.5gb", "1g.5gb+me"], "1g.5gb"),
        ("7g.79gb", ["1g.10gb", "7g.80gb"], "7g.80gb"),
        ("3g.47gb", ["3g.46gb", "3g.48gb"], ""),
        ("1g.5gb", ["1g.7gb", "1g.6gb+me", "2g.6gb"], ""),
        ("1g.10gb+me", ["1g.10gb", "1g.11gb+me"], "1g.11gb+me"),
        ("small", ["1g.5gb"], ""),
        ("1g.5gb", [], ""),
    ],
)
def test_only_the_rounding_of_memory_may_differ(wanted: str, there: list[str], found: str) -> None:
    assert geometry.known_as(wanted, there) == found


# --- layouts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "layout"),
    [
        (0, [("1g.5gb", start) for start in range(7)]),
        (1, [("1g.5gb", 6), ("2g.10gb", 0), ("2g.10gb", 2), ("2g.10gb", 4)]),
        (2, [("3g.20gb", 0), ("3g.20gb", 4)]),
        (3, [("7g.40gb", 0)]),
    ],
)
def test_every_geometry_has_one_layout_on_an_empty_card(
    number: int, layout: list[tuple[str, int]]
) -> None:
    todo = geometry.work(names(number), POSSIBLE, ())
    assert starts(todo.layout) == layout
    assert starts(todo.create) == layout
    assert (todo.destroy, todo.complete) == ((), ())


def test_a_card_that_has_the_geometry_needs_nothing() -> None:
    there = [standing("1g.5gb", 6), *(standing("2g.10gb", start) for start in (4, 0, 2))]
    todo = geometry.work(names(1), POSSIBLE, there)
    assert not todo
    assert starts(todo.layout)[1:] == [("2g.10gb", 0), ("2g.10gb", 2), ("2g.10gb", 4)]


def test_what_is_missing_is_made_beside_what_stands() -> None:
    there = [standing("1g.5gb", start) for start in (0, 2, 3, 5)]
    todo = geometry.work(names(0), POSSIBLE, there)
    assert starts(todo.create) == [("1g.5gb", 1), ("1g.5gb", 4), ("1g.5gb", 6)]
    assert starts(todo.layout) == [("1g.5gb", start) for start in range(7)]


def test_a_half_made_instance_is_completed() -> None:
    half = standing("3g.20gb", 4, State.BARE)
    todo = geometry.work(names(2), POSSIBLE, [half])
    assert todo == Work(
        (place("3g.20gb", 0), place("3g.20gb", 4)),
        complete=(half,),
        create=(place("3g.20gb", 0),),
    )


@pytest.mark.parametrize(
    "there",
    [
        [standing("3g.20gb", 0)],
        [standing("1g.5gb", 0), standing("2g.10gb", 2)],
        [standing("1g.5gb+me", 0)],
        [standing("1g.5gb", 0, State.DIVIDED)],
        [standing("7g.40gb", 0, State.BARE)],
    ],
)
def test_another_geometry_means_the_whole_card_anew(there: list[Standing]) -> None:
    todo = geometry.work(names(0), POSSIBLE, there)
    assert todo.destroy == tuple(there)
    assert todo.create == todo.layout


def test_an_instance_in_the_way_of_the_geometry_means_the_whole_card_anew() -> None:
    todo = geometry.work(names(1), POSSIBLE, [standing("1g.5gb", 2)])
    assert len(todo.destroy) == 1


def test_a_remembered_layout_keeps_positions_although_an_instance_went() -> None:
    pair = ["1g.5gb", "1g.5gb"]
    former = (place("1g.5gb", 3), place("1g.5gb", 5))
    left = standing("1g.5gb", 5)
    assert geometry.work(pair, POSSIBLE, [left], former).create == (place("1g.5gb", 3),)
    assert geometry.work(pair, POSSIBLE, [left]).layout == (place("1g.5gb", 0), left.place)


@pytest.mark.parametrize(
    "former",
    [(place("1g.5gb", 3), place("1g.5gb", 4)), (place("2g.10gb", 0),)],
)
def test_a_remembered_layout_that_the_card_contradicts_is_dropped(former: Any) -> None:
    todo = geometry.work(["1g.5gb", "1g.5gb"], POSSIBLE, [standing("1g.5gb", 6)], former)
    assert todo.destroy == ()
    assert place("1g.5gb", 6) in todo.layout


@pytest.mark.parametrize("wanted", [["1g.5gb"] * 8, ["3g.20gb", "7g.40gb"], ["9g.1gb"]])
def test_profiles_that_do_not_fit_side_by_side_are_refused(wanted: list[str]) -> None:
    with pytest.raises(ValueError, match=r"cannot hold .* side by side"):
        geometry.work(wanted, POSSIBLE, ())


STANDING = st.lists(
    st.sampled_from([place(name, p.start) for name, some in POSSIBLE.items() for p in some]),
    max_size=7,
    unique=True,
).map(
    lambda some: [
        each
        for position, each in enumerate(some)
        if not any(each.placement.overlaps(o.placement) for o in some[:position])
    ]
)


@given(number=st.integers(0, 3), there=STANDING, data=st.data())
def test_the_work_leads_to_the_geometry_and_never_moves_what_it_keeps(
    number: int, there: list[Place], data: st.DataObject
) -> None:
    states = data.draw(st.lists(st.sampled_from(State), min_size=len(there), max_size=len(there)))
    cards = [
        Standing(each, at, state)
        for at, (each, state) in enumerate(zip(there, states, strict=True))
    ]
    todo = geometry.work(names(number), POSSIBLE, cards)
    assert [each.profile for each in todo.layout] == names(number)
    assert not [
        pair
        for pair in combinations(todo.layout, 2)
        if pair[0].placement.overlaps(pair[1].placement)
    ]
    assert todo.destroy in ((), tuple(cards))
    kept = [] if todo.destroy else [each.place for each in cards]
    assert Counter([*kept, *todo.create]) == Counter(todo.layout)
    # From here on the answer stays, whichever instance goes meanwhile.
    gone = data.draw(st.sets(st.sampled_from(todo.layout)))
    left = [Standing(each, 0, State.WHOLE) for each in todo.layout if each not in gone]
    again = geometry.work(names(number), POSSIBLE, left, todo.layout)
    assert again.layout == todo.layout
    assert not again.destroy


# --- who is in the way -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slot", "reason"),
    [
        ("1-2", ""),
        ("1-1", "ns/pod/main holds this very partition, 1-1"),
        ("0-2", "ns/pod/main holds partition 0-2, which is of another geometry"),
        ("", "ns/pod/main holds it as a whole"),
        ("what", "ns/pod/main holds it as a whole"),
    ],
)
def test_a_slot_goes_only_with_others_of_its_geometry(slot: str, reason: str) -> None:
    assert geometry.rivalry(MigSlot(1, 1), [Holder(slot, "ns/pod/main")]) == reason


def test_a_card_that_is_held_or_used_is_not_partitioned_anew() -> None:
    there = [standing("3g.20gb", 0), standing("3g.20gb", 4, State.WHOLE, 41, 42)]
    todo = geometry.work(names(0), POSSIBLE, there)
    reason = geometry.refusal(todo, there, [Holder("0-1", "ns/pod/main")])
    assert "partition 0-1 is held by ns/pod/main" in reason
    assert "MIG-3g.20gb-4 (3g.20gb at slice 4) is used by process 41, 42" in reason
    assert "does not say who holds" in geometry.refusal(todo, there, None)


def test_an_idle_card_may_be_partitioned_anew() -> None:
    there = [standing("3g.20gb", 0)]
    assert geometry.refusal(geometry.work(names(0), POSSIBLE, there), there, []) == ""


@pytest.mark.parametrize("holders", [None, [Holder("0-1", "ns/pod/main")]])
def test_what_is_missing_is_made_beside_those_who_hold_the_rest(holders: Any) -> None:
    there = [standing("1g.5gb", 1, State.WHOLE, 41)]
    todo = geometry.work(names(0), POSSIBLE, there)
    assert todo.create
    assert geometry.refusal(todo, there, holders) == ""


def test_a_holder_whose_partition_stands_elsewhere_stops_everything() -> None:
    there = [standing("1g.5gb", 1)]
    todo = geometry.work(names(0), POSSIBLE, there)
    uuid = there[0].uuids[0]
    assert geometry.refusal(todo, there, [Holder("0-1", "o", uuid)]) == ""
    assert geometry.refusal(todo, there, [Holder("0-1", "o", "MIG-gone")]) == ""
    reason = geometry.refusal(todo, there, [Holder("0-2", "o", uuid)])
    assert "is not where partition 0-2 belongs: somebody else changed the GPU" in reason
    assert geometry.refusal(todo, there, [Holder("0-99", "o", uuid)])
