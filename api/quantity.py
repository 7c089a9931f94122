"""Kubernetes quantities: ``500m``, ``2Gi``, ``1e3``.

Accepts what the API server accepts and gives the same numbers and the same canonical text.
Three of its accidents are not copied: amounts beyond 64 bits are exact here instead of wrapped,
negative fractions of many digits round away from zero like all others, and a number without
digits (``-``, ``Ki``, ``e3``) is refused instead of being zero sometimes.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

__all__ = ["NANO", "Format", "Quantity", "QuantityError"]

NANO = 10**9
"""Amounts are kept in billionths, the smallest unit there is."""

LARGEST = 2**63 - 1
"""An amount with a binary suffix is cut here."""

MOST_DIGITS = 1000
"""Kubernetes has no such bound; without one, ten characters could ask for a gigabyte of zeros."""

_SHAPE = re.compile(
    r"(?P<sign>[+-]?)(?=\.?[0-9])(?P<whole>[0-9]*)(?:\.(?P<part>[0-9]*))?"
    r"(?P<suffix>[KMGTPE]i|[numkMGTPE]?|[eE](?P<exponent>[+-]?[0-9]+))"
)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL_NAME = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_BINARY_NAME = {0: "", **{exponent: suffix for suffix, exponent in _BINARY.items()}}


class QuantityError(ValueError):
    """A text is no quantity; says which, why and what to write."""


class Format(enum.Enum):
    """How a quantity was written, and so how it is written back."""

    DECIMAL = "DecimalSI"
    BINARY = "BinarySI"
    EXPONENT = "DecimalExponent"


@dataclass(frozen=True, slots=True)
class Quantity:
    """An amount in billionths and the sort of suffix it is written with."""

    nano: int
    format: Format = Format.DECIMAL

    @classmethod
    def parse(cls, text: str) -> Quantity:
        """The quantity that a text means. Less than a billionth counts as one, away from zero.

        Raises `QuantityError`.
        """
        if len(text) > MOST_DIGITS:
            raise QuantityError(
                f"{text:.20}... is longer than {MOST_DIGITS} characters: shorten it"
            )
        match = _SHAPE.fullmatch(text)
        if match is None or not text:
            raise QuantityError(
                f"{text!r:.80} is not a quantity: write a number with one of the suffixes "
                "n u m k M G T P E, Ki Mi Gi Ti Pi Ei, or an exponent such as e3"
            )
        part, suffix, written = match["part"] or "", match["suffix"], Format.DECIMAL
        digits, scale = int(match["whole"] + part or "0"), -len(part)
        if match["exponent"]:
            written, scale = Format.EXPONENT, scale + _exponent(text, int(match["exponent"]))
        elif suffix in _BINARY:
            written, digits = Format.BINARY, digits << _BINARY[suffix]
        else:
            scale += _DECIMAL[suffix]
        nano = _scaled(digits, scale + 9)
        if written is Format.BINARY:
            nano = min(nano, LARGEST * NANO)
            if 0 < nano < NANO:
                written = Format.DECIMAL
        return cls(-nano if match["sign"] == "-" else nano, written)

    def value(self) -> int:
        """The amount as a whole number, a fraction rounded away from zero."""
        return _away(self.nano, NANO)

    def milli(self) -> int:
        """The amount in thousandths, a fraction rounded away from zero."""
        return _away(self.nano, NANO // 1000)

    def __str__(self) -> str:
        """The canonical form: no fraction, the largest suffix that keeps the amount exact."""
        if self.nano == 0:
            return "0"
        if self.format is Format.BINARY and abs(self.nano) >= 1024 * NANO and not self.nano % NANO:
            number, exponent = _reduced(self.nano // NANO, 0, 1024, 10, 60)
            return f"{number}{_BINARY_NAME[exponent]}"
        highest = 3 * MOST_DIGITS if self.format is Format.EXPONENT else 18
        number, exponent = _reduced(self.nano, -9, 1000, 3, highest)
        if self.format is not Format.EXPONENT:
            return f"{number}{_DECIMAL_NAME[exponent]}"
        return f"{number}e{exponent}" if exponent else str(number)


def _exponent(text: str, exponent: int) -> int:
    if exponent > MOST_DIGITS:
        raise QuantityError(
            f"{text!r:.80} has an exponent above {MOST_DIGITS}: write a smaller one"
        )
    return max(exponent, -2 * MOST_DIGITS)  # already less than a billionth of any number


def _scaled(digits: int, scale: int) -> int:
    """``digits * 10**scale``, rounded up."""
    power: int = 10 ** abs(scale)
    return digits * power if scale >= 0 else -(-digits // power)


def _away(amount: int, unit: int) -> int:
    """``amount / unit`` rounded away from zero."""
    whole = -(-abs(amount) // unit)
    return whole if amount >= 0 else -whole


def _reduced(number: int, exponent: int, base: int, step: int, highest: int) -> tuple[int, int]:
    """The number without its factors of `base`, each of which raises the exponent by `step`."""
    while exponent < highest and number % base == 0:
        number, exponent = number // base, exponent + step
    return number, exponent
