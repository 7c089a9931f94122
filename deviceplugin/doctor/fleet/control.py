"""The scheduler's replicas, and the kube-scheduler that asks them.

Sources: hami-scheduler.md 1.6, 1.7; deploy-observe-webui.md 1.2.2, 4.3, 4.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from deviceplugin.api.fields import duration_seconds
from deviceplugin.doctor.fleet.scene import FleetScene, Json, collection, in_namespace
from deviceplugin.doctor.fleet.webhook import ADMISSION, hooks_of
from deviceplugin.doctor.model import Finding, Group, NotCheckedError, Severity, Topic
from deviceplugin.explain.victims import preempts_devices
from deviceplugin.scheduler.settings import SchedulerSettings

__all__ = ["GROUP", "ControlFacts", "Replica"]

NAME = "scheduler"
KUBE_SCHEDULER = "kube-scheduler"
DEFAULT_TIMEOUT = 5.0
"""Seconds that kube-scheduler waits for an extender that says nothing of it."""
OLDEST, NEWEST = 28, 37
"""Minor versions of Kubernetes 1.x that this is made for."""

NOT_READY = Topic(
    "scheduler-not-ready",
    NAME,
    Severity.ERROR,
    "No replica of the scheduler is ready.",
    "kube-scheduler gets no answer: no pod that asks for a device is placed.",
    "See the pods' events and logs; /readyz says what is missing.",
)
REPLICA_NOT_READY = Topic(
    "scheduler-replica-not-ready",
    NAME,
    Severity.WARNING,
    "A replica of the scheduler is not ready.",
    "Followers are ready too: one that is not would not take over. (HAMi's followers of version "
    "2.8 never are.)",
    "See the pod's events and log; /readyz says what is missing.",
)
NO_LEADER = Topic(
    "scheduler-without-leader",
    NAME,
    Severity.ERROR,
    "Nobody holds the schedulers' Lease.",
    "Every replica answers with an error until one leads: no pod is placed.",
    "See that kube-scheduler runs beside the replicas and may write its Lease.",
)
LEADER_GONE = Topic(
    "scheduler-leader-unknown",
    NAME,
    Severity.WARNING,
    "The Lease is held by somebody who is none of the replicas.",
    "A replica leads while the kube-scheduler on its own host name holds the Lease. Somebody else "
    "holds it: no replica leads.",
    "See that nobody else uses a Lease of this name.",
)
UNREACHABLE = Topic(
    "scheduler-unreachable",
    NAME,
    Severity.ERROR,
    "The scheduler does not answer through its Service.",
    "What the API server cannot reach, its webhooks cannot reach either.",
    "See the Service's port and the network between control plane and pods.",
)
VERSION = Topic(
    "kube-scheduler-version",
    NAME,
    Severity.WARNING,
    "kube-scheduler is of another version than the cluster.",
    "It may miss rights or objects of the cluster's version.",
    "Use the image of the cluster's minor version.",
)
KUBERNETES = Topic(
    "kubernetes-version",
    NAME,
    Severity.NOTE,
    "This version of Kubernetes is not among those that are tested.",
    f"Tested are 1.{OLDEST} to 1.{NEWEST}.",
    "Nothing, unless something behaves oddly.",
)
NO_EXTENDER = Topic(
    "extender-missing",
    NAME,
    Severity.ERROR,
    "kube-scheduler's configuration names no extender that filters and binds.",
    "kube-scheduler places pods without asking who has which card.",
    "Take the extender from charts/plain, 30-configuration.yaml.",
)
NO_PROFILE = Topic(
    "extender-profile-missing",
    NAME,
    Severity.ERROR,
    "kube-scheduler has no profile of the scheduler's name.",
    "Pods name a scheduler that nobody is: they stay Pending without an event.",
    "Add a profile with this schedulerName, or start the scheduler with the profile's name.",
)
UNMANAGED = Topic(
    "resource-unmanaged",
    NAME,
    Severity.ERROR,
    "kube-scheduler does not leave a resource to the extender.",
    "Pods that ask for it stay Pending with Insufficient, because no node advertises it, or are "
    "placed without asking who has which card.",
    "Add it to managedResources with ignoredByScheduler: true, and restart kube-scheduler.",
)
NOT_CACHING = Topic(
    "extender-not-caching",
    NAME,
    Severity.ERROR,
    "kube-scheduler sends the extender whole nodes.",
    "Such a question is a simulation to the scheduler: nothing is decided, and no pod is bound.",
    "Set nodeCacheCapable: true.",
)
IMPATIENT = Topic(
    "extender-impatient",
    NAME,
    Severity.WARNING,
    "kube-scheduler waits for the extender less long than a bind may take.",
    "A bind waits in line for its node up to 25 seconds; who gives up earlier tries in vain again.",
    "Set httpTimeout: 30s.",
)
NO_PREEMPTION = Topic(
    "extender-without-preemption",
    NAME,
    Severity.NOTE,
    "kube-scheduler does not ask the extender whom to preempt.",
    "From 1.38 on it would find pods of lower priority whose devices are enough.",
    "Set preemptVerb: preempt.",
)


@dataclass(frozen=True, slots=True)
class Replica:
    """A pod of the scheduler; `host` is its host name, `images` are by container."""

    name: str
    ready: bool
    host: str
    images: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Lease:
    """Who leads; `at` is when that was renewed, None where nobody can read it."""

    name: str
    holder: str
    at: datetime | None
    seconds: int


@dataclass(frozen=True, slots=True)
class ControlFacts:
    """`configurations` are kube-scheduler's, by the ConfigMap that they stand in; `resources` those
    of the words that nodes tell of. `unreachable` says why the Service does not answer, empty where
    it does or could not be asked.
    """

    settings: SchedulerSettings
    service: str
    replicas: tuple[Replica, ...]
    lease: Lease | None
    configurations: Mapping[str, Json]
    resources: frozenset[str]
    kubernetes: str
    now: datetime
    unreachable: str = ""


def gather(scene: FleetScene) -> ControlFacts:
    """Follow the webhook's Service to the pods, and from them to their configuration."""
    service, port = _service(scene)
    namespace, _, name = service.partition("/")
    asking = scene.api()
    pods = [
        pod
        for pod in asking.some(
            in_namespace(namespace, "pods"), labelSelector=_selector(scene, service)
        )
        if not (pod.get("metadata") or {}).get("deletionTimestamp")
    ]
    unreachable = ""
    try:
        proxy = in_namespace(namespace, "services", f"https:{name}:{port}")
        unreachable = asking.text(type(proxy)(f"{proxy.template}/proxy/readyz", proxy.names))
    except NotCheckedError:
        pass
    return ControlFacts(
        scene.world.settings,
        service,
        tuple(map(_replica, pods)),
        _lease(scene, namespace),
        _configurations(scene, namespace, pods),
        _resources(scene),
        scene.world.kubernetes,
        scene.now,
        unreachable,
    )


