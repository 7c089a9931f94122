"""Why a pod is where it is, and how far its devices are. Pure but for the views that the cluster
keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from deviceplugin.api.hami.keys import BIND_PHASE, BIND_TIME
from deviceplugin.api.hami.pod import BindPhase
from deviceplugin.explain.account import Account, Got, Standing
from deviceplugin.explain.facts import locks, nodes, wants
from deviceplugin.explain.judge import NodeVerdict, judge
from deviceplugin.explain.world import World
from deviceplugin.placement.fit import Placement
from deviceplugin.scheduler.cluster import Holding
from deviceplugin.scheduler.filtering import Request
from deviceplugin.vendor.scheduling import Policy

__all__ = ["got_of", "placed"]

Json = Mapping[str, Any]


def placed(world: World, pod: Json, wanted: Request, holding: Holding) -> Account:
    """A pod that is bound to the node where it was given devices."""
    key, node = f"{holding.namespace}/{holding.name}", holding.node
    annotations = pod["metadata"].get("annotations") or {}
    phase = annotations.get(BIND_PHASE)
    got = tuple(got_of(world, pod, holding))
    verdicts = judge(world, pod, wanted)
    what = _devices(got)
    notes, advice = [*_why_there(world, wanted, node, verdicts)], []
    if phase == BindPhase.FAILED:
        standing = Standing.FAILED
        answer = f"{key} was given {what} on {node}, and the node's agent could not hand them over."
        advice = [
            f"kubectl describe pod {holding.name} -n {holding.namespace} and the agent's log on "
            f"{node} say why; delete the pod, it will not start any more"
        ]
    elif phase == BindPhase.ALLOCATING:
        standing = Standing.ALLOCATING
        since = _since(annotations.get(BIND_TIME), world.taken_at)
        answer = (
            f"{key} is bound to {node} with {what}{since}, and no agent has handed them over yet."
        )
        advice = [*_not_served(world, node), *locks(world, node)]
    else:
        standing = Standing.PLACED
        running = (pod.get("status") or {}).get("phase") == "Running"
        answer = f"{key} {'runs' if running else 'is'} on {node} with {what}."
    return Account(
        key,
        standing,
        answer,
        wants(world, wanted),
        got,
        node,
        advice=tuple(advice),
        verdicts=verdicts,
        notes=tuple(notes),
        wanted=wanted,
    )


def _not_served(world: World, node: str) -> Iterator[str]:
    record = world.cluster.record(node)
    if record is None:
        yield f"node {node} is gone or not looked after: delete the pod"
    elif record.deferred:
        yield (
            f"the agent of {node} hands devices over when a container starts: see whether the "
            "pod's images and volumes are there, else the agent's log"
        )
    else:
        yield (
            "kubelet has not called Allocate, or the agent did not find the pod: run `deviceplugin "
            f"doctor` on {node}"
        )


def _since(text: str | None, taken_at: str) -> str:
    """How long a pod has waited; empty where nobody can tell."""
    try:
        began = datetime.fromtimestamp(int(text or ""), UTC)
        now = datetime.fromisoformat(taken_at)
    except (ValueError, OverflowError, OSError):
        return ""
    seconds = int((now - began).total_seconds())
    if seconds < 0:
        return ""
    return f" for {seconds} seconds" if seconds < 120 else f" for {seconds // 60} minutes"


def got_of(world: World, pod: Json, holding: Holding) -> Iterator[Got]:
    """The devices of a pod, container by container."""
    spec = pod["spec"]
    names = [
        str(container.get("name"))
        for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
    ]
    view = world.cluster.view(holding.node)
    for word, items in holding.held.items():
        cards = {card.uuid: card for card in view.cards.get(word, ())} if view else {}
        for item in items:
            for device in item.devices:
                card = cards.get(device.uuid)
                slot = f"{device.slot.geometry}-{device.slot.position}" if device.slot else ""
                yield Got(
                    names[item.position],
                    device.uuid,
                    card.device.type if card else "",
                    device.memory,
                    device.cores,
                    slot,
                )


def _devices(got: tuple[Got, ...]) -> str:
    if not got:
        return "no device"
    first = got[0]
    if len(got) == 1:
        return f"{first.memory_mib:,} MiB and {first.cores}% of {first.uuid}"
    cards = len({device.uuid for device in got})
    return f"{len(got)} shares of {cards} cards" if cards < len(got) else f"{cards} cards"


def _why_there(
    world: World, wanted: Request, node: str, verdicts: Mapping[str, NodeVerdict]
) -> Iterator[str]:
    """The node among those that would serve the pod if it were placed now."""
    spread = wanted.node_policy is Policy.SPREAD
    places = [v.found for v in verdicts.values() if v.fits and isinstance(v.found, Placement)]
    here = next((place for place in places if place.node == node), None)
    rule = "the emptiest node first" if spread else "the fullest node first"
    policy = f"node policy {wanted.node_policy} ({rule}), card policy {wanted.card_policy}"
    if here is None:
        yield f"{policy}; if it were placed now, {node} would not serve it"
        return
    order = sorted(places, key=lambda p: (p.score if spread else -p.score, p.node))
    better = [p for p in order if (p.score < here.score) == spread and p.score != here.score]
    rank = f"number {len(better) + 1}" if better else "the best"
    text = f"{policy}: of {nodes(len(order))} that would serve it now, {node} is {rank}"
    other = next((place for place in order if place.node != node), None)
    if other is not None:
        text += f" (score {here.score:.2f}, {other.node} has {other.score:.2f})"
    yield text
