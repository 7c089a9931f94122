"""Who may still need what was made on the node, by what kubelet says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.kubelet.checkpoint import Entry
from deviceplugin.kubelet.podresources import Holding
from deviceplugin.tidying import ASKED_SECONDS, MISSING_SECONDS, Tidying, holders
from deviceplugin.vendor import Owner

Holder: TypeAlias = Mapping[str, str]
NAMES = {"a.b/c": (lambda ids: "a-" + min(ids), lambda ids: " ".join(sorted(ids)))}


def holding(pod: str, ids: frozenset[str], resource: str = "a.b/c") -> Holding:
    return Holding("default", pod, "c", resource, ids)


def holder(allocation: str, pod_uid: str = "", **more: str) -> dict[str, str]:
    found = {"namespace": "", "pod": "", "container": "", "devices": "", **more}
    return {"allocation": allocation, "pod_uid": pod_uid, **found}


def keys(held: list[Holder] | None) -> set[tuple[str, str]] | None:
    return None if held is None else {(h["allocation"], h["pod_uid"]) for h in held}


# --- who is there ---------------------------------------------------------------------------------


def test_a_holder_is_told_with_its_pod_its_allocation_and_its_devices() -> None:
    ids = frozenset({"x", "y"})
    entries = [Entry("uid-1", "c", "a.b/c", ids)]
    assert list(holders([holding("p", ids)], entries, NAMES)) == [
        holder("a-x", "uid-1", namespace="default", pod="p", container="c", devices="x y")
    ]


def test_without_a_checkpoint_the_pod_has_no_uid() -> None:
    (found,) = holders([holding("p", frozenset({"x"}))], [], NAMES)
    assert (found["pod"], found["pod_uid"]) == ("p", "")


def test_others_resources_are_nobodys_here() -> None:
    assert list(holders([holding("p", frozenset({"x"}), "other/r")], [], NAMES)) == []


def test_an_init_container_counts_for_as_long_as_its_pod_has_another_container() -> None:
    ids = frozenset({"x"})
    entries = [
        Entry("uid-1", "c", "a.b/c", ids),
        Entry("uid-1", "init", "a.b/c", frozenset({"y"})),
        Entry("uid-gone", "c", "a.b/c", frozenset({"z"})),
    ]
    found = list(holders([holding("p", ids)], entries, NAMES))
    assert [(h["pod_uid"], h["container"]) for h in found] == [("uid-1", "c"), ("uid-1", "init")]


def test_an_ended_pods_entry_does_not_hide_the_pod_that_has_its_ids_now() -> None:
    ids = frozenset({"x"})
    entries = [Entry("uid-new", "c", "a.b/c", ids), Entry("uid-old", "c", "a.b/c", ids)]
    assert {h["pod_uid"] for h in holders([holding("p", ids)], entries, NAMES)} == {
        "uid-new",
        "uid-old",
    }


# --- who is gone ----------------------------------------------------------------------------------


def test_nobody_counts_as_gone_before_he_was_missing_for_a_minute() -> None:
    tidying, one = Tidying(), holder("a", "u")
    tidying.seen([one], 0.0)
    tidying.seen([one], 59.0)
    assert tidying.due(59.0) is None
    assert tidying.due(60.0) == [one]
    tidying.seen([], 70.0)
    tidying.seen([], 129.0)
    assert tidying.due(129.0) == [one]
    tidying.seen([], 130.0)
    assert tidying.due(130.0) == []


def test_time_in_which_nobody_looked_makes_nobody_gone() -> None:
    """Kubelet, or the driver, may be away for an hour, and kubelet's first answer be empty."""
    tidying, one = Tidying(), holder("a", "u")
    tidying.seen([one], 0.0)
    tidying.seen([], 3600.0)
    assert tidying.due(3600.0) == [one]
    tidying.seen([one], 3630.0)
    tidying.seen([], 3660.0)
    assert tidying.due(3660.0) == [one]


