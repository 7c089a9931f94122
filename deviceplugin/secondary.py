"""The amounts beside a resource that kubelet is to count: what all its devices have together.

A scheduler divides memory and cores; kubelet knows neither unless somebody registers them. Only
healthy devices count (ascend-and-mock.md B.7). What kubelet then accounts is less than what a
scheduler does, per container and not per card (B.8): it is for sight and quotas.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from deviceplugin.kubelet.counted import CountedResource, NothingToHandOver
from deviceplugin.kubelet.server import ResourceServer
from deviceplugin.vendor import NodeDevice, ResourcePlan
from deviceplugin.vendor.scheduling import Resources, SchedulingBackend

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
    server: ResourceServer
    task: asyncio.Task[None]


class Secondary:
    """Serves the counted resources of a vendor; `server` makes the server of one, `backends` tells
    the vendor's names and units.
    """

    def __init__(
        self,
        server: Callable[[CountedResource, NothingToHandOver], ResourceServer],
        backends: Callable[[], Sequence[SchedulingBackend]],
    ) -> None:
        self._server, self._backends = server, backends
        self._served: dict[str, _Served] = {}
        self._resources: Mapping[str, Resources] | None = None

    def show(self, offered: Iterable[tuple[ResourcePlan, Sequence[NodeDevice]]]) -> None:
        """The amounts of these resources' devices, and of no others. Raises `RuntimeError` where
        the vendor's scheduling half cannot be loaded.
        """
        if self._resources is None:
            self._resources = {b.keys.common_word: b.resources for b in self._backends()}
        wanted: Counter[str] = Counter()
        for plan, devices in offered:
            names = self._resources.get(plan.keys.common_word) if plan.keys else None
            if names is not None:
                wanted.update(amounts(devices, names))
        self.count(wanted)

    def count(self, wanted: Mapping[str, int]) -> None:
        """Exactly these resources, with so many units each. One that never had a unit is not
        registered yet.
        """
        for name in self._served.keys() - wanted.keys():
            self._served.pop(name).task.cancel()
        for name, units in wanted.items():
            if (served := self._served.get(name)) is not None:
                served.resource.count(units)
            elif units:
                resource = CountedResource(name, units)
                server = self._server(resource, NothingToHandOver())
                task = asyncio.create_task(server.run(), name=name)
                self._served[name] = _Served(resource, server, task)

    def directory_changed(self) -> None:
        """Something happened in kubelet's directory: let every server look."""
        for served in self._served.values():
            served.server.changed.set()

    async def close(self) -> None:
        """End all servers."""
        tasks = [served.task for served in self._served.values()]
        self.count({})
        await asyncio.gather(*tasks, return_exceptions=True)
