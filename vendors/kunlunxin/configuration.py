"""The section ``kunlun`` of the configuration file (metax-iluvatar-kunlunxin-hygon.md 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deviceplugin.api.fields import PATH, RESOURCE, TEXT, Kind, UnfitError, many, whole
from deviceplugin.vendor.section import read_section

SECTION = "kunlun"
ALL = "all"


@dataclass(frozen=True, slots=True)
class Configuration:
    """`shared` are the indices of the cards that are given out as vXPU, or all (None). A card is
    offered whole or in slices, never as both: kubelet would hand it out twice.
    """

    resource: str = "kunlunxin.com/xpu"
    shared_resource: str = "kunlunxin.com/vxpu"
    shared_memory: str = "kunlunxin.com/vxpu-memory"
    shared: tuple[int, ...] | None = ()
    runtime_class: str = ""
    runtime: str = "/usr/bin/xpu-container-runtime"
    problems: tuple[str, ...] = ()

    def is_shared(self, index: int) -> bool:
        """Whether the card of that index is given out in slices."""
        return self.shared is None or index in self.shared


def _shared(value: object) -> object:
    """``all`` and ``none`` are words for the two ends."""
    return {ALL: (-1,), "none": ()}.get(value, value) if isinstance(value, str) else value


def _indices(value: object) -> tuple[int, ...]:
    try:
        return many(whole(-1, 63)).check(_shared(value))
    except UnfitError as error:
        raise UnfitError(error.rule, "write all, none, or a list of card indices") from None


_ROWS: tuple[tuple[str, str, Kind[Any]], ...] = (
    ("resourceCountName", "resource", RESOURCE),
    ("resourceVCountName", "shared_resource", RESOURCE),
    ("resourceVMemoryName", "shared_memory", RESOURCE),
    ("sharedDevices", "shared", Kind("all|none|indices", _indices)),
    ("runtimeClassName", "runtime_class", TEXT),
    ("containerRuntime", "runtime", PATH),
)


def configuration(section: Mapping[str, Any]) -> Configuration:
    """The typed section. Raises `ValueError` that names every value that does not fit."""
    values, problems = read_section(section, SECTION, _ROWS)
    if values.get("shared") == (-1,):
        values["shared"] = None
    return Configuration(**values, problems=problems)
