"""Whoever leads says so in a label of its pod, so that a Service reaches nobody else.

For replicas behind a Service, of which kube-scheduler sees one address: a follower could only
refuse what it is asked. Who begins to lead takes the label off the others first: one that died, or
that cannot reach the API server, does not do it itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

import structlog

from deviceplugin.apiserver.client import MERGE_PATCH, Api, ApiError, Path
from deviceplugin.scheduler.fencing import FencedApi
from deviceplugin.scheduler.leadership import Leading

__all__ = ["FOLLOWER", "LEADER", "ROLE", "RoleLabel"]

ROLE, LEADER, FOLLOWER = "scheduler.deviceplugin.dev/role", "leader", "follower"
PODS_OF = "/api/v1/namespaces/{namespace}/pods"

LOOK_SECONDS = 0.5


class RoleLabel:
    """The label of one replica's pod."""

    def __init__(
        self,
        api: Api,
        leading: Leading,
        namespace: str,
        pod: str,
        look: float = LOOK_SECONDS,
    ) -> None:
        self._api, self._fenced, self._leading = api, FencedApi(api, leading), leading
        self._namespace, self._pod, self._look = namespace, pod, look
        self._log = structlog.get_logger().bind(pod=f"{namespace}/{pod}")

    async def run(self) -> None:
        """Keep it true until cancelled."""
        said: Hashable = None
        problem = ""
        while True:
            leads = self._leading.is_leader()
            # Who led in between has taken the label off.
            role = (LEADER, self._leading.term) if leads else (FOLLOWER,)
            if role != said:
                try:
                    await (self._lead() if leads else self._follow())
                    said, problem = role, ""
                except ApiError as error:
                    if not problem:
                        self._log.warning("the pod does not say its role", reason=str(error))
                    problem = str(error)
            await asyncio.sleep(self._look)

    async def _lead(self) -> None:
        """Raises `ApiError`."""
        path = Path(PODS_OF, {"namespace": self._namespace})
        found = await self._fenced.get(path, {"labelSelector": f"{ROLE}={LEADER}"})
        for item in found.get("items") or ():
            name = str((item.get("metadata") or {}).get("name"))
            if name != self._pod:
                await self._fenced.patch(self._path(name), _labelled(FOLLOWER), MERGE_PATCH)
        await self._fenced.patch(self._path(self._pod), _labelled(LEADER), MERGE_PATCH)

    async def _follow(self) -> None:
        """Raises `ApiError`."""
        await self._api.patch(self._path(self._pod), _labelled(FOLLOWER), MERGE_PATCH)

    def _path(self, name: str) -> Path:
        return Path.pod(self._namespace, name)


def _labelled(role: str) -> dict[str, object]:
    return {"metadata": {"labels": {ROLE: role}}}
