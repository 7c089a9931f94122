"""Looks for pods that came past the webhook, and tells of each once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from deviceplugin.apiserver.events import Events, Subject
from deviceplugin.scheduler.cluster import Cluster
from deviceplugin.scheduler.events import CAME_PAST_WEBHOOK
from deviceplugin.scheduler.pods import PodRecord
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.scheduler.slipped import Slip, Slipped, slipped

__all__ = ["Sweep"]

INTERVAL_SECONDS = 60.0
AT_ONCE = 20
"""Pods that are looked at before others have a turn."""


class Sweep:
    """Goes over the pods that the watch knows, round after round; only the replica that leads tells
    of what it finds. A replica that begins to lead tells again of those that are still there.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        cluster: Cluster,
        pods: Callable[[], Iterable[PodRecord]],
        events: Events,
        leads: Callable[[], bool],
    ) -> None:
        self._settings, self._cluster, self._pods = settings, cluster, pods
        self._events, self._leads = events, leads
        self._told: set[tuple[str, Slip]] = set()
        self._fine: dict[str, PodRecord] = {}
        self._backends = cluster.backends
        self.found: tuple[Slipped, ...] = ()
        """Those of the last round."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            await self.round()

    async def round(self) -> None:
        """One look at every pod."""
        found = await self._looked()
        self.found = tuple(found)
        if not self._leads():
            self._told.clear()
            return
        log = structlog.get_logger()
        for one in found:
            if (one.uid, one.slip) in self._told:
                continue
            pod = f"{one.namespace}/{one.name}"
            log.warning("a pod came past the webhook", pod=pod, how=one.slip, reason=one.detail)
            about = Subject.pod(one.namespace, one.name, one.uid)
            message = f"{one.detail}; {one.remedy}"
            self._events.say(about, CAME_PAST_WEBHOOK, message, warning=True)
        self._told = {(one.uid, one.slip) for one in found}

    async def _looked(self) -> list[Slipped]:
        """Who slipped past; those that wait and were found to be fine are not looked at again."""
        backends = self._cluster.backends
        before = self._fine if backends is self._backends else {}
        found, fine = [], {}
        for number, record in enumerate(tuple(self._pods())):
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
            one = None
            if before.get(record.uid) is not record:
                one = slipped(record, self._settings, backends, self._has_devices)
            if one is not None:
                found.append(one)
            elif not record.bound:
                fine[record.uid] = record
        self._fine, self._backends = fine, backends
        return found

    def _has_devices(self, node: str, words: frozenset[str]) -> bool:
        view = self._cluster.view(node)
        return view is not None and bool(words & view.cards.keys())
