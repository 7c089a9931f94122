"""Which node a pod goes to: *request → fit → score*. Pure but for the views that `Cluster` keeps.

Nodes are looked at from the best on, so that most of a large cluster is never asked; why those that
were passed over do not serve is worked out when somebody wants to know (`why`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from deviceplugin.api.hami.keys import DEVICE_POLICY, NODE_POLICY
from deviceplugin.placement.fit import Placement, place
from deviceplugin.placement.observe import NodeView
from deviceplugin.placement.presence import scores
from deviceplugin.placement.request import Ask, asks
from deviceplugin.scheduler.cluster import Cluster
from deviceplugin.scheduler.room import Need, Room
from deviceplugin.vendor.scheduling import (
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

    @property
    def shape(self) -> Hashable:
        """What a node's answer depends on: pods of one shape fit on the same nodes."""
        return (
            self.pod.namespace,
            self.pod.runtime_class,
            frozenset(self.pod.annotations.items()),
            self.node_policy,
            self.card_policy,
            tuple(
                (ask.container.init, ask.container.sidecar, *ask.demands.values())
                for ask in self.asks
            ),
        )


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
    names = candidates if isinstance(candidates, frozenset) else frozenset(candidates)
    scored = any(scores(cluster.backends[word]) for word in wanted.words)
    holding = cluster.holding(wanted.pod.uid)
    mine = holding.node if holding else ""
    needs = [Need.of(demand) for ask in wanted.asks for demand in ask.demands.values()]
    tried = cluster.failures(wanted.shape)
    obstacles: dict[str, Obstacle | Reason] = {}
    best: Found | None = None
    found: Found | Obstacle | Reason
    for name, room in cluster.by_score(fullest_first=wanted.node_policy is not Policy.SPREAD):
        if name not in names:
            continue
        if name == mine:  # its own share is counted as taken there
            found = _on(cluster, wanted, name, allowed)
        elif (known := tried.get(name)) is not None and known[0] is room:
            found = known[1]
        else:
            found = _lacks(room, needs) or _on(cluster, wanted, name, allowed)
            if not isinstance(found, Found) and not _passes(found):
                tried[name] = (room, found)
        if not isinstance(found, Found):
            obstacles[name] = found
            continue
        if best is None or _is_better(found.placement, best.placement, wanted.node_policy):
            best = found
        if not scored:
            break
    if best is not None:
        return Found(best.placement, best.view, len(obstacles))
    return Nowhere(MappingProxyType(_reasons(cluster, wanted, names, obstacles)))


def _passes(obstacle: Obstacle | Reason) -> bool:
    """Whether it may be over although nothing changes on the node."""
    return isinstance(obstacle, Reason) and obstacle.obstacle is Obstacle.QUOTA


def _lacks(room: Room, needs: Iterable[Need]) -> Obstacle | None:
    for need in needs:
        if (obstacle := room.lacks(need)) is not None:
            return obstacle
    return None


def _reasons(
    cluster: Cluster,
    wanted: Request,
    names: Collection[str],
    obstacles: Mapping[str, Obstacle | Reason],
) -> dict[str, Reason]:
    found: dict[str, Reason] = {}
    for name in names:
        known = obstacles.get(name)
        if known is None:
            known = Reason(Obstacle.TOO_FEW_CARDS, detail=_absent(cluster, wanted, name))
        found[name] = known if isinstance(known, Reason) else Reason(known)
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
    return allowed(found) or found


def fits_without(cluster: Cluster, wanted: Request, name: str, gone: Collection[str]) -> bool:
    """Whether the pod would fit on a node if the pods with these uids were gone."""
    view = cluster.view(name, {wanted.pod.uid, *gone})
    return view is not None and isinstance(_place(cluster, wanted, view), Placement)


def _on(cluster: Cluster, wanted: Request, name: str, allowed: Allowed) -> Found | Reason:
    view = cluster.view(name, (wanted.pod.uid,))
    if view is None:
        return Reason(Obstacle.TOO_FEW_CARDS, detail=_absent(cluster, wanted, name))
    found = _place(cluster, wanted, view)
    if isinstance(found, Unfit):
        return first_reason(found)
    return allowed(found) or Found(found, view)


def _place(cluster: Cluster, wanted: Request, view: NodeView) -> Placement | Unfit:
    return place(
        view, wanted.pod, wanted.asks, cluster.backends, wanted.card_policy, wanted.node_policy
    )


def first_reason(unfit: Unfit) -> Reason:
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
