"""What a scheduler may be told. Source: hami-scheduler.md 1.1; defaults are those of HAMi v2.8."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from deviceplugin.api.hami import nodelock
from deviceplugin.vendor.scheduling import Policy

__all__ = ["DEFAULT_SCHEDULER", "SchedulerSettings"]

DEFAULT_SCHEDULER = "default-scheduler"
"""What the API server writes into pods that name none."""


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """`name` is the scheduler that pods name; `node_policy` and `card_policy` rank where a pod does
    not say otherwise. A foreign node lock older than `lock_timeout` may be taken over if its pod no
    longer waits there. A bind gives up `bind_patience` seconds after it came: kube-scheduler waits
    for 30 seconds. What was decided about a pod counts for `decision_lifetime` seconds after it was
    made or used last. Only nodes with all `node_labels` are looked at.

    Pods of ``default-scheduler`` that ask for a device are taken over where it `takes_default`.
    `trusted` are the accounts that may write decisions on pods, `agents` those of them that may do
    so only on their own node; where none are named, nothing is protected.
    """

    name: str = "hami-scheduler"
    node_policy: Policy = Policy.BINPACK
    card_policy: Policy = Policy.SPREAD
    lock_timeout: timedelta = nodelock.TIMEOUT
    bind_patience: float = 25.0
    decision_lifetime: float = 300.0
    node_labels: tuple[tuple[str, str], ...] = ()
    takes_default: bool = True
    trusted: frozenset[str] = frozenset()
    agents: frozenset[str] = frozenset()

    @property
    def locks_expire_after(self) -> timedelta:
        """Never while a bind may still be under way behind the lock."""
        return max(self.lock_timeout, timedelta(seconds=2 * self.bind_patience))

    @property
    def decisions_lapse_after(self) -> float:
        """Seconds; never while a bind may still be under way."""
        return max(self.decision_lifetime, 2 * self.bind_patience)

    def takes(self, scheduler: str) -> bool:
        """Whether a pod that names this scheduler is this one's, if it asks for a device."""
        named = scheduler in ("", self.name)
        return named or (scheduler == DEFAULT_SCHEDULER and self.takes_default)
