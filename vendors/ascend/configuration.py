"""The section ``vnpus`` that HAMi's scheduler, its Ascend plugin and Volcano read too, and our own
``ascend``. Pure; both halves go by it.

Keys, types and both shapes are those of ascend-and-mock.md A.2.2 and A.2.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deviceplugin.api.fields import (
    FLAG,
    NAME,
    PATH,
    RESOURCE,
    TEXT,
    Fields,
    Kind,
    fewer,
    many,
    optional,
    whole,
)
from deviceplugin.api.problems import Problem, unknown_keys
from deviceplugin.vendors.ascend.chips import (
    DEFAULT_CHIPS,
    RUNTIME_TEMPLATES,
    Chip,
    Template,
    cores_in_name,
)

__all__ = ["Configuration", "configured"]

SOURCE = "configuration"
VNPUS = "vnpus"
INT32 = 2**31 - 1

_WORD = fewer(
    NAME,
    "no name that fits into the keys of annotations",
    "write at most 40 letters, digits and inner hyphens",
    lambda word: re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9]{0,38}[A-Za-z0-9])?", word) is not None,
)
_TEMPLATE = fewer(
    NAME,
    "no template's name",
    "write it as the driver does: vir, two digits of AI cores, and what follows",
    lambda name: cores_in_name(name) is not None,
)
_MEMORY = whole(1, INT32)
_UNITS = whole(0, 1024)

_CHIP: tuple[tuple[str, str, Kind[Any]], ...] = (
    ("chipName", "name", NAME),
    ("commonWord", "word", _WORD),
    ("resourceName", "resource", RESOURCE),
    ("resourceMemoryName", "memory_resource", RESOURCE),
    ("resourceCoreName", "core_resource", RESOURCE),
    ("memoryAllocatable", "memory_mib", _MEMORY),
    ("memoryCapacity", "capacity_mib", _MEMORY),
    ("memoryFactor", "memory_factor", whole(0, INT32)),
    ("aiCore", "ai_core", _UNITS),
    ("aiCPU", "ai_cpu", _UNITS),
    ("runtimeClassName", "runtime_class", TEXT),
    ("overwriteEnv", "overwrite_env", FLAG),
    ("superPod", "super_pod", FLAG),
)
_TEMPLATE_KEYS: tuple[tuple[str, str, Kind[Any]], ...] = (
    ("name", "name", _TEMPLATE),
    ("memory", "memory_mib", _MEMORY),
    ("aiCore", "ai_core", _UNITS),
    ("aiCPU", "ai_cpu", _UNITS),
)
_OWN: tuple[tuple[str, str, Kind[Any]], ...] = (
    ("vDeviceCount", "count", whole(0, 1024)),
    ("idleVnpuCleanup", "cleans_up", FLAG),
    ("runtimeConfig", "runtime_config", optional(PATH)),
    ("runtimeTemplates", "more_templates", many(_TEMPLATE)),
)
_FORMER = "topologyPairs"
"""A key of old versions that still stands in many files and means nothing any more."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the two sections say. `count` is how many ids a card has for kubelet, 0 for as many as
    it has smallest templates. `soft_slicing` is HAMi's ``hamiVnpuCore``, None where it is not said.
    `runtime_config` is the directory by which ascend-docker-runtime is known, empty to not look.

    `errors` made their entry of ``vnpus`` unusable; it is left out.
    """

    chips: tuple[Chip, ...] = DEFAULT_CHIPS
    soft_slicing: bool | None = None
    count: int = 0
    cleans_up: bool = False
    runtime_config: str = "/etc/ascend-docker-runtime.d"
    more_templates: tuple[str, ...] = ()
    hidden_uuids: tuple[str, ...] = ()
    hidden_cards: tuple[int, ...] = ()
    warnings: tuple[Problem, ...] = ()
    errors: tuple[Problem, ...] = ()

    def chip(self, name: str) -> Chip | None:
        """The chip that the driver calls so; of several entries the last."""
        return next((chip for chip in reversed(self.chips) if chip.name == name), None)

    def words(self) -> dict[str, Chip]:
        """The chips by word; of several entries with one word the last counts (A.1)."""
        return {chip.word: chip for chip in self.chips}

    def accepts(self, template: str) -> bool:
        """Whether ascend-docker-runtime creates a vNPU by that name."""
        return template in RUNTIME_TEMPLATES or template in self.more_templates


def configured(section: Mapping[str, Any]) -> Configuration:
    """The configuration of the vendor's section with the shared one below it. Never raises: what is
    wrong stands in `Configuration.errors`.
    """
    errors: list[Problem] = []
    fields = Fields(section, SOURCE, "", errors)
    known = [key for key, _, _ in _OWN]
    warnings = unknown_keys(section, [*known, "filterDevices", VNPUS], SOURCE, "ascend")
    own = fields.values(_OWN)
    hidden = fields.mapping("filterDevices")
    given = section.get(VNPUS)
    if isinstance(given, Mapping):
        outer = fields.mapping(VNPUS)
        warnings += unknown_keys(given, ["hamiVnpuCore", "configs"], SOURCE, VNPUS)
        own["soft_slicing"] = outer.get("hamiVnpuCore", FLAG, False)
        entries = outer.mappings("configs")
    else:
        entries = fields.mappings(VNPUS)
    if given is not None:
        own["chips"] = tuple(_distinct(_chips(entries, warnings), errors))
        if not own["chips"]:
            errors.append(
                Problem(SOURCE, VNPUS, None, "names no usable chip", "add an entry, or remove it")
            )
    return Configuration(
        **own,
        hidden_uuids=hidden.get("uuid", many(NAME), ()),
        hidden_cards=hidden.get("index", many(whole(0, 255)), ()),
        warnings=tuple(warnings),
        errors=tuple(errors),
    )


def _chips(entries: list[Fields], warnings: list[Problem]) -> Iterator[Chip]:
    """The entries that can be used."""
    for entry in entries:
        known = [key for key, _, _ in _CHIP] + ["templates", _FORMER]
        warnings += unknown_keys(entry.data, known, SOURCE, entry.path)
        before = len(entry.problems)
        values = entry.values(_CHIP)
        for key in ("chipName", "commonWord", "resourceName", "resourceMemoryName", "aiCore"):
            _demand(entry, key)
        _demand(entry, "memoryAllocatable")
        templates = [_template(item, warnings) for item in entry.mappings("templates")]
        memory = values.get("memory_mib", 0)
        if values.setdefault("capacity_mib", memory) < memory:
            entry.wrong("memoryCapacity", "less than memoryAllocatable", "correct one of the two")
        values["memory_factor"] = max(1, values.get("memory_factor", 1))
        for template in templates:
            if template and memory and template.memory_mib > memory:
                rule = f"template {template.name} has more memory than the card"
                entry.wrong("memoryAllocatable", rule, "correct one of the two")
        if len(entry.problems) == before:
            usable = sorted((t for t in templates if t), key=lambda t: t.memory_mib)
            yield Chip(**values, templates=tuple(usable))


def _template(fields: Fields, warnings: list[Problem]) -> Template | None:
    warnings += unknown_keys(fields.data, [k for k, _, _ in _TEMPLATE_KEYS], SOURCE, fields.path)
    values = fields.values(_TEMPLATE_KEYS)
    for key in ("name", "memory", "aiCore"):
        _demand(fields, key)
    return Template(**values) if {"name", "memory_mib", "ai_core"} <= values.keys() else None


def _demand(fields: Fields, key: str) -> None:
    if fields.data.get(key) in (None, ""):
        fields.wrong(key, "is missing", "write it, as in HAMi's chart")


def _distinct(chips: Iterator[Chip], errors: list[Problem]) -> Iterator[Chip]:
    """One resource is one word's: schedulers could not tell which is asked for."""
    words: dict[str, str] = {}
    for chip in chips:
        if words.setdefault(chip.resource, chip.word) != chip.word:
            rule = f"resource of {words[chip.resource]} and of {chip.word}"
            errors.append(Problem(SOURCE, VNPUS, chip.resource, rule, "give each its own"))
        else:
            yield chip
