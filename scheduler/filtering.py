"""Which node a pod goes to: *request → fit → score*. Pure but for the views that `Cluster` keeps.

Nodes are looked at from the best on, so that most of a large cluster is never asked; why those that
were passed over do not serve is worked out when somebody wants to know (`why`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from deviceplugin.api.hami.keys import DEVICE_POLICY, NODE_POLICY
from deviceplugin.placement.fit import Placement, place
from deviceplugin.placement.observe import NodeView
from deviceplugin.placement.request import Ask, asks
from deviceplugin.scheduler.cluster import Cluster
from deviceplugin.vendor.scheduling import (
    Obstacle,
    PodSpec,
    Policy,
    Reason,
    Scorer,
    Unfit,
)

__all__ = [
    "Allowed",
    "Found",
    "Nowhere",
    "Placement",
    "Request",
    "choose",
    "fits_without",
    "request",
    "why",
]

Allowed = Callable[[Placement], Reason | None]
"""Why a placement that fits may still not be, None when it may: a namespace's quota."""


@dataclass(frozen=True, slots=True)
class Request:
    """A pod with what its containers ask for, and the policies that hold for it."""

    pod: PodSpec
    asks: tuple[Ask, ...]
    node_policy: Policy
    card_policy: Policy

    @property
    def words(self) -> frozenset[str]:
        """The words that it asks for; empty for a pod that needs no device."""
        return frozenset(word for ask in self.asks for word in ask.demands)


@dataclass(frozen=True, slots=True)
class Found:
    """The placement, the view of its node that it was made on, and how many nodes were looked at
    and found unfit on the way.
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
    reasons: dict[str, Reason] = {}
    best: Found | None = None
    names = candidates if isinstance(candidates, set | frozenset) else set(candidates)
    scored = any(isinstance(cluster.backends[word], Scorer) for word in wanted.words)
    for name in _from_the_best(cluster, wanted, names):
        obstacle = _lacks(cluster, wanted, name)
        if obstacle is not None:
            reasons[name] = Reason(obstacle)
            continue
        found = _on(cluster, wanted, name, allowed)
        if isinstance(found, Reason):
            reasons[name] = found
            continue
        if best is None or _is_better(found.placement, best.placement, wanted.node_policy):
            best = found
        if not scored:
            break
    if best is not None:
        return Found(best.placement, best.view, len(reasons))
    for name in names - reasons.keys():
        reasons[name] = Reason(Obstacle.TOO_FEW_CARDS, detail=_absent(cluster, name))
    return Nowhere(MappingProxyType(reasons))


def why(
    cluster: Cluster, wanted: Request, name: str, allowed: Allowed = lambda _placement: None
) -> Placement | Unfit | Reason:
    """All that speaks against a node, card by card, or the placement that it would give."""
    view = cluster.view(name, (wanted.pod.uid,))
    if view is None or not view.cards:
        return Reason(Obstacle.TOO_FEW_CARDS, detail=_absent(cluster, name))
    found = _place(cluster, wanted, view)
    if isinstance(found, Unfit):
        return found
    return allowed(found) or found


def fits_without(cluster: Cluster, wanted: Request, name: str, gone: Collection[str]) -> bool:
    """Whether the pod would fit on a node if the pods with these uids were gone."""
    view = cluster.view(name, {wanted.pod.uid, *gone})
    return view is not None and isinstance(_place(cluster, wanted, view), Placement)


def _from_the_best(cluster: Cluster, wanted: Request, names: Collection[str]) -> Iterator[str]:
    order = cluster.by_score(fullest_first=wanted.node_policy is not Policy.SPREAD)
    return (name for name in order if name in names)


def _lacks(cluster: Cluster, wanted: Request, name: str) -> Obstacle | None:
    holding = cluster.holding(wanted.pod.uid)
    if holding is not None and holding.node == name:
        return None  # its own share is counted as taken there
    room = cluster.room(name)
    if room is None:
        return Obstacle.TOO_FEW_CARDS
    for ask in wanted.asks:
        for demand in ask.demands.values():
            if (obstacle := room.lacks(demand)) is not None:
                return obstacle
    return None


def _on(cluster: Cluster, wanted: Request, name: str, allowed: Allowed) -> Found | Reason:
    view = cluster.view(name, (wanted.pod.uid,))
    if view is None:
        return Reason(Obstacle.TOO_FEW_CARDS, detail=_absent(cluster, name))
    found = _place(cluster, wanted, view)
    if isinstance(found, Unfit):
        return _first(found)
    return allowed(found) or Found(found, view)


def _place(cluster: Cluster, wanted: Request, view: NodeView) -> Placement | Unfit:
    return place(
        view, wanted.pod, wanted.asks, cluster.backends, wanted.card_policy, wanted.node_policy
    )


def _first(unfit: Unfit) -> Reason:
    """The reason that stands for all: the node's own, else the commonest of its cards."""
    for reason in unfit.reasons:
        if not reason.card:
            return reason
    counted = [reason.obstacle for reason in unfit.reasons]
    if not counted:
        return Reason(Obstacle.TOO_FEW_FIT)
    commonest = max(dict.fromkeys(counted), key=counted.count)
    detail = f"{counted.count(commonest)} of {unfit.cards} cards"
    return Reason(commonest, detail=detail)


def _is_better(one: Placement, other: Placement, policy: Policy) -> bool:
    return one.score < other.score if policy is Policy.SPREAD else one.score > other.score


def _absent(cluster: Cluster, name: str) -> str:
    if cluster.record(name) is None:
        return "node unregistered"
    if problems := cluster.problems(name):
        return problems[0]
    return "the node tells of no such device"


def _policy(pod: PodSpec, key: str, otherwise: Policy) -> Policy:
    try:
        return Policy(pod.annotations.get(key, otherwise))
    except ValueError:
        return otherwise
