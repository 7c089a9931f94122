"""kube-scheduler's own filters, as far as they are looked at."""

from __future__ import annotations

from typing import Any

import pytest

from deviceplugin.explain.kube import Filter, excluded, node_traits

TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}


def reasons(spec: dict[str, Any], node: dict[str, Any]) -> list[str]:
    return [str(one.by) for one in excluded({"spec": spec}, node_traits(node))]


def node(**spec: Any) -> dict[str, Any]:
    labels = {"disk": "fast", "cards": "8"}
    return {"metadata": {"name": "a", "labels": labels}, "spec": spec}


@pytest.mark.parametrize(
    ("tolerations", "tolerated"),
    [
        ([], False),
        ([{"key": "gpu", "operator": "Exists"}], True),
        ([{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}], False),
        ([{"key": "gpu", "operator": "Equal", "value": "yes"}], True),
        ([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}], True),
        ([{"key": "gpu", "value": "no"}], False),
        ([{"operator": "Exists"}], True),
        ([{"key": "", "operator": "Equal"}], False),
        ([{"key": "cpu", "operator": "Exists"}], False),
    ],
)
def test_taints(tolerations: list[dict[str, str]], tolerated: bool) -> None:
    found = reasons({"tolerations": tolerations}, node(taints=[TAINT]))
    assert found == ([] if tolerated else [Filter.TAINT])


def test_a_taint_that_only_prefers_other_nodes_keeps_nobody_off() -> None:
    assert reasons({}, node(taints=[{**TAINT, "effect": "PreferNoSchedule"}])) == []


def test_a_cordon_is_said_once_although_it_is_a_taint_too() -> None:
    taint = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    assert reasons({}, node(unschedulable=True, taints=[taint])) == [Filter.UNSCHEDULABLE]
    tolerates = [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]
    assert reasons({"tolerations": tolerates}, node(unschedulable=True, taints=[taint])) == []


@pytest.mark.parametrize(
    ("selector", "passes"),
    [({}, True), ({"disk": "fast"}, True), ({"disk": "slow"}, False), ({"none": "x"}, False)],
)
def test_node_selectors(selector: dict[str, str], passes: bool) -> None:
    assert (reasons({"nodeSelector": selector}, node()) == []) == passes


def term(key: str, operator: str, *values: str, fields: bool = False) -> dict[str, Any]:
    entry = {"key": key, "operator": operator, "values": list(values)}
    return {"matchFields" if fields else "matchExpressions": [entry]}


@pytest.mark.parametrize(
    ("terms", "passes"),
    [
        ([term("disk", "In", "fast", "slow")], True),
        ([term("disk", "In", "slow")], False),
        ([term("disk", "NotIn", "slow")], True),
        ([term("none", "NotIn", "slow")], True),
        ([term("disk", "Exists")], True),
        ([term("none", "Exists")], False),
        ([term("none", "DoesNotExist")], True),
        ([term("cards", "Gt", "7")], True),
        ([term("cards", "Gt", "8")], False),
        ([term("cards", "Lt", "9")], True),
        ([term("disk", "Lt", "9")], False),
        ([term("metadata.name", "In", "a", fields=True)], True),
        ([term("metadata.name", "In", "b", fields=True)], False),
        ([term("disk", "In", "slow"), term("cards", "Exists")], True),
        ([{**term("disk", "Exists"), **term("metadata.name", "In", "b", fields=True)}], False),
        ([{}], False),
        ([], False),
        ([term("disk", "Like", "f")], False),
    ],
)
def test_required_node_affinity(terms: list[dict[str, Any]], passes: bool) -> None:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    found = reasons({"affinity": {"nodeAffinity": required}}, node())
    assert found == ([] if passes else [Filter.AFFINITY])


def test_affinity_that_only_prefers_keeps_nobody_off() -> None:
    assert reasons({"affinity": {"nodeAffinity": {}}}, node()) == []


def test_how_a_node_is_is_no_matter_of_tolerations() -> None:
    """Kubernetes says by taints that a node is away; a pod that tolerates it does not run either."""
    taints = [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}, TAINT]
    found = excluded({"spec": {}}, node_traits(node(taints=taints)))
    away, theirs = found
    assert away.detail.startswith("the node is tainted as not ready")
    assert (away.taint is None, str(theirs.taint)) == (True, "gpu=yes:NoSchedule")
