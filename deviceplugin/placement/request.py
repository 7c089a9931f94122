"""What a pod asks for, container by container. Pure (hami-scheduler.md 4.0, 4.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from deviceplugin.vendor.scheduling import ContainerSpec, Demand, PodSpec, SchedulingBackend

__all__ = ["Ask", "asks", "asks_anything"]


@dataclass(frozen=True, slots=True)
class Ask:
    """One container and its demands by word."""

    container: ContainerSpec
    demands: Mapping[str, Demand]


def asks(pod: PodSpec, backends: Iterable[SchedulingBackend]) -> tuple[Ask, ...]:
    """Every container of the pod, init containers first, in the order in which kubelet starts them.
    Raises `vendor.scheduling.RefusedError`.
    """
    backends = tuple(backends)
    found = []
    for container in (*pod.init_containers, *pod.containers):
        demands = {}
        for backend in backends:
            demand = backend.demand(container, pod)
            if demand is not None and demand.count > 0:
                demands[demand.word] = demand
        found.append(Ask(container, MappingProxyType(demands)))
    return tuple(found)


def asks_anything(wanted: Iterable[Ask]) -> bool:
    """Whether any container asks for any device."""
    return any(ask.demands for ask in wanted)
