"""``deviceplugin simulate``: what would become of pods on a cluster that nobody has to touch."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deviceplugin.cli.deciding import Deciding, deciding, deciding_options

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
    "file of the same.",
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
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True
)
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
    find a place, 1 some wait, or a file cannot be used, 2 wrong usage.
    """
    from deviceplugin.cli.simulated import as_json, as_text
    from deviceplugin.explain.coming import waiting, without
    from deviceplugin.explain.simulate import simulate as simulated
    from deviceplugin.explain.snapshot import SnapshotError
    from deviceplugin.explain.world import rebuilt

    if (snapshot is None) == (generate is None):
        raise click.UsageError("give either a SNAPSHOT or --generate PLAN")
    gc.disable()  # much is made, all of it is needed to the end, and the end is near
    decides = deciding(values)
    try:
        added = [comer for file in files for comer in _comers(file, replicas)]
        captured = _captured(snapshot, generate, decides)
        known = {str(node["metadata"].get("name")) for node in captured.nodes}
        if strange := sorted(set(removed) - known):
            raise click.BadParameter(f"no node {strange[0]}", param_hint="--remove-node")
        captured = without(captured, removed, decides.backends)
        world = rebuilt(captured, decides.backends, decides.settings)
    except (SnapshotError, ValueError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    found = simulated(world, [*([] if only_added else waiting(world)), *added])
    click.echo(as_json(found) if output == "json" else as_text(found, listing=listing))
    sys.exit(0 if all(outcome.node for outcome in found.outcomes) else 1)


def _captured(snapshot: Path | None, generate: str | None, decides: Deciding) -> Snapshot:
    from deviceplugin.explain.snapshot import Shapes, Snapshot, read
    from deviceplugin.testing.clusters import generate as generated

    if snapshot is not None:
        return read(snapshot, decides.backends)
    made = generated(_plan(generate or ""), tuple(decides.backends.values()))
    shapes = Shapes(decides.backends)
    return Snapshot(tuple(map(shapes.node, made.nodes)), tuple(map(shapes.pod, made.pods)))


def _plan(text: str) -> Plan:
    """From ``key=value`` pairs, or from a file of the same. Raises `ValueError`."""
    from deviceplugin.testing.clusters import Plan

    if text.endswith((".yaml", ".yml")):
        entries: Any = next(iter(_documents(Path(text))), {})
        if not isinstance(entries, Mapping):
            raise ValueError(f"{text}: write key: value pairs")
        given = {str(key): value for key, value in entries.items()}
    else:
        given = {}
        for part in filter(None, text.split(",")):
            key, sign, value = part.strip().partition("=")
            if not sign:
                raise ValueError(f"--generate: {part!r} is not key=value")
            given[key] = value
    if strange := sorted(given.keys() - PLANNED.keys()):
        raise ValueError(f"--generate: no {strange[0]!r}; there are {', '.join(PLANNED)}")
    plan: dict[str, Any] = {}
    for key, value in given.items():
        try:
            plan[key] = PLANNED[key](value)
        except (TypeError, ValueError):
            raise ValueError(f"--generate: {key} cannot be {value!r}") from None
    return Plan(**plan)


def _mix(value: Any) -> dict[str, float]:
    """``a100:3+t4:1``, or a mapping."""
    pairs = (
        value.items()
        if isinstance(value, Mapping)
        else (part.partition(":")[::2] for part in str(value).split("+"))
    )
    return {str(name): float(share or 1) for name, share in pairs}


PLANNED: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("nodes", "cards", "pods", "seed"), int),
    **dict.fromkeys(("full", "churn", "deferred"), float),
    "mix": _mix,
}
"""What a generated cluster is made by, each with how it is read."""


def _comers(file: Path, replicas: int | None) -> Iterator[Comer]:
    from deviceplugin.explain.coming import comers

    return comers(_documents(file), str(file), replicas)


def _documents(file: Path) -> list[Any]:
    """Raises `ValueError` and `OSError`, naming the file."""
    import yaml

    try:
        return list(yaml.safe_load_all(file.read_text("utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
