"""What every card must pass, whoever made it. Pure.

Source: metax-iluvatar-kunlunxin-hygon.md 0.3, hami-scheduler.md 4.6; selectors as HAMi 2.10 reads
them: blanks do not count, an empty list is no constraint, both lists of a pair apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import nsmallest

from deviceplugin.api.hami.keys import VendorKeys
from deviceplugin.vendor.scheduling import Card, Demand, Obstacle, Reason, Rule, listed

__all__ = ["Selectors", "check", "selectors"]


NAMED, LONGEST = 5, 40
"""Parts of types that a reason names, and how many characters of each."""


@dataclass(frozen=True, slots=True)
class Selectors:
    """What a pod's author wants of cards: uuids exactly, types as parts of the card's type, in any
    case; empty where he does not care.
    """

    use_uuids: frozenset[str] = frozenset()
    avoid_uuids: frozenset[str] = frozenset()
    use_types: frozenset[str] = frozenset()
    avoid_types: frozenset[str] = frozenset()


def selectors(annotations: Mapping[str, str], keys: VendorKeys) -> Selectors:
    """The selectors of a pod for one word."""
    return Selectors(
        listed(annotations, keys.use_uuid),
        listed(annotations, keys.avoid_uuid),
        frozenset(map(str.lower, listed(annotations, keys.use_type))),
        frozenset(map(str.lower, listed(annotations, keys.avoid_type))),
    )


def check(card: Card, demand: Demand, wanted: Selectors, *, cordoned: bool) -> Reason | None:
    """The first obstacle between a demand and a card, None when there is none."""
    device, rules = card.device, demand.rules
    if not device.healthy:
        return Reason(Obstacle.HEALTH, card.uuid)
    if cordoned:
        return Reason(Obstacle.CORDONED, card.uuid)
    if (reason := _selected(card, wanted)) is not None:
        return reason
    if Rule.IDLE in rules and card.used:
        return Reason(Obstacle.EXCLUSIVE, card.uuid, f"{card.used} containers use it")
    if Rule.SLOTS in rules and card.used >= device.count:
        return Reason(Obstacle.SLOTS, card.uuid, f"all {device.count} shares are taken")
    memory, cores = demand.memory_of(device.memory), min(demand.cores_percent, 100)
    if Rule.MEMORY in rules and memory > card.free_memory_mib:
        detail = f"asks {memory} MiB, {card.free_memory_mib} of {device.memory} are free"
        return Reason(Obstacle.MEMORY, card.uuid, detail)
    if Rule.CORES in rules and cores > card.free_cores:
        detail = f"asks {cores}% of the cores, {card.free_cores} of {device.cores} are free"
        return Reason(Obstacle.CORES, card.uuid, detail)
    if Rule.EXCLUSIVE in rules and device.cores == 100 == cores and card.used:
        detail = f"asks the whole card, {card.used} containers use it"
        return Reason(Obstacle.EXCLUSIVE, card.uuid, detail)
    if Rule.EXHAUSTED in rules and device.cores and not cores and card.free_cores <= 0:
        return Reason(Obstacle.EXHAUSTED, card.uuid, "no cores are left on it")
    return None


def _selected(card: Card, wanted: Selectors) -> Reason | None:
    kind = card.device.type.lower()
    if wanted.use_types and not any(part in kind for part in wanted.use_types):
        return Reason(Obstacle.TYPE, card.uuid, f"the pod wants {_listed(wanted.use_types)}")
    if found := {part for part in wanted.avoid_types if part in kind}:
        return Reason(Obstacle.TYPE, card.uuid, f"the pod avoids {_listed(found)}")
    if wanted.use_uuids and card.uuid not in wanted.use_uuids:
        return Reason(Obstacle.UUID, card.uuid, "the pod names other cards")
    if card.uuid in wanted.avoid_uuids:
        return Reason(Obstacle.UUID, card.uuid, "the pod avoids this card")
    return None


def _listed(parts: frozenset[str] | set[str]) -> str:
    """The first of them, and how many more there are: an annotation may have thousands."""
    first = nsmallest(NAMED, parts)
    some = [text if len(text) <= LONGEST else f"{text[:LONGEST]}..." for text in first]
    more = f" and {len(parts) - NAMED:,} more" if len(parts) > NAMED else ""
    return ", ".join(some) + more
