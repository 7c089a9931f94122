"""Events that people read with ``kubectl describe pod``: written behind the answer's back, and
dropped, counted, when the API server does not keep up (hami-scheduler.md 4.9).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from deviceplugin.apiserver.client import Api, ApiError, Path

__all__ = ["BINDING_FAILED", "BINDING_SUCCEED", "FILTERING_FAILED", "FILTERING_SUCCEED", "Events"]

FILTERING_FAILED, FILTERING_SUCCEED = "FilteringFailed", "FilteringSucceed"
BINDING_FAILED, BINDING_SUCCEED = "BindingFailed", "BindingSucceed"

MOST_WAITING = 1_000
LONGEST = 1_000
"""Of a message; the API server refuses more than 1,024 bytes."""


@dataclass(frozen=True, slots=True)
class _Event:
    namespace: str
    name: str
    uid: str
    reason: str
    message: str
    at: datetime


class Events:
    """Events about pods, written one after the other."""

    def __init__(
        self,
        api: Api,
        component: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api, self._component, self._now = api, component, now
        self._queue: asyncio.Queue[_Event] = asyncio.Queue(MOST_WAITING)
        self.dropped = 0
        """Events that nobody will read."""

    def say(self, namespace: str, name: str, uid: str, reason: str, message: str) -> None:
        """Tell about a pod; a failure by its reason is a warning."""
        text = message.encode()[:LONGEST].decode(errors="ignore")
        try:
            self._queue.put_nowait(_Event(namespace, name, uid, reason, text, self._now()))
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Write what comes until cancelled."""
        log = structlog.get_logger()
        while True:
            event = await self._queue.get()
            path = Path("/api/v1/namespaces/{namespace}/events", {"namespace": event.namespace})
            try:
                await self._api.create(path, self._body(event))
            except ApiError as error:
                self.dropped += 1
                log.warning("an event was not written", pod=event.name, reason=str(error))

    def _body(self, event: _Event) -> dict[str, object]:
        at = event.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{event.name[:200]}.{uuid.uuid4().hex[:16]}",
                "namespace": event.namespace,
            },
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": event.namespace,
                "name": event.name,
                "uid": event.uid,
            },
            "reason": event.reason,
            "message": event.message,
            "type": "Warning" if event.reason.endswith("Failed") else "Normal",
            "source": {"component": self._component},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
