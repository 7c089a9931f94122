"""Nodes, as a scheduler sees them, from the API server's JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from deviceplugin.api.hami import handshake
from deviceplugin.api.node import ALLOCATION, ANNOUNCES, DEFERRED
from deviceplugin.placement.fit import Backends
from deviceplugin.placement.objects import node_facts
from deviceplugin.vendor.scheduling import NodeFacts, SchedulingBackend

__all__ = ["NodeRecord", "node_record", "withdrawn"]

NOBODY_READS = frozenset({"kubectl.kubernetes.io/last-applied-configuration"})
"""Annotations as large as the object itself."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node. `inventory` is what its devices are told by; `moving` are the annotations that change
    all the time and say nothing of them: locks and handshakes. `version` is for conditional writes.
    """

    inventory: NodeFacts
    moving: Mapping[str, str]
    version: str

    @property
    def name(self) -> str:
        """The node's name."""
        return self.inventory.name

    @property
    def ours(self) -> bool:
        """Whether an agent of ours is on it, which reads the order of HAMi 2.9."""
        return ANNOUNCES in self.inventory.annotations

    @property
    def deferred(self) -> bool:
        """Whether its agent hands grants over by evidence, so that no lock is needed."""
        return self.inventory.annotations.get(ALLOCATION) == DEFERRED


def node_record(item: Mapping[str, Any], backends: Backends) -> NodeRecord:
    """A node from its JSON. Raises `ValueError`."""
    facts = node_facts(item)
    moving = _moving(backends.values()) & facts.annotations.keys()
    still = {
        key: text
        for key, text in facts.annotations.items()
        if key not in moving and key not in NOBODY_READS
    }
    return NodeRecord(
        replace(facts, annotations=MappingProxyType(still)),
        MappingProxyType({key: facts.annotations[key] for key in moving}),
        str((item.get("metadata") or {}).get("resourceVersion") or ""),
    )


def withdrawn(node: NodeRecord, backend: SchedulingBackend) -> bool:
    """Whether a word's devices are not to be used although the node tells of them: a scheduler said
    so in the handshake and no agent has answered since, or, for agents that never answer, kubelet
    offers none of the resource (hami-scheduler.md 3.4).
    """
    keys = backend.keys
    if keys.handshake is None:
        return False
    if keys.common_word in handshake.SILENT:
        return node.inventory.allocatable.get(backend.resources.count, 0) <= 0
    found = handshake.decode(node.moving.get(keys.handshake))
    return found is not None and found.state is handshake.State.DELETED


def _moving(backends: Iterable[SchedulingBackend]) -> frozenset[str]:
    found: set[str] = set()
    for backend in backends:
        found |= {key for key in (backend.keys.handshake, backend.keys.lock) if key}
    return frozenset(found)
