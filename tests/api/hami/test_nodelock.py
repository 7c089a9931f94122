"""The node's lock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.nodelock import TIMEOUT, NodeLock, decode, encode, expired

AT = datetime(2026, 1, 20, 8, 15, 30, tzinfo=UTC)


def test_the_golden_text_is_read_and_written_back_to_the_byte() -> None:
    text = "2026-01-20T08:15:30Z,default,train-0"
    assert decode(text) == NodeLock(AT, "default", "train-0")
    assert encode(decode(text)) == text


def test_a_lock_of_the_oldest_form_names_no_pod() -> None:
    lock = decode("2026-01-20T08:15:30Z")
    assert lock == NodeLock(AT)
    assert not lock.names_pod
    assert not lock.held_by("", "")
    assert encode(lock) == "2026-01-20T08:15:30Z"


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-01-20T16:15:30+08:00", AT),
        ("2026-01-20T02:45:30-05:30", AT),
        ("2026-01-20T08:15:30.5Z", AT.replace(microsecond=500000)),
        ("2026-01-20T08:15:30.123456789Z", AT.replace(microsecond=123456)),
    ],
)
def test_times_of_other_zones_and_fractions_are_read(text: str, at: datetime) -> None:
    assert decode(f"{text},ns,pod").at == at


def test_only_its_pod_holds_it() -> None:
    lock = NodeLock(AT, "default", "train-0")
    assert lock.held_by("default", "train-0")
    assert not lock.held_by("default", "train-00")
    assert not lock.held_by("other", "train-0")


@pytest.mark.parametrize(
    "text",
    [
        "", ",", ",,", "lock", "2026-01-20T08:15:30Z,", "2026-01-20T08:15:30Z,ns", "2026-01-20T08:15:30Z,,",
        "2026-01-20T08:15:30Z,ns,pod,more", "2026-01-20T08:15:30Z,ns,", "2026-01-20T08:15:30Z,,pod",
        "2026-01-20 08:15:30Z,ns,pod", "2026-01-20T08:15:30,ns,pod", "2026-02-30T08:15:30Z,ns,pod",
        "2026-01-20T08:15:30+25:00,ns,pod", "2026-01-20T08:15:30+00:60,ns,pod", "2026-01-20T08:15Z,ns,pod", "20260120T081530Z,ns,pod",
        "2026-01-20T08:15:30Z,ns,../../secrets/x", "2026-01-20T08:15:30Z,NS,pod", "2026-01-20T08:15:30Z,ns,pod\n",
        "2026-01-20T08:15:30Z,ns,pod-", "2026-01-20T08:15:30Z,n.s,pod", f"2026-01-20T08:15:30Z,{'n' * 64},pod",
        f"2026-01-20T08:15:30Z,ns,{'p' * 254}", "2026-01-20T08:15:30Z," + "a-" * 100_000, "x" * 300_000,
        "٢026-01-20T08:15:30Z",
    ],
)  # fmt: skip
def test_what_is_no_lock_is_told_with_place_and_remedy(text: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        decode(text)
    assert caught.value.annotation == "hami.io/mutex.lock"
    assert caught.value.remedy == "remove the annotation"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "lock",
    [
        NodeLock(AT.replace(tzinfo=None), "ns", "pod"),
        NodeLock(datetime(2026, 1, 20, tzinfo=timezone(timedelta(seconds=1))), "ns", "pod"),
        NodeLock(AT, "ns", ""),
        NodeLock(AT, "", "pod"),
        NodeLock(AT, "ns", "a,b"),
    ],
)
def test_what_no_peer_could_read_is_not_written(lock: NodeLock) -> None:
    with pytest.raises(AnnotationError):
        encode(lock)


def test_a_lock_expires_after_its_time_and_not_before() -> None:
    lock = NodeLock(AT, "ns", "pod")
    assert not expired(lock, AT + timedelta(minutes=5))
    assert expired(lock, AT + timedelta(minutes=5, seconds=1))
    assert not expired(lock, AT + timedelta(minutes=2), timedelta(minutes=2))
    assert expired(lock, AT + timedelta(minutes=3), timedelta(minutes=2))


def test_a_lock_far_in_the_future_holds_nobody_up() -> None:
    assert not expired(NodeLock(AT + TIMEOUT), AT)
    assert expired(NodeLock(AT + TIMEOUT + timedelta(seconds=1)), AT)


zones = st.integers(-14 * 60, 14 * 60).map(lambda east: timezone(timedelta(minutes=east)))
times = st.datetimes(timezones=zones, allow_imaginary=False).map(
    lambda at: at.replace(microsecond=0)
)
labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


@given(times, labels, labels)
def test_reading_gives_what_was_written(at: datetime, namespace: str, name: str) -> None:
    for lock in (NodeLock(at, namespace, name), NodeLock(at)):
        assert decode(encode(lock)) == lock
        assert encode(decode(encode(lock))) == encode(lock)
