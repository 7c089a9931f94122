"""The chips by their names (section ``iluvatars``, HAMi's) and how their cards are divided (section
``iluvatar``, ours). Source: metax-iluvatar-kunlunxin-hygon.md 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deviceplugin.api.fields import FLAG, NAME, PATH, RESOURCE, Fields, Kind, whole
from deviceplugin.api.hami.keys import VendorKeys, iluvatar
from deviceplugin.api.problems import Problem, unknown_keys
from deviceplugin.vendor.scheduling import Resources
from deviceplugin.vendor.section import read_section, refuse

SECTION, ENTRIES = "iluvatar", "iluvatars"
MEMORY_UNIT_MIB = 256
CHIPS = "chips"
"""The attribute with the uuids of a card's chips, joined by commas."""


@dataclass(frozen=True, slots=True)
class Chip:
    """One sort of card: `name` is a part of what the driver calls it, `word` what schedulers do."""

    name: str
    word: str
    resources: Resources

    @property
    def keys(self) -> VendorKeys:
        """The annotations of its cards."""
        return iluvatar(self.word)


def _chip(word: str, **given: str) -> Chip:
    return Chip(
        given.get("chip") or word,
        word,
        Resources(
            count=given.get("count") or f"iluvatar.ai/{word}-vgpu",
            memory=given.get("memory") or f"iluvatar.ai/{word}.vMem",
            cores=given.get("cores") or f"iluvatar.ai/{word}.vCore",
            memory_unit_mib=MEMORY_UNIT_MIB,
        ),
    )


KNOWN = tuple(map(_chip, ("MR-V100", "MR-V50", "BI-V150", "BI-V100")))


@dataclass(frozen=True, slots=True)
class Configuration:
    """`splits` shares a card, 1 for whole cards. `split_board` offers each chip of a board with two
    as a card of its own. `limit_library` is a library of the host that limits processes which load
    it; without one nothing limits shares.
    """

    chips: tuple[Chip, ...] = KNOWN
    splits: int = 1
    split_board: bool = False
    limit_library: str = ""
    problems: tuple[str, ...] = ()

    def chip_of(self, model: str) -> Chip | None:
        """The chip that a model's name contains; the longest name counts."""
        found = [chip for chip in self.chips if chip.name in model]
        return max(found, key=lambda chip: len(chip.name), default=None)

    def chip(self, resource: str) -> Chip | None:
        """The chip of a resource."""
        return next((chip for chip in self.chips if chip.resources.count == resource), None)


_ROWS: tuple[tuple[str, str, Kind[Any]], ...] = (
    ("deviceSplitCount", "splits", whole(1, 100)),
    ("splitBoard", "split_board", FLAG),
    ("limitLibrary", "limit_library", PATH),
)
_CHIP_ROWS: tuple[tuple[str, str, Kind[Any]], ...] = (
    ("chipName", "chip", NAME),
    ("commonWord", "word", NAME),
    ("resourceCountName", "count", RESOURCE),
    ("resourceMemoryName", "memory", RESOURCE),
    ("resourceCoreName", "cores", RESOURCE),
)


def configuration(section: Mapping[str, Any]) -> Configuration:
    """Both sections, typed. Raises `ValueError` that names every value that does not fit."""
    values, problems = read_section(section, SECTION, _ROWS, also=(ENTRIES,))
    chips, more = _chips(section)
    return Configuration(**values, chips=chips or KNOWN, problems=(*problems, *more))


def _chips(section: Mapping[str, Any]) -> tuple[tuple[Chip, ...], tuple[str, ...]]:
    wrong: list[Problem] = []
    warnings: list[Problem] = []
    found: dict[str, Chip] = {}
    for entry in Fields(section, "configuration", "", wrong).mappings(ENTRIES):
        values = entry.values(_CHIP_ROWS)
        word = values.pop("word", values.get("chip", ""))
        if not word:
            entry.wrong("commonWord", "missing", "write the chip's word, for example BI-V150")
        elif word in found:
            entry.wrong("commonWord", "stands twice", "give each chip a word of its own")
        else:
            found[word] = _chip(word, **values)
        known = [key for key, _, _ in _CHIP_ROWS]
        warnings += unknown_keys(entry.data, known, entry.source, entry.path)
    refuse(wrong)
    return tuple(found.values()), tuple(map(str, warnings))
