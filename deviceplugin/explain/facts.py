"""What is told of waiting and of placed pods alike. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import Any

from deviceplugin.api.hami import nodelock
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.explain.account import Wants
from deviceplugin.explain.world import World
from deviceplugin.scheduler.filtering import Request

__all__ = ["kube_schedulers_word", "locks", "nodes", "wants"]

Json = Mapping[str, Any]


def nodes(number: int) -> str:
    """So many, in words."""
    return "1 node" if number == 1 else f"{number:,} nodes"


def wants(world: World, wanted: Request) -> tuple[Wants, ...]:
    """What the containers ask for, as it is understood."""
    return tuple(
        Wants(
            ask.container.name,
            world.backends[word].resources.count,
            demand.count,
            f"{demand.memory_mib:,} MiB"
            if demand.memory_mib
            else ("" if demand.memory_percent is None else f"{demand.memory_percent}%"),
            f"{min(demand.cores_percent, 100)}%" if demand.cores_percent else "",
            ask.container.init and not ask.container.sidecar,
        )
        for ask in wanted.asks
        for word, demand in ask.demands.items()
    )


def locks(world: World, node: str) -> Iterator[str]:
    """Who holds a node's locks, where its agent needs them."""
    record = world.cluster.record(node)
    if record is None or record.deferred:
        return
    keys = {backend.keys.lock for backend in world.backends.values()} - {None}
    for key in sorted(filter(None, keys)):
        text = record.facts.annotations.get(key)
        if text is None:
            continue
        try:
            lock = nodelock.decode(text, key)
        except AnnotationError as error:
            yield f"node {node} cannot be locked: {error}; kubectl annotate node {node} {key}-"
            continue
        whose = f"{lock.namespace}/{lock.name}" if lock.names_pod else "a pod it does not name"
        since = lock.at.astimezone(UTC).strftime("%H:%M:%S UTC")
        yield f"node {node} is locked for {whose} since {since}: binds to it wait for that"


def kube_schedulers_word(pod: Json) -> Iterator[str]:
    """Why kube-scheduler has not placed it, in its own words."""
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("status") == "False" and condition.get("message"):
            yield f"kube-scheduler says: {condition['message']}"
