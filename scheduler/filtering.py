"""Which node a pod goes to: *request → fit → score*. Pure but for the views that `Cluster` keeps.

Nodes are looked at from the best on, so that most of a large cluster is never asked; why those that
were passed over do not serve is worked out when somebody wants to know (`why`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import filterfalse
from types import MappingProxyType

from deviceplugin.api.hami.keys import DEVICE_POLICY, NODE_POLICY
from deviceplugin.api.node import ANNOUNCES
from deviceplugin.placement.fit import Placement, place
from deviceplugin.placement.observe import NodeView
from deviceplugin.placement.presence import bounds, scores
from deviceplugin.placement.request import Ask, asks
from deviceplugin.scheduler.cluster import Cluster, Holding
from deviceplugin.scheduler.remembered import Tried
from deviceplugin.scheduler.room import Need, Room
from deviceplugin.vendor.scheduling import (
    Card,
    Obstacle,
    PodSpec,
    Policy,
    Reason,
    Unfit,
)

__all__ = [
    "Allowed",
    "Found",
    "Nowhere",
    "Placement",
    "Request",
    "choose",
    "first_reason",
    "fits_without",
    "refusal",
    "request",
    "why",
]

Allowed = Callable[[Placement], Reason | None]
"""Why a placement that fits may still not be, None when it may: a namespace's quota."""


@dataclass(frozen=True, slots=True)
class Request:
    """A pod with what its containers ask for, what its annotations wish besides, and the policies
    that hold for it.
    """

    pod: PodSpec
    asks: tuple[Ask, ...]
    wishes: frozenset[tuple[str, str]]
    node_policy: Policy
    card_policy: Policy

    @property
    def words(self) -> frozenset[str]:
        """The words that it asks for; empty for a pod that needs no device."""
        return frozenset(word for ask in self.asks for word in ask.demands)

    @property
    def shape(self) -> Hashable:
        """What a node's answer depends on: pods of one shape fit on the same nodes."""
        return (
            self.pod.namespace,
            self.pod.runtime_class,
            self.wishes,
            self.node_policy,
            self.card_policy,
            tuple(
                (ask.container.init, ask.container.sidecar, *ask.demands.values())
                for ask in self.asks
            ),
        )


@dataclass(frozen=True, slots=True)
class Found:
    """The placement, the view of its node that it was made on, and of how many nodes of the cluster
    it is known that they are unfit.
    """

    placement: Placement
    view: NodeView
    passed: int = 0


@dataclass(frozen=True, slots=True)
class Nowhere:
    """Why none of the nodes serves, the first obstacle of each."""

    reasons: Mapping[str, Reason] = field(default_factory=lambda: MappingProxyType({}))


def request(cluster: Cluster, pod: PodSpec, node_policy: Policy, card_policy: Policy) -> Request:
    """The pod's request; what the pod says of policies comes before the scheduler's own, and what
    it says wrongly counts as not said. Raises `vendor.scheduling.RefusedError`.
    """
    return Request(
        pod,
        asks(pod, cluster.backends.values()),
        frozenset((key, pod.annotations[key]) for key in cluster.wishes & pod.annotations.keys()),
        _policy(pod, NODE_POLICY, node_policy),
        _policy(pod, DEVICE_POLICY, card_policy),
    )


def choose(
    cluster: Cluster,
    wanted: Request,
    candidates: Collection[str],
    allowed: Allowed = lambda _placement: None,
) -> Found | Nowhere:
    """The best of the candidates. What the pod itself holds does not stand in its way."""
    names = candidates if isinstance(candidates, frozenset) else frozenset(candidates)
    most = _most(cluster, wanted)
    needs = [Need.of(demand) for ask in wanted.asks for demand in ask.demands.values()]
    tried: Tried[Found] = cluster.remembered.of(wanted.shape)
    search = _Search(wanted.node_policy is Policy.SPREAD)
    holding = cluster.holding(wanted.pod.uid)
    mine = holding.node if holding else ""
    tried.unfit.pop(mine, None)
    if mine in names:  # its own share is counted as taken there, so its place is not by its score
        search.take(mine, _if_allowed(cluster, wanted, _fitting(cluster, wanted, mine), allowed))
    # Of most nodes it is known that such a pod does not fit: those are passed over in bulk.
    rooms, order = cluster.rooms(), cluster.by_score(fullest_first=not search.spread)
    for name in filterfalse(tried.unfit.__contains__, order):
        if name not in names or name == mine:
            continue
        room = rooms[name]
        if search.best is not None and not search.is_better(room.score, most):
            break  # nor is any that follows
        found = tried.fits.get(name) or _lacks(room, needs)
        found = found or _fitting(cluster, wanted, name)
        if isinstance(found, Reason):
            tried.unfit[name] = found
            continue
        if most:  # others of its shape will ask
            tried.fits[name] = found
        if search.is_better(found.placement.score):
            search.take(name, _if_allowed(cluster, wanted, found, allowed))
    if search.best is not None:
        return replace(search.best, passed=len(search.refused) + len(tried.unfit))
    reasons = _reasons(cluster, wanted, names, search.refused, tried.unfit)
    return Nowhere(MappingProxyType(reasons))


