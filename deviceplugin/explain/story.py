"""The account of a pod: why it waits, or why it is where it is. Pure but for the views that the
cluster keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deviceplugin.api.hami.keys import VGPU_NODE
from deviceplugin.explain.account import Account, Standing
from deviceplugin.explain.facts import kube_schedulers_word
from deviceplugin.explain.judge import requested
from deviceplugin.explain.placed import placed
from deviceplugin.explain.waiting import came_past, waits
from deviceplugin.explain.world import World
from deviceplugin.scheduler.cluster import read
from deviceplugin.scheduler.pods import ENDED, PodRecord, pod_record
from deviceplugin.scheduler.slipped import slipped
from deviceplugin.vendor.scheduling import RefusedError

__all__ = ["NoSuchPodError", "explained", "has_devices"]

Json = Mapping[str, Any]


class NoSuchPodError(LookupError):
    """There is no pod of that name; the text says which there are."""


def explained(world: World, namespace: str, name: str) -> Account:
    """What there is to tell of a pod. Raises `NoSuchPodError`."""
    key = f"{namespace}/{name}"
    pod = world.pods.get(key)
    if pod is None:
        raise NoSuchPodError(_unknown(world, namespace, name))
    if (pod.get("status") or {}).get("phase") in ENDED:
        return _ended(key, pod)
    record = pod_record(pod)
    if record is None:
        answer = f"{key} asks for no device: kube-scheduler alone decides where it goes."
        return Account(key, Standing.NOTHING_ASKED, answer, notes=tuple(kube_schedulers_word(pod)))
    past = slipped(
        record, world.settings, world.backends, lambda node, words: has_devices(world, node, words)
    )
    if past is not None:
        return came_past(world, pod, past)
    return _regular(world, key, pod, record)


def _regular(world: World, key: str, pod: Json, record: PodRecord) -> Account:
    """A pod that went the way of all pods."""
    notes = tuple(kube_schedulers_word(pod))
    try:
        wanted = requested(world, pod)
    except RefusedError as error:
        answer = f"{key} can never be served as it is written: {error}."
        return Account(key, Standing.REFUSED, answer, notes=notes)
    holding = world.cluster.holding(record.uid)
    if holding is not None:
        return placed(world, pod, wanted, holding)
    if not wanted.words:
        answer = f"{key} asks for no device: kube-scheduler alone decides where it goes."
        return Account(key, Standing.NOTHING_ASKED, answer, notes=notes)
    if not record.bound:
        return waits(world, pod, wanted)
    if record.node == record.bound:
        problems = "; ".join(read(record, world.backends)[1]) or "it names no device"
        answer = f"{key} is on {record.bound} by a decision that cannot be read: {problems}."
        advice = (f"what it uses counts as free; delete it, or the annotation {VGPU_NODE}",)
        return Account(key, Standing.UNREADABLE, answer, node=record.bound, advice=advice)
    answer = f"{key} is on {record.bound}, whose devices are not looked after by this scheduler."
    return Account(key, Standing.ELSEWHERE, answer, node=record.bound)


def has_devices(world: World, node: str, words: frozenset[str]) -> bool:
    """Whether a node tells of devices of one of these words."""
    view = world.cluster.view(node)
    return view is not None and bool(words & view.cards.keys())


def _ended(key: str, pod: Json) -> Account:
    status = pod.get("status") or {}
    phase, reason = status.get("phase"), status.get("reason") or ""
    if phase == "Failed" and reason:
        answer = f"{key} has failed: {reason}: {status.get('message') or 'without a message'}"
        advice = ("kubelet never tries such a pod again: delete it, its controller makes another",)
        return Account(key, Standing.ENDED, answer, advice=advice)
    return Account(key, Standing.ENDED, f"{key} has ended ({phase}) and holds nothing any more.")


def _unknown(world: World, namespace: str, name: str) -> str:
    elsewhere = sorted(key for key in world.pods if key.partition("/")[2] == name)
    if elsewhere:
        return f"no pod {name} in namespace {namespace}; there is {', '.join(elsewhere[:3])}"
    return f"no pod {name} in namespace {namespace}"
