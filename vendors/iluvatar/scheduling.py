"""The scheduling half: cards, memory in units of 256 MiB, cores in percent
(metax-iluvatar-kunlunxin-hygon.md 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deviceplugin.vendor.plain import Plain
from deviceplugin.vendor.scheduling import (
    Admission,
    ContainerSpec,
    Demand,
    PodSpec,
    SchedulingBackend,
    SchedulingSettings,
)
from deviceplugin.vendors.iluvatar.configuration import configuration

CONTAINER_NAME = "SOL_CONTINER_NAME"
"""Misspelt by those who read it."""


def backends(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """One a chip. Raises `ValueError`."""
    chips = configuration(settings.section).chips
    return [Cards(chip.keys, chip.resources) for chip in chips]


@dataclass(frozen=True)
class Cards(Plain):
    """Several cards are whole cards: memory and cores count for a single one only."""

    def admit(self, container: ContainerSpec, pod: PodSpec) -> Admission:
        """All cores of several cards, and the container's name for those who look for it."""
        admission = super().admit(container, pod)
        demand = self.demand(container, pod)
        if not admission.found or demand is None:
            return admission
        cores = {self.resources.cores: str(demand.count * 100)} if demand.count > 1 else {}
        env = {CONTAINER_NAME: container.name} if container.name else {}
        return replace(admission, resources=cores, env=env)

    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        """Whole cards where there are several."""
        demand = super().demand(container, pod)
        if demand is None or demand.count == 1:
            return demand
        return replace(demand, memory_mib=0, memory_percent=100, cores_percent=100)
