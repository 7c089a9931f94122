"""What is kept of an object: a list of what may stay, never of what has to go. Pure.

A shape says it: `TEXT` and the like for a single value, a mapping for an object with these members,
a list with one shape for a list, `Entries` for members whose names are not known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FLAG", "NUMBER", "TEXT", "Entries", "Only", "kept"]


@dataclass(frozen=True, slots=True)
class _Leaf:
    kind: type


TEXT, NUMBER, FLAG = _Leaf(str), _Leaf(int), _Leaf(bool)


@dataclass(frozen=True, slots=True)
class Entries:
    """Texts by names that pass a test."""

    passes: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Only:
    """A list of objects, of which those stay that pass a test, as `shape`."""

    passes: Callable[[Mapping[str, Any]], bool]
    shape: Mapping[str, Any]


def kept(value: Any, shape: Any) -> Any:
    """What of a value is of a shape; None where it is of another kind altogether."""
    match shape:
        case _Leaf(kind):
            # A flag is a number to Python, and not to anybody else.
            return value if type(value) is kind else None
        case Entries(passes):
            if not isinstance(value, Mapping):
                return None
            return {k: str(v) for k, v in value.items() if passes(k) and isinstance(v, str | int)}
        case Only(passes, inner):
            if not isinstance(value, list):
                return None
            return [
                kept(entry, inner)
                for entry in value
                if isinstance(entry, Mapping) and passes(entry)
            ]
        case [inner]:
            if not isinstance(value, list):
                return None
            return [found for entry in value if (found := kept(entry, inner)) is not None]
        case _:
            if not isinstance(value, Mapping):
                return None
            members = {key: kept(value[key], inner) for key, inner in shape.items() if key in value}
            return {key: found for key, found in members.items() if found not in (None, {}, [])}
