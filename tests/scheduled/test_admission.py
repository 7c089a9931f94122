"""A node honours only what it has and what nobody else holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.hami.poddevices import ContainerDevice, MigSlot
from deviceplugin.scheduled.admission import (
    NotAdmissibleError,
    check_room,
    grants_of,
    shares,
    used,
)
from deviceplugin.scheduled.ledger import Record, Share
from deviceplugin.splitting import split
from deviceplugin.vendor import PhysicalDevice, ResourcePlan, Sharing, Snapshot, Split

RESOURCE = "nvidia.com/gpu"


def record(
    *given_shares: Share, uid: str = "u", container: str = "c", init: bool = False
) -> Record:
    return Record(
        "nvidia", RESOURCE, frozenset({"i"}), uid, "default", uid, container, given_shares, init
    )


def device(uuid: str, memory: int = 100, cores: int = 10) -> ContainerDevice:
    return ContainerDevice(uuid, "NVIDIA", memory, cores)


def test_devices_stand_in_the_nodes_order(table: Any) -> None:
    found = shares([device("c"), device("a")], 2, table, ResourcePlan(RESOURCE, ()))
    assert [share.uuid for share in found] == ["a", "c"]


@pytest.mark.parametrize(
    ("devices", "asked", "reason"),
    [
        (["a"], 2, "count-mismatch"),
        (["a", "a"], 2, "duplicate-device"),
        (["elsewhere"], 1, "foreign-device"),
    ],
)
def test_what_is_not_ours_is_refused(
    devices: list[str], asked: int, reason: str, table: Any
) -> None:
    with pytest.raises(NotAdmissibleError) as refused:
        shares([device(uuid) for uuid in devices], asked, table, ResourcePlan(RESOURCE, ()))
    assert refused.value.reason == reason


def test_a_partition_where_there_are_none_is_refused(table: Any, plan: Any) -> None:
    forged = replace(device("a"), slot=MigSlot(0, 0))
    with pytest.raises(NotAdmissibleError, match=r"partition 0-0 of 'a'.*recreate the pod"):
        shares([forged], 1, table, plan)


def test_no_memory_is_refused_where_it_would_be_no_limit(table: Any, plan: Any) -> None:
    with pytest.raises(NotAdmissibleError, match=r"0 MiB of device 'a'.*recreate the pod"):
        shares([device("a", memory=0)], 1, table, plan)
    unlimited = replace(plan, split=replace(plan.split, sharing=Sharing.TIME_SLICING))
    assert shares([device("a", memory=0)], 1, table, unlimited) == (Share("a", 0, 10),)


def test_two_slots_of_one_card_are_two_devices(table: Any) -> None:
    pair = [replace(device("a"), slot=MigSlot(1, 0)), replace(device("a"), slot=MigSlot(1, 2))]
    plan = ResourcePlan(RESOURCE, (), places=True)
    assert [s.slot for s in shares(pair, 2, table, plan)] == ["1-0", "1-2"]


def test_a_held_slot_is_refused_by_its_holders_name(table: Any, plan: Any) -> None:
    holder = record(Share("a", 10, 1, "1-0"), uid="other")
    with pytest.raises(NotAdmissibleError, match="default/other/c"):
        check_room(record(Share("a", 10, 1, "1-0")), [holder], table, plan)


@pytest.mark.parametrize("share", [Share("a", 501, 0), Share("a", 0, 51)])
def test_what_others_hold_is_not_granted_again(share: Share, table: Any, plan: Any) -> None:
    other = record(Share("a", 500, 50), uid="other")
    with pytest.raises(NotAdmissibleError, match="other containers on this node hold 50"):
        check_room(record(share), [other], table, plan)
    check_room(record(Share("a", 500, 50)), [other], table, plan)


def test_overcommitted_memory_is_there_to_be_granted(table: Any, plan: Any) -> None:
    twice = replace(plan, split=replace(plan.split, memory_scaling=2.0))
    check_room(record(Share("a", 2000, 0)), [], table, twice)


def test_an_init_containers_room_is_used_again_by_the_pod(table: Any, plan: Any) -> None:
    first = record(Share("a", 900, 0), container="init", init=True)
    check_room(record(Share("a", 800, 0), container="main"), [first], table, plan)
    assert used([first, record(Share("a", 800, 0), container="main")])["a"][0] == 900


def test_a_grant_of_a_card_that_vanished_is_refused(table: Any, plan: Any) -> None:
    with pytest.raises(NotAdmissibleError, match="not on this node any more"):
        grants_of([Share("gone", 1, 1)], table, plan)


shares_ = st.builds(Share, st.sampled_from("abcd"), st.integers(1, 700), st.integers(0, 70))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.lists(shares_, max_size=3))))
def test_whatever_comes_a_card_is_never_granted_beyond_its_size(
    asked: list[tuple[int, bool, list[Share]]],
) -> None:
    how = Split(count=3, separator="-", sharing=Sharing.LIMITED)
    plan = ResourcePlan(RESOURCE, tuple("abcd"), how)
    cards = tuple(PhysicalDevice(u, str(i), "M", 1000) for i, u in enumerate("abcd"))
    table = split(plan, Snapshot(cards))
    granted: list[Record] = []
    for number, (pod, init, wanted) in enumerate(asked):
        new = record(*wanted, uid=f"pod{pod}", container=f"c{number}", init=init)
        try:
            check_room(new, granted, table, plan)
        except NotAdmissibleError:
            continue
        granted.append(new)
    for memory, cores, count in used(granted).values():
        assert memory <= 1000
        assert cores <= 100
        assert count <= 3
