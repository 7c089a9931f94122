"""``deviceplugin scheduler``: kube-scheduler's extender in the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from deviceplugin.api.fields import address_text
from deviceplugin.cli.certificates import CertificateFlags, certificate_options, source
from deviceplugin.cli.deciding import configured_or_exit, deciding_options
from deviceplugin.cli.values import SWITCH, SYSTEM, Account, Address, Duration, Name, duration
from deviceplugin.vendor.scheduling import Policy

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from deviceplugin.apiserver.client import Api
    from deviceplugin.cli.backends import Configured
    from deviceplugin.config.reload import Reloader
    from deviceplugin.scheduler.leadership import Leading
    from deviceplugin.scheduler.run import Scheduler

IGNORED: Mapping[str, str] = {
    **dict.fromkeys(
        ("default-mem", "default-cores", "default-gpu"),
        "the vendors' sections of --device-config-file say what a pod gets that does not",
    ),
    **dict.fromkeys(("kube-qps", "kube-burst", "kube-timeout"), "the API server throttles itself"),
    **dict.fromkeys(
        (
            "cambricon-mlu-name",
            "cambricon-mlu-memory",
            "cambricon-mlu-cores",
            "dcu-name",
            "dcu-memory",
            "dcu-cores",
            "mthreads-name",
            "mthreads-memory",
            "mthreads-cores",
            "metax-name",
            "metax-vcount",
            "metax-vcore",
            "metax-vmemory",
            "enflame-gcu-resource-name",
            "enflame-vgcu-resource-name",
            "enflame-vgcu-percentage-resource-name",
            "kunlun-name",
            "kunlun-vcount",
            "kunlun-vmemory",
        ),
        "--device-config-file names resources",
    ),
    "node-lock-retry-timeout": "a bind waits in line for 25 s",
    **dict.fromkeys(
        (
            "v",
            "vmodule",
            "log_backtrace_at",
            "log_dir",
            "log_file",
            "log_file_max_size",
            "stderrthreshold",
        ),
        "see --log-level",
    ),
}
SWITCHES: Mapping[str, str] = {
    **dict.fromkeys(
        ("enable-ascend", "enable-iluvatar"), "every installed vendor's resources are served"
    ),
    "sgpu-topology-aware": "write metax.sgpuTopologyAware in --device-config-file",
    "legacy-metrics": "see --metric-names",
    "profiling": "there are no profiles",
    **dict.fromkeys(
        (
            "debug",
            "logtostderr",
            "alsologtostderr",
            "add_dir_header",
            "one_output",
            "skip_headers",
            "skip_log_headers",
        ),
        "see --log-level",
    ),
}
"""Flags of HAMi's scheduler that mean nothing here, and what does instead (hami-scheduler.md 1.1):
taken, and told of. Switches may be given alone or with ``=true`` and ``=false``, as its chart does.
"""

REFUSED = 1
"""The exit code for a configuration that is."""
LOCK_TIMEOUT = "HAMI_NODELOCK_EXPIRE"
REQUESTS_AT_ONCE = 32
LEASE_REQUESTS = 2
"""One more than is waited for: the one before may still be without an answer."""
SCRAPE_SECONDS = 10.0
DECIDING = ("/filter", "/bind", "/preempt")
"""What only the leader answers: a connection that reached another is closed, to be made anew."""


class Leaving:
    """The way from the first signal to the end. Made on the event loop."""

    def __init__(self) -> None:
        self.asked, self._hurry = asyncio.Event(), asyncio.Event()

    def ask(self) -> None:
        """A signal came."""
        (self._hurry if self.asked.is_set() else self.asked).set()

    def blockers(self) -> Mapping[str, str]:
        """Why nobody new should come."""
        return {"process": "it is stopping"} if self.asked.is_set() else {}

    async def delay(self, at_most: timedelta) -> None:
        """Until it is time, or another signal came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most.total_seconds()):
                await self._hurry.wait()


