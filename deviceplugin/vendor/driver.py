"""A driver's shared library, bound by ctypes: found, opened, and called with its errors explained.

Only the probe loads it. Symbols are looked up one by one, because older drivers lack some; what is
missing fails when it is called, with the name of the call and of the file. Libraries are opened for
themselves (``RTLD_LOCAL``), since several vendors export NVIDIA's names.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeVar

from deviceplugin.vendor import DriverError
from deviceplugin.vendor.sysfs import on_host

__all__ = ["NVML_MEANINGS", "DriverLibrary", "Function", "find_library", "text_of"]

Buffer = TypeVar("Buffer", bound=ctypes.Structure)

NVML_MEANINGS = MappingProxyType(
    {
        1: "not initialised",
        2: "invalid argument",
        3: "not supported",
        4: "no permission",
        6: "not found",
        9: "the driver is not loaded",
        13: "a symbol is missing",
        15: "the card is lost",
        999: "unknown",
    }
)
"""NVIDIA's statuses, which libraries that copy its interface have too."""


@dataclass(frozen=True, slots=True)
class Function:
    """One call: argument types, and what it returns. A call that is `checked` returns a status,
    of which `DriverLibrary.success` is good.
    """

    arguments: Sequence[Any] = ()
    returns: Any = ctypes.c_int
    checked: bool = True


class DriverLibrary:
    """A vendor's library. A subclass says how it is found and used, and has a
    method for each call, in terms of the ones below.
    """

    names: ClassVar[Sequence[str]]
    """File names, the preferred first."""
    directories: ClassVar[Sequence[str]]
    """Where the host may have it."""
    presence: ClassVar[str] = ""
    """A path of the host that is there when the driver is."""
    functions: ClassVar[Mapping[str, Function]]
    starts: ClassVar[Sequence[Any]]
    """The call that comes first, with its arguments."""
    ends: ClassVar[str] = ""
    """The call that comes last, by which the driver gets back what it holds."""
    success: ClassVar[int] = 0
    meanings: ClassVar[Mapping[int, str]] = MappingProxyType({})
    """What statuses mean."""
    remedy: ClassVar[str] = (
        "look into the kernel's log and the driver's own tool for what ails the device"
    )
    """What to do when a call fails."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._calls: dict[str, Callable[..., Any]] = {}
        try:
            handle = ctypes.CDLL(path, mode=os.RTLD_LAZY | os.RTLD_LOCAL)
        except OSError as error:
            raise DriverError(
                f"{path} cannot be loaded: {error}; install the driver for this machine, and "
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

    def start(self) -> None:
        """The first call. Raises `DriverError`."""
        self.call(*self.starts)

    @classmethod
    def opened(cls, root: str) -> Self:
        """The library of the host below `root`, started. Raises `DriverError`."""
        library = cls(find_library(root, cls.names, cls.directories, cls.presence))
        library.start()
        return library

    @classmethod
    @contextlib.contextmanager
    def session(cls, root: str) -> Iterator[Self]:
        """The same, for as long as it takes."""
        library = cls.opened(root)
        try:
            yield library
        finally:
            if library.has(cls.ends):
                library.call(cls.ends)

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

    def value(self, name: str, kind: Callable[[], Any], *arguments: Any) -> Any:
        """The number of `kind` that the call writes behind its arguments. Raises `DriverError`."""
        found = kind()
        self.call(name, *arguments, ctypes.byref(found))
        return found.value

    def filled(self, name: str, kind: Callable[[], Buffer], *arguments: Any) -> Buffer:
        """The structure that the call fills behind its arguments. Raises `DriverError`."""
        found = kind()
        self.call(name, *arguments, ctypes.byref(found))
        return found

    def handle(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """The handle that the call writes behind its arguments. Raises `DriverError`."""
        found = ctypes.c_void_p()
        self.call(name, *arguments, ctypes.byref(found))
        return found

    def text(self, name: str, size: int, *arguments: Any) -> str:
        """The text that the call writes into a buffer of so many bytes, the last two of its
        arguments. Raises `DriverError`.
        """
        buffer = ctypes.create_string_buffer(size)
        self.call(name, *arguments, buffer, size)
        return text_of(buffer)


def find_library(
    root: str, names: Iterable[str], directories: Iterable[str], presence: str = ""
) -> str:
    """The path of a driver's library: the first of `names` in LD_LIBRARY_PATH or in one of
    `directories` of the host, or one that the loader finds by itself.

    Raises `DriverError`, `absent` unless there is evidence of the driver on this node: a path of
    the host that `presence` names.
    """
    names = tuple(names)
    places = [Path(part) for part in os.environ.get("LD_LIBRARY_PATH", "").split(":") if part]
    places += [on_host(root, directory) for directory in directories]
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
    absent = not (presence and on_host(root, presence).exists())
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
