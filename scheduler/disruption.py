"""Disruption budgets, as kube-scheduler counts them when it preempts: of the pods that have to go,
those that a budget has nothing left for violate it. Pure.

Source: policy/v1 of Kubernetes, whose empty selector names all pods of the namespace;
kube-scheduler's preemption, which goes by what the budget's status allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deviceplugin.scheduler.labels import Requirement
from deviceplugin.scheduler.pods import PodRecord

__all__ = ["Budget", "budget", "violating"]


@dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget: so many more pods of those that its selector names may go now. Who is
    in `going`, by name, is being evicted and counted already.
    """

    namespace: str
    selector: tuple[Requirement, ...]
    allowed: int
    going: frozenset[str] = frozenset()

    def counts(self, pod: PodRecord) -> bool:
        """Whether the pod's going is one of those that it counts."""
        return (
            pod.namespace == self.namespace
            and pod.name not in self.going
            and all(each.holds(pod.labels) for each in self.selector)
        )


def budget(item: Mapping[str, Any]) -> Budget | None:
    """A budget from its JSON; None for one that has no selector, which names no pod. Raises
    `ValueError`.
    """
    try:
        selector, status = item["spec"].get("selector"), item.get("status") or {}
        if selector is None:
            return None
        wanted = [
            *(
                Requirement(key, "In", frozenset((value,)))
                for key, value in (selector.get("matchLabels") or {}).items()
            ),
            *(
                Requirement(each["key"], each["operator"], frozenset(each.get("values") or ()))
                for each in selector.get("matchExpressions") or ()
            ),
        ]
        return Budget(
            item["metadata"]["namespace"],
            tuple(wanted),
            int(status.get("disruptionsAllowed") or 0),
            frozenset(status.get("disruptedPods") or ()),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a PodDisruptionBudget that is none: {error!r}") from None


def violating(budgets: Iterable[Budget], pods: Sequence[PodRecord]) -> tuple[PodRecord, ...]:
    """Which of these pods, that go one after the other, find nothing left in a budget of theirs.
    Everybody who goes takes from each of his budgets, whether there is something left or not.
    """
    left = [(each, each.allowed) for each in budgets]
    found = []
    for pod in pods:
        left = [(each, allowed - each.counts(pod)) for each, allowed in left]
        if any(allowed < 0 and each.counts(pod) for each, allowed in left):
            found.append(pod)
    return tuple(found)
