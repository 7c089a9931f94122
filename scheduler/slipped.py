"""Pods that came past the webhook while it was away: a webhook sees only what is created, so who
slipped past once stays so. Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from deviceplugin.placement.fit import Backends
from deviceplugin.placement.request import asks
from deviceplugin.scheduler.pods import PodRecord
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.scheduler.webhook import privileged
from deviceplugin.vendor.scheduling import PodSpec, RefusedError

__all__ = ["HasDevices", "Slip", "Slipped", "slipped"]

HasDevices = Callable[[str, frozenset[str]], bool]
"""Whether a node tells of devices of one of these words."""


class Slip(enum.StrEnum):
    """What a webhook would not have let happen."""

    OTHER_SCHEDULER = "OtherScheduler"
    """It asks for a device and waits for a scheduler that knows none."""
    NOT_DECIDED = "NotDecided"
    """It is on a node with devices that nobody gave it."""
    PRIVILEGED = "Privileged"
    """It asks for a share and sees every device."""
    REFUSED = "Refused"
    """It asks for what can never be served."""


@dataclass(frozen=True, slots=True)
class Slipped:
    """A pod that slipped past: how, in figures why, and what to do."""

    namespace: str
    name: str
    uid: str
    slip: Slip
    detail: str
    remedy: str


def slipped(
    seen: PodRecord, settings: SchedulerSettings, backends: Backends, has_devices: HasDevices
) -> Slipped | None:
    """How a pod slipped past; None for one that did not. Pods that the webhook leaves alone, by
    label or because they name another scheduler on purpose, count only where they are on a node
    with devices: there they use what others are promised.
    """
    pod = seen.pod
    elsewhere = seen.bound and not has_devices(seen.bound, frozenset(backends))
    if elsewhere or _was_decided(seen, settings):
        return None
    taken = not seen.ignored and settings.takes(seen.scheduler)
    try:
        words = _words(pod, backends)
        too_free = privileged(pod, [backends[word] for word in words])
    except RefusedError as error:
        again = f"correct it and create it anew. {_AGAIN}"
        return _found(pod, Slip.REFUSED, str(error), again) if taken else None
    if words and seen.bound and seen.node != seen.bound and has_devices(seen.bound, words):
        return _astray(seen, words)
    if not words or not taken:
        return None
    if too_free:
        return _found(pod, Slip.PRIVILEGED, too_free, _AGAIN)
    if not seen.bound and seen.scheduler != settings.name:
        return _found(
            pod,
            Slip.OTHER_SCHEDULER,
            f"it asks for {_listed(words)} and names scheduler {seen.scheduler or 'none'}, which "
            "knows none of them",
            f"delete it, and its controller makes it anew. {_AGAIN}",
        )
    return None


def _astray(seen: PodRecord, words: frozenset[str]) -> Slipped:
    how = f"a decision for {seen.node}" if seen.node else "no decision"
    by = seen.scheduler or "whoever set spec.nodeName"
    return _found(
        seen.pod,
        Slip.NOT_DECIDED,
        f"it asks for {_listed(words)} and is on {seen.bound} with {how}: {by} placed it "
        "there, and its devices count as free",
        f"delete it and create it anew, without spec.nodeName. {_AGAIN}",
    )


def _found(pod: PodSpec, slip: Slip, detail: str, remedy: str) -> Slipped:
    return Slipped(pod.namespace, pod.name, pod.uid, slip, detail, remedy)


def _was_decided(seen: PodRecord, settings: SchedulerSettings) -> bool:
    """Whether it went the way of every pod, which is so of nearly all; anybody may write a decision
    on a pod of his own that is not bound yet.
    """
    settled = seen.bound == seen.node or (not seen.bound and seen.scheduler == settings.name)
    containers = (*seen.pod.init_containers, *seen.pod.containers)
    return bool(seen.node) and settled and not any(c.privileged for c in containers)


def _words(pod: PodSpec, backends: Backends) -> frozenset[str]:
    """What the pod asks for, also where a webhook would have had to add the count. Raises
    `RefusedError`.
    """
    containers = (*pod.init_containers, *pod.containers)
    named = frozenset(name for c in containers for name in (*c.limits, *c.requests))
    asked = [b for b in backends.values() if not named.isdisjoint(b.resources.names())]
    found = {word for ask in asks(pod, asked) for word in ask.demands}
    for container in containers:
        found |= {b.keys.common_word for b in asked if b.admit(container, pod).found}
    return frozenset(found)


_AGAIN = "The webhook did not see it: `deviceplugin doctor --cluster` says whether it would now."


def _listed(words: frozenset[str]) -> str:
    return ", ".join(sorted(words))
