"""What may be changed about a pod and its namespace's quotas, and how far. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from deviceplugin.explain.changes import Cap, Change, Drop, RaiseQuota, Tolerate, Uncordon, Unselect
from deviceplugin.explain.kube import Filter, excluded
from deviceplugin.explain.world import World
from deviceplugin.scheduler.cluster import Holding
from deviceplugin.scheduler.deciding import holding_of
from deviceplugin.scheduler.filtering import Found, Request
from deviceplugin.scheduler.quota import PREFIX, units
from deviceplugin.vendor.scheduling import Demand

__all__ = ["Knob", "Tried", "knobs"]

Json = Mapping[str, Any]


MOST_TAINTS = 5
"""That are tried."""
PARTS = 8
"""In which an amount is tried."""

Tried = Callable[[tuple[Change, ...]], tuple[Request, Found] | None]
"""What comes of changes: what is asked for then and the place that is found for it."""


class Knob(Protocol):
    """Something that may be changed more or less far."""

    def turns(self) -> Iterator[tuple[Change, ...]]:
        """Ways to turn it of which one has to help, or it does not help at all: as far as it goes
        first; none where it cannot be turned.
        """

    def least(self, found: Tried, turned: tuple[Change, ...]) -> tuple[Change, ...]:
        """No further than is needed, where it helps turned like this."""


@dataclass(frozen=True, slots=True)
class _Switch:
    """On or off."""

    change: Change

    def turns(self) -> Iterator[tuple[Change, ...]]:
        yield (self.change,)

    def least(self, found: Tried, turned: tuple[Change, ...]) -> tuple[Change, ...]:
        return turned


@dataclass(frozen=True, slots=True)
class _Amount:
    """How much of a resource containers ask for: `own` is what each asks for now, in the resource's
    units; `said` says an amount in words.
    """

    resource: str
    own: Mapping[str, int]
    said: Callable[[int], str]

    def turns(self) -> Iterator[tuple[Change, ...]]:
        """Where the smallest amount does not fit a larger one may: some vendors' cards are cut into
        slices of one size.
        """
        most = max(self.own.values())
        amounts = [1, *(most * part // PARTS for part in range(PARTS - 1, 0, -1))]
        return (cap for amount in dict.fromkeys(amounts) if amount and (cap := self._cap(amount)))

    def least(self, found: Tried, turned: tuple[Change, ...]) -> tuple[Change, ...]:
        fits = min(change.amount for change in turned if isinstance(change, Cap))
        fails = max(self.own.values())
        while fails - fits > 1:
            middle = (fits + fails) // 2
            if found(self._cap(middle)) is not None:
                fits = middle
            else:
                fails = middle
        return self._cap(fits)

    def _cap(self, amount: int) -> tuple[Change, ...]:
        over = tuple(name for name, own in self.own.items() if own > amount)
        return (Cap(self.resource, amount, over, self.said(amount)),) if over else ()


@dataclass(frozen=True, slots=True)
class _Limits:
    """The quotas of a namespace, which say no; `mine` is what the pod gives up for what it asks."""

    world: World
    namespace: str
    mine: Holding | None

    def turns(self) -> Iterator[tuple[Change, ...]]:
        """So high that they do not matter."""
        yield tuple(self._raised(lambda _resource, limit: limit + _PLENTY))

    def least(self, found: Tried, turned: tuple[Change, ...]) -> tuple[Change, ...]:
        """What the namespace would hold then."""
        placed = found(turned)
        if placed is None:
            return turned
        world, mine = self.world, self.mine
        after = world.quotas.held(holding_of(*placed, world.cluster))
        before = world.quotas.held(mine) if mine is not None else {}
        used = world.quotas.used(self.namespace)

        def needed(resource: str, limit: int) -> int:
            more = after.get(resource, 0)
            return max(limit, used.get(resource, 0) - before.get(resource, 0) + more if more else 0)

        return tuple(self._raised(needed))

    def _raised(self, amount: Callable[[str, int], int]) -> Iterator[Change]:
        unit = units(self.world.backends)
        for namespace, name, resource, limit in self.world.quotas.limits():
            if namespace == self.namespace:
                wanted = amount(resource, limit)
                if wanted > limit:
                    in_units = math.ceil(wanted / unit[resource])
                    yield RaiseQuota(namespace, name, f"{PREFIX}{resource}", in_units)


_PLENTY = 1 << 30


@dataclass(frozen=True, slots=True)
class _Cordons:
    """The nodes that take nobody new."""

    names: tuple[str, ...]

    def turns(self) -> Iterator[tuple[Change, ...]]:
        if self.names:
            yield tuple(map(Uncordon, self.names))

    def least(self, found: Tried, turned: tuple[Change, ...]) -> tuple[Change, ...]:
        """The one that would be taken."""
        placed = found(turned)
        return turned if placed is None else (Uncordon(placed[1].placement.node),)


def knobs(world: World, pod: Json, wanted: Request) -> Iterator[Knob]:
    """Everything that may be turned, what a pod's author would turn first."""
    for word in sorted(wanted.words):
        yield from _amounts(world, wanted, word)
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    keys = {key for word in wanted.words for key in world.backends[word].keys.by_people}
    yield from (_Switch(Drop(key)) for key in sorted(keys & annotations.keys()))
    if any(limit[0] == wanted.pod.namespace for limit in world.quotas.limits()):
        yield _Limits(world, wanted.pod.namespace, world.cluster.holding(wanted.pod.uid))
    yield from _filters(world, pod)


