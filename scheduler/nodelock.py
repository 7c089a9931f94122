"""The lock that a node needs while its agent cannot tell pods apart (hami-scheduler.md 3.6).

Whoever wants a node waits in line: within this process by an asyncio lock a node, which is fair,
for others by the watch. One conditional write takes the lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from deviceplugin.api.fields import duration_text
from deviceplugin.api.hami import keys, nodelock
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.nodelock import NodeLock
from deviceplugin.apiserver.client import MERGE_PATCH, ApiError, Path
from deviceplugin.apiserver.reflector import Reflector
from deviceplugin.scheduler.fencing import WRITE_SECONDS, FencedApi
from deviceplugin.scheduler.nodes import NodeRecord
from deviceplugin.scheduler.pods import ENDED, PodRecord
from deviceplugin.scheduler.surroundings import Surroundings

__all__ = ["LockedError", "NodeLocks"]

PAUSE_SECONDS = 0.05
LEAST_SECONDS = 0.2
"""With less left no more is tried."""
RELEASE_SECONDS = 5.0
VENDOR_TIMEOUT = timedelta(minutes=2)
"""Of a vendor's own lock (Cambricon's), whatever the setting is, because its plugin goes by it. It
is a time and names no pod.
"""
AVOID_SECONDS = 120.0
"""A node on which a bind gave up waiting is looked at last for so long, while the lock stands that
was in its way."""
LOOK_SECONDS = 1.0
"""An expired lock is seen at the latest so long after it expired."""


class LockedError(Exception):
    """A node stays locked for somebody else; the text says for whom, and since when."""


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """A lock that somebody waited for in vain, until `since`."""

    annotation: str
    text: str
    since: float


@dataclass(slots=True)
class _Line:
    """Those who want one node: one has its `turn`, and as many as `length` want it."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    length: int = 0


