"""From raw sources to one checked `Config`, with all problems at once. Pure, but for `read`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

from deviceplugin.api.fields import FLAG, TEXT, Fields, Kind, UnfitError
from deviceplugin.api.hami_config import (
    NVIDIA,
    NodeOverride,
    merge_overrides,
    mode_warnings,
    node_override_warnings,
    nvidia_section_warnings,
    parse_node_overrides,
    parse_nvidia_section,
)
from deviceplugin.api.problems import Problem, nearest, unknown_keys
from deviceplugin.config.documents import EMPTY, read_document
from deviceplugin.config.options import CONFIG_FILE, CONFIG_JSON, NODE_NAME, OPTIONS, VERBOSITY
from deviceplugin.config.rules import cross_check
from deviceplugin.config.schema import Config, ConfigError, Loaded
from deviceplugin.config.sharing import parse_sharing
from deviceplugin.config.sources import DEFAULT, Found, find

__all__ = ["config_files", "load"]

SECTIONS = (
    NVIDIA,
    "cambricon",
    "hygon",
    "metax",
    "enflame",
    "mthreads",
    "iluvatars",
    "kunlun",
    "awsneuron",
    "amd",
    "vnpus",
    "mock",
)
"""Sections of the vendors that HAMi knows; a stranger's may have any other name."""

_ANYTHING: Kind[object] = Kind("", lambda value: value)
_UNUSED: tuple[tuple[str, Kind[Any]], ...] = (
    ("flags.useNodeFeatureAPI", FLAG),
    ("flags.gfd.oneshot", FLAG),
    ("flags.gfd.noTimestamp", FLAG),
    ("flags.gfd.sleepInterval", _ANYTHING),
    ("flags.gfd.outputFile", TEXT),
    ("flags.gfd.machineTypeFile", TEXT),
)
"""Keys of GPU feature discovery, another program that reads the same file."""

_TOP = ("version", "flags", "resources", "sharing", "imex", "agent")
VERBOSE = 5
"""klog's level from which messages are for debugging; the charts pass 4 to everybody."""


def _read_text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