def _filters(world: World, pod: Json) -> Iterator[Knob]:
    """What lets kube-scheduler offer more nodes. Nobody but its author knows what a required node
    affinity is for.
    """
    outside = [(name, excluded(pod, traits)) for name, traits in world.traits.items()]
    taints = Counter(one.taint for _, some in outside for one in some if one.taint)
    yield from (_Switch(Tolerate(taint)) for taint, _ in taints.most_common(MOST_TAINTS))
    labels = {one.label for _, some in outside for one in some if one.label}
    yield from (_Switch(Unselect(label)) for label in sorted(labels))
    shut = (name for name, some in outside if any(e.by is Filter.UNSCHEDULABLE for e in some))
    yield _Cordons(tuple(sorted(shut)))


def _amounts(world: World, wanted: Request, word: str) -> Iterator[_Amount]:
    """Memory, cores and count, as far as there is a resource for them and something to spare."""
    backend = world.backends[word]
    names = backend.resources
    asking = [(ask.container, ask.demands[word]) for ask in wanted.asks if word in ask.demands]

    def own(understood: Callable[[Demand], int]) -> dict[str, int]:
        return {container.name: understood(demand) for container, demand in asking}

    if names.memory_percent and any(c.written(names.memory_percent) for c, _ in asking):
        parts = own(lambda d: d.memory_percent or 0)
        yield _Amount(names.memory_percent, parts, lambda n: f"{n}% of a card's memory")
    elif names.memory:
        largest, unit = _largest(world, word), names.memory_unit_mib
        yield _Amount(
            names.memory,
            own(lambda d: d.memory_of(largest) // unit),
            lambda n: f"{n * unit:,} MiB per card",
        )
    if names.cores:
        scale = names.core_units
        cores = own(lambda d: min(d.cores_percent, 100) * scale // 100)
        yield _Amount(names.cores, cores, lambda n: f"{n * 100 // scale}% of a card's cores")
    counts = own(lambda d: d.count)
    yield _Amount(names.count, counts, lambda n: f"{n} card{'s' if n > 1 else ''}")


def _largest(world: World, word: str) -> int:
    """MiB of the largest card anywhere."""
    views = (world.cluster.view(name) for name in world.cluster.names())
    sizes = (c.device.memory for view in views if view for c in view.cards.get(word, ()))
    return max(sizes, default=0)
