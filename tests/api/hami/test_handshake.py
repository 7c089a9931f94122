"""The handshake: what each generation writes, and both sides' part."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.hami.handshake import (
    TIMEOUT,
    Action,
    Handshake,
    State,
    Verdict,
    answer,
    decode,
    encode,
    judge,
    judge_counted,
)

NOW = datetime(2026, 1, 20, 8, 15, 30, tzinfo=UTC)
REQUEST = Handshake(State.REQUESTING, NOW)
KEEP = Verdict(Action.KEEP)
local = datetime.fromisoformat
"""A time whose zone nobody told."""


def stamp(state: str, seconds: float, now: datetime = NOW) -> str:
    """What a peer in the zone of `now` wrote so many seconds ago."""
    return f"{state}_{(now - timedelta(seconds=seconds)).replace(tzinfo=None)}"


@pytest.mark.parametrize(
    ("text", "state", "at"),
    [
        ("Requesting_2026-01-20 08:15:30", State.REQUESTING, local("2026-01-20 08:15:30")),
        ("Requesting_2024.01.10 04:06:57", State.REQUESTING, local("2024-01-10 04:06:57")),
        ("Deleted_2026-01-20 08:15:30", State.DELETED, local("2026-01-20 08:15:30")),
        ("Reported_2026.01.26 14:23:47", State.REPORTED, local("2026-01-26 14:23:47")),
        ("Reported 2026-01-20 10:00:00", State.REPORTED, local("2026-01-20 10:00:00")),
        ("Reported 2025-05-22 09:39:04.293791216 +0000 UTC m=+121.021111", State.REPORTED, datetime(2025, 5, 22, 9, 39, 4, tzinfo=UTC)),
        ("Reported 2026-01-20 10:00:00.123456 +0400 +04 m=+0.1", State.REPORTED, datetime(2026, 1, 20, 6, 0, tzinfo=UTC)),
        ("Reported 2026-01-20 10:00:00 -0330 NST", State.REPORTED, datetime(2026, 1, 20, 13, 30, tzinfo=UTC)),
        ("Requesting", State.REQUESTING, None),
        ("Deleted", State.DELETED, None),
        ("Requesting_", State.REQUESTING, None),
        ("Requesting_soon", State.REQUESTING, None),
        ("Requesting_2026-02-30 08:15:30", State.REQUESTING, None),
        ("Requesting_2026-1-2 8:15:30", State.REQUESTING, None),
        ("Requesting_2026-01-20T08:15:30", State.REQUESTING, None),
        ("Requesting_0000-01-20 08:15:30", State.REQUESTING, None),
        ("Reported 2026-01-20 10:00:00 +9900 UTC", State.REPORTED, None),
        ("Reported 0001-01-01 00:00:00 +0100 CET", State.REPORTED, None),
    ],
)  # fmt: skip
def test_what_each_generation_writes(text: str, state: State, at: datetime | None) -> None:
    assert decode(text) == Handshake(state, at)


@pytest.mark.parametrize("text", [None, "", "Unknown", "requesting_2026-01-20 08:15:30", "\x00"])
def test_nobody_s_word_is_no_handshake(text: str | None) -> None:
    assert decode(text) is None


def test_what_is_written_is_what_peers_look_for() -> None:
    east = timezone(timedelta(hours=8))
    at = datetime(2026, 1, 20, 16, 15, 30, 999, east)
    assert encode(Handshake(State.REQUESTING, at)) == "Requesting_2026-01-20 08:15:30"
    assert encode(Handshake(State.DELETED, at)) == "Deleted_2026-01-20 08:15:30"
    assert encode(Handshake(State.REPORTED, at)) == "Reported 2026-01-20 08:15:30 +0000 UTC"
    assert encode(Handshake(State.DELETED, None)) == "Deleted"
    assert (
        encode(Handshake(State.REQUESTING, local("0024-01-02 00:00:00")))
        == "Requesting_0024-01-02 00:00:00"
    )


@pytest.mark.parametrize(
    ("text", "allocatable", "verdict"),
    [
        # tables of version 2.8, where nothing is allocatable
        (stamp("Requesting", 10), 0, KEEP),
        (stamp("Requesting", 59), 0, KEEP),
        (stamp("Requesting", 60), 0, Verdict(Action.DROP, Handshake(State.DELETED, NOW))),
        ("Requesting_2024-01-02 00:00:00", 0, Verdict(Action.DROP, Handshake(State.DELETED, NOW))),
        ("Requesting_2025-01-07 00:00:00", 0, Verdict(Action.DROP, Handshake(State.DELETED, NOW))),
        (stamp("Deleted", 10), 0, KEEP),
        (stamp("Deleted", 1000), 0, KEEP),
        ("Unknown", 0, Verdict(Action.LOAD, REQUEST)),
        (None, 0, Verdict(Action.LOAD, REQUEST)),
        ("", 0, Verdict(Action.LOAD, REQUEST)),
        ("Reported 2026-01-20 10:00:00", 0, Verdict(Action.LOAD, REQUEST)),
        # version 2.9: kubelet's word counts
        (stamp("Requesting", 61), 1, KEEP),
        (stamp("Deleted", 59), 1, KEEP),
        (stamp("Deleted", 60), 1, Verdict(Action.LOAD, REQUEST)),
        # no time to go by: the same state, stamped anew
        ("Requesting", 0, Verdict(Action.KEEP, REQUEST)),
        ("Requesting_soon", 1, Verdict(Action.KEEP, REQUEST)),
        ("Requesting_2128-12-02 00:00:00", 0, Verdict(Action.KEEP, REQUEST)),
        ("Deleted", 0, Verdict(Action.KEEP, Handshake(State.DELETED, NOW))),
        ("Deleted_2128-12-02 00:00:00", 1, Verdict(Action.KEEP, Handshake(State.DELETED, NOW))),
        # clocks may differ a little
        (stamp("Requesting", -30), 0, KEEP),
    ],
)
def test_the_scheduler_s_part(text: str | None, allocatable: int, verdict: Verdict) -> None:
    assert judge(text, NOW, allocatable=allocatable) == verdict


@pytest.mark.parametrize("reader", [-11, -5, 0, 3, 8, 14])
@pytest.mark.parametrize("writes_utc", [True, False])
@pytest.mark.parametrize(
    ("age", "action"), [(0, Action.KEEP), (59, Action.KEEP), (61, Action.DROP)]
)
def test_stamps_in_utc_and_in_the_reader_s_zone_are_both_understood(
    reader: int, writes_utc: bool, age: int, action: Action
) -> None:
    here = NOW.astimezone(timezone(timedelta(hours=reader)))
    text = stamp("Requesting", age, NOW if writes_utc else here)
    assert judge(text, here, allocatable=0).action is action


@pytest.mark.parametrize(
    ("allocatable", "seen", "action"),
    [(0, 0, Action.KEEP), (0, 8, Action.DROP), (8, 0, Action.LOAD), (8, 4, Action.LOAD), (4, 8, Action.LOAD), (8, 8, Action.KEEP)],
)  # fmt: skip
def test_for_nvidia_the_count_decides(allocatable: int, seen: int, action: Action) -> None:
    verdict = judge_counted(stamp("Requesting", 10), NOW, allocatable=allocatable, seen=seen)
    assert verdict.action is action
    gone = Handshake(State.DELETED, NOW) if action is Action.DROP else None
    assert verdict.write == gone


def test_for_nvidia_an_unchanged_count_leaves_it_to_the_handshake() -> None:
    for text in (None, "Reported now", stamp("Requesting", 90), stamp("Deleted", 90), "Deleted"):
        counted = judge_counted(text, NOW, allocatable=8, seen=8)
        assert counted == judge(text, NOW, allocatable=8)


@pytest.mark.parametrize(
    ("text", "answers", "changed", "speaks"),
    [
        (None, True, False, True),
        (stamp("Requesting", 1), True, False, True),
        (stamp("Deleted", 1), True, False, True),
        ("Unknown", True, False, True),
        ("Reported 2026-01-20 10:00:00", True, False, False),
        ("Reported 2026-01-20 10:00:00", True, True, False),
        (None, False, False, False),
        (stamp("Requesting", 1), False, False, False),
        (stamp("Deleted", 1), False, False, True),
        ("Reported 2026-01-20 10:00:00", False, False, False),
        (None, False, True, False),
        (stamp("Requesting", 1), False, True, True),
        (stamp("Deleted", 1), False, True, True),
    ],
)
def test_the_agent_s_part(text: str | None, answers: bool, changed: bool, speaks: bool) -> None:
    said = answer(text, NOW, answers=answers, changed=changed)
    assert said == (Handshake(State.REPORTED, NOW) if speaks else None)


# Both sides together.

texts = (
    st.none()
    | st.text(max_size=40)
    | st.builds(stamp, st.sampled_from(["Requesting", "Deleted", "Reported"]), st.floats(-1e9, 1e9))
)
moments = st.datetimes(local("1990-01-01 00:00:00"), local("2200-01-01 00:00:00")).map(
    lambda at: at.replace(tzinfo=UTC, microsecond=0)
)


@given(texts, moments, st.integers(0, 3))
def test_any_text_has_a_verdict_and_an_answer(text: str | None, now: datetime, count: int) -> None:
    verdict = judge(text, now, allocatable=count)
    assert (verdict.action is Action.DROP) <= (count == 0)
    assert verdict.write is None or verdict.write.at == now
    answer(text, now, answers=True)


@given(st.sampled_from(State), moments)
def test_what_is_written_is_read(state: State, at: datetime) -> None:
    found = decode(encode(Handshake(state, at)))
    assert found is not None
    assert found.state is state
    assert found.at is not None
    assert found.at.replace(tzinfo=UTC) == at


@given(texts, moments, st.integers(0, 3))
def test_what_was_just_written_is_left_alone(text: str | None, now: datetime, count: int) -> None:
    """One pass settles it: a scheduler does not write for its own writing's sake."""
    verdict = judge(text, now, allocatable=count)
    if verdict.write:
        after = judge(encode(verdict.write), now + timedelta(seconds=15), allocatable=count)
        assert after == KEEP


@given(texts, st.lists(st.booleans(), min_size=20, max_size=40), st.integers(0, 45))
def test_a_live_agent_is_always_loaded_and_a_dead_one_dropped(
    text: str | None, alive: list[bool], phase: int
) -> None:
    """Every 15 s the scheduler looks; every 30 s an agent that lives does. Kubelet says nothing."""
    loaded, since = False, {True: 0, False: 0}
    for tick, lives in enumerate(alive):
        now = NOW + timedelta(seconds=15 * tick)
        if lives and (tick + phase) % 2 == 0 and (said := answer(text, now, answers=True)):
            text = encode(said)
        verdict = judge(text, now, allocatable=0)
        loaded = loaded if verdict.action is Action.KEEP else verdict.action is Action.LOAD
        text = encode(verdict.write) if verdict.write else text
        since = {lives: since[lives] + 1, not lives: 0}
        if since[True] >= 2:
            assert loaded
        # a text without a usable time gets one first: twice the time-out at most
        if since[False] > 2 * TIMEOUT / timedelta(seconds=15) + 2:
            assert not loaded
