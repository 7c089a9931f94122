"""``deviceplugin scheduler``: kube-scheduler's extender in the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from deviceplugin.cli.certificates import CertificateFlags, certificate_options, source
from deviceplugin.vendor.scheduling import Policy

if TYPE_CHECKING:
    from deviceplugin.scheduler.leadership import Leading
    from deviceplugin.vendor.scheduling import SchedulingBackend

IGNORED = (
    "default-mem",
    "default-cores",
    "default-gpu",
    "kube-qps",
    "kube-burst",
    "kube-timeout",
    "v",
)
SWITCHES = ("enable-ascend", "enable-iluvatar", "debug", "profiling", "logtostderr")
"""Flags of HAMi's scheduler that mean nothing here (hami-scheduler.md 1.1): taken, and told of.
Switches may be given alone or with ``=true`` and ``=false``, as its chart does.
"""

SWITCH: Mapping[str, Any] = {"is_flag": False, "flag_value": True, "type": click.BOOL}
DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
REQUESTS_AT_ONCE = 32
LEASE_REQUESTS = 2
"""One more than is waited for: the one before may still be without an answer."""
SCRAPE_SECONDS = 10.0


class Duration(click.ParamType[timedelta]):
    """A Go duration of hours, minutes and seconds."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> timedelta:
        """``5m``, ``1h30m``, ``90s``."""
        if isinstance(value, timedelta):
            return value
        found = DURATION.fullmatch(str(value))
        if not found or not any(found.groups()):
            self.fail(f"{value!r} is no duration: write 5m, 90s or 1h30m", param, ctx)
        hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return timedelta(hours=hours, minutes=minutes, seconds=seconds)


class Labels(click.ParamType[tuple[tuple[str, str], ...]]):
    """``key=value[,key=value]``."""

    name = "labels"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[tuple[str, str], ...]:
        """All of them have to be on a node."""
        if isinstance(value, tuple):
            return value
        pairs = []
        for part in filter(None, str(value).split(",")):
            key, sign, text = part.strip().partition("=")
            if not sign or not key:
                self.fail(f"{part!r} is not key=value", param, ctx)
            pairs.append((key, text))
        return tuple(pairs)


@dataclass(frozen=True, slots=True)
class Given:
    """The command's flags."""

    listen: str
    certificate: CertificateFlags
    scheduler_name: str
    node_policy: str
    card_policy: str
    device_config_file: str
    lock_timeout: timedelta
    node_labels: tuple[tuple[str, str], ...]
    metrics_listen: str
    metric_names: str
    takes_default: bool
    trusted: tuple[str, ...]
    agents: tuple[str, ...]
    leader_elect: bool
    lease_name: str
    lease_namespace: str
    lease_mode: str
    log_level: str
    log_format: str


