"""Writes to the API server that nobody waits for: tried until they succeed or are pointless."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from deviceplugin.apiserver.client import ApiError

BACKOFF_FIRST, BACKOFF_MOST = 0.5, 30.0


class Writer:
    """One write a key at a time; a newer one of the same key replaces one that still waits, and
    follows one that is under way, so that a slow server is never asked in vain.
    """

    def __init__(self) -> None:
        self._writes: dict[str, Callable[[], Awaitable[bool]]] = {}
        self._under_way: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._log = structlog.get_logger()

    def submit(self, key: str, write: Callable[[], Awaitable[bool]]) -> None:
        """Call `write` until it answers True: done, or not needed any more. It may raise
        `ApiError`, after which it is called again later.
        """
        self._writes[key] = write
        if key in self._under_way:
            return
        if waiting := self._tasks.get(key):
            waiting.cancel()
        task = asyncio.create_task(self._keep_trying(key), name=key)
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._forget(key, done))

    async def drain(self, seconds: float) -> bool:
        """Give what waits a last chance; False when something was left."""
        if not self._tasks:
            return True
        _, left = await asyncio.wait(list(self._tasks.values()), timeout=seconds)
        for task in left:
            task.cancel()
        return not left

    async def _keep_trying(self, key: str) -> None:
        delay = BACKOFF_FIRST
        while True:
            write = self._writes[key]
            self._under_way.add(key)
            try:
                if await write():
                    if self._writes[key] is write:
                        return
                    continue
                reason = "not yet possible"
            except ApiError as error:
                reason = str(error)
                delay = max(delay, min(error.retry_after or 0.0, BACKOFF_MOST))
            finally:
                self._under_way.discard(key)
            self._log.debug("a write waits", write=key, reason=reason)
            await asyncio.sleep(delay)
            delay = min(delay * 2, BACKOFF_MOST)

    def _forget(self, key: str, done: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is done:
            del self._tasks[key], self._writes[key]
        if not done.cancelled() and (error := done.exception()):
            self._log.error("a write failed", write=key, reason=repr(error))
