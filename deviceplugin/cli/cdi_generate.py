"""``deviceplugin cdi generate``: the specifications that the agent would write for this node."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from deviceplugin.cli.config import config_options


@click.command()
@config_options
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory to write the files to, as a runtime reads them; default: print them.",
)
def generate(out: Path | None, **values: object) -> None:
    """Describe this node's devices as CDI specifications.

    Asks the drivers now; with --vendors NAME only those. Exit codes: 0 every vendor answered,
    1 a vendor gave no answer or has no CDI names of its own, 2 wrong usage.
    """
    from deviceplugin import registry
    from deviceplugin.cdi import CDIError, dumps, write_spec
    from deviceplugin.cli.probing import ask, load_or_exit
    from deviceplugin.config import settings_of
    from deviceplugin.vendor import InventoryWriter

    config = load_or_exit(values).config
    vendors = registry.load().vendors
    answers = ask(config)
    failed = not answers
    if failed:
        click.echo("No vendor's driver is on this node.", err=True)
    for answer in answers:
        if answer.state != "ok":
            click.echo(f"{answer.vendor}: {answer.state}: {answer.reason}", err=True)
            failed = failed or answer.state != "absent"
            continue
        backend = registry.load_backend(
            vendors[answer.vendor], settings_of(config, vendors[answer.vendor])
        )
        if not isinstance(backend, InventoryWriter):
            click.echo(f"{answer.vendor}: its devices have no CDI names of their own", err=True)
            failed = True
            continue
        try:
            for spec in backend.cdi_specs(answer.snapshot):
                if out is None:
                    click.echo(dumps(spec), nl=False)
                else:
                    write_spec(out, spec)
                    click.echo(f"wrote {spec.kind}: {len(spec.devices)} devices", err=True)
        except (CDIError, OSError, ValueError) as error:
            click.echo(f"{answer.vendor}: {error}", err=True)
            failed = True
    sys.exit(1 if failed else 0)
