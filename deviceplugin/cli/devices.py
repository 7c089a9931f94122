"""``deviceplugin devices``: what this node has, asked of the drivers now."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from deviceplugin.cli.config import config_options

if TYPE_CHECKING:
    from deviceplugin.vendor import Sharing

COLUMNS = (
    *("VENDOR", "INDEX", "UUID", "MODEL", "MEMORY MiB", "CORES %", "NUMA", "SHARING"),
    *("HEALTH", "REASON"),
)


@click.command()
@config_options
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
def devices(output: str, **values: object) -> None:
    """List this node's devices: how they are shared, their health and its reason.

    Asks the drivers themselves, beside a running agent. Exit codes: 0 every vendor answered,
    1 a vendor gave no answer or the configuration is refused, 2 wrong usage.
    """
    from deviceplugin.cli.probing import ask, load_or_exit, offered
    from deviceplugin.probe.stream import snapshot_to_dict

    config = load_or_exit(values).config
    answers = ask(config)
    sharing = {
        (one.vendor, uuid): _word(one.plan.split.sharing)
        for one in offered(config, answers)
        for uuid in one.plan.devices
    }
    if output == "json":
        shown = [
            {
                "vendor": answer.vendor,
                "state": answer.state,
                "reason": answer.reason,
                **snapshot_to_dict(answer.snapshot),
                "sharing": {
                    u: word for (vendor, u), word in sharing.items() if vendor == answer.vendor
                },
            }
            for answer in answers
        ]
        click.echo(json.dumps(shown, indent=2))
    else:
        rows = [
            (
                answer.vendor,
                device.index,
                device.uuid,
                device.model,
                "?" if device.memory_mib is None else str(device.memory_mib),
                str(device.cores_percent),
                "-" if device.numa_node is None else str(device.numa_node),
                sharing.get((answer.vendor, device.uuid), "-"),
                "healthy" if device.healthy else "unhealthy",
                device.reason,
            )
            for answer in answers
            for device in answer.snapshot.devices
        ]
        if rows:
            _table(rows)
        for answer in answers:
            if answer.state != "ok":
                click.echo(f"{answer.vendor}: {answer.state}: {answer.reason}", err=True)
            for problem in answer.snapshot.problems:
                click.echo(f"{answer.vendor}: {problem}", err=True)
        if not answers:
            click.echo(
                "No vendor's driver is on this node; --vendors mock simulates one.", err=True
            )
    sys.exit(0 if all(answer.state in ("ok", "absent") for answer in answers) else 1)


def _word(sharing: Sharing) -> str:
    return f"{sharing} (cooperative)" if sharing.cooperative else str(sharing)


def _table(rows: Sequence[Sequence[str]]) -> None:
    """Rich on a terminal, aligned text otherwise."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*COLUMNS, box=None, header_style="bold")
        for row in rows:
            style = "" if row[COLUMNS.index("HEALTH")] == "healthy" else "red"
            table.add_row(*row, style=style)
        Console().print(table)
        return
    widths = [max(len(row[i]) for row in (COLUMNS, *rows)) for i in range(len(COLUMNS))]
    for row in (COLUMNS, *rows):
        click.echo(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
