"""What the simulated driver lists at a moment: each fault, and how they compose."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.vendor import HealthEvent, Snapshot, Usage
from deviceplugin.vendors.mock import VENDOR
from deviceplugin.vendors.mock.profile import DEVICE_FAULTS, ENDINGS, FaultKind, Profile
from deviceplugin.vendors.mock.reading import read
from deviceplugin.vendors.mock.scenario import (
    behaviour_at,
    events_between,
    next_change,
    state_at,
    usage_at,
)

Make = Callable[..., Profile]


def uuids(snapshot: Snapshot) -> str:
    return "".join(device.uuid for device in snapshot.devices)


def ill(snapshot: Snapshot) -> str:
    return "".join(device.uuid for device in snapshot.devices if not device.healthy)


def test_a_device_is_unhealthy_from_its_second_until_it_is_healthy(profile: Make) -> None:
    node = profile(
        faults=[
            {"at": 5, "device": "b", "fault": "unhealthy", "reason": "Xid 79"},
            {"at": 9, "device": 1, "fault": "healthy"},
        ]
    )
    assert [ill(state_at(node, t)) for t in (0, 4.9, 5, 8.9, 9, 100)] == ["", "", "b", "b", "", ""]
    assert state_at(node, 6).devices[1].reason == "Xid 79"
    assert state_at(node, 9).devices[1].reason == ""


def test_a_fault_without_a_device_is_about_all(profile: Make) -> None:
    node = profile(faults=[{"at": 1, "until": 2, "fault": "unhealthy"}])
    assert [ill(state_at(node, t)) for t in (0, 1, 2)] == ["", "abc", ""]


def test_a_device_vanishes_and_returns_in_its_place(profile: Make) -> None:
    node = profile(
        faults=[
            {"at": 1, "device": "b", "fault": "vanish"},
            {"at": 2, "device": "b", "fault": "return"},
        ]
    )
    assert [uuids(state_at(node, t)) for t in (0, 1, 2)] == ["abc", "ac", "abc"]


def test_a_device_that_returns_is_as_ill_as_it_left(profile: Make) -> None:
    node = profile(
        faults=[
            {"at": 1, "device": "b", "fault": "unhealthy"},
            {"at": 2, "device": "b", "fault": "vanish"},
            {"at": 3, "device": "b", "fault": "return"},
        ]
    )
    assert [ill(state_at(node, t)) for t in (1, 2, 3)] == ["b", "", "b"]


def test_an_empty_list_holds_until_its_end(profile: Make) -> None:
    node = profile(faults=[{"at": 1, "until": 2, "fault": "empty-list"}])
    assert [uuids(state_at(node, t)) for t in (0, 1, 2)] == ["abc", "", "abc"]


def test_one_device_may_return_to_an_empty_list(profile: Make) -> None:
    node = profile(
        faults=[{"at": 1, "fault": "empty-list"}, {"at": 2, "device": "c", "fault": "return"}]
    )
    assert uuids(state_at(node, 2)) == "c"


def test_a_duplicate_uuid_adds_a_second_device_of_another_index(profile: Make) -> None:
    node = profile(faults=[{"at": 1, "until": 2, "device": "a", "fault": "duplicate-uuid"}])
    assert [uuids(state_at(node, t)) for t in (0, 1, 2)] == ["abc", "abca", "abc"]
    assert [d.index for d in state_at(node, 1).devices] == ["0", "1", "2", "3"]


def test_overlapping_faults_end_each_by_itself(profile: Make) -> None:
    node = profile(
        faults=[
            {"at": 1, "until": 9, "device": "a", "fault": "vanish"},
            {"at": 2, "until": 3, "fault": "empty-list"},
            {"at": 2, "until": 5, "device": "b", "fault": "unhealthy", "reason": "first"},
            {"at": 4, "until": 7, "device": "b", "fault": "unhealthy", "reason": "second"},
        ]
    )
    assert [uuids(state_at(node, t)) for t in (1, 2, 3, 9)] == ["bc", "", "bc", "abc"]
    assert [ill(state_at(node, t)) for t in (2, 3, 6, 7)] == ["", "b", "b", ""]
    assert state_at(node, 4).devices[0].reason == "second"


def test_a_device_that_begins_unhealthy_can_be_cured(profile: Make) -> None:
    devices = [{"uuid": "a", "model": "Card", "healthy": False, "reason": "cold"}]
    node = profile(devices=devices, faults=[{"at": 3, "device": "a", "fault": "healthy"}])
    assert state_at(node, 2).devices[0].reason == "cold"
    assert state_at(node, 3).devices[0].healthy


def test_a_change_replaces_the_list_and_an_older_cure_does_not_outlive_it(profile: Make) -> None:
    sick = {"uuid": "a", "model": "Card", "healthy": False, "reason": "hot"}
    node = profile(
        changes=[{"at": 10, "devices": [sick], "attributes": {"driver": "2"}}],
        faults=[{"at": 5, "device": "a", "fault": "healthy"}],
    )
    assert uuids(state_at(node, 9)) == "abc"
    assert ill(state_at(node, 10)) == "a"
    assert state_at(node, 10).attributes == {"driver": "2"}


def test_the_behaviour_of_the_driver_is_no_matter_of_its_list(profile: Make) -> None:
    node = profile(
        faults=[
            {"at": 1, "until": 3, "fault": "slow", "seconds": 2},
            {"at": 2, "until": 3, "fault": "crash"},
            {"at": 2, "fault": "unhealthy"},
        ]
    )
    kinds = [[fault.kind.value for fault in behaviour_at(node, t)] for t in (0, 1, 2, 3)]
    assert kinds == [[], ["slow"], ["slow", "crash"], []]


def test_leaving_and_joining_the_list_are_no_events(profile: Make) -> None:
    node = profile(
        faults=[
            {"at": 1, "device": "a", "fault": "vanish"},
            {"at": 1, "device": "b", "fault": "unhealthy", "reason": "hot"},
        ]
    )
    before, after = state_at(node, 0), state_at(node, 1)
    assert list(events_between(before, after)) == [HealthEvent("b", False, "hot")]
    assert list(events_between(after, before)) == [HealthEvent("b", True, "")]


seconds = st.integers(0, 20).map(lambda n: n / 2)


@st.composite
def random_faults(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    for kind in draw(st.lists(st.sampled_from(list(FaultKind)), max_size=8)):
        fault: dict[str, Any] = {"fault": kind.value, "at": draw(seconds)}
        if kind not in ENDINGS and draw(st.booleans()):
            fault["until"] = fault["at"] + draw(seconds) + 0.5
        if kind in DEVICE_FAULTS - {FaultKind.EMPTY_LIST} and draw(st.booleans()):
            fault["device"] = draw(st.sampled_from(["a", "b", 0, 1, 2]))
        if kind is FaultKind.SLOW:
            fault["seconds"] = draw(seconds)
        if draw(st.booleans()):
            fault["reason"] = "because"
        found.append(fault)
    return found


@st.composite
def random_profiles(draw: st.DrawFn) -> Profile:
    devices = [
        {"uuid": uuid, "model": "Card", "memoryMiB": 1, "healthy": draw(st.booleans())}
        for uuid in "abc"
    ]
    data: dict[str, Any] = {"devices": devices, "faults": draw(random_faults())}
    if draw(st.booleans()):
        data["changes"] = [{"at": draw(seconds), "devices": devices[:2]}]
    return read(data, "random", VENDOR.resource, inline=True)


@given(random_profiles(), st.floats(0, 40))
def test_nothing_changes_between_two_changes(profile: Profile, moment: float) -> None:
    state, behaviour = state_at(profile, moment), behaviour_at(profile, moment)
    then = next_change(profile, moment)
    for other in (moment + 1000,) if then is None else ((moment + then) / 2,):
        assert state_at(profile, other) == state
        assert behaviour_at(profile, other) == behaviour


@given(random_profiles(), st.floats(0, 40))
def test_every_listed_device_is_one_of_the_profile_with_only_health_and_place_changed(
    profile: Profile, moment: float
) -> None:
    known = {
        d.uuid: d
        for s in (profile.snapshot, *(c.snapshot for c in profile.changes))
        for d in s.devices
    }
    for device in state_at(profile, moment).devices:
        assert (device.model, device.memory_mib) == (
            known[device.uuid].model,
            known[device.uuid].memory_mib,
        )
        assert not device.healthy or not device.reason


@given(random_profiles(), st.lists(seconds, min_size=2, max_size=6))
def test_events_lead_from_every_state_to_every_other(
    profile: Profile, moments: list[float]
) -> None:
    states = [state_at(profile, moment) for moment in sorted(moments)]
    for before, after in pairwise(states):
        health = {d.uuid: (d.healthy, d.reason) for d in before.devices}
        for event in events_between(before, after):
            health[event.uuid] = (event.healthy, event.reason)
        for device in after.devices:
            if any(device.uuid == other.uuid for other in before.devices):
                assert health[device.uuid] == (device.healthy, device.reason)


@given(random_faults(), random_faults(), seconds)
def test_faults_of_different_devices_do_not_influence_each_other(
    first: list[dict[str, Any]], second: list[dict[str, Any]], moment: float
) -> None:
    def only(faults: list[dict[str, Any]], device: str) -> list[dict[str, Any]]:
        kept = [f for f in faults if FaultKind(f["fault"]) in DEVICE_FAULTS]
        return [{**f, "device": device} for f in kept if f["fault"] != "empty-list"]

    def node(*faults: dict[str, Any]) -> Profile:
        data = {"devices": [{"uuid": u, "model": "Card"} for u in "ab"], "faults": list(faults)}
        return read(data, "random", VENDOR.resource, inline=True)

    one, other = only(first, "a"), only(second, "b")
    both = state_at(node(*one, *other), moment).devices
    alone = state_at(node(*one), moment).devices

    def of_a(devices: Any) -> list[tuple[bool, str]]:
        return [(d.healthy, d.reason) for d in devices if d.uuid == "a"]

    assert of_a(both) == of_a(alone)


@pytest.mark.parametrize("kind", sorted(DEVICE_FAULTS - ENDINGS))
def test_every_device_fault_changes_the_list_and_its_end_restores_it(
    profile: Make, kind: FaultKind
) -> None:
    node = profile(faults=[{"at": 1, "until": 2, "fault": kind.value}])
    assert state_at(node, 1) != state_at(node, 0)
    assert state_at(node, 2) == state_at(node, 0)


def test_a_device_is_as_busy_as_the_last_entry_about_it_says(profile: Make) -> None:
    node = profile(
        usage=[
            {"usedMiB": 10},
            {"at": 5, "device": 1, "usedMiB": 700, "utilisationPercent": 97.5},
            {"at": 9, "device": "b"},
        ]
    )
    cards = node.snapshot.devices
    assert usage_at(node, cards, 0) == tuple(Usage(uuid, 10.0) for uuid in "abc")
    assert usage_at(node, cards, 5)[1] == Usage("b", 700.0, 97.5)
    assert usage_at(node, cards, 9)[1] == Usage("b")
    assert usage_at(node, cards[:1], 9) == (Usage("a", 10.0),)


def test_nothing_is_known_of_a_device_before_its_first_entry(profile: Make) -> None:
    assert usage_at(profile(), profile().snapshot.devices, 5) == ()
    node = profile(usage=[{"at": 5, "device": "b", "usedMiB": 1}])
    assert usage_at(node, node.snapshot.devices, 4.9) == ()
    assert usage_at(node, node.snapshot.devices, 5) == (Usage("b", 1.0),)
