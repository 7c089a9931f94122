"""Which of the pods that go violate a disruption budget."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.hami.keys import VGPU_NODE
from deviceplugin.scheduler.disruption import Budget, budget, violating
from deviceplugin.scheduler.labels import Requirement
from deviceplugin.scheduler.pods import PodRecord, pod_record
from deviceplugin.vendor.scheduling import PodSpec


def pod(name: str, namespace: str = "n", **labels: str) -> PodRecord:
    return PodRecord(PodSpec(namespace, name, name), labels=labels)


def item(selector: Any, allowed: Any = 0, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "n", "name": "b"},
        "spec": {"selector": selector},
        "status": {"disruptionsAllowed": allowed, **status},
    }


def expression(operator: str, *values: str) -> dict[str, Any]:
    entry = {"key": "tier", "operator": operator, **({"values": list(values)} if values else {})}
    return {"matchExpressions": [entry]}


@pytest.mark.parametrize(
    ("selector", "matching"),
    [
        ({"matchLabels": {"app": "web"}}, "web front"),
        ({"matchLabels": {"app": "web"}, **expression("In", "front")}, "front"),
        (expression("In", "front", "back"), "front"),
        (expression("NotIn", "front"), "web bare"),
        (expression("Exists"), "front"),
        (expression("DoesNotExist"), "web bare"),
        (expression("Sideways", "front"), ""),
        ({}, "web front bare"),  # as policy/v1 has it
    ],
)
def test_a_selector_names_pods_of_its_namespace(selector: Any, matching: str) -> None:
    found = budget(item(selector))
    assert found is not None
    pods = [
        pod("web", app="web"),
        pod("front", app="web", tier="front"),
        pod("bare"),
        pod("elsewhere", "m", app="web", tier="front"),
    ]
    assert [each.name for each in pods if found.counts(each)] == matching.split()


def test_who_is_being_evicted_is_counted_already() -> None:
    found = budget(item({}, 1, disruptedPods={"going": "2026-01-01T00:00:00Z"}))
    assert found is not None
    pods = [pod("going"), pod("one"), pod("two")]
    assert [each.name for each in violating([found], pods)] == ["two"]


def test_a_budget_without_a_selector_names_nobody() -> None:
    assert budget(item(None)) is None


def test_pods_of_one_owner_share_their_labels_and_none_is_kept_for_ever() -> None:
    def seen(name: str, job: str) -> PodRecord:
        limits = {"nvidia.com/gpu": "1"}
        found = pod_record(
            {
                "metadata": {"name": name, "uid": name, "labels": {"job": job, VGPU_NODE: name}},
                "spec": {"containers": [{"name": "c", "resources": {"limits": limits}}]},
            }
        )
        assert found is not None
        return found

    one, other, third = (seen(name, f"job-{name[0]}") for name in ("a0", "a1", "b0"))
    assert other.labels is one.labels
    again = f"job-{one.name[0]}"
    assert (one.labels, third.labels) == ({"job": again}, {"job": f"job-{third.name[0]}"})
    assert sys.intern(again) is again, "nobody has interned it"


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"metadata": {}, "spec": {"selector": {}}},
        item({"matchExpressions": [{"operator": "In"}]}),
        item({"matchLabels": []} | {"matchExpressions": 3}),
        item("all"),
        item({}, "many"),
    ],
)
def test_what_is_no_budget_is_said(broken: Any) -> None:
    with pytest.raises(ValueError, match="PodDisruptionBudget"):
        budget(broken)


labels = st.fixed_dictionaries(
    {}, optional={"a": st.sampled_from("xy"), "b": st.sampled_from("xy")}
)


@given(
    pods=st.lists(st.tuples(st.sampled_from("nm"), labels), max_size=8),
    budgets=st.lists(st.tuples(st.sampled_from("nm"), labels, st.integers(0, 4)), max_size=4),
)
def test_each_budget_spares_all_but_what_it_allows(pods: Any, budgets: Any) -> None:
    going = [pod(f"p{i}", namespace, **more) for i, (namespace, more) in enumerate(pods)]
    made = [
        Budget(
            namespace,
            tuple(Requirement(key, "In", frozenset((value,))) for key, value in named.items()),
            allowed,
        )
        for namespace, named, allowed in budgets
    ]
    found = set(violating(made, going))
    wanted = {one for each in made for one in [p for p in going if each.counts(p)][each.allowed :]}
    assert found == wanted
