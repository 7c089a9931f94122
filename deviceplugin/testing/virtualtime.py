"""An event loop whose time is a test's: it stands still until somebody lets it pass, and passes at
once, so that what waits for minutes is tried in no time and comes out the same on every machine.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

__all__ = ["VirtualLoop"]


class _Instant(selectors.SelectSelector):
    """Waits for nothing: where the loop would sleep, its time goes on."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is due on this loop, now or ever: it would wait for ever")
        self.loop.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """No threads and no sockets: what runs here has to be told of everything else."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds, as `time` answers."""
        selector = _Instant()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """The loop's clock, which is monotonic."""
        return self.now

    def settle(self) -> None:
        """Run what can run without time going by."""
        self.run_until_complete(self._quiet())

    def pass_time(self, seconds: float) -> None:
        """Let time go by, with all that is due meanwhile."""
        self.run_until_complete(asyncio.sleep(seconds))
        self.settle()

    async def _quiet(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        while True:
            await asyncio.sleep(0)
            if not ready:
                return
