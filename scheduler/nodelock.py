"""The lock that a node needs while its agent cannot tell pods apart (hami-scheduler.md 3.6).

Whoever wants a node waits in line: within this process by an asyncio lock a node, which is fair,
for others by the watch. One conditional write takes the lock.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from deviceplugin.api.fields import duration_text
from deviceplugin.api.hami import keys, nodelock
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.nodelock import NodeLock
from deviceplugin.apiserver.client import MERGE_PATCH, ApiError, Path
from deviceplugin.apiserver.reflector import Reflector
from deviceplugin.scheduler.fencing import FencedApi
from deviceplugin.scheduler.nodes import NodeRecord
from deviceplugin.scheduler.pods import ENDED

__all__ = ["LockedError", "NodeLocks"]

LOOK_SECONDS = 1.0
"""An expired lock is seen at the latest so long after it expired."""


class LockedError(Exception):
    """A node stays locked for somebody else; the text says for whom, and since when."""


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
        timeout: timedelta,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._nodes, self._timeout = api, nodes, timeout
        self._now, self._monotonic = now, monotonic
        self._lines: dict[str, _Line] = {}
        self.waiting = 0
        """Pods that wait in line now."""

    async def acquire(
        self, node: str, annotation: str, namespace: str, name: str, until: float
    ) -> None:
        """Take a node's lock for a pod, at most until this instant of the monotonic clock. A lock
        that the pod has already is its own.
        """
        line = self._lines.setdefault(node, _Line())
        line.length += 1
        self.waiting += 1
        try:
            # Only the waiting is cut short: a write that is under way ends, or nobody would know
            # whose lock it left behind.
            async with asyncio.timeout(max(until - self._monotonic(), 0)):
                await line.turn.acquire()
            try:
                while other := await self._other(node, annotation, namespace, name, until):
                    left = until - self._monotonic()
                    if left <= 0:
                        raise TimeoutError
                    await self._news(node, annotation, other, min(left, LOOK_SECONDS))
            finally:
                line.turn.release()
        except TimeoutError:
            raise LockedError(self._holder(node, annotation)) from None
        finally:
            self.waiting -= 1
            line.length -= 1
            if not line.length:
                del self._lines[node]

    async def release(self, node: str, annotation: str, namespace: str, name: str) -> None:
        """Give back the pod's own lock; another's stays."""
        while (record := self._nodes.objects.get(f"/{node}")) is not None:
            lock = self._lock(record, annotation)
            if lock is None or not lock.held_by(namespace, name):
                return
            if await self._written(record, annotation, None):
                return

    async def _other(
        self, node: str, annotation: str, namespace: str, name: str, until: float
    ) -> str:
        """The text of a lock that another needs; empty once the lock is the pod's. Raises
        `TimeoutError` when it is too late.
        """
        while self._monotonic() < until:
            record = self._nodes.objects.get(f"/{node}")
            if record is None:
                raise LockedError(f"node {node} is gone")
            lock = self._lock(record, annotation)
            if lock is not None:
                if lock.held_by(namespace, name):
                    return ""
                if not await self._abandoned(node, lock):
                    return record.facts.annotations[annotation]
            text = nodelock.encode(NodeLock(self._now(), namespace, name), annotation)
            if await self._written(record, annotation, text):
                return ""
        raise TimeoutError

    def _lock(self, record: NodeRecord, annotation: str) -> NodeLock | None:
        text = record.facts.annotations.get(annotation)
        if text is None:
            return None
        try:
            return nodelock.decode(text, annotation)
        except AnnotationError as error:
            raise LockedError(f"node {record.name}: {error}") from None

    async def _written(self, record: NodeRecord, annotation: str, text: str | None) -> bool:
        """Whether the write came on exactly what was read; if not, the node is read anew."""
        path = Path.node(record.name)
        change: Mapping[str, Any] = {
            "metadata": {
                "annotations": {annotation: text},
                "resourceVersion": record.version,
            }
        }
        try:
            self._nodes.learn(await self._api.patch(path, change, MERGE_PATCH))
        except ApiError as error:
            if not error.is_conflict:
                raise
            await asyncio.sleep(random.uniform(0, 0.05))  # noqa: S311
            self._nodes.learn(await self._api.get(path))
            return False
        return True

    async def _abandoned(self, node: str, lock: NodeLock) -> bool:
        """Whether nobody waits behind a lock: it has expired, and its pod is gone, was bound
        elsewhere, or has been served. A lock of a pod that is gone need not expire.
        """
        old = nodelock.expired(lock, self._now(), self._timeout)
        if not lock.names_pod:
            return old
        try:
            pod = await self._api.get(Path.pod(lock.namespace, lock.name))
        except ApiError as error:
            if error.is_missing:
                return True
            raise
        return old and not _waits(pod, node)

    async def _news(self, node: str, annotation: str, other: str, seconds: float) -> None:
        """Wait until a lock is another than this one, which it may be already."""

        def changed() -> bool:
            now = self._nodes.objects.get(f"/{node}")
            return now is None or now.facts.annotations.get(annotation) != other

        await self._nodes.wait_for(changed, seconds)

    def _holder(self, node: str, annotation: str) -> str:
        record = self._nodes.objects.get(f"/{node}")
        text = record.facts.annotations.get(annotation, "nobody") if record else "nobody"
        within = duration_text(self._timeout.total_seconds())
        return f"node {node} has been locked within {within}: {text}: node lock contention"


def _waits(pod: Mapping[str, Any], node: str) -> bool:
    metadata = pod.get("metadata") or {}
    phase = (metadata.get("annotations") or {}).get(keys.BIND_PHASE)
    return (
        (pod.get("status") or {}).get("phase") not in ENDED
        and (pod.get("spec") or {}).get("nodeName") in (node, None, "")
        and phase == "allocating"
    )
