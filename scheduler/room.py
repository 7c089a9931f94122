"""How much room nodes have, in figures that are cheap to ask: who cannot have it is sorted out
here, who may have it is asked of `deviceplugin.placement`. Derived from views, never the truth.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from deviceplugin.placement.observe import NodeView
from deviceplugin.placement.rank import node_score
from deviceplugin.vendor.scheduling import Demand, Obstacle, Rule

__all__ = ["Order", "Room", "room_of"]


@dataclass(frozen=True, slots=True)
class Share:
    """What is left of one card that may take somebody: MiB, percent, containers; and its size."""

    memory_mib: int
    cores: int
    slots: int
    total_mib: int
    idle: bool


@dataclass(frozen=True, slots=True)
class Room:
    """A node's `score` as `placement.rank` counts it, and by word how many cards it has and what is
    left of those that take somebody.
    """

    score: float
    cards: Mapping[str, int]
    shares: Mapping[str, tuple[Share, ...]]

    def lacks(self, demand: Demand) -> Obstacle | None:
        """What surely stands between the node and a demand; None where a closer look is due.

        Only what no vendor's rule can mend counts: a card that fails here fails there.
        """
        shares = self.shares.get(demand.word)
        if not shares:
            return Obstacle.HEALTH if self.cards.get(demand.word) else Obstacle.TOO_FEW_CARDS
        rules, found = demand.rules, Obstacle.TOO_FEW_CARDS
        cores = min(demand.cores_percent, 100)
        for share in shares:
            if Rule.IDLE in rules and not share.idle:
                found = Obstacle.EXCLUSIVE
            elif Rule.SLOTS in rules and share.slots <= 0:
                found = Obstacle.SLOTS
            elif Rule.MEMORY in rules and demand.memory_of(share.total_mib) > share.memory_mib:
                found = Obstacle.MEMORY
            elif Rule.CORES in rules and cores > share.cores:
                found = Obstacle.CORES
            else:
                return None
        return found


def room_of(view: NodeView) -> Room:
    """The room of a node as it is."""
    return Room(
        node_score(card for cards in view.cards.values() for card in cards),
        MappingProxyType({word: len(cards) for word, cards in view.cards.items()}),
        MappingProxyType(
            {
                word: tuple(
                    Share(
                        card.free_memory_mib,
                        card.free_cores,
                        card.device.count - card.used,
                        card.device.memory,
                        not card.used,
                    )
                    for card in cards
                    if card.device.healthy and card.uuid not in view.cordoned
                )
                for word, cards in view.cards.items()
            }
        ),
    )


class Order:
    """Names in the order of a number that each has, the smaller first, equals by name. A change
    costs as much as finding the place.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, float] = {}
        self._sorted: list[tuple[float, str]] = []

    def put(self, name: str, number: float) -> None:
        """Take a name in, or give it another number."""
        self.remove(name)
        self._numbers[name] = number
        insort(self._sorted, (number, name))

    def remove(self, name: str) -> None:
        """Forget a name, known or not."""
        if name in self._numbers:
            del self._sorted[bisect_left(self._sorted, (self._numbers.pop(name), name))]

    def __iter__(self) -> Iterator[str]:
        return (name for _, name in self._sorted)

    def __reversed__(self) -> Iterator[str]:
        return (name for _, name in reversed(self._sorted))
