"""Kubelet and the sockets in its directory: who is there, who answers, who is there twice.

Sources: kubelet-deviceplugin.md 2.1, 2.2, 2.7, 2.12; users-and-competitors.md 13.
"""

from __future__ import annotations

import asyncio
import json
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deviceplugin.doctor.model import Finding, Group, NotCheckedError, Severity, Topic
from deviceplugin.doctor.scene import Scene
from deviceplugin.kubelet.checkpoint import FILE_NAME, Checkpoint
from deviceplugin.kubelet.podresources import Holding, PodResources, PodResourcesError
from deviceplugin.kubelet.sockets import PREFIX, SocketPathError, answers, new_socket

__all__ = ["GROUP", "KubeletFacts", "Socket", "holdings"]

NAME = "kubelet"

SOCKET_MISSING = Topic(
    "kubelet-socket-missing",
    NAME,
    Severity.ERROR,
    "Kubelet's registration socket is not there.",
    "Plugins register at kubelet.sock in kubelet's directory of device plugins; without it no "
    "device is offered. Kubelet does not run, or has another root directory.",
    "Start kubelet, or name its socket (--kubelet-socket); see its --root-dir.",
)
SOCKET_DEAD = Topic(
    "kubelet-socket-dead",
    NAME,
    Severity.ERROR,
    "Nobody listens on kubelet's registration socket.",
    "The file is left over from a kubelet that ended.",
    "Start kubelet: it makes the socket anew. See journalctl -u kubelet.",
)
POD_RESOURCES = Topic(
    "pod-resources-unreachable",
    NAME,
    Severity.ERROR,
    "Kubelet's PodResources API does not answer.",
    "The agent asks it who holds which devices: with deferred allocation no container with devices "
    "starts without it, and in all modes what is no longer needed is not cleared away.",
    "Mount /var/lib/kubelet/pod-resources into the agent, or name the socket "
    "(--pod-resources-socket).",
)
CHECKPOINT_BROKEN = Topic(
    "kubelet-checkpoint-broken",
    NAME,
    Severity.WARNING,
    "Kubelet's record of devices cannot be read.",
    "A kubelet that starts with it forgets who holds which device. The agent reads it to tell "
    "namesakes and init containers apart; those wait meanwhile.",
    "Let kubelet write it anew by starting a pod with devices; if it stays broken, drain the node, "
    "remove the file and restart kubelet.",
)
SERVED_TWICE = Topic(
    "resource-served-twice",
    NAME,
    Severity.ERROR,
    "Two agents of this product serve one resource.",
    "Kubelet takes the last one that registered, and the lists of both overwrite each other.",
    "Leave one DaemonSet for each vendor of a node; --vendors divides them.",
)
COMPETITOR = Topic(
    "plugin-competitor",
    NAME,
    Severity.ERROR,
    "Another device plugin for the same devices runs on this node.",
    "Whoever registers last gets the allocations: capacity flips between shares and whole cards, "
    "and pods get devices that nobody limits.",
    "Remove one of them: the GPU operator by devicePlugin.enabled=false in its values, NVIDIA's or "
    "HAMi's plugin by its DaemonSet or a node selector.",
)
NOT_REGISTERED = Topic(
    "resource-not-registered",
    NAME,
    Severity.ERROR,
    "An agent serves a resource that kubelet has not taken.",
    "The agent listens, and kubelet's record does not name the resource: registration failed, or "
    "kubelet was restarted and not told again. Pods that ask for it stay Pending.",
    "See the agent's log for what kubelet answered; restarting the agent registers it again.",
)
TAKEN_OVER = Topic(
    "resource-taken-over",
    NAME,
    Severity.WARNING,
    "Kubelet has another plugin's devices under our resource.",
    "None of the ids that kubelet has for the resource is one that this configuration makes: "
    "another plugin registered later, or an agent with another configuration runs. It gets all "
    "allocations.",
    "Remove the other plugin, then restart the agent; run this command with the agent's own "
    "options.",
)
AGENT_MISSING = Topic(
    "agent-not-serving",
    NAME,
    Severity.WARNING,
    "No agent of this product serves anything on this node.",
    "No socket of its own in kubelet's directory is listened on: it does not run, or has no "
    "devices.",
    "See the agent's pod and its log; /readyz says what it waits for.",
)
SOCKETS_LEFT = Topic(
    "plugin-sockets-left",
    NAME,
    Severity.NOTE,
    "Sockets of plugins that ended are left in kubelet's directory.",
    "They do no harm: kubelet does not connect to them by itself.",
    "Remove them if the plugins are gone for good.",
)


