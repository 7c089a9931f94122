"""The Node object: what schedulers and kubelet believe of this node.

Sources: hami-nvidia-node.md 2.3 to 2.6, hami-scheduler.md 3.4, 3.6.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from deviceplugin.api.hami import handshake, nodelock, register
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.handshake import Action, State
from deviceplugin.api.hami.keys import BIND_PHASE, MUTEX_LOCK, VENDORS, Registration, VendorKeys
from deviceplugin.api.hami.nodelock import NodeLock
from deviceplugin.apiserver import objects
from deviceplugin.apiserver.objects import Node, Pod
from deviceplugin.doctor.model import Finding, Group, NotCheckedError, Severity, Topic
from deviceplugin.doctor.scene import Scene
from deviceplugin.scheduled.patches import FAILED, SUCCESS

__all__ = ["GROUP", "NodeFacts"]

NAME = "node"

NODE_MISSING = Topic(
    "node-missing",
    NAME,
    Severity.ERROR,
    "There is no node of this name.",
    "The agent goes by NODE_NAME (else the host's name), and finds neither its node nor its pods.",
    "Set NODE_NAME by the field spec.nodeName of the agent's pod, or --node-name.",
)
LOCK_UNREADABLE = Topic(
    "node-lock-unreadable",
    NAME,
    Severity.ERROR,
    "The node's lock cannot be read.",
    "Schedulers fail on it at every bind, and it never expires: nothing with devices is placed "
    "here until it is removed.",
    "kubectl annotate node NODE hami.io/mutex.lock-",
)
LOCK_STALE = Topic(
    "node-lock-stale",
    NAME,
    Severity.ERROR,
    "The node's lock is older than five minutes.",
    "No pod with devices was bound to this node meanwhile, and the one that holds the lock was "
    "never served. Schedulers take over an old lock at their next bind, but whoever left it will "
    "do so again.",
    "See why the pod was not served, then: kubectl annotate node NODE hami.io/mutex.lock-",
)
LOCK_LEFT = Topic(
    "node-lock-left",
    NAME,
    Severity.ERROR,
    "The node is locked for a pod that needs the lock no more.",
    "The pod is gone, has ended or was served, and until the lock expires no other pod with "
    "devices is bound to this node.",
    "kubectl annotate node NODE hami.io/mutex.lock-",
)
HANDSHAKE_DELETED = Topic(
    "handshake-deleted",
    NAME,
    Severity.ERROR,
    "Schedulers have struck this node off.",
    "Its handshake says Deleted: a scheduler heard nothing of the node for a minute, or saw no "
    "allocatable devices. A scheduler of version 2.8 leaves it out until the agent speaks up.",
    "See that the agent runs in a scheduled mode and may patch its node; it answers within 30 s. "
    "By hand: remove the annotation.",
)
HANDSHAKE_UNANSWERED = Topic(
    "handshake-unanswered",
    NAME,
    Severity.ERROR,
    "A scheduler's question to this node has no answer.",
    "Its handshake has said Requesting for more than a minute: the vendor's agent does not run, or "
    "cannot write to its node. Schedulers strike the node off.",
    "Start the vendor's agent, and see its log for refused patches.",
)
HANDSHAKE_UNREADABLE = Topic(
    "handshake-unreadable",
    NAME,
    Severity.WARNING,
    "The time in a handshake cannot be read or lies in the future.",
    "Nobody can tell how old it is; a scheduler of version 2.8 may fail on it. Usually the clocks "
    "of scheduler and node differ.",
    "See to the clocks (chronyc tracking), then remove the annotation.",
)
REGISTRATION_MISSING = Topic(
    "registration-missing",
    NAME,
    Severity.ERROR,
    "The node has not told schedulers of its devices.",
    "Without the register annotation a scheduler knows no device here, and pods stay Pending with "
    "node unregistered.",
    "See that the agent runs in a scheduled mode, has devices and may patch its node.",
)
REGISTRATION_UNREADABLE = Topic(
    "registration-unreadable",
    NAME,
    Severity.ERROR,
    "The list of devices for schedulers cannot be read.",
    "Schedulers skip the node, or refuse the list as a whole.",
    "Remove the annotation: the agent writes it again. If another program writes it, stop that.",
)
REGISTRATION_DISAGREES = Topic(
    "registration-disagrees",
    NAME,
    Severity.ERROR,
    "Schedulers and kubelet count different numbers of devices.",
    "What the node registered is not what kubelet can hand out: pods are bound here and then "
    "refused, or room stays unused. Usually another plugin took the resource, or kubelet has not "
    "heard of the latest list.",
    "See the findings on other plugins (plugin-competitor), then restart the agent.",
)
MEMORY_MISSING = Topic(
    "registration-without-memory",
    NAME,
    Severity.ERROR,
    "A registered device has no memory.",
    "It was written before the driver was ready, or the driver cannot tell: nothing that asks for "
    "memory fits the device.",
    "Restart the agent; for unified memory set nvidia.preConfiguredDeviceMemory (MiB).",
)
NOTHING_ALLOCATABLE = Topic(
    "resource-not-allocatable",
    NAME,
    Severity.ERROR,
    "Kubelet has nothing of the resource to hand out.",
    "The node lists the resource with 0, or not at all: no agent has registered it, or every "
    "device is unhealthy.",
    "See the agent's log and `deviceplugin devices` for reasons.",
)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """`lock` is None without one that can be read; `holder` the pod it names, None when there is no
    such pod. `holder_unknown` says why the pod could not be asked for.
    """

    name: str
    node: Node | None
    resources: Mapping[str, VendorKeys]
    scheduled: bool
    now: datetime
    lock: NodeLock | None
    lock_error: str
    holder: Pod | None
    holder_unknown: str = ""


def gather(scene: Scene) -> NodeFacts:
    """Ask for the node, and for the pod that its lock names."""
    raw = scene.api().node(scene.node_name)
    node = objects.node(raw) if raw is not None else None
    lock, error, holder, unknown = None, "", None, ""
    if node is not None and MUTEX_LOCK in node.annotations:
        try:
            lock = nodelock.decode(node.annotations[MUTEX_LOCK])
        except AnnotationError as problem:
            error = str(problem)
    if lock is not None and lock.names_pod:
        try:
            found = scene.api().pod(lock.namespace, lock.name)
            holder = objects.pod(found) if found is not None else None
        except (NotCheckedError, ValueError) as problem:
            unknown = str(problem)
    return NodeFacts(
        scene.node_name,
        node,
        scene.resources,
        scene.scheduled,
        scene.now,
        lock,
        error,
        holder,
        unknown,
    )


def _exists(facts: NodeFacts) -> Iterator[Finding]:
    if facts.node is None:
        yield NODE_MISSING.found(f"there is no node {facts.name!r}")


def _lock(facts: NodeFacts) -> Iterator[Finding]:
    if facts.node is None:
        return
    remove = f"kubectl annotate node {facts.node.name} {MUTEX_LOCK}-"
    if facts.lock_error:
        yield LOCK_UNREADABLE.found("the node's lock is malformed", facts.lock_error, remedy=remove)
    if facts.lock is None:
        return
    text = facts.node.annotations[MUTEX_LOCK]
    whose = f"pod {facts.lock.namespace}/{facts.lock.name}" if facts.lock.names_pod else "nobody"
    if over := _over(facts):
        yield LOCK_LEFT.found(f"the node is locked for {whose}, which {over}", text, remedy=remove)
    elif nodelock.expired(facts.lock, facts.now):
        age = (facts.now - facts.lock.at).total_seconds()
        since = f"for {age / 60:.0f} minutes" if age > 0 else "until a time in the future"
        yield LOCK_STALE.found(f"the node has been locked for {whose} {since}", text)


def _over(facts: NodeFacts) -> str:
    """Why the lock's pod does not need it; empty when it may."""
    if facts.lock is None or not facts.lock.names_pod or facts.holder_unknown:
        return ""
    pod = facts.holder
    if pod is None:
        return "does not exist"
    if pod.ended:
        return f"has ended ({pod.phase})"
    phase = pod.annotations.get(BIND_PHASE)
    if phase in (SUCCESS, FAILED):
        return f"has its answer ({BIND_PHASE} {phase})"
    return ""


