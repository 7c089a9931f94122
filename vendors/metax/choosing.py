"""Which of several cards, and how good a choice is (1.3.5, 1.3.7 to 1.3.9). Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import combinations

from deviceplugin.vendor.scheduling import Card
from deviceplugin.vendors.metax.annotations import APP_CLASS, OFFLINE, ONLINE

PAIR = 10


def zone(card: Card) -> int:
    """The card's group of links, 0 for none."""
    value = card.device.custom.get("LinkZone")
    return value if isinstance(value, int) else 0


def by_links(cards: Sequence[Card], count: int) -> list[Card]:
    """Whole cards from the smallest group that has enough, else over groups from the smallest on,
    then those without links. Groups of one size in the order of their numbers.
    """
    zones: dict[int, list[Card]] = {}
    for card in cards:
        if zone(card):
            zones.setdefault(zone(card), []).append(card)
    ordered = [zones[z] for z in sorted(zones, key=lambda z: (len(zones[z]), z))]
    for members in ordered:
        if len(members) >= count:
            return members[:count]
    linked = [card for members in ordered for card in members]
    return [*linked, *(card for card in cards if not zone(card))][:count]


def tenants(card: Card) -> tuple[int, int, int]:
    """How many on the card are online, offline, and neither."""
    classes = [tenant.annotations.get(APP_CLASS) for tenant in card.tenants]
    online, offline = classes.count(ONLINE), classes.count(OFFLINE)
    return online, offline, len(classes) - online - offline


def by_company(cards: Sequence[Card], count: int) -> list[Card]:
    """For an online pod: cards with offline pods alone last; fewer online, then fewer offline."""

    def order(card: Card) -> tuple[bool, int, int]:
        online, offline, _ = tenants(card)
        return (not online and offline > 0, online, offline)

    return sorted(cards, key=order)[:count]


def company_score(cards: Sequence[Card]) -> int:
    """How little an online pod is disturbed on these cards."""
    total = 0
    for card in cards:
        online, offline, _ = tenants(card)
        total -= 100 * offline if offline and not online else 20 * online + 2 * offline
    return total


def link_score(before: Sequence[Card], taken: Collection[str]) -> int:
    """How well whole cards are connected with each other, and how little is torn apart."""
    idle = [card for card in before if not card.used]
    mine = [card for card in before if card.uuid in taken]
    rest = [card for card in idle if card.uuid not in taken]
    gain = _pairs(mine)
    return 10 * gain - (_pairs(idle) - gain - _pairs(rest))


def most_linked(count: int) -> int:
    """No `link_score` of so many cards is more: all are linked, nothing is torn apart, and what was
    idle before is not theirs, so that each link counts once again.
    """
    return 11 * PAIR * math.comb(count, 2)


def _pairs(cards: Sequence[Card]) -> int:
    return PAIR * sum(
        zone(one) == zone(other) and zone(one) > 0 for one, other in combinations(cards, 2)
    )
