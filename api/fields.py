"""Typed values out of untyped input, with problems instead of exceptions.

A `Kind` is one type of the configuration: how a value of a file is checked, and how the text of a
flag or an environment variable becomes such a value first. Files are strict (``"true"`` is no
truth value), texts are read as Go's flag packages read them, because the existing charts write
them that way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any, Generic, TypeVar

from deviceplugin.api.problems import Problem, nearest, shown

__all__ = [
    "FLAG",
    "LISTEN",
    "NAME",
    "PATH",
    "RESOURCE",
    "SECONDS",
    "TEXT",
    "Fields",
    "Kind",
    "UnfitError",
    "address_text",
    "choice",
    "duration_seconds",
    "duration_text",
    "fewer",
    "host_port",
    "many",
    "number",
    "optional",
    "pick",
    "whole",
]

T = TypeVar("T")
U = TypeVar("U")

MOST = 2**53
"""Whole numbers beyond this do not survive every JSON reader."""

_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(h|ms|m|s|us|µs|ns)", re.ASCII)
_RESOURCE = re.compile(
    r"(?P<domain>[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)"
    r"/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
)


class UnfitError(ValueError):
    """A value breaks the rule of its kind."""

    def __init__(self, rule: str, remedy: str) -> None:
        super().__init__(f"{rule}; {remedy}")
        self.rule, self.remedy = rule, remedy


def _as_it_is(text: str) -> object:
    return text


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One type of a configuration value. `form` shows people what to write."""

    form: str
    check: Callable[[object], T]
    """The value of a file, checked. Raises `UnfitError`."""
    from_text: Callable[[str], object] = _as_it_is
    """A text as the value that a file would have; unreadable text stays for `check` to refuse."""
    several: bool = False
    """Whether a flag of this kind may be repeated."""
    blank: bool = False
    """Whether an empty text is a value; otherwise it means that nothing was given."""


def optional(kind: Kind[T]) -> Kind[T]:
    """The same kind, where an empty text is a value of its own: it switches something off."""

    def check(value: object) -> T:
        return value if value == "" else kind.check(value)  # type: ignore[return-value]

    return Kind(kind.form, check, kind.from_text, kind.several, blank=True)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise UnfitError("not a text", "put it in quotes")
    if not value.isprintable():
        raise UnfitError("has control characters", "remove them")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise UnfitError("not a truth value", "write true or false, without quotes")
    return value


def _flag_text(text: str) -> object:
    return True if text in _TRUE else False if text in _FALSE else text


def _name(value: object) -> str:
    text = _text(value)
    if not text or text != text.strip():
        raise UnfitError("empty or with blanks around it", "write a name")
    return text


def _path(value: object) -> str:
    text = _text(value)
    if not text.startswith("/"):
        raise UnfitError("not an absolute path", "begin with /")
    return text


def host_port(text: str) -> tuple[str, int]:
    """The host and port of an address to listen on: ``host:port``, ``[address]:port`` for IPv6. The
    host is empty where none is said. Raises `UnfitError`.
    """
    if set(text) & set("/ @"):
        raise UnfitError("no host:port", "write nothing else: 127.0.0.1:9400")
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"\d+", port, re.ASCII):
        raise UnfitError("no host:port", "write for example 127.0.0.1:9400")
    if len(port) > 5 or int(port) > 65535:
        raise UnfitError("no host:port", "write a port from 0 (any that is free) to 65535")
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(IPv6Address(host[1:-1])), int(port)
        except ValueError:
            remedy = "what is in brackets is no IPv6 address: write for example [::1]:9400"
            raise UnfitError("no host:port", remedy) from None
    if set(host) & set(":[]"):
        raise UnfitError("no host:port", "put an IPv6 address in brackets: [::1]:9400")
    return host, int(port)


