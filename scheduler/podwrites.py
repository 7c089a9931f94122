"""How decisions get onto pods and off them again.

Each write names the version of the pod that it is about, so that of two schedulers, or of two
requests of which the first is late, only one has an effect: a decision that is written, and one
that is voided, puts an end to every Binding that was sent before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from deviceplugin.api.hami.keys import VGPU_NODE
from deviceplugin.apiserver.client import MERGE_PATCH, ApiError, Path
from deviceplugin.scheduler.decisions import Decision
from deviceplugin.scheduler.fencing import WRITE_SECONDS, FencedApi
from deviceplugin.scheduler.surroundings import Surroundings

__all__ = ["VOIDED", "ChangedError", "PodWrites", "check_free", "results", "version_of"]

VOIDED = "scheduler.deviceplugin.dev/voided"
"""On pods: when a decision was taken off them, in nanoseconds. It makes sure that they change."""

SHORTEST_PAUSE = 0.1

Json = Mapping[str, Any]


class ChangedError(Exception):
    """The pod is not as it was when it was decided about; the text says in what."""


def results(item: Json, keys: frozenset[str]) -> dict[str, str]:
    """What a pod says that was decided, by anybody: its annotations of these `keys`."""
    told = (item.get("metadata") or {}).get("annotations") or {}
    return {key: str(told[key]) for key in keys & told.keys()}


class PodWrites:
    """Writes to pods by the one that leads. Instants are of the monotonic clock; every coroutine
    raises `ApiError` and `ChangedError`.
    """

    def __init__(
        self,
        api: FencedApi,
        keys: Callable[[], frozenset[str]],
        surroundings: Surroundings,
    ) -> None:
        """`keys` are the annotations that say what was decided."""
        self.api, self._keys = api, keys
        self._monotonic, self._wall_ns = surroundings.monotonic, surroundings.wall_ns

    async def read(self, namespace: str, name: str, uid: str) -> Json:
        """The pod as it is now, if it is still the same one."""
        try:
            found = await self.api.get(Path.pod(namespace, name))
        except ApiError as error:
            if error.is_missing:
                raise ChangedError(f"pod {namespace}/{name} is gone") from None
            raise
        if (found.get("metadata") or {}).get("uid") != uid:
            raise ChangedError(f"pod {namespace}/{name} was made anew meanwhile")
        return found

    async def write(
        self, decision: Decision, item: Json, same: Callable[[Json], bool], until: float
    ) -> None:
        """Write a decision on its pod, which was `item` when it was decided about. Where it is not
        any more, it has to ask for the `same`, and to be nobody's yet.
        """
        holding = decision.holding
        namespace, name, uid = holding.namespace, holding.name, holding.uid
        while True:
            stale = results(item, self._keys()).keys() - decision.annotations.keys()
            change = {
                "metadata": {
                    **_condition(item, uid),
                    "annotations": {**dict.fromkeys(stale), **decision.annotations},
                    "labels": {VGPU_NODE: holding.node},
                }
            }
            try:
                answer = await self._patch(namespace, name, change, until)
            except ApiError as error:
                if not error.is_conflict or self._monotonic() >= until:
                    raise
                version, item = version_of(item), await self.read(namespace, name, uid)
                check_free(item)
                if version_of(item) == version:  # it is not the version
                    raise
                if not same(item):
                    raise ChangedError(
                        f"pod {namespace}/{name} asks for something else than when it was decided "
                        "about"
                    ) from None
                continue
            decision.version = version_of(answer)
            decision.expected = results(answer, self._keys())
            return

    async def void(
        self, namespace: str, name: str, uid: str, until: float, item: Json | None = None
    ) -> str:
        """Take what was decided off a pod that is not bound: no Binding that was sent before has an
        effect from then on. Answers the node that it is bound to, empty where it is to none or is
        gone.
        """
        seen = ""
        while True:
            try:
                item = item or await self.read(namespace, name, uid)
            except ChangedError:
                return ""
            version = version_of(item)
            if node := (item.get("spec") or {}).get("nodeName"):
                return str(node)
            stale = dict.fromkeys(results(item, self._keys()))
            change = {
                "metadata": {
                    **_condition(item, uid),
                    "annotations": {**stale, VOIDED: str(self._wall_ns())},
                    "labels": {VGPU_NODE: None},
                }
            }
            try:
                await self._patch(namespace, name, change, until)
            except ApiError as error:
                if error.is_missing:
                    return ""
                if not error.is_conflict or self._monotonic() >= until or version == seen:
                    raise
                seen, item = version, None
                continue
            return ""

    async def bind(self, namespace: str, name: str, binding: Json, until: float) -> None:
        """Post a Binding."""
        path = replace(
            Path.pod(namespace, name),
            template="/api/v1/namespaces/{namespace}/pods/{name}/binding",
        )

        async def once(within: float) -> Json:
            return await self.api.create(path, binding, within)

        await self._insist(once, until)

    async def _patch(self, namespace: str, name: str, change: Json, until: float) -> Json:
        path = Path.pod(namespace, name)

        async def once(within: float) -> Json:
            return await self.api.patch(path, change, MERGE_PATCH, within)

        return await self._insist(once, until)

    async def _insist(self, once: Callable[[float], Awaitable[Json]], until: float) -> Json:
        """The answer to a request, which gets the seconds that it may take. One that the server has
        no time for is made again when the server says.
        """
        while True:
            try:
                return await once(min(WRITE_SECONDS, until - self._monotonic()))
            except ApiError as error:
                pause = max(error.retry_after or 0.0, SHORTEST_PAUSE)
                if not error.is_throttled or self._monotonic() + pause >= until:
                    raise
                await asyncio.sleep(pause)


def _condition(item: Json, uid: str) -> dict[str, str]:
    """The pod that a write is about, at the version that it was read at, where that is known."""
    version = version_of(item)
    return {"uid": uid, **({"resourceVersion": version} if version else {})}


def version_of(item: Json) -> str:
    """The version that a pod was read at, empty where it does not say."""
    return str((item.get("metadata") or {}).get("resourceVersion") or "")


def check_free(item: Json) -> None:
    """Raises `ChangedError` for a pod that is on a node already, or on its way out."""
    metadata, spec = item.get("metadata") or {}, item.get("spec") or {}
    pod = f"pod {metadata.get('namespace')}/{metadata.get('name')}"
    if node := spec.get("nodeName"):
        raise ChangedError(f"{pod} is on node {node} already")
    if metadata.get("deletionTimestamp"):
        raise ChangedError(f"{pod} is being deleted")
