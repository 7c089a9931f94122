"""The command ``deviceplugin``: loads only the room that the command needs."""

from __future__ import annotations

import importlib

import click

from deviceplugin.version import __version__

COMMANDS = {
    "serve": ("deviceplugin.cli.serve:serve", "Run the node agent."),
    "scheduler": ("deviceplugin.cli.scheduler:scheduler", "Run the scheduler extender."),
    "demo": ("deviceplugin.cli.demo:demo", "Watch pods get their slices, without hardware."),
    "devices": ("deviceplugin.cli.devices:devices", "List the devices of this node."),
    "record": ("deviceplugin.cli.record:record", "Save what this node's drivers say."),
    "mps": ("deviceplugin.cli.mps:mps", "Run NVIDIA's MPS daemons for shared resources."),
    "doctor": ("deviceplugin.cli.doctor:doctor", "Say what is wrong with this node, and why."),
    "explain": ("deviceplugin.cli.explain:explain", "Say why a pod waits, or why it is there."),
    "snapshot": ("deviceplugin.cli.snapshot:snapshot", "Capture a cluster in a file."),
    "simulate": ("deviceplugin.cli.simulate:simulate", "Say where pods would go, and why not."),
    "conformance": (
        "deviceplugin.cli.conformance:conformance",
        "Check a vendor's module against the contract.",
    ),
    "hook": ("deviceplugin.cli.hook:hook", "Bring libvgpu to the host, and check it."),
    "cleanup": ("deviceplugin.cli.cleanup:cleanup", "Remove what the agent left on this node."),
    "cdi": ("deviceplugin.cli.cdi:cdi", "Look at CDI specifications."),
    "config": ("deviceplugin.cli.config:config", "Look at the configuration."),
    "version": ("deviceplugin.cli.main:version", "Print the version."),
}


class LazyGroup(click.Group):
    """Imports a command when it is called; the list of commands costs nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list for --help, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Slices of any accelerator for Kubernetes, with limits that hold.

    Exit codes of every command: 0 success, 1 it did not hold or was refused, 2 wrong usage.
    """


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"deviceplugin {__version__}")


def run() -> None:
    """The console script."""
    cli(prog_name="deviceplugin")
