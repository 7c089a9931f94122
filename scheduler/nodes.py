"""Nodes, as a scheduler sees them, from the API server's JSON. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from deviceplugin.api.hami import handshake
from deviceplugin.api.node import ALLOCATION, ANNOUNCES, DEFERRED
from deviceplugin.placement.objects import node_facts
from deviceplugin.vendor.scheduling import NodeFacts, SchedulingBackend

__all__ = ["NodeRecord", "inventory", "moving", "node_record", "withdrawal", "withdrawn"]

NOBODY_READS = frozenset({"kubectl.kubernetes.io/last-applied-configuration"})
"""Annotations as large as the object itself."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node as the API server tells of it; what it means depends on the backends that are asked.
    `version` is for conditional writes.
    """

    facts: NodeFacts
    version: str

    @property
    def name(self) -> str:
        """The node's name."""
        return self.facts.name

    @property
    def ours(self) -> bool:
        """Whether an agent of ours is on it, which reads the order of HAMi 2.9."""
        return ANNOUNCES in self.facts.annotations

    @property
    def deferred(self) -> bool:
        """Whether its agent hands grants over by evidence, so that no lock is needed."""
        return self.facts.annotations.get(ALLOCATION) == DEFERRED


def node_record(item: Mapping[str, Any]) -> NodeRecord:
    """A node from its JSON. Raises `ValueError`."""
    facts = node_facts(item)
    kept = {key: text for key, text in facts.annotations.items() if key not in NOBODY_READS}
    return NodeRecord(
        replace(facts, annotations=MappingProxyType(kept)),
        str((item.get("metadata") or {}).get("resourceVersion") or ""),
    )


def inventory(facts: NodeFacts, moving: Collection[str]) -> NodeFacts:
    """What a node's devices are told by: without the annotations that are `moving`."""
    still = {key: text for key, text in facts.annotations.items() if key not in moving}
    return replace(facts, annotations=MappingProxyType(still))


def moving(backends: Iterable[SchedulingBackend]) -> frozenset[str]:
    """The annotations that change all the time and say nothing of devices: locks, handshakes."""
    found: set[str] = set()
    for backend in backends:
        found |= {key for key in (backend.keys.handshake, backend.keys.lock) if key}
    return frozenset(found)


def withdrawn(node: NodeRecord, backend: SchedulingBackend) -> bool:
    """Whether a word's devices are not to be used although the node tells of them."""
    return bool(withdrawal(node, backend))


def withdrawal(node: NodeRecord, backend: SchedulingBackend) -> str:
    """Why a word's devices are not to be used although the node tells of them, empty where they
    are: a scheduler said so in the handshake and no agent has answered since, or, for agents that
    never answer, kubelet offers none of the resource (hami-scheduler.md 3.4).
    """
    keys, count = backend.keys, backend.resources.count
    if keys.handshake is None:
        return ""
    if keys.common_word in handshake.SILENT:
        offers = node.facts.allocatable.get(count, 0)
        return "" if offers > 0 else f"the node tells of its cards, and kubelet offers no {count}"
    text = node.facts.annotations.get(keys.handshake)
    found = handshake.decode(text)
    if found is None or found.state is not handshake.State.DELETED:
        return ""
    return f"no agent answers for {keys.common_word}: {keys.handshake} is {text!r:.80}"
