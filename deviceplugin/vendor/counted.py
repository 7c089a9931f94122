"""Cards that schedulers count off a node's capacity, and call by the node's name and a number. Pure
(metax-iluvatar-kunlunxin-hygon.md 1.2, 3.2, 6). Both halves go by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.vendor.plain import MOST_CARDS, Plain
from deviceplugin.vendor.scheduling import NodeDevice, NodeFacts

__all__ = ["Counted", "called", "counted"]


def called(names: str, node: str, uuids: Sequence[str]) -> Mapping[str, str]:
    """The uuids by what schedulers call the cards; `names` has ``{node}`` and ``{n}`` in it."""
    return {names.format(node=node, n=n): uuid for n, uuid in enumerate(uuids)}


def counted(
    node: NodeFacts, resource: str, cards: int, names: str, **card: Any
) -> list[NodeDevice]:
    """So many cards of a node, by the capacity of its resource; `card` is the same of each.

    Raises `AnnotationError` for more than any node has.
    """
    if not 0 <= cards <= MOST_CARDS:
        raise AnnotationError(
            resource, "an absurd capacity", "look at the node's plugin", str(cards)
        )
    common: dict[str, Any] = {"count": 1, "cores": 100, "healthy": True, **card}
    return [
        NodeDevice(uuid=names.format(node=node.name, n=n), index=n, **common) for n in range(cards)
    ]


@dataclass(frozen=True, kw_only=True)
class Counted(Plain):
    """Whole cards, a unit of the resource each, with so much memory."""

    names: str
    memory_mib: int

    def devices(self, node: NodeFacts) -> Sequence[NodeDevice]:
        """As many as the node's capacity says. Raises `AnnotationError`."""
        resource = self.resources.count
        count, kind = node.capacity.get(resource, 0), self.keys.common_word
        return counted(node, resource, count, self.names, memory=self.memory_mib, type=kind)