@dataclass(frozen=True, slots=True)
class Socket:
    """One socket of kubelet's directory; `resource` is what one of ours serves, as its file name
    writes it.
    """

    name: str
    alive: bool
    resource: str = ""


@dataclass(frozen=True, slots=True)
class KubeletFacts:
    """`registration` is ``missing``, ``dead`` or ``alive``; `pod_resources` what is wrong with that
    API, empty when it answers. `vendors` are words in the names of rivals, by vendor. `registered`
    are kubelet's ids by resource, None where its record tells nothing; `offered` are ours, and
    `stems` what our sockets call the resources of `registered`.
    """

    socket: str
    registration: str
    sockets: tuple[Socket, ...]
    pod_resources: str
    checkpoint: str
    checkpoint_broken: bool
    vendors: tuple[tuple[str, tuple[str, ...]], ...]
    registered: Mapping[str, frozenset[str]] | None
    stems: frozenset[str]
    offered: Mapping[str, frozenset[str]]


def gather(scene: Scene) -> KubeletFacts:
    """Connect to every socket, and ask PodResources."""
    directory = scene.below(scene.places.plugin_dir)
    try:
        holdings(scene)
    except NotCheckedError as error:
        trouble = str(error)
    else:
        trouble = ""
    registration = scene.below(scene.places.kubelet_socket)
    known = _registered(scene.host.read(f"{scene.places.plugin_dir}/{FILE_NAME}"))
    return KubeletFacts(
        scene.places.kubelet_socket,
        _state(registration),
        tuple(_sockets(directory, registration)),
        trouble,
        f"{scene.places.plugin_dir}/{FILE_NAME}",
        (directory / FILE_NAME).exists() and Checkpoint(directory).entries() is None,
        tuple((driver.vendor, driver.words) for driver in scene.drivers),
        known,
        frozenset(_stem(Path(scene.places.plugin_dir), resource) for resource in known or ()),
        scene.offered,
    )


def holdings(scene: Scene) -> tuple[Holding, ...]:
    """Who holds what by kubelet's word. Raises `NotCheckedError`."""

    async def ask() -> tuple[Holding, ...]:
        client = PodResources(scene.below(scene.places.pod_resources_socket))
        try:
            return await client.holdings()
        finally:
            await client.close()

    try:
        return asyncio.run(ask())
    except PodResourcesError as error:
        raise NotCheckedError(str(error)) from None


def _state(path: Path) -> str:
    if not _is_socket(path):
        return "missing"
    return "alive" if answers(path) else "dead"


def _sockets(directory: Path, registration: Path) -> Iterator[Socket]:
    try:
        paths = sorted(directory.iterdir())
    except OSError:
        return
    for path in paths:
        if path.name == registration.name or not _is_socket(path):
            continue
        ours = path.name.removeprefix(PREFIX) if path.name.startswith(PREFIX) else ""
        yield Socket(path.name, answers(path), ours.rpartition("-")[0])


