"""One error for every annotation that does not say what it should."""

from __future__ import annotations

__all__ = ["AnnotationError"]

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
        shown = f": {self.excerpt}" if text else ""
        super().__init__(f"{annotation}: {reason}{shown}; {remedy}")


def _excerpt(text: str) -> str:
    shown = repr(text[:LONGEST])
    whole = len(text) <= LONGEST and len(shown) <= LONGEST
    return shown if whole else f"{shown[:LONGEST]}..."
