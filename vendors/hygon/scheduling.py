"""The scheduling half: all cores where none are named, and one virtual DCU a container
(metax-iluvatar-kunlunxin-hygon.md 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.vendor.plain import Plain
from deviceplugin.vendor.scheduling import (
    ContainerSpec,
    Demand,
    PodSpec,
    RefusedError,
    SchedulingBackend,
    SchedulingSettings,
)
from deviceplugin.vendors.hygon.configuration import configuration


def backends(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """One word. Raises `ValueError`."""
    resources = configuration(settings.section).resources
    return [Cards(VENDORS["DCU"], resources, default_cores=100)]


@dataclass(frozen=True)
class Cards(Plain):
    """Several cards are whole ones."""

    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        """Raises `RefusedError` for parts of several cards, which nothing can hand over."""
        demand = super().demand(container, pod)
        if demand is None or demand.count == 1:
            return demand
        if demand.memory_mib or demand.cores_percent < 100:
            names = self.resources
            raise RefusedError(
                f"container {container.name}: {names.count} is {demand.count} with {names.memory} "
                f"or {names.cores}: a container has one virtual DCU or whole cards; ask for one "
                "card, or leave memory and cores out"
            )
        return demand
