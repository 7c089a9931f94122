"""Keeps what the API server says of some objects: list, watch, and list again when that is needed.

One thread a collection reads the watch; the loop hears of it by callbacks. The last known objects
stay while the server is away, so whoever reads them is never left without an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog

from deviceplugin.apiserver.client import Api, ApiError, Path, Stream

T = TypeVar("T")

PAGE = 200
WATCH_SECONDS = 300
"""Asked of the server, plus up to as much again, so that the nodes of a cluster do not come back
all at once."""
SILENCE_SECONDS = 150.0
"""A server sends a bookmark a minute; after this long the connection is taken for dead."""
BACKOFF_FIRST, BACKOFF_MOST = 0.2, 30.0


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """`new` is None for an object that is gone; `old` is None for one that was not known."""

    key: str
    old: T | None
    new: T | None


class ExpiredError(Exception):
    """The server no longer knows the version that the watch should go on from."""


class Reflector(Generic[T]):
    """The objects of one collection by ``namespace/name``, projected by `project`.

    `project` is pure; None leaves an object out, `ValueError` as well but is told of.
    `changed` is called on the loop, once a change.
    """

    def __init__(
        self,
        api: Api,
        path: Path,
        project: Callable[[Mapping[str, Any]], T | None],
        changed: Callable[[Change[T]], None],
        field_selector: str = "",
    ) -> None:
        self._api, self._path, self._project, self._changed = api, path, project, changed
        self._selector = {"fieldSelector": field_selector} if field_selector else {}
        self.objects: dict[str, T] = {}
        self.changes = 0
        """Goes up with every change and every whole list."""
        self.moment = 0
        """Goes up with every event and every whole list: what came in one moment has no order."""
        self.synced = False
        """Whether a whole list has been seen since the start."""
        self.problem = ""
        """Why nothing new is heard now; empty while the watch is open."""
        self._heard = 0
        """Everything up to this version has been heard: by lists and events, in the order in which
        the server counts."""
        self._learned: dict[str, int] = {}
        """The versions of objects that were learned ahead of the watch."""
        self._stopping = threading.Event()
        self._relist = threading.Event()
        self._stream: Stream | None = None
        self._waiting: dict[asyncio.Future[None], Callable[[], bool]] = {}
        self._log = structlog.get_logger().bind(watch=str(path))

    async def run(self) -> None:
        """Follow the collection until cancelled. Raises what ends the following, so that whoever
        supervises this starts it again.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        # One event a run: a thread that is late to stop must not be taken for the next one.
        stopping = self._stopping = threading.Event()

        def end(error: Exception | None) -> None:
            if not ended.done():
                ended.set_exception(error or RuntimeError(f"the watch of {self._path} ended"))

        def follow() -> None:
            error: Exception | None = None
            try:
                self._follow(loop, stopping)
            except Exception as unforeseen:
                error = unforeseen
            self._call(loop, end, error)

        # A thread of its own: it waits for hours, which a thread of the shared pool must not.
        threading.Thread(target=follow, name=f"watch {self._path}", daemon=True).start()
        try:
            await ended
        finally:
            stopping.set()
            if self._stream is not None:
                self._stream.close()

    async def wait_for(self, found: Callable[[], bool], seconds: float) -> bool:
        """Wait until `found` holds, looked at after every change; False when it never did."""
        if found():
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = found
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            return found()
        finally:
            del self._waiting[waiter]
        return True

    async def news(self, seconds: float) -> None:
        """Wait for any change, at most so long."""
        before = self.changes
        await self.wait_for(lambda: self.changes != before, seconds)

    async def catch_up(self, seconds: float) -> None:
        """Wait until everything has been heard that had happened when this was called. Where the
        watch does not tell in `seconds`, the collection is listed anew, for which as much time is
        given again. Raises `ApiError`.
        """
        # Without a version a list is never older than the request for it; the watch may be.
        page = await self._api.get(self._path, {"limit": "1", **self._selector})
        version = _version(page)
        if not version.isdecimal():
            raise ApiError(f"LIST {self._path}: version {version!r:.40} is no number")

        def heard() -> bool:
            return self._heard >= int(version)

        if await self.wait_for(heard, seconds):
            return
        self._relist.set()
        if self._stream is not None:
            self._stream.close()
        if not await self.wait_for(heard, seconds):
            raise ApiError(f"WATCH {self._path}: it lags behind: {self.problem or 'no news'}")

    def _follow(self, loop: asyncio.AbstractEventLoop, stopping: threading.Event) -> None:
        delay, version = BACKOFF_FIRST, ""
        while not stopping.is_set():
            try:
                if self._relist.is_set():
                    self._relist.clear()
                    version = ""
                if not version:
                    version = self._list(loop)
                    delay = BACKOFF_FIRST
                before, version = version, self._watch(loop, version, stopping)
                delay = BACKOFF_FIRST
                if version == before:  # a server that ends every watch at once is not asked so fast
                    stopping.wait(BACKOFF_FIRST)
            except ExpiredError:
                version = ""
                stopping.wait(BACKOFF_FIRST)
            except ApiError as error:
                if error.status == 410:
                    version = ""
                    stopping.wait(BACKOFF_FIRST)
                    continue
                if stopping.is_set():
                    return
                if self._relist.is_set():  # it was broken off for that
                    continue
                wait = max(delay, min(error.retry_after or 0.0, BACKOFF_MOST))
                self._call(loop, self._lost, str(error))
                stopping.wait(wait * random.uniform(0.8, 1.2))  # noqa: S311
                delay = min(delay * 2, BACKOFF_MOST)

    def _list(self, loop: asyncio.AbstractEventLoop) -> str:
        """Take the whole collection in; answers its version. Raises `ApiError`."""
        found: dict[str, T] = {}
        query = {"limit": str(PAGE), **self._selector}
        while True:
            page = self._api.call("GET", self._path, query=query)
            metadata = page.get("metadata") or {}
            for item in page.get("items") or ():
                if (projected := self._projected(item)) is not None:
                    found[_key(item)] = projected
            if not metadata.get("continue"):
                break
            query["continue"] = metadata["continue"]
        version = str(metadata.get("resourceVersion", ""))
        self._call(loop, self._replace, found, version)
        return version

    def _watch(
        self, loop: asyncio.AbstractEventLoop, version: str, stopping: threading.Event
    ) -> str:
        """Follow the changes after `version` until the server ends the watch; answers the last
        version seen. Raises `ApiError` and `ExpiredError`.
        """
        seconds = WATCH_SECONDS + random.randrange(WATCH_SECONDS)  # noqa: S311
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
            **self._selector,
        }
        self._stream = self._api.stream(self._path, query, SILENCE_SECONDS)
        self._call(loop, self._found)
        last = version
        try:
            for line in self._stream:
                if stopping.is_set() or self._relist.is_set():
                    return last
                last = self._take(loop, line) or last
        except ApiError:
            # The watch broke, the version is still good: go on from it without listing again.
            if last == version:
                raise
        finally:
            self._stream = None
        return last

    def _take(self, loop: asyncio.AbstractEventLoop, line: bytes) -> str:
        """One event of a watch; answers its version. Raises `ExpiredError` and `ApiError`."""
        try:
            event = json.loads(line)
            kind, item = event["type"], event["object"]
            version = _version(item)
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            raise ApiError(f"WATCH {self._path}: not an event: {line[:200]!r}") from None
        if kind == "ERROR":
            if item.get("code") == 410:
                raise ExpiredError
            raise ApiError(f"WATCH {self._path}: {item.get('message')}", int(item.get("code") or 0))
        if kind in ("ADDED", "MODIFIED"):
            self._call(loop, self._hear, _key(item), version, self._projected(item))
        elif kind == "DELETED":
            self._call(loop, self._hear, _key(item), version, None)
        else:
            self._call(loop, self._reach, version)
        return version

    def _projected(self, item: Mapping[str, Any]) -> T | None:
        try:
            return self._project(item)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            self._log.warning("object left out", object=_key(item), reason=str(error))
            return None

    def _call(
        self, loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any
    ) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed under a thread that was late
            loop.call_soon_threadsafe(function, *args)

    # --- on the loop ---

    def learn(self, item: Mapping[str, Any]) -> None:
        """Take in an object that a write was answered with, ahead of the watch. What is older and
        still under way does not undo it; nor does it undo what the watch told before the answer was
        read.
        """
        key, version = _key(item), _version(item)
        if key not in self.objects:
            return
        if version.isdecimal():
            if int(version) <= self._heard:
                return
            self._learned[key] = int(version)
        self._set(key, self._projected(item))

    def _replace(self, found: dict[str, T], version: str) -> None:
        self.moment += 1
        # A server that was restored from a backup counts anew.
        self._learned.clear()
        self._heard = int(version) if version.isdecimal() else 0
        for key in self.objects.keys() - found.keys():
            self._set(key, None)
        for key, item in found.items():
            if self.objects.get(key) != item:
                self._set(key, item)
        self.synced = True
        self._tell()

    def _hear(self, key: str, version: str, new: T | None) -> None:
        self._reach(version)
        learned = self._learned.get(key)
        if learned is not None and version.isdecimal():
            if int(version) < learned:
                return
            del self._learned[key]
        self.moment += 1
        self._set(key, new)

    def _reach(self, version: str) -> None:
        if version.isdecimal():
            self._heard = max(self._heard, int(version))
        self._wake()

    def _set(self, key: str, new: T | None) -> None:
        old = self.objects.get(key)
        if new is None:
            self.objects.pop(key, None)
        else:
            self.objects[key] = new
        if (old, new) != (None, None):
            try:
                self._changed(Change(key, old, new))
            except Exception:
                self._log.exception("a change was not taken in", object=key)
        self._tell()

    def _found(self) -> None:
        if self.problem:
            self._log.info("the API server is back")
        self.problem = ""

    def _lost(self, reason: str) -> None:
        if not self.problem:
            self._log.warning("the API server is away, the last known state stays", reason=reason)
        self.problem = reason

    def _tell(self) -> None:
        self.changes += 1
        self._wake()

    def _wake(self) -> None:
        for waiter, found in self._waiting.items():
            if not waiter.done() and found():
                waiter.set_result(None)


def _version(item: Mapping[str, Any]) -> str:
    return str((item.get("metadata") or {}).get("resourceVersion", ""))


def _key(item: Mapping[str, Any]) -> str:
    metadata = item.get("metadata") or {}
    return f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"