@click.command(
    context_settings={"ignore_unknown_options": False, "help_option_names": ["-h", "--help"]}
)
@click.option(
    "--http_bind",
    "listen",
    default="127.0.0.1:8080",
    show_default=True,
    help="Where filter, bind and preempt are answered.",
)
@certificate_options
@click.option(
    "--scheduler-name",
    default="hami-scheduler",
    show_default=True,
    help="The name that pods give in spec.schedulerName.",
)
@click.option(
    "--node-scheduler-policy",
    "node_policy",
    default="binpack",
    show_default=True,
    type=click.Choice([Policy.BINPACK.value, Policy.SPREAD.value]),
    help="Which node first, unless a pod says otherwise.",
)
@click.option(
    "--gpu-scheduler-policy",
    "card_policy",
    default="spread",
    show_default=True,
    type=click.Choice([policy.value for policy in Policy]),
    help="Which card first, unless a pod says otherwise.",
)
@click.option("--device-config-file", default="", help="HAMi's device-config.yaml, or our own.")
@click.option(
    "--node-lock-timeout",
    "lock_timeout",
    default="5m",
    type=Duration(),
    show_default=True,
    help="Age at which an abandoned node lock may be taken over.",
)
@click.option(
    "--node-label-selector",
    "node_labels",
    default="",
    type=Labels(),
    help="Only nodes with all these labels: key=value[,key=value].",
)
@click.option(
    "--metrics-bind-address",
    "metrics_listen",
    default="127.0.0.1:9395",
    show_default=True,
    help="Address of /metrics, /healthz and /readyz; empty: off.",
)
@click.option(
    "--metric-names",
    "metric_names",
    default="v2.8",
    show_default=True,
    type=click.Choice(["v2.8", "v2.9", "both"]),
    help="Under whose metric names: HAMi's of 2.8, of 2.9 and later, or both.",
)
@click.option(
    "--force-overwrite-default-scheduler",
    "takes_default",
    default=True,
    show_default=True,
    help="Take over pods of default-scheduler that ask for a device.",
    **SWITCH,
)
@click.option(
    "--trusted-account",
    "trusted",
    multiple=True,
    help="An account that may write decisions on pods, as system:serviceaccount:NAMESPACE:NAME; "
    "repeatable. Where none is named, nothing is protected.",
)
@click.option(
    "--agent-account",
    "agents",
    multiple=True,
    help="A trusted account that may do so only for pods on its own node; repeatable.",
)
@click.option(
    "--leader-elect",
    "leader_elect",
    default=False,
    show_default=True,
    help="Several replicas: only the one that leads answers filter and bind.",
    **SWITCH,
)
@click.option(
    "--leader-elect-resource-name",
    "lease_name",
    default="",
    help="The Lease; empty: the scheduler's name.",
)
@click.option(
    "--leader-elect-resource-namespace",
    "lease_namespace",
    default="",
    envvar="POD_NAMESPACE",
    show_envvar=True,
    help="Its namespace.",
)
@click.option(
    "--leader-elect-mode",
    "lease_mode",
    default="follow",
    show_default=True,
    type=click.Choice(["follow", "own"]),
    help="follow: kube-scheduler is in the same pod and holds the Lease. own: the replicas stand "
    "behind a Service and elect one of them; the Lease has to be another than kube-scheduler's.",
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
)
@click.option(
    "--log-format",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "console", "json"]),
)
def scheduler(**values: Any) -> None:
    """Run the scheduler extender until SIGTERM.

    It watches pods and nodes, and answers kube-scheduler's filter, bind and preempt for the devices
    of every installed vendor. Exit codes: 0 stopped by a signal, 1 refused configuration, 2 wrong
    usage.
    """
    from deviceplugin.log import setup
    from deviceplugin.scheduler.certificates.pair import CertificateError

    ignored = {key: values.pop(key) for key in list(values) if key.startswith("ignored_")}
    given = Given(certificate=CertificateFlags.taken_from(values), **values)
    if given.leader_elect and not given.lease_namespace:
        raise click.UsageError(
            "--leader-elect needs to know where the Lease is: give "
            "--leader-elect-resource-namespace, or POD_NAMESPACE in the environment"
        )
    backends = _backends(given.device_config_file)
    setup(given.log_level, given.log_format)
    try:
        asyncio.run(
            _serve(given, backends, [key for key, value in ignored.items() if value is not None])
        )
    except (OSError, CertificateError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def _ignored(name: str, **how: Any) -> click.Option:
    dashes = "-" if len(name) == 1 else "--"
    variable = f"ignored_{name}".replace("-", "_")
    return click.Option([dashes + name, variable], default=None, hidden=True, **how)


scheduler.params += [_ignored(name) for name in IGNORED]
scheduler.params += [_ignored(name, **SWITCH) for name in SWITCHES]


def _backends(path: str) -> tuple[SchedulingBackend, ...]:
    """Every installed vendor's scheduling half, made for its section of the file."""
    from deviceplugin import registry
    from deviceplugin.config import ConfigError, load
    from deviceplugin.config.settings import section_of

    found = registry.load()
    arguments: Mapping[str, object] = {"node_name": "scheduler"}
    if path:
        arguments = {**arguments, "config_file": path}
    try:
        loaded = load(arguments, {}, vendor_names=found.vendors)
        made: list[SchedulingBackend] = []
        for vendor in found.vendors.values():
            made += registry.load_scheduling(vendor, section_of(loaded.config, vendor))
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        sys.exit(1)
    except RuntimeError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    return tuple(_unique(made))


def _unique(backends: Iterable[SchedulingBackend]) -> Iterable[SchedulingBackend]:
    """One backend a word and a resource: the mock vendor has those of the vendor that it plays."""
    words: set[str] = set()
    resources: set[str] = set()
    for backend in backends:
        word, resource = backend.keys.common_word, backend.resources.count
        if word not in words and resource not in resources:
            words.add(word)
            resources.add(resource)
            yield backend


def _leading(given: Given) -> Leading:
    import socket
    import uuid

    from deviceplugin.apiserver.client import Api, official_client
    from deviceplugin.scheduler.leadership import Alone, Elected, Followed

    if not given.leader_elect:
        return Alone()
    # Its own, so that a lease never waits behind what is decided.
    api = Api(lambda: official_client(LEASE_REQUESTS), LEASE_REQUESTS)
    hostname, name = socket.gethostname(), given.lease_name or given.scheduler_name
    if given.lease_mode == "follow":
        return Followed(api, given.lease_namespace, name, hostname)
    return Elected(api, given.lease_namespace, name, f"{hostname}_{uuid.uuid4()}")


async def _serve(given: Given, backends: tuple[SchedulingBackend, ...], ignored: list[str]) -> None:
    import structlog
    from prometheus_client import CollectorRegistry

    from deviceplugin.apiserver.client import Api, official_client
    from deviceplugin.http import Endpoint
    from deviceplugin.scheduler.metrics import Latencies, Moment, SchedulerMetrics
    from deviceplugin.scheduler.run import Scheduler
    from deviceplugin.scheduler.server import Server
    from deviceplugin.scheduler.settings import SchedulerSettings
    from deviceplugin.series import Names
    from deviceplugin.version import __version__

    log = structlog.get_logger()
    log.info("starting", version=__version__, scheduler=given.scheduler_name)
    for name in ignored:
        flag = name.removeprefix("ignored_").replace("_", "-")
        log.warning("a flag of HAMi's scheduler has no meaning here", flag=flag)
    settings = SchedulerSettings(
        name=given.scheduler_name,
        node_policy=Policy(given.node_policy),
        card_policy=Policy(given.card_policy),
        lock_timeout=given.lock_timeout,
        node_labels=given.node_labels,
        takes_default=given.takes_default,
        trusted=frozenset(given.trusted) | frozenset(given.agents),
        agents=frozenset(given.agents),
    )
    api = Api(lambda: official_client(REQUESTS_AT_ONCE), REQUESTS_AT_ONCE)
    registry = CollectorRegistry()
    tls = source(given.certificate, api)
    if tls is not None:
        registry.register(tls.metrics)
    running = Scheduler(
        settings, backends, api, _leading(given), tls.keeper if tls is not None else None
    )
    seconds = Latencies(registry).seconds
    server = Server(
        running.routes(),
        running.blockers,
        lambda path, took: seconds.labels(path.strip("/")).observe(took),
    )
    loop = asyncio.get_running_loop()

    async def now() -> Moment:
        return running.moment()

    def scraped() -> Moment:
        """From the scraping thread: the cluster belongs to the loop."""
        return asyncio.run_coroutine_threadsafe(now(), loop).result(SCRAPE_SECONDS)

    registry.register(SchedulerMetrics(scraped, Names(given.metric_names)))
    await server.start(given.listen, tls.serving.context if tls is not None else None)
    log.info("answering", address=":".join(map(str, server.address)), tls=tls is not None)
    metrics = None
    if given.metrics_listen:
        metrics = Endpoint(given.metrics_listen, registry, running.blockers)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    task = asyncio.create_task(running.run())
    await stop.wait()
    log.info("stopping")
    await server.close()
    if metrics is not None:
        await asyncio.to_thread(metrics.close)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