def _service(scene: FleetScene) -> tuple[str, int]:
    """The scheduler's Service, as ``namespace/name``, and its port. Raises `NotCheckedError`."""
    for item in scene.api().some(collection(ADMISSION, "mutatingwebhookconfigurations")):
        for hook in hooks_of(item):
            if hook.service:
                return hook.service.partition(":")[0], hook.port
    raise NotCheckedError("no webhook names a Service, so nobody knows where the scheduler is")


def _selector(scene: FleetScene, service: str) -> str:
    namespace, _, name = service.partition("/")
    found = scene.api().one(in_namespace(namespace, "services", name))
    selector = ((found or {}).get("spec") or {}).get("selector") or {}
    if not selector:
        raise NotCheckedError(f"Service {service} is not there or selects no pods")
    # The role moves with the leader: HAMi's Service of 2.9 selects by it.
    return ",".join(
        f"{k}={v}" for k, v in sorted(selector.items()) if k != "hami.io/scheduler-role"
    )


def _replica(pod: Json) -> Replica:
    metadata, spec, status = (
        pod.get("metadata") or {},
        pod.get("spec") or {},
        pod.get("status") or {},
    )
    ready = any(
        one.get("type") == "Ready" and one.get("status") == "True"
        for one in status.get("conditions") or ()
    )
    name = str(metadata.get("name"))
    containers = spec.get("containers") or ()
    images = {str(c.get("name")): str(c.get("image") or "") for c in containers}
    host = str(spec.get("hostname") or (spec.get("hostNetwork") and spec.get("nodeName")) or name)
    return Replica(name, ready, host, images)


def _lease(scene: FleetScene, namespace: str) -> Lease | None:
    name = scene.world.settings.name
    try:
        found = scene.api().one(in_namespace(namespace, "leases", name, "coordination.k8s.io"))
    except NotCheckedError:
        return None
    if found is None:
        return None
    spec = found.get("spec") or {}
    try:
        at = datetime.fromisoformat(str(spec.get("renewTime")))
    except ValueError:
        at = None
    seconds = spec.get("leaseDurationSeconds")
    return Lease(
        f"{namespace}/{name}",
        str(spec.get("holderIdentity") or ""),
        at if at is None or at.tzinfo else None,
        seconds if isinstance(seconds, int) else 15,
    )


def _configurations(scene: FleetScene, namespace: str, pods: list[Json]) -> dict[str, Json]:
    """kube-scheduler's configurations among the ConfigMaps that the pods mount."""
    import yaml

    names = {
        str(volume["configMap"].get("name"))
        for pod in pods
        for volume in (pod.get("spec") or {}).get("volumes") or ()
        if volume.get("configMap")
    }
    found: dict[str, Json] = {}
    for name in sorted(names):
        try:
            item = scene.api().one(in_namespace(namespace, "configmaps", name)) or {}
        except NotCheckedError:
            continue
        for text in (item.get("data") or {}).values():
            try:
                document = yaml.safe_load(str(text))
            except yaml.YAMLError:
                continue
            if isinstance(document, dict) and document.get("kind") == "KubeSchedulerConfiguration":
                found[f"{namespace}/{name}"] = document
    return found


