"""All nodes that have devices, or should: each by the checks that the doctor makes on a node, and
what only the whole cluster shows.

Sources: deploy-observe-webui.md 4.4; users-and-competitors.md 12, 13, 19.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from deviceplugin.api.hami import nodelock
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.keys import MUTEX_LOCK, VendorKeys
from deviceplugin.apiserver import objects
from deviceplugin.apiserver.objects import Node, Pod
from deviceplugin.doctor import node as one_node
from deviceplugin.doctor.fleet.scene import FleetScene, Json, collection
from deviceplugin.doctor.model import Finding, Group, NotCheckedError, Severity, Topic
from deviceplugin.explain.world import World
from deviceplugin.scheduler.nodes import NodeRecord

__all__ = ["GROUP", "NodesFacts"]

NAME = "nodes"
LABEL, ON = "gpu", "on"
"""By which HAMi's charts choose nodes."""
PLUGIN_DIR = "/var/lib/kubelet/device-plugins"
OURS = ("deviceplugin", "hami")
"""In the names of images whose plugins work under a scheduler of this sort."""

NO_DEVICES = Topic(
    "cluster-without-devices",
    NAME,
    Severity.ERROR,
    "No node tells schedulers of a device.",
    "Nothing that asks for a device can be placed.",
    "See that a vendor's agent runs on the nodes, in a scheduled mode, and may patch its Node.",
)
LABELLED = Topic(
    "node-labelled-silent",
    NAME,
    Severity.WARNING,
    f"A node has the label {LABEL}={ON} and tells of no device.",
    "It is meant to have devices: its agent does not run, found none, or may not patch the Node.",
    "See the agent's pod on that node, and `deviceplugin doctor` in it.",
)
TWO_PLUGINS = Topic(
    "plugins-compete",
    NAME,
    Severity.WARNING,
    "Two device plugins of one vendor are deployed.",
    "Where both run on a node they take the resource from each other: kubelet counts what came "
    "last, and pods get devices that no scheduler gave them.",
    "Keep them on different nodes by their selectors, or remove one; NVIDIA's operator has "
    "devicePlugin.enabled=false.",
)


@dataclass(frozen=True, slots=True)
class NodesFacts:
    """`plugins` are the DaemonSets that serve kubelet as device plugins, each with its images; None
    where they could not be asked for.
    """

    nodes: tuple[one_node.NodeFacts, ...]
    world: World
    plugins: Mapping[str, tuple[str, ...]] | None


def gather(scene: FleetScene) -> NodesFacts:
    """Every node that the scheduler looks at and that has to do with devices."""
    world = scene.world
    records = [record for name in world.cluster.names() if (record := world.cluster.record(name))]
    nodes = [
        _facts(world, record, resources, scene.now)
        for record in sorted(records, key=lambda record: record.name)
        if (resources := _resources(world, record))
    ]
    return NodesFacts(tuple(nodes), world, _plugins(scene))


def _facts(
    world: World, record: NodeRecord, resources: Mapping[str, VendorKeys], now: datetime
) -> one_node.NodeFacts:
    facts = record.facts
    node = Node(facts.name, "", facts.annotations, facts.labels, facts.allocatable)
    lock, error = None, ""
    if MUTEX_LOCK in facts.annotations:
        try:
            lock = nodelock.decode(facts.annotations[MUTEX_LOCK])
        except AnnotationError as problem:
            error = str(problem)
    holder = _pod(world, f"{lock.namespace}/{lock.name}") if lock and lock.names_pod else None
    return one_node.NodeFacts(facts.name, node, resources, True, now, lock, error, holder)


def _pod(world: World, key: str) -> Pod | None:
    item = world.pods.get(key)
    try:
        return objects.pod(item) if item is not None else None
    except ValueError:
        return None


def _resources(world: World, record: NodeRecord) -> Mapping[str, VendorKeys]:
    """What the node offers, or tells schedulers of."""
    facts = record.facts
    return MappingProxyType(
        {
            backend.resources.count: backend.keys
            for backend in world.backends.values()
            if facts.allocatable.get(backend.resources.count)
            or backend.resources.count in facts.capacity
            or backend.keys.register in facts.annotations
        }
    )


def _plugins(scene: FleetScene) -> Mapping[str, tuple[str, ...]] | None:
    try:
        items = scene.api().some(collection("apps", "daemonsets"))
    except NotCheckedError:
        return None
    return {
        f"{item['metadata'].get('namespace')}/{item['metadata'].get('name')}": images
        for item in items
        if (images := _plugin_images(item))
    }


def _plugin_images(item: Json) -> tuple[str, ...]:
    """The images of a DaemonSet that runs somewhere and mounts kubelet's directory for plugins."""
    status = item.get("status") or {}
    spec = ((item.get("spec") or {}).get("template") or {}).get("spec") or {}
    paths = {
        str((volume.get("hostPath") or {}).get("path") or "").rstrip("/")
        for volume in spec.get("volumes") or ()
    }
    if PLUGIN_DIR not in paths or not status.get("desiredNumberScheduled"):
        return ()
    return tuple(str(container.get("image") or "") for container in spec.get("containers") or ())


def _each(facts: NodesFacts) -> Iterator[Finding]:
    """What is wrong with single nodes, in the words of the doctor on a node."""
    for node in facts.nodes:
        for check in one_node.GROUP.checks:
            for finding in check(node):
                yield replace(finding, group=NAME, what=f"node {node.name}: {finding.what}")


def _any(facts: NodesFacts) -> Iterator[Finding]:
    if not any(facts.world.cluster.rooms()):
        count = len(facts.world.cluster.names())
        several = f"none of {count:,} nodes tells of a device"
        yield NO_DEVICES.found("the only node tells of no device" if count == 1 else several)


def _labelled(facts: NodesFacts) -> Iterator[Finding]:
    known = {node.name for node in facts.nodes}
    for name, traits in sorted(facts.world.traits.items()):
        if traits.labels.get(LABEL) == ON and name not in known:
            yield LABELLED.found(f"node {name} has the label {LABEL}={ON} and no device")


def _competitors(facts: NodesFacts) -> Iterator[Finding]:
    """DaemonSets that name a vendor whose resources a scheduler gives away, beside ours."""
    plugins = facts.plugins or {}
    ours = [name for name, images in plugins.items() if _is_ours(images)]
    words = {resource.partition(".")[0] for node in facts.nodes for resource in node.resources}
    for name, images in plugins.items():
        text = " ".join((name, *images)).lower()
        if ours and name not in ours and any(word in text for word in words):
            yield TWO_PLUGINS.found(
                f"DaemonSet {name} is a device plugin beside {', '.join(sorted(ours))}",
                f"images {', '.join(images)}",
            )


def _is_ours(images: tuple[str, ...]) -> bool:
    names = (image.rpartition("/")[2].partition(":")[0].partition("@")[0] for image in images)
    return any(name.startswith(OURS) for name in names)


GROUP = Group(
    NAME,
    (NO_DEVICES, LABELLED, TWO_PLUGINS),
    gather,
    (_any, _each, _labelled, _competitors),
)
