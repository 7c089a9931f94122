"""Pods, as far as a scheduler counts them, from the API server's JSON. Pure.

A decision counts once the pod is bound. Before that it counts only in the memory of the scheduler
that made it: anybody may write annotations on a pod of his own.
Source: hami-scheduler.md 3.5, 11.4.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from deviceplugin.api.hami import poddevices
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.keys import BIND_PHASE, BIND_TIME, VGPU_NODE, VGPU_TIME, WEBHOOK
from deviceplugin.api.hami.poddevices import ContainerDevices
from deviceplugin.placement.fit import Backends
from deviceplugin.placement.objects import pod_spec
from deviceplugin.placement.observe import Held, held_of
from deviceplugin.scheduler.nodes import NOBODY_READS
from deviceplugin.vendor.scheduling import (
    ContainerSpec,
    Demand,
    PodSpec,
    RefusedError,
    SchedulingBackend,
)

__all__ = ["Decided", "PodRecord", "decided", "pod_record", "priority_of", "result_annotations"]

ENDED = frozenset({"Succeeded", "Failed"})

LABELS = 1024
"""Of pods that were seen last so many different labels are shared."""
_NONE: Mapping[str, str] = MappingProxyType({})

Decided = Mapping[str, tuple[Held, ...]]
"""What a pod's containers hold, by word."""


@dataclass(frozen=True, slots=True)
class PodRecord:
    """A pod as the API server tells of it; `decided` reads what it holds. `node` is the one that a
    decision names, empty where nobody has decided yet, `bound` the one that it is bound to,
    `scheduler` the one that it names; `ignored` says that it has the label by which webhooks are
    told to leave it alone, `priority` how important it is, `labels` what disruption budgets know
    it by. Of `pod` only that is kept which decisions are read by. `version` is for conditional
    writes, and says nothing of the pod.
    """

    pod: PodSpec
    node: str = ""
    bound: str = ""
    scheduler: str = ""
    ignored: bool = False
    version: str = field(default="", compare=False)
    priority: int = 0
    labels: Mapping[str, str] = field(default_factory=lambda: _NONE, hash=False)

    @property
    def uid(self) -> str:
        """The pod's uid."""
        return self.pod.uid

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.pod.namespace}/{self.pod.name}"

    @property
    def namespace(self) -> str:
        """The pod's namespace."""
        return self.pod.namespace

    @property
    def name(self) -> str:
        """The pod's name."""
        return self.pod.name


def pod_record(item: Mapping[str, Any]) -> PodRecord | None:
    """A pod from its JSON; None for one that has ended, and for one that nobody decided about and
    that asks for no extended resource. A pod that is being deleted holds its devices until it is
    gone. Raises `ValueError`.
    """
    metadata, spec, status = item["metadata"], item["spec"], item.get("status") or {}
    node = str((metadata.get("annotations") or {}).get(VGPU_NODE) or "")
    if status.get("phase") in ENDED:
        return None
    pod, labels = _slim(pod_spec(item)), metadata.get("labels") or {}
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
        labels.get(WEBHOOK) == "ignore",
        str(metadata.get("resourceVersion") or ""),
        priority_of(item),
        _labels(labels),
    )


def result_annotations(backends: Iterable[SchedulingBackend]) -> frozenset[str]:
    """The annotations of pods that say what was decided and how far it is."""
    found = {VGPU_NODE, VGPU_TIME, BIND_PHASE, BIND_TIME}
    for backend in backends:
        keys = backend.keys
        found |= {keys.allocated, *keys.others}
        if keys.to_allocate:
            found.add(keys.to_allocate)
    return frozenset(found)


def priority_of(item: Mapping[str, Any]) -> int:
    """How important a pod is, the more the larger."""
    found = (item.get("spec") or {}).get("priority")
    return found if isinstance(found, int) else 0


def decided(pod: PodSpec, backends: Backends) -> tuple[Decided, tuple[ValueError, ...]]:
    """What a pod's containers hold by its annotations, and what of them cannot be believed.

    An annotation tells which cards they are. How much of each is what the container asks for: who
    writes more on a pod of his own keeps nobody off a card, and who writes less hides nothing.
    """
    held: dict[str, tuple[Held, ...]] = {}
    problems: list[ValueError] = []
    for word, backend in backends.items():
        if backend.keys.allocated not in pod.annotations:
            continue
        try:
            held[word], found = _held(pod, backend)
        except AnnotationError as error:
            problems.append(error)
        except Exception as error:  # a vendor's mistake costs nobody else's devices
            text = f"{word}: {type(error).__name__}: {error}"
            problems.append(ValueError(f"{text}; this is a mistake of that vendor's"))
        else:
            problems += found
    return MappingProxyType({w: items for w, items in held.items() if items}), tuple(problems)


def _held(
    pod: PodSpec, backend: SchedulingBackend
) -> tuple[tuple[Held, ...], list[AnnotationError]]:
    key = backend.keys.allocated
    devices = held_of(pod.annotations, backend)
    containers = (*pod.init_containers, *pod.containers)
    wanted = [_demand(container, pod, backend) for container in containers]
    count = len(pod.init_containers)
    asks = [isinstance(demand, Demand) for demand in wanted]
    owners = poddevices.owners(devices, asks[:count], asks[count:], key)
    remembered = {k: pod.annotations[k] for k in backend.remembers if k in pod.annotations}
    found, problems = [], []
    for position, owner in zip(poddevices.segments(devices), owners, strict=True):
        container, demand = containers[owner], wanted[owner]
        told = devices[position]
        given, percent = (told, None) if isinstance(demand, _Unknown) else _given(told, demand)
        if given != told:
            problems.append(
                AnnotationError(
                    key,
                    f"other devices or amounts than container {container.name} asks for, whose own "
                    "count",
                    "find out who wrote it",
                )
            )
        if given:
            first = container.init and not container.sidecar
            name = f"{pod.namespace}/{pod.name}"
            found.append(Held(pod.uid, name, given, first, remembered, owner, percent))
    return tuple(found), problems


class _Unknown(enum.Enum):
    REFUSED = enum.auto()
    """Today: it may be held since before the configuration changed."""


def _demand(
    container: ContainerSpec, pod: PodSpec, backend: SchedulingBackend
) -> Demand | _Unknown | None:
    try:
        demand = backend.demand(container, pod)
    except RefusedError:
        return _Unknown.REFUSED
    return demand if demand is not None and demand.count > 0 else None


def _given(told: ContainerDevices, demand: Demand | None) -> tuple[ContainerDevices, int | None]:
    """Of the devices that an annotation tells of those that a demand can have led to, with its
    amounts; and the part of each card, where it asks for that.
    """
    if demand is None:
        return (), None
    cores = min(demand.cores_percent, 100)
    given = tuple(
        device
        if device.slot is not None  # the partition's amounts
        else replace(device, memory=demand.memory_mib or device.memory, cores=cores)
        for device in told[: demand.count]
    )
    return given, demand.part


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


def _labels(labels: Mapping[str, Any]) -> Mapping[str, str]:
    """Without those that decisions write. Pods of one owner share theirs."""
    return _shared(frozenset((k, str(v)) for k, v in labels.items() if k != VGPU_NODE))


@lru_cache(maxsize=LABELS)
def _shared(labels: frozenset[tuple[str, str]]) -> Mapping[str, str]:
    """Values are not interned: each job has its own, and Python 3.12 would keep them for ever."""
    return _interned(dict(labels)) if labels else _NONE


def _interned(texts: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType({sys.intern(key): text for key, text in texts.items()})
