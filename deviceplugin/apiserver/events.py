"""Events that people read with ``kubectl describe``: written behind everybody's back, counted up
where they repeat themselves, and dropped, counted, when the API server does not keep up.

They are core/v1 events with a count, as every kubectl shows them (hami-scheduler.md 4.9).
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from deviceplugin.apiserver.client import MERGE_PATCH, Api, ApiError, Path

__all__ = ["Events", "Subject", "event"]

MOST_WAITING = 1_000
MOST_REMEMBERED = 1_000
"""Written ones that are counted up when they happen again."""
LONGEST = 1_000
"""Bytes of a message; the API server refuses more than 1,024."""
NOWHERE = "default"
"""Where events stand about what is in no namespace, as the API server asks."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What an event is about."""

    kind: str
    name: str
    uid: str
    namespace: str = ""

    @staticmethod
    def pod(namespace: str, name: str, uid: str) -> Subject:
        """A pod."""
        return Subject("Pod", name, uid, namespace)

    @staticmethod
    def node(name: str, uid: str = "") -> Subject:
        """A node; one whose uid is not known is called as kubelet does, which kubectl finds too."""
        return Subject("Node", name, uid or name)

    @property
    def events(self) -> Path:
        """The collection that its events are in."""
        return Path(
            "/api/v1/namespaces/{namespace}/events", {"namespace": self.namespace or NOWHERE}
        )


@dataclass(frozen=True, slots=True)
class _Said:
    """What makes two events one that happened twice."""

    about: Subject
    reason: str
    message: str
    warning: bool


@dataclass(slots=True)
class _Tally:
    count: int
    first: datetime
    last: datetime


@dataclass(slots=True)
class _Written:
    name: str
    count: int


def event(
    about: Subject,
    reason: str,
    message: str,
    at: datetime,
    *,
    warning: bool,
    component: str,
    host: str = "",
) -> dict[str, object]:
    """The body of an event that happened once; `host` is the node that tells it. Pure but for the
    random end of its name.
    """
    said = _Said(about, reason, _cut(message), warning)
    return _body(said, _Tally(1, at, at), component, host)


class Events:
    """Events of one component, written one after the other."""

    def __init__(
        self,
        api: Api,
        component: str,
        host: str = "",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`host` is the node that this runs for, where it is one's."""
        self._api, self._component, self._host, self._now = api, component, host, now
        self._waiting: dict[_Said, _Tally] = {}
        self._written: OrderedDict[_Said, _Written] = OrderedDict()
        self._arrived = asyncio.Event()
        self._away = False
        self.dropped = 0
        """Events that nobody will read."""

    @property
    def waiting(self) -> int:
        """Events that are still to be written."""
        return len(self._waiting)

    def say(self, about: Subject, reason: str, message: str, *, warning: bool) -> None:
        """Tell about something, in a moment; never blocks and never raises. On the loop only."""
        said, at = _Said(about, reason, _cut(message), warning), self._now()
        if (tally := self._waiting.get(said)) is not None:
            tally.count, tally.last = tally.count + 1, at
        elif len(self._waiting) < MOST_WAITING:
            self._waiting[said] = _Tally(1, at, at)
            self._arrived.set()
        else:
            self.dropped += 1

    async def run(self) -> None:
        """Write what comes until cancelled."""
        log = structlog.get_logger()
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                said = next(iter(self._waiting))
                tally = self._waiting.pop(said)
                try:
                    await self._write(said, tally)
                    self._away = False
                except ApiError as error:
                    self.dropped += tally.count
                    if not self._away:  # once, and not for each of a thousand
                        log.warning(
                            "events are not written",
                            about=said.about.name,
                            what=said.reason,
                            reason=str(error),
                        )
                    self._away = True

    async def _write(self, said: _Said, tally: _Tally) -> None:
        """Raises `ApiError`."""
        before = self._written.get(said)
        if before is None or not await self._counted_up(said, before, tally):
            stored = await self._api.create(
                said.about.events, _body(said, tally, self._component, self._host)
            )
            before = _Written(str((stored.get("metadata") or {}).get("name")), tally.count)
        self._written[said] = before
        self._written.move_to_end(said)
        if len(self._written) > MOST_REMEMBERED:
            self._written.popitem(last=False)

    async def _counted_up(self, said: _Said, before: _Written, tally: _Tally) -> bool:
        """False where it has to be told anew: events last an hour, and not every account may change
        them. Raises `ApiError`.
        """
        collection = said.about.events
        path = Path(f"{collection.template}/{{name}}", {**collection.names, "name": before.name})
        count = before.count + tally.count
        change = {"count": count, "lastTimestamp": _time(tally.last)}
        try:
            await self._api.patch(path, change, MERGE_PATCH)
        except ApiError as error:
            if error.is_missing or error.is_forbidden:
                return False
            raise
        before.count = count
        return True


def _body(said: _Said, tally: _Tally, component: str, host: str) -> dict[str, object]:
    about = said.about
    involved = {"apiVersion": "v1", "kind": about.kind, "name": about.name, "uid": about.uid}
    if about.namespace:
        involved["namespace"] = about.namespace
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{about.name[:200]}.{uuid.uuid4().hex[:16]}",
            "namespace": about.namespace or NOWHERE,
        },
        "involvedObject": involved,
        "reason": said.reason,
        "message": said.message,
        "type": "Warning" if said.warning else "Normal",
        "source": {"component": component, **({"host": host} if host else {})},
        "reportingComponent": component,
        "reportingInstance": host,
        "firstTimestamp": _time(tally.first),
        "lastTimestamp": _time(tally.last),
        "count": tally.count,
    }


def _cut(message: str) -> str:
    return message.encode(errors="replace")[:LONGEST].decode(errors="ignore")


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
