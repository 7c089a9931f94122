"""How much room nodes have, in figures that are cheap to ask: who cannot have it is sorted out
here, who may have it is asked of `deviceplugin.placement`. Derived from views, never the truth.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from types import MappingProxyType

from deviceplugin.placement.observe import NodeView
from deviceplugin.placement.rank import node_score
from deviceplugin.vendor.scheduling import Card, Demand, Obstacle, Reason, Rule

__all__ = ["Need", "Order", "Room", "room_of"]

MIG = "mig"
"""The mode of cards that are handed out in partitions."""

# Made once, because most of a large cluster is refused in these words for each pod.
_TOO_FEW_CARDS, _EXCLUSIVE, _SLOTS, _MEMORY, _CORES, _HEALTH, _CORDONED = map(
    Reason,
    (
        Obstacle.TOO_FEW_CARDS,
        Obstacle.EXCLUSIVE,
        Obstacle.SLOTS,
        Obstacle.MEMORY,
        Obstacle.CORES,
        Obstacle.HEALTH,
        Obstacle.CORDONED,
    ),
)


@dataclass(frozen=True, slots=True)
class Need:
    """What one container asks of one word, as far as figures go: a demand and its rules taken
    apart once, because thousands of nodes are held against it. `count` devices; of each card
    `memory_mib`, or where that is 0 `memory_percent` of what it has, and `cores` percent.
    """

    word: str
    count: int
    memory_mib: int
    memory_percent: int
    cores: int
    idle: bool
    slots: bool

    @staticmethod
    def of(demand: Demand) -> Need:
        """What of a demand its own rules make binding."""
        rules = demand.rules
        memory = Rule.MEMORY in rules
        return Need(
            demand.word,
            demand.count,
            demand.memory_mib if memory else 0,
            (demand.memory_percent or 0) if memory and not demand.memory_mib else 0,
            min(demand.cores_percent, 100) if Rule.CORES in rules else 0,
            Rule.IDLE in rules,
            Rule.SLOTS in rules,
        )


@dataclass(frozen=True, slots=True)
class Share:
    """What is left of one card that may take somebody: MiB, percent, containers; and its size.
    `devices` is how many a container may get of it: one, but of a card in partitions.
    """

    memory_mib: int
    cores: int
    slots: int
    total_mib: int
    idle: bool
    devices: int

    def lacks(self, need: Need) -> Reason | None:
        """What stands between the card and a need, as far as figures go."""
        if need.idle and not self.idle:
            return _EXCLUSIVE
        if need.slots and self.slots <= 0:
            return _SLOTS
        if (need.memory_mib or self.total_mib * need.memory_percent // 100) > self.memory_mib:
            return _MEMORY
        return _CORES if need.cores > self.cores else None


@dataclass(frozen=True, slots=True)
class Room:
    """A node's `score` as `placement.rank` counts it, and by word how many cards it has, what is
    left of those that take somebody, the most that is left of any, MiB and percent, and why others
    take nobody.
    """

    score: float
    cards: Mapping[str, int]
    shares: Mapping[str, tuple[Share, ...]]
    most: Mapping[str, tuple[int, int]]
    aside: Mapping[str, Reason]

    def lacks(self, need: Need) -> Reason | None:
        """What surely stands between the node and a need; None where a closer look is due.

        Only what no vendor's rule can mend counts: a card that fails here fails there.
        """
        word = need.word
        most = self.most.get(word)
        if most is None:
            return self.aside.get(word, _TOO_FEW_CARDS)
        if need.memory_mib > most[0]:
            return _MEMORY
        if need.cores > most[1]:
            return _CORES
        found, left = _TOO_FEW_CARDS, need.count
        if need.count <= self.cards[word]:
            found = self.aside.get(word, found)
        for share in self.shares[word]:
            lacking = share.lacks(need)
            if lacking is not None:
                found = lacking
                continue
            left -= share.devices
            if left <= 0:
                return None
        return found


def room_of(view: NodeView) -> Room:
    """The room of a node as it is."""
    shares = {
        word: tuple(
            Share(
                card.free_memory_mib,
                card.free_cores,
                card.device.count - card.used,
                card.device.memory,
                not card.used,
                max(card.device.count - card.used, 1) if card.device.mode == MIG else 1,
            )
            for card in cards
            if _aside(card, view) is None
        )
        for word, cards in view.cards.items()
    }
    aside = {
        word: reason
        for word, cards in view.cards.items()
        for card in reversed(cards)
        if (reason := _aside(card, view)) is not None
    }
    return Room(
        node_score(card for cards in view.cards.values() for card in cards),
        MappingProxyType({word: len(cards) for word, cards in view.cards.items()}),
        MappingProxyType(shares),
        MappingProxyType(
            {
                word: (max(s.memory_mib for s in found), max(s.cores for s in found))
                for word, found in shares.items()
                if found
            }
        ),
        MappingProxyType(aside),
    )


def _aside(card: Card, view: NodeView) -> Reason | None:
    """Why a card takes nobody, whoever asks."""
    if not card.device.healthy:
        return _HEALTH
    return _CORDONED if card.uuid in view.cordoned else None


_NAME = itemgetter(1)


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
        return map(_NAME, self._sorted)

    def __reversed__(self) -> Iterator[str]:
        return map(_NAME, reversed(self._sorted))
