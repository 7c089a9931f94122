"""One error type for everything that is wrong with a specification, a name or an annotation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: in which file, at which field, which value breaks which rule."""

    source: str
    field: str
    value: str
    rule: str

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.source, self.field) if part)
        shown = f" {self.value!r:.80}" if self.value else ""
        return f"{place}{shown}: {self.rule}" if place else f"{self.rule}{shown}"


class CDIError(ValueError):
    """What is wrong, as one or more `problems`; the text has one line each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def error(rule: str, value: str = "", *, source: str = "", field: str = "") -> CDIError:
    """An error with a single problem."""
    return CDIError([Problem(source, field, value, rule)])
