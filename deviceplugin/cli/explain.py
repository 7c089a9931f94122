"""``deviceplugin explain POD``: why a pod waits, or why it is where it is."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from deviceplugin.cli.deciding import Deciding, deciding, deciding_options, output_option
from deviceplugin.cli.reach import failed, reach, reaching_options
from deviceplugin.cli.values import check_nodes

if TYPE_CHECKING:
    from deviceplugin.explain.world import World

__all__ = ["explain", "world_of"]


@click.command()
@click.argument("pod", metavar="POD")
@click.option("-n", "--namespace", default="", help="Of the pod; else POD is NAMESPACE/NAME.")
@click.option(
    "--node",
    "nodes",
    metavar="NAME",
    multiple=True,
    help="List the cards of this node, each with its verdict; may be repeated.",
)
@click.option("--all-nodes", is_flag=True, help="List the cards of every node.")
@click.option(
    "--snapshot",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Go by a cluster that `deviceplugin snapshot` captured, instead of asking the API server.",
)
@output_option
@reaching_options
@deciding_options
def explain(
    pod: str,
    namespace: str,
    nodes: tuple[str, ...],
    all_nodes: bool,
    snapshot: Path | None,
    output: str,
    **values: Any,
) -> None:
    """Say why a pod waits and what would make it fit, or why it is where it is.

    It reads nodes, pods and quotas and decides by the scheduler's own code: give it the scheduler's
    options. Exit codes: 0 the pod has its devices or will get them, 1 somebody has to do something,
    there is no such pod, or the API server did not answer, 2 wrong usage, or a file cannot be used.
    """
    from deviceplugin.cli.accounts import as_json, as_text
    from deviceplugin.explain.story import NoSuchPodError, explained

    space, name = _named(pod, namespace)
    world = world_of(snapshot, values)
    try:
        account = explained(world, space, name)
    except NoSuchPodError as error:
        _fail(error)
    check_nodes(nodes, world.traits, "--node")
    shown = sorted(account.verdicts) if all_nodes else nodes
    click.echo((as_json if output == "json" else as_text)(account, world, shown))
    sys.exit(0 if account.standing.well else 1)


def world_of(snapshot: Path | None, values: dict[str, Any]) -> World:
    """The cluster that a command's options mean, captured in a file or now. Ends the program, and
    says why, where it cannot be had.
    """
    from deviceplugin.apiserver.client import ApiError
    from deviceplugin.explain.capture import capture
    from deviceplugin.explain.snapshot import SnapshotError, read
    from deviceplugin.explain.world import rebuilt

    # Much is made, all of it is needed to the end, and the end is near.
    gc.disable()
    kubeconfig, context = values.pop("kubeconfig"), values.pop("context")
    decides: Deciding = deciding(values)
    try:
        if snapshot is None:
            labels = frozenset(key for key, _ in decides.settings.node_labels)
            found = capture(reach(kubeconfig, context), decides.backends, labels, decides.config)
        else:
            found = read(snapshot, decides.backends)
        if found.config != decides.config:
            click.echo(
                "warning: the cluster was captured with another device configuration; give the "
                "same one by --device-config-file",
                err=True,
            )
        return rebuilt(found, decides.backends, decides.settings)
    except SnapshotError as error:
        if snapshot is not None:
            raise click.BadParameter(str(error), param_hint="--snapshot") from None
        _fail(error)
    except ApiError as error:
        _fail(failed(error))


def _fail(error: object) -> NoReturn:
    click.echo(f"error: {error}", err=True)
    sys.exit(1)


def _named(pod: str, namespace: str) -> tuple[str, str]:
    """Namespace and name, as kubectl's users write them. Raises `click.UsageError`."""
    first, slash, rest = pod.removeprefix("pod/").partition("/")
    if not first or (slash and not rest) or "/" in rest:
        raise click.BadParameter(
            f"{pod!r:.80} is no pod: write NAME and --namespace, or NAMESPACE/NAME",
            param_hint="POD",
        )
    if slash and namespace and first != namespace:
        raise click.UsageError(f"POD says namespace {first}, --namespace says {namespace}")
    return (first, rest) if slash else (namespace or "default", first)
