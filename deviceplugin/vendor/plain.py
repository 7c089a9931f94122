"""The scheduling half of a plain accelerator: count, memory and cores in the vendor's units.

Most vendors are this with a word more. What upstream takes for "not given" (a fraction, a negative
or a gigantic amount) is refused here, because it would become a whole card.
"""

from __future__ import annotations

from dataclasses import dataclass

from deviceplugin.api.hami.keys import VendorKeys
from deviceplugin.vendor.registered import INT32
from deviceplugin.vendor.scheduling import (
    STANDARD,
    Admission,
    ContainerSpec,
    Demand,
    PodSpec,
    RefusedError,
    Resources,
    Rule,
    whole,
)

__all__ = ["MOST_CARDS", "Plain", "amount"]

MOST_CARDS = 1024
"""More cards than any node has: a slip of somebody's pen."""


def amount(container: ContainerSpec, resource: str, unit: int = 1, most: int = INT32) -> int | None:
    """How much of a resource a container asks for, in units times `unit`; None when not given.

    Raises `RefusedError` for what is no whole number from 0 to `most`.
    """
    text = container.written(resource)
    if text is None:
        return None
    number = whole(text)
    if number is None or number < 0:
        raise RefusedError(
            f"container {container.name}: {resource} is {text!r:.40}: write a whole number of 0 "
            "or more"
        )
    if number * unit > most:
        raise RefusedError(
            f"container {container.name}: {resource} is {text!r:.40}, more than the largest card "
            f"has; write {most // unit} at most"
        )
    return number * unit


@dataclass(frozen=True)
class Plain:
    """Reads count, memory and cores. Memory that is not given is all of the card's; cores are
    `default_cores` percent then. `runtime_class` is given to pods that name none. `rules` are those
    that a card must pass. `several_whole` says that several cards are whole ones: memory and cores
    count for a single one only.
    """

    keys: VendorKeys
    resources: Resources
    default_cores: int = 0
    runtime_class: str = ""
    remembers: tuple[str, ...] = ()
    rules: frozenset[Rule] = STANDARD
    several_whole: bool = False

    def admit(self, container: ContainerSpec, pod: PodSpec) -> Admission:
        """Found where the limits name the count; refused where `demand` refuses."""
        self.demand(container, pod)
        if self.resources.count not in container.limits:
            return Admission()
        return Admission(found=True, runtime_class=self.runtime_class)

    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        """Cards with memory and cores of each. Raises `RefusedError`."""
        count = amount(container, self.resources.count, most=MOST_CARDS)
        memory = amount(container, self.resources.memory, self.resources.memory_unit_mib)
        units = self.resources.core_units
        cores = amount(container, self.resources.cores, most=units * MOST_CARDS)
        if not count:
            return None
        percent = self.default_cores if cores is None else cores * 100 // units
        if self.several_whole and count > 1:
            memory, percent = 0, 100
        word = self.keys.common_word
        return Demand(word, count, memory or 0, cores_percent=percent, rules=self.rules)
