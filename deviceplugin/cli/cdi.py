"""``deviceplugin cdi``: what a runtime would make of the CDI files of this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from deviceplugin.cdi import Cache

_EXITS = "Exit codes: 0 all well, 1 {one}, 2 wrong usage."
_COLUMNS = ("DEVICE", "CDI", "FILE")


def _directories(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--dir",
        "directories",
        metavar="DIR",
        multiple=True,
        type=click.Path(path_type=Path),
        help="Read this directory; of several, later ones win.  "
        "[default: /etc/cdi, then /var/run/cdi]",
    )(command)


class _Group(click.Group):
    """Brings ``generate`` in when asked: it loads the configuration and the vendors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), "generate"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "generate":
            from deviceplugin.cli.cdi_generate import generate

            return generate
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Group)
def cdi() -> None:
    """Look at Container Device Interface files as a runtime does."""


@cdi.command("list", epilog=_EXITS.format(one="a file is broken or devices conflict"))
@_directories
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to show them.",
)
def list_(directories: Sequence[Path], output: str) -> None:
    """List the devices that can be injected, and say why others cannot."""
    cache = _load(directories)
    devices = [cache.devices[name] for name in sorted(cache.devices)]
    rows = [(d.name, d.origin.spec.cdi_version, d.origin.path) for d in devices]
    if output == "json":
        data = [{"name": n, "cdiVersion": version, "path": str(path)} for n, version, path in rows]
        errors = {str(path): [str(e) for e in found] for path, found in cache.errors.items()}
        click.echo(json.dumps({"devices": data, "errors": errors}, indent=2))
    else:
        _table([(name, version, click.format_filename(path)) for name, version, path in rows])
        _tell_errors(cache)
    sys.exit(1 if cache.errors else 0)


@cdi.command(epilog=_EXITS.format(one="there are findings"))
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
def validate(files: Sequence[Path]) -> None:
    """Check files by every rule, also those that no runtime enforces."""
    broken = False
    for path in files:
        if findings := _findings(path):
            broken = True
            click.echo(findings, err=True)
        else:
            click.echo(f"{click.format_filename(path)}: valid")
    sys.exit(1 if broken else 0)


@cdi.command(epilog=_EXITS.format(one="a device is unresolvable"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_directories
def resolve(names: Sequence[str], directories: Sequence[Path]) -> None:
    """Print as JSON the edits that a runtime would apply for these devices together.

    A NAME is vendor/class=device, such as example.com/gpu=0.
    """
    from deviceplugin.cdi import UnresolvableError, combine, plain
    from deviceplugin.cdi import resolve as edits_of

    cache = _load(directories)
    try:
        edits = edits_of(dict.fromkeys(names), cache)
    except UnresolvableError as problem:
        click.echo(str(problem), err=True)
        _tell_errors(cache)
        sys.exit(1)
    click.echo(json.dumps(plain(combine(edits)), indent=2))


def _findings(path: Path) -> str:
    """All that is wrong with a file, a line each."""
    from deviceplugin.cdi import EXTENSIONS, CDIError, check, read_spec

    if path.suffix not in EXTENSIONS:
        return f"{path}: runtimes overlook it; let its name end in {' or '.join(EXTENSIONS)}"
    try:
        check(read_spec(path), str(path))
    except CDIError as problems:
        return str(problems)
    return ""


def _load(directories: Sequence[Path]) -> Cache:
    from deviceplugin.cdi import DEFAULT_DIRECTORIES, load_directories

    return load_directories(directories or DEFAULT_DIRECTORIES)


def _tell_errors(cache: Cache) -> None:
    for found in cache.errors.values():
        for problem in found:
            click.echo(str(problem), err=True)


def _table(rows: Sequence[tuple[str, str, str]]) -> None:
    """A table; plain columns where nobody looks, so that cut and awk have it easy."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Column, Table
        from rich.text import Text

        # Folded: of a name that is cut off nothing can be copied.
        table = Table(*(Column(c, overflow="fold") for c in _COLUMNS), box=None, pad_edge=False)
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    for row in (_COLUMNS, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