def _handshakes(facts: NodeFacts) -> Iterator[Finding]:
    if facts.node is None:
        return
    known = {keys.common_word: keys for keys in (*VENDORS.values(), *facts.resources.values())}
    for word, keys in known.items():
        text = facts.node.annotations.get(keys.handshake or "")
        found = handshake.decode(text)
        if text is None or found is None or keys.handshake is None:
            continue
        verdict = handshake.judge(text, facts.now, allocatable=0)
        evidence = f"{keys.handshake}: {text!r:.100}"
        if found.state is State.DELETED:
            yield HANDSHAKE_DELETED.found(f"schedulers struck off the {word} devices", evidence)
        elif found.state is State.REQUESTING and verdict.action is Action.DROP:
            if word not in handshake.SILENT:
                yield HANDSHAKE_UNANSWERED.found(f"no agent answers for {word}", evidence)
        elif found.state is State.REQUESTING and verdict.write is not None:
            yield HANDSHAKE_UNREADABLE.found(
                f"the handshake of {word} has no usable time", evidence
            )


def _registration(facts: NodeFacts) -> Iterator[Finding]:
    if facts.node is None or not facts.scheduled:
        return
    for resource, keys in facts.resources.items():
        if keys.register is None or keys.registration is Registration.CAPACITY:
            continue
        text = facts.node.annotations.get(keys.register)
        if text is None:
            yield REGISTRATION_MISSING.found(
                f"schedulers do not know the devices of {resource}", f"no {keys.register}"
            )
            continue
        if keys.registration is Registration.VENDOR:
            continue
        try:
            devices = register.decode(text, keys.register)
        except AnnotationError as error:
            yield REGISTRATION_UNREADABLE.found(f"the list of {resource} is malformed", str(error))
            continue
        without = [device.uuid for device in devices if not device.memory]
        if without:
            yield MEMORY_MISSING.found(
                f"{len(without)} devices of {resource} are registered without memory",
                ", ".join(without[:5]),
            )
        yield from _counts(facts.node, resource, keys.register, devices)


