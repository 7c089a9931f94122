"""Captures a cluster from its API server. Blocking, reads only."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from deviceplugin.apiserver.client import NODES, PODS, QUOTAS, Api, ApiError, Path
from deviceplugin.explain.snapshot import Shapes, Snapshot, selected_labels
from deviceplugin.placement.fit import Backends
from deviceplugin.version import __version__

__all__ = ["capture", "listed"]

PAGE = 500
SERVER_VERSION = Path("/version", {})


def capture(
    api: Api,
    backends: Backends,
    labels: frozenset[str] = frozenset(),
    config: str = "",
    now: datetime | None = None,
) -> Snapshot:
    """The cluster as it is, an object at a time reduced to what decisions go by. `labels` of nodes
    are kept beside those that pods select by. Raises `ApiError`.
    """
    shapes = Shapes(backends)
    pods = tuple(shapes.pod(item) for item in listed(api, PODS))
    selected = labels | selected_labels(pods)
    return Snapshot(
        nodes=tuple(shapes.node(item, selected) for item in listed(api, NODES)),
        pods=pods,
        quotas=tuple(
            quota for item in listed(api, QUOTAS) if (quota := shapes.quota(item)) is not None
        ),
        taken_at=(now or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        kubernetes=_version(api),
        config=config,
        program=f"deviceplugin {__version__}",
    )


def listed(api: Api, path: Path, **query: str) -> Iterator[dict[str, Any]]:
    """The objects of a collection, page after page. Raises `ApiError`."""
    asked = {"limit": str(PAGE), **query}
    while True:
        page = api.call("GET", path, query=asked)
        yield from (item for item in page.get("items") or () if isinstance(item, dict))
        token = (page.get("metadata") or {}).get("continue")
        if not token:
            return
        asked["continue"] = str(token)


def _version(api: Api) -> str:
    """What the server is; nothing depends on it but what is said of preemption."""
    try:
        return str(api.call("GET", SERVER_VERSION).get("gitVersion") or "")
    except ApiError:
        return ""
