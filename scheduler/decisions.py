"""What this process has decided and the API server has not shown as bound yet.

Between filter and bind a decision counts in memory alone. It lapses by age, because the pod may
never come to be bound: then its room is others', and a bind that comes all the same is decided
anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import structlog

from deviceplugin.scheduler.cluster import Cluster, Holding
from deviceplugin.scheduler.filtering import Request

__all__ = ["Decision", "Decisions"]

LOOK_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class Decision:
    """What a pod that `wanted` it is to hold, and the `annotations` that say so.

    `expected` are the results that stand on the pod until it is bound, at its `version`: the same,
    or what was found there where the decision comes with the Binding. It is `unsettled` while
    nobody knows whether the Binding that was sent happens.
    """

    wanted: Request
    holding: Holding
    annotations: Mapping[str, str]
    at: float
    expected: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    version: str = ""
    unsettled: bool = False

    @property
    def written(self) -> bool:
        """Whether its annotations are on the pod already."""
        return self.expected == self.annotations


class Decisions:
    """The decisions that count, by the pod's uid. They are in `cluster` too, which drops them when
    it sees the pod bound or gone.
    """

    def __init__(self, cluster: Cluster, keep: float, monotonic: Callable[[], float]) -> None:
        """A decision lapses `keep` seconds after it was made or last used."""
        self._cluster, self._keep, self._monotonic = cluster, keep, monotonic
        self._made: dict[str, Decision] = {}
        self.lapsed = 0
        """Those that nobody came for, so far."""
        self._log = structlog.get_logger()

    def make(self, wanted: Request, holding: Holding, annotations: Mapping[str, str]) -> Decision:
        """A decision that counts from now on, in place of the pod's former one."""
        made = Decision(wanted, holding, annotations, self._monotonic())
        self._made[holding.uid] = made
        self._cluster.assume(holding)
        return made

    def get(self, uid: str) -> Decision | None:
        """The decision that counts for a pod."""
        if self._cluster.assumed(uid) is None:
            self._made.pop(uid, None)
        return self._made.get(uid)

    def counts(self, decision: Decision) -> bool:
        """Whether it still does."""
        return self.get(decision.holding.uid) is decision

    def use(self, decision: Decision) -> None:
        """Somebody came for it: its age begins anew."""
        decision.at = self._monotonic()

    def drop(self, uid: str) -> None:
        """It counts no more."""
        self._made.pop(uid, None)
        self._cluster.forget(uid)

    def drop_all(self) -> None:
        """None counts any more."""
        self._made.clear()
        self._cluster.forget_assumed()

    def __len__(self) -> int:
        return len(self._counting())

    def oldest(self) -> float:
        """Seconds since the oldest was made or used; 0 where there is none."""
        ages = [self._monotonic() - made.at for made in self._counting()]
        return max(ages, default=0.0)

    def lapse(self) -> None:
        """Drop those that are too old. One that is unsettled stays until the pod is filtered again,
        is bound or is gone: its Binding may happen yet, however late.
        """
        now = self._monotonic()
        for made in self._counting():
            if now - made.at >= self._keep and not made.unsettled:
                holding = made.holding
                self.lapsed += 1
                self._log.warning(
                    "a decision lapsed: nobody came to bind the pod, its room is others'",
                    pod=f"{holding.namespace}/{holding.name}",
                    node=holding.node,
                    seconds=round(now - made.at),
                )
                self.drop(holding.uid)

    async def run(self) -> None:
        """Drop what is too old until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.lapse()

    def _counting(self) -> list[Decision]:
        return [made for uid in tuple(self._made) if (made := self.get(uid)) is not None]
