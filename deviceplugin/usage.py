"""How busy one vendor's devices are, for as long as that can be believed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from deviceplugin.vendor import Usage

_NOTHING: Mapping[str, Usage] = MappingProxyType({})


class Usages:
    """The newest reading, by uuid. One that is older than `lasting` seconds is forgotten, and
    `failed` is told why there is none. All but `newest` belong to the event loop.
    """

    def __init__(self, lasting: float, failed: Callable[[str], None]) -> None:
        self._lasting, self._failed = lasting, failed
        self._deadline: asyncio.TimerHandle | None = None
        self.newest = _NOTHING
        """Empty where nothing is known. From any thread: it is replaced whole."""

    def expect(self) -> None:
        """There should be a reading soon; it is late once the former would be forgotten."""
        if self._deadline is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(self._lasting, self._late)

    def seen(self, usages: Iterable[Usage]) -> None:
        """A reading; devices that it leaves out are unknown."""
        self._rest()
        self.newest = MappingProxyType({usage.uuid: usage for usage in usages})
        self.expect()

    def unknown(self, reason: str) -> None:
        """There is no reading this time."""
        self.forget()
        self.expect()
        self._failed(reason)

    def forget(self) -> None:
        """Nothing is known, and nobody waits."""
        self.newest = _NOTHING
        self._rest()

    def _rest(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self.forget()
        self._failed(f"no reading for {self._lasting:g} s")
