"""The scheduler's metrics: HAMi's names of either age, and our own beside them.

What the cluster looks like is taken on the event loop, where it costs nothing because views are
values; the text is made of it in another thread. Source: hami-scheduler.md 7. Of several slices of
one card in one container the sum is told, because HAMi's labels cannot tell them apart.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from deviceplugin.placement.fit import Backends
from deviceplugin.placement.observe import NodeView
from deviceplugin.placement.presence import divides
from deviceplugin.scheduler.cluster import Cluster, Holding
from deviceplugin.scheduler.quota import Quotas
from deviceplugin.series import ZONE, Labels, Names, Series, build_info
from deviceplugin.vendor.scheduling import Card
from deviceplugin.version import __version__

__all__ = ["Latencies", "Moment", "SchedulerMetrics", "exposed", "moment"]

MIB = 1024 * 1024
BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True, slots=True)
class Moment:
    """The cluster at one instant.

    `answers` counts what the extender answered, by verb and outcome, `reasons` how many nodes were
    unfit for pods that found none, by reason. `facts` are single figures of our own by name, of
    now, and `totals` those of all that was so far. `quotas` are namespace, resource, limit and use,
    a limit of 0 where there is none; `backends` say what cards are divided into.
    """

    views: Mapping[str, NodeView]
    holdings: tuple[Holding, ...]
    answers: Mapping[tuple[str, str], int]
    facts: Mapping[str, float]
    quotas: tuple[tuple[str, str, int, int], ...] = ()
    backends: Backends = field(default_factory=lambda: MappingProxyType({}))
    reasons: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    totals: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


_Label = tuple[str, Callable[[Card], str]]
"""A label and what it says of a card."""


def _cores(card: Card) -> str:
    return str(card.used_cores)


def _type(card: Card) -> str:
    return card.device.type


TYPE: tuple[_Label, ...] = (("device_type", _type),)


@dataclass(frozen=True, slots=True)
class _Device:
    """A metric of a card, under both names, with either's labels beyond node, uuid and index."""

    old: str
    new: str
    text: str
    value: Callable[[Card], float | None]
    extra: tuple[tuple[_Label, ...], tuple[_Label, ...]] = ((), ())


def _share(card: Card) -> float | None:
    total = card.device.memory
    return card.used_memory_mib / total if total else None


_DEVICES = (
    _Device(
        "GPUDeviceMemoryLimit",
        "hami_gpu_memory_limit_bytes",
        "Device memory that may be given away, in bytes.",
        lambda card: card.device.memory * MIB,
        ((), TYPE),
    ),
    _Device(
        "GPUDeviceCoreLimit",
        "hami_gpu_core_limit_ratio",
        "Cores that may be given away, in percent of the card.",
        lambda card: card.device.cores,
        ((), TYPE),
    ),
    _Device(
        "GPUDeviceMemoryAllocated",
        "hami_gpu_memory_allocated_bytes",
        "Device memory that was given away, in bytes.",
        lambda card: card.used_memory_mib * MIB,
        ((("devicecores", _cores),), (("device_cores", _cores), *TYPE)),
    ),
    _Device(
        "GPUDeviceSharedNum",
        "hami_gpu_shared_count",
        "Containers on the card.",
        lambda card: card.used,
        ((), TYPE),
    ),
    _Device(
        "GPUDeviceCoreAllocated",
        "hami_gpu_core_allocated_ratio",
        "Cores that were given away, in percent of the card.",
        lambda card: card.used_cores,
        ((), TYPE),
    ),
    _Device(
        "nodeGPUOverview",
        "hami_node_gpu_overview",
        "Device memory that was given away, in bytes, with the rest as labels.",
        lambda card: card.used_memory_mib * MIB,
        (
            (
                ("devicecores", _cores),
                ("sharedcontainers", lambda card: str(card.used)),
                ("devicememorylimit", lambda card: str(card.device.memory)),
                ("devicetype", _type),
            ),
            (
                ("device_cores", _cores),
                ("shared_containers", lambda card: str(card.used)),
                ("device_memory_limit", lambda card: str(card.device.memory)),
                *TYPE,
            ),
        ),
    ),
    _Device(
        "nodeGPUMemoryPercentage",
        "hami_node_gpu_memory_allocated_ratio",
        "Part of the device memory that was given away, 0 to 1.",
        _share,
    ),
)

