"""Who asks: the container behind the ids that kubelet names.

Kubelet says it in two places. PodResources is its API, but knows no uids and leaves ordinary init
containers out; its checkpoint knows both, but is its own file. Where they speak of the same ids
they must agree, and the pod must be the one that our watch shows: a contradiction is waited out,
because each of the three lags behind the others for moments, and then refused. Never guessed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from deviceplugin.apiserver.objects import Container, Pod
from deviceplugin.apiserver.pods import Pods
from deviceplugin.kubelet.checkpoint import Checkpoint, Entry
from deviceplugin.kubelet.podresources import Holding, PodResources, PodResourcesError, holder
from deviceplugin.refusal import Blame, RefusalError
from deviceplugin.scheduled.ledger import Record

__all__ = ["Asker", "Identity", "candidates", "choose"]

PATIENCE_SECONDS = 5.0
"""Kubelet waits at most 30 s for PreStartContainer, and asks again after a refusal."""


@dataclass(frozen=True, slots=True)
class Asker:
    """A container of a pod."""

    pod: Pod
    container: Container

    @property
    def name(self) -> str:
        """``namespace/pod/container`` for people."""
        return f"{self.pod.key}/{self.container.name}"


def candidates(
    resource: str,
    ids: Collection[str],
    holdings: Iterable[Holding],
    entries: Sequence[Entry] | None,
    pods: Pods,
) -> tuple[tuple[Asker, ...], str]:
    """The containers that may be asking, or none and the reason. Pure but for reading `pods`.

    Several of one pod share ids where kubelet gives those of an init container on.
    """
    wanted = frozenset(ids)
    listed = [
        (pods.get(held.namespace, held.pod), held) for held in holder(holdings, resource, wanted)
    ]
    remembered = [e for e in entries or () if e.resource == resource and e.ids == wanted]
    if listed and entries is not None and not remembered:
        return (), "kubelet's own record does not name anybody for these ids yet"
    for pod, held in listed:
        if pod is None:
            return (), f"pod {held.namespace}/{held.pod} is not known yet on this node"
        if remembered and pod.uid not in {entry.pod_uid for entry in remembered}:
            return (), f"another pod than {pod.key} with uid {pod.uid} holds these ids"
        if not remembered and any(
            c.is_ordinary_init and c.requests.get(resource) for c in pod.init_containers
        ):
            return (), (
                f"kubelet's own record cannot be read, and without it none of the init containers "
                f"of pod {pod.key} can be told from {held.container}; see that the agent's mount "
                "of kubelet's directory of device plugins is whole"
            )
    found = {}
    for pod, name in [
        *((pod, held.container) for pod, held in listed),
        *((pods.by_uid(entry.pod_uid), entry.container) for entry in remembered),
    ]:
        # Kubelet remembers the entries of pods that are gone until it writes its file again.
        if pod is None or pod.ended or (container := pod.container(name)) is None:
            continue
        found[pod.uid, name] = Asker(pod, container)
    if not found:
        return (), "kubelet names no container on this node for these ids"
    if len({uid for uid, _ in found}) > 1:
        names = ", ".join(sorted(asker.name for asker in found.values()))
        return (), f"kubelet names several pods for these ids: {names}"
    return tuple(found.values()), ""


def choose(
    askers: Sequence[Asker], records: Iterable[Record], resource: str
) -> tuple[Asker | None, str]:
    """The one of a pod's containers that starts now with its ids of a resource; None and why when
    that cannot be told yet.

    They hold the same ids one after the other: ordinary init containers in their order, then the
    rest. An init container that was started and has not ended well by the API server's word may be
    starting again or may just have ended: the pod's status tells. Where kubelet announced a start
    that came to nothing, as when another resource's plugin refused, that says nothing; but kubelet
    then shows our refusal on the very container that it tries to start. The refusal counts the
    starts that were announced so far, for each resource, so that what it shows is proof until the
    next one is.
    """
    if len(askers) == 1:
        return askers[0], ""
    pod = askers[0].pod
    order = {container.name: position for position, container in enumerate(pod.all_containers())}
    in_order = sorted(askers, key=lambda asker: order[asker.container.name])
    waiting = [
        asker
        for asker in in_order
        if not (asker.container.is_ordinary_init and asker.container.name in pod.init_ended)
    ]
    unknown = "which of " + ", ".join(asker.name for asker in in_order) + " starts is not known"
    if not waiting:
        return None, unknown
    first = waiting[0]
    if not first.container.is_ordinary_init:
        return (first, "") if len(waiting) == 1 else (None, unknown)
    name = first.container.name
    begun = {r.resource: r.starts for r in records if (r.pod_uid, r.container) == (pod.uid, name)}
    unknown += f"; kubelet tries again; starts of {name} that it announced:"
    shown = pod.init_waiting.get(name, "")
    still = unknown in shown and _counted(resource, begun) in shown
    if still or begun.get(resource, 0) <= pod.init_failures.get(name, 0):
        return first, ""
    return None, unknown + "".join(_counted(each, begun) for each in sorted(begun))


def _counted(resource: str, starts: Mapping[str, int]) -> str:
    return f" {resource}={starts.get(resource, 0)};"


@dataclass(frozen=True, slots=True)
class Identity:
    """Finds the asker of PreStartContainer."""

    pods: Pods
    pod_resources: PodResources
    checkpoint: Checkpoint
    patience: float = PATIENCE_SECONDS

    async def find(self, resource: str, ids: Collection[str], records: Iterable[Record]) -> Asker:
        """The container with these ids. Raises `RefusalError` that says what is missing."""
        records = tuple(records)
        deadline = asyncio.get_running_loop().time() + self.patience
        while True:
            askers, why = await self._look(resource, ids)
            if askers:
                chosen, why = choose(askers, records, resource)
                if chosen is not None and not chosen.pod.deleting:
                    return chosen
                if chosen is not None:
                    why = f"pod {chosen.pod.key} is being deleted"
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                raise RefusalError(f"{resource}: {why}", "unknown-asker", Blame.TRY_AGAIN)
            # Whichever of the three lags, news of the pods or a moment brings it in line.
            await self.pods.news(min(left, 0.2))

    async def _look(self, resource: str, ids: Collection[str]) -> tuple[tuple[Asker, ...], str]:
        try:
            holdings = await self.pod_resources.holdings()
        except PodResourcesError as error:
            raise RefusalError(str(error), "pod-resources", Blame.TRY_AGAIN) from None
        entries = await asyncio.to_thread(self.checkpoint.entries)
        return candidates(resource, ids, holdings, entries, self.pods)