def _resources(scene: FleetScene) -> frozenset[str]:
    world = scene.world
    views = (world.cluster.view(name) for name in world.cluster.names())
    words = {word for view in views if view for word in view.cards}
    return frozenset(name for word in words for name in world.backends[word].resources.names())


# --- what is wrong --------------------------------------------------------------------------------


def _replicas(facts: ControlFacts) -> Iterator[Finding]:
    if not any(replica.ready for replica in facts.replicas):
        names = ", ".join(replica.name for replica in facts.replicas) or "there is no pod at all"
        yield NOT_READY.found(f"no pod behind Service {facts.service} is ready", names)
        return
    for replica in facts.replicas:
        if not replica.ready:
            yield REPLICA_NOT_READY.found(f"pod {replica.name} of the scheduler is not ready")
    if facts.unreachable:
        yield UNREACHABLE.found(f"Service {facts.service} does not answer", facts.unreachable)


def _leader(facts: ControlFacts) -> Iterator[Finding]:
    lease = facts.lease
    if lease is None:
        return
    holder = lease.holder or "nobody"
    late = lease.at is not None and facts.now - lease.at > timedelta(seconds=2 * lease.seconds)
    if not lease.holder or late:
        since = f", last renewed {lease.at:%Y-%m-%d %H:%M:%S}" if lease.at else ""
        yield NO_LEADER.found(f"Lease {lease.name} is held by {holder}{since}")
        return
    host = lease.holder.rpartition("_")[0] or lease.holder
    if facts.replicas and host not in {replica.host for replica in facts.replicas}:
        names = ", ".join(replica.name for replica in facts.replicas)
        yield LEADER_GONE.found(f"Lease {lease.name} is held by {holder}", f"replicas: {names}")


def _versions(facts: ControlFacts) -> Iterator[Finding]:
    cluster = _minor(facts.kubernetes)
    if cluster is None:
        return
    if not OLDEST <= cluster <= NEWEST:
        yield KUBERNETES.found(f"the cluster is {facts.kubernetes}")
    for image in {replica.images.get(KUBE_SCHEDULER, "") for replica in facts.replicas}:
        minor = _minor(image.rpartition(":")[2])
        if minor is not None and minor != cluster:
            yield VERSION.found(f"kube-scheduler is {image}, the cluster {facts.kubernetes}")


def _minor(version: str) -> int | None:
    found = re.match(r"v?1\.(\d+)", version)
    return int(found[1]) if found else None


def _extenders(facts: ControlFacts) -> Iterator[Finding]:
    for name, configuration in facts.configurations.items():
        profiles = {str(p.get("schedulerName")) for p in _mappings(configuration, "profiles")}
        if facts.settings.name not in profiles:
            yield NO_PROFILE.found(
                f"ConfigMap {name} has no profile {facts.settings.name}",
                f"profiles: {', '.join(sorted(profiles)) or 'none'}",
            )
        ours = [e for e in _mappings(configuration, "extenders") if _decides(e)]
        if not ours:
            yield NO_EXTENDER.found(f"ConfigMap {name} names no extender that filters and binds")
        for extender in ours:
            yield from _extender(facts, name, extender)


def _extender(facts: ControlFacts, name: str, extender: Json) -> Iterator[Finding]:
    managed = {
        str(entry.get("name")): entry.get("ignoredByScheduler") is True
        for entry in _mappings(extender, "managedResources")
    }
    # Without any the extender is asked about every pod.
    missing = sorted(r for r in facts.resources if managed and not managed.get(r))
    if missing:
        yield UNMANAGED.found(
            f"ConfigMap {name} leaves {len(missing)} resources to kube-scheduler that nodes here "
            "have",
            ", ".join(missing),
        )
    if extender.get("nodeCacheCapable") is not True:
        yield NOT_CACHING.found(f"ConfigMap {name}: nodeCacheCapable is not true")
    timeout = _seconds(extender.get("httpTimeout"))
    if timeout is not None and timeout < facts.settings.bind_patience:
        yield IMPATIENT.found(f"ConfigMap {name}: httpTimeout is {extender.get('httpTimeout')}")
    if preempts_devices(facts.kubernetes) and not extender.get("preemptVerb"):
        yield NO_PREEMPTION.found(f"ConfigMap {name}: the extender has no preemptVerb")


def _decides(extender: Json) -> bool:
    return bool(extender.get("filterVerb") and extender.get("bindVerb"))


def _mappings(item: Json, key: str) -> list[Mapping[str, Any]]:
    found = item.get(key)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _seconds(text: Any) -> float | None:
    """A Go duration; None for what is none."""
    if text is None:
        return DEFAULT_TIMEOUT
    return duration_seconds(str(text))


GROUP = Group(
    NAME,
    (
        NOT_READY,
        NO_LEADER,
        UNREACHABLE,
        NO_EXTENDER,
        NO_PROFILE,
        UNMANAGED,
        NOT_CACHING,
        REPLICA_NOT_READY,
        LEADER_GONE,
        VERSION,
        IMPATIENT,
        NO_PREEMPTION,
        KUBERNETES,
    ),
    gather,
    (_replicas, _leader, _versions, _extenders),
)
