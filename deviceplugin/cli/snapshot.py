"""``deviceplugin snapshot``: a cluster in a file, without anybody's secrets."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import click

from deviceplugin.cli.deciding import deciding, deciding_options
from deviceplugin.cli.reach import failed, reach, reaching_options
from deviceplugin.userfiles import unusable


@click.command()
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Where to; packed where the name ends with .gz.",
)
@reaching_options
@deciding_options
def snapshot(output: Path, **values: Any) -> None:
    """Capture what a scheduler goes by: nodes, pods and quotas, for explain and simulate.

    Values of variables, arguments, images, volumes and all other annotations and labels stay out.
    Exit codes: 0 written, 1 the cluster or the file could not be reached, 2 wrong usage.
    """
    from deviceplugin.apiserver.client import ApiError
    from deviceplugin.explain.capture import capture
    from deviceplugin.explain.snapshot import write

    gc.disable()  # much is made, and all of it is written
    api = reach(values.pop("kubeconfig"), values.pop("context"))
    decides = deciding(values)
    labels = frozenset(key for key, _ in decides.settings.node_labels)
    try:
        found = capture(api, decides.backends, labels, decides.config)
        write(found, output)
    except (ApiError, OSError) as error:
        text = unusable(output, error, "written") if isinstance(error, OSError) else failed(error)
        click.echo(f"error: {text}", err=True)
        sys.exit(1)
    amounts = f"{len(found.nodes):,} nodes, {len(found.pods):,} pods, {len(found.quotas):,} quotas"
    click.echo(f"{output}: {amounts}, {output.stat().st_size:,} bytes")
