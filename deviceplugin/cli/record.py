"""``deviceplugin record``: this node's drivers' answer as a profile for the mock vendor."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from deviceplugin.cli.config import config_options


@click.command()
@config_options
@click.option("--vendor", required=True, metavar="NAME", help="Whose driver to record.")
@click.option("--mask", is_flag=True, help="Replace uuids and serials by others of that shape.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write; default stdout.")
def record(vendor: str, mask: bool, out: Path | None, **values: object) -> None:
    """Save what a driver says as a profile.

    Replay it anywhere with the mock vendor: ``mock: {profile: ./FILE}`` in the configuration.
    Exit codes: 0 saved, 1 the driver gave no answer, 2 wrong usage.
    """
    from deviceplugin import registry
    from deviceplugin.cli.probing import ask, load_or_exit
    from deviceplugin.vendors.mock.replay import profile_from_snapshot

    config = load_or_exit({**values, "vendors": (vendor,)}).config
    (answer,) = ask(config, usage=True)
    if answer.state != "ok":
        click.echo(f"{vendor}: {answer.state}: {answer.reason}", err=True)
        sys.exit(1)
    resource = registry.load().vendors[vendor].resource
    text = profile_from_snapshot(vendor, resource, answer.snapshot, {}, mask, answer.usages)
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text)
        click.echo(f"wrote {len(answer.snapshot.devices)} devices to {out}", err=True)
