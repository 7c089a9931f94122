"""The scheduler's part of the handshake with nodes' agents (hami-scheduler.md 3.4, 1.9).

A stamp is written only where one is due: a question once a minute and agent at most, a deletion
once. Nodes with several vendors get one write for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import structlog

from deviceplugin.api.hami import handshake
from deviceplugin.apiserver.client import MERGE_PATCH, ApiError, Path
from deviceplugin.placement.fit import Backends
from deviceplugin.scheduler.cluster import Cluster
from deviceplugin.scheduler.fencing import FencedApi
from deviceplugin.scheduler.nodes import NodeRecord

__all__ = ["Handshakes", "due"]

INTERVAL_SECONDS = 15.0
AT_ONCE = 4
"""Writes at a time, so that binds never wait behind a round over thousands of nodes."""


def due(node: NodeRecord, backends: Backends, now: datetime) -> dict[str, str]:
    """The stamps that a node is to get now, by annotation. Pure. `now` has a zone.

    Only vendors that tell of devices there are asked, and NVIDIA's, which do not answer, never.
    """
    found: dict[str, str] = {}
    for word, backend in backends.items():
        keys = backend.keys
        if keys.handshake is None or keys.register not in node.facts.annotations:
            continue
        if word in handshake.SILENT:
            continue
        said = node.facts.annotations.get(keys.handshake)
        if handshake.spoke_lately(said, now):
            continue
        offered = node.facts.allocatable.get(backend.resources.count, 0)
        verdict = handshake.judge(said, now, allocatable=offered)
        if verdict.write is not None:
            found[keys.handshake] = handshake.encode(verdict.write)
    return found


class Handshakes:
    """Asks every node, round after round, as long as this replica leads."""

    def __init__(
        self,
        api: FencedApi,
        cluster: Cluster,
        leads: Callable[[], bool],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api, self._cluster, self._leads, self._now = api, cluster, leads, now
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self._leads():
                await self.round()
            await asyncio.sleep(INTERVAL_SECONDS)

    async def round(self) -> None:
        """One look at every node."""
        turns = asyncio.Semaphore(AT_ONCE)

        async def write(record: NodeRecord, stamps: Mapping[str, str]) -> None:
            async with turns:
                await self._write(record, stamps)

        async with asyncio.TaskGroup() as group:
            for name in self._cluster.names():
                record = self._cluster.record(name)
                stamps = due(record, self._cluster.backends, self._now()) if record else {}
                if record and stamps:
                    group.create_task(write(record, stamps))

    async def _write(self, record: NodeRecord, stamps: Mapping[str, str]) -> None:
        """Only on what was read: an agent that answers meanwhile is not taken for gone. What
        conflicts is looked at again in the next round.
        """
        change = {
            "metadata": {"annotations": dict(stamps), "resourceVersion": record.version},
        }
        try:
            await self._api.patch(Path.node(record.name), change, MERGE_PATCH)
        except ApiError as error:
            if not (error.is_missing or error.is_conflict):
                reason = str(error)
                self._log.warning("a handshake was not written", node=record.name, reason=reason)
