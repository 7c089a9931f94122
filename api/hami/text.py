"""What every decoder asks of a text before it looks closer, and Go's ways of writing values.

Annotations of one object have 256 KiB together, so a longer text never came from an API server;
`MOST_ENTRIES` is far beyond any node or pod, and bounds what a hostile text can make of them.
"""

from __future__ import annotations

import re

from deviceplugin.api.hami.errors import AnnotationError

__all__ = [
    "LARGEST",
    "MOST_CHARACTERS",
    "MOST_ENTRIES",
    "RESERVED",
    "bounded",
    "clean",
    "counted",
    "truth",
    "whole",
]

MOST_CHARACTERS = 256 * 1024
MOST_ENTRIES = 10_000
"""Devices of a node, or containers of a pod, in one annotation."""

LARGEST = 2**31 - 1
"""Peers keep counts, MiB and percentages in 32 bits."""

RESERVED = ",:;[]"
"""What no uuid may have: the ends of a field, a device and a container, and a slot's brackets."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def bounded(text: str, annotation: str) -> str:
    """The text, if it is short enough. Raises `AnnotationError`."""
    if len(text) > MOST_CHARACTERS:
        raise AnnotationError(
            annotation,
            f"{len(text)} characters, of {MOST_CHARACTERS} allowed",
            "find out who wrote it and remove it",
            text,
        )
    return text


def clean(text: str, annotation: str) -> str:
    """The text, if it is short enough and has no control characters, nor halves of characters that
    UTF-8 cannot write. Raises `AnnotationError`.
    """
    if not bounded(text, annotation).isprintable() and _CONTROL.search(text):
        raise AnnotationError(annotation, "control characters", "remove them", text)
    return text


def counted(number: int, annotation: str) -> None:
    """Refuse more entries than anybody can mean. Raises `AnnotationError`."""
    if number > MOST_ENTRIES:
        raise AnnotationError(
            annotation,
            f"{number} entries, of {MOST_ENTRIES} allowed",
            "find out who wrote it and remove it",
        )


def whole(text: str, annotation: str, what: str, least: int = 0) -> int:
    """A whole number as Go reads it, from `least` to `LARGEST`. Raises `AnnotationError`."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if digits.isascii() and digits.isdigit() and len(digits) < 20:
        number = int(text)
        if least <= number <= LARGEST:
            return number
    raise AnnotationError(
        annotation, f"{what} is no number from {least} to {LARGEST}", "write digits only", text
    )


def truth(text: str, annotation: str, what: str) -> bool:
    """A truth value as Go reads it. Raises `AnnotationError`."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise AnnotationError(
        annotation, f"{what} is neither true nor false", "write true or false", text
    )
