"""The scheduler put together: what it watches, what it answers, and what runs beside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

import structlog

from deviceplugin.apiserver.client import Api
from deviceplugin.apiserver.events import Events
from deviceplugin.placement.fit import Backends
from deviceplugin.scheduler.cluster import Cluster
from deviceplugin.scheduler.decisions import Decisions
from deviceplugin.scheduler.fencing import FencedApi
from deviceplugin.scheduler.leadership import Leading
from deviceplugin.scheduler.metrics import Moment, moment
from deviceplugin.scheduler.nodelock import NodeLocks
from deviceplugin.scheduler.podwrites import PodWrites
from deviceplugin.scheduler.quota import Quotas
from deviceplugin.scheduler.registration import Handshakes
from deviceplugin.scheduler.server import Routes
from deviceplugin.scheduler.service import ExtenderService
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.scheduler.surroundings import Surroundings
from deviceplugin.scheduler.sweep import Sweep
from deviceplugin.scheduler.takeover import Takeover
from deviceplugin.scheduler.watching import Watching
from deviceplugin.scheduler.webhook import Webhook
from deviceplugin.vendor.scheduling import SchedulingBackend

__all__ = ["Scheduler"]

BACKOFF_FIRST, BACKOFF_MOST = 0.5, 30.0

Part = Callable[[], Coroutine[Any, Any, None]]
"""What runs until it is cancelled."""


class Scheduler:
    """One replica. `backends` are those of all vendors, in the order in which they see a pod."""

    def __init__(
        self,
        settings: SchedulerSettings,
        backends: Iterable[SchedulingBackend],
        api: Api,
        leading: Leading,
        waited: Callable[[float], None] = lambda _seconds: None,
        surroundings: Surroundings | None = None,
    ) -> None:
        """`waited` is told of each bind how long it waited for a node's lock."""
        around = surroundings or Surroundings()
        self.settings = settings
        by_word = _by_word(backends)
        self.quotas = Quotas(by_word)
        self.cluster = Cluster(by_word, self.quotas.moved)
        self.watching = Watching(api, self.cluster, self.quotas, settings.node_labels)
        self.events = Events(api, settings.name)
        self.leading = leading
        self.webhook = Webhook(settings, by_word, self.quotas)
        fenced = FencedApi(api, leading)
        self.locks = NodeLocks(
            fenced,
            self.watching.nodes,
            self.watching.pod,
            settings.locks_expire_after,
            around,
            waited=waited,
        )
        self.decisions = Decisions(self.cluster, settings.decisions_lapse_after, around.monotonic)
        writes = PodWrites(fenced, lambda: self.cluster.results, around)
        self.takeover = Takeover(
            settings.name, leading, self.watching, self.decisions, writes, around.monotonic
        )
        self.service = ExtenderService(
            settings,
            self.cluster,
            self.quotas,
            self.decisions,
            writes,
            self.locks,
            self.watching,
            self.takeover,
            self.events,
            around,
        )
        self._handshakes = Handshakes(fenced, self.cluster, leading.is_leader)
        self.sweep = Sweep(
            settings,
            self.cluster,
            lambda: self.watching.pods.objects.values(),
            self.events,
            leading.is_leader,
        )

    async def serve(self, backends: Iterable[SchedulingBackend]) -> None:
        """Decide by these backends from now on: the cluster, the quotas and the webhook change
        together, in one turn of the loop, and nothing that was decided is lost. Raises what a
        backend raises; then the former ones stay.
        """
        by_word = _by_word(backends)
        nodes, pods = self.watching.nodes.objects, self.watching.pods.objects
        nodes_then, pods_then = dict(nodes), dict(pods)
        fresh = await asyncio.to_thread(
            Cluster.of, by_word, nodes_then.values(), pods_then.values()
        )
        # From here on nothing else runs until all of it is done.
        for node in _missed(nodes_then, nodes, lambda old: fresh.drop_node(old.name)):
            fresh.set_node(node)
        for pod in _missed(pods_then, pods, lambda old: fresh.drop_pod(old.uid)):
            fresh.set_pod(pod)
        self.cluster.become(fresh)
        self.quotas.serve(by_word, self.watching.limits.objects.values(), self.cluster.holdings())
        self.webhook.serve(by_word)

    def routes(self) -> Routes:
        """What is answered, by path."""
        return {
            "/filter": self.service.filter,
            "/bind": self.service.bind,
            "/preempt": self.service.preempt,
            "/webhook": self.webhook.mutate,
            "/validate": self.webhook.validate,
        }

    def moment(self) -> Moment:
        """What there is to tell of the cluster and of this replica, for metrics."""
        facts = {
            "nodes": len(self.cluster.names()),
            "pods": sum(1 for _ in self.cluster.holdings()),
            "leader": self.leading.is_leader(),
            "synced": self.watching.synced,
            "decisions": len(self.decisions),
            "decision_oldest_seconds": self.decisions.oldest(),
            "lock_waits": self.locks.waiting,
            "lock_oldest_wait_seconds": self.locks.oldest(),
            "stuck_nodes": len(self.locks.stuck()),
            "events_waiting": self.events.waiting,
            "slipped_pods": len(self.sweep.found),
            "stray_devices": sum(map(len, self.watching.strays.values())),
            "unreadable_nodes": sum(1 for n in self.cluster.names() if self.cluster.problems(n)),
        }
        totals = {
            "drift": self.watching.drift,
            "decisions_lapsed": self.decisions.lapsed,
            "takeovers": self.takeover.times,
            "events_dropped": self.events.dropped,
        }
        found = moment(self.cluster, self.service.counts, facts, self.quotas)
        return replace(found, reasons=dict(self.service.reasons), totals=totals)

    def blockers(self) -> Mapping[str, str]:
        """Why this replica is not ready, by name. Followers are ready: they serve the webhook."""
        return {} if self.watching.synced else {"cluster": "not seen whole yet"}

    async def run(self, **beside: Part) -> None:
        """Until cancelled; a part that ends is started again. `beside` are more parts, by name."""
        async with asyncio.TaskGroup() as group:
            group.create_task(_again("watches", self.watching.run))
            group.create_task(_again("events", self.events.run))
            group.create_task(_again("handshakes", self._handshakes.run))
            group.create_task(_again("sweep", self.sweep.run))
            group.create_task(_again("leadership", self.leading.run))
            group.create_task(_again("takeover", self.takeover.run))
            group.create_task(_again("decisions", self.decisions.run))
            for name, run in beside.items():
                group.create_task(_again(name, run))


T = TypeVar("T")


def _missed(
    then: Mapping[str, T], now: Mapping[str, T], dropped: Callable[[T], None]
) -> Iterator[T]:
    """The objects that are there now and were not, or were others; `dropped` hears of those that
    are there no more.
    """
    for key, old in then.items():
        if now.get(key) is not old:
            dropped(old)
    for key, new in now.items():
        if then.get(key) is not new:
            yield new


def _by_word(backends: Iterable[SchedulingBackend]) -> Backends:
    return MappingProxyType({backend.keys.common_word: backend for backend in backends})


async def _again(name: str, run: Part) -> None:
    loop = asyncio.get_running_loop()
    delay = BACKOFF_FIRST
    while True:
        started = loop.time()
        try:
            await run()
        except Exception:
            structlog.get_logger().exception("a part of the scheduler ended", part=name)
        if loop.time() - started > BACKOFF_MOST:
            delay = BACKOFF_FIRST
        await asyncio.sleep(delay)
        delay = min(delay * 2, BACKOFF_MOST)
