"""Which optional parts of `vendor.scheduling` a backend has.

Its class is asked once: a protocol looks through the whole of it each time, which for nodes by the
thousand and backends by the dozen costs more than all the rest of a decision.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeGuard

from deviceplugin.vendor.scheduling import (
    Annotator,
    Bounded,
    Chooser,
    Inventory,
    Judge,
    Partitioned,
    Scorer,
)

__all__ = ["annotates", "bounds", "chooses", "divides", "inventories", "judges", "scores"]


_has: Callable[[type, type], bool] = cache(issubclass)


def inventories(backend: object) -> TypeGuard[Inventory]:
    """Whether it reads a node's devices itself."""
    return _has(type(backend), Inventory)


def judges(backend: object) -> TypeGuard[Judge]:
    """Whether it judges single cards."""
    return _has(type(backend), Judge)


def chooses(backend: object) -> TypeGuard[Chooser]:
    """Whether it picks among the cards that fit."""
    return _has(type(backend), Chooser)


def scores(backend: object) -> TypeGuard[Scorer]:
    """Whether it ranks nodes."""
    return _has(type(backend), Scorer)


def bounds(backend: object) -> TypeGuard[Bounded]:
    """Whether it says how much its ranking can make out."""
    return _has(type(backend), Bounded)


def annotates(backend: object) -> TypeGuard[Annotator]:
    """Whether it adds keys of its own to the pod."""
    return _has(type(backend), Annotator)


def divides(backend: object) -> TypeGuard[Partitioned]:
    """Whether its cards may be divided by their hardware."""
    return _has(type(backend), Partitioned)
