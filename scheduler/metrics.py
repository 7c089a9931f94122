"""The scheduler's metrics: HAMi's names of either age, and our own beside them.

What the cluster looks like is taken on the event loop, where it costs nothing because views are
values; the text is made of it in another thread. Source: hami-scheduler.md 7. Of several slices of
one card in one container the sum is told, because HAMi's labels cannot tell them apart.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from deviceplugin.placement.observe import NodeView
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
    """The cluster at one instant. `answers` counts what the extender answered, by verb and outcome;
    `facts` are single figures of our own by name; `quotas` are namespace, resource, limit and use.
    """

    views: Mapping[str, NodeView]
    holdings: tuple[Holding, ...]
    answers: Mapping[tuple[str, str], int]
    facts: Mapping[str, float]
    quotas: tuple[tuple[str, str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class _Device:
    """A metric of a card, under both names, with the labels beyond node, uuid and index."""

    old: str
    new: str
    text: str
    value: Callable[[Card], float | None]
    extra: tuple[Labels, Labels] = ((), ())
    extra_values: Callable[[Card], Labels] = lambda _: ()


def _share(card: Card) -> float | None:
    total = card.device.memory
    return card.used_memory_mib / total if total else None


_DEVICES = (
    _Device(
        "GPUDeviceMemoryLimit",
        "hami_gpu_memory_limit_bytes",
        "Device memory that may be given away, in bytes.",
        lambda card: card.device.memory * MIB,
    ),
    _Device(
        "GPUDeviceCoreLimit",
        "hami_gpu_core_limit_ratio",
        "Cores that may be given away, in percent of the card.",
        lambda card: card.device.cores,
    ),
    _Device(
        "GPUDeviceMemoryAllocated",
        "hami_gpu_memory_allocated_bytes",
        "Device memory that was given away, in bytes.",
        lambda card: card.used_memory_mib * MIB,
        (("devicecores",), ("device_cores",)),
        lambda card: (str(card.used_cores),),
    ),
    _Device(
        "GPUDeviceSharedNum",
        "hami_gpu_shared_count",
        "Containers on the card.",
        lambda card: card.used,
    ),
    _Device(
        "GPUDeviceCoreAllocated",
        "hami_gpu_core_allocated_ratio",
        "Cores that were given away, in percent of the card.",
        lambda card: card.used_cores,
    ),
    _Device(
        "nodeGPUOverview",
        "hami_node_gpu_overview",
        "Device memory that was given away, in bytes, with the rest as labels.",
        lambda card: card.used_memory_mib * MIB,
        (
            ("devicecores", "sharedcontainers", "devicememorylimit", "devicetype"),
            ("device_cores", "shared_containers", "device_memory_limit", "device_type"),
        ),
        lambda card: (
            str(card.used_cores),
            str(card.used),
            str(card.device.memory),
            card.device.type,
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
    limits = tuple(
        (namespace, resource, limit, quotas.used(namespace).get(resource, 0))
        for namespace, _, resource, limit in quotas.limits()
    )
    return Moment(views, tuple(cluster.holdings()), dict(answers), dict(facts), limits)


def exposed(now: Moment, names: Names) -> Iterator[Metric]:
    """All metrics of a moment, one at a time. Pure."""
    yield build_info(__version__).metric
    for row in _DEVICES:
        if names.old:
            yield _of_cards(row, row.old, ("nodeid", "deviceuuid", "deviceidx"), 0, now.views)
        if names.new:
            yield _of_cards(row, row.new, ("node", "device_uuid", "device_index"), 1, now.views)
    yield from _slots(now.views, names)
    yield from _pods(now.holdings, names)
    yield from _quotas(now.quotas, names)
    yield from _own(now)


def _of_cards(
    row: _Device, name: str, labels: Labels, age: int, views: Mapping[str, NodeView]
) -> Metric:
    series = Series(name, row.text, (*labels, *row.extra[age], "zone"))
    for node, card in _cards(views):
        place = (node, card.uuid, str(card.device.index))
        series.add((*place, *row.extra_values(card), ZONE), row.value(card))
    return series.metric


def _cards(views: Mapping[str, NodeView]) -> Iterator[tuple[str, Card]]:
    for node, view in views.items():
        for cards in view.cards.values():
            for card in cards:
                yield node, card


def _slots(views: Mapping[str, NodeView], names: Names) -> Iterator[Metric]:
    text = "Hardware partitions in use."
    found = []
    if names.old:
        labels: Labels = ("nodeid", "deviceuuid", "deviceidx", "migname", "zone")
        found.append(Series("nodeGPUMigInstance", text, labels))
    if names.new:
        labels = ("node", "device_uuid", "device_index", "mig_name", "zone")
        found.append(Series("hami_node_gpu_mig_instance_info", text, labels))
    for series in found:
        for node, card in _cards(views):
            for slot in dict.fromkeys(t.slot for t in card.tenants if t.slot):
                series.add((node, card.uuid, str(card.device.index), slot, ZONE), 1)
        yield series.metric


def _pods(holdings: Iterable[Holding], names: Names) -> Iterator[Metric]:
    memory: Tally[Labels] = Tally()
    cores: Tally[Labels] = Tally()
    for holding in holdings:
        for items in holding.held.values():
            for held in items:
                for device in held.devices:
                    place = (holding.namespace, holding.node, holding.name, str(held.position))
                    memory[*place, device.uuid, ZONE] += device.memory * MIB
                    cores[*place, device.uuid, ZONE] += device.cores
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
        for namespace, resource, limit, used in quotas:
            series.add((namespace, resource, str(limit), ZONE), used)
        yield series.metric


def _own(now: Moment) -> Iterator[Metric]:
    answers = CounterMetricFamily(
        "deviceplugin_scheduler_answers",
        "What kube-scheduler was answered, by verb and outcome.",
        labels=("verb", "outcome"),
    )
    for (verb, outcome), count in sorted(now.answers.items()):
        answers.add_metric((verb, outcome), count)
    yield answers
    for name, value in now.facts.items():
        yield GaugeMetricFamily(f"deviceplugin_scheduler_{name}", FACTS[name], value=value)


FACTS = {
    "nodes": "Nodes that are known.",
    "pods": "Pods that hold a device.",
    "leader": "1 where this replica decides, else 0.",
    "synced": "1 once the whole cluster was seen.",
    "drift_nodes": "Nodes that were found to be counted wrongly and were set right, so far.",
    "lock_waits": "Pods that wait for a node's lock now.",
    "events_dropped": "Events about pods that were not written, so far.",
    "slipped_pods": "Pods that came past the webhook and are still there.",
    "unreadable_nodes": "Nodes with annotations of devices that cannot be read.",
}


class Latencies:
    """How long answers take, from the request's last byte to the answer's first."""

    def __init__(self, registry: CollectorRegistry) -> None:
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
