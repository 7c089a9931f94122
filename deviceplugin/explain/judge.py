"""Why each node serves a pod or does not, by the code that decides in a running scheduler. Pure but
for the views that the cluster keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deviceplugin.explain.kube import Exclusion, excluded
from deviceplugin.explain.world import World
from deviceplugin.placement.fit import Placement
from deviceplugin.placement.objects import pod_spec
from deviceplugin.scheduler import filtering
from deviceplugin.scheduler.cluster import Holding
from deviceplugin.scheduler.filtering import Request, first_reason
from deviceplugin.vendor.scheduling import Card, Demand, Reason, Unfit

__all__ = [
    "CardVerdict",
    "NodeVerdict",
    "cards",
    "demand_of",
    "freed",
    "judge",
    "offered",
    "requested",
    "serving",
]

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """What a node says to a pod: `outside` is what kube-scheduler's own filters have against it,
    `found` what the devices say: where the pod would be, or why not.
    """

    name: str
    outside: tuple[Exclusion, ...]
    found: Placement | Unfit | Reason

    @property
    def fits(self) -> bool:
        """Whether the pod may go there and finds its devices there."""
        return not self.outside and isinstance(self.found, Placement)

    @property
    def reason(self) -> Reason | None:
        """The reason that stands for all that the devices say, as the filter gives it."""
        if isinstance(self.found, Placement):
            return None
        return self.found if isinstance(self.found, Reason) else first_reason(self.found)


@dataclass(frozen=True, slots=True)
class CardVerdict:
    """A card, and what is against it; `reason` is None where nothing is. `chosen` says that the pod
    would get it.
    """

    word: str
    card: Card
    reason: Reason | None
    chosen: bool = False


def requested(world: World, pod: Json) -> Request:
    """What a pod asks for. Raises `vendor.scheduling.RefusedError`."""
    settings = world.settings
    return filtering.request(
        world.cluster, pod_spec(pod), settings.node_policy, settings.card_policy
    )


def offered(world: World, pod: Json) -> Iterator[tuple[str, tuple[Exclusion, ...]]]:
    """Every node, with what keeps kube-scheduler from asking about it."""
    return ((name, excluded(pod, traits)) for name, traits in world.traits.items())


def judge(
    world: World, pod: Json, wanted: Request, names: Iterable[str] | None = None
) -> dict[str, NodeVerdict]:
    """What each node says, or each of these."""
    gone = freed(world, wanted)
    asked = frozenset(names) if names is not None else None
    quota = world.quotas.refusal(wanted.pod.namespace, world.quotas.asked(wanted.asks), gone)
    return {
        name: NodeVerdict(
            name,
            outside,
            quota
            or filtering.why(
                world.cluster, wanted, name, lambda p: world.quotas.allows(wanted, p, gone)
            ),
        )
        for name, outside in offered(world, pod)
        if asked is None or name in asked
    }


def freed(world: World, wanted: Request) -> tuple[Holding, ...]:
    """What the pod holds already, which it gives up for what it asks."""
    mine = world.cluster.holding(wanted.pod.uid)
    return () if mine is None else (mine,)


def cards(world: World, wanted: Request, verdict: NodeVerdict) -> Sequence[CardVerdict]:
    """The cards of a node that the pod asks about, one by one."""
    view = world.cluster.view(verdict.name, (wanted.pod.uid,))
    if view is None:
        return ()
    found = verdict.found
    chosen: set[str] = set()
    reasons: dict[str, Reason] = {}
    words = sorted(wanted.words)
    if isinstance(found, Placement):
        chosen = {d.uuid for c in found.containers.values() for some in c for d in some}
    elif isinstance(found, Unfit):
        words = [found.word]
        reasons = {reason.card: reason for reason in found.reasons if reason.card}
    return [
        CardVerdict(word, card, reasons.get(card.uuid), card.uuid in chosen)
        for word in words
        for card in view.cards.get(word, ())
    ]


def serving(verdict: NodeVerdict) -> int:
    """How many cards of a node serve the container that finds no place there."""
    found = verdict.found
    if not isinstance(found, Unfit):
        return 0
    return found.cards - len({reason.card for reason in found.reasons if reason.card})


def demand_of(wanted: Request, unfit: Unfit) -> Demand:
    """What the container asked for that found no place."""
    return next(
        ask.demands[unfit.word]
        for ask in wanted.asks
        if ask.container.name == unfit.container and unfit.word in ask.demands
    )
