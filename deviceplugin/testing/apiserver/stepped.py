"""A client of the fake API server without HTTP, whose requests wait until a test answers them: in
any order, with any outcome, and with whatever happens between question and answer.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deviceplugin.apiserver.client import Api, ApiError, Path
from deviceplugin.testing.apiserver.requests import Requests, target_of
from deviceplugin.testing.apiserver.server import ApiServer
from deviceplugin.testing.apiserver.status import StatusError

__all__ = ["Outcome", "Request", "SteppedApi"]


class Outcome(enum.Enum):
    """What becomes of a request."""

    ANSWERED = "answered"
    """As the server answers it."""
    REFUSED = "refused"
    """With an internal error; nothing was done."""
    LOST = "lost"
    """Never reached the server; there is no answer."""
    LATE = "late"
    """Has not reached the server yet; nobody waits for the answer any more."""
    UNHEARD = "unheard"
    """Was done, and the answer was lost."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A request that waits for its answer."""

    verb: str
    path: str
    body: Any
    content_type: str
    query: Mapping[str, str]
    result: asyncio.Future[dict[str, Any]]
    _server: ApiServer
    _adrift: list[Request]

    def answer(self, outcome: Outcome = Outcome.ANSWERED) -> None:
        """Let it happen, or not, and say so, or not."""
        answered: dict[str, Any] | ApiError = ApiError(f"{self.verb} {self.path}: no answer")
        if outcome is Outcome.REFUSED:
            answered = ApiError(f"{self.verb} {self.path}: 500", 500, "InternalError")
        elif outcome is Outcome.LATE:
            self._adrift.append(self)
        elif outcome is not Outcome.LOST:
            result = self._result()
            answered = result if outcome is Outcome.ANSWERED else answered
        if self.result.done():
            return
        if isinstance(answered, ApiError):
            self.result.set_exception(answered)
        else:
            self.result.set_result(answered)

    def _result(self) -> dict[str, Any] | ApiError:
        server = self._server
        requests = Requests(server.store, server.faults, self.content_type, "test")
        try:
            return requests.serve(self.verb, target_of(self.path), self.query, self.body)[1]
        except StatusError as error:
            text = f"{self.verb} {self.path}: {error.code} {error.reason} {error}"
            return ApiError(text, error.code, error.reason)


@dataclass(slots=True)
class SteppedApi(Api):
    """Its requests stand in `waiting`, the oldest first; those for which nobody waits any more, and
    which may still reach the server, in `adrift`.
    """

    server: ApiServer
    waiting: list[Request] = field(default_factory=list)
    adrift: list[Request] = field(default_factory=list)
    calls: int = 0

    async def get(
        self, path: Path, query: Mapping[str, str] | None = None, within: float | None = None
    ) -> dict[str, Any]:
        """One object, or a collection."""
        verb = "get" if target_of(str(path)).name else "list"
        return await self._asked(verb, path, None, "", within, query)

    async def patch(
        self, path: Path, body: object, content_type: str, within: float | None = None
    ) -> dict[str, Any]:
        """Change an object."""
        return await self._asked("patch", path, body, content_type, within)

    async def create(self, path: Path, body: object, within: float | None = None) -> dict[str, Any]:
        """Create an object."""
        return await self._asked("create", path, body, "application/json", within)

    async def _asked(
        self,
        verb: str,
        path: Path,
        body: Any,
        kind: str,
        within: float | None = None,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        self.calls += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        request = Request(
            verb, str(path), body, kind, query or {}, answer, self.server, self.adrift
        )
        self.waiting.append(request)
        try:
            async with asyncio.timeout(within):
                return await request.result
        except TimeoutError:
            self.adrift.append(request)
            raise ApiError(f"{verb} {path}: no answer in {within} s") from None
        except asyncio.CancelledError:
            self.adrift.append(request)
            raise
        finally:
            self.waiting.remove(request)