_POD_LABELS = (
    ("podnamespace", "nodename", "podname", "containeridx", "deviceuuid", "zone"),
    ("namespace", "node", "pod", "container_index", "device_uuid", "zone"),
)


def moment(
    cluster: Cluster,
    answers: Mapping[tuple[str, str], int],
    facts: Mapping[str, float],
    quotas: Quotas,
) -> Moment:
    """What there is to tell, taken on the loop that the cluster belongs to."""
    views = {name: view for name in cluster.names() if (view := cluster.view(name)) is not None}
    limits = [
        (namespace, resource, limit, quotas.used(namespace).get(resource, 0))
        for namespace, _, resource, limit in quotas.limits()
    ]
    limited = {(namespace, resource) for namespace, resource, _, _ in limits}
    limits += [
        (namespace, resource, 0, used)
        for namespace, resource, used in quotas.uses()
        if (namespace, resource) not in limited
    ]
    holdings = tuple(cluster.holdings())
    return Moment(views, holdings, dict(answers), dict(facts), tuple(limits), cluster.backends)


def exposed(now: Moment, names: Names) -> Iterator[Metric]:
    """All metrics of a moment, one at a time. Pure."""
    yield build_info(__version__).metric
    for row in _DEVICES:
        if names.old:
            yield _of_cards(row, row.old, ("nodeid", "deviceuuid", "deviceidx"), 0, now.views)
        if names.new:
            yield _of_cards(row, row.new, ("node", "device_uuid", "device_index"), 1, now.views)
    yield from _partitions(now.views, now.backends, names)
    yield from _pods(now.holdings, names)
    yield from _quotas(now.quotas, names)
    yield from _own(now)


def _of_cards(
    row: _Device, name: str, labels: Labels, age: int, views: Mapping[str, NodeView]
) -> Metric:
    extra = row.extra[age]
    series = Series(name, row.text, (*labels, *(label for label, _ in extra), "zone"))
    for node, card in _cards(views):
        place = (node, card.uuid, str(card.device.index))
        series.add((*place, *(said(card) for _, said in extra), ZONE), row.value(card))
    return series.metric


def _cards(views: Mapping[str, NodeView]) -> Iterator[tuple[str, Card]]:
    for node, view in views.items():
        for cards in view.cards.values():
            for card in cards:
                yield node, card


def _partitions(
    views: Mapping[str, NodeView], backends: Backends, names: Names
) -> Iterator[Metric]:
    text = "1 for a hardware partition that is in use, 0 for a free one beside it."
    found = []
    if names.old:
        labels: Labels = ("nodeid", "deviceuuid", "deviceidx", "migname", "zone")
        found.append(Series("nodeGPUMigInstance", text, labels))
    if names.new:
        labels = ("node", "device_uuid", "device_index", "mig_name", "zone")
        found.append(Series("hami_node_gpu_mig_instance_info", text, labels))
    for word, backend in backends.items():
        if not divides(backend):
            continue
        for node, view in views.items():
            for card in view.cards.get(word, ()):
                for partition in backend.partitions(card):
                    place = (node, card.uuid, str(card.device.index), partition.name, ZONE)
                    for series in found:
                        series.add(place, int(partition.in_use))
    yield from (series.metric for series in found)


def _pods(holdings: Iterable[Holding], names: Names) -> Iterator[Metric]:
    memory: Tally[Labels] = Tally()
    cores: Tally[Labels] = Tally()
    for holding in holdings:
        for items in holding.held.values():
            for held in items:
                for device in held.devices:
                    place = (holding.namespace, holding.node, holding.name, str(held.position))
                    uuid = f"{device.uuid}{device.slot or ''}"
                    memory[*place, uuid, ZONE] += device.memory * MIB
                    cores[*place, uuid, ZONE] += device.cores
    for old, new, text, figures in (
        (
            "vGPUMemoryAllocated",
            "hami_vgpu_memory_allocated_bytes",
            "Device memory given to a container, in bytes.",
            memory,
        ),
        (
            "vGPUCoreAllocated",
            "hami_vgpu_core_allocated_ratio",
            "Cores given to a container, in percent of a card.",
            cores,
        ),
    ):
        for name, labels in ((old, _POD_LABELS[0]), (new, _POD_LABELS[1])):
            if names.old if name is old else names.new:
                series = Series(name, text, labels)
                for key, value in figures.items():
                    series.add(key, value)
                yield series.metric


