"""The section ``hygon`` of the configuration file (metax-iluvatar-kunlunxin-hygon.md 4.1, 4.5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from deviceplugin.api.fields import PATH, RESOURCE, Fields, Kind, optional, whole
from deviceplugin.api.problems import Problem
from deviceplugin.vendor.scheduling import Resources
from deviceplugin.vendor.section import read_section, refuse

SECTION = "hygon"

ADDRESS, UNITS = "busId", "computeUnits"
"""What discovery says of a card beside what all vendors say: its place, and how it is divided."""

COMPUTE_UNITS: Mapping[str, int] = MappingProxyType(
    {
        "K100_AI": 120,
        "K100_LC_AI": 120,
        "K100_LC_E_AI": 128,
        "K100": 120,
        "Z100": 60,
        "Z100L": 60,
    }
)
"""Compute units of a card by its name; of other cards they have to be written down."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """`splits` containers share a card. Paths are on the host: `vdev_root` has a directory a
    virtual DCU, `exporter_root` a copy for the exporter, `toolkit` and `hyhal` are mounted, an
    empty `hyhal` is not.
    """

    count: str = "hygon.com/dcunum"
    memory: str = "hygon.com/dcumem"
    cores: str = "hygon.com/dcucores"
    memory_factor: int = 1
    splits: int = 4
    toolkit: str = "/opt/dtk"
    hyhal: str = "/opt/hyhal"
    vdev_root: str = "/usr/local/vgpu/dcu"
    exporter_root: str = "/etc/vdev"
    compute_units: Mapping[str, int] = field(default_factory=lambda: COMPUTE_UNITS)
    problems: tuple[str, ...] = ()

    @property
    def resources(self) -> Resources:
        """Count, memory in MiB times the factor, cores in percent."""
        return Resources(self.count, self.memory, self.cores, memory_unit_mib=self.memory_factor)


_ROWS: tuple[tuple[str, str, Kind[Any]], ...] = (
    ("resourceCountName", "count", RESOURCE),
    ("resourceMemoryName", "memory", RESOURCE),
    ("resourceCoreName", "cores", RESOURCE),
    ("memoryFactor", "memory_factor", whole(0, 2**20)),
    ("deviceSplitCount", "splits", whole(1, 20)),
    ("toolkitRoot", "toolkit", PATH),
    ("hyhalRoot", "hyhal", optional(PATH)),
    ("vdevRoot", "vdev_root", PATH),
    ("exporterRoot", "exporter_root", PATH),
)


def configuration(section: Mapping[str, Any]) -> Configuration:
    """The typed section. Raises `ValueError` that names every value that does not fit."""
    values, problems = read_section(section, SECTION, _ROWS, also=("computeUnits",))
    values["memory_factor"] = max(values.get("memory_factor", 1), 1)  # upstream's 0 is no scaling
    wrong: list[Problem] = []
    units = Fields(section, "configuration", SECTION, wrong).mapping("computeUnits")
    # A card without a name is called by digits, which YAML takes for a number.
    given = {str(name): units.get(name, whole(1, 128), 0) for name in units.data}
    refuse(wrong)
    return Configuration(
        **values,
        compute_units=MappingProxyType({**COMPUTE_UNITS, **given}),
        problems=problems,
    )
