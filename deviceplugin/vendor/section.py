"""A vendor's section of the configuration file as typed values. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deviceplugin.api.fields import Fields, Kind, UnfitError, many, whole
from deviceplugin.api.problems import Problem, unknown_keys

__all__ = ["CARDS", "NO_CARDS", "Cards", "read_section", "refuse"]

Row = tuple[str, str, Kind[Any]]
"""A key of the file, the attribute it fills, and its kind."""


def read_section(
    data: Mapping[str, Any], name: str, rows: Iterable[Row], also: Iterable[str] = ()
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The attributes that the section gives, and what it says that nobody reads, a sentence each.

    `name` is the section's, for people; `also` are keys that are read elsewhere. Raises
    `ValueError` that names every value that does not fit.
    """
    rows = tuple(rows)
    problems: list[Problem] = []
    values = Fields(data, "configuration", name, problems).values(rows)
    refuse(problems)
    known = (*(key for key, _, _ in rows), *also)
    return values, tuple(str(p) for p in unknown_keys(data, known, "configuration", name))


def refuse(problems: Iterable[Problem]) -> None:
    """Raises `ValueError` with all of them, where there are any."""
    if told := "; ".join(str(problem) for problem in problems):
        raise ValueError(told)


@dataclass(frozen=True, slots=True)
class Cards:
    """Cards that the operator chose by their index, or `every` one."""

    indices: frozenset[int] = frozenset()
    every: bool = False

    def __contains__(self, index: object) -> bool:
        return self.every or index in self.indices


NO_CARDS = Cards()


def _cards(value: object) -> Cards:
    if value in ("all", "none"):
        return Cards(every=value == "all")
    try:
        return Cards(frozenset(many(whole(0, 63)).check(value)))
    except UnfitError as error:
        raise UnfitError(error.rule, "write all, none, or a list of card indices") from None


CARDS: Kind[Cards] = Kind("all|none|indices", _cards)
"""A choice of a node's cards."""
