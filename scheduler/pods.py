"""Pods, as far as a scheduler counts them, from the API server's JSON. Pure.

A decision is believed where the pod is bound to the node that it names. Before that it counts only
in the memory of the scheduler that made it: anybody may write annotations on a pod of his own.
Source: hami-scheduler.md 3.5, 11.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from deviceplugin.api.hami import poddevices
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.keys import VGPU_NODE
from deviceplugin.placement.fit import Backends
from deviceplugin.placement.objects import pod_spec
from deviceplugin.placement.observe import Held, held_of
from deviceplugin.placement.request import asks
from deviceplugin.vendor.scheduling import PodSpec, RefusedError

__all__ = ["Decided", "PodRecord", "decided", "pod_record"]

ENDED = frozenset({"Succeeded", "Failed"})

Decided = Mapping[str, tuple[Held, ...]]
"""What a pod's containers hold, by word."""


def _nothing() -> Decided:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PodRecord:
    """A pod that was decided about. `node` is the one in its annotation, `bound` the one that it is
    bound to; `held` what its annotations say; `problems` are annotations that cannot be read, of
    which nothing counts. `annotations` are those of the decision.
    """

    namespace: str
    name: str
    uid: str
    node: str
    bound: str = ""
    scheduler: str = ""
    deleting: bool = False
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    held: Decided = field(default_factory=_nothing)
    problems: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def counts_on(self) -> str:
        """The node whose devices it holds for certain; empty where none."""
        return self.node if self.node == self.bound else ""


def pod_record(item: Mapping[str, Any], backends: Backends) -> PodRecord | None:
    """A pod from its JSON; None for one that nobody decided about or that has ended. A pod that is
    being deleted holds its devices until it is gone. Raises `ValueError`.
    """
    metadata, spec, status = item["metadata"], item["spec"], item.get("status") or {}
    annotations = metadata.get("annotations") or {}
    node = annotations.get(VGPU_NODE)
    if not node or status.get("phase") in ENDED:
        return None
    pod = pod_spec(item)
    held, problems = decided(pod, backends)
    return PodRecord(
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        node=str(node),
        bound=str(spec.get("nodeName") or ""),
        scheduler=str(spec.get("schedulerName") or ""),
        deleting="deletionTimestamp" in metadata,
        annotations=MappingProxyType(_decision(pod.annotations, backends)),
        held=held,
        problems=tuple(map(str, problems)),
    )


def decided(pod: PodSpec, backends: Backends) -> tuple[Decided, tuple[ValueError, ...]]:
    """What a pod's annotations say that its containers hold, and what cannot be read."""
    held: dict[str, tuple[Held, ...]] = {}
    problems: list[ValueError] = []
    for word, backend in backends.items():
        if backend.keys.allocated not in pod.annotations:
            continue
        try:
            held[word] = _held(pod, word, backends)
        except (AnnotationError, RefusedError) as error:
            problems.append(error)
    return MappingProxyType({w: items for w, items in held.items() if items}), tuple(problems)


def _held(pod: PodSpec, word: str, backends: Backends) -> tuple[Held, ...]:
    backend = backends[word]
    devices = held_of(pod.annotations, backend)
    wanted = [bool(ask.demands) for ask in asks(pod, (backend,))]
    count = len(pod.init_containers)
    owners = poddevices.owners(devices, wanted[:count], wanted[count:], backend.keys.allocated)
    containers = (*pod.init_containers, *pod.containers)
    remembered = {k: pod.annotations[k] for k in backend.remembers if k in pod.annotations}
    found = []
    for position, owner in zip(poddevices.segments(devices), owners, strict=True):
        container = containers[owner]
        first = container.init and not container.sidecar
        found.append(
            Held(
                pod.uid, f"{pod.namespace}/{pod.name}", devices[position], first, remembered, owner
            )
        )
    return tuple(found)


def _decision(annotations: Mapping[str, str], backends: Backends) -> dict[str, str]:
    kept = {VGPU_NODE}
    for backend in backends.values():
        keys = backend.keys
        kept |= {keys.allocated, keys.to_allocate or keys.allocated, *keys.others}
    return {key: text for key, text in annotations.items() if key in kept}
