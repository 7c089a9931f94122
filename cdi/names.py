"""Qualified device names ``vendor/class=name`` and their parts (cdi.md 1.3).

A vendor or class of one character is refused although the rules allow it: the parser in current
runtimes panics on it, and takes the runtime with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from deviceplugin.cdi.errors import CDIError, error

MAX_VENDOR, MAX_LABEL = 253, 63
_PART = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9]")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")
_NEEDS_ESCAPE = re.compile(r"[^A-Za-z0-9.:-]")
_ESCAPED = re.compile(r"_([0-9a-f]+)_")
_START, _END = "x.", ".x"


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


def kind_problem(kind: str) -> str:
    """Why this is no ``vendor/class``; empty when it is one."""
    vendor, slash, cls = kind.partition("/")
    if not slash or "/" in cls:
        return "a kind is vendor/class"
    return _part_problem("vendor", vendor) or _part_problem("class", cls)


def length_problem(vendor: str, *labels: str) -> str:
    """Why a writer should not use these: the specification's limits, which no reader enforces."""
    if len(vendor) > MAX_VENDOR:
        return f"a vendor has at most {MAX_VENDOR} characters"
    if any(len(label) > MAX_LABEL for label in (*vendor.split("."), *labels)):
        return f"a name and each label of a vendor have at most {MAX_LABEL} characters"
    return ""


def device_name_problem(name: str) -> str:
    """Why this is no device name; empty when it is one."""
    if _NAME.fullmatch(name):
        return ""
    return "a device name is letters, digits, _ - . : with a letter or digit at both ends"


def parse_qualified_name(text: str) -> QualifiedName:
    """The parts of ``vendor/class=name``. Raises `CDIError`."""
    kind, equals, name = text.partition("=")
    if not equals:
        raise error("a device is named vendor/class=name", text)
    if rule := kind_problem(kind) or device_name_problem(name):
        raise error(rule, text)
    vendor, _, cls = kind.partition("/")
    return QualifiedName(vendor, cls, name)


def qualified_name(kind: str, name: str) -> str:
    """``kind=name``. Raises `CDIError` when that is no qualified name."""
    return str(parse_qualified_name(f"{kind}={name}"))


def is_qualified_name(text: str) -> bool:
    """Whether `parse_qualified_name` takes it."""
    try:
        parse_qualified_name(text)
    except CDIError:
        return False
    return True


def device_name_for(identity: str) -> str:
    """A legal device name for any id, empty ones too; `identity_of` gives the id back.

    A legal id that does not look escaped is its own name. Otherwise it is ``x.``, the id with the
    UTF-8 bytes of every other character in hexadecimal between ``_``, and ``.x``.
    """
    if not device_name_problem(identity) and not identity.startswith(_START):
        return identity
    escaped = _NEEDS_ESCAPE.sub(lambda found: f"_{_bytes(found[0]).hex()}_", identity)
    return f"{_START}{escaped}{_END}"


def identity_of(name: str) -> str:
    """The id that `device_name_for` made this name of. Raises `CDIError` for one it never makes."""
    if not name.startswith(_START):
        return name
    inner = name.removeprefix(_START).removesuffix(_END)
    try:
        identity = _ESCAPED.sub(lambda found: _text(bytes.fromhex(found[1])), inner)
    except ValueError:
        identity = None
    if identity is None or device_name_for(identity) != name:
        raise error("no id has this device name", name)
    return identity


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _text(data: bytes) -> str:
    return data.decode(errors="surrogatepass")


def _part_problem(what: str, text: str) -> str:
    if len(text) == 1:
        return f"a {what} of one character crashes current runtimes"
    if not _PART.fullmatch(text):
        return f"a {what} is letters, digits, _ - . from a letter to a letter or digit"
    return ""
