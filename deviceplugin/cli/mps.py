"""``deviceplugin mps``: NVIDIA's MPS daemons of this node, in the foreground."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from deviceplugin.cli.config import config_options

if TYPE_CHECKING:
    from deviceplugin.config import Config
    from deviceplugin.vendors.nvidia.mps import Daemon

NVIDIA = "nvidia"
EXIT_FAILED, EXIT_CONFIGURATION = 1, 2


@click.command(
    epilog="Exit codes: 0 stopped by a signal, 1 driver or daemon failed, 2 configuration refused."
)
@config_options
@click.option(
    "--mps-dir",
    type=click.Path(path_type=Path),
    default=Path("/mps"),
    show_default=True,
    help="Where this process sees the directory that mpsRoot names on the host.",
)
def mps(mps_dir: Path, **values: object) -> None:
    """Run a daemon for each resource that is shared by MPS until SIGTERM: those of sharing.mps, and
    in operating mode mps (with nvidia.mpsLimits) the one that schedulers hand out.

    The agent waits for them; containers that use them end with them. Needs to be privileged, to
    share the host's process ids, and NVIDIA's tools nvidia-smi and nvidia-cuda-mps-control.
    With nothing to share it waits and does nothing.
    """
    from deviceplugin.vendor import DriverError
    from deviceplugin.vendors.nvidia.mps import REAL, MpsError, serve

    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    config = _loaded(values)
    try:
        if not _shares(config):
            click.echo("nothing is shared by MPS on this node; waiting for SIGTERM", err=True)
            stopped.wait()
            return
        wanted = _daemons(config, mps_dir)
        for daemon in wanted:
            what = f"{len(daemon.devices)} device(s), {daemon.replicas} clients each"
            click.echo(f"MPS daemon of {daemon.resource}: {what}", err=True)
        serve(wanted, mps_dir, REAL, stopped.wait)
    except (DriverError, MpsError, OSError) as error:
        _fail(str(error), EXIT_FAILED)
    except ValueError as error:
        _fail(str(error), EXIT_CONFIGURATION)


def _loaded(values: dict[str, object]) -> Config:
    from deviceplugin import registry
    from deviceplugin.config import ConfigError, load

    names = [entry.name for entry in registry.installed()]
    try:
        return load(values, os.environ, vendor_names=names).config
    except ConfigError as error:
        _fail(str(error), EXIT_CONFIGURATION)


def _shares(config: Config) -> bool:
    """Whether anything is to be shared by MPS. Raises `ValueError`."""
    from deviceplugin.config import vendor_settings
    from deviceplugin.vendors.nvidia import settings

    return bool(config.sharing.mps) or settings.read(vendor_settings(config, NVIDIA)).mps


def _daemons(config: Config, root: Path) -> tuple[Daemon, ...]:
    from deviceplugin.config import vendor_settings
    from deviceplugin.vendors.nvidia.mps import daemons
    from deviceplugin.vendors.nvidia.node import NvidiaNode

    node = NvidiaNode(vendor_settings(config, NVIDIA))
    snapshot = node.discover()
    return daemons(node.plan(snapshot), snapshot, root)


def _fail(text: str, status: int) -> NoReturn:
    click.secho(f"deviceplugin mps: {text}", err=True, fg="red")
    sys.exit(status)