def _quotas(quotas: Iterable[tuple[str, str, int, int]], names: Names) -> Iterator[Metric]:
    text = "What a namespace's pods hold of what it has a quota of: MiB, or percent."
    if names.old:
        series = Series("QuotaUsed", text, ("quotanamespace", "quotaName", "limit", "zone"))
        for namespace, resource, limit, used in quotas:
            series.add((namespace, resource, str(limit), ZONE), used)
        yield series.metric
    if names.new:
        labels: Labels = ("namespace", "quota_name", "limit", "zone")
        series = Series("hami_resource_quota_used", text, labels)
        least = Series(
            "hami_resource_quota_limit",
            "The least that a namespace's quotas of a resource allow: MiB, or percent.",
            ("namespace", "quota_name", "zone"),
        )
        for namespace, resource, limit, used in sorted(quotas):
            series.add((namespace, resource, str(limit), ZONE), used)
            if limit:
                least.add((namespace, resource, ZONE), limit)
        yield series.metric
        yield least.metric


def _own(now: Moment) -> Iterator[Metric]:
    answers = CounterMetricFamily(
        "deviceplugin_scheduler_answers",
        "What kube-scheduler was answered, by verb and outcome.",
        labels=("verb", "outcome"),
    )
    for (verb, outcome), count in sorted(now.answers.items()):
        answers.add_metric((verb, outcome), count)
    yield answers
    reasons = CounterMetricFamily(
        "deviceplugin_scheduler_unfit_nodes",
        "Nodes that were unfit for pods that found none, by the first reason of each.",
        labels=("reason",),
    )
    for reason, count in sorted(now.reasons.items()):
        reasons.add_metric((reason,), count)
    yield reasons
    for name, value in now.facts.items():
        yield GaugeMetricFamily(f"deviceplugin_scheduler_{name}", FACTS[name], value=value)
    for name, value in now.totals.items():
        yield CounterMetricFamily(f"deviceplugin_scheduler_{name}", TOTALS[name], value=value)


FACTS = {
    "nodes": "Nodes that are known.",
    "pods": "Pods that hold a device.",
    "leader": "1 where this replica decides, else 0.",
    "synced": "1 once the whole cluster was seen.",
    "decisions": "Decisions that count and whose pods are not bound yet.",
    "decision_oldest_seconds": "Since the oldest of them was made or used.",
    "lock_waits": "Pods that wait for a node's lock now.",
    "lock_oldest_wait_seconds": "Since the first of them began to wait.",
    "stuck_nodes": "Nodes whose lock a bind waited for in vain lately, and still stands.",
    "events_waiting": "Events about pods that are still to be written.",
    "slipped_pods": "Pods that came past the webhook and are still there.",
    "stray_devices": "Devices that pods hold and that their nodes do not tell of.",
    "unreadable_nodes": "Nodes with annotations of devices that cannot be read.",
}
TOTALS = {
    "drift": "Nodes that were found to be counted wrongly and were set right.",
    "decisions_lapsed": "Decisions that nobody came for.",
    "takeovers": "How often this replica began to decide.",
    "events_dropped": "Events about pods that were not written.",
}


class Latencies:
    """How long answers take, from the request's last byte to the answer's first, and how long binds
    wait for the locks of nodes.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.lock_wait = Histogram(
            "deviceplugin_scheduler_lock_wait_seconds",
            "Time that binds waited for a node's lock, in vain too.",
            buckets=BUCKETS,
            registry=registry,
        )
        self.seconds = Histogram(
            "deviceplugin_scheduler_answer_seconds",
            "Time from a request to its answer, the API server's part included.",
            ("verb",),
            buckets=BUCKETS,
            registry=registry,
        )


class SchedulerMetrics(Collector):
    """Everything for one scrape; `now` is asked from the scraping thread."""

    def __init__(self, now: Callable[[], Moment], names: Names) -> None:
        self._now, self._names = now, names

    def collect(self) -> Iterator[Metric]:
        """One metric after the other."""
        return exposed(self._now(), self._names)
