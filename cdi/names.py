"""Qualified device names ``vendor/class=name`` and their parts (cdi.md 1.3).

Vendor and class of one character are refused although the rules allow them: the parser that
current runtimes are built with panics on them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from deviceplugin.cdi.errors import CDIError, error

_LETTER, _ALNUM = "[A-Za-z]", "[A-Za-z0-9]"
_VENDOR = re.compile(f"{_LETTER}[A-Za-z0-9_.-]*{_ALNUM}")
_NAME = re.compile(f"{_ALNUM}(?:[A-Za-z0-9_.:-]*{_ALNUM})?")
MAX_VENDOR, MAX_LABEL = 253, 63


@dataclass(frozen=True, slots=True)
class QualifiedName:
    """A name taken apart; `str()` puts it together again."""

    vendor: str
    cls: str
    name: str

    @property
    def kind(self) -> str:
        """``vendor/class``."""
        return f"{self.vendor}/{self.cls}"

    def __str__(self) -> str:
        return f"{self.kind}={self.name}"


def vendor_problem(vendor: str) -> str:
    """Why this is no vendor; empty when it is one."""
    return _part_problem("vendor", vendor, MAX_VENDOR)


def class_problem(cls: str) -> str:
    """Why this is no class; empty when it is one."""
    return _part_problem("class", cls, MAX_LABEL)


def device_name_problem(name: str) -> str:
    """Why this is no device name; empty when it is one."""
    if not _NAME.fullmatch(name):
        return "a device name is letters, digits, _ - . : with a letter or digit at both ends"
    return f"a device name has at most {MAX_LABEL} characters" if len(name) > MAX_LABEL else ""


def kind_problem(kind: str) -> str:
    """Why this is no ``vendor/class``; empty when it is one."""
    vendor, slash, cls = kind.partition("/")
    if not slash or "/" in cls:
        return "a kind is vendor/class"
    return vendor_problem(vendor) or class_problem(cls)


def parse_qualified_name(text: str) -> QualifiedName:
    """The parts of ``vendor/class=name``. Raises `CDIError`."""
    kind, equals, name = text.partition("=")
    if not equals or not name:
        raise error("a device is named vendor/class=name", text)
    if rule := kind_problem(kind) or device_name_problem(name):
        raise error(rule, text)
    vendor, _, cls = kind.partition("/")
    return QualifiedName(vendor, cls, name)


def is_qualified_name(text: str) -> bool:
    """Whether `parse_qualified_name` takes it."""
    try:
        parse_qualified_name(text)
    except CDIError:
        return False
    return True


def device_name_for(identity: str) -> str:
    """A legal device name for any non-empty id; `identity_of` gives the id back.

    A legal id that does not look escaped is its own name. Otherwise it is ``x.`` and the id with
    every illegal character as ``_`` and its UTF-8 bytes in hexadecimal, ended by ``.x``.
    """
    if identity and not device_name_problem(identity) and not identity.startswith("x."):
        return identity
    safe = re.compile(r"[A-Za-z0-9.:-]")
    escaped = "".join(
        letter if safe.fullmatch(letter) else f"_{letter.encode().hex()}_" for letter in identity
    )
    return f"x.{escaped}.x"


def identity_of(name: str) -> str:
    """The id that `device_name_for` made this name of."""
    if not name.startswith("x."):
        return name
    inner = name.removeprefix("x.").removesuffix(".x")
    return re.sub("_([0-9a-f]+)_", lambda found: bytes.fromhex(found[1]).decode(), inner)


def _part_problem(what: str, text: str, most: int) -> str:
    if len(text) < 2:
        return f"a {what} of fewer than two characters crashes current runtimes"
    if not _VENDOR.fullmatch(text):
        return f"a {what} is letters, digits, _ - . from a letter to a letter or digit"
    return f"a {what} has at most {most} characters" if len(text) > most else ""
