"""``deviceplugin doctor``: what is wrong with this node."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deviceplugin.cli.config import config_options

if TYPE_CHECKING:
    from deviceplugin.doctor.cluster import Cluster
    from deviceplugin.hook.manifest import Manifest


def _explain(ctx: click.Context, _: click.Parameter, identity: str | None) -> None:
    """Eager, so that it needs nothing else to be right."""
    if identity is None:
        return
    from deviceplugin.api.problems import nearest
    from deviceplugin.cli.findings import explained
    from deviceplugin.doctor.examine import catalogue

    topics = catalogue()
    if identity not in topics:
        raise click.BadParameter(f"no such finding: {identity}; {nearest(identity, topics)}")
    click.echo(explained(topics[identity]))
    ctx.exit(0)


@click.command()
@click.option(
    "--explain",
    metavar="ID",
    expose_value=False,
    callback=_explain,
    is_eager=True,
    help="Print what a finding means and what to do, and check nothing.",
)
@click.option("--strict", is_flag=True, help="End with 1 for warnings as well.")
@click.option(
    "--only",
    metavar="GROUP",
    multiple=True,
    help="Look only for what this group looks for; may be repeated.",
)
@click.option(
    "--snapshot",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Take node and pods from this file instead of asking the API server: "
    '{"node": ..., "pods": [...]}, or a List as kubectl get -o json writes it.',
)
@click.option(
    "--manifest",
    "manifests",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Checksums of more libvgpu libraries, as for hook verify; may be repeated.",
)
@click.option("--no-probe", is_flag=True, help="Do not ask the vendors' drivers.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "plain", "json"]),
    default="table",
    show_default=True,
    help="table: for people, worst first. plain: one line a finding, fields between tabs.",
)
@config_options
def doctor(
    strict: bool,
    only: Sequence[str],
    snapshot: Path | None,
    manifests: Sequence[Path],
    no_probe: bool,
    output: str,
    **values: object,
) -> None:
    """Look for what keeps pods on this node from getting their devices, or limits from holding.

    Run it with the options of the agent; it changes nothing. Exit codes: 0 no errors (with
    --strict: and no warnings), 1 some, 2 wrong usage.
    """
    from deviceplugin.cli import findings
    from deviceplugin.cli.scene import scene_of
    from deviceplugin.doctor.examine import GROUPS, examine
    from deviceplugin.doctor.model import Severity

    names = [group.name for group in GROUPS]
    if strange := sorted(set(only) - set(names)):
        raise click.BadParameter(f"no group {strange[0]}; known are {', '.join(names)}")
    manifest, cluster = _manifest(manifests), _cluster(snapshot)
    scene = scene_of(values, os.environ, manifest, cluster, probe=not no_probe)
    report = examine(scene, only)
    click.echo(findings.RENDERERS[output](report))
    refused = (Severity.ERROR, Severity.WARNING) if strict else (Severity.ERROR,)
    sys.exit(1 if any(map(report.count, refused)) else 0)


def _manifest(files: Sequence[Path]) -> Manifest:
    from deviceplugin.hook.manifest import ManifestError
    from deviceplugin.hook.manifest import load as load_manifest

    try:
        return load_manifest(files)
    except ManifestError as error:
        raise click.BadParameter(str(error), param_hint="--manifest") from None


def _cluster(snapshot: Path | None) -> Cluster | None:
    from deviceplugin.apiserver.client import Api, is_configured
    from deviceplugin.doctor.cluster import ApiCluster, SnapshotCluster, SnapshotError

    if snapshot is None:
        return ApiCluster(Api()) if is_configured() else None
    try:
        return SnapshotCluster.read(snapshot)
    except SnapshotError as error:
        raise click.BadParameter(str(error), param_hint="--snapshot") from None