def _registered(text: str | None) -> Mapping[str, frozenset[str]] | None:
    """Kubelet's healthy ids by resource; a plugin that it has taken has an entry, if an empty one
    (kubelet-deviceplugin.md 2.7).
    """
    try:
        found = json.loads(text or "")["Data"]["RegisteredDevices"]
        return {str(name): frozenset(map(str, ids or ())) for name, ids in (found or {}).items()}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def _stem(directory: Path, resource: str) -> str:
    """What `Socket.resource` is for a resource."""
    try:
        name = new_socket(directory, resource).name
    except SocketPathError:
        return ""  # no agent of ours can be there
    return name.removeprefix(PREFIX).rpartition("-")[0]


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _registration(facts: KubeletFacts) -> Iterator[Finding]:
    if facts.registration == "missing":
        yield SOCKET_MISSING.found(f"{facts.socket} is not there")
    elif facts.registration == "dead":
        yield SOCKET_DEAD.found(f"nobody listens on {facts.socket}")


def _pod_resources(facts: KubeletFacts) -> Iterator[Finding]:
    if facts.pod_resources and facts.registration == "alive":
        yield POD_RESOURCES.found("kubelet does not say who holds devices", facts.pod_resources)


def _checkpoint(facts: KubeletFacts) -> Iterator[Finding]:
    if facts.checkpoint_broken:
        yield CHECKPOINT_BROKEN.found(f"{facts.checkpoint} cannot be read")


def _twice(facts: KubeletFacts) -> Iterator[Finding]:
    ours = [socket for socket in facts.sockets if socket.alive and socket.resource]
    for resource, number in Counter(socket.resource for socket in ours).items():
        if number > 1:
            names = (socket.name for socket in ours if socket.resource == resource)
            yield SERVED_TWICE.found(f"{number} agents serve {resource}", *names)


def _competitors(facts: KubeletFacts) -> Iterator[Finding]:
    for socket in facts.sockets:
        if not socket.alive or socket.resource:
            continue
        for vendor, words in facts.vendors:
            if any(word in socket.name.lower() for word in words):
                yield COMPETITOR.found(
                    f"another plugin for {vendor} listens on {socket.name}",
                    f"find it on the host: ss -xlp | grep {socket.name}",
                )


def _taken(facts: KubeletFacts) -> Iterator[Finding]:
    if facts.registered is None or facts.registration != "alive":
        return
    for socket in facts.sockets:
        if socket.alive and socket.resource and socket.resource not in facts.stems:
            yield NOT_REGISTERED.found(
                f"kubelet has not taken what {socket.name} serves",
                f"{facts.checkpoint}: it has {', '.join(sorted(facts.registered)) or 'nothing'}",
            )
    for resource, ours in facts.offered.items():
        theirs = facts.registered.get(resource, frozenset())
        if ours and theirs and not ours & theirs:
            yield TAKEN_OVER.found(
                f"kubelet has other devices for {resource} than this node's",
                f"kubelet: {_some(theirs)}",
                f"ours: {_some(ours)}",
            )


def _some(ids: frozenset[str]) -> str:
    return ", ".join(sorted(ids)[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")


def _agent(facts: KubeletFacts) -> Iterator[Finding]:
    if not any(socket.alive and socket.resource for socket in facts.sockets):
        yield AGENT_MISSING.found("no agent of this product serves a resource here")


def _left(facts: KubeletFacts) -> Iterator[Finding]:
    dead = [socket.name for socket in facts.sockets if not socket.alive]
    if dead:
        yield SOCKETS_LEFT.found(f"{len(dead)} sockets are left over", *dead[:5])


GROUP = Group(
    NAME,
    (
        SOCKET_MISSING,
        SOCKET_DEAD,
        POD_RESOURCES,
        NOT_REGISTERED,
        TAKEN_OVER,
        SERVED_TWICE,
        COMPETITOR,
        CHECKPOINT_BROKEN,
        AGENT_MISSING,
        SOCKETS_LEFT,
    ),
    gather,
    (_registration, _pod_resources, _checkpoint, _taken, _twice, _competitors, _agent, _left),
)
