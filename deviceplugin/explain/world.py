"""A captured cluster, rebuilt by the code that keeps it in a running scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from deviceplugin.explain.kube import NodeTraits, node_traits
from deviceplugin.explain.snapshot import Snapshot, SnapshotError
from deviceplugin.placement.fit import Backends
from deviceplugin.scheduler.cluster import Cluster
from deviceplugin.scheduler.nodes import node_record
from deviceplugin.scheduler.pods import pod_record
from deviceplugin.scheduler.quota import QuotaRecord, Quotas, quota_record
from deviceplugin.scheduler.settings import SchedulerSettings

__all__ = ["World", "rebuilt"]

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class World:
    """`cluster` and `quotas` are a scheduler's. `traits` are what kube-scheduler's own filters know
    of all nodes, also of those that the scheduler does not look at; `pods` are by
    ``namespace/name``, `limits` every quota that limits devices.
    """

    settings: SchedulerSettings
    cluster: Cluster
    quotas: Quotas
    traits: Mapping[str, NodeTraits]
    pods: Mapping[str, Json]
    limits: tuple[QuotaRecord, ...] = ()
    taken_at: str = ""
    kubernetes: str = ""

    @property
    def backends(self) -> Backends:
        """Who decides, by word."""
        return self.cluster.backends


def rebuilt(snapshot: Snapshot, backends: Backends, settings: SchedulerSettings) -> World:
    """The cluster as a scheduler with these settings sees it that has just started. Raises
    `SnapshotError` for an object that no API server has.
    """
    quotas = Quotas(backends)
    cluster = Cluster(backends, quotas.moved)
    traits, pods = {}, {}
    for item in snapshot.nodes:
        traits[_name(item)] = node_traits(item)
        labels = item["metadata"].get("labels") or {}
        if all(labels.get(key) == value for key, value in settings.node_labels):
            with _Named("node", item):
                cluster.set_node(node_record(item))
    for item in snapshot.pods:
        with _Named("pod", item):
            pods[f"{item['metadata'].get('namespace', '')}/{_name(item)}"] = item
            record = pod_record(item)
            if record is not None:
                cluster.set_pod(record)
    limits = []
    for item in snapshot.quotas:
        with _Named("quota", item):
            found = quota_record(item)
            if found is not None:
                quotas.set_quota(found)
                limits.append(found)
    return World(
        settings,
        cluster,
        quotas,
        MappingProxyType(traits),
        MappingProxyType(pods),
        tuple(limits),
        snapshot.taken_at,
        snapshot.kubernetes,
    )


class _Named:
    """Says of which object it was that something could not be read."""

    def __init__(self, kind: str, item: Json) -> None:
        self._kind, self._item = kind, item

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ValueError | KeyError | TypeError | AttributeError):
            name = _name(self._item) or "without a name"
            raise SnapshotError(f"{self._kind} {name}: {error}") from None


def _name(item: Json) -> str:
    return str(item["metadata"].get("name") or "")
