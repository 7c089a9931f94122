"""One error for every annotation that does not say what it should."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["AnnotationError", "in_turn"]

T = TypeVar("T")
U = TypeVar("U")

LONGEST = 100
"""Characters of an excerpt."""


class AnnotationError(ValueError):
    """`annotation` is the key, `reason` what is wrong there and `remedy` what to do about it.

    `excerpt` is the place in the text, in quotes, cut short and with everything escaped that a
    terminal or a log would not show as it is; empty when there is nothing to show.
    """

    def __init__(self, annotation: str, reason: str, remedy: str, text: str = "") -> None:
        self.annotation, self.reason, self.remedy = annotation, reason, remedy
        self.excerpt = _excerpt(text) if text else ""
        super().__init__(annotation, reason, remedy, text[: LONGEST + 1])

    def __str__(self) -> str:
        shown = f": {self.excerpt}" if self.excerpt else ""
        return f"{self.annotation}: {self.reason}{shown}; {self.remedy}"


def in_turn(
    convert: Callable[[T, str], U], entries: Iterable[T], annotation: str, what: str
) -> tuple[U, ...]:
    """Each entry converted; an error says which `what` it was, counted from 1.

    Raises `AnnotationError`.
    """
    found: list[U] = []
    try:
        for entry in entries:
            found.append(convert(entry, annotation))  # noqa: PERF401 - an error needs the count
    except AnnotationError as error:
        error.reason = f"{what} {len(found) + 1}: {error.reason}"
        raise
    return tuple(found)


def _excerpt(text: str) -> str:
    shown = repr(text[:LONGEST])
    whole = len(text) <= LONGEST and len(shown) <= LONGEST
    return shown if whole else f"{shown[:LONGEST]}..."
