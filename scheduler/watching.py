"""Keeps the cluster up to date with the API server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import structlog

from deviceplugin.apiserver.client import NODES, PODS, QUOTAS, Api
from deviceplugin.apiserver.reflector import Change, Reflector
from deviceplugin.scheduler.cluster import Cluster, Holding
from deviceplugin.scheduler.nodes import NodeRecord, node_record
from deviceplugin.scheduler.pods import PodRecord, pod_record
from deviceplugin.scheduler.quota import QuotaRecord, Quotas, quota_record

__all__ = ["Watching"]

CHECK_SECONDS = 60.0
"""Between two rounds in which every node is counted anew."""
PAUSE_SECONDS = 0.02
"""Between two nodes of a round, and between so many pods: nobody who asks waits for the check, and
with thousands of nodes it takes no more than some percent of a core.
"""
PODS_AT_ONCE = 100


class Watching:
    """Watches of nodes, pods and quotas, and the check that what is kept is what they say."""

    def __init__(
        self,
        api: Api,
        cluster: Cluster,
        quotas: Quotas,
        node_labels: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._cluster, self._quotas, self._labels = cluster, quotas, node_labels
        self.nodes = Reflector[NodeRecord](api, NODES, self._node, self._node_changed)
        self.pods = Reflector[PodRecord](api, PODS, pod_record, self._pod_changed)
        self.limits = Reflector[QuotaRecord](api, QUOTAS, quota_record, self._quota_changed)
        self.drift = 0
        """Nodes that were found to be kept wrongly, so far."""
        self.strays: dict[str, tuple[str, ...]] = {}
        """Devices that pods hold and that their nodes did not tell of at the last look, by uid."""
        self._problems: dict[str, tuple[str, ...]] = {}
        self._log = structlog.get_logger()

    @property
    def synced(self) -> bool:
        """Whether the whole cluster has been seen since the start."""
        return self.nodes.synced and self.pods.synced and self.limits.synced

    @property
    def problem(self) -> str:
        """Why nothing new is heard now; empty while all is well."""
        return self.nodes.problem or self.pods.problem or self.limits.problem

    def pod(self, namespace: str, name: str) -> PodRecord | None:
        """A pod that was decided about."""
        found = self.pods.objects.get(f"{namespace}/{name}")
        return found if found is not None and found.node else None

    async def run(self) -> None:
        """Follow the cluster until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.nodes.run())
            group.create_task(self.pods.run())
            group.create_task(self.limits.run())
            group.create_task(self._check())

    def _node(self, item: Mapping[str, Any]) -> NodeRecord | None:
        labels = (item.get("metadata") or {}).get("labels") or {}
        if any(labels.get(key) != value for key, value in self._labels):
            return None
        return node_record(item)

    def _node_changed(self, change: Change[NodeRecord]) -> None:
        if change.new is None:
            name = change.key.rpartition("/")[2]
            self._cluster.drop_node(name)
            self._problems.pop(name, None)
            return
        self._cluster.set_node(change.new)
        name = change.new.name
        problems = self._cluster.problems(name)
        if problems != self._problems.get(name, ()):
            self._problems[name] = problems
            for problem in problems:
                self._log.warning("a node's devices cannot be read", node=name, reason=problem)

    def _pod_changed(self, change: Change[PodRecord]) -> None:
        if change.old is not None and (change.new is None or change.new.uid != change.old.uid):
            self._cluster.drop_pod(change.old.uid)
        if change.new is not None and change.new != change.old:
            for problem in self._cluster.set_pod(change.new):
                self._log.warning("a pod's devices cannot be read", pod=change.key, reason=problem)

    def _quota_changed(self, change: Change[QuotaRecord]) -> None:
        if change.new is None:
            namespace, _, name = change.key.rpartition("/")
            self._quotas.drop_quota(namespace, name)
            return
        for problem in self._quotas.set_quota(change.new):
            self._log.warning("a quota's limit does not hold", quota=change.key, reason=problem)

    async def _check(self) -> None:
        """Round after round, whatever goes wrong with one node or pod."""
        unseen: frozenset[str] = frozenset()
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for name in self._cluster.names():
                self._checked(name, partial(self._cluster.drift, name))
                await asyncio.sleep(PAUSE_SECONDS)
            unseen = await self.check_pods(unseen)

    async def check_pods(self, before: frozenset[str] = frozenset()) -> frozenset[str]:
        """Look whether every bound pod counts and no other does. Answers those that hold devices
        and are not seen; of them those that were not `before` either, a round ago, cease to count.
        """
        cluster = self._cluster
        seen = {record.uid: record for record in self.pods.objects.values()}
        unseen, strays = set(), {}
        for number, holding in enumerate(tuple(cluster.holdings())):
            self._checked(holding.node, partial(cluster.uncounted, holding.uid))
            if found := cluster.strays(holding.uid):
                strays[holding.uid] = found
                self._strayed(holding, found)
            if holding.uid not in seen and cluster.bound(holding.uid):
                unseen.add(holding.uid)
            if number % PODS_AT_ONCE == 0:
                await asyncio.sleep(PAUSE_SECONDS)
        self.strays = strays
        for uid in unseen & before:
            self._checked(cluster.bound(uid), partial(self._dropped, uid))
        for number, record in enumerate(tuple(seen.values())):
            if record.bound and not cluster.bound(record.uid):
                self._checked(record.bound, partial(self._counted, record))
            if number % PODS_AT_ONCE == 0:
                await asyncio.sleep(PAUSE_SECONDS)
        return frozenset(unseen)

    def _strayed(self, holding: Holding, devices: tuple[str, ...]) -> None:
        if devices != self.strays.get(holding.uid):
            self._log.warning(
                "a pod holds devices that its node does not tell of: they count nowhere",
                pod=f"{holding.namespace}/{holding.name}",
                node=holding.node,
                devices=", ".join(devices),
            )

    def _dropped(self, uid: str) -> bool:
        self._cluster.drop_pod(uid)
        return True

    def _counted(self, record: PodRecord) -> bool:
        """Whether a pod counts now that did not; it may have gone since it was looked up."""
        if self.pods.objects.get(record.key) != record:
            return False
        self._cluster.set_pod(record)
        return bool(self._cluster.bound(record.uid))

    def _checked(self, node: str, wrong: Callable[[], bool]) -> None:
        try:
            if not wrong():
                return
        except Exception:
            self._log.exception("a node cannot be counted anew", node=node)
            return
        self.drift += 1
        self._log.warning("a node was counted wrongly and is set right", node=node)
