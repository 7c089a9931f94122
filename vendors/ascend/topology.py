"""Which NPUs go together: groups with a network of their own, and modules of two dies. Pure.

Source: ascend-and-mock.md A.3.5, A.3.7, A.4 (910C as HAMi 2.10 does it).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from deviceplugin.vendor.scheduling import Card

__all__ = ["affinity", "grouped", "network", "paired"]


def network(card: Card) -> float | None:
    """The number of the card's network; None where the node does not tell."""
    found = card.device.custom.get("NetworkID")
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None


def grouped(fitting: Sequence[Card], count: int) -> list[Card]:
    """Cards of the largest groups first; of equal groups the one with the best ranked card."""
    groups: dict[float | None, list[Card]] = {}
    for card in fitting:
        groups.setdefault(network(card), []).append(card)
    by_size = sorted(groups.values(), key=lambda cards: -len(cards))
    return [card for cards in by_size for card in cards][:count]


def paired(fitting: Sequence[Card], count: int) -> list[Card]:
    """Both dies of a module each time, best ranked first; fewer than `count` when too few modules
    have both free.
    """
    modules: dict[int, list[Card]] = {}
    for card in fitting:
        modules.setdefault(card.device.index // 2, []).append(card)
    both = [card for cards in modules.values() if len(cards) == 2 for card in cards]
    return both[:count]


def affinity(networks: Iterable[float | None]) -> float:
    """How much of a container is in one network: 1 for all of it, 0 where networks are unknown."""
    counts = Counter(networks)
    total = counts.total()
    return 0.0 if None in counts or not total else max(counts.values()) / total
