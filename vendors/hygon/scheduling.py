"""The scheduling half: all cores where none are named, and one virtual DCU a container
(metax-iluvatar-kunlunxin-hygon.md 4.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.vendor.plain import Plain
from deviceplugin.vendor.scheduling import (
    Card,
    ContainerDevice,
    ContainerSpec,
    Demand,
    Obstacle,
    PodSpec,
    Reason,
    RefusedError,
    SchedulingBackend,
    SchedulingSettings,
)
from deviceplugin.vendors.hygon.configuration import configuration
from deviceplugin.vendors.hygon.vdev import units_of


def backends(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """One word. Raises `ValueError`."""
    config = configuration(settings.section)
    return [
        Cards(
            VENDORS["DCU"],
            config.resources,
            default_cores=100,
            compute_units=config.compute_units,
            divided=config.splits > 1,
        )
    ]


@dataclass(frozen=True)
class Cards(Plain):
    """One virtual DCU a container, or whole cards. `compute_units` are a card's by its name;
    `divided` says that nodes make virtual DCUs.
    """

    compute_units: Mapping[str, int] = field(default_factory=dict, hash=False)
    divided: bool = True

    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        """Raises `RefusedError` for parts that nothing can hand over."""
        demand = super().demand(container, pod)
        if demand is None:
            return None
        names = self.resources
        if not demand.cores_percent:
            raise RefusedError(
                f"container {container.name}: {names.cores} is 0: write 1 to 100, or leave it out "
                "for all compute units"
            )
        if demand.count > 1 and (demand.memory_mib or demand.cores_percent < 100):
            raise RefusedError(
                f"container {container.name}: {names.count} is {demand.count} with {names.memory} "
                f"or {names.cores}: a container has one virtual DCU or whole cards; ask for one "
                "card, or leave memory and cores out"
            )
        return demand

    def eligible(
        self, card: Card, demand: Demand, pod: PodSpec, mine: Sequence[ContainerDevice]
    ) -> Reason | None:
        """A part must be some compute units of a card that has a known number of them."""
        cores = min(demand.cores_percent, 100)
        part = cores < 100 or demand.memory_of(card.device.memory) < card.device.memory
        if not (self.divided and part):
            return None
        model = card.device.type.removeprefix(f"{self.keys.common_word}-")
        of = self.compute_units.get(model, 0)
        if not of:
            detail = f"its compute units are not known: only whole, or hygon.computeUnits.{model}"
            return Reason(Obstacle.VENDOR_RULE, card.uuid, detail)
        if not units_of(cores, of):
            detail = f"asks {cores}% of {of} compute units, which is not one"
            return Reason(Obstacle.CORES, card.uuid, detail)
        return None
