"""A resource that kubelet only counts: memory or cores that a scheduler divides, shown as so many
units, so that quotas, autoscalers and people see them. Nothing is handed over for it.

Each unit is a device in the list, and kubelet takes no list above 4 MiB
(kubelet-deviceplugin.md 1.1): with the shortest ids that is 226,600 units. More are refused loudly,
because kubelet would show 0 (ascend-and-mock.md B.4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import structlog

from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.injection.render import Injection
from deviceplugin.kubelet.resource import HEALTHY, MAX_MESSAGE_BYTES, Resource
from deviceplugin.splitting import Table

__all__ = ["CountedResource", "NothingToHandOver", "most_units"]


def _list_bytes(units: int) -> int:
    """Bytes of a list with ids 0, 1, ... on the wire: each entry is a tag and its length, the id
    and the health with a tag and a length each.
    """
    total, digits, first = 0, 1, 0
    while first < units:
        last = min(units, 10**digits)
        total += (last - first) * (2 + 2 + digits + 2 + len(HEALTHY))
        first, digits = last, digits + 1
    return total


def most_units() -> int:
    """How many units kubelet takes."""
    low, high = 0, MAX_MESSAGE_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        if _list_bytes(middle) <= MAX_MESSAGE_BYTES:
            low = middle
        else:
            high = middle - 1
    return low


class CountedResource(Resource):
    """The published list of so many units, all alike."""

    def __init__(self, name: str, units: int) -> None:
        super().__init__(name, Table(name, MappingProxyType({}), MappingProxyType({})))
        self.units = 0
        self.count(units)

    @property
    def problem(self) -> str:
        """Why so many cannot be shown; empty when they can."""
        most = most_units()
        if self.units <= most:
            return ""
        return (
            f"{self.units} units of {self.name} are more than the {most} that kubelet takes in one "
            "list, which would show 0: count in larger units (memoryFactor in the device "
            "configuration), on nodes and in pods alike"
        )

    def count(self, units: int) -> None:
        """Show another number of units."""
        if units == self.units:
            return
        self.units = units
        shown = units
        if problem := self.problem:
            structlog.get_logger().error("cannot be counted", resource=self.name, reason=problem)
            shown = 0
        self.show(
            pb.ListAndWatchResponse(
                devices=[pb.Device(ID=str(i), health=HEALTHY) for i in range(shown)]
            )
        )


class NothingToHandOver:
    """Implements `kubelet.service.Allocator`: the units are counted, that is all."""

    pre_start_required = False

    def prefer(
        self, available: Sequence[str], must_include: Sequence[str], size: int
    ) -> Sequence[str]:
        """Any will do."""
        wanted = dict.fromkeys([*must_include, *available])
        return list(wanted)[:size]

    async def allocate(self, ids: Sequence[str]) -> Injection:
        """An answer without anything in it."""
        return Injection()

    async def pre_start(self, ids: Sequence[str]) -> None:
        """Nothing to prepare."""
