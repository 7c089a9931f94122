"""The section ``kunlun`` of the configuration file (metax-iluvatar-kunlunxin-hygon.md 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deviceplugin.api.fields import PATH, RESOURCE, TEXT, Kind
from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.vendor.section import CARDS, NO_CARDS, Cards, read_section

SECTION = "kunlun"
WHOLE, SLICES = VENDORS["kunlun"], VENDORS["XPU"]
NAMES = "{node}-kunlun-{n}"
"""What schedulers call whole cards."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """`shared` are the cards that are given out as vXPU. A card is offered whole or in slices,
    never as both: kubelet would hand it out twice.
    """

    resource: str = "kunlunxin.com/xpu"
    shared_resource: str = "kunlunxin.com/vxpu"
    shared_memory: str = "kunlunxin.com/vxpu-memory"
    shared: Cards = NO_CARDS
    runtime_class: str = ""
    runtime: str = "/usr/bin/xpu-container-runtime"
    problems: tuple[str, ...] = ()


_ROWS: tuple[tuple[str, str, Kind[Any]], ...] = (
    ("resourceCountName", "resource", RESOURCE),
    ("resourceVCountName", "shared_resource", RESOURCE),
    ("resourceVMemoryName", "shared_memory", RESOURCE),
    ("sharedDevices", "shared", CARDS),
    ("runtimeClassName", "runtime_class", TEXT),
    ("containerRuntime", "runtime", PATH),
)


def configuration(section: Mapping[str, Any]) -> Configuration:
    """The typed section. Raises `ValueError` that names every value that does not fit."""
    values, problems = read_section(section, SECTION, _ROWS)
    return Configuration(**values, problems=problems)
