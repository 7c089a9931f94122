"""Typed, strict access to one mapping of a profile; every complaint names its place."""

from __future__ import annotations

import enum
import random
import reprlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from deviceplugin.api.problems import nearest
from deviceplugin.vendors.mock.profile import ProfileError

T = TypeVar("T")
E = TypeVar("E", bound=enum.StrEnum)

MOST = 2**53
"""Whole numbers beyond this do not survive every JSON reader on their way to the probe."""


def made_uuid(seed: str) -> str:
    """A uuid that is the same for the same seed.

    From a generator and not from a hash: hashlib loads 4 MiB of OpenSSL into each probe.
    """
    return str(uuid.UUID(int=random.Random(seed).getrandbits(128), version=4))  # noqa: S311


def shown(value: object) -> str:
    """A value in an error: short, whatever it is."""
    try:
        return reprlib.repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        return f"a {type(value).__name__} beyond reason"


class Fields:
    """One mapping with known keys. Every method raises `ProfileError`."""

    def __init__(self, data: object, source: str, path: str, known: Iterable[str]) -> None:
        self.source, self.path = source, path
        if not isinstance(data, Mapping):
            raise ProfileError(source, path, f"{shown(data)} is no mapping", "write key: value")
        self._data = data
        words = tuple(known)
        for key in data:
            if key not in words:
                raise self.wrong(
                    key if isinstance(key, str) else shown(key), "unknown key", nearest(key, words)
                )

    def __contains__(self, key: str) -> bool:
        return self._data.get(key) is not None

    def place(self, key: str) -> str:
        """The full path of a key."""
        return f"{self.path}.{key}" if self.path else key

    def wrong(self, key: str, reason: str, remedy: str) -> ProfileError:
        """The error about one key of this mapping."""
        return ProfileError(self.source, self.place(key), reason, remedy)

    def raw(self, key: str) -> object:
        """The value as it stands; None when it is missing."""
        return self._data.get(key)

    def text(self, key: str, default: str | None = None) -> str:
        """A string; obligatory without a default."""
        if key not in self:
            if default is None:
                raise self.wrong(key, "is missing", "write a text")
            return default
        return self._text(key, self.raw(key))

    def flag(self, key: str, default: bool) -> bool:
        """A truth value."""
        value = self._data.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, f"{shown(value)} is no truth value", "write true or false")
        return value

    def sub(self, key: str, known: Iterable[str]) -> Fields:
        """The mapping below a key; an empty one when it is missing."""
        value = self.raw(key)
        return Fields({} if value is None else value, self.source, self.place(key), known)

    def whole(
        self, key: str, default: int | None = None, low: int = -MOST, high: int = MOST
    ) -> int:
        """A whole number within bounds; obligatory without a default."""
        if key not in self:
            if default is None:
                raise self.wrong(key, "is missing", "write a whole number")
            return default
        return self._whole(key, self.raw(key), low, high)

    def number(
        self, key: str, default: float | None = None, low: float = 0.0, high: float = 1e12
    ) -> float:
        """A finite number within bounds; obligatory without a default."""
        if key not in self:
            if default is None:
                raise self.wrong(key, "is missing", "write a number")
            return default
        value = self.raw(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong(key, f"{shown(value)} is no number", "write a number")
        if not low <= value <= high:
            remedy = f"write one from {low:g} to {high:g}"
            raise self.wrong(key, f"{shown(value)} is out of range", remedy)
        return float(value)

    def choice(self, key: str, kinds: type[E], default: E | None = None) -> E:
        """One word of an enumeration; obligatory without a default."""
        word = self.text(key, default)
        try:
            return kinds(word)
        except ValueError:
            raise self.wrong(key, f"{shown(word)} is unknown", nearest(word, kinds)) from None

    def items(self, key: str) -> list[tuple[str, object]]:
        """The members of a list, each with its path."""
        value = self.raw(key)
        if value is None:
            return []
        if not isinstance(value, (list, tuple)):
            raise self.wrong(key, f"{shown(value)} is no list", "write one entry a line after -")
        return [(f"{self.place(key)}[{position}]", item) for position, item in enumerate(value)]

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        return tuple(self._text(key, item) for _, item in self.items(key))

    def texts(self, key: str) -> dict[str, str]:
        """A mapping of strings to strings."""
        return dict(self._mapping(key, self._text))

    def wholes(self, key: str) -> dict[str, int]:
        """A mapping of words to whole numbers; a number as a key is taken as the word."""
        return dict(self._mapping(key, lambda name, value: self._whole(name, value, -MOST, MOST)))

    def members(self, key: str) -> Iterator[tuple[str, str, object]]:
        """The name, path and value of each member of a mapping."""
        for name, value in self._mapping(key, lambda _, value: value):
            yield name, f"{self.place(key)}.{name}", value

    def _mapping(self, key: str, read: Callable[[str, object], T]) -> Iterator[tuple[str, T]]:
        value = self.raw(key)
        if value is None:
            return
        if not isinstance(value, Mapping):
            raise self.wrong(key, f"{shown(value)} is no mapping", "write key: value")
        for name, item in value.items():
            word = str(name) if type(name) is int and abs(name) <= MOST else name
            if not isinstance(word, str):
                raise self.wrong(key, f"{shown(name)} is no text", "put the key in quotes")
            self._text(key, word)
            yield word, read(f"{key}.{word}", item)

    def _text(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.wrong(key, f"{shown(value)} is no text", "put it in quotes")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.wrong(key, f"{shown(value)} is no Unicode", "correct it") from None
        return value

    def _whole(self, key: str, value: object, low: int, high: int) -> int:
        if type(value) is not int:
            raise self.wrong(key, f"{shown(value)} is no whole number", "write digits only")
        if not low <= value <= high:
            raise self.wrong(
                key, f"{shown(value)} is out of range", f"write one from {low} to {high}"
            )
        return value
