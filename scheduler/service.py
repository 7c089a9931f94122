"""What kube-scheduler asks an extender: filter, bind, preempt; from bytes to bytes.

Between the choice of a node and the moment when it counts nothing else runs, so that two filters
never give away the same thing; only then is it written to the pod.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from types import MappingProxyType
from typing import Any

from deviceplugin.apiserver.client import ApiError
from deviceplugin.apiserver.events import Events, Subject
from deviceplugin.placement.objects import pod_spec
from deviceplugin.placement.write import decision as decision_annotations
from deviceplugin.scheduler import extender, filtering
from deviceplugin.scheduler.binding import Binder, NotBoundError
from deviceplugin.scheduler.cluster import Cluster
from deviceplugin.scheduler.deciding import decide, holding_of
from deviceplugin.scheduler.decisions import Decision, Decisions
from deviceplugin.scheduler.events import (
    BINDING_FAILED,
    BINDING_SUCCEED,
    FILTERING_FAILED,
    FILTERING_SUCCEED,
)
from deviceplugin.scheduler.fencing import WRITE_SECONDS
from deviceplugin.scheduler.filtering import Found, Nowhere, Request
from deviceplugin.scheduler.nodelock import NodeLocks
from deviceplugin.scheduler.nodes import node_record
from deviceplugin.scheduler.pods import priority_of
from deviceplugin.scheduler.podwrites import (
    ChangedError,
    PodWrites,
    check_free,
    results,
    version_of,
)
from deviceplugin.scheduler.preempting import Preempting, budgets
from deviceplugin.scheduler.quota import Quotas
from deviceplugin.scheduler.server import UnavailableError
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.scheduler.surroundings import Surroundings
from deviceplugin.scheduler.takeover import Takeover
from deviceplugin.scheduler.watching import Watching
from deviceplugin.vendor.scheduling import PodSpec, Reason, RefusedError

__all__ = ["ExtenderService"]

MOST_NAMED = 20
"""Nodes that an event names for one reason."""


@dataclass(slots=True)
class ExtenderService:
    """Answers for one scheduler. `counts` is what was answered, by verb and outcome, `reasons` how
    many nodes were unfit for pods that found none.
    """

    settings: SchedulerSettings
    cluster: Cluster
    quotas: Quotas
    decisions: Decisions
    writes: PodWrites
    locks: NodeLocks
    watching: Watching
    takeover: Takeover
    events: Events
    surroundings: Surroundings
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    _binder: Binder = field(init=False)

    def __post_init__(self) -> None:
        self._binder = Binder(
            self.cluster,
            self.decisions,
            self.locks,
            self.writes,
            self.watching.pod,
            self._decided_for,
            self.surroundings,
        )

    # --- filter -----------------------------------------------------------------------------------

    async def filter(self, body: bytes) -> bytes:
        """One node of those that are offered, or why none."""
        try:
            asked = extender.parse_filter(body)
            pod = pod_spec(asked.pod)
            if unable := await self.takeover.ready():
                return self._filtered("unable", error=unable)
            wanted = self._request(pod)
        except (ValueError, AttributeError) as error:
            return self._filtered("refused", error=str(error))
        if asked.nodes is not None:
            return self._simulated(wanted, asked.nodes)
        if asked.names is None:
            return self._filtered("refused", error="extender args without NodeNames and Nodes")
        if not wanted.words:
            return self._filtered("nothing asked", asked.names)
        return await self._placed(wanted, asked.pod, asked.names)

    async def _placed(
        self, wanted: Request, item: Mapping[str, Any], names: Sequence[str]
    ) -> bytes:
        pod = wanted.pod
        try:
            await self._settled(pod.uid)
            # From here to the decision nothing else runs.
            found = self._promising(wanted, names)
            if isinstance(found, Nowhere):
                self.decisions.drop(pod.uid)
                self._say(pod, FILTERING_FAILED, _nowhere(found, len(names)))
                self.reasons.update(str(reason.obstacle) for reason in found.reasons.values())
                return self._filtered("nowhere", failed=_texts(found))
            decision = self._made(wanted, found)
        except (ApiError, ChangedError, ValueError) as error:
            self._say(pod, FILTERING_FAILED, str(error))
            return self._filtered("refused", error=str(error))
        node = found.placement.node
        try:
            await self.writes.write(
                decision,
                item,
                lambda now: self._request(pod_spec(now)).shape == wanted.shape,
                self.surroundings.monotonic() + WRITE_SECONDS,
            )
            if not self.decisions.counts(decision):
                raise ChangedError("the pod was decided about again meanwhile")
        except (ApiError, ChangedError, ValueError) as error:
            if self.decisions.counts(decision):
                self.decisions.drop(pod.uid)
            self._say(pod, FILTERING_FAILED, str(error))
            return self._filtered("not written", error=str(error))
        message = (
            f"find fit node({node}), {found.passed} nodes not fit, "
            f"1 nodes fit({node}:{found.placement.score:.2f})"
        )
        self._say(pod, FILTERING_SUCCEED, message)
        return self._filtered("placed", [node])

    def _promising(self, wanted: Request, names: Sequence[str]) -> Found | Nowhere:
        """The best node on which nobody waits in vain for a lock; one of the others only where
        nothing else serves.
        """
        if (stuck := self.locks.stuck()) and not stuck.isdisjoint(names):
            others = [name for name in names if name not in stuck]
            found = self._choose(self.cluster, wanted, others)
            if isinstance(found, Found):
                return found
        return self._choose(self.cluster, wanted, names)

    async def _settled(self, uid: str) -> None:
        """A pod that is bound is not decided about again, and a Binding of which nobody knows
        whether it happens must not happen after the next decision. Raises `ApiError` and
        `ChangedError`.
        """
        if node := self.cluster.bound(uid):
            raise ChangedError(f"the pod is on node {node} already")
        decision = self.decisions.get(uid)
        if decision is not None and decision.unsettled:
            node = await self._binder.settle(decision)
            if node:
                raise ChangedError(f"the pod is on node {node} already")

    def _made(self, wanted: Request, found: Found) -> Decision:
        """A decision that counts. Raises `ValueError` where it cannot be written."""
        record = self.cluster.record(found.placement.node)
        annotations = decision_annotations(
            found.placement,
            found.view,
            wanted.pod,
            wanted.asks,
            self.cluster.backends,
            self.surroundings.wall_ns(),
            init_listed=record is not None and record.ours,
        )
        return self.decisions.make(
            wanted, holding_of(wanted, found, self.cluster), MappingProxyType(annotations)
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
        until = self.surroundings.monotonic() + self.settings.bind_patience
        try:
            order = extender.parse_bind(body)
        except ValueError as error:
            self.counts["bind", "refused"] += 1
            return extender.bind_result(str(error))
        if unable := await self.takeover.ready():
            self.counts["bind", "unable"] += 1
            return extender.bind_result(unable)
        pod = Subject.pod(order.namespace, order.name, order.uid)
        try:
            await self._binder.bind(order, until)
        except NotBoundError as error:
            self.counts["bind", "failed"] += 1
            self.events.say(pod, BINDING_FAILED, str(error), warning=True)
            return extender.bind_result(str(error))
        self.counts["bind", "bound"] += 1
        message = f"Successfully binding node [{order.node}] to {order.namespace}/{order.name}"
        self.events.say(pod, BINDING_SUCCEED, message, warning=False)
        return extender.bind_result()

    async def _decided_for(self, order: extender.Bind) -> Decision:
        """A decision about a pod for one node only: another replica placed it there, or this one
        so long ago that it counts no more. What is written on the pod is not asked. Raises
        `NotBoundError`, `ApiError` and `ChangedError`.
        """
        item = await self.writes.read(order.namespace, order.name, order.uid)
        check_free(item)
        try:
            wanted = self._request(pod_spec(item))
            if not wanted.words:
                raise NotBoundError(f"pod {order.namespace}/{order.name} asks for no device")
            found = self._choose(self.cluster, wanted, [order.node])
            if isinstance(found, Nowhere):
                (reason,) = _texts(found).values()
                raise NotBoundError(
                    f"pod {order.namespace}/{order.name} has no decision that counts, and does not "
                    f"fit on node {order.node} now, {reason}: it has to be filtered again"
                )
            decision = self._made(wanted, found)
        except ValueError as error:
            raise NotBoundError(str(error)) from None
        decision.version = version_of(item)
        decision.expected = results(item, self.cluster.results)
        return decision

    # --- preempt ----------------------------------------------------------------------------------

    async def preempt(self, body: bytes) -> bytes:
        """The nodes on which the pod fits once their victims are gone, to which those are added who
        have to go for their devices; of those, whom a disruption budget protects only where nobody
        else is enough. A node where nobody has to go is not among them, because kube-scheduler
        takes an empty list for a mistake. Raises `ValueError` and `UnavailableError`: the answer
        has no word for an error.
        """
        asked = extender.parse_preempt(body)
        pod = pod_spec(asked.pod)
        if unable := await self.takeover.ready():
            raise UnavailableError(unable)
        try:
            wanted = self._request(pod)
        except RefusedError:  # nobody's going would help
            return extender.preempt_result({}, {})
        if not wanted.words:
            return extender.preempt_result(asked.victims, asked.violations)
        preempting = Preempting(
            self.cluster,
            self.quotas,
            wanted,
            priority_of(asked.pod),
            self.watching.pods.objects.values(),
        )
        try:
            may_add = preempting.may_add(asked.victims)
            protected = await budgets(self.writes.api) if may_add else ()
        except ApiError as error:
            raise UnavailableError(f"whom to spare is not known: {error}") from None
        found = {
            name: going
            for name, given in asked.victims.items()
            if (going := preempting.on(name, given, protected)) is not None
        }
        self.counts["preempt", "helps" if found else "does not help"] += 1
        return extender.preempt_result(
            {name: uids for name, (uids, _) in found.items()},
            {name: asked.violations[name] + more for name, (_, more) in found.items()},
        )

    # --- what they share --------------------------------------------------------------------------

    def _request(self, pod: PodSpec) -> Request:
        """Raises `RefusedError`."""
        settings = self.settings
        return filtering.request(self.cluster, pod, settings.node_policy, settings.card_policy)

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
    for name, reason in found.reasons.items():
        groups.setdefault(reason.obstacle, []).append(name)
    parts = []
    for obstacle, names in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        more = f",... {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        named = ",".join(nsmallest(MOST_NAMED, names))
        parts.append(f"{len(names)} nodes {obstacle}({named}{more})")
    return f"no available node, {offered} nodes do not meet: {'; '.join(parts)}"
