"""The command line's side of the configuration: its options, and ``deviceplugin config``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import click

from deviceplugin import registry
from deviceplugin.api.hami_config import NVIDIA, parse_nvidia_section, section_values
from deviceplugin.config import (
    OPTIONS,
    Config,
    ConfigError,
    Loaded,
    Option,
    Problem,
    effective,
    load,
)

Command = TypeVar("Command", bound=Callable[..., Any])


def shown(value: object) -> str:
    """A value on one line, as one would write it."""
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple) and all(isinstance(item, str) for item in value):
        return ",".join(value) or "[]"
    return json.dumps(value, default=_plain)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no configuration value")


def config_options(command: Command) -> Command:
    """Give a click command every option of the configuration.

    The values arrive as keyword arguments under `Option.name`, None (or an empty tuple) where the
    flag was not given, and go to `load` as they are: texts, because `load` checks all sources by
    the same rules and tells all problems at once.
    """
    for option in reversed(OPTIONS):
        command = _click_option(option)(command)
    return command


def _click_option(option: Option) -> Callable[[Command], Command]:
    help_text = option.help
    if option.env:
        help_text += f" [env: {', '.join(option.env)}]"
    if option.default not in (None, "", ()):
        help_text += f" [default: {shown(option.default)}]"
    given: dict[str, Any] = {"metavar": option.kind.form, "help": help_text}
    if option.kind.form == "true|false":
        # Both --flag and --flag=false, as Go's flags have it.
        given |= {"is_flag": False, "flag_value": "true"}
    if option.kind.several:
        given["multiple"] = True
    return click.option(*option.flags, option.name, type=str, default=None, **given)


@click.group("config")
def config() -> None:
    """Look at the configuration."""


@config.command()
@config_options
@click.argument("file", required=False)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def check(file: str | None, output: str, **values: object) -> None:
    """Check FILE (or what --config-file or CONFIG_FILE names) as the agent would read it here,
    together with this environment and the options given. Prints every effective value with its
    source. Ends with 0 when the agent would start, with 1 when it would refuse.
    """
    if file is not None:
        values["config_file"] = file
    vendor_names = [entry.name for entry in registry.installed()]
    try:
        loaded = load(values, os.environ, vendor_names=vendor_names)
    except ConfigError as error:
        report(output, None, error.warnings, error.problems)
        sys.exit(1)
    report(output, loaded, loaded.warnings, ())


@config.command("options")
def list_options() -> None:
    """Print every option as a Markdown table: flag, environment, key in the file, default."""
    click.echo("| flag | environment | key in the file | default | what it does |")
    click.echo("|---|---|---|---|---|")
    for option in OPTIONS:
        flags = ", ".join(f"`{flag}`" for flag in option.flags)
        names = ", ".join(f"`{name}`" for name in option.env)
        key = f"`{option.key}`" if option.key else ""
        default = f"`{shown(option.default)}`" if option.default not in (None, "", ()) else ""
        click.echo(f"| {flags} | {names} | {key} | {default} | {option.help} |")


def report(
    output: str,
    loaded: Loaded | None,
    warnings: tuple[Problem, ...],
    problems: tuple[Problem, ...],
) -> None:
    """Print a verdict: values on standard output, warnings and problems on standard error; as
    JSON everything on standard output.
    """
    rows = list(listing(loaded)) if loaded else []
    if output == "json":
        document = {
            "valid": not problems,
            "values": {key: {"value": value, "source": source} for key, value, source in rows},
            "warnings": [_as_json(warning) for warning in warnings],
            "problems": [_as_json(problem) for problem in problems],
        }
        click.echo(json.dumps(document, indent=2, default=_plain))
        return
    texts = [("KEY", "VALUE", "SOURCE"), *((key, shown(value), src) for key, value, src in rows)]
    if rows:
        widths = [max(len(text[column]) for text in texts) for column in (0, 1)]
        for key, value, source in texts:
            click.echo(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {source}")
    for warning in warnings:
        click.secho(f"warning: {warning}", err=True, fg="yellow")
    for problem in problems:
        click.secho(f"problem: {problem}", err=True, fg="red")
    if problems:
        click.echo(f"refused: {len(problems)} problem(s)", err=True)


def listing(loaded: Loaded) -> Iterator[tuple[str, object, str]]:
    """Every effective value: its key in the file, the value, where it comes from."""
    config = loaded.config
    origin = loaded.provenance
    for option in OPTIONS:
        if option.field:
            key = option.key or option.field
            yield key, effective(config, option), origin[key]
    for key, value in _shared(config):
        yield key, value, origin["sharing"]
    for name, section in config.sections.items():
        members = section_values(parse_nvidia_section(section)[0]) if name == NVIDIA else section
        for member, value in members.items():
            key = name if member == name else f"{name}.{member}"
            yield key, value, origin.get(key, "default")


def _shared(config: Config) -> Iterator[tuple[str, object]]:
    for kind, entries in (
        ("timeSlicing", config.sharing.time_slicing),
        ("mps", config.sharing.mps),
    ):
        for resource, entry in entries.items():
            yield (
                f"sharing.{kind}[{resource}]",
                {
                    "replicas": entry.replicas,
                    "failRequestsGreaterThanOne": entry.fail_requests_greater_than_one,
                    "renamed": entry.renamed,
                },
            )


def _as_json(problem: Problem) -> dict[str, object]:
    return {
        "source": problem.source,
        "path": problem.path,
        "value": problem.value,
        "rule": problem.rule,
        "remedy": problem.remedy,
    }
