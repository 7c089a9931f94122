"""What a replica does before it decides for the first time since somebody else may have.

It forgets what it assumed itself, hears everything that was bound before, and voids what was
decided and not bound: from then on no Binding of anybody who led before has an effect, however late
it comes (`podwrites`). A replica that starts cannot know who led before, so it does the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, Final

import structlog

from deviceplugin.apiserver.client import ApiError
from deviceplugin.scheduler.decisions import Decisions
from deviceplugin.scheduler.leadership import Leading
from deviceplugin.scheduler.pods import PodRecord
from deviceplugin.scheduler.podwrites import ChangedError, PodWrites
from deviceplugin.scheduler.watching import Watching

__all__ = ["Takeover"]

HEAR_SECONDS = 3.0
"""That the watch is given to tell everything; then the pods are listed anew."""
VOID_SECONDS = 10.0
AT_ONCE = 16
LOOK_SECONDS = 0.5

_NEVER: Final = object()


class Takeover:
    """Whether this replica may decide now."""

    def __init__(
        self,
        scheduler: str,
        leading: Leading,
        watching: Watching,
        decisions: Decisions,
        writes: PodWrites,
        monotonic: Callable[[], float],
    ) -> None:
        """Only decisions about pods of this `scheduler` are its to void."""
        self._scheduler, self._leading, self._watching = scheduler, leading, watching
        self._decisions, self._writes, self._monotonic = decisions, writes, monotonic
        self._term: Hashable = _NEVER
        self._turn = asyncio.Lock()
        self.times = 0
        """That it began to decide, so far."""
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Take over as soon as this replica leads, so that the first pod need not wait for it;
        until cancelled.
        """
        while True:
            await self.ready()
            await asyncio.sleep(LOOK_SECONDS)

    async def ready(self) -> str:
        """Why it may not; empty once it may."""
        while not (unable := self._unable()) and self._leading.term != self._term:
            async with self._turn:
                term = self._leading.term
                if term == self._term:
                    continue
                try:
                    await self._take_over()
                except (ApiError, ChangedError) as error:
                    return f"this replica has just begun to lead and cannot decide yet: {error}"
                self._term = term
                self.times += 1
        return unable

    def _unable(self) -> str:
        if not self._leading.is_leader():
            return f"this replica does not lead: {self._leading.holder} does"
        if not self._watching.synced:
            return "the cluster is not known yet: cache not synced"
        return ""

    async def _take_over(self) -> None:
        self._decisions.drop_all()
        await self._watching.pods.catch_up(HEAR_SECONDS)
        left = [
            record
            for record in self._watching.pods.objects.values()
            if record.node and not record.bound and record.scheduler == self._scheduler
        ]
        turns = asyncio.Semaphore(AT_ONCE)
        until = self._monotonic() + VOID_SECONDS

        async def void(record: PodRecord) -> None:
            async with turns:
                await self._writes.void(
                    record.namespace, record.name, record.uid, until, _item(record)
                )

        ended = await asyncio.gather(*map(void, left), return_exceptions=True)
        for error in filter(None, ended):
            raise error
        if left:
            self._log.info("decisions of before are void", pods=len(left))
            await self._watching.pods.catch_up(HEAR_SECONDS)


def _item(record: PodRecord) -> dict[str, Any]:
    """A pod as it was seen, as far as voiding goes."""
    pod = record.pod
    return {
        "metadata": {
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
            "resourceVersion": record.version,
            "annotations": pod.annotations,
        },
        "spec": {},
    }
