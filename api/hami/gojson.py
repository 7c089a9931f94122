"""JSON to the byte as Go's ``encoding/json`` writes it, and read without its or Python's extras."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

from deviceplugin.api.hami.errors import AnnotationError, in_turn
from deviceplugin.api.hami.text import bounded, clean, counted

__all__ = ["Json", "dumps", "frozen", "loads_list", "member", "refuse_other_case", "struct"]

Json: TypeAlias = (
    "bool | int | float | str | tuple[Json, ...] | list[Json] | Mapping[str, Json] | None"
)

T = TypeVar("T", str, int, bool, dict[str, Any])

DEEPEST = 16
"""Levels of an object that is carried along unread."""

EXACT = 2**53
"""Numbers of such an object are floating-point to peers, and exact up to here."""

_ESCAPED = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
_plainly = json.JSONEncoder(ensure_ascii=False).encode
_KINDS = {str: "text", int: "a whole number", bool: "true or false", dict: "an object"}


def dumps(value: Json) -> str:
    """A value as Go writes it: no blanks, keys in order, characters escaped that HTML minds."""
    if isinstance(value, Mapping):
        members = (f"{dumps(key)}:{dumps(value[key])}" for key in sorted(value))
        return "{" + ",".join(members) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(dumps, value)) + "]"
    if isinstance(value, float):
        return _number(value)
    if type(value) is int:
        return str(value)
    return _plainly(value).translate(_ESCAPED)


def struct(members: Iterable[tuple[str, Json]]) -> str:
    """A Go structure: members in their own order, and without those that are zero or empty."""
    shown = (f'"{name}":{dumps(value)}' for name, value in members if value)
    return "{" + ",".join(shown) + "}"


def loads_list(text: str, annotation: str) -> tuple[dict[str, Any], ...]:
    """The members of a list of at most `MOST_ENTRIES` objects. Raises `AnnotationError`."""
    try:
        value = json.loads(bounded(text, annotation), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        place = max(error.pos - 20, 0) if isinstance(error, json.JSONDecodeError) else 0
        raise AnnotationError(annotation, "not JSON", "write a JSON list", text[place:]) from None
    if not isinstance(value, list):
        raise AnnotationError(annotation, "not a list", "write a JSON list", text)
    counted(len(value), annotation)
    return in_turn(_object, value, annotation, "entry")


def refuse_other_case(entry: Mapping[str, Any], known: frozenset[str], annotation: str) -> None:
    """Refuse members that peers would read and ours would not: Go does not mind the case.

    `known` are names in lower case. Raises `AnnotationError`.
    """
    for key in entry.keys() - known:
        if key.casefold() in known:
            raise AnnotationError(
                annotation, "a name in the wrong case", f"write {key.casefold()}", key
            )


def member(entry: Mapping[str, Any], key: str, kind: type[T], annotation: str) -> T | None:
    """One member of an object, None when it is missing or null. Raises `AnnotationError`.

    True is no number here, and a number with a point is none either.
    """
    value = entry.get(key)
    if value is None:
        return None
    if type(value) is not kind:
        raise AnnotationError(
            annotation, f"{key} is not {_KINDS[kind]}", "correct it", _shown(value)
        )
    return value


def frozen(entry: Mapping[str, Any], annotation: str, depth: int = DEEPEST) -> Mapping[str, Json]:
    """An object that nobody can change any more, nor its members. Raises `AnnotationError`."""
    return MappingProxyType(
        {
            clean(key, annotation): _frozen(value, annotation, depth - 1)
            for key, value in entry.items()
        }
    )


def _object(value: object, annotation: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise AnnotationError(annotation, "not an object", "write a list of {...}", _shown(value))


def _frozen(value: object, annotation: str, depth: int) -> Json:
    if depth < 0:
        raise AnnotationError(annotation, f"more than {DEEPEST} levels deep", "write it flatter")
    if isinstance(value, dict):
        return frozen(value, annotation, depth)
    if isinstance(value, list):
        return tuple(_frozen(item, annotation, depth - 1) for item in value)
    if isinstance(value, str):
        return clean(value, annotation)
    if isinstance(value, int | float) and not -EXACT <= value <= EXACT:
        return _rounded(value, annotation)
    return value if isinstance(value, int | float) else None


def _rounded(value: float, annotation: str) -> float:
    """A large number with as many digits as peers keep of it."""
    with contextlib.suppress(OverflowError):
        if math.isfinite(value):
            return float(value)
    raise AnnotationError(annotation, "a number too large", "write a smaller one")


def _no_constant(name: str) -> object:
    raise ValueError(name)


def _shown(value: object) -> str:
    return "" if isinstance(value, dict | list) else json.dumps(value)


def _number(value: float) -> str:
    """The fewest digits that mean this number; an exponent only outside 1e-6 to 1e21."""
    if value == 0 or 1e-6 <= abs(value) < 1e21:
        from decimal import Decimal  # hardly any annotation has such a number

        return f"{Decimal(repr(value)):f}".removesuffix(".0")
    digits, _, exponent = repr(value).partition("e")
    return f"{digits}e{int(exponent):+d}"