@dataclass(frozen=True, slots=True)
class Given:
    """The command's flags."""

    listen: str
    certificate: CertificateFlags
    scheduler_name: str
    node_policy: str
    card_policy: str
    device_config_file: str
    lock_timeout: timedelta | None
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
    lease_duration: timedelta
    renew_deadline: timedelta
    retry_period: timedelta
    decision_lifetime: timedelta
    shutdown_delay: timedelta
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
    type=Address(),
    help="Where filter, bind and preempt are answered, :PORT for all of IPv4.",
)
@certificate_options
@deciding_options
@click.option(
    "--node-lock-timeout",
    "lock_timeout",
    type=Duration(),
    help="Age at which an abandoned node lock may be taken over; without it HAMI_NODELOCK_EXPIRE "
    "of the environment counts, else 5m.",
)
@click.option(
    "--metrics-bind-address",
    "metrics_listen",
    default="127.0.0.1:9395",
    show_default=True,
    type=Address(optional=True),
    help="Address of /metrics, /healthz and /readyz, :PORT for all of IPv4; empty: off.",
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
    "--trusted-account",
    "trusted",
    multiple=True,
    type=Account(),
    help="An account that may write decisions on pods, as system:serviceaccount:NAMESPACE:NAME, or "
    "another user's name; repeatable. Where none is named, nothing is protected.",
)
@click.option(
    "--agent-account",
    "agents",
    multiple=True,
    type=Account(service=True),
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
    metavar="NAME",
    default="",
    type=Name("Lease"),
    help="The Lease; empty: the scheduler's name.",
)
@click.option(
    "--leader-elect-resource-namespace",
    "lease_namespace",
    metavar="NAMESPACE",
    default="",
    type=Name("Namespace"),
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
    "behind a Service and elect one of them; the Lease has to be another than kube-scheduler's. "
    "With POD_NAME and POD_NAMESPACE in the environment the leader's pod is labelled "
    "scheduler.deviceplugin.dev/role=leader, for the Service to select.",
)
@click.option(
    "--leader-elect-lease-duration",
    "lease_duration",
    default="15s",
    type=Duration(),
    show_default=True,
    help="With a Lease of their own: how long after its last renewal others take it over.",
)
@click.option(
    "--leader-elect-renew-deadline",
    "renew_deadline",
    default="10s",
    type=Duration(),
    show_default=True,
    help="With a Lease of their own: how long after its last renewal a replica ceases to lead.",
)
@click.option(
    "--leader-elect-retry-period",
    "retry_period",
    default="2s",
    type=Duration(),
    show_default=True,
    help="With a Lease of their own: how often it is renewed, or tried to get.",
)
@click.option(
    "--decision-lifetime",
    "decision_lifetime",
    default="5m",
    type=Duration(),
    show_default=True,
    help="How long what was decided about a pod counts while nobody comes to bind it.",
)
@click.option(
    "--shutdown-delay",
    default="0s",
    type=Duration(),
    show_default=True,
    help="After SIGTERM, answer on for so long, not ready, and close each connection with its next "
    "answer, so that callers move to other replicas. Another signal ends it at once.",
)
@click.option(
    "--log-level",
    default="info",
    help="What is logged: this and what weighs more.",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
)
@click.option(
    "--log-format",
    default="auto",
    help="auto: console on a terminal, else json.",
    show_default=True,
    type=click.Choice(["auto", "console", "json"]),
)
def scheduler(**values: Any) -> None:
    """Run the scheduler extender until SIGTERM.

    It watches pods and nodes, and answers kube-scheduler's filter, bind and preempt for the devices
    of every installed vendor. Durations are Go's: 90s, 5m, 1h30m. Exit codes: 0 stopped by a
    signal, 1 refused configuration, no way to an API server, or an address that is taken, 2 wrong
    usage.
    """
    from deviceplugin.apiserver.client import ApiError
    from deviceplugin.log import setup
    from deviceplugin.scheduler.certificates.pair import CertificateError

    ignored = [
        flag for flag in (*IGNORED, *SWITCHES) if values.pop(_variable(flag), None) is not None
    ]
    given = Given(certificate=CertificateFlags.taken_from(values), **values)
    if given.leader_elect and not given.lease_namespace:
        raise click.UsageError(
            "--leader-elect needs to know where the Lease is: give "
            "--leader-elect-resource-namespace, or POD_NAMESPACE in the environment"
        )
    if given.leader_elect and not given.lease_name:
        try:
            Name("Lease").convert(given.scheduler_name, None, None)
        except click.BadParameter as error:
            raise click.UsageError(
                f"the Lease is called as the scheduler is, but {error}; or give it a name of its "
                "own with --leader-elect-resource-name"
            ) from None
    first = configured_or_exit(given.device_config_file, REFUSED)
    setup(given.log_level, given.log_format)
    try:
        asyncio.run(_serve(given, first, ignored))
    except (OSError, ApiError, CertificateError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(REFUSED)


def _ignored(name: str, **how: Any) -> click.Option:
    short = [f"-{name}"] if len(name) == 1 else []  # which Go's flags take with two dashes, too
    return click.Option([*short, f"--{name}", _variable(name)], default=None, hidden=True, **how)


def _variable(flag: str) -> str:
    return f"ignored_{flag}".replace("-", "_")


scheduler.params += [_ignored(name) for name in IGNORED]
scheduler.params += [_ignored(name, **SWITCH) for name in SWITCHES]


def _lock_timeout(warn: Callable[..., object]) -> timedelta:
    """What the environment says; what it says wrongly does not count, as with HAMi."""
    from deviceplugin.api.hami.nodelock import TIMEOUT

    text = os.environ.get(LOCK_TIMEOUT, "")
    try:
        return duration(text) if text else TIMEOUT
    except ValueError as error:
        warn("a variable of the environment is ignored", variable=LOCK_TIMEOUT, reason=str(error))
        return TIMEOUT


def _leading(given: Given) -> Leading:
    import socket
    import uuid

    from deviceplugin.apiserver.client import Api, official_client
    from deviceplugin.scheduler.leadership import Alone, Elected, Followed, Timing

    if not given.leader_elect:
        return Alone()
    # Its own, so that a lease never waits behind what is decided.
    api = Api(lambda: official_client(LEASE_REQUESTS), LEASE_REQUESTS)
    hostname, name = socket.gethostname(), given.lease_name or given.scheduler_name
    if given.lease_mode == "follow":
        return Followed(api, given.lease_namespace, name, hostname)
    seconds = (given.lease_duration, given.renew_deadline, given.retry_period)
    try:
        timing = Timing(*(each.total_seconds() for each in seconds))
    except ValueError as error:
        raise click.UsageError(f"--leader-elect-lease-duration and the like: {error}") from None
    identity = f"{hostname}_{uuid.uuid4()}"
    return Elected(api, given.lease_namespace, name, identity, timing)


def _role(
    given: Given, api: Api, leading: Leading
) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
    """Labels this replica's pod, where it is known and a Service has to find the leader."""
    from deviceplugin.scheduler.role import RoleLabel

    namespace, name = os.environ.get("POD_NAMESPACE"), os.environ.get("POD_NAME")
    if not (given.leader_elect and given.lease_mode == "own" and namespace and name):
        return {}
    return {"role": RoleLabel(api, leading, namespace, name).run}


def _reloader(
    path: str, first: Configured, running: Scheduler, metrics: CollectorRegistry
) -> Reloader:
    """Follows the device configuration; tells of it in events where it knows its own pod."""
    from deviceplugin.apiserver.events import Subject
    from deviceplugin.cli.backends import configured
    from deviceplugin.cli.following import FAILED, Following
    from deviceplugin.config.reload import Reloader

    namespace, name, uid = (
        os.environ.get(f"POD_{key}", "") for key in ("NAMESPACE", "NAME", "UID")
    )
    pod = Subject.pod(namespace, name, uid)

    def say(reason: str, message: str) -> None:
        if namespace and name:
            running.events.say(pod, reason, message, warning=reason == FAILED)

    following = Following(running.serve, say, metrics)
    return Reloader(first.loaded, lambda: configured(path).loaded, following.handle)


def _warn(given: Given, first: Configured, ignored: list[str], warn: Callable[..., object]) -> None:
    """Of what was given, what has no effect, and what may not be what was meant."""
    for flag in ignored:
        instead = IGNORED.get(flag) or SWITCHES[flag]
        warn("a flag of HAMi's scheduler has no meaning here", flag=flag, instead=instead)
    for user in given.trusted:
        if not user.startswith(SYSTEM):
            warn(
                "a trusted account is a user, and no service account",
                user=user,
                remedy="if a service account is meant, write system:serviceaccount:NAMESPACE:NAME",
            )
    for note in first.notes:
        warn("device configuration", note=note)


async def _serve(given: Given, first: Configured, ignored: list[str]) -> None:
    import structlog
    from prometheus_client import CollectorRegistry

    from deviceplugin.apiserver.client import Api, official_client
    from deviceplugin.http import Endpoint
    from deviceplugin.scheduler.garbage import keep_aside
    from deviceplugin.scheduler.metrics import Latencies, Moment, SchedulerMetrics
    from deviceplugin.scheduler.run import Scheduler
    from deviceplugin.scheduler.server import Server
    from deviceplugin.scheduler.settings import SchedulerSettings
    from deviceplugin.series import Names
    from deviceplugin.version import __version__

    log = structlog.get_logger()
    log.info("starting", version=__version__, scheduler=given.scheduler_name)
    _warn(given, first, ignored, log.warning)
    lock_timeout = given.lock_timeout
    settings = SchedulerSettings(
        name=given.scheduler_name,
        node_policy=Policy(given.node_policy),
        card_policy=Policy(given.card_policy),
        lock_timeout=_lock_timeout(log.warning) if lock_timeout is None else lock_timeout,
        decision_lifetime=given.decision_lifetime.total_seconds(),
        node_labels=given.node_labels,
        takes_default=given.takes_default,
        trusted=frozenset(given.trusted) | frozenset(given.agents),
        agents=frozenset(given.agents),
    )
    api = Api(lambda: official_client(REQUESTS_AT_ONCE), REQUESTS_AT_ONCE)
    registry = CollectorRegistry()
    tls = source(given.certificate, api)
    for collector in tls.collectors:
        registry.register(collector)
    latencies = Latencies(registry)
    running = Scheduler(settings, first.backends, api, _leading(given), latencies.lock_wait.observe)

    leaving = Leaving()

    def blockers() -> Mapping[str, str]:
        return {**running.blockers(), **tls.blockers(), **leaving.blockers()}

    server = Server(
        running.routes(),
        blockers,
        lambda path, took: latencies.seconds.labels(path.strip("/")).observe(took),
        lambda path: path in DECIDING and not running.leading.is_leader(),
    )
    loop = asyncio.get_running_loop()

    async def now() -> Moment:
        return running.moment()

    def scraped() -> Moment:
        """From the scraping thread: the cluster belongs to the loop."""
        return asyncio.run_coroutine_threadsafe(now(), loop).result(SCRAPE_SECONDS)

    registry.register(SchedulerMetrics(scraped, Names(given.metric_names)))
    await asyncio.to_thread(api.prepare)
    await server.start(given.listen, tls.context)
    log.info("answering", address=address_text(*server.address), tls=tls.context is not None)
    metrics = None
    if given.metrics_listen:
        metrics = Endpoint(given.metrics_listen, registry, blockers, "--metrics-bind-address")
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leaving.ask)
    reloader = _reloader(given.device_config_file, first, running, registry)
    loop.add_signal_handler(signal.SIGHUP, reloader.reload)
    beside: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
        "configuration": reloader.run,
        "garbage": partial(keep_aside, lambda: running.watching.synced),
        **tls.parts,
        **_role(given, api, running.leading),
    }
    task = asyncio.create_task(running.run(**beside))
    await leaving.asked.wait()
    log.info("stopping", after=str(given.shutdown_delay))
    server.leave()
    await leaving.delay(given.shutdown_delay)
    running.locks.close()
    await server.close()
    if metrics is not None:
        await asyncio.to_thread(metrics.close)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