def _counts(
    node: Node, resource: str, key: str, devices: tuple[register.NodeDevice, ...]
) -> Iterator[Finding]:
    registered = sum(device.count for device in devices if device.healthy)
    allocatable = node.allocatable.get(resource, 0)
    if allocatable and registered != allocatable:
        yield REGISTRATION_DISAGREES.found(
            f"{registered} shares of {resource} are registered, kubelet offers {allocatable}",
            f"{key}: {len(devices)} devices, "
            f"{sum(not device.healthy for device in devices)} of them unhealthy",
            f"allocatable of the node: {allocatable}",
        )


def _allocatable(facts: NodeFacts) -> Iterator[Finding]:
    if facts.node is None:
        return
    for resource in facts.resources:
        if facts.node.allocatable.get(resource):
            continue
        listed = "0" if resource in facts.node.allocatable else "not listed"
        yield NOTHING_ALLOCATABLE.found(
            f"kubelet has no {resource} to hand out", f"allocatable of the node: {listed}"
        )


GROUP = Group(
    NAME,
    (
        NODE_MISSING,
        LOCK_UNREADABLE,
        LOCK_STALE,
        LOCK_LEFT,
        HANDSHAKE_DELETED,
        HANDSHAKE_UNANSWERED,
        HANDSHAKE_UNREADABLE,
        REGISTRATION_MISSING,
        REGISTRATION_UNREADABLE,
        REGISTRATION_DISAGREES,
        MEMORY_MISSING,
        NOTHING_ALLOCATABLE,
    ),
    gather,
    (_exists, _lock, _handshakes, _registration, _allocatable),
)