@dataclass(slots=True)
class _Reading:
    """What has been found so far: mistakes, oddities, and where each value came from."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    provenance: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    """The fields of `Config` whose value is wrong, so that no rule judges their stand-in."""

    def check(self, kind: Kind[Any], found: Found, default: Any) -> tuple[Any, bool]:
        """The value, or the default with False when the value does not fit."""
        value = found.value
        if found.text and isinstance(value, str) and not (kind.blank and value == ""):
            value = kind.from_text(value)
        try:
            return kind.check(value), True
        except UnfitError as error:
            self.problems.append(
                Problem(found.source, found.path, found.value, error.rule, error.remedy)
            )
            return default, False


def config_files(argv_values: Mapping[str, object], environ: Mapping[str, str]) -> tuple[str, ...]:
    """The files that `load` would look for with these arguments; a wrong path is left out."""
    reading = _Reading()
    paths = (_steering(option, argv_values, environ, reading)[0] for option in _FILES)
    return tuple(path for path in paths if path)


_FILES = (CONFIG_FILE, CONFIG_JSON)


def load(
    argv_values: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    read: Callable[[str], str] = _read_text,
    hostname: Callable[[], str] = lambda: os.uname().nodename,
    vendor_names: Iterable[str] = (),
) -> Loaded:
    """The configuration of this node from all sources.

    `argv_values` are the given flags by `Option.name`, as text or typed; None means not given.
    `vendor_names` are names of installed vendors, whose sections are then no suspected typing
    mistakes. Raises `ConfigError` with every problem there is, and nothing else.
    """
    reading = _Reading()
    file, _ = _steering(CONFIG_FILE, argv_values, environ, reading)
    json_file, explicit = _steering(CONFIG_JSON, argv_values, environ, reading)
    document = _document(file, read, reading, obligatory=True)
    overrides_document = _document(json_file, read, reading, obligatory=explicit)

    values = _values(argv_values, environ, file, document, reading)
    _refine(values, argv_values, environ, reading, hostname)
    _structure(document, file, reading)
    sections = _sections(document, file, tuple(vendor_names), reading)
    overrides = _overrides(overrides_document, json_file, values, reading)
    sections[NVIDIA] = _nvidia(
        sections.get(NVIDIA, EMPTY), overrides, argv_values, environ, file, json_file, reading
    )
    values["sharing"] = parse_sharing(document, file, reading.problems, reading.warnings)
    reading.provenance["sharing"] = file if document.get("sharing") else DEFAULT
    values["sections"] = MappingProxyType(
        {
            name: section
            for name, section in sections.items()
            if section or document.get(name) is not None
        }
    )
    config: Config = _assembled(Config, values, "")
    reading.problems += cross_check(config, reading.refused, reading.provenance)
    if reading.problems:
        raise ConfigError(tuple(reading.problems), tuple(reading.warnings))
    return Loaded(
        config,
        tuple(reading.warnings),
        MappingProxyType(reading.provenance),
        tuple(path for path in (file, json_file) if path),
    )


# --- single values -----------------------------------------------------------------------------


def _steering(
    option: Any, argv: Mapping[str, object], environ: Mapping[str, str], reading: _Reading
) -> tuple[str, bool]:
    """A path that decides what is read, and whether somebody named it."""
    found = find(option, argv, environ, "", EMPTY)
    if found is None:
        return option.default, False
    path, fits = reading.check(option.kind, found, "")
    return path, fits and path != ""


def _document(
    path: str, read: Callable[[str], str], reading: _Reading, *, obligatory: bool
) -> Mapping[str, object]:
    if not path:
        return EMPTY
    return read_document(path, read, reading.problems, obligatory=obligatory) or EMPTY


def _values(
    argv: Mapping[str, object],
    environ: Mapping[str, str],
    file: str,
    document: Mapping[str, object],
    reading: _Reading,
) -> dict[str, Any]:
    """The value of every field that an option stands for."""
    values: dict[str, Any] = {}
    for option in OPTIONS:
        if not option.field:
            continue
        found = find(option, argv, environ, file, document)
        value, origin, fits = option.default, DEFAULT, True
        if found is not None:
            value, fits = reading.check(option.kind, found, option.default)
            origin = found.origin
        if not fits:
            reading.refused.add(option.field)
        values[option.field] = value
        reading.provenance[option.key or option.field] = origin
    return values


def _refine(
    values: dict[str, Any],
    argv: Mapping[str, object],
    environ: Mapping[str, str],
    reading: _Reading,
    hostname: Callable[[], str],
) -> None:
    """Defaults that follow from other values."""
    given = argv.get(NODE_NAME.name)
    if not values["node_name"]:
        values["node_name"] = hostname().lower()
        reading.provenance["node_name"] = "the host's name"
    elif isinstance(given, str) and given != values["node_name"]:
        reading.warnings.append(
            Problem(
                "command line",
                NODE_NAME.flags[0],
                given,
                f"ignored: NODE_NAME says {values['node_name']}",
                "remove one of the two",
            )
        )
    if not values["paths.plugin_dir"]:
        socket = values["paths.kubelet_socket"] or "/var/lib/kubelet/device-plugins/kubelet.sock"
        values["paths.plugin_dir"] = str(Path(socket).parent)
    if not values["paths.dev_root"]:
        values["paths.dev_root"] = values["paths.driver_root"]
    verbosity = find(VERBOSITY, argv, environ, "", EMPTY)
    if verbosity is not None:
        level, _ = reading.check(VERBOSITY.kind, verbosity, 0)
        if level >= VERBOSE and reading.provenance["agent.log.level"] == DEFAULT:
            values["log_level"] = "debug"
            reading.provenance["agent.log.level"] = verbosity.origin


def _assembled(kind: type[Any], values: Mapping[str, Any], prefix: str) -> Any:
    """A dataclass from values by dotted field name."""
    hints = get_type_hints(kind)
    members = {}
    for member in fields(kind):
        name = prefix + member.name
        nested = is_dataclass(hints[member.name]) and name not in values
        members[member.name] = (
            _assembled(hints[member.name], values, f"{name}.") if nested else values[name]
        )
    return kind(**members)


# --- the file as a whole -----------------------------------------------------------------------


def _tree(keys: Iterable[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key in keys:
        branch = tree
        for part in key.split("."):
            branch = branch.setdefault(part, {})
    return tree


_KNOWN = _tree([option.key for option in OPTIONS if option.key] + [key for key, _ in _UNUSED])


def _structure(document: Mapping[str, object], file: str, reading: _Reading) -> None:
    """What holds for the file beside its single values: version, shape, keys that nobody reads."""
    version = document.get("version")
    if version not in (None, "", "v1"):
        reading.problems.append(
            Problem(file, "version", version, "unknown version", "write version: v1")
        )
    for branch in ("flags", "imex", "agent"):
        _walk(Fields(document, file, "", reading.problems), branch, _KNOWN[branch], reading)
    for key, kind in _UNUSED:
        parent, _, name = key.rpartition(".")
        value: object = document
        for part in parent.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping):
            Fields(value, file, parent, reading.problems).get(name, kind, None)
    _resources(Fields(document, file, "", reading.problems), reading)


def _walk(parent: Fields, key: str, known: Mapping[str, Any], reading: _Reading) -> None:
    branch = parent.mapping(key)
    reading.warnings += unknown_keys(branch.data, known, branch.source, branch.path)
    for name, below in known.items():
        if below:
            _walk(branch, name, below, reading)


def _resources(document: Fields, reading: _Reading) -> None:
    """The file's resource patterns, which the shipped NVIDIA binary drops as well."""
    resources = document.mapping("resources")
    reading.warnings += unknown_keys(resources.data, ("gpus", "mig"), resources.source, "resources")
    for group in ("gpus", "mig"):
        for entry in resources.mappings(group):
            for key in ("pattern", "name"):
                entry.get(key, TEXT, "")
    if resources.data:
        reading.warnings.append(
            Problem(
                document.source,
                "resources",
                None,
                "ignored: resource names cannot be chosen by pattern",
                "remove it; name NVIDIA's resource by nvidia.resourceCountName",
            )
        )


