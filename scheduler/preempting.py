"""Who has to go for the devices of a more important pod, beside those whom kube-scheduler names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import structlog

from deviceplugin.apiserver.client import BUDGETS, ApiError
from deviceplugin.scheduler.cluster import Cluster
from deviceplugin.scheduler.deciding import victims
from deviceplugin.scheduler.disruption import Budget, budget, violating
from deviceplugin.scheduler.fencing import FencedApi
from deviceplugin.scheduler.filtering import Request
from deviceplugin.scheduler.pods import PodRecord
from deviceplugin.scheduler.quota import Quotas

__all__ = ["Preempting", "budgets"]


class Preempting:
    """Answers for one pod of this `priority`; `pods` are all that the API server tells of, of which
    those count that are bound and less important.
    """

    def __init__(
        self,
        cluster: Cluster,
        quotas: Quotas,
        wanted: Request,
        priority: int,
        pods: Iterable[PodRecord],
    ) -> None:
        self._cluster, self._quotas, self._wanted = cluster, quotas, wanted
        self._bound = {pod.uid: pod for pod in pods if cluster.bound(pod.uid)}
        self._less: dict[str, list[PodRecord]] = {}
        for pod in sorted(self._bound.values(), key=lambda pod: (pod.priority, pod.uid)):
            if pod.priority < priority:
                self._less.setdefault(cluster.bound(pod.uid), []).append(pod)

    def may_add(self, nodes: Iterable[str]) -> bool:
        """Whether there is anybody on these nodes who could be asked to go."""
        return any(name in self._less for name in nodes)

    def on(
        self, name: str, given: Sequence[str], found: Sequence[Budget]
    ) -> tuple[tuple[str, ...], int] | None:
        """The pods that have to go on a node, by uid, with those `given`, and how many of the added
        violate budgets; None where it does not help, or nobody has to go. The least important go
        first, and of all those last whom a budget protects.
        """
        mine = [self._bound[uid] for uid in given if uid in self._bound]
        others = [pod for pod in self._less.get(name, ()) if pod.uid not in given]
        spared = {pod.uid for pod in violating(found, (*mine, *others))}
        others.sort(key=lambda pod: pod.uid in spared)
        order = [pod.uid for pod in others]
        going = victims(self._cluster, self._quotas, self._wanted, name, given, order)
        if going is None:
            return None
        added = [self._bound[uid] for uid in going if uid not in given]
        violated = len(violating(found, (*mine, *added))) - len(violating(found, mine))
        return going, violated


async def budgets(api: FencedApi) -> tuple[Budget, ...]:
    """All disruption budgets, as the API server has them at hand; none, with a warning, where this
    scheduler may not read them. Raises `ApiError`.
    """
    log = structlog.get_logger()
    try:
        answer = await api.get(BUDGETS, {"resourceVersion": "0"})
    except ApiError as error:
        if not (error.is_forbidden or error.is_missing):
            raise
        log.warning(
            "disruption budgets cannot be read",
            reason=str(error),
            remedy="allow the scheduler's account to list poddisruptionbudgets of policy: until "
            "then preemption for devices does not spare the pods that they protect",
        )
        return ()
    return tuple(_read(answer.get("items") or ()))


def _read(items: Iterable[Mapping[str, object]]) -> Iterable[Budget]:
    for item in items:
        try:
            found = budget(item)
        except ValueError as error:
            structlog.get_logger().warning("a disruption budget does not count", reason=str(error))
            continue
        if found is not None:
            yield found
