"""Pods that come to a captured cluster, one after the other: where they would go, what is left, and
why others would wait. Decided by the scheduler's own code; nothing outside is asked or changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deviceplugin.explain.account import Account, Got
from deviceplugin.explain.coming import Comer
from deviceplugin.explain.judge import offered, requested
from deviceplugin.explain.placed import got_of
from deviceplugin.explain.waiting import waits
from deviceplugin.explain.world import World
from deviceplugin.placement.admit import admitted
from deviceplugin.placement.objects import pod_spec
from deviceplugin.scheduler.deciding import decide, holding_of
from deviceplugin.scheduler.filtering import Found
from deviceplugin.scheduler.webhook import privileged
from deviceplugin.vendor.scheduling import RefusedError

__all__ = [
    "Left",
    "Outcome",
    "Result",
    "grouped",
    "left",
    "simulate",
]

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a pod is now and what it got; `node` is empty where it waits, for `reason`. `account`
    tells more of the first of a kind that waits.
    """

    pod: str
    kind: str
    node: str = ""
    got: tuple[Got, ...] = ()
    reason: str = ""
    account: Account | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """What is free of one word's cards that may take somebody. Memory in MiB; `idle_mib` of it is
    on cards that nobody uses, `largest_mib` is the most on one card.
    """

    word: str
    cards: int = 0
    idle: int = 0
    shares: int = 0
    of_shares: int = 0
    mib: int = 0
    of_mib: int = 0
    idle_mib: int = 0
    largest_mib: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What became of each pod, in the order in which they came."""

    outcomes: tuple[Outcome, ...]
    before: tuple[Left, ...]
    after: tuple[Left, ...]


def simulate(world: World, pods: Iterable[Comer]) -> Result:
    """Let pods come; the world is another afterwards."""
    before = left(world)
    names: dict[str, tuple[str, ...]] = {}
    told: dict[str, str] = {}
    outcomes = []
    for comer in pods:
        if comer.kind not in names:
            names[comer.kind] = tuple(n for n, outside in offered(world, comer.item) if not outside)
        outcome = _one(world, comer, names[comer.kind], told.get(comer.kind))
        if not outcome.node:
            # Nothing is given back here: who is like one that waits will wait for the same.
            told.setdefault(comer.kind, outcome.reason)
        outcomes.append(outcome)
    return Result(tuple(outcomes), before, left(world))


def _one(world: World, comer: Comer, names: Collection[str], known: str | None) -> Outcome:
    if known is not None:
        return Outcome(comer.key, comer.kind, reason=known)
    if gates := [str(gate.get("name")) for gate in comer.item["spec"].get("schedulingGates") or ()]:
        reason = f"it is held back by its scheduling gates {', '.join(gates)}"
        return Outcome(comer.key, comer.kind, reason=reason)
    try:
        item = _admitted(world, comer.item)
        wanted = requested(world, item)
    except RefusedError as error:
        return Outcome(comer.key, comer.kind, reason=f"it is refused: {error}")
    if not wanted.words:
        return Outcome(comer.key, comer.kind, reason="it asks for no device")
    found = decide(world.cluster, world.quotas, wanted, names)
    if not isinstance(found, Found):
        account = waits(world, item, wanted)
        reason = account.answer.removeprefix(f"{comer.key} is pending: ").removesuffix(".")
        return Outcome(comer.key, comer.kind, reason=reason, account=account)
    holding = holding_of(wanted, found, world.cluster)
    world.cluster.assume(holding)
    return Outcome(comer.key, comer.kind, holding.node, tuple(got_of(world, item, holding)))


def _admitted(world: World, item: Json) -> Json:
    """As the webhook stores it. Raises `RefusedError`."""
    backends = world.backends.values()
    if not world.settings.takes(str(item["spec"].get("schedulerName") or "")):
        raise RefusedError(f"it names scheduler {item['spec']['schedulerName']}")
    if text := privileged(pod_spec(item), backends):
        raise RefusedError(text)
    return admitted(item, backends)[0]


def left(world: World) -> tuple[Left, ...]:
    """What is free, by word, of cards that are healthy and not withheld."""
    found: dict[str, Left] = {}
    for name in world.cluster.names():
        view = world.cluster.view(name)
        for word, cards in view.cards.items() if view else ():
            for card in cards:
                if not card.device.healthy or (view and card.uuid in view.cordoned):
                    continue
                one = found.get(word, Left(word))
                idle, free = not card.used, card.free_memory_mib
                found[word] = Left(
                    word,
                    one.cards + 1,
                    one.idle + idle,
                    one.shares + max(card.device.count - card.used, 0),
                    one.of_shares + card.device.count,
                    one.mib + free,
                    one.of_mib + card.device.memory,
                    one.idle_mib + (free if idle else 0),
                    max(one.largest_mib, free),
                )
    return tuple(found[word] for word in sorted(found))


def grouped(outcomes: Sequence[Outcome]) -> Mapping[str, list[Outcome]]:
    """By kind, in the order in which the first of each came."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.kind, []).append(outcome)
    return found
