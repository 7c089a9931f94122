"""What was found out about pods of one shape on nodes, until something of the node changes."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from deviceplugin.vendor.scheduling import Reason

__all__ = ["Remembered", "Tried"]

SHAPES = 64
"""Of those that were asked for last so many are remembered."""

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Tried(Generic[F]):
    """One shape, by node: why it does not fit, or how it fits where that was worth keeping."""

    unfit: dict[str, Reason] = field(default_factory=dict)
    fits: dict[str, F] = field(default_factory=dict)


class Remembered(Generic[F]):
    """All shapes."""

    def __init__(self) -> None:
        self._shapes: dict[Hashable, Tried[F]] = {}

    def of(self, shape: Hashable) -> Tried[F]:
        """What is known of a shape, to be added to."""
        found = self._shapes.pop(shape, None)
        if found is None:
            found = Tried()
            if len(self._shapes) >= SHAPES:
                del self._shapes[next(iter(self._shapes))]
        self._shapes[shape] = found
        return found

    def forget(self, node: str) -> None:
        """A node is another than it was."""
        for tried in self._shapes.values():
            tried.unfit.pop(node, None)
            tried.fits.pop(node, None)
