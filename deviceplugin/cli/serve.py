"""``deviceplugin serve``: the node agent in the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from deviceplugin.cli.config import config_options
from deviceplugin.config import Config, ConfigError, Loaded, load
from deviceplugin.log import setup

if TYPE_CHECKING:
    from deviceplugin.allocation.deferred import GrantSource


@click.command()
@config_options
def serve(**values: object) -> None:
    """Run the node agent until SIGTERM; SIGHUP reads the configuration again.

    Serves every vendor that leaves traces on this node, or those named by --vendors. Exit codes:
    0 stopped by a signal, 1 refused configuration or no vendor could be served, 2 wrong usage.
    """
    try:
        loaded = load(values, os.environ)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        sys.exit(1)
    setup(loaded.config.log_level, loaded.config.log_format)
    asyncio.run(_serve(loaded, values))


async def _serve(loaded: Loaded, values: Mapping[str, object]) -> None:
    import structlog

    from deviceplugin import registry
    from deviceplugin.agent import Agent
    from deviceplugin.config.difference import differences
    from deviceplugin.config.reload import Outcome, Refused, Reloaded, Reloader
    from deviceplugin.http import Endpoint
    from deviceplugin.version import __version__

    log = structlog.get_logger()
    log.info("starting", version=__version__, node=loaded.config.node_name)
    for warning in loaded.warnings:
        log.warning("configuration", problem=str(warning))
    agent = Agent(loaded.config, registry.load(), grant_source=_grant_source)

    async def handle(outcome: Outcome) -> None:
        word = type(outcome).__name__.lower()
        agent.metrics.config_reloads.labels(word).inc()
        if isinstance(outcome, Refused):
            reason = "; ".join(map(str, outcome.problems))
            agent.readiness.block("configuration", f"refused, the old one stays: {reason}")
            log.error("configuration refused, the old one stays", reason=reason)
            return
        agent.readiness.clear("configuration")
        if isinstance(outcome, Reloaded):
            changes = differences(outcome.former.config, outcome.loaded.config)
            log.info("configuration reloaded", changes=changes)
            agent.apply(outcome.loaded.config)

    reloader = Reloader(loaded, lambda: load(values, os.environ), handle)
    endpoint = None
    if loaded.config.http_listen:
        try:
            endpoint = Endpoint(
                loaded.config.http_listen, agent.metrics.registry, agent.readiness.blockers
            )
        except OSError as error:
            # Metrics are no reason to leave a node without devices.
            log.error("no metrics", listen=loaded.config.http_listen, reason=str(error))
    # What was imported stays: a full collection that walks through it takes 20 ms of a pod's start.
    gc.freeze()
    loop = asyncio.get_running_loop()
    life = asyncio.gather(agent.run(), reloader.run())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        loop.add_signal_handler(number, life.cancel)
    loop.add_signal_handler(signal.SIGHUP, reloader.reload)
    with contextlib.suppress(asyncio.CancelledError):
        await life
    if endpoint:
        endpoint.close()
    log.info("stopped")


def _grant_source(config: Config) -> GrantSource:
    """Pods may ask for less than their share by annotation where there is an API server to ask."""
    from deviceplugin.allocation.deferred import AnnotatedShare, ShareOfIds
    from deviceplugin.apiserver.annotations import ApiPods
    from deviceplugin.apiserver.client import is_configured

    return AnnotatedShare(ApiPods()) if is_configured() else ShareOfIds()
