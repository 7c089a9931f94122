"""The values of `deviceplugin.cdi.model` as the schema of the file (cdi.md 1.1).

An attribute ``host_path: str`` is the key ``hostPath`` with text, obligatory without a default and
left out of a file where it has its default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

_IRREGULAR = {"clos_id": "closID"}


@dataclass(frozen=True, slots=True)
class Member:
    """An attribute, its key in the file, its type, and its default (`MISSING`: obligatory)."""

    attribute: str
    key: str
    kind: Any
    default: object


@cache
def members(cls: type) -> tuple[Member, ...]:
    """The members of a type of the model, in its order."""
    kinds = get_type_hints(cls)
    found = []
    for field in fields(cls):
        first, *others = field.name.split("_")
        key = _IRREGULAR.get(field.name, first + "".join(map(str.capitalize, others)))
        made = field.default if field.default_factory is MISSING else field.default_factory()
        found.append(Member(field.name, key, kinds[field.name], made))
    return tuple(found)


def plain(value: Any) -> Any:
    """A value as the data of JSON, unchecked; what has its default is left out."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return dict(value)
    if not is_dataclass(value):
        return value
    items = ((member, getattr(value, member.attribute)) for member in members(value.__class__))
    return {member.key: plain(item) for member, item in items if item != member.default}


def walk(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of the model in this one, itself first, each after its place in the file."""
    if isinstance(value, tuple):
        for position, item in enumerate(value):
            yield from walk(item, f"{place}[{position}]")
    elif is_dataclass(value):
        yield place, value
        for member in members(value.__class__):
            inner = f"{place}.{member.key}".removeprefix(".")
            yield from walk(getattr(value, member.attribute), inner)
