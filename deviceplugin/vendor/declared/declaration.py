"""The declaration of a vendor, read strictly. Pure, but for reading the file."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from deviceplugin.api.fields import FLAG, NAME, PATH, RESOURCE, TEXT, Fields, Kind, many, whole
from deviceplugin.api.hami.keys import VENDORS, VendorKeys
from deviceplugin.api.problems import Problem, unknown_keys
from deviceplugin.vendor.scheduling import Resources
from deviceplugin.vendor.section import read_section, refuse

__all__ = ["Declaration", "parse", "read"]

NUMBER = "{n}"
CONTAINER_FIELDS = frozenset({"indices", "uuids", "memory", "cores"})
POD_FIELDS = frozenset({"indices", "uuids", "node", "now_ns", "index", "memory", "cores", "count"})

SECTION_KEYS: Mapping[str, str] = MappingProxyType(
    {"count": "resourceCountName", "memory": "resourceMemoryName", "cores": "resourceCoreName"}
)

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Declaration:
    """A vendor. `word` names its annotations (`api.hami.keys`), `names` its cards for schedulers
    that count them off the node's capacity, with ``{node}`` and ``{n}``.

    A card is a file that matches `device_node`, whose ``{n}`` is its number; `common_nodes` go to
    every container. Its memory is `memory_mib`, and `shares` containers may have one. `env` are
    variables of a container, `annotations` those of a pod that was placed, with fields in braces.
    `whole` says that several cards are whole ones, `idle` that a card is nobody else's, `one_card`
    that all containers of a pod are on one; `memory_steps` are the only amounts that may be asked
    for, in units. `section_keys` are the keys of the vendor's section in the configuration file
    that give resources other names, by what they count.
    """

    name: str
    word: str
    resources: Resources
    names: str
    device_node: str
    model: str
    memory_mib: int
    default_cores: int = 0
    shares: int = 1
    common_nodes: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    memory_steps: tuple[int, ...] = ()
    section_keys: Mapping[str, str] = field(default_factory=lambda: SECTION_KEYS)
    whole: bool = False
    idle: bool = False
    one_card: bool = False

    def called(self, section: Mapping[str, Any]) -> Declaration:
        """With the names of resources that the vendor's section of the configuration file gives.
        Raises `ValueError` that names every value that does not fit.
        """
        rows = [(key, part, RESOURCE) for part, key in self.section_keys.items()]
        names, _ = read_section(section, self.name, rows)
        had = {part: name for part, name in names.items() if getattr(self.resources, part)}
        return replace(self, resources=replace(self.resources, **had)) if had else self

    @property
    def keys(self) -> VendorKeys:
        """The annotations of node and pod."""
        return VENDORS[self.word]

    @property
    def limits(self) -> bool:
        """Whether containers are told how much they may use."""
        return any("{memory}" in value or "{cores}" in value for value in self.env.values())


_ROWS: tuple[tuple[str, str, Kind[Any]], ...] = (
    ("name", "name", NAME),
    ("word", "word", NAME),
    ("names", "names", NAME),
    ("deviceNode", "device_node", PATH),
    ("model", "model", NAME),
    ("memoryMiB", "memory_mib", whole(1, 2**31 - 1)),
    ("coreUnits", "core_units", whole(1, 10_000)),
    ("defaultCores", "default_cores", whole(0, 100)),
    ("shares", "shares", whole(1, 10_000)),
    ("commonNodes", "common_nodes", many(PATH)),
    ("memorySteps", "memory_steps", many(whole(1))),
    ("whole", "whole", FLAG),
    ("idle", "idle", FLAG),
    ("oneCard", "one_card", FLAG),
)
_RESOURCES: tuple[tuple[str, str, Kind[Any]], ...] = (
    ("count", "count", RESOURCE),
    ("memory", "memory", RESOURCE),
    ("cores", "cores", RESOURCE),
    ("memoryUnitMiB", "memory_unit_mib", whole(1, 2**20)),
)
REQUIRED = ("name", "word", "names", "deviceNode", "model", "memoryMiB")


@cache
def read(place: str) -> Declaration:
    """The declaration at ``package:file``. Raises `ValueError`."""
    import yaml

    package, _, name = place.partition(":")
    try:
        text = resources.files(package).joinpath(name).read_text("utf-8")
        data = yaml.safe_load(text)
    except (OSError, ImportError, yaml.YAMLError) as error:
        raise ValueError(f"{place} cannot be read: {error}") from None
    if not isinstance(data, Mapping):
        raise ValueError(f"{place}: write key: value pairs")
    return parse(data, place)


def parse(data: Mapping[str, Any], source: str) -> Declaration:
    """The declaration of plain data. Raises `ValueError` that names every value that is wrong."""
    problems: list[Problem] = []
    fields = Fields(data, source, "", problems)
    values = fields.values(_ROWS)
    for key in REQUIRED:
        if data.get(key) in (None, ""):
            fields.wrong(key, "missing", "write it down")
    if values.get("word", "NVIDIA") not in VENDORS:
        fields.wrong("word", "no such word", f"there are {', '.join(sorted(VENDORS))}")
    if "device_node" in values and values["device_node"].count(NUMBER) != 1:
        fields.wrong("deviceNode", "no number", f"put {NUMBER} where the card's number stands")
    named = fields.mapping("resources")
    amounts = named.values(_RESOURCES)
    if "count" not in amounts:
        named.wrong("count", "missing", "write domain/name")
    for key, known in (("env", CONTAINER_FIELDS), ("annotations", POD_FIELDS)):
        values[key] = MappingProxyType(dict(_templates(fields.mapping(key), known, key == "env")))
    called = fields.mapping("sectionKeys")
    values["section_keys"] = MappingProxyType(
        {**SECTION_KEYS, **{part: called.get(part, NAME, "") for part in called.data}}
    )
    problems += unknown_keys(called.data, SECTION_KEYS, source, "sectionKeys")
    keys = (*(key for key, _, _ in _ROWS), "resources", "sectionKeys", "env", "annotations")
    problems += unknown_keys(data, keys, source, "")
    problems += unknown_keys(named.data, [key for key, _, _ in _RESOURCES], source, "resources")
    refuse(problems)
    if (units := values.pop("core_units", None)) is not None:
        amounts["core_units"] = units
    return Declaration(**values, resources=Resources(**amounts))


def _templates(fields: Fields, known: Iterable[str], variables: bool) -> Iterable[tuple[str, str]]:
    for key in fields.data:
        text = fields.get(key, TEXT, "")
        try:
            used = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        except ValueError as error:
            fields.wrong(key, str(error), "write {{ and }} for braces")
            continue
        if strange := used - set(known):
            fields.wrong(
                key,
                f"unknown field {sorted(strange)[0]!r}",
                f"there are {', '.join(sorted(known))}",
            )
        elif variables and not _VARIABLE.fullmatch(key):
            fields.wrong(key, "no name of a variable", "write letters, digits and _")
        else:
            yield key, text
