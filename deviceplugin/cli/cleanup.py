"""``deviceplugin cleanup``: leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deviceplugin.cli.config import config_options
from deviceplugin.config import ConfigError, load

if TYPE_CHECKING:
    from deviceplugin.apiserver.client import Api
    from deviceplugin.cleanup import Item


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option(
    "--pre-stop",
    is_flag=True,
    help="As a DaemonSet's preStop hook: act only when the DaemonSet itself is being removed.",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@config_options
def cleanup(dry_run: bool, pre_stop: bool, output: str, **values: object) -> None:
    """Remove what the agent left on this node: its annotations of the Node, a lock that only it
    would have released, sockets, CDI specifications and records.

    Run it with the options of the agent, after the agent has stopped. Running containers keep
    what they have; kubelet shows the resources with 0 until it restarts. --pre-stop reads
    POD_NAME, POD_NAMESPACE and asks the API server whether the DaemonSet of that pod is gone or
    going. Exit codes: 0 all removed, 1 something could not be or an agent still runs, 2 wrong
    usage.
    """
    from deviceplugin.apiserver.client import Api, is_configured
    from deviceplugin.cleanup import InUseError, api_items, check_idle, file_items, report
    from deviceplugin.leaving import Leaving

    try:
        config = load(values, os.environ).config
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        sys.exit(1)
    api = Api() if is_configured() else None
    if pre_stop and (api is None or not _is_going(api)):
        click.echo("the DaemonSet stays: nothing is removed")
        return
    run_dir = Path(config.paths.run_dir)
    try:
        if not pre_stop:
            check_idle(run_dir)
    except InUseError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    if pre_stop and not dry_run:
        with contextlib.suppress(OSError):  # what it puts back then is what another cleanup takes
            Leaving(run_dir).announce()
    paths = (Path(config.paths.plugin_dir), Path(config.paths.cdi_dir), run_dir)
    items = list(file_items(*paths, dry_run=dry_run))
    if api is not None:
        items += api_items(api, config.node_name, dry_run=dry_run)
        if items and not dry_run and (untold := report(api, config.node_name, items)):
            click.echo(f"not told on the Node: {untold}", err=True)
    _show(items, output, dry_run=dry_run, asked=api is not None)
    sys.exit(1 if any(item.problem for item in items) else 0)


def _show(items: Sequence[Item], output: str, *, dry_run: bool, asked: bool) -> None:
    plain = [asdict(item) for item in items]
    if output == "json":
        click.echo(json.dumps({"dryRun": dry_run, "items": plain}, indent=2))
        return
    verb = "would remove" if dry_run else "removed"
    for item in plain:
        if item["problem"]:
            click.echo(f"could not remove {item['kind']} {item['name']}: {item['problem']}")
        else:
            click.echo(f"{verb} {item['kind']} {item['name']}")
    if not asked:
        click.echo("the Node object was not looked at: no way to an API server (KUBECONFIG)")
    if not plain:
        click.echo("nothing of the agent is left here")


def _is_going(api: Api) -> bool:
    """Whether the DaemonSet of this pod is deleted or being deleted; when that cannot be told, it
    counts as staying.
    """
    from deviceplugin.apiserver.client import ApiError
    from deviceplugin.apiserver.client import Path as ApiPath

    namespace, name = os.environ.get("POD_NAMESPACE", ""), os.environ.get("POD_NAME", "")
    if not namespace or not name:
        return False
    try:
        own = api.call("GET", ApiPath.pod(namespace, name))
        owners = own.get("metadata", {}).get("ownerReferences") or ()
        kind = next((one for one in owners if one.get("kind") == "DaemonSet"), None)
        if kind is None:
            return False
        template = "/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"
        owner = api.call("GET", ApiPath(template, {"namespace": namespace, "name": kind["name"]}))
    except ApiError as error:
        return error.is_missing
    metadata = owner.get("metadata", {})
    return bool(metadata.get("deletionTimestamp")) or metadata.get("uid") != kind.get("uid")
