"""Nodes by what is against them, so that a large cluster can be read at a glance. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from deviceplugin.explain.judge import NodeVerdict, demand_of, serving
from deviceplugin.explain.world import World
from deviceplugin.placement.observe import CORDON
from deviceplugin.scheduler.filtering import Request
from deviceplugin.vendor.scheduling import Card, Demand, Obstacle, Reason, Unfit

__all__ = ["Group", "group"]

NAMED = 3
"""Kinds of cards that a summary names."""


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes with one thing against them: `word` is what users of HAMi and Kubernetes search for,
    `summary` says it in figures, after "they". Those that come closest stand first.
    """

    word: str
    summary: str
    nodes: tuple[str, ...]


def group(world: World, wanted: Request, verdicts: Mapping[str, NodeVerdict]) -> list[Group]:
    """The nodes that do not serve, by obstacle: those that the pod may go to first, those whose
    devices would serve next, and those that fail on both last; the largest first of each.
    """
    inside: dict[tuple[str, str, bool], list[NodeVerdict]] = {}
    outside: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts.values():
        reason = verdict.reason
        if reason is not None:
            kind = (*_kind(verdict, reason), bool(verdict.outside))
            inside.setdefault(kind, []).append(verdict)
        elif verdict.outside:
            first = verdict.outside[0]
            outside.setdefault((str(first.by), first.detail), []).append(verdict.name)

    def of_devices(*, barred: bool) -> list[Group]:
        found = [
            _of_devices(world, wanted, (word, detail), those)
            for (word, detail, outside), those in inside.items()
            if outside is barred
        ]
        return sorted(found, key=lambda one: (one.word == Obstacle.TOO_FEW_CARDS, -len(one.nodes)))

    would_serve = [
        Group(word, f"{detail}, and their devices would serve", tuple(sorted(names)))
        for (word, detail), names in sorted(outside.items(), key=lambda item: -len(item[1]))
    ]
    barred = [
        replace(one, summary=f"{one.summary}; the pod may not go there anyway")
        for one in of_devices(barred=True)
    ]
    return of_devices(barred=False) + would_serve + barred


def _kind(verdict: NodeVerdict, reason: Reason) -> tuple[str, str]:
    """What nodes have to have in common to be told of together."""
    alike = reason.obstacle is Obstacle.QUOTA or not isinstance(verdict.found, Unfit)
    return (str(reason.obstacle), reason.detail if alike else "")


def _of_devices(
    world: World, wanted: Request, kind: tuple[str, str], those: Sequence[NodeVerdict]
) -> Group:
    word, detail = kind
    if detail:
        return Group(word, detail, tuple(sorted(v.name for v in those)))
    best = sorted(those, key=lambda v: (*_distance(world, v), v.name))
    return Group(word, _summary(world, wanted, word, best), tuple(v.name for v in best))


def _distance(world: World, verdict: NodeVerdict) -> tuple[int, int]:
    """The smaller the closer: cards that serve, and the most memory that is left on one."""
    free = [card.free_memory_mib for card in _cards(world, verdict)]
    return (-serving(verdict), -max(free, default=0))


def _cards(world: World, verdict: NodeVerdict) -> Sequence[Card]:
    view = world.cluster.view(verdict.name)
    if view is None or not isinstance(verdict.found, Unfit):
        return ()
    return view.cards.get(verdict.found.word, ())


@dataclass(frozen=True, slots=True)
class _Refused:
    """A card that has something against a demand."""

    node: str
    card: Card
    demand: Demand
    reason: Reason


def _refused(
    world: World, wanted: Request, word: str, those: Iterable[NodeVerdict]
) -> list[_Refused]:
    """The cards of some nodes with this obstacle."""
    found = []
    for verdict in those:
        if not isinstance(verdict.found, Unfit):
            continue
        demand = demand_of(wanted, verdict.found)
        by_uuid = {card.uuid: card for card in _cards(world, verdict)}
        found += [
            _Refused(verdict.name, by_uuid[reason.card], demand, reason)
            for reason in verdict.found.reasons
            if reason.obstacle == word and reason.card in by_uuid
        ]
    return found


def _summary(world: World, wanted: Request, word: str, best: Sequence[NodeVerdict]) -> str:
    refused = _refused(world, wanted, word, best)
    text = _text(Obstacle(word), refused) if refused else _own(word, best[0])
    first = best[0].found
    count = demand_of(wanted, first).count if isinstance(first, Unfit) else 1
    if count > 1:
        most = max(map(serving, best))
        text += f"; {count} cards on one node are needed, the best has {most} that serve"
    return text


def _text(obstacle: Obstacle, refused: Sequence[_Refused]) -> str:
    """What is against these cards, in figures."""
    match obstacle:
        case Obstacle.MEMORY:
            best = max(refused, key=lambda r: (r.card.free_memory_mib, r.node))
            asked = best.demand.memory_of(best.card.device.memory)
            return (
                f"too little memory is left: {best.card.free_memory_mib:,} MiB at most on a card "
                f"({best.node}), {asked:,} MiB are asked for"
            )
        case Obstacle.CORES:
            best = max(refused, key=lambda r: (r.card.free_cores, r.node))
            return (
                f"too few cores are left: {best.card.free_cores}% at most on a card "
                f"({best.node}), {min(best.demand.cores_percent, 100)}% are asked for"
            )
        case Obstacle.TYPE:
            kinds = Counter(r.card.device.type for r in refused)
            return f"their cards are {_listed(kinds)}, and {_details(refused)}"
    return _CARDS.get(obstacle) or _details(refused) or "their cards do not serve"


_CARDS: Mapping[Obstacle, str] = MappingProxyType(
    {
        Obstacle.SLOTS: "every share of their cards is taken",
        Obstacle.EXHAUSTED: "no core of their cards is left, not even for who asks for none",
        Obstacle.HEALTH: "their cards are not healthy",
        Obstacle.CORDONED: f"their cards are withheld by the node's annotation {CORDON}",
        Obstacle.EXCLUSIVE: "a whole card is asked for, and every one of theirs is in use",
    }
)
_NODES: Mapping[str, str] = MappingProxyType(
    {
        Obstacle.TOO_FEW_CARDS: "they have too few cards",
        Obstacle.TOO_FEW_FIT: "too few of their cards serve at once",
    }
)


def _own(word: str, verdict: NodeVerdict) -> str:
    """What is against nodes as such."""
    reason = verdict.reason
    return _NODES.get(word) or (reason.detail if reason else "") or "they do not serve"


def _details(refused: Iterable[_Refused]) -> str:
    return _listed(Counter(r.reason.detail for r in refused if r.reason.detail))


def _listed(found: Counter[str]) -> str:
    names = [name for name, _ in found.most_common(NAMED)]
    more = len(found) - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
