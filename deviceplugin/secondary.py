"""The amounts beside a resource that kubelet is to count: what all its devices have together.

A scheduler divides memory and cores; kubelet knows neither unless somebody registers them. Only
healthy devices count (ascend-and-mock.md B.7). What kubelet then accounts is less than what a
scheduler does, per container and not per card (B.8): it is for sight and quotas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from deviceplugin.kubelet.counted import CountedResource, NothingToHandOver
from deviceplugin.kubelet.server import ResourceServer
from deviceplugin.vendor import NodeDevice
from deviceplugin.vendor.scheduling import Resources

__all__ = ["Secondary", "amounts"]

PERCENT = 100


def amounts(devices: Iterable[NodeDevice], resources: Resources) -> dict[str, int]:
    """Units of each resource that belongs to the count, on these devices. Pure."""
    healthy = [device for device in devices if device.healthy]
    unit = max(resources.memory_unit_mib, 1)
    found = {
        resources.memory: sum(device.memory for device in healthy) // unit,
        resources.cores: sum(device.cores for device in healthy),
        resources.memory_percent: PERCENT * len(healthy),
    }
    return {name: units for name, units in found.items() if name}


@dataclass(slots=True)
class _Served:
    resource: CountedResource
    task: asyncio.Task[None]


class Secondary:
    """Serves counted resources; `server` makes the server of one."""

    def __init__(
        self, server: Callable[[CountedResource, NothingToHandOver], ResourceServer]
    ) -> None:
        self._server = server
        self._served: dict[str, _Served] = {}
        self._servers: dict[str, ResourceServer] = {}

    def show(self, wanted: Mapping[str, int]) -> None:
        """Exactly these resources, with so many units each."""
        for name in self._served.keys() - wanted.keys():
            self._end(name)
        for name, units in wanted.items():
            if (served := self._served.get(name)) is not None:
                served.resource.count(units)
                continue
            resource = CountedResource(name, units)
            server = self._server(resource, NothingToHandOver())
            self._servers[name] = server
            task = asyncio.create_task(server.run(), name=name)
            self._served[name] = _Served(resource, task)

    def directory_changed(self) -> None:
        """Something happened in kubelet's directory: let every server look."""
        for server in self._servers.values():
            server.changed.set()

    async def close(self) -> None:
        """End all servers."""
        tasks = [served.task for served in self._served.values()]
        for name in list(self._served):
            self._end(name)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, name: str) -> None:
        self._served.pop(name).task.cancel()
        del self._servers[name]