def address_text(host: str, port: int) -> str:
    """What `host_port` reads; IPv6 addresses in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(value: object) -> str:
    text = _text(value)
    try:
        host_port(text)
    except UnfitError as error:
        raise UnfitError(error.rule, f"{error.remedy}; or nothing for off") from None
    return text


def resource_name(value: object) -> str:
    """An extended resource: ``domain/name``, 63 characters at most (kubelet-deviceplugin.md 4.1).

    Raises `UnfitError`.
    """
    text = _text(value)
    if not _RESOURCE.fullmatch(text):
        raise UnfitError("not a resource name", "write domain/name, for example nvidia.com/gpu")
    if len(text) > 63:
        raise UnfitError(f"{len(text)} characters, of 63 allowed", "shorten the name")
    return text


def duration_seconds(text: str) -> float | None:
    """Seconds of a Go duration (``1m30s``, ``500ms``); None when the text is none."""
    if text in ("0", "+0"):
        return 0.0
    body = text.removeprefix("+")
    if not body or _DURATION.sub("", body):
        return None
    return sum(float(amount) * _UNITS[unit] for amount, unit in _DURATION.findall(body))


def duration_text(seconds: float) -> str:
    """A duration as Go writes it: ``5m0s``, ``1h0m0s``, ``1.5s``."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:g}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _seconds(value: object) -> float:
    if isinstance(value, str):
        value = duration_seconds(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnfitError("not a time", "write seconds (30) or a duration (30s, 1m30s)")
    if not 0 <= value <= 1e6:
        raise UnfitError("out of range", "write 0 to 1000000 seconds")
    return float(value)


def _number_text(text: str) -> object:
    try:
        return float(text) if re.search(r"[.eE]", text) else int(text)
    except ValueError:
        return text


TEXT: Kind[str] = Kind("text", _text)
NAME: Kind[str] = Kind("name", _name)
FLAG: Kind[bool] = Kind("true|false", _flag, _flag_text)
PATH: Kind[str] = Kind("path", _path)
LISTEN: Kind[str] = optional(Kind("host:port", _listen))
RESOURCE: Kind[str] = Kind("domain/name", resource_name)
SECONDS: Kind[float] = Kind("duration", _seconds, _number_text)


def choice(*words: str) -> Kind[str]:
    """One of several words."""

    def check(value: object) -> str:
        if not isinstance(value, str):
            raise UnfitError("not a text", f"write one of {', '.join(words)}")
        if value not in words:
            remedy = nearest(value, words)
            if not remedy.startswith("known"):
                remedy += f" Known are {', '.join(words)}"
            raise UnfitError("unknown value", remedy)
        return value

    return Kind("|".join(words), check)


def whole(low: int = 0, high: int = MOST) -> Kind[int]:
    """A whole number within bounds, both included."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise UnfitError("not a whole number", "write digits only, without quotes")
        if not low <= value <= high:
            raise UnfitError("out of range", f"write one from {low} to {high}")
        return value

    return Kind("number", check, _number_text)


def number(low: float, high: float) -> Kind[float]:
    """A finite number within bounds, both included."""

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UnfitError("not a number", "write a number, without quotes")
        if not low <= value <= high or not math.isfinite(value):
            raise UnfitError("out of range", f"write one from {low:g} to {high:g}")
        return float(value)

    return Kind("number", check, _number_text)


def many(kind: Kind[T], *, least: int = 0) -> Kind[tuple[T, ...]]:
    """A list, in order and without duplicates. A single value is a list of one; texts are split
    at commas.
    """

    def check(value: object) -> tuple[T, ...]:
        items = value if isinstance(value, list | tuple) else [value]
        if isinstance(value, str):
            items = list(_parts(value))
        found: list[T] = []
        for item in items:
            try:
                checked = kind.check(item)
            except UnfitError as error:
                raise UnfitError(f"{shown(item)} is {error.rule}", error.remedy) from None
            if checked not in found:
                found.append(checked)
        if len(found) < least:
            raise UnfitError("an empty list", f"name at least {least}, or remove the key")
        return tuple(found)

    def from_text(text: str) -> object:
        return [kind.from_text(part) for part in _parts(text)]

    return Kind(kind.form, check, from_text, several=True)


def fewer(kind: Kind[T], rule: str, remedy: str, allowed: Callable[[T], bool]) -> Kind[T]:
    """A kind with one more rule."""

    def check(value: object) -> T:
        checked = kind.check(value)
        if not allowed(checked):
            raise UnfitError(rule, remedy)
        return checked

    return Kind(kind.form, check, kind.from_text, kind.several, kind.blank)


def pick(kind: Kind[T], convert: Callable[[object], object]) -> Kind[T]:
    """A kind whose value may also be written another way, which `convert` turns into the first."""
    return Kind(
        kind.form,
        lambda value: kind.check(convert(value)),
        kind.from_text,
        kind.several,
        kind.blank,
    )


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


class Fields:
    """One mapping that is read key by key; what does not fit is added to `problems`."""

    def __init__(
        self, data: Mapping[str, object], source: str, path: str, problems: list[Problem]
    ) -> None:
        self.data, self.source, self.path, self.problems = data, source, path, problems

    def place(self, key: str) -> str:
        """The full path of a key."""
        return f"{self.path}.{key}" if self.path else key

    def get(self, key: str, kind: Kind[T], default: U) -> T | U:
        """The value of a key; `default` when it is missing, null, empty or wrong."""
        value = self.data.get(key)
        if value is None or (value == "" and not kind.blank):
            return default
        try:
            return kind.check(value)
        except UnfitError as error:
            self.wrong(key, error.rule, error.remedy)
            return default

    def wrong(self, key: str, rule: str, remedy: str) -> None:
        """Note a problem with one key."""
        value = self.data.get(key)
        self.problems.append(Problem(self.source, self.place(key), value, rule, remedy))

    def mapping(self, key: str) -> Fields:
        """The mapping below a key; an empty one when it is missing, null or wrong."""
        value = self.data.get(key)
        if value is not None and not isinstance(value, Mapping):
            self.wrong(key, "not a mapping", "write key: value pairs below it")
            value = None
        return Fields(value or {}, self.source, self.place(key), self.problems)

    def mappings(self, key: str) -> list[Fields]:
        """The members of a list of mappings; those that are none are noted and left out."""
        value = self.data.get(key)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            self.wrong(key, "not a list", "write one entry a line after -")
            return []
        found = []
        for position, item in enumerate(value):
            path = f"{self.place(key)}[{position}]"
            if isinstance(item, Mapping):
                found.append(Fields(item, self.source, path, self.problems))
            else:
                rule, remedy = "not a mapping", "write key: value pairs"
                self.problems.append(Problem(self.source, path, item, rule, remedy))
        return found

    def values(self, table: Iterable[tuple[str, str, Kind[Any]]]) -> dict[str, Any]:
        """The attributes of a table of (key, attribute, kind) that are given and fit."""
        found: dict[str, Any] = {}
        for key, attribute, kind in table:
            value = self.get(key, kind, None)
            if value is not None:
                found[attribute] = value
        return found
