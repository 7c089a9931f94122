"""Where a value comes from: command line over environment over file over built-in default.

The overrides of ``config.json`` stand between environment and file and touch NVIDIA's section
only; `deviceplugin.config.parse` merges them there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deviceplugin.config.options import NODE_NAME, Option

__all__ = ["COMMAND_LINE", "DEFAULT", "ENVIRONMENT", "Found", "find", "from_command_line", "lookup"]

COMMAND_LINE, ENVIRONMENT, DEFAULT = "command line", "environment", "default"


@dataclass(frozen=True, slots=True)
class Found:
    """A raw value and its place. `text` says that it is the text of a flag or a variable, to be
    read as such; a file's values have types of their own.
    """

    value: object
    source: str
    path: str
    text: bool = False

    @property
    def origin(self) -> str:
        """The place in a few words, for people."""
        if self.source in (COMMAND_LINE, DEFAULT):
            return self.path or self.source
        return f"{self.path} ({self.source})" if self.source == ENVIRONMENT else self.source


def find(
    option: Option,
    argv: Mapping[str, object],
    environ: Mapping[str, str],
    file: str,
    document: Mapping[str, object],
) -> Found | None:
    """The value of the highest source that has one; None leaves it to the default.

    The node's name is the exception to the order: the flag ``--node-name`` is one of those that
    HAMi ignores, so NODE_NAME beats it (hami-nvidia-node.md 1.1).
    """
    given = from_command_line(option, argv)
    variable = _from_environment(option, environ)
    if option is NODE_NAME:
        return variable if variable and variable.path == "NODE_NAME" else given or variable
    if given or variable:
        return given or variable
    value = lookup(document, option.key) if option.key else None
    if value is None or (value == "" and not option.kind.blank):
        return None
    return Found(value, file, option.key)


def from_command_line(option: Option, argv: Mapping[str, object]) -> Found | None:
    """What the command line says. A repeatable flag that was never given is an empty tuple."""
    value = argv.get(option.name)
    if value is None or value == ():
        return None
    if isinstance(value, str):
        value = value.removeprefix("=") if option.flags[-1] == "-v" else value
        return Found(value, COMMAND_LINE, option.flags[0], text=True)
    if isinstance(value, tuple | list) and all(isinstance(item, str) for item in value):
        return Found(",".join(value), COMMAND_LINE, option.flags[0], text=True)
    return Found(value, COMMAND_LINE, option.flags[0])


def _from_environment(option: Option, environ: Mapping[str, str]) -> Found | None:
    for name in option.env:
        value = environ.get(name)
        if value is not None and (value.strip() or option.kind.blank):
            return Found(value.strip(), ENVIRONMENT, name, text=True)
    return None


def lookup(document: Mapping[str, object], key: str) -> object:
    """The value at a dotted key; None where the path ends early."""
    value: object = document
    for part in key.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value
