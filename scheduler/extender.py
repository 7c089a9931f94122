"""The wire between kube-scheduler and an extender. Pure: bytes to values and back.

Field names are those of Go's structs, in their case; like Go, any case is read (hami-scheduler.md
1.4, kube-scheduler's extender/v1).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deviceplugin.scheduler.bodies import parsed

__all__ = [
    "Bind",
    "BodyError",
    "Filter",
    "Preempt",
    "bind_result",
    "filter_result",
    "parse_bind",
    "parse_filter",
    "parse_preempt",
    "preempt_result",
]

Json = Mapping[str, Any]


class BodyError(ValueError):
    """A request that is none; the text goes into the answer."""


@dataclass(frozen=True, slots=True)
class Filter:
    """`names` where the extender knows the nodes itself (``nodeCacheCapable``), else `nodes` as
    they are, which is also how autoscalers ask about nodes that do not exist.
    """

    pod: Json
    names: tuple[str, ...] | None
    nodes: tuple[Json, ...] | None


@dataclass(frozen=True, slots=True)
class Bind:
    """A pod that is to be bound to a node."""

    namespace: str
    name: str
    uid: str
    node: str


@dataclass(frozen=True, slots=True)
class Preempt:
    """For each node the uids of the pods that would have to go, and how many disruption budgets
    that violates.
    """

    pod: Json
    victims: Mapping[str, tuple[str, ...]]
    violations: Mapping[str, int]


def parse_filter(body: bytes) -> Filter:
    """Raises `BodyError`."""
    found = _members(body)
    names, nodes = found.get("nodenames"), found.get("nodes")
    if names is not None and not _are_texts(names):
        raise BodyError("NodeNames is not a list of names")
    items = _lower(nodes).get("items") if nodes is not None else None
    if items is not None and not _are_objects(items):
        raise BodyError("Nodes has no list of nodes")
    return Filter(
        _pod(found),
        None if names is None else tuple(names),
        None if items is None else tuple(items),
    )


def filter_result(
    names: Sequence[str] | None,
    failed: Mapping[str, str] | None = None,
    error: str = "",
    nodes: Sequence[Json] | None = None,
) -> bytes:
    """The nodes that are left: `names`, or `nodes` where those were asked about. Failed ones are
    only listed where none is left.
    """
    return json.dumps(
        {
            "Nodes": None if nodes is None else {"metadata": {}, "items": list(nodes)},
            "NodeNames": None if names is None else list(names),
            "FailedNodes": dict(failed) if failed else None,
            "FailedAndUnresolvableNodes": None,
            "Error": error,
        }
    ).encode()


def parse_bind(body: bytes) -> Bind:
    """Raises `BodyError`."""
    found = _members(body)
    names = [found.get(key) for key in ("podnamespace", "podname", "poduid", "node")]
    if not all(isinstance(name, str) and name not in ("", ".", "..") for name in names):
        raise BodyError("PodNamespace, PodName, PodUID and Node have to be names")
    return Bind(*(str(name) for name in names))


def bind_result(error: str = "") -> bytes:
    """An empty text means that the pod is bound."""
    return json.dumps({"Error": error}).encode()


def parse_preempt(body: bytes) -> Preempt:
    """Raises `BodyError`. Victims come as uids, or as whole pods."""
    found = _members(body)
    nodes = found.get("nodenametometavictims") or found.get("nodenametovictims") or {}
    if not isinstance(nodes, Mapping):
        raise BodyError("NodeNameToMetaVictims is not a mapping")
    victims, violations = {}, {}
    for name, entry in nodes.items():
        fields = _lower(entry)
        pods = fields.get("pods") or []
        if not _are_objects(pods):
            raise BodyError(f"the victims of node {name!r:.80} are not a list of pods")
        victims[str(name)] = tuple(_uid(pod) for pod in pods)
        count = fields.get("numpdbviolations") or 0
        violations[str(name)] = count if isinstance(count, int) else 0
    return Preempt(_pod(found), victims, violations)


def preempt_result(victims: Mapping[str, Sequence[str]], violations: Mapping[str, int]) -> bytes:
    """The nodes where it helps, each with those that have to go, none too."""
    nodes = {
        name: {
            "Pods": [{"UID": uid} for uid in uids],
            "NumPDBViolations": violations.get(name, 0),
        }
        for name, uids in victims.items()
    }
    return json.dumps({"NodeNameToMetaVictims": nodes}).encode()


def _members(body: bytes) -> dict[str, Any]:
    try:
        return _lower(parsed(body))
    except ValueError as error:
        raise BodyError(f"the body is not an object of JSON: {error}") from None


def _lower(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise BodyError("not an object")
    return {str(key).lower(): entry for key, entry in value.items()}


def _pod(found: Mapping[str, Any]) -> Json:
    pod = found.get("pod")
    if not isinstance(pod, Mapping):
        raise BodyError("extender args missing pod")
    return pod


def _uid(pod: Json) -> str:
    fields = _lower(pod)
    uid = fields.get("uid") or _lower(fields.get("metadata") or {}).get("uid")
    if not isinstance(uid, str):
        raise BodyError("a victim has no uid")
    return uid


def _are_texts(value: object) -> bool:
    # Of thousands of names, and json makes nothing else of a text than a str.
    return isinstance(value, list) and set(map(type, value)) <= {str}


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value)
