"""Why a pod waits. Pure but for the views that the cluster keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from deviceplugin.api.hami.keys import VGPU_NODE
from deviceplugin.explain.account import Account, Standing
from deviceplugin.explain.facts import kube_schedulers_word, locks, nodes, wants
from deviceplugin.explain.groups import Group, group
from deviceplugin.explain.judge import NodeVerdict, judge, requested
from deviceplugin.explain.remedies import remedies
from deviceplugin.explain.victims import preempts_devices, victims
from deviceplugin.explain.world import World
from deviceplugin.placement.admit import admitted
from deviceplugin.scheduler.filtering import Request
from deviceplugin.scheduler.pods import ENDED, priority_of
from deviceplugin.scheduler.slipped import Slip, Slipped
from deviceplugin.vendor.scheduling import Obstacle

__all__ = ["came_past", "verdict_of", "waits"]

Json = Mapping[str, Any]

RETRY = (
    "kube-scheduler tries a pod that an extender refused again when something changes that it "
    "knows of, else after five minutes"
)


def waits(world: World, pod: Json, wanted: Request) -> Account:
    """A pod that waits for a node."""
    key = f"{wanted.pod.namespace}/{wanted.pod.name}"
    verdicts = judge(world, pod, wanted)
    fits = sorted(verdict.name for verdict in verdicts.values() if verdict.fits)
    groups = group(world, wanted, verdicts)
    standing, answer, advice = _answer(world, pod, key, fits, _nowhere(verdicts, groups))
    mended, notes = [], [*kube_schedulers_word(pod)]
    if not fits:
        mended = remedies(world, pod, wanted, verdicts)
        notes += _preemption(world, pod, wanted, verdicts)
    elif standing is Standing.FITS:
        notes += _undecided(world, pod)
    return Account(
        key,
        standing,
        answer,
        wants(world, wanted),
        remedies=tuple(mended),
        advice=tuple(advice),
        groups=tuple(groups),
        verdicts=verdicts,
        notes=tuple(notes),
        wanted=wanted,
    )


def came_past(world: World, pod: Json, past: Slipped) -> Account:
    """A pod that the webhook did not see, and what would become of it had it done so."""
    key = f"{past.namespace}/{past.name}"
    told = Account(
        key,
        Standing.PAST_WEBHOOK,
        f"{key} came past the webhook: {past.detail}.",
        node=str(pod["spec"].get("nodeName") or ""),
        advice=(past.remedy,),
        notes=tuple(kube_schedulers_word(pod)),
    )
    if told.node or past.slip is not Slip.OTHER_SCHEDULER:
        return told
    seen, _ = admitted(pod, world.backends.values())
    wanted = requested(world, seen)
    verdicts = judge(world, seen, wanted)
    return replace(
        told,
        wants=wants(world, wanted),
        groups=tuple(group(world, wanted, verdicts)),
        verdicts=verdicts,
        wanted=wanted,
    )


def verdict_of(world: World, wanted: Request, verdicts: Mapping[str, NodeVerdict]) -> str:
    """Why no node serves a pod, in one sentence; empty where one does."""
    if any(verdict.fits for verdict in verdicts.values()):
        return ""
    return _nowhere(verdicts, group(world, wanted, verdicts))


def _answer(
    world: World, pod: Json, key: str, fits: Sequence[str], nowhere: str
) -> tuple[Standing, str, list[str]]:
    """Where it stands, the sentence, and what to do."""
    if gates := [str(gate.get("name")) for gate in pod["spec"].get("schedulingGates") or ()]:
        then = f"{nodes(len(fits))} would serve it" if fits else nowhere
        text = f"{key} is held back by its scheduling gates {', '.join(gates)}; {then}."
        who = "whoever set them (Kueue, for example) takes them off when it is the pod's turn"
        return Standing.GATED, text, [who]
    decided = (pod["metadata"].get("annotations") or {}).get(VGPU_NODE) or ""
    if decided in fits:
        text = f"{key} was given devices on {decided} and waits to be bound there."
        return Standing.DECIDED, text, [*locks(world, decided)]
    if fits:
        where = fits[0] if len(fits) == 1 else f"{nodes(len(fits))}, {fits[0]} for one"
        text = f"{key} has not been placed yet, although it fits on {where}."
        return Standing.FITS, text, [RETRY, *locks(world, fits[0])]
    return Standing.UNFIT, f"{key} is pending: {nowhere}.", []


def _nowhere(verdicts: Mapping[str, NodeVerdict], groups: list[Group]) -> str:
    """Why no node serves, in one sentence; empty where some does."""
    if not groups:
        return "" if verdicts else "there are no nodes"
    first = groups[0]
    if len(groups) == 1:
        return f"on {_all(len(first.nodes))}, {first.summary}"
    if first.word == Obstacle.QUOTA and len(first.nodes) == len(verdicts):
        return first.summary
    return f"none of {nodes(len(verdicts))} serves it: on {len(first.nodes)}, {first.summary}"


def _all(number: int) -> str:
    return "the only node" if number == 1 else f"all {number:,} nodes"


def _undecided(world: World, pod: Json) -> Iterator[str]:
    """Others that may hold what looks free: decisions count before they are bound, in the
    scheduler's memory only.
    """
    uid = pod["metadata"].get("uid")
    others = [
        key
        for key, other in world.pods.items()
        if (other["metadata"].get("annotations") or {}).get(VGPU_NODE)
        and not other["spec"].get("nodeName")
        and other["metadata"].get("uid") != uid
        and (other.get("status") or {}).get("phase") not in ENDED
    ]
    if others:
        yield (
            f"{len(others)} pods were given devices and are not bound yet, {sorted(others)[0]} for "
            "one: what they hold looks free here"
        )


def _preemption(
    world: World, pod: Json, wanted: Request, verdicts: Mapping[str, NodeVerdict]
) -> Iterator[str]:
    """What pods of lower priority stand in the way, and why they were not ended."""
    found = victims(world, pod, wanted, verdicts)
    if found is None:
        return
    who = found.pods[0] if len(found.pods) == 1 else f"{len(found.pods)} pods ({found.pods[0]}, …)"
    yield (
        f"its priority {priority_of(pod)} is above that of {who} on {found.node}, without which it "
        "would fit there"
    )
    counts, server = preempts_devices(world.kubernetes), world.kubernetes or "of unknown version"
    if counts:
        yield (
            f"kube-scheduler preempts for devices from 1.38 on (this cluster is {server}), where "
            "its configuration names a preemptVerb"
        )
    else:
        yield (
            "kube-scheduler before 1.38 tries preemption out without extenders, so that nothing is "
            f"ever preempted for devices (this cluster is {server}); delete the pod by hand"
        )
