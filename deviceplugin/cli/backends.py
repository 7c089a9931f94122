"""Every installed vendor's scheduling half, made for the device configuration: HAMi's
``device-config.yaml`` or a file of our own. For the commands that decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from deviceplugin import registry
from deviceplugin.api.problems import Problem
from deviceplugin.config import ConfigError, Loaded, load
from deviceplugin.config.settings import section_of
from deviceplugin.vendor.scheduling import SchedulingBackend

__all__ = ["Configured", "backends_of", "configured"]


@dataclass(frozen=True, slots=True)
class Configured:
    """The configuration and what was made of it; `notes` are worth telling and stop nothing."""

    loaded: Loaded
    backends: tuple[SchedulingBackend, ...]
    notes: tuple[str, ...] = ()


def configured(path: str) -> Configured:
    """By the file, or by the defaults where `path` is empty. Raises `ConfigError`, also for a file
    without any vendor's section: one that is half written would undo everything.
    """
    found = registry.load()
    arguments: Mapping[str, object] = {"node_name": "scheduler", "config_json": ""}
    if path:
        arguments = {**arguments, "config_file": path}
    loaded = load(arguments, {}, vendor_names=found.vendors)
    if path and not loaded.config.sections:
        rule = "all configurations are empty"
        remedy = "write the sections of your vendors, or leave the file away for the defaults"
        raise ConfigError((Problem(path, "", None, rule, remedy),))
    return backends_of(loaded, found)


def backends_of(loaded: Loaded, found: registry.Registry) -> Configured:
    """One backend a word and a resource. Raises `ConfigError` for sections that vendors refuse."""
    problems: list[Problem] = []
    made: list[SchedulingBackend] = []
    for name, vendor in found.vendors.items():
        try:
            made += registry.load_scheduling(vendor, section_of(loaded.config, vendor))
        except RuntimeError as error:
            file = next(iter(loaded.files), "defaults")
            remedy = "correct the section"
            problems.append(Problem(file, vendor.section or name, None, str(error), remedy))
    if problems:
        raise ConfigError(tuple(problems), loaded.warnings)
    backends, taken = _unique(made)
    read = {
        key for v in found.vendors.values() for key in (v.section or v.name, *v.shared_sections)
    }
    idle = sorted(loaded.config.sections.keys() - read)
    notes = [*map(str, loaded.warnings), *taken]
    notes += [f"section {key}: no installed vendor reads it" for key in idle]
    return Configured(loaded, backends, tuple(notes))


def _unique(
    backends: Iterable[SchedulingBackend],
) -> tuple[tuple[SchedulingBackend, ...], list[str]]:
    """One backend a word and a resource, the first of each: the mock vendor has those of the vendor
    that it plays. And what is told of those that are left out.
    """
    words: dict[str, SchedulingBackend] = {}
    resources: dict[str, str] = {}
    told = []
    for backend in backends:
        word, resource = backend.keys.common_word, backend.resources.count
        if word in words or resource in resources:
            owner = word if word in words else resources[resource]
            told.append(f"{resource} of {word} is left out: {owner} is served already")
        else:
            words[word], resources[resource] = backend, word
    return tuple(words.values()), told