def _most(cluster: Cluster, wanted: Request) -> float:
    """The most that the vendors can say for any node beside how full it is."""
    total = 0.0
    for word in wanted.words:
        backend = cluster.backends[word]
        if bounds(backend):
            demands = [ask.demands[word] for ask in wanted.asks if word in ask.demands]
            total += backend.most(demands, wanted.pod, wanted.node_policy)
        elif scores(backend):
            return math.inf
    return total


def _if_allowed(
    cluster: Cluster, wanted: Request, found: Found | Reason, allowed: Allowed
) -> Found | Reason:
    if isinstance(found, Reason):
        return found
    placement = _allowed(cluster, wanted, found.view, found.placement, allowed)
    return placement if isinstance(placement, Reason) else replace(found, placement=placement)


def _allowed(
    cluster: Cluster, wanted: Request, view: NodeView, found: Placement, allowed: Allowed
) -> Placement | Reason:
    """A placement that may be, or why none may. Who asks for a part of each card takes less of
    smaller ones.
    """
    refused = allowed(found)
    if refused is None:
        return found
    if any(demand.part for ask in wanted.asks for demand in ask.demands.values()):
        less = _place(cluster, wanted, view, smallest=True)
        if isinstance(less, Placement) and allowed(less) is None:
            return less
    return refused


@dataclass(slots=True)
class _Search:
    """What was found so far: the best node, and what stands against others for this pod only."""

    spread: bool
    best: Found | None = None
    refused: dict[str, Reason] = field(default_factory=dict)

    def take(self, name: str, found: Found | Reason) -> None:
        """Another node was looked at."""
        if isinstance(found, Reason):
            self.refused[name] = found
        elif self.is_better(found.placement.score):
            self.best = found

    def is_better(self, score: float, more: float = 0.0) -> bool:
        """Whether a node of this score is better than the best so far, with as much `more` that
        speaks for it.
        """
        if self.best is None:
            return True
        best = self.best.placement.score
        return score - more < best if self.spread else score + more > best


def _lacks(room: Room, needs: Iterable[Need]) -> Reason | None:
    for need in needs:
        if (reason := room.lacks(need)) is not None:
            return reason
    return None


def _reasons(
    cluster: Cluster,
    wanted: Request,
    names: Collection[str],
    refused: Mapping[str, Reason],
    unfit: Mapping[str, Reason],
) -> dict[str, Reason]:
    found: dict[str, Reason] = {}
    for name in names:
        known = refused.get(name) or unfit.get(name)
        if known is None:
            known = Reason(Obstacle.TOO_FEW_CARDS, detail=_absent(cluster, wanted, name))
        found[name] = known
    return found


def why(
    cluster: Cluster, wanted: Request, name: str, allowed: Allowed = lambda _placement: None
) -> Placement | Unfit | Reason:
    """All that speaks against a node, card by card, or the placement that it would give."""
    view = cluster.view(name, (wanted.pod.uid,))
    if view is None or not wanted.words <= view.cards.keys():
        return Reason(Obstacle.TOO_FEW_CARDS, detail=_absent(cluster, wanted, name))
    found = _place(cluster, wanted, view)
    if isinstance(found, Unfit):
        return found
    return _allowed(cluster, wanted, view, found, allowed)


