"""Acme's scheduling half: count, memory in MiB, cores in percent, and one rule of its own."""

from __future__ import annotations

from collections.abc import Sequence

from acme_accelerator.keys import KEYS, RESOURCES
from deviceplugin.vendor.plain import Plain
from deviceplugin.vendor.scheduling import (
    ContainerSpec,
    Demand,
    PodSpec,
    RefusedError,
    SchedulingBackend,
    SchedulingSettings,
)

STEP_MIB = 512


def backends(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """One word."""
    return [Accelerators(KEYS, RESOURCES)]


class Accelerators(Plain):
    """Acme's cards give memory away in steps."""

    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        """Raises `RefusedError` for memory between two steps."""
        demand = super().demand(container, pod)
        if demand is not None and demand.memory_mib % STEP_MIB:
            raise RefusedError(
                f"container {container.name}: {self.resources.memory} is {demand.memory_mib}: "
                f"write a multiple of {STEP_MIB}"
            )
        return demand
