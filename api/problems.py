"""What is wrong with an input, as data: one value a mistake, so that all can be told at once."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Problem", "nearest", "shown", "unknown_keys", "why"]

LONGEST = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that somebody has to correct, or at least to know.

    `source` is a file, ``command line`` or ``environment``; `path` is the key in it
    (``flags.plugin.deviceIDStrategy``, ``--mig-strategy``); `value` is what stands there, None
    when nothing does. `rule` says what is wrong with it and `remedy` what to do.
    """

    source: str
    path: str
    value: object
    rule: str
    remedy: str

    def __str__(self) -> str:
        given = "" if self.value is None else f" = {shown(self.value)}"
        place = f"{self.path}{given}: " if self.path or given else ""
        return f"{self.source}: {place}{self.rule}; {self.remedy}"


def shown(value: object) -> str:
    """A value inside a sentence: as JSON writes it, and short, whatever it is."""
    try:
        text = json.dumps(value, default=_plain, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


def nearest(word: object, known: Iterable[str]) -> str:
    """A remedy for a wrong word: the most similar known one, else all of them."""
    import difflib  # where a word is wrong, so hardly ever

    words = list(dict.fromkeys(known))
    if isinstance(word, str):
        folded = {candidate.lower(): candidate for candidate in words}
        if close := difflib.get_close_matches(word.lower(), folded, 1):
            return f"did you mean {folded[close[0]]}?"
    return f"known are {', '.join(words)}"


def why(error: Exception) -> str:
    """What went wrong, in the system's words and without its numbers: ``Permission denied``."""
    number = error.errno if isinstance(error, OSError) else None
    if number is not None and number in errno.errorcode:
        return os.strerror(number)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def unknown_keys(
    data: Mapping[str, object], known: Iterable[str], source: str, path: str
) -> list[Problem]:
    """One problem for each key of a mapping that nobody reads, with the most similar known key."""
    words = tuple(known)
    return [
        Problem(
            source,
            f"{path}.{key}" if path else key,
            None,
            "unknown key, ignored",
            nearest(key, words),
        )
        for key in data
        if key not in words
    ]
