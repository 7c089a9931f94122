"""Binds a decided pod to its node: lock where the node needs one, bind phase, Binding.

Two writes where a lock is needed and one where grants are handed over by evidence
(`api.node.ALLOCATION`), because the bind phase travels with the Binding, whose annotations the API
server copies to the pod. Source: hami-scheduler.md 3.7.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from deviceplugin.api.hami.keys import BIND_PHASE, BIND_TIME
from deviceplugin.api.hami.pod import BindPhase
from deviceplugin.apiserver.client import ApiError, Path
from deviceplugin.placement.fit import Backends
from deviceplugin.placement.observe import Held, NodeView, cards_with
from deviceplugin.scheduler.cluster import Cluster, Holding, read
from deviceplugin.scheduler.extender import Bind
from deviceplugin.scheduler.fencing import FencedApi
from deviceplugin.scheduler.nodelock import LockedError, NodeLocks
from deviceplugin.scheduler.pods import PodRecord

__all__ = ["Binder", "NotBoundError", "overfull"]


class NotBoundError(Exception):
    """Why a pod was not bound; the text goes to kube-scheduler and into an event."""


@dataclass(slots=True)
class Binder:
    """Binds pods, as many at a time as are asked for. `pod` finds a decided pod by its name."""

    api: FencedApi
    cluster: Cluster
    locks: NodeLocks
    pod: Callable[[str, str], PodRecord | None]
    leads: Callable[[], bool]
    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic

    async def bind(self, order: Bind, until: float) -> None:
        """Bind, or leave nothing behind. After `until`, an instant of the monotonic clock, no
        Binding is posted. Raises `NotBoundError`.
        """
        holding = self._decision(order)
        taken: list[str] = []
        try:
            for annotation in self._locks(holding):
                await self.locks.acquire(order.node, annotation, order.namespace, order.name, until)
                taken.append(annotation)
            self._still(order, until)
            await self.api.create(_binding_path(order), _binding(order, int(self.wall())))
        except (ApiError, LockedError, NotBoundError) as error:
            for annotation in taken:
                await self._release(order, annotation)
            self.cluster.forget(order.uid)
            raise NotBoundError(str(error)) from None

    def _decision(self, order: Bind) -> Holding:
        """What was decided; where this process did not decide it, it has to hold still."""
        found = self.cluster.holding(order.uid)
        if found is None:
            found = self._adopted(order)
        if found.node != order.node:
            raise NotBoundError(
                f"pod {order.namespace}/{order.name} was placed on {found.node}, not on "
                f"{order.node}: it has to be filtered again"
            )
        return found

    def _adopted(self, order: Bind) -> Holding:
        record = self.pod(order.namespace, order.name)
        holding = None
        if record is not None and record.uid == order.uid:
            holding, _ = read(record, self.cluster.backends)
        if holding is None or not holding.held:
            raise NotBoundError(
                f"pod {order.namespace}/{order.name} has no decision: it has to be filtered again"
            )
        view = self.cluster.view(holding.node)
        if view is None:
            raise NotBoundError(f"node {holding.node} is gone or tells of no device")
        full = overfull(view, holding.held)
        if full:
            raise NotBoundError(
                f"{full} was given away meanwhile: the pod has to be filtered again"
            )
        self.cluster.assume(holding)
        return holding

    def _locks(self, holding: Holding) -> list[str]:
        node = self.cluster.record(holding.node)
        if node is None:
            raise NotBoundError(f"node {holding.node} is gone")
        if node.deferred:
            return []
        backends: Backends = self.cluster.backends
        return sorted({lock for word in holding.held if (lock := backends[word].keys.lock)})

    def _still(self, order: Bind, until: float) -> None:
        """The last look before what cannot be taken back."""
        if self.monotonic() >= until:
            raise NotBoundError("it took too long: kube-scheduler has given up waiting")
        if not self.leads():
            raise NotBoundError("this replica no longer leads")
        holding = self.cluster.holding(order.uid)
        if holding is None or holding.node != order.node:
            raise NotBoundError("the decision is no longer valid: the pod has to be filtered again")

    async def _release(self, order: Bind, annotation: str) -> None:
        try:
            await self.locks.release(order.node, annotation, order.namespace, order.name)
        except (ApiError, LockedError):
            return  # it expires


def overfull(view: NodeView, held: Mapping[str, tuple[Held, ...]]) -> str:
    """The first card that is not there or would hold more than it has; empty when all fit. Pure."""
    for word, items in held.items():
        cards = {card.uuid: card for card in view.cards.get(word, ())}
        after = cards_with(view.cards.get(word, ()), items)
        for uuid in {device.uuid for item in items for device in item.devices}:
            if uuid not in cards:
                return uuid
        for card in after:
            if card == cards[card.uuid]:
                continue
            size = card.device
            slots = [t.slot for t in card.tenants if t.slot and not t.init]
            if (
                len(slots) > len(set(slots))
                or card.used_memory_mib > size.memory
                or card.used_cores > size.cores
                or card.used > size.count
            ):
                return card.uuid
    return ""


def _binding_path(order: Bind) -> Path:
    return replace(
        Path.pod(order.namespace, order.name),
        template="/api/v1/namespaces/{namespace}/pods/{name}/binding",
    )


def _binding(order: Bind, now: int) -> dict[str, object]:
    """With the uid, so that a namesake made meanwhile is not bound in its place, and with the bind
    phase, which the API server writes to the pod in the same instant.
    """
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {
            "namespace": order.namespace,
            "name": order.name,
            "uid": order.uid,
            "annotations": {BIND_PHASE: str(BindPhase.ALLOCATING), BIND_TIME: str(now)},
        },
        "target": {"apiVersion": "v1", "kind": "Node", "name": order.node},
    }
