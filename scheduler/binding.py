"""Binds a decided pod to its node: lock where the node needs one, bind phase, Binding.

Two writes where a lock is needed and one where grants are handed over by evidence
(`api.node.ALLOCATION`), because the bind phase travels with the Binding, whose annotations the API
server copies to the pod. Source: hami-scheduler.md 3.7.

The Binding names the version of the pod that was decided about. So it has no effect once anybody
else has decided, or has voided the decision, however late it comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from deviceplugin.api.hami.keys import BIND_PHASE, BIND_TIME
from deviceplugin.api.hami.pod import BindPhase
from deviceplugin.apiserver.client import ApiError
from deviceplugin.placement.fit import Backends
from deviceplugin.scheduler import filtering
from deviceplugin.scheduler.cluster import Cluster, Holding
from deviceplugin.scheduler.decisions import Decision, Decisions
from deviceplugin.scheduler.extender import Bind
from deviceplugin.scheduler.nodelock import LockedError, NodeLocks
from deviceplugin.scheduler.pods import PodRecord
from deviceplugin.scheduler.podwrites import ChangedError, PodWrites, results, version_of
from deviceplugin.scheduler.surroundings import Surroundings

__all__ = ["Binder", "NotBoundError", "UnsettledError"]

SETTLE_SECONDS = 3.0
"""Beyond a bind's own time, to find out whether a Binding without an answer happened."""
SETTLE_PAUSE = 0.2


class NotBoundError(Exception):
    """Why a pod was not bound; the text goes to kube-scheduler and into an event."""


class UnsettledError(NotBoundError):
    """Nobody knows yet whether it was: its room and its locks stay its own."""