def refusal(cluster: Cluster, wanted: Request, holding: Holding) -> Reason | None:
    """Why a pod that was placed cannot have its cards any more; None when it can. What it holds
    itself does not stand in its way.
    """
    name = holding.node
    if unserved := wanted.words - cluster.backends.keys():
        return Reason(Obstacle.TOO_FEW_CARDS, detail=f"{min(unserved)} is served no more")
    view = cluster.view(name, (holding.uid,))
    if view is None:
        return Reason(Obstacle.TOO_FEW_CARDS, detail=_absent(cluster, wanted, name))
    cards: dict[str, tuple[Card, ...]] = {}
    for word, items in holding.held.items():
        devices = [device for item in items for device in item.devices]
        uuids = {device.uuid for device in devices}
        cards[word] = tuple(card for card in view.cards.get(word, ()) if card.uuid in uuids)
        taken = {(card.uuid, tenant.slot) for card in cards[word] for tenant in card.tenants}
        for device in devices:
            if device.slot and (device.uuid, device.slot.name) in taken:
                detail = f"partition {device.slot} was given away meanwhile"
                return Reason(Obstacle.VENDOR_RULE, device.uuid, detail)
    found = _place(cluster, wanted, replace(view, cards=MappingProxyType(cards)))
    return first_reason(found) if isinstance(found, Unfit) else None


def fits_without(
    cluster: Cluster,
    wanted: Request,
    name: str,
    gone: Collection[str],
    allowed: Allowed = lambda _placement: None,
) -> bool:
    """Whether the pod would fit on a node if the pods with these uids were gone."""
    view = cluster.view(name, {wanted.pod.uid, *gone})
    found = _place(cluster, wanted, view) if view is not None else None
    if view is None or not isinstance(found, Placement):
        return False
    return isinstance(_allowed(cluster, wanted, view, found, allowed), Placement)


def _fitting(cluster: Cluster, wanted: Request, name: str) -> Found | Reason:
    view = cluster.view(name, (wanted.pod.uid,))
    if view is None:
        return Reason(Obstacle.TOO_FEW_CARDS, detail=_absent(cluster, wanted, name))
    found = _place(cluster, wanted, view)
    return first_reason(found) if isinstance(found, Unfit) else Found(found, view)


def _place(
    cluster: Cluster, wanted: Request, view: NodeView, *, smallest: bool = False
) -> Placement | Unfit:
    if ANNOUNCES not in view.facts.annotations and (unserved := _unserved(wanted)) is not None:
        return unserved
    return place(
        view,
        wanted.pod,
        wanted.asks,
        cluster.backends,
        wanted.card_policy,
        wanted.node_policy,
        smallest=smallest,
    )


def _unserved(wanted: Request) -> Unfit | None:
    """HAMi's agents hand to another container what an init container was to get."""
    for ask in wanted.asks:
        if ask.container.init and ask.demands:
            detail = (
                f"its agent does not serve init containers, and {ask.container.name} asks for "
                "devices: move the work into a regular container"
            )
            reason = Reason(Obstacle.INIT_CONTAINERS, "", detail)
            return Unfit(ask.container.name, next(iter(ask.demands)), 0, (reason,))
    return None


def first_reason(unfit: Unfit) -> Reason:
    """The reason that stands for all: the node's own, with what is in the way on its cards, else
    the commonest of its cards.
    """
    counted = Counter(reason.obstacle for reason in unfit.reasons if reason.card)
    for reason in unfit.reasons:
        if not reason.card:
            others = (f"{number} {obstacle}" for obstacle, number in counted.most_common())
            return replace(reason, detail="; ".join(filter(None, (reason.detail, *others))))
    if not counted:
        return Reason(Obstacle.TOO_FEW_FIT)
    ((commonest, number),) = counted.most_common(1)
    return Reason(commonest, detail=f"{number} of {unfit.cards} cards")


def _absent(cluster: Cluster, wanted: Request, name: str) -> str:
    if cluster.record(name) is None:
        return "node unregistered"
    if problems := cluster.problems(name):
        return problems[0]
    return cluster.withdrawn(name, sorted(wanted.words)) or "the node tells of no such device"


def _policy(pod: PodSpec, key: str, otherwise: Policy) -> Policy:
    try:
        return Policy(pod.annotations.get(key, otherwise))
    except ValueError:
        return otherwise
