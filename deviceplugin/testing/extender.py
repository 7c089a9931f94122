"""The real scheduler beside a cluster in one process, asked as kube-scheduler asks it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deviceplugin.apiserver.client import Api, Path
from deviceplugin.scheduler.leadership import Alone
from deviceplugin.scheduler.run import Scheduler
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.vendor.scheduling import SchedulingBackend

__all__ = ["Extender", "NotPlacedError", "extender"]


class NotPlacedError(Exception):
    """No node was found, or the pod was not bound to it; the text says why."""


@dataclass(frozen=True, slots=True)
class Extender:
    """A running scheduler that leads."""

    api: Api
    scheduler: Scheduler

    async def place(self, namespace: str, name: str, nodes: Sequence[str]) -> str:
        """Filter and bind a stored pod; answers its node. Raises `NotPlacedError`."""
        node = await self.filter(namespace, name, nodes)
        await self.bind(namespace, name, node)
        return node

    async def filter(self, namespace: str, name: str, nodes: Sequence[str]) -> str:
        """The node that a stored pod is placed on. Raises `NotPlacedError`."""
        pod = await self.api.get(Path.pod(namespace, name))
        body = {"Pod": pod, "Nodes": None, "NodeNames": list(nodes)}
        answer = json.loads(await self.scheduler.service.filter(json.dumps(body).encode()))
        if not answer["NodeNames"]:
            raise NotPlacedError(answer["Error"] or json.dumps(answer["FailedNodes"]))
        return str(answer["NodeNames"][0])

    async def bind(self, namespace: str, name: str, node: str) -> None:
        """Bind a pod that was placed. Raises `NotPlacedError`."""
        pod: Mapping[str, Any] = await self.api.get(Path.pod(namespace, name))
        body = {
            "PodNamespace": namespace,
            "PodName": name,
            "PodUID": pod["metadata"]["uid"],
            "Node": node,
        }
        answer = json.loads(await self.scheduler.service.bind(json.dumps(body).encode()))
        if answer["Error"]:
            raise NotPlacedError(answer["Error"])


@contextlib.asynccontextmanager
async def extender(
    api: Api, backends: Iterable[SchedulingBackend], settings: SchedulerSettings | None = None
) -> AsyncIterator[Extender]:
    """A scheduler that has seen the cluster."""
    made = Scheduler(settings or SchedulerSettings(), backends, api, Alone())
    task = asyncio.create_task(made.run())
    try:
        async with asyncio.timeout(10):
            while not made.watching.synced:  # noqa: ASYNC110 - nothing tells when it is
                await asyncio.sleep(0.01)
        yield Extender(api, made)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