@dataclass(slots=True)
class Binder:
    """Binds pods, as many at a time as are asked for.

    `pod` finds a pod as the watch shows it; `anew` decides about a pod for the node that it is to
    be bound to, and raises `NotBoundError`, `ApiError` and `ChangedError`.
    """

    cluster: Cluster
    decisions: Decisions
    locks: NodeLocks
    writes: PodWrites
    pod: Callable[[str, str], PodRecord | None]
    anew: Callable[[Bind], Awaitable[Decision]]
    surroundings: Surroundings

    async def bind(self, order: Bind, until: float) -> None:
        """Bind, or leave nothing behind. After `until`, an instant of the monotonic clock, no
        Binding is posted. Raises `NotBoundError`.
        """
        if self.cluster.bound(order.uid) == order.node:
            return  # asked again after an answer that was lost
        try:
            decision = self.decisions.get(order.uid) or await self.anew(order)
        except (ApiError, ChangedError) as error:
            raise NotBoundError(str(error)) from None
        if decision.holding.node != order.node:
            raise NotBoundError(
                f"pod {order.namespace}/{order.name} was placed on {decision.holding.node}, not on "
                f"{order.node}: it has to be filtered again"
            )
        self.decisions.use(decision)
        taken: dict[str, str] = {}
        try:
            for annotation in self._locks(decision.holding):
                taken[annotation] = await self.locks.acquire(
                    order.node, annotation, order.namespace, order.name, until
                )
            await self._post(order, decision, until)
            self.cluster.confirm(order.uid)
        except UnsettledError:
            decision.unsettled = True
            raise
        except (ApiError, LockedError, NotBoundError, ChangedError) as error:
            for annotation, text in taken.items():
                await self._release(order, annotation, text)
            if self.decisions.counts(decision):
                self.decisions.drop(order.uid)
            raise NotBoundError(str(error)) from None

    async def settle(self, decision: Decision) -> str:
        """Find out what became of a Binding without an answer, and see to it that it does not
        happen any more if it has not. Answers the node that the pod is bound to, else nothing.
        Raises `ApiError` and `ChangedError`.
        """
        holding = decision.holding
        until = self.surroundings.monotonic() + SETTLE_SECONDS
        node = await self.writes.void(holding.namespace, holding.name, holding.uid, until)
        decision.unsettled = False
        if not node and self.decisions.counts(decision):
            self.decisions.drop(holding.uid)
        return node

    def _locks(self, holding: Holding) -> list[str]:
        node = self.cluster.record(holding.node)
        if node is None:
            raise NotBoundError(f"node {holding.node} is gone")
        if node.deferred:
            return []
        backends: Backends = self.cluster.backends
        return sorted({lock for word in holding.held if (lock := backends[word].keys.lock)})

    async def _post(self, order: Bind, decision: Decision, until: float) -> None:
        """Returns once the pod is bound to the node."""
        self._look_for_news(order, decision)
        while True:
            self._still(order, decision, until)
            binding = _binding(order, decision, int(self.surroundings.wall()))
            try:
                await self.writes.bind(order.namespace, order.name, binding, until)
            except ApiError as error:
                if error.is_ambiguous:
                    await self._settled(decision, until, error)
                elif not error.is_conflict:
                    raise
                elif not await self._is_bound(order, decision, error):
                    continue
            return

    def _look_for_news(self, order: Bind, decision: Decision) -> None:
        """Others may change of a pod what is nobody's decision, kube-scheduler its status: where
        the watch shows that it did, the Binding need not fail for it first.
        """
        record = self.pod(order.namespace, order.name)
        if (
            record is not None
            and record.uid == order.uid
            and not record.bound
            and record.version.isdecimal()
            and decision.version.isdecimal()
            and int(record.version) > int(decision.version)
            and self._is_intact(record.pod.annotations, decision)
        ):
            decision.version = record.version

    async def _is_bound(self, order: Bind, decision: Decision, error: ApiError) -> bool:
        """After a conflict: whether the pod is bound to the node. If not, the decision is that of
        the pod as it is now. Raises `NotBoundError` where somebody else has decided meanwhile.
        """
        item = await self.writes.read(order.namespace, order.name, order.uid)
        metadata, spec = item.get("metadata") or {}, item.get("spec") or {}
        if spec.get("nodeName") == order.node:
            return True
        if (
            spec.get("nodeName")
            or metadata.get("deletionTimestamp")
            or version_of(item) == decision.version
        ):
            raise NotBoundError(str(error))
        if not self._is_intact(metadata.get("annotations") or {}, decision):
            raise NotBoundError(
                f"what was decided about pod {order.namespace}/{order.name} was changed by "
                "somebody else: it has to be filtered again"
            )
        decision.version = version_of(item)
        return False

    def _is_intact(self, annotations: Mapping[str, str], decision: Decision) -> bool:
        told = results({"metadata": {"annotations": annotations}}, self.cluster.results)
        return told == decision.expected

    async def _settled(self, decision: Decision, until: float, error: ApiError) -> None:
        """After a Binding without an answer: returns where it happened. Raises `NotBoundError`
        where it did not and never will, and `UnsettledError` where that cannot be found out.
        """
        while True:
            try:
                if await self.settle(decision) == decision.holding.node:
                    return
            except (ApiError, ChangedError) as unknown:
                if self.surroundings.monotonic() + SETTLE_PAUSE >= until + SETTLE_SECONDS:
                    raise UnsettledError(
                        f"{error}; it is not known whether the pod was bound: {unknown}"
                    ) from None
                await asyncio.sleep(SETTLE_PAUSE)
                continue
            raise NotBoundError(str(error))

    def _still(self, order: Bind, decision: Decision, until: float) -> None:
        """The last look before what cannot be taken back."""
        if self.surroundings.monotonic() >= until:
            raise NotBoundError("it took too long: kube-scheduler has given up waiting")
        if not self.writes.api.leading.is_leader():
            raise NotBoundError("this replica no longer leads")
        if not self.decisions.counts(decision):
            raise NotBoundError("the decision is no longer valid: the pod has to be filtered again")
        reason = filtering.refusal(self.cluster, decision.wanted, decision.holding)
        if reason is not None:
            raise NotBoundError(
                f"its devices on node {order.node} are not to be had any more, {reason.obstacle} "
                f"{reason.detail}: the pod has to be filtered again"
            )

    async def _release(self, order: Bind, annotation: str, text: str) -> None:
        try:
            await self.locks.release(order.node, annotation, text)
        except (ApiError, LockedError):
            return  # it expires


def _binding(order: Bind, decision: Decision, now: int) -> dict[str, object]:
    """With the uid, so that a namesake made meanwhile is not bound in its place, and with the bind
    phase, which the API server writes to the pod in the same instant; where the decision is not on
    the pod yet, with that too.
    """
    annotations: dict[str, str] = {}
    if not decision.written:
        stale = decision.expected.keys() - decision.annotations.keys()
        annotations |= {**dict.fromkeys(stale, ""), **decision.annotations}
    metadata: dict[str, object] = {
        "namespace": order.namespace,
        "name": order.name,
        "uid": order.uid,
        "annotations": {
            **annotations,
            BIND_PHASE: str(BindPhase.ALLOCATING),
            BIND_TIME: str(now),
        },
    }
    if decision.version:
        metadata["resourceVersion"] = decision.version
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": metadata,
        "target": {"apiVersion": "v1", "kind": "Node", "name": order.node},
    }
