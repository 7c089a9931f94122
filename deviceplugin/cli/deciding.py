"""The options that decide where pods go: those of the scheduler, and of every command that says
what it would do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deviceplugin.cli.values import SWITCH, Labels, Scheduler
from deviceplugin.vendor.scheduling import Policy

if TYPE_CHECKING:
    from deviceplugin.cli.backends import Configured
    from deviceplugin.placement.fit import Backends
    from deviceplugin.scheduler.settings import SchedulerSettings

__all__ = [
    "OPTION_NAMES",
    "Deciding",
    "configured_or_exit",
    "deciding",
    "deciding_options",
    "output_option",
]

WRONG_USAGE = 2
"""The exit code."""

F = TypeVar("F", bound=Callable[..., Any])

output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="text: for people. json: everything, for programs.",
)
"""How a command that says what it would do tells it."""

OPTIONS = (
    click.option(
        "--scheduler-name",
        type=Scheduler(),
        default="hami-scheduler",
        show_default=True,
        help="The name that pods give in spec.schedulerName.",
    ),
    click.option(
        "--node-scheduler-policy",
        "node_policy",
        default="binpack",
        show_default=True,
        type=click.Choice([Policy.BINPACK.value, Policy.SPREAD.value]),
        help="Which node first, unless a pod says otherwise.",
    ),
    click.option(
        "--gpu-scheduler-policy",
        "card_policy",
        default="spread",
        show_default=True,
        type=click.Choice([policy.value for policy in Policy]),
        help="Which card first, unless a pod says otherwise.",
    ),
    click.option(
        "--device-config-file",
        metavar="FILE",
        default="",
        help="HAMi's device-config.yaml, or our own; without one each vendor's defaults count.",
    ),
    click.option(
        "--node-label-selector",
        "node_labels",
        default="",
        type=Labels(),
        help="Only nodes with all these labels: key=value[,key=value]; without them all nodes.",
    ),
    click.option(
        "--force-overwrite-default-scheduler",
        "takes_default",
        default=True,
        show_default=True,
        help="Take over pods of default-scheduler that ask for a device.",
        **SWITCH,
    ),
)


OPTION_NAMES = (
    "scheduler_name",
    "node_policy",
    "card_policy",
    "device_config_file",
    "node_labels",
    "takes_default",
)
"""Under which their values come to a command."""


def deciding_options(command: F) -> F:
    """Adds them to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Deciding:
    """Who decides: the backends by word, and the settings that go into it. `config` is a digest of
    the device configuration, empty for the defaults.
    """

    backends: Backends
    settings: SchedulerSettings
    config: str


def deciding(values: dict[str, Any]) -> Deciding:
    """Takes the options out of a command's values. Ends the program, and says why, where the device
    configuration is refused.
    """
    import hashlib
    from pathlib import Path

    from deviceplugin.scheduler.settings import SchedulerSettings

    path = values.pop("device_config_file")
    found = configured_or_exit(path, WRONG_USAGE)
    settings = SchedulerSettings(
        name=values.pop("scheduler_name"),
        node_policy=Policy(values.pop("node_policy")),
        card_policy=Policy(values.pop("card_policy")),
        node_labels=values.pop("node_labels"),
        takes_default=values.pop("takes_default"),
    )
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""
    return Deciding({b.keys.common_word: b for b in found.backends}, settings, digest)


def configured_or_exit(path: str, status: int) -> Configured:
    """The backends of a device configuration. Ends the program where it is refused, saying why."""
    from deviceplugin.cli.backends import configured
    from deviceplugin.config import ConfigError

    try:
        return configured(path)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        sys.exit(status)
