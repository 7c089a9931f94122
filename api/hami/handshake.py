"""The handshake of a scheduler with a node's agents (hami-nvidia-node.md 2.5).

The scheduler stamps ``Requesting_<time>``, the agent answers ``Reported <time>``. After a minute
without an answer the scheduler drops the node's devices and stamps ``Deleted_<time>``. NVIDIA's
agents do not answer, which is why the node's allocatable amount counts as a sign of life.

Stamps are the local time of whoever wrote them and do not tell the zone. They are written in UTC
here, and read both as UTC and in the reader's own zone; of the two, the later one counts that is
not in the future.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

__all__ = [
    "SILENT",
    "TIMEOUT",
    "Action",
    "Handshake",
    "State",
    "Verdict",
    "answer",
    "decode",
    "encode",
    "judge",
    "judge_counted",
    "spoke_lately",
]

TIMEOUT: Final = timedelta(seconds=60)
"""The age from which a request has no answer and a deletion is over; and the skew of clocks that
is borne.
"""

_STAMP = re.compile(
    r"[^0-9]*(?P<day>\d{4}-\d\d-\d\d|\d{4}\.\d\d\.\d\d) (?P<time>\d\d:\d\d:\d\d)(?:\.\d+)?"
    r"(?: (?P<sign>[+-])(?P<hours>\d\d)(?P<minutes>[0-5]\d)(?: .*)?)?",
    re.ASCII,
)


SILENT = frozenset({"NVIDIA"})
"""Words whose agents do not answer the handshake since HAMi 2.8."""


class State(enum.Enum):
    """What the last writer said, by the word that peers look for anywhere in the text."""

    REQUESTING = "Requesting"
    DELETED = "Deleted"
    REPORTED = "Reported"


@dataclass(frozen=True, slots=True)
class Handshake:
    """A state and since when: without a zone when the text tells none, None when it has no time."""

    state: State
    at: datetime | None


class Action(enum.Enum):
    """What a scheduler does about the node's devices of one vendor."""

    KEEP = "keep"
    """Nothing: those it knows stay, those it does not know stay out."""
    LOAD = "load"
    """Take them anew from the register annotation."""
    DROP = "drop"
    """Forget them."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An action, and what to write to the annotation before it; None for nothing."""

    action: Action
    write: Handshake | None = None


def decode(text: str | None) -> Handshake | None:
    """What an annotation says, None when it is missing or nobody's. Any text has an answer."""
    for state in State:
        if state.value in (text or ""):
            return Handshake(state, _stamp(text or ""))
    return None


def encode(handshake: Handshake) -> str:
    """The annotation's text, a time with a zone in UTC."""
    if handshake.at is None:
        return handshake.state.value
    at = handshake.at if handshake.at.tzinfo is None else handshake.at.astimezone(UTC)
    text = at.replace(tzinfo=None).isoformat(" ", "seconds")
    if handshake.state is not State.REPORTED:
        return f"{handshake.state.value}_{text}"
    return f"{handshake.state.value} {text}" + (" +0000 UTC" if at.tzinfo else "")


def judge(text: str | None, now: datetime, *, allocatable: int) -> Verdict:
    """The scheduler's part, for vendors whose agents answer.

    `now` has a zone; `allocatable` is how many of the vendor's devices kubelet offers. What cannot
    be read as a time is stamped anew and changes nothing else, so that no node is stuck on it.
    """
    found = decode(text)
    if found is None or found.state is State.REPORTED:
        return Verdict(Action.LOAD, Handshake(State.REQUESTING, now))
    age = _age(found.at, now)
    if age is None:
        return Verdict(Action.KEEP, Handshake(found.state, now))
    if age < TIMEOUT:
        return Verdict(Action.KEEP)
    if found.state is State.REQUESTING and allocatable <= 0:
        return Verdict(Action.DROP, Handshake(State.DELETED, now))
    if found.state is State.DELETED and allocatable > 0:
        return Verdict(Action.LOAD, Handshake(State.REQUESTING, now))
    return Verdict(Action.KEEP)


def spoke_lately(text: str | None, now: datetime) -> bool:
    """Whether the last word is an agent's and not a minute old: it need not be asked yet."""
    found = decode(text)
    age = _age(found.at, now) if found is not None and found.state is State.REPORTED else None
    return age is not None and age < TIMEOUT


def judge_counted(text: str | None, now: datetime, *, allocatable: int, seen: int) -> Verdict:
    """The scheduler's part for NVIDIA, whose agents do not answer: the count decides first.

    `seen` is what `allocatable` was at the last look at this node, 0 at the first.
    """
    if allocatable <= 0:
        return Verdict(Action.DROP, Handshake(State.DELETED, now)) if seen else Verdict(Action.KEEP)
    verdict = judge(text, now, allocatable=allocatable)
    return verdict if allocatable == seen else Verdict(Action.LOAD, verdict.write)


def answer(
    text: str | None, now: datetime, *, answers: bool, changed: bool = False
) -> Handshake | None:
    """The agent's part: what to write now, None for nothing.

    An agent that `answers` (all but NVIDIA's) does so whenever the last word is not its own.
    One that does not speaks up only to be taken back after a deletion, and to have its devices
    read again when they `changed`; schedulers of version 2.8 do not listen to that.
    """
    found = decode(text)
    state = found.state if found else None
    if answers:
        due = state is not State.REPORTED
    else:
        due = state is State.DELETED or (changed and state is State.REQUESTING)
    return Handshake(State.REPORTED, now) if due else None


def _stamp(text: str) -> datetime | None:
    """The time in a text, in UTC if it tells a zone; None when there is none or no such time."""
    match = _STAMP.fullmatch(text)
    if match is None:
        return None
    try:
        at = datetime.fromisoformat(f"{match['day'].replace('.', '-')} {match['time']}")
        if match["sign"] is None:
            return at
        east = timedelta(hours=int(match["hours"]), minutes=int(match["minutes"]))
        return at.replace(tzinfo=timezone(-east if match["sign"] == "-" else east)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _age(at: datetime | None, now: datetime) -> timedelta | None:
    """How old a stamp is; None without one, or with one that is too far in the future."""
    if at is None:
        return None
    zones = (at.tzinfo,) if at.tzinfo else (UTC, now.tzinfo)
    ages = (now - at.replace(tzinfo=zone) for zone in zones)
    return min((age for age in ages if age > -TIMEOUT), default=None)
