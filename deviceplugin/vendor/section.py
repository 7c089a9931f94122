"""A vendor's section of the configuration file as typed values. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deviceplugin.api.fields import Fields, Kind
from deviceplugin.api.problems import Problem, unknown_keys

__all__ = ["read_section", "refuse"]

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
