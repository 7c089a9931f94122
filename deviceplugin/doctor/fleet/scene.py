"""What the checks of a cluster are told: the cluster rebuilt, and whom else to ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from deviceplugin.apiserver.client import Api, ApiError, Path
from deviceplugin.doctor.model import NotCheckedError
from deviceplugin.explain.capture import listed
from deviceplugin.explain.world import World

__all__ = [
    "ApiAsking",
    "Asking",
    "FleetScene",
    "Json",
    "collection",
    "in_namespace",
]

Json = Mapping[str, Any]

CAPTURED = "a captured cluster does not tell; ask the cluster itself"


class Asking(Protocol):
    """What else the API server is asked. Every method raises `NotCheckedError` when there is no
    answer.
    """

    def some(self, path: Path, **query: str) -> tuple[Json, ...]:
        """The objects of a collection; none where the server knows no such objects."""

    def one(self, path: Path) -> Json | None:
        """One object; None when there is none."""

    def tried(self, path: Path, body: Json) -> Json:
        """What would be stored if this were created; nothing is. Raises `ApiError` when it is
        refused.
        """

    def text(self, path: Path) -> str:
        """Why what is behind a path is not well; empty where it is. Raises `NotCheckedError`."""


@dataclass(frozen=True, slots=True)
class ApiAsking:
    """Asks an API server."""

    api: Api

    def some(self, path: Path, **query: str) -> tuple[Json, ...]:
        """As many requests as there are pages."""
        try:
            return tuple(listed(self.api, path, **query))
        except ApiError as error:
            if error.is_missing:
                return ()
            raise NotCheckedError(str(error)) from None

    def one(self, path: Path) -> Json | None:
        """One request."""
        try:
            return self.api.call("GET", path)
        except ApiError as error:
            if error.is_missing:
                return None
            raise NotCheckedError(str(error)) from None

    def tried(self, path: Path, body: Json) -> Json:
        """A dry run: webhooks are asked and nothing is stored."""
        query = {"dryRun": "All"}
        return self.api.call("POST", path, dict(body), "application/json", query)

    def text(self, path: Path) -> str:
        """Through the API server's proxy. An answer of any other than JSON is an answer."""
        try:
            self.api.call("GET", path)
        except ApiError as error:
            if error.status in (0, 403, 404) and "not JSON" not in str(error):
                raise NotCheckedError(str(error)) from None
            return "" if "not JSON" in str(error) else str(error)
        return ""


@dataclass(frozen=True, slots=True)
class FleetScene:
    """`asking` is None for a captured cluster; `now` has a zone."""

    world: World
    now: datetime
    asking: Asking | None = None

    def api(self) -> Asking:
        """Whom to ask. Raises `NotCheckedError`."""
        if self.asking is None:
            raise NotCheckedError(CAPTURED)
        return self.asking


def collection(group: str, plural: str, version: str = "v1") -> Path:
    """The objects of one sort in the whole cluster."""
    prefix = f"/apis/{group}/{version}" if group else f"/api/{version}"
    return Path(f"{prefix}/{plural}", {})


def in_namespace(namespace: str, plural: str, name: str = "", group: str = "") -> Path:
    """Objects of one sort in a namespace, or the one of a name."""
    prefix = f"/apis/{group}/v1" if group else "/api/v1"
    template = f"{prefix}/namespaces/{{namespace}}/{plural}"
    names = {"namespace": namespace}
    if name:
        return Path(f"{template}/{{name}}", {**names, "name": name})
    return Path(template, names)
