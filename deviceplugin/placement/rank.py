"""Which card and which node first. Pure (hami-scheduler.md 4.3 to 4.5).

As HAMi does since 2.10: the policy decides, NUMA nodes break ties; percentages of memory count as
what they are, and a demand counts only on cards of its own word. Of equals the last listed comes
first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deviceplugin.vendor.scheduling import Card, Demand, Policy

__all__ = ["card_score", "node_score", "ranked"]


def card_score(card: Card, demand: Demand) -> float:
    """How full the card is with this demand on it: ten for each of slots, cores and memory."""
    device = card.device
    return 10 * (
        _ratio(card.used + 1, device.count)
        + _ratio(card.used_cores + min(demand.cores_percent, 100), device.cores)
        + _ratio(card.used_memory_mib + demand.memory_of(device.memory), device.memory)
    )


def ranked(cards: Sequence[Card], demand: Demand, policy: Policy) -> list[Card]:
    """The cards in the order of taking: under binpack the fullest first, else the emptiest."""
    sign = -1 if policy is Policy.BINPACK else 1

    def order(item: tuple[int, Card]) -> tuple[float, int, int]:
        position, card = item
        return (sign * card_score(card, demand), -sign * card.device.numa, -position)

    return [card for _, card in sorted(enumerate(cards), key=order)]


def node_score(cards: Iterable[Card]) -> float:
    """How full a node is, over all cards of all vendors, before the pod that is to be placed."""
    cards = tuple(cards)
    return 10 * (
        _ratio(sum(c.used for c in cards), sum(c.device.count for c in cards))
        + _ratio(sum(c.used_cores for c in cards), sum(c.device.cores for c in cards))
        + _ratio(sum(c.used_memory_mib for c in cards), sum(c.device.memory for c in cards))
    )


def _ratio(used: int, total: int) -> float:
    return used / total if total else 0.0
