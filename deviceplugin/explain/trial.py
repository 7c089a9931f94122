"""Tries changes: whether a pod would fit, asked of the code that decides. Pure but for the views
that the cluster keeps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deviceplugin.explain.changes import (
    Change,
    RaiseQuota,
    Tolerate,
    Uncordon,
    Unselect,
    applied,
)
from deviceplugin.explain.judge import freed, requested
from deviceplugin.explain.kube import Filter, excluded
from deviceplugin.explain.world import World
from deviceplugin.placement.fit import Placement
from deviceplugin.scheduler.cluster import Holding
from deviceplugin.scheduler.deciding import decide
from deviceplugin.scheduler.filtering import Found, Request, why
from deviceplugin.scheduler.quota import PREFIX, Quotas
from deviceplugin.scheduler.room import Need
from deviceplugin.vendor.scheduling import RefusedError

__all__ = ["Trial"]

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """Asks whether the pod would fit if this and that were changed. `names` are the nodes that
    kube-scheduler offers for it as it is.
    """

    world: World
    pod: Json
    wanted: Request
    names: Collection[str]

    def found(
        self, changes: Iterable[Change], names: Collection[str] | None = None
    ) -> tuple[Request, Found] | None:
        """What was asked and the place that was found for it."""
        changes = tuple(changes)
        world, asked = self.world, self._asked(changes)
        if asked is None:
            return None
        where = self._offered(changes, names)
        found = decide(world.cluster, self._quotas(changes), asked, where, self.mine)
        return (asked, found) if isinstance(found, Found) else None

    def nodes(
        self, changes: Iterable[Change], names: Collection[str] | None = None
    ) -> tuple[str, ...]:
        """All the nodes where it fits."""
        changes = tuple(changes)
        asked, quotas = self._asked(changes), self._quotas(changes)
        if asked is None:
            return ()
        mine, gone = self.mine, freed(self.world, self.wanted)
        if quotas.refusal(asked.pod.namespace, quotas.asked(asked.asks), gone) is not None:
            return ()
        needs = [Need.of(demand) for ask in asked.asks for demand in ask.demands.values()]
        cluster = self.world.cluster
        found = []
        for name in self._offered(changes, names):
            room, is_home = cluster.room(name), mine is not None and mine.node == name
            lacks = room is None or any(room.lacks(need) for need in needs)
            if lacks and not is_home:  # what it holds itself counts as taken there
                continue
            said = why(cluster, asked, name, lambda p: quotas.allows(asked, p, gone))
            if isinstance(said, Placement):
                found.append(name)
        return tuple(found)

    @property
    def mine(self) -> Holding | None:
        """What the pod holds, which it would give up."""
        return self.world.cluster.holding(self.wanted.pod.uid)

    def _offered(self, changes: Sequence[Change], among: Collection[str] | None) -> Collection[str]:
        """The nodes that kube-scheduler offers then, of those that are asked about."""
        if not any(isinstance(change, Tolerate | Unselect | Uncordon) for change in changes):
            return self.names if among is None else among
        pod = applied(self.pod, changes)
        opened = {change.node for change in changes if isinstance(change, Uncordon)}
        return [
            name
            for name in (self.world.traits if among is None else among)
            if all(
                one.by is Filter.UNSCHEDULABLE and name in opened
                for one in excluded(pod, self.world.traits[name])
            )
        ]

    def _asked(self, changes: Sequence[Change]) -> Request | None:
        try:
            return requested(self.world, applied(self.pod, changes))
        except RefusedError:
            return None

    def _quotas(self, changes: Sequence[Change]) -> Quotas:
        raised = {
            (change.namespace, change.name, change.key): change.amount
            for change in changes
            if isinstance(change, RaiseQuota)
        }
        return _with_limits(self.world, raised) if raised else self.world.quotas


def _with_limits(world: World, raised: Mapping[tuple[str, str, str], int]) -> Quotas:
    """The quotas of one namespace with other limits."""
    namespace = next(iter(raised))[0]
    quotas = Quotas(world.backends)
    for record in world.limits:
        if record.namespace == namespace:
            hard = {
                resource: str(raised.get((namespace, record.name, f"{PREFIX}{resource}"), text))
                for resource, text in record.hard.items()
            }
            quotas.set_quota(replace(record, hard=hard))
    for holding in world.cluster.holdings():
        if holding.namespace == namespace:
            quotas.moved(None, holding)
    return quotas
