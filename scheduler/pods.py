"""Pods, as far as a scheduler counts them, from the API server's JSON. Pure.

A decision is believed where the pod is bound to the node that it names. Before that it counts only
in the memory of the scheduler that made it: anybody may write annotations on a pod of his own.
Source: hami-scheduler.md 3.5, 11.4.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from deviceplugin.api.hami import poddevices
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.keys import VGPU_NODE, WEBHOOK
from deviceplugin.placement.fit import Backends
from deviceplugin.placement.objects import pod_spec
from deviceplugin.placement.observe import Held, held_of
from deviceplugin.scheduler.nodes import NOBODY_READS
from deviceplugin.vendor.scheduling import ContainerSpec, PodSpec, RefusedError, SchedulingBackend

__all__ = ["Decided", "PodRecord", "decided", "pod_record"]

ENDED = frozenset({"Succeeded", "Failed"})

Decided = Mapping[str, tuple[Held, ...]]
"""What a pod's containers hold, by word."""


@dataclass(frozen=True, slots=True)
class PodRecord:
    """A pod as the API server tells of it; `decided` reads what it holds. `node` is the one that a
    decision names, empty where nobody has decided yet, `bound` the one that it is bound to,
    `scheduler` the one that it names; `ignored` says that it has the label by which webhooks are
    told to leave it alone. Of `pod` only that is kept which decisions are read by.
    """

    pod: PodSpec
    node: str = ""
    bound: str = ""
    scheduler: str = ""
    ignored: bool = False

    @property
    def uid(self) -> str:
        """The pod's uid."""
        return self.pod.uid

    @property
    def namespace(self) -> str:
        """The pod's namespace."""
        return self.pod.namespace

    @property
    def name(self) -> str:
        """The pod's name."""
        return self.pod.name

    @property
    def counts_on(self) -> str:
        """The node whose devices it holds for certain; empty where none."""
        return self.node if self.node == self.bound else ""


def pod_record(item: Mapping[str, Any]) -> PodRecord | None:
    """A pod from its JSON; None for one that has ended, and for one that nobody decided about and
    that asks for no extended resource. A pod that is being deleted holds its devices until it is
    gone. Raises `ValueError`.
    """
    metadata, spec, status = item["metadata"], item["spec"], item.get("status") or {}
    node = str((metadata.get("annotations") or {}).get(VGPU_NODE) or "")
    if status.get("phase") in ENDED:
        return None
    pod = _slim(pod_spec(item))
    if not node and not any(
        container.limits or container.requests
        for container in (*pod.init_containers, *pod.containers)
    ):
        return None
    return PodRecord(
        pod,
        sys.intern(node),
        sys.intern(str(spec.get("nodeName") or "")),
        sys.intern(str(spec.get("schedulerName") or "")),
        (metadata.get("labels") or {}).get(WEBHOOK) == "ignore",
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
        except AnnotationError as error:
            problems.append(error)
    return MappingProxyType({w: items for w, items in held.items() if items}), tuple(problems)


def _held(pod: PodSpec, word: str, backends: Backends) -> tuple[Held, ...]:
    backend = backends[word]
    devices = held_of(pod.annotations, backend)
    containers = (*pod.init_containers, *pod.containers)
    wanted = [_wants(container, pod, backend) for container in containers]
    count = len(pod.init_containers)
    owners = poddevices.owners(devices, wanted[:count], wanted[count:], backend.keys.allocated)
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


def _wants(container: ContainerSpec, pod: PodSpec, backend: SchedulingBackend) -> bool:
    """What would be refused today may be held since before the configuration changed."""
    try:
        demand = backend.demand(container, pod)
    except RefusedError:
        return False
    return demand is not None and demand.count > 0


def _slim(pod: PodSpec) -> PodSpec:
    """Without what no decision is read by: a cluster has very many of them."""
    return replace(
        pod,
        annotations=_interned(
            {key: text for key, text in pod.annotations.items() if key not in NOBODY_READS}
        ),
        containers=tuple(map(_slim_container, pod.containers)),
        init_containers=tuple(map(_slim_container, pod.init_containers)),
    )


def _slim_container(container: ContainerSpec) -> ContainerSpec:
    limits, requests = _extended(container.limits), _extended(container.requests)
    return replace(
        container,
        limits=limits,
        requests=limits if requests == limits else requests,
        env=frozenset(),
    )


def _extended(amounts: Mapping[str, str]) -> Mapping[str, str]:
    return _interned({name: amount for name, amount in amounts.items() if "/" in name})


def _interned(texts: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType({sys.intern(key): text for key, text in texts.items()})
