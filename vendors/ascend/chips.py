"""Ascend's chips and how each is cut: the table that both halves go by. Pure data and arithmetic.

Source: ascend-and-mock.md A.1, A.2. Memory is in MiB, AI cores and AI CPUs are counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

__all__ = [
    "DEFAULT_CHIPS",
    "RUNTIME_TEMPLATES",
    "Chip",
    "Part",
    "Template",
    "cores_in_name",
]

RUNTIME_TEMPLATES = frozenset(
    {
        "vir01",
        "vir02",
        "vir04",
        "vir08",
        "vir16",
        "vir02_1c",
        "vir03_1c_8g",
        "vir04_3c",
        "vir04_4c_dvpp",
        "vir04_3c_ndvpp",
        "vir05_1c_8g",
        "vir05_1c_16g",
        "vir06_1c_16g",
        "vir10_3c_16g",
        "vir10_3c_16g_nm",
        "vir10_3c_32g",
        "vir10_4c_16g_m",
        "vir12_3c_32g",
    }
)
"""What ascend-docker-runtime takes in ``ASCEND_VNPU_SPECS``: with any other name the container is
not created (A.2.4).
"""

_NAME = re.compile(r"vir(\d{2})(_\d+c(_\d+g)?)?(_nm|_m|_dvpp|_ndvpp)?", re.ASCII)


def cores_in_name(template: str) -> int | None:
    """The AI cores that a template's name says; None for what is no such name (A.2.4)."""
    found = _NAME.fullmatch(template)
    return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Template:
    """One size of vNPU. `ai_cpu` 0 is not counted."""

    name: str
    memory_mib: int
    ai_core: int
    ai_cpu: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """What a request for memory becomes: a vNPU of that template, or without one the whole card."""

    memory_mib: int
    template: Template | None = None


@dataclass(frozen=True, slots=True)
class Chip:
    """One entry of ``vnpus``. `name` is what the driver calls it, `word` what schedulers do.

    A card has `memory_mib` to hand out; requests up to `capacity_mib` are legal and mean all of
    it. A unit of the memory resource is `memory_factor` MiB. `templates` ascend by memory.
    """

    name: str
    word: str
    resource: str
    memory_resource: str
    memory_mib: int
    capacity_mib: int
    ai_core: int
    core_resource: str = ""
    memory_factor: int = 1
    ai_cpu: int = 0
    templates: tuple[Template, ...] = ()
    runtime_class: str = ""
    overwrite_env: bool = False
    super_pod: bool = False

    def part(self, memory_mib: int) -> Part | None:
        """The least that holds so much memory; None when no card does (A.2.5)."""
        for template in self.templates:
            if memory_mib <= template.memory_mib:
                return Part(template.memory_mib, template)
        return Part(self.memory_mib) if memory_mib <= self.capacity_mib else None

    @property
    def count(self) -> int:
        """How many of the smallest template a card has memory for (A.2.4, "div")."""
        return max(1, self.memory_mib // self.templates[0].memory_mib) if self.templates else 1

    @property
    def networked(self) -> bool:
        """Whether its cards form groups with a network of their own (A.1.2)."""
        return self.word.startswith("Ascend910")

    @property
    def paired(self) -> bool:
        """Whether two of its devices are the dies of one module (A.4)."""
        return self.word == "Ascend910C"


def _chip(
    name: str,
    word: str,
    memory: int,
    cores: int,
    cpus: int,
    *templates: Template,
    capacity: int = 0,
) -> Chip:
    resource = f"huawei.com/{word}"
    return Chip(
        name,
        word,
        resource,
        f"{resource}-memory",
        memory,
        capacity or memory,
        cores,
        core_resource=f"{resource}-core",
        ai_cpu=cpus,
        templates=templates,
    )


_FOR_910A = (
    Template("vir02", 2184, 2),
    Template("vir04", 4369, 4),
    Template("vir08", 8738, 8),
    Template("vir16", 17476, 16),
)
_OF_16_AND_32_GIB = (Template("vir05_1c_16g", 16384, 5, 1), Template("vir10_3c_32g", 32768, 10, 3))
_OF_8_AND_16_GIB = (Template("vir05_1c_8g", 8192, 5, 1), Template("vir10_3c_16g", 16384, 10, 3))

DEFAULT_CHIPS = (
    _chip("910A", "Ascend910A", 32768, 30, 0, *_FOR_910A),
    _chip(
        "910B2",
        "Ascend910B2",
        65536,
        24,
        6,
        Template("vir03_1c_8g", 8192, 3, 1),
        Template("vir06_1c_16g", 16384, 6, 1),
        Template("vir12_3c_32g", 32768, 12, 3),
    ),
    _chip("910B3", "Ascend910B3", 65536, 20, 7, *_OF_16_AND_32_GIB),
    _chip("910B4", "Ascend910B4", 32768, 20, 7, *_OF_8_AND_16_GIB),
    # The names are those of the 32 GiB card: drivers before 25.5 make twice the memory of them.
    _chip(
        "910B4-1",
        "Ascend910B4-1",
        65536,
        20,
        7,
        *(replace(t, memory_mib=2 * t.memory_mib) for t in _OF_8_AND_16_GIB),
    ),
    _chip(
        "310P3",
        "Ascend310P",
        21527,
        8,
        7,
        Template("vir01", 3072, 1, 1),
        Template("vir02", 6144, 2, 2),
        Template("vir04", 12288, 4, 4),
        capacity=24576,
    ),
    _chip("Ascend910", "Ascend910C", 65536, 20, 7, *_OF_16_AND_32_GIB),
    _chip("910ProB", "Ascend910ProB", 32768, 30, 0, *_FOR_910A),
)
"""What HAMi's charts say of each (A.2.4). The 910B4-1 has the names of HAMi 2.8."""
