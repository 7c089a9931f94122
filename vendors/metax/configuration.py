"""The section ``metax`` of the configuration file (metax-iluvatar-kunlunxin-hygon.md 1.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deviceplugin.api.fields import FLAG, RESOURCE, Kind, UnfitError, choice, many, whole
from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.vendor.section import CARDS, NO_CARDS, Cards, read_section

SECTION = "metax"
WHOLE, SGPU = VENDORS["Metax-GPU"], VENDORS["Metax-SGPU"]
NAMES = "{node}-metax-{n}"
"""What schedulers call whole cards."""

MOST_SGPUS = 16
"""sGPUs of a card."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """`sgpu` says whether this agent makes sGPUs: ``off`` leaves them to MetaX's own plugin,
    ``dry-run`` says what would be done and does nothing, ``on`` does it. `shared` are the cards
    that are given out so; `link_zones` are groups of connected cards, by their indices.
    """

    count: str = "metax-tech.com/gpu"
    shared_count: str = "metax-tech.com/sgpu"
    shared_memory: str = "metax-tech.com/vmemory"
    shared_cores: str = "metax-tech.com/vcore"
    topology_aware: bool = False
    sgpu: str = "off"
    shared: Cards = NO_CARDS
    link_zones: tuple[tuple[int, ...], ...] = ()
    problems: tuple[str, ...] = ()

    def link_zone(self, index: int) -> int:
        """The number of its group from 1 on, 0 for none."""
        zones = (n for n, zone in enumerate(self.link_zones, 1) if index in zone)
        return next(zones, 0)


def _zones(value: object) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, list | tuple):
        raise UnfitError("not a list of lists", "write for example [[0, 1], [2, 3]]")
    return tuple(many(whole(0, 63)).check(zone) for zone in value)


_ROWS: tuple[tuple[str, str, Kind[Any]], ...] = (
    ("resourceCountName", "count", RESOURCE),
    ("resourceVCountName", "shared_count", RESOURCE),
    ("resourceVMemoryName", "shared_memory", RESOURCE),
    ("resourceVCoreName", "shared_cores", RESOURCE),
    ("sgpuTopologyAware", "topology_aware", FLAG),
    ("sgpu", "sgpu", choice("off", "dry-run", "on")),
    ("sharedDevices", "shared", CARDS),
    ("linkZones", "link_zones", Kind("lists of indices", _zones)),
)


def configuration(section: Mapping[str, Any]) -> Configuration:
    """The typed section. Raises `ValueError` that names every value that does not fit."""
    values, problems = read_section(section, SECTION, _ROWS)
    if values.get("sgpu", "off") == "off":
        values["shared"] = NO_CARDS
    return Configuration(**values, problems=problems)