def _sections(
    document: Mapping[str, object], file: str, vendor_names: tuple[str, ...], reading: _Reading
) -> dict[str, Mapping[str, object]]:
    """The vendors' parts, raw."""
    vendors = {*SECTIONS, *vendor_names} - set(_TOP)
    found: dict[str, Mapping[str, object]] = {}
    for name, value in document.items():
        if name in _TOP or value is None:
            continue
        known = (*_TOP, *sorted(vendors))
        remedy = nearest(name, known)
        if isinstance(value, Mapping):
            found[name] = value
            if name not in vendors and not remedy.startswith("known"):
                rule = f"kept for a vendor called {name}"
                reading.warnings.append(Problem(file, name, None, rule, remedy))
        elif isinstance(value, tuple) and name != NVIDIA:
            found[name] = MappingProxyType({name: value})
        elif name in vendors:
            rule = "not a mapping"
            reading.problems.append(
                Problem(file, name, value, rule, "write key: value pairs below it")
            )
        else:
            reading.warnings.append(Problem(file, name, value, "unknown key, ignored", remedy))
    for name, section in found.items():
        for key in section:
            reading.provenance[f"{name}.{key}" if name != key else name] = file
    return found


# --- NVIDIA's section --------------------------------------------------------------------------


def _overrides(
    document: Mapping[str, object], file: str, values: Mapping[str, Any], reading: _Reading
) -> tuple[NodeOverride, ...]:
    """What config.json says of this node."""
    node = values["node_name"]
    overrides, problems = parse_node_overrides(document, node, file)
    reading.problems += problems
    reading.warnings += node_override_warnings(document, node, file)
    for override in overrides:
        if override.mig_strategy not in (None, values["mig_strategy"]):
            reading.warnings.append(
                Problem(
                    file,
                    "migstrategy",
                    override.mig_strategy,
                    f"ignored: the MIG strategy is {values['mig_strategy']}",
                    "set --mig-strategy, MIG_STRATEGY or flags.migStrategy",
                )
            )
    return overrides


def _nvidia(
    section: Mapping[str, object],
    overrides: tuple[NodeOverride, ...],
    argv: Mapping[str, object],
    environ: Mapping[str, str],
    file: str,
    json_file: str,
    reading: _Reading,
) -> Mapping[str, object]:
    """The section with everything that is said elsewhere: HAMi's flags below, overrides above."""
    _, problems = parse_nvidia_section(section, file)
    reading.problems += problems
    reading.warnings += nvidia_section_warnings(section, file)
    below: dict[str, object] = {}
    for option in OPTIONS:
        found = find(option, argv, environ, "", EMPTY) if option.fallback else None
        if found is None:
            continue
        value, fits = reading.check(option.kind, found, None)
        if fits and section.get(option.fallback) is None:
            below[option.fallback] = value
            reading.provenance[f"{NVIDIA}.{option.fallback}"] = found.origin
    given = {key: value for key, value in section.items() if value is not None}
    for key in merge_overrides({}, overrides):
        reading.provenance[f"{NVIDIA}.{key}"] = json_file
    merged = merge_overrides({**below, **given}, overrides)
    reading.warnings += mode_warnings(
        merged, reading.provenance.get(f"{NVIDIA}.operatingMode", file)
    )
    return MappingProxyType(merged)
