"""Kubelet and the sockets in its directory: who is there, who answers, who is there twice.

Sources: kubelet-deviceplugin.md 2.1, 2.2, 2.7, 2.12; users-and-competitors.md 13.
"""

from __future__ import annotations

import asyncio
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deviceplugin.doctor.model import Finding, Group, NotCheckedError, Severity, Topic
from deviceplugin.doctor.scene import Scene
from deviceplugin.kubelet.checkpoint import FILE_NAME, Checkpoint
from deviceplugin.kubelet.podresources import Holding, PodResources, PodResourcesError
from deviceplugin.kubelet.sockets import PREFIX, answers

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
    API, empty when it answers. `vendors` are words in the names of rivals, by vendor.
    """

    socket: str
    registration: str
    sockets: tuple[Socket, ...]
    pod_resources: str
    checkpoint: str
    checkpoint_broken: bool
    vendors: tuple[tuple[str, tuple[str, ...]], ...]


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
    return KubeletFacts(
        scene.places.kubelet_socket,
        _state(registration),
        tuple(_sockets(directory, registration)),
        trouble,
        f"{scene.places.plugin_dir}/{FILE_NAME}",
        (directory / FILE_NAME).exists() and Checkpoint(directory).entries() is None,
        tuple((driver.vendor, driver.words) for driver in scene.drivers),
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
        SERVED_TWICE,
        COMPETITOR,
        CHECKPOINT_BROKEN,
        AGENT_MISSING,
        SOCKETS_LEFT,
    ),
    gather,
    (_registration, _pod_resources, _checkpoint, _twice, _competitors, _agent, _left),
)
