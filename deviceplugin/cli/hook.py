"""``deviceplugin hook``: libvgpu on the host."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deviceplugin.hook.manifest import Manifest, ManifestError, load
from deviceplugin.hook.names import TARGET

if TYPE_CHECKING:
    from deviceplugin.hook.install import Outcome
    from deviceplugin.hook.status import Status

Command = TypeVar("Command", bound=Callable[..., Any])

_EXITS = "Exit codes: 0 {zero}, 1 {one}, 2 wrong usage."


def _options(command: Command) -> Command:
    for option in (
        click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text"),
        click.option(
            "--machine",
            metavar="NAME",
            default=platform.machine(),
            help="The node's machine, as uname -m names it.  [default: this one's]",
        ),
        click.option(
            "--manifest",
            "manifests",
            metavar="FILE",
            multiple=True,
            type=click.Path(path_type=Path),
            help="Checksums of more libraries, as JSON; may be repeated.",
        ),
        click.option(
            "--host-root",
            metavar="DIR",
            default="/",
            show_default=True,
            type=click.Path(path_type=Path),
            help="Where this process sees the host's root file system.",
        ),
        click.option(
            "--target",
            metavar="DIR",
            default=TARGET,
            show_default=True,
            help="The library's directory, a path on the host: the agent's --hook-path and /vgpu.",
        ),
    ):
        command = option(command)
    return command


@click.group()
def hook() -> None:
    """Bring libvgpu, which limits containers, to the host; check what is there.

    The library is HAMi-core's. It comes out of the image projecthami/hamicore, which an init
    container mounts or copies into a directory.
    """


@hook.command(epilog=_EXITS.format(zero="installed, or nothing to change", one="refused or failed"))
@click.option(
    "--source",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Directory with the library; in the image it is /k8s-vgpu/lib/nvidia.",
)
@click.option("--allow-unknown", is_flag=True, help="Also install what no manifest knows.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@_options
def install(
    source: Path,
    target: str,
    host_root: Path,
    manifests: Sequence[Path],
    machine: str,
    output: str,
    allow_unknown: bool,
    dry_run: bool,
) -> None:
    """Install the library in DIR and make it the one that new containers get.

    Running containers keep theirs: files are never written in place. A library that this command
    installed before goes at a later run, once no process maps it, no container has it mounted,
    kubelet has promised it to nobody and no CDI specification names it; to see the host's
    processes it needs the host's PID namespace. Refused are libraries that no manifest knows,
    those of another machine, and a directory that others than root may write to.
    """
    from deviceplugin.hook.install import InstallError, from_directory
    from deviceplugin.hook.install import install as run

    known = _manifest(manifests)
    try:
        library = from_directory(source, machine, known, allow_unknown=allow_unknown)
        outcome = run(_root(host_root), _target(target), library, known, machine, dry_run=dry_run)
    except InstallError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    _show_outcome(outcome, output, dry_run=dry_run)


@hook.command(epilog=_EXITS.format(zero="all is right", one="something is not"))
@_options
def verify(
    target: str,
    host_root: Path,
    manifests: Sequence[Path],
    machine: str,
    output: str,
) -> None:
    """Check that the library is there, known, whole and loaded by the preload file."""
    status = _status(target, host_root, manifests, machine)
    if output == "json":
        click.echo(json.dumps({"right": status.right, **_plain(status)}, indent=2))
    else:
        current = status.current
        if current is not None:
            known = "known" if current.known else "unknown"
            click.echo(f"current: {current.name} (version {current.version or '?'}, {known})")
        for trouble in status.troubles:
            click.echo(f"{'error' if trouble.fatal else 'warning'}: {trouble.what}", err=True)
            click.echo(f"  → {trouble.remedy}", err=True)
        if status.right:
            click.echo(f"preload: {status.preload}")
    sys.exit(0 if status.right else 1)


@hook.command("list", epilog=_EXITS.format(zero="listed", one="the manifest is refused"))
@_options
def list_(
    target: str,
    host_root: Path,
    manifests: Sequence[Path],
    machine: str,
    output: str,
) -> None:
    """List the libraries on the host, and those that the manifest knows."""
    known = _manifest(manifests)
    status = _status(target, host_root, manifests, machine)
    if output == "json":
        document = {
            "installed": _plain(status)["libraries"],
            "known": [asdict(item) for item in known.libraries],
            "releases": [asdict(item) for item in known.releases],
        }
        click.echo(json.dumps(document, indent=2))
        return
    rows = [
        (
            "*" if item.current else "",
            item.name,
            item.version or "?",
            "broken" if item.problem else "known" if item.known else "unknown",
            item.sha256,
        )
        for item in status.libraries
    ]
    if rows:
        _table(("", "FILE", "VERSION", "CONTENT", "SHA256"), rows)
    else:
        click.echo(f"no library in {status.target}")
    if known.libraries:
        click.echo()
        _table(
            ("KNOWN", "MACHINE", "SHA256"),
            [(item.version, item.machine, item.sha256) for item in known.libraries],
        )


def _manifest(files: Sequence[Path]) -> Manifest:
    try:
        return load(files)
    except ManifestError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def _status(target: str, root: Path, manifests: Sequence[Path], machine: str) -> Status:
    from deviceplugin.hook.status import verify as look

    return look(_root(root), _target(target), _manifest(manifests), machine)


def _root(path: Path) -> Path:
    if not path.is_dir():
        raise click.BadParameter(f"{path} is no directory", param_hint="--host-root")
    return path


def _target(path: str) -> str:
    if not path.startswith("/") or not path.rstrip("/"):
        raise click.BadParameter("write an absolute path below /", param_hint="--target")
    return path.rstrip("/")


def _plain(status: Status) -> dict[str, Any]:
    return asdict(status)


def _show_outcome(outcome: Outcome, output: str, *, dry_run: bool) -> None:
    if output == "json":
        document = {
            "dryRun": dry_run,
            "library": outcome.name,
            "steps": [str(step) for step in outcome.steps],
            "kept": [asdict(item) for item in outcome.kept],
            "troubles": [asdict(item) for item in outcome.status.troubles],
        }
        click.echo(json.dumps(document, indent=2))
        return
    for step in outcome.steps:
        click.echo(f"{'would do' if dry_run else 'done'}: {step}")
    for item in outcome.kept:
        click.echo(f"kept: {item.name}: {item.reason}")
    if not dry_run:
        for trouble in outcome.status.troubles:
            click.echo(f"warning: {trouble.what}; {trouble.remedy}", err=True)
    if not outcome.steps:
        click.echo(f"nothing to change: {outcome.name} is current")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
