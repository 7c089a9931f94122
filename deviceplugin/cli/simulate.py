"""``deviceplugin simulate``: what would become of pods on a cluster that nobody has to touch."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deviceplugin.cli.deciding import Deciding, deciding, deciding_options, output_option
from deviceplugin.cli.values import check_nodes
from deviceplugin.userfiles import read_yaml

if TYPE_CHECKING:
    from deviceplugin.explain.coming import Comer
    from deviceplugin.explain.snapshot import Snapshot
    from deviceplugin.testing.clusters import Plan


@click.command()
@click.argument("snapshot", metavar="[SNAPSHOT]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--generate",
    metavar="PLAN",
    help="Make a cluster instead: nodes=100,cards=8,pods=500,mix=a100:1+t4:1,seed=7, or a YAML "
    "file of the same. Default 100 nodes of 8 cards, and 5 pods for 4 cards where they fit.",
)
@click.option(
    "--add",
    "files",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Pods to come, or what makes pods (a Deployment, a Job); may be repeated.",
)
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    help="How many of each that is added; default what it says itself.",
)
@click.option(
    "--remove-node",
    "removed",
    metavar="NAME",
    multiple=True,
    help="Without this node: its pods need another place; may be repeated.",
)
@click.option("--only-added", is_flag=True, help="Leave those out that wait in the cluster.")
@click.option("--list", "listing", is_flag=True, help="Say of every pod where it goes.")
@output_option
@deciding_options
def simulate(
    snapshot: Path | None,
    generate: str | None,
    files: tuple[Path, ...],
    replicas: int | None,
    removed: tuple[str, ...],
    only_added: bool,
    listing: bool,
    output: str,
    **values: Any,
) -> None:
    """Say where pods would go on a captured or generated cluster, what is left, and who would wait.

    The pods that wait in the cluster come first, the most important at the head; then those that
    are added. It decides by the scheduler's own code and asks no API server. Exit codes: 0 all
    find a place, 1 some wait, 2 wrong usage, or a file cannot be used.
    """
    from deviceplugin.cli.simulated import as_json, as_text
    from deviceplugin.explain.coming import waiting, without
    from deviceplugin.explain.simulate import simulate as simulated
    from deviceplugin.explain.snapshot import SnapshotError
    from deviceplugin.explain.world import rebuilt

    if (snapshot is None) == (generate is None):
        raise click.UsageError("give either a SNAPSHOT or --generate PLAN")
    if not files and (only_added or replicas is not None):
        raise click.UsageError("--only-added and --replicas are about pods that come: give --add")
    gc.disable()  # much is made, all of it is needed to the end, and the end is near
    decides = deciding(values)
    added = [comer for file in files for comer in _comers(file, replicas)]
    try:
        captured = _captured(snapshot, generate, decides)
        known = {str(node["metadata"].get("name")) for node in captured.nodes}
        check_nodes(removed, known, "--remove-node")
        captured = without(captured, removed, decides.backends)
        world = rebuilt(captured, decides.backends, decides.settings)
    except SnapshotError as error:
        raise click.BadParameter(str(error), param_hint="SNAPSHOT") from None
    found = simulated(world, [*([] if only_added else waiting(world)), *added])
    click.echo(as_json(found) if output == "json" else as_text(found, listing=listing))
    sys.exit(0 if all(outcome.node for outcome in found.outcomes) else 1)


def _captured(snapshot: Path | None, generate: str | None, decides: Deciding) -> Snapshot:
    """Raises `SnapshotError`, and `click.BadParameter` for a plan."""
    from deviceplugin.explain.snapshot import Shapes, Snapshot, read
    from deviceplugin.testing.clusters import generate as generated

    if snapshot is not None:
        return read(snapshot, decides.backends)
    try:
        made = generated(_plan(generate or ""), tuple(decides.backends.values()))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--generate") from None
    shapes = Shapes(decides.backends)
    return Snapshot(tuple(map(shapes.node, made.nodes)), tuple(map(shapes.pod, made.pods)))


def _plan(text: str) -> Plan:
    """From ``key=value`` pairs, or from a file of the same. Raises `ValueError`."""
    from deviceplugin.api.problems import shown
    from deviceplugin.testing.clusters import Plan

    given: dict[str, Any] = {}
    if text.endswith((".yaml", ".yml", ".json")):
        entries: Any = next(iter(read_yaml(Path(text))), None)
        if not isinstance(entries, Mapping):
            raise ValueError(f"{text}: write key: value pairs")
        given = {str(key): value for key, value in entries.items()}
    else:
        for part in filter(None, text.split(",")):
            key, sign, value = part.strip().partition("=")
            if not sign:
                raise ValueError(f"{part!r} is not key=value, and no file of YAML by its name")
            if key in given:
                raise ValueError(f"{key} stands twice: remove one")
            given[key] = value
    if strange := sorted(given.keys() - PLANNED.keys()):
        raise ValueError(f"no {strange[0]!r}; there are {', '.join(PLANNED)}")
    plan: dict[str, Any] = {}
    for key, value in given.items():
        read, form = PLANNED[key]
        try:
            plan[key] = read(value)
        except (TypeError, ValueError):
            raise ValueError(f"{key} cannot be {shown(value)}: write {form}") from None
    return Plan(**plan)


def _whole(value: Any) -> int:
    """Raises `ValueError`."""
    if isinstance(value, bool | float):
        raise ValueError
    return int(value)


def _mix(value: Any) -> dict[str, float]:
    """``a100:3+t4:1``, or a mapping."""
    pairs = (
        value.items()
        if isinstance(value, Mapping)
        else (part.partition(":")[::2] for part in str(value).split("+"))
    )
    return {str(name): 1.0 if share == "" else float(share) for name, share in pairs}


PLANNED: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    **dict.fromkeys(("nodes", "cards", "pods", "seed"), (_whole, "a whole number")),
    **dict.fromkeys(("full", "churn", "deferred"), (float, "a share from 0 to 1")),
    "mix": (_mix, "shares of sorts, for example a100:3+t4:1"),
}
"""What a generated cluster is made by, each with how it is read and what to write."""


def _comers(file: Path, replicas: int | None) -> Iterator[Comer]:
    """Raises `click.BadParameter`."""
    from deviceplugin.explain.coming import comers

    try:
        yield from comers(read_yaml(file), str(file), replicas)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--add") from None
