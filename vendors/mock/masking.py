"""Real serial numbers become false ones of the same shape, so that a recording can be shown.

The same number becomes the same false one in every recording, because it is a hash; only numbers
of one recording that would become equal are kept apart by their order. What looks like a word
("GPU", "MIG") or a small number (a partition's place) stays.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

_TOKEN = re.compile(
    r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|[0-9A-Za-z]+"
)
_DECIMAL, _HEX = "0123456789", "0123456789abcdef"
_LETTERS = _DECIMAL + "abcdefghijklmnopqrstuvwxyz"
SHORTEST = 4
"""Fewer characters name a place, not a device."""


def masked(identities: Iterable[str]) -> Mapping[str, str]:
    """A false identity for each; all are different, and equal parts stay equal."""
    whole = sorted(set(identities))
    tokens = {token for identity in whole for token in _TOKEN.findall(identity)}
    used = {token for token in tokens if not _serial(token)}
    false: dict[str, str] = {}
    for token in sorted(tokens - used):
        false[token] = _free(token, used)
        used.add(false[token])
    return {
        identity: _TOKEN.sub(lambda found: false.get(found[0], found[0]), identity)
        for identity in whole
    }


def _serial(token: str) -> bool:
    word = token.isalpha() and not set(token.lower()) <= set(_HEX)
    return len(token) >= SHORTEST and not word


def _free(token: str, used: set[str]) -> str:
    """The first unused text of the token's shape, from the token's hash on."""
    plain = token.replace("-", "")
    alphabet = next(a for a in (_DECIMAL, _HEX, _LETTERS) if set(plain.lower()) <= set(a))
    upper = plain != plain.lower()
    number = int.from_bytes(hashlib.sha256(token.encode()).digest(), "big")
    while (text := _shaped(number, alphabet, token, upper)) in used:
        number += 1
    return text


def _shaped(number: int, alphabet: str, shape: str, upper: bool) -> str:
    """`number` in the digits of `alphabet`, as long as `shape` and with its hyphens."""
    digits = []
    for letter in reversed(shape):
        if letter == "-":
            digits.append(letter)
        else:
            number, digit = divmod(number, len(alphabet))
            digits.append(alphabet[digit].upper() if upper else alphabet[digit])
    return "".join(reversed(digits))