def test_what_was_done_is_not_asked_for_again_until_somebody_comes_or_goes() -> None:
    tidying, one = Tidying(), holder("a", "u")
    tidying.seen([one], 0.0)
    tidying.done(tidying.due(60.0) or [])
    assert tidying.due(61.0) is None
    tidying.asked(Owner("r", "b", "v"), 62.0)
    assert keys(tidying.due(62.0)) == {("a", "u"), ("b", "v")}


@pytest.mark.parametrize("uid", ["", "uid-2"], ids=["standalone", "scheduled"])
def test_who_asked_of_late_holds_something_that_kubelet_does_not_know_yet(uid: str) -> None:
    tidying = Tidying()
    tidying.seen([], 0.0)
    tidying.asked(Owner("r", "a-1", uid, "ns", "p", "c"), 100.0)
    (found,) = tidying.due(120.0) or []
    assert (found["allocation"], found["pod_uid"], found["container"]) == ("a-1", uid, "c")
    assert len(tidying.due(399.0) or []) == 1
    assert tidying.due(400.0) == []


def test_a_pod_that_takes_an_ended_pods_ids_is_not_taken_for_it() -> None:
    tidying = Tidying()
    tidying.seen([holder("a-1", "uid-old", pod="old")], 0.0)
    tidying.asked(Owner("r", "a-1", "uid-new"), 70.0)
    assert keys(tidying.due(70.0)) == {("a-1", "uid-old"), ("a-1", "uid-new")}


def test_who_asked_is_told_once_when_kubelet_names_him_too() -> None:
    tidying, listed = Tidying(), holder("a-1", "uid-1", pod="p", devices="x")
    tidying.asked(Owner("r", "a-1", "uid-1"), 0.0)
    tidying.asked(Owner("r", "a-2"), 0.0)
    alone = holder("a-2", "uid-2", pod="q", devices="y")
    tidying.seen([listed, alone], 10.0)
    assert tidying.due(80.0) == [listed, alone]


EVENTS = st.lists(
    st.tuples(
        st.floats(0.5, 90.0),
        st.one_of(
            st.frozensets(st.integers(0, 3)),  # a look that finds these
            st.integers(0, 3),  # one of them asks
            st.just("tidy"),
        ),
    ),
    max_size=40,
)


@given(EVENTS)
def test_those_are_held_who_were_named_or_asked_of_late_and_only_those(
    events: list[tuple[float, frozenset[int] | int | str]],
) -> None:
    tidying, now = Tidying(), 0.0
    looks: list[tuple[float, frozenset[int]]] = []
    asked: dict[int, float] = {}
    done: set[int] | None = None
    for wait, event in events:
        now += wait
        if isinstance(event, frozenset):
            tidying.seen([holder(f"a-{i}", f"u-{i}") for i in sorted(event)], now)
            looks.append((now, event))
        elif isinstance(event, int):
            tidying.asked(Owner("r", f"a-{event}", f"u-{event}"), now)
            asked[event], done = now, None
        held = tidying.due(now)
        wanted = {i for i in range(4) if _needs(i, looks, asked, now)}
        if not looks or now - looks[0][0] < MISSING_SECONDS:
            assert held is None
        elif held is None:
            assert wanted == done
        else:
            assert {int(h["pod_uid"][2:]) for h in held} == wanted
            assert len(held) == len(wanted)
            if event == "tidy":
                tidying.done(held)
                done = wanted


def _needs(
    one: int, looks: list[tuple[float, frozenset[int]]], asked: dict[int, float], now: float
) -> bool:
    """By the rule itself: who asked of late, or was found and not missed over a minute of looks."""
    if one in asked and now - asked[one] < ASKED_SECONDS:
        return True
    found = [position for position, (_, names) in enumerate(looks) if one in names]
    if not found:
        return False
    missed = [at for at, _ in looks[found[-1] + 1 :]]
    return not missed or missed[-1] - missed[0] < MISSING_SECONDS
