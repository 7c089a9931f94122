"""A driver's shared library, bound by ctypes: found, opened, and called with its errors explained.

Only the probe loads it. Symbols are looked up one by one, because older drivers lack some; what is
missing fails when it is called, with the name of the call and of the file. Libraries are opened for
themselves (``RTLD_LOCAL``), since several vendors export NVIDIA's names.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from deviceplugin.vendor import DriverError

__all__ = ["DriverLibrary", "Function", "find_library", "text_of"]


@dataclass(frozen=True, slots=True)
class Function:
    """One call: argument types, and what it returns. A call that is `checked` returns a status,
    of which `DriverLibrary.success` is good.
    """

    arguments: Sequence[Any] = ()
    returns: Any = ctypes.c_int
    checked: bool = True


def _empty() -> Mapping[int, str]:
    return MappingProxyType({})


@dataclass(slots=True)
class DriverLibrary:
    """An open library. `meanings` says what a status means; `remedy` what to do when it fails."""

    path: str
    functions: Mapping[str, Function]
    meanings: Mapping[int, str] = field(default_factory=_empty)
    success: int = 0
    remedy: str = "look into the kernel's log and the driver's own tool for what ails the device"
    _calls: dict[str, Callable[..., Any]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        try:
            handle = ctypes.CDLL(self.path, mode=os.RTLD_LAZY | os.RTLD_LOCAL)
        except OSError as error:
            raise DriverError(
                f"{self.path} cannot be loaded: {error}; install the driver for this machine, and "
                "mount its directory into the agent's container"
            ) from None
        for name, function in self.functions.items():
            try:
                call = getattr(handle, name)
            except AttributeError:
                continue
            call.argtypes = list(function.arguments)
            call.restype = function.returns
            self._calls[name] = call

    def has(self, name: str) -> bool:
        """Whether this driver offers the call."""
        return name in self._calls

    def call(self, name: str, *arguments: Any) -> Any:
        """What the call returns. Raises `DriverError` for a bad status and a missing call."""
        if name not in self._calls:
            raise DriverError(
                f"{name} is not in {self.path}: the driver is older than what is needed; update it"
            )
        result = self._calls[name](*arguments)
        if self.functions[name].checked and result != self.success:
            meaning = self.meanings.get(result, "a status that is not documented")
            raise DriverError(f"{name} answers {result} ({meaning}); {self.remedy}")
        return result


def find_library(
    root: str, names: Iterable[str], directories: Iterable[str], presence: str = ""
) -> str:
    """The path of a driver's library: the first of `names` in LD_LIBRARY_PATH or in one of
    `directories` of the host, or one that the loader finds by itself.

    Raises `DriverError`, `absent` unless there is evidence of the driver on this node: a path of
    the host that `presence` names.
    """
    names = tuple(names)
    base = Path(root)
    places = [Path(part) for part in os.environ.get("LD_LIBRARY_PATH", "").split(":") if part]
    places += [base / directory.lstrip("/") for directory in directories]
    for name in names:
        for place in places:
            if (place / name).is_file():
                return str(place / name)
    for name in names:
        try:
            ctypes.CDLL(name, mode=os.RTLD_LAZY | os.RTLD_LOCAL)
        except OSError:
            continue
        return name
    searched = ", ".join(str(place) for place in places) or "the loader's directories"
    absent = not (presence and (base / presence.lstrip("/")).exists())
    raise DriverError(
        f"{' or '.join(names)} is not in {searched}; install the driver, or mount its directory "
        "into the agent's container",
        absent=absent,
    )


def text_of(value: bytes | ctypes.Array[ctypes.c_char]) -> str:
    """The text in a driver's buffer up to the first NUL; a byte that is no UTF-8 is shown as such,
    a control character as a space.
    """
    raw = value if isinstance(value, bytes) else bytes(value)
    shown = raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else " " for c in shown).strip()
