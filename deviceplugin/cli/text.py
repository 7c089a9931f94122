"""Text for people, on a terminal or not."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import click

__all__ = ["WIDEST", "clean", "dim", "several", "wrapped"]

WIDEST = 100
"""Columns that are filled, however wide a terminal is."""


def wrapped(text: str, width: int, first: str, rest: str) -> list[str]:
    """In lines of at most so many columns, which begin so; words stay whole."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def dim(lines: Sequence[str]) -> Iterator[str]:
    """Less bright."""
    yield from (click.style(line, dim=True) for line in lines)


def clean(text: str) -> str:
    """Strangers wrote some of it: nothing of it moves the cursor or ends a field."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def several(number: int, word: str) -> str:
    """``1 node``, ``1,000 nodes``."""
    return f"{number} {word}" if number == 1 else f"{number:,} {word}s"
