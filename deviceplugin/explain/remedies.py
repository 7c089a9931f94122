"""What would make a pod fit. Nothing is suggested that was not tried by the code that decides.

First every single change is tried: of each amount the largest that fits is looked for. Only where
no single one helps, several are combined, and those that are not needed are left out again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deviceplugin.explain.changes import Change, Release
from deviceplugin.explain.judge import NodeVerdict, freed
from deviceplugin.explain.knobs import Knob, Tried, knobs
from deviceplugin.explain.trial import Trial
from deviceplugin.explain.world import World
from deviceplugin.placement.fit import Placement, place
from deviceplugin.scheduler.filtering import Request
from deviceplugin.vendor.scheduling import Obstacle, Unfit

__all__ = ["Remedy", "remedies"]

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Remedy:
    """Changes that, made together, let the pod fit on these nodes, the likeliest first."""

    changes: tuple[Change, ...]
    nodes: tuple[str, ...]

    def __str__(self) -> str:
        return ", and ".join(map(str, self.changes))


def remedies(
    world: World, pod: Json, wanted: Request, verdicts: Mapping[str, NodeVerdict]
) -> list[Remedy]:
    """What would make a pod fit that fits nowhere now, the least change first."""
    trial = Trial(world, pod, wanted, [v.name for v in verdicts.values() if not v.outside])
    turned = list(knobs(world, pod, wanted))
    found = [remedy for knob in turned if (remedy := _alone(trial, knob)) is not None]
    found += _released(world, wanted, verdicts)
    return found or list(_together(trial, turned))


def _alone(trial: Trial, knob: Knob) -> Remedy | None:
    """A knob that helps without any other, turned no further than is needed."""
    helps = next((turn for turn in knob.turns() if trial.found(turn) is not None), None)
    if helps is None:
        return None
    possible = trial.nodes(helps)
    changes = knob.least(lambda changes: trial.found(changes, possible), helps)
    nodes = trial.nodes(changes, possible)
    return Remedy(changes, nodes) if nodes else None


def _together(trial: Trial, knobs: Sequence[Knob]) -> Iterator[Remedy]:
    """The fewest knobs that help together: amounts are asked less of last."""
    turned = [knob for knob in knobs if _furthest([knob])]
    if trial.found(_furthest(turned)) is None:
        return
    for knob in reversed(turned):
        without = [other for other in turned if other is not knob]
        if trial.found(_furthest(without)) is not None:
            turned = without
    possible = trial.nodes(_furthest(turned))
    changes: tuple[Change, ...] = ()
    for position, knob in enumerate(turned):
        rest = _furthest(turned[position + 1 :])
        tried = _between(trial, changes, rest, possible)
        changes += knob.least(tried, _furthest([knob]))
    nodes = trial.nodes(changes, possible)
    if nodes:
        yield Remedy(changes, nodes)


def _furthest(knobs: Iterable[Knob]) -> tuple[Change, ...]:
    return tuple(change for knob in knobs for change in next(knob.turns(), ()))


def _between(
    trial: Trial, before: tuple[Change, ...], after: tuple[Change, ...], names: Sequence[str]
) -> Tried:
    return lambda these: trial.found((*before, *these, *after), names)


def _released(
    world: World, wanted: Request, verdicts: Mapping[str, NodeVerdict]
) -> Iterator[Remedy]:
    """A card that is withheld and would be enough."""
    gone = freed(world, wanted)
    for verdict in verdicts.values():
        found = verdict.found
        if verdict.outside or not isinstance(found, Unfit):
            continue
        view = world.cluster.view(verdict.name, (wanted.pod.uid,))
        for reason in found.reasons:
            if view is None or reason.obstacle is not Obstacle.CORDONED:
                continue
            open_ = replace(view, cordoned=view.cordoned - {reason.card})
            placed = place(
                open_,
                wanted.pod,
                wanted.asks,
                world.backends,
                wanted.card_policy,
                wanted.node_policy,
            )
            if isinstance(placed, Placement) and not world.quotas.allows(wanted, placed, gone):
                yield Remedy((Release(verdict.name, reason.card),), (verdict.name,))
                return
