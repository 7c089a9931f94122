"""What kube-scheduler asks an extender: filter, bind, preempt; from bytes to bytes.

Between the choice of a node and the moment when it counts nothing else runs, so that two filters
never give away the same thing; only then is it written to the pod.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.keys import VGPU_NODE
from deviceplugin.apiserver.client import MERGE_PATCH, ApiError, Path
from deviceplugin.apiserver.events import Events, Subject
from deviceplugin.placement.objects import pod_spec
from deviceplugin.placement.write import decision
from deviceplugin.scheduler import extender, filtering
from deviceplugin.scheduler.binding import Binder, NotBoundError
from deviceplugin.scheduler.cluster import Cluster
from deviceplugin.scheduler.deciding import decide, helps, holding_of
from deviceplugin.scheduler.events import (
    BINDING_FAILED,
    BINDING_SUCCEED,
    FILTERING_FAILED,
    FILTERING_SUCCEED,
)
from deviceplugin.scheduler.fencing import FencedApi
from deviceplugin.scheduler.filtering import Found, Nowhere, Request
from deviceplugin.scheduler.leadership import Leading
from deviceplugin.scheduler.nodes import node_record
from deviceplugin.scheduler.quota import Quotas
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.vendor.scheduling import PodSpec, Reason

__all__ = ["ExtenderService"]

MOST_NAMED = 20
"""Nodes that an event names for one reason."""


@dataclass(slots=True)
class ExtenderService:
    """Answers for one scheduler. `synced` says whether the cluster is known, `counts` what was
    answered, by verb and outcome.
    """

    settings: SchedulerSettings
    api: FencedApi
    cluster: Cluster
    binder: Binder
    events: Events
    leading: Leading
    quotas: Quotas
    synced: Callable[[], bool]
    clock_ns: Callable[[], int] = time.time_ns
    monotonic: Callable[[], float] = time.monotonic
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _term: Hashable = field(default=0, init=False)

    # --- filter -----------------------------------------------------------------------------------

    async def filter(self, body: bytes) -> bytes:
        """One node of those that are offered, or why none."""
        try:
            asked = extender.parse_filter(body)
            pod = pod_spec(asked.pod)
            if unable := self._unable():
                return self._filtered("unable", error=unable)
            wanted = self._request(self.cluster, pod)
        except (ValueError, AttributeError) as error:
            return self._filtered("refused", error=str(error))
        if asked.nodes is not None:
            return self._simulated(wanted, asked.nodes)
        if asked.names is None:
            return self._filtered("refused", error="extender args without NodeNames and Nodes")
        if not wanted.words:
            return self._filtered("nothing asked", asked.names)
        return await self._decided(wanted, asked.names)

    async def _decided(self, wanted: Request, names: Sequence[str]) -> bytes:
        pod = wanted.pod
        found = self._choose(self.cluster, wanted, names)
        if isinstance(found, Nowhere):
            self.cluster.forget(pod.uid)
            self._say(pod, FILTERING_FAILED, _nowhere(found, len(names)))
            return self._filtered("nowhere", failed=_texts(found))
        try:
            annotations = self._annotations(wanted, found)
        except (AnnotationError, ValueError) as error:
            self._say(pod, FILTERING_FAILED, str(error))
            return self._filtered("refused", error=str(error))
        node = found.placement.node
        self.cluster.assume(holding_of(wanted, found, self.cluster))
        change = {
            "metadata": {
                "uid": pod.uid,
                "annotations": annotations,
                "labels": {VGPU_NODE: node},
            }
        }
        try:
            await self.api.patch(Path.pod(pod.namespace, pod.name), change, MERGE_PATCH)
        except ApiError as error:
            self.cluster.forget(pod.uid)
            self._say(pod, FILTERING_FAILED, str(error))
            return self._filtered("not written", error=str(error))
        message = (
            f"find fit node({node}), {found.passed} nodes not fit, "
            f"1 nodes fit({node}:{found.placement.score:.2f})"
        )
        self._say(pod, FILTERING_SUCCEED, message)
        return self._filtered("placed", [node])

    def _annotations(self, wanted: Request, found: Found) -> dict[str, str]:
        record = self.cluster.record(found.placement.node)
        return decision(
            found.placement,
            found.view,
            wanted.pod,
            wanted.asks,
            self.cluster.backends,
            self.clock_ns(),
            init_listed=record is not None and record.ours,
        )

    def _simulated(self, wanted: Request, items: Sequence[Mapping[str, Any]]) -> bytes:
        """What would be on these nodes as they are given; nothing is kept or written."""
        if not wanted.words:
            return self._filtered("simulated", nodes=items)
        imagined = Cluster(self.cluster.backends)
        by_name: dict[str, Mapping[str, Any]] = {}
        for item in items:
            try:
                record = node_record(item)
            except (ValueError, AttributeError) as error:
                return self._filtered("refused", error=f"a node that is none: {error}")
            by_name[record.name] = item
            imagined.set_node(record)
        for holding in self.cluster.holdings():
            if holding.node in by_name:
                imagined.assume(holding)
        found = self._choose(imagined, wanted, list(by_name))
        if isinstance(found, Nowhere):
            return self._filtered("simulated", failed=_texts(found), nodes=())
        return self._filtered("simulated", nodes=[by_name[found.placement.node]])

    # --- bind -------------------------------------------------------------------------------------

    async def bind(self, body: bytes) -> bytes:
        """The pod bound to its node, or why not."""
        until = self.monotonic() + self.settings.bind_patience
        try:
            order = extender.parse_bind(body)
        except ValueError as error:
            self.counts["bind", "refused"] += 1
            return extender.bind_result(str(error))
        if unable := self._unable():
            self.counts["bind", "unable"] += 1
            return extender.bind_result(unable)
        pod = Subject.pod(order.namespace, order.name, order.uid)
        try:
            await self.binder.bind(order, until)
        except NotBoundError as error:
            self.counts["bind", "failed"] += 1
            self.events.say(pod, BINDING_FAILED, str(error), warning=True)
            return extender.bind_result(str(error))
        self.counts["bind", "bound"] += 1
        message = f"Successfully binding node [{order.node}] to {order.namespace}/{order.name}"
        self.events.say(pod, BINDING_SUCCEED, message, warning=False)
        return extender.bind_result()

    # --- preempt ----------------------------------------------------------------------------------

    async def preempt(self, body: bytes) -> bytes:
        """The nodes on which the pod fits once their victims are gone, none to go too."""
        asked = extender.parse_preempt(body)
        pod = pod_spec(asked.pod)
        wanted = self._request(self.cluster, pod)
        if not wanted.words:
            return extender.preempt_result(asked.victims, asked.violations)
        left = {
            name: uids
            for name, uids in asked.victims.items()
            if helps(self.cluster, self.quotas, wanted, name, uids)
        }
        self.counts["preempt", "helps" if left else "does not help"] += 1
        return extender.preempt_result(left, asked.violations)

    # --- what they share --------------------------------------------------------------------------

    def _unable(self) -> str:
        if not self.leading.is_leader():
            return f"this replica does not lead: {self.leading.holder} does"
        if not self.synced():
            return "the cluster is not known yet: cache not synced"
        if self.leading.term != self._term:
            # Somebody else may have decided meanwhile: what was not bound is not known to hold.
            self._term = self.leading.term
            self.cluster.forget_assumed()
        return ""

    def _request(self, cluster: Cluster, pod: PodSpec) -> Request:
        return filtering.request(cluster, pod, self.settings.node_policy, self.settings.card_policy)

    def _choose(self, cluster: Cluster, wanted: Request, names: Sequence[str]) -> Found | Nowhere:
        mine = self.cluster.holding(wanted.pod.uid)
        return decide(cluster, self.quotas, wanted, names, mine)

    def _filtered(
        self,
        outcome: str,
        names: Sequence[str] | None = None,
        failed: Mapping[str, str] | None = None,
        error: str = "",
        nodes: Sequence[Mapping[str, Any]] | None = None,
    ) -> bytes:
        self.counts["filter", outcome] += 1
        return extender.filter_result(names, failed, error, nodes)

    def _say(self, pod: PodSpec, reason: str, message: str) -> None:
        about = Subject.pod(pod.namespace, pod.name, pod.uid)
        self.events.say(about, reason, message, warning=reason == FILTERING_FAILED)


def _texts(found: Nowhere) -> dict[str, str]:
    return {name: _text(reason) for name, reason in found.reasons.items()}


def _text(reason: Reason) -> str:
    return f"{reason.obstacle}: {reason.detail}" if reason.detail else str(reason.obstacle)


def _nowhere(found: Nowhere, offered: int) -> str:
    """One sentence for people: by reason, how many nodes and some of their names."""
    groups: dict[str, list[str]] = {}
    for name, reason in sorted(found.reasons.items()):
        groups.setdefault(str(reason.obstacle), []).append(name)
    parts = []
    for obstacle, names in sorted(groups.items(), key=lambda item: -len(item[1])):
        more = f",... {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        parts.append(f"{len(names)} nodes {obstacle}({','.join(names[:MOST_NAMED])}{more})")
    return f"no available node, {offered} nodes do not meet: {'; '.join(parts)}"
