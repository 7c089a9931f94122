"""What kube-scheduler's own filters leave out before an extender is asked, as far as nodes and pods
tell it: cordons, taints, node selectors and required node affinity. Pure.

CPU, memory, volumes, ports and how pods lie to each other are not looked at here.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from deviceplugin.scheduler.labels import Requirement

__all__ = ["Exclusion", "Filter", "NodeTraits", "excluded", "node_traits"]

Json = Mapping[str, Any]

REPELS = frozenset({"NoSchedule", "NoExecute"})
CONDITIONS = "node.kubernetes.io/"
"""How the keys of taints begin by which the cluster itself says how a node is."""
UNSCHEDULABLE = f"{CONDITIONS}unschedulable"


class Filter(enum.StrEnum):
    """kube-scheduler's own filters, by the names of their plugins."""

    UNSCHEDULABLE = "NodeUnschedulable"
    TAINT = "TaintToleration"
    AFFINITY = "NodeAffinity"


@dataclass(frozen=True, slots=True)
class Taint:
    """Something that a node keeps pods off by."""

    key: str
    value: str
    effect: str

    @property
    def condition(self) -> str:
        """How the node is by the cluster's word (``not ready``); empty for what people wrote."""
        name = self.key.removeprefix(CONDITIONS)
        return "" if name == self.key else name.replace("-", " ")

    def __str__(self) -> str:
        return (
            f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"
        )


@dataclass(frozen=True, slots=True)
class NodeTraits:
    """What the filters know of a node; a `cordoned` one takes no new pod."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...] = ()
    cordoned: bool = False


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Which filter leaves a node out, and in whose words; `taint` is what a toleration would have
    to name, where one would help, `label` the selector that the node does not have.
    """

    by: Filter
    detail: str
    taint: Taint | None = None
    label: str = ""


def node_traits(item: Json) -> NodeTraits:
    """What the filters know of a node, from its JSON."""
    metadata, spec = item.get("metadata") or {}, item.get("spec") or {}
    taints = [
        Taint(str(t.get("key") or ""), str(t.get("value") or ""), str(t.get("effect") or ""))
        for t in spec.get("taints") or ()
    ]
    # What a cordon means is said once.
    taints = [taint for taint in taints if taint.key != UNSCHEDULABLE]
    return NodeTraits(
        str(metadata.get("name") or ""),
        MappingProxyType(dict(metadata.get("labels") or {})),
        tuple(taint for taint in taints if taint.effect in REPELS),
        spec.get("unschedulable") is True,
    )


def excluded(pod: Json, node: NodeTraits) -> tuple[Exclusion, ...]:
    """Why kube-scheduler does not offer a node for a pod; empty where these filters let it pass."""
    spec = pod.get("spec") or {}
    tolerations = [entry for entry in spec.get("tolerations") or () if isinstance(entry, Mapping)]
    found = []
    cordon = Taint(UNSCHEDULABLE, "", "NoSchedule")
    if node.cordoned and not _tolerated(cordon, tolerations):
        found.append(Exclusion(Filter.UNSCHEDULABLE, "the node is cordoned"))
    for taint in node.taints:
        if _tolerated(taint, tolerations):
            continue
        if taint.condition:
            detail = f"the node is tainted as {taint.condition} ({taint})"
            found.append(Exclusion(Filter.TAINT, detail))
        else:
            detail = f"the pod does not tolerate the taint {taint}"
            found.append(Exclusion(Filter.TAINT, detail, taint))
    for key, value in sorted((spec.get("nodeSelector") or {}).items()):
        if node.labels.get(key) != value:
            detail = f"the node has no label {key}={value}"
            found.append(Exclusion(Filter.AFFINITY, detail, label=key))
    terms = _terms(spec)
    if terms is not None and not any(_matches(term, node) for term in terms):
        found.append(Exclusion(Filter.AFFINITY, "the node is not one of the pod's node affinity"))
    return tuple(found)


def _tolerated(taint: Taint, tolerations: Iterable[Json]) -> bool:
    for entry in tolerations:
        if entry.get("effect") not in (None, "", taint.effect):
            continue
        key, exists = entry.get("key") or "", entry.get("operator") == "Exists"
        if not key and exists:
            return True
        if key == taint.key and (exists or (entry.get("value") or "") == taint.value):
            return True
    return False


def _terms(spec: Json) -> list[Json] | None:
    """The terms of which one has to hold; None where none are asked for."""
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return None if required is None else list(required.get("nodeSelectorTerms") or ())


def _matches(term: Json, node: NodeTraits) -> bool:
    """A term without any expression matches nothing, as Kubernetes has it."""
    expressions = list(term.get("matchExpressions") or ())
    fields = list(term.get("matchFields") or ())
    if not expressions and not fields:
        return False
    return all(_holds(entry, node.labels) for entry in expressions) and all(
        _holds(entry, {"metadata.name": node.name}) for entry in fields
    )


def _holds(entry: Json, labels: Mapping[str, str]) -> bool:
    """Nodes know two operators more than pods do."""
    key, operator = str(entry.get("key")), str(entry.get("operator"))
    values = [str(value) for value in entry.get("values") or ()]
    if operator in ("Gt", "Lt"):
        return _compared(labels.get(key), values, larger=operator == "Gt")
    return Requirement(key, operator, frozenset(values)).holds(labels)


def _compared(found: str | None, values: list[str], larger: bool) -> bool:
    try:
        number, limit = int(found or ""), int(values[0])
    except (ValueError, IndexError):
        return False
    return number > limit if larger else number < limit
