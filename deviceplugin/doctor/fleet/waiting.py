"""Pods that ask for devices and do not have them, and those that have what nobody gave them.

Sources: users-and-competitors.md 6, 11; deploy-observe-webui.md 4.3.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from deviceplugin.api.hami.keys import BIND_PHASE, BIND_TIME
from deviceplugin.api.hami.pod import BindPhase
from deviceplugin.doctor.fleet.scene import FleetScene, Json
from deviceplugin.doctor.model import Finding, Group, Severity, Topic
from deviceplugin.explain.judge import judge, requested
from deviceplugin.explain.story import has_devices
from deviceplugin.explain.waiting import verdict_of
from deviceplugin.explain.world import World
from deviceplugin.scheduler.cluster import read
from deviceplugin.scheduler.pods import PodRecord, pod_record
from deviceplugin.scheduler.slipped import slipped
from deviceplugin.vendor.scheduling import RefusedError

__all__ = ["GROUP", "WaitingFacts"]

NAME = "waiting"
PATIENCE = timedelta(minutes=5)
MOST_KINDS = 100
"""Kinds of waiting pods that are looked at."""

PENDING = Topic(
    "pod-unplaced",
    NAME,
    Severity.WARNING,
    "A pod waits, and no node serves it.",
    "It asks for what is not free anywhere, or not to be had.",
    "`deviceplugin explain POD` says node by node why, and what would make it fit.",
)
UNASKED = Topic(
    "pod-unasked",
    NAME,
    Severity.WARNING,
    "A pod waits for more than five minutes although a node serves it.",
    "kube-scheduler has not asked for it since, or filters by what is not looked at here: CPU, "
    "memory, volumes, other pods.",
    "kubectl describe pod says what kube-scheduler thinks of it.",
)
PAST = Topic(
    "pod-past-webhook",
    NAME,
    Severity.ERROR,
    "A pod came past the webhook.",
    "It names another scheduler, is on a node where nobody gave it a device, is privileged, or "
    "asks for what can never be served; a webhook sees only what is created.",
    "Delete it, so that its controller makes it anew.",
)
UNSERVED = Topic(
    "pod-unserved",
    NAME,
    Severity.ERROR,
    "A pod was bound more than five minutes ago, and no agent has handed its devices over.",
    "Its devices stay counted as used. kubelet has not called Allocate, or the agent did not find "
    "the pod.",
    "Run `deviceplugin doctor` on its node; then delete the pod.",
)
FAILED = Topic(
    "pod-not-given",
    NAME,
    Severity.ERROR,
    "An agent could not hand a pod its devices over.",
    "The pod will not start any more, although it may look Pending.",
    "See the pod's events and the agent's log, then delete the pod.",
)
UNREADABLE = Topic(
    "pod-decision-unreadable",
    NAME,
    Severity.ERROR,
    "What was decided about a bound pod cannot be read.",
    "What it uses counts as free, and is given away again.",
    "Delete the pod, so that it is decided about anew.",
)
"""The node's doctor has findings of its own on the pods of a node, with what only it can see."""


@dataclass(frozen=True, slots=True)
class WaitingFacts:
    """The pods that are not over and ask for something or were decided about."""

    world: World
    pods: tuple[tuple[PodRecord, Json], ...]
    now: datetime


def gather(scene: FleetScene) -> WaitingFacts:
    """All of them, in order of their names."""
    world = scene.world
    found = ((pod_record(item), item) for _, item in sorted(world.pods.items()))
    return WaitingFacts(world, tuple((r, item) for r, item in found if r is not None), scene.now)


def _past(facts: WaitingFacts) -> Iterator[Finding]:
    world = facts.world
    for record, _ in facts.pods:
        one = slipped(
            record, world.settings, world.backends, lambda n, words: has_devices(world, n, words)
        )
        if one is not None:
            yield PAST.found(
                f"pod {one.namespace}/{one.name} came past the webhook: {one.slip}",
                one.detail,
                remedy=one.remedy,
            )


def _pending(facts: WaitingFacts) -> Iterator[Finding]:
    """Of pods that are alike in all that decides, one is looked at."""
    world = facts.world
    known: dict[Any, str] = {}
    for record, item in facts.pods:
        spec = item["spec"]
        ours = record.scheduler == world.settings.name
        if record.bound or record.node or not ours or spec.get("schedulingGates"):
            continue
        try:
            wanted = requested(world, item)
        except RefusedError:
            continue  # it came past the webhook, and is told of
        if not wanted.words:
            continue
        parts = [spec.get(key) for key in ("nodeSelector", "affinity", "tolerations")]
        kind = (wanted.shape, json.dumps(parts, sort_keys=True))
        if kind not in known:
            if len(known) >= MOST_KINDS:
                continue
            known[kind] = verdict_of(world, wanted, judge(world, item, wanted))
        name = f"{record.namespace}/{record.name}"
        if known[kind]:
            yield PENDING.found(
                f"pod {name} waits",
                known[kind],
                remedy=f"deviceplugin explain {record.name} -n {record.namespace}",
            )
        elif (age := _age(item, facts.now)) is not None and age > PATIENCE:
            yield UNASKED.found(f"pod {name} waits for {age.total_seconds() / 60:.0f} minutes")


def _served(facts: WaitingFacts) -> Iterator[Finding]:
    for record, item in facts.pods:
        if not record.bound or record.node != record.bound:
            continue
        name = f"pod {record.namespace}/{record.name} on {record.bound}"
        annotations = item["metadata"].get("annotations") or {}
        phase, pending = annotations.get(BIND_PHASE), item["status"].get("phase") == "Pending"
        holding, problems = read(record, facts.world.backends)
        for problem in problems:
            yield UNREADABLE.found(f"what was decided about {name} cannot be read", problem)
        if not holding.held or not pending:
            continue
        if phase == BindPhase.FAILED:
            yield FAILED.found(f"{name} was not given its devices", f"{BIND_PHASE}: {phase}")
        elif phase == BindPhase.ALLOCATING:
            since = _bound_for(annotations.get(BIND_TIME), facts.now)
            if since is not None and since > PATIENCE:
                minutes = since.total_seconds() / 60
                yield UNSERVED.found(f"{name} has waited {minutes:.0f} minutes for its devices")


def _bound_for(text: str | None, now: datetime) -> timedelta | None:
    try:
        return now - datetime.fromtimestamp(int(text or ""), UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _age(item: Json, now: datetime) -> timedelta | None:
    try:
        return now - datetime.fromisoformat(str(item["metadata"].get("creationTimestamp")))
    except (ValueError, TypeError):
        return None


GROUP = Group(
    NAME,
    (PAST, UNSERVED, FAILED, UNREADABLE, PENDING, UNASKED),
    gather,
    (_past, _served, _pending),
)
