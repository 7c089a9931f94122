"""The scheduling half: cards, memory in units of 256 MiB, cores in percent
(metax-iluvatar-kunlunxin-hygon.md 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deviceplugin.vendor.plain import Plain
from deviceplugin.vendor.scheduling import (
    Admission,
    ContainerSpec,
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
    return [Cards(chip.keys, chip.resources, several_whole=True) for chip in chips]


class Cards(Plain):
    """Several cards are whole cards, and said to be."""

    def admit(self, container: ContainerSpec, pod: PodSpec) -> Admission:
        """All cores of several cards, and the container's name for those who look for it."""
        admission = super().admit(container, pod)
        demand = self.demand(container, pod)
        if not admission.found or demand is None:
            return admission
        cores = {self.resources.cores: str(demand.count * 100)} if demand.count > 1 else {}
        env = {CONTAINER_NAME: container.name} if container.name else {}
        return replace(admission, resources=cores, env=env)