class NodeLocks:
    """The locks of all nodes. Every coroutine raises `ApiError` and `LockedError`."""

    def __init__(
        self,
        api: FencedApi,
        nodes: Reflector[NodeRecord],
        pod: Callable[[str, str], PodRecord | None],
        timeout: timedelta,
        surroundings: Surroundings,
        waited: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """`pod` finds a pod as the watch shows it; `waited` is told how long each waited."""
        self._api, self._nodes, self._pod, self._timeout = api, nodes, pod, timeout
        self._now, self._monotonic = surroundings.now, surroundings.monotonic
        self._chance = surroundings.chance
        self._waited = waited
        self._lines: dict[str, _Line] = {}
        self._since: dict[object, float] = {}
        """When those who wait now began to, the first of them first."""
        self._in_the_way: dict[str, _Obstacle] = {}
        self._turns: set[asyncio.Timeout] = set()
        self._closed = False

    @property
    def waiting(self) -> int:
        """Pods that wait in line now."""
        return len(self._since)

    def oldest(self) -> float:
        """Seconds since the first of them began to wait; 0 where nobody does."""
        began = next(iter(self._since.values()), None)
        return 0.0 if began is None else self._monotonic() - began

    def stuck(self) -> frozenset[str]:
        """The nodes on which a bind waited in vain lately, for a lock that still stands: its agent
        may be gone, and whoever is sent there next waits as long.
        """
        now = self._monotonic()
        self._in_the_way = {
            node: each
            for node, each in self._in_the_way.items()
            if each.text
            and each.text == self._text(node, each.annotation)
            and now - each.since < AVOID_SECONDS
        }
        return frozenset(self._in_the_way)

    async def acquire(
        self, node: str, annotation: str, namespace: str, name: str, until: float
    ) -> str:
        """Take a node's lock for a pod, at most until this instant of the monotonic clock; answers
        its text, to give it back with. A lock that the pod has already is its own.
        """
        line, ticket = self._lines.setdefault(node, _Line()), object()
        line.length += 1
        began = self._since[ticket] = self._monotonic()
        try:
            # Only the waiting is cut short: a write that is under way ends, or nobody would know
            # whose lock it left behind.
            async with asyncio.timeout(max(until - self._monotonic(), 0)) as turn:
                self._turns.add(turn)
                try:
                    await line.turn.acquire()
                finally:
                    self._turns.discard(turn)
            try:
                while not self._closed:
                    mine, text = await self._found(node, annotation, namespace, name, until)
                    if mine:
                        return text
                    left = until - self._monotonic()
                    if left <= 0:
                        raise TimeoutError
                    await self._news(node, annotation, text, min(left, LOOK_SECONDS))
                raise TimeoutError
            finally:
                line.turn.release()
        except TimeoutError:
            if self._closed:
                raise LockedError(f"node {node}: this replica stops, another one binds") from None
            self._in_the_way[node] = _Obstacle(
                annotation, self._text(node, annotation), self._monotonic()
            )
            raise LockedError(self._holder(node, annotation)) from None
        finally:
            del self._since[ticket]
            self._waited(self._monotonic() - began)
            line.length -= 1
            if not line.length:
                del self._lines[node]

    def close(self) -> None:
        """Nobody waits any more: binds that do not have their lock yet are another replica's."""
        self._closed = True
        now = asyncio.get_running_loop().time()
        for turn in self._turns:
            if not turn.expired():
                turn.reschedule(now)

    async def release(self, node: str, annotation: str, text: str) -> None:
        """Give back the very lock that was taken; another's stays, and one that cannot be given
        back in time expires.
        """
        until = self._monotonic() + RELEASE_SECONDS
        while self._monotonic() < until:
            record = self._nodes.objects.get(f"/{node}")
            if record is None or record.facts.annotations.get(annotation) != text:
                return
            if await self._written(record, annotation, None, until):
                return

    async def _found(
        self, node: str, annotation: str, namespace: str, name: str, until: float
    ) -> tuple[bool, str]:
        """Whether the lock is the pod's now, and its text: its own, or that of a lock which another
        needs. Raises `TimeoutError` when it is too late.
        """
        while until - self._monotonic() > LEAST_SECONDS:
            record = self._nodes.objects.get(f"/{node}")
            if record is None:
                raise LockedError(f"node {node} is gone")
            lock = self._lock(record, annotation)
            if lock is not None:
                if lock.held_by(namespace, name):
                    return True, record.facts.annotations[annotation]
                if not await self._abandoned(node, annotation, lock, until):
                    return False, record.facts.annotations[annotation]
            pod = (namespace, name) if annotation == keys.MUTEX_LOCK else ()
            text = nodelock.encode(NodeLock(self._now(), *pod), annotation)
            try:
                if await self._written(record, annotation, text, until):
                    return True, text
            except ApiError as error:
                if error.is_ambiguous:
                    await self._take_back(node, annotation, text)
                raise
        raise TimeoutError

    async def _take_back(self, node: str, annotation: str, text: str) -> None:
        """After a write without an answer: what it left behind, if it was done."""
        try:
            self._nodes.learn(await self._api.get(Path.node(node)))
            await self.release(node, annotation, text)
        except ApiError:
            return  # it expires

    def _lock(self, record: NodeRecord, annotation: str) -> NodeLock | None:
        text = record.facts.annotations.get(annotation)
        if text is None:
            return None
        try:
            return nodelock.decode(text, annotation)
        except AnnotationError as error:
            raise LockedError(f"node {record.name}: {error}") from None

    async def _written(
        self, record: NodeRecord, annotation: str, text: str | None, until: float
    ) -> bool:
        """Whether the write came on exactly what was read; if not, it is to be tried again, where
        it conflicted on the node as it is now.
        """
        path = Path.node(record.name)
        change: Mapping[str, Any] = {
            "metadata": {
                "annotations": {annotation: text},
                "resourceVersion": record.version,
            }
        }
        within = min(until - self._monotonic(), WRITE_SECONDS)
        try:
            self._nodes.learn(await self._api.patch(path, change, MERGE_PATCH, within))
        except ApiError as error:
            if error.is_throttled:
                await asyncio.sleep(max(error.retry_after or 0.0, PAUSE_SECONDS))
                return False
            if not error.is_conflict:
                raise
            await asyncio.sleep(self._chance() * PAUSE_SECONDS)
            self._nodes.learn(await self._api.get(path, within=within))
            return False
        return True

    async def _abandoned(self, node: str, annotation: str, lock: NodeLock, until: float) -> bool:
        """Whether nobody waits behind a lock: its pod is gone, has ended or is on another node; or
        it has expired, and its pod has been served, is being deleted, or is on no node yet: nobody
        takes so long between lock and Binding.
        """
        old = nodelock.expired(lock, self._now(), self._timeout_of(annotation))
        if not lock.names_pod:
            return old
        seen = self._pod(lock.namespace, lock.name)
        if seen is not None and seen.bound in ("", node) and not old:
            return False
        within = min(until - self._monotonic(), WRITE_SECONDS)
        try:
            pod = await self._api.get(Path.pod(lock.namespace, lock.name), within=within)
        except ApiError as error:
            if error.is_missing:
                return True
            raise
        if (pod.get("status") or {}).get("phase") in ENDED:
            return True
        bound = (pod.get("spec") or {}).get("nodeName")
        if bound and bound != node:
            return True
        return old and not (bound and _waits(pod))

    async def _news(self, node: str, annotation: str, other: str, seconds: float) -> None:
        """Wait until a lock is another than this one, which it may be already."""

        def changed() -> bool:
            now = self._nodes.objects.get(f"/{node}")
            return now is None or now.facts.annotations.get(annotation) != other

        await self._nodes.wait_for(changed, seconds)

    def _timeout_of(self, annotation: str) -> timedelta:
        return self._timeout if annotation == keys.MUTEX_LOCK else VENDOR_TIMEOUT

    def _text(self, node: str, annotation: str) -> str:
        record = self._nodes.objects.get(f"/{node}")
        return record.facts.annotations.get(annotation, "") if record else ""

    def _holder(self, node: str, annotation: str) -> str:
        text = self._text(node, annotation) or "by other pods that are bound there now"
        within = duration_text(self._timeout_of(annotation).total_seconds())
        return f"node {node} has been locked within {within}: {text}: node lock contention"


def _waits(pod: Mapping[str, Any]) -> bool:
    """Whether a bound pod was not served yet, and will be."""
    metadata = pod.get("metadata") or {}
    phase = (metadata.get("annotations") or {}).get(keys.BIND_PHASE)
    return phase == "allocating" and not metadata.get("deletionTimestamp")
