"""How eight cards are wired, and which of them go together. Pure.

Source: metax-iluvatar-kunlunxin-hygon.md 3.4: two wings of four, fully connected inside; across,
each card is connected to its opposite. Positions are the cards' indices.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from itertools import product

__all__ = ["COUNTS", "bubbles", "connected", "most_mended", "select"]

COUNTS = (1, 2, 4, 8)
"""How many cards one container may have."""

WING = 4
CARDS = 8

_ACROSS = tuple((card, card + WING) for card in range(WING))
_SQUARES = (
    (0, 1, 4, 5),
    (2, 3, 6, 7),
    (0, 2, 4, 6),
    (1, 3, 5, 7),
    (0, 3, 4, 7),
    (1, 2, 5, 6),
)
"""Four cards in a ring over both wings, the preferred first."""

_TIGHTEST = {1: (1, 3, 2, 4), 2: (2, 3, 4), 4: (4,)}
"""How many free cards a wing should have for so many wanted, the preferred first."""


def connected(one: int, other: int) -> bool:
    """Whether two cards have a direct link."""
    return one // WING == other // WING or abs(one - other) == WING


def select(free: Collection[int], count: int) -> tuple[int, ...]:
    """The indices of the cards to take out of those that are free; none where no choice is good."""
    cards = sorted(free)
    left = [card for card in cards if card < WING]
    right = [card for card in cards if card >= WING]
    if count == CARDS:
        return tuple(cards[:CARDS]) if len(cards) >= CARDS else ()
    if count not in _TIGHTEST:
        return ()
    for size in _TIGHTEST[count]:
        for wing in (left, right):
            if len(wing) == size:
                return tuple(wing[:count])
    if max(len(left), len(right)) >= count:  # a wing of another size, on a larger machine
        return tuple((left if len(left) >= count else right)[:count])
    return _across(frozenset(cards), count)


def _across(free: frozenset[int], count: int) -> tuple[int, ...]:
    if count == 2:
        return next((pair for pair in _ACROSS if free.issuperset(pair)), ())
    if count != 4:
        return ()
    found = [square for square in _SQUARES if free.issuperset(square)]
    if len(free) != 6 or not found:
        return found[0] if found else ()
    for square in found:
        one, other = sorted(free.difference(square))
        if connected(one, other):
            return square
    return found[-1]


def bubbles(used: Sequence[int] | Collection[int]) -> int:
    """How much a set of used cards breaks the wings up; less is better."""
    left = sum(card < WING for card in used)
    return _broken(left, len(used) - left)


def _broken(left: int, right: int) -> int:
    """The `bubbles` of so many used cards in each wing."""
    if not left and not right:
        return 1
    return sum({4: 0, 1: 2}.get(number, 1) for number in (left, right))


@cache
def most_mended(least: int, most: int) -> int:
    """By how much `least` to `most` cards can lessen the `bubbles` of a node, whatever is in use
    there and however many cards it has beyond the first wing: more than a wing's counts as such.
    """
    before = product(range(WING + 1), range(WING + 2))
    return max(
        (
            _broken(left, right) - _broken(left + more, right + count - more)
            for (left, right), count in product(before, range(least, most + 1))
            for more in range(min(WING - left, count) + 1)
        ),
        default=0,
    )
