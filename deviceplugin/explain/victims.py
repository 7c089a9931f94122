"""Pods of lower priority whose devices would be enough, and why kube-scheduler did not end them.
Pure but for the views that the cluster keeps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deviceplugin.explain.judge import NodeVerdict
from deviceplugin.explain.world import World
from deviceplugin.scheduler import deciding
from deviceplugin.scheduler.cluster import Holding
from deviceplugin.scheduler.filtering import Request
from deviceplugin.scheduler.pods import priority_of
from deviceplugin.vendor.scheduling import Unfit

__all__ = ["Victims", "preempts_devices", "victims"]

Json = Mapping[str, Any]

FIRST_MINOR = 38
"""Of kube-scheduler 1.x. Until 1.37 preemption is tried out without the extenders: no pod seems to
be in the way of what only an extender counts, and none is ended. From 1.38 on extenders are asked
for such nodes too (kubernetes/kubernetes#139270, #135486).
"""

MOST_NODES = 200
"""Nodes that are looked at."""


@dataclass(frozen=True, slots=True)
class Victims:
    """Pods of one node, without which another would fit there: the fewest that were found."""

    node: str
    pods: tuple[str, ...]


def victims(
    world: World, pod: Json, wanted: Request, verdicts: Mapping[str, NodeVerdict]
) -> Victims | None:
    """Where the fewest pods of lower priority stand in the way; None where they do not, and for a
    pod that never preempts.
    """
    if (pod.get("spec") or {}).get("preemptionPolicy") == "Never":
        return None
    mine = priority_of(pod)
    by_node: dict[str, list[Holding]] = {}
    for holding in world.cluster.holdings():
        other = world.pods.get(f"{holding.namespace}/{holding.name}")
        if other is not None and priority_of(other) < mine:
            by_node.setdefault(holding.node, []).append(holding)
    found = []
    for name in _candidates(verdicts, by_node):
        gone = _least(world, wanted, name, by_node[name])
        if gone:
            found.append(Victims(name, gone))
    return min(found, key=lambda one: (len(one.pods), one.node), default=None)


def preempts_devices(kubernetes: str) -> bool | None:
    """Whether a kube-scheduler of this version counts devices when it looks for victims; None where
    nobody knows the version.
    """
    found = re.match(r"v?1\.(\d+)", kubernetes)
    return int(found[1]) >= FIRST_MINOR if found else None


def _candidates(verdicts: Mapping[str, NodeVerdict], held: Iterable[str]) -> Iterator[str]:
    places = (verdicts[name] for name in sorted(held) if name in verdicts)
    able = (v.name for v in places if not v.outside and isinstance(v.found, Unfit))
    return (name for _, name in zip(range(MOST_NODES), able, strict=False))


def _least(world: World, wanted: Request, node: str, held: Iterable[Holding]) -> tuple[str, ...]:
    """Whom the extender would name of these; none where it is not enough."""
    by_uid = {h.uid: f"{h.namespace}/{h.name}" for h in held}
    order = sorted(by_uid, key=lambda uid: (priority_of(world.pods[by_uid[uid]]), uid))
    gone = deciding.victims(world.cluster, world.quotas, wanted, node, (), order)
    return tuple(by_uid[uid] for uid in gone or ())
