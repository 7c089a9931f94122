"""``deviceplugin doctor``: what is wrong with this node, or with the cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deviceplugin.cli.config import config_options
from deviceplugin.cli.deciding import OPTION_NAMES, deciding_options
from deviceplugin.cli.reach import reach, reaching_options

if TYPE_CHECKING:
    from deviceplugin.doctor.cluster import Cluster
    from deviceplugin.doctor.fleet.scene import FleetScene
    from deviceplugin.hook.manifest import Manifest

DECIDING = ("kubeconfig", "context", *OPTION_NAMES)


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
    "--cluster",
    "whole",
    is_flag=True,
    help="Look at the whole cluster instead of this node, from anywhere: give the scheduler's "
    "options.",
)
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
    '{"node": ..., "pods": [...]}, or a List as kubectl get -o json writes it; with --cluster what '
    "`deviceplugin snapshot` wrote.",
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
@reaching_options
@deciding_options
@config_options
def doctor(
    whole: bool,
    strict: bool,
    only: Sequence[str],
    snapshot: Path | None,
    manifests: Sequence[Path],
    no_probe: bool,
    output: str,
    **values: Any,
) -> None:
    """Look for what keeps pods on this node from getting their devices, or limits from holding;
    with --cluster for what keeps them from it anywhere.

    Run it with the options of the agent, with --cluster those of the scheduler; it changes nothing.
    Exit codes: 0 no errors (with --strict: and no warnings), 1 some, 2 wrong usage.
    """
    from deviceplugin.cli import findings
    from deviceplugin.cli.scene import scene_of
    from deviceplugin.doctor.examine import GROUPS, examine
    from deviceplugin.doctor.fleet import examine as fleet
    from deviceplugin.doctor.model import Severity

    groups = fleet.GROUPS if whole else GROUPS
    names = [group.name for group in groups]
    if strange := sorted(set(only) - set(names)):
        text = f"no group {strange[0]}; known are {', '.join(names)}"
        raise click.BadParameter(text, param_hint="--only")
    given = {key: values.pop(key) for key in DECIDING}
    if whole:
        if manifests or no_probe:
            raise click.UsageError(
                "--manifest and --no-probe are about one node: leave them out with --cluster"
            )
        report = examine(_fleet(snapshot, given), only, groups)
    else:
        manifest, cluster = _manifest(manifests), _cluster(snapshot, given)
        scene = scene_of(values, os.environ, manifest, cluster, probe=not no_probe)
        report = examine(scene, only, groups)
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


def _cluster(snapshot: Path | None, given: Mapping[str, str]) -> Cluster | None:
    from deviceplugin.apiserver.client import Api, is_configured
    from deviceplugin.doctor.cluster import ApiCluster, SnapshotCluster, SnapshotError

    if snapshot is None:
        if given["kubeconfig"] or given["context"]:
            return ApiCluster(reach(given["kubeconfig"], given["context"]))
        return ApiCluster(Api()) if is_configured() else None
    try:
        return SnapshotCluster.read(snapshot)
    except SnapshotError as error:
        raise click.BadParameter(str(error), param_hint="--snapshot") from None


def _fleet(snapshot: Path | None, values: dict[str, Any]) -> FleetScene:
    """The cluster, and whom to ask more where it is there to be asked."""
    from datetime import UTC, datetime

    from deviceplugin.cli.explain import world_of
    from deviceplugin.doctor.fleet.scene import ApiAsking, FleetScene

    asking = None
    if snapshot is None:
        asking = ApiAsking(reach(values["kubeconfig"], values["context"]))
    world = world_of(snapshot, values)
    try:
        taken = datetime.fromisoformat(world.taken_at)
    except ValueError:
        taken = datetime.now(UTC)
    return FleetScene(world, taken, asking)
