"""What differs between two configurations, for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

from deviceplugin.api.problems import shown

__all__ = ["differences"]

ABSENT = object()


def differences(before: object, after: object, most: int = 50) -> list[str]:
    """A line for each value that is another, ``path: before -> after``, at most so many and then
    how many more. Mappings, sequences and dataclasses are looked into.
    """
    found = list(_differing("", before, after))
    more = len(found) - most
    return [*found[:most], f"and {more} more"] if more > 0 else found


def _differing(path: str, before: object, after: object) -> Iterator[str]:
    if before == after:
        return
    (kind, old), (other, new) = _members(before), _members(after)
    if not kind or kind != other:
        yield f"{path or 'all'}: {_said(before)} -> {_said(after)}"
        return
    for key in dict.fromkeys((*old, *new)):
        place = f"{path}{key}" if key.startswith("[") or not path else f"{path}.{key}"
        yield from _differing(place, old.get(key, ABSENT), new.get(key, ABSENT))


def _members(value: object) -> tuple[str, Mapping[str, object]]:
    """What sort of thing a value is and what it is made of, by the rest of a path; no sort for one
    that is not looked into.
    """
    if isinstance(value, Mapping):
        return "mapping", {str(key): item for key, item in value.items()}
    if isinstance(value, list | tuple):
        return "sequence", {f"[{position}]": item for position, item in enumerate(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return "object", {field.name: getattr(value, field.name) for field in fields(value)}
    return "", {}


def _said(value: object) -> str:
    return "nothing" if value is ABSENT else shown(value)
