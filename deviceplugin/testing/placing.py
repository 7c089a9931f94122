"""A scheduler that decides by the vendors' own scheduling halves, for one node: what people write
in a pod goes in, and what HAMi's agents read comes out. It works on any API server.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from deviceplugin import registry
from deviceplugin.api.hami.keys import VGPU_NODE
from deviceplugin.apiserver.client import Path
from deviceplugin.placement.admit import admitted
from deviceplugin.placement.fit import Placement, place
from deviceplugin.placement.objects import node_facts, pod_spec
from deviceplugin.placement.observe import Held, NodeView, cards_with, held_of, node_view
from deviceplugin.placement.request import asks
from deviceplugin.placement.write import decision
from deviceplugin.testing.scheduling import ScriptedScheduler
from deviceplugin.vendor.scheduling import Policy, SchedulingBackend, Unfit

__all__ = ["DoesNotFitError", "admit", "place_pod", "scheduling_backends"]

ENDED = ("Succeeded", "Failed")


class DoesNotFitError(Exception):
    """The pod has no place on the node; `unfit` says why."""

    def __init__(self, unfit: Unfit) -> None:
        reasons = "; ".join(f"{r.obstacle} {r.card} {r.detail}".strip() for r in unfit.reasons)
        super().__init__(f"container {unfit.container} asks for {unfit.word}: {reasons}")
        self.unfit = unfit


def scheduling_backends(
    vendor: str, section: Mapping[str, Any] | None = None
) -> tuple[SchedulingBackend, ...]:
    """The scheduling half of an installed vendor, made for its `section` of the file."""
    return registry.load_scheduling(registry.load().vendors[vendor], section or {})


def admit(manifest: Mapping[str, Any], backends: Sequence[SchedulingBackend]) -> dict[str, Any]:
    """The pod as a webhook would have it stored. Raises `RefusedError`."""
    return admitted(manifest, backends)[0]


def place_pod(
    scheduler: ScriptedScheduler,
    namespace: str,
    name: str,
    backends: Sequence[SchedulingBackend],
    policy: Policy = Policy.SPREAD,
    *,
    bind: bool = True,
) -> Placement:
    """Decide for a stored pod, write the decision down, and bind. Blocking.

    Raises `DoesNotFitError`, `RefusedError` and `ApiError`.
    """
    by_word = {backend.keys.common_word: backend for backend in backends}
    item = scheduler.api.call("GET", Path.pod(namespace, name))
    pod = pod_spec(item)
    view = _view(scheduler, by_word)
    wanted = asks(pod, backends)
    found = place(view, pod, wanted, by_word, policy, Policy.BINPACK)
    if isinstance(found, Unfit):
        raise DoesNotFitError(found)
    listed = any(ask.demands for ask in wanted if ask.container.init)
    annotations = decision(found, view, pod, wanted, by_word, time.time_ns(), init_listed=listed)
    scheduler.annotate(namespace, name, annotations)
    if bind:
        scheduler.bind(namespace, name)
    return found


def _view(scheduler: ScriptedScheduler, backends: Mapping[str, SchedulingBackend]) -> NodeView:
    """The node and what its pods hold, by their annotations."""
    node = scheduler.api.call("GET", Path.node(scheduler.node))
    view, problems = node_view(node_facts(node), backends.values())
    if problems:
        raise ExceptionGroup("the node's annotations cannot be read", list(problems))
    pods = scheduler.api.call("GET", Path("/api/v1/pods", {}))["items"]
    for word, cards in view.cards.items():
        held = [
            Held(pod.uid, f"{pod.namespace}/{pod.name}", devices, False, pod.annotations)
            for item in pods
            if (item.get("status") or {}).get("phase") not in ENDED
            for pod in (pod_spec(item),)
            if pod.annotations.get(VGPU_NODE) == scheduler.node
            for devices in held_of(pod.annotations, backends[word])
            if devices
        ]
        view = view.with_cards(word, cards_with(cards, held))
    return view
