"""The way to a cluster's API server, as people have it: a kubeconfig, or the pod's own account."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from deviceplugin.apiserver.client import Api, ApiError

__all__ = ["NO_WAY", "failed", "reach", "reaching_options"]

F = TypeVar("F", bound=Callable[..., Any])

NO_WAY = (
    "no way to an API server: give --kubeconfig, set KUBECONFIG, run in a pod with a service "
    "account, or give a captured cluster with --snapshot"
)

_OPTIONS = (
    click.option(
        "--kubeconfig",
        metavar="FILE",
        default="",
        help="Whom to ask; else KUBECONFIG, the pod's own account, or ~/.kube/config.",
    ),
    click.option("--context", metavar="NAME", default="", help="One of the kubeconfig's contexts."),
)


def reaching_options(command: F) -> F:
    """Adds the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def reach(kubeconfig: str, context: str) -> Api:
    """A client. Raises `click.UsageError` where there is no way to any server."""
    from deviceplugin.apiserver.client import Api, ApiError, is_configured, official_client

    path = kubeconfig
    if not path and not is_configured():
        usual = Path("~/.kube/config").expanduser()
        if not usual.is_file():
            raise click.UsageError(NO_WAY)
        path = str(usual)
    if context and not (path or os.environ.get("KUBECONFIG")):
        raise click.UsageError("--context needs a kubeconfig: a pod's own account has none")
    api = Api(partial(official_client, path=path, context=context))
    try:
        api.prepare()
    except ApiError as error:
        raise click.UsageError(str(error)) from None
    return api


def failed(error: ApiError) -> str:
    """What an API server did not do, and the remedy where that is on this side."""
    if error.is_forbidden:
        return f"{error}; give this account the right to it, or name another kubeconfig or context"
    if not error.status:
        where = "that the kubeconfig has its address and authority"
        return f"{error}; see that the server is up, and {where}"
    return str(error)
