"""What only the replica that leads may write: no such request outlives its leadership.

Another begins to lead at the earliest when this one's time is over by its own clock
(`leadership`). So a write is sent with what is left of that time: not sent once it is over, not
waited for beyond it, and given up by the API server, which is told (``?timeout=`` of the request,
counted from when it was received). A request that the network holds back for longer is met by
conditions: decisions and Bindings name the version of the pod that they are about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deviceplugin.apiserver.client import Api, ApiError, Path
from deviceplugin.scheduler.leadership import Leading

__all__ = ["FencedApi"]

WRITE_SECONDS = 10.0
"""What a request is given where nothing else bounds it."""


@dataclass(frozen=True, slots=True)
class FencedApi:
    """The API server, as a leader may use it. Every coroutine raises `ApiError` and nothing else;
    a write that is refused because this replica does not lead was surely not sent.
    """

    api: Api
    leading: Leading

    async def get(
        self, path: Path, query: Mapping[str, str] | None = None, within: float = WRITE_SECONDS
    ) -> dict[str, Any]:
        """One object, or one page of a collection, in at most `within` seconds; anybody may ask."""
        return await self.api.get(path, query, within)

    async def patch(
        self, path: Path, body: object, content_type: str, within: float = WRITE_SECONDS
    ) -> dict[str, Any]:
        """Change an object, in at most `within` seconds."""
        return await self.api.patch(path, body, content_type, self._within(within))

    async def create(
        self, path: Path, body: object, within: float = WRITE_SECONDS
    ) -> dict[str, Any]:
        """Create an object in a collection, in at most `within` seconds."""
        return await self.api.create(path, body, self._within(within))

    def _within(self, seconds: float) -> float:
        left = self.leading.left()
        if left <= 0:
            raise ApiError(f"this replica no longer leads: {self.leading.holder} does", sent=False)
        return min(seconds, left)
