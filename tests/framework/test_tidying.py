"""Who may still need what was made on the node, by what kubelet says."""

from __future__ import annotations

from deviceplugin.kubelet.podresources import Holding
from deviceplugin.tidying import Tidying, holders


def holding(pod: str, ids: frozenset[str]) -> Holding:
    return Holding("default", pod, "c", "a.b/c", ids)


def test_a_holder_is_told_with_its_allocation_and_its_devices() -> None:
    names = {"a.b/c": (lambda ids: "a-" + min(ids), lambda ids: " ".join(sorted(ids)))}
    found = list(holders([holding("p", frozenset({"x", "y"}))], [], names))
    assert found == [
        {
            "allocation": "a-x",
            "pod_uid": "",
            "namespace": "default",
            "pod": "p",
            "container": "c",
            "devices": "x y",
        }
    ]


def test_nobody_counts_as_gone_before_he_was_missing_for_a_minute() -> None:
    tidying, holder = Tidying(), {"allocation": "a", "devices": "x"}
    tidying.seen([holder], 0.0)
    assert tidying.due(59.0) is None
    tidying.seen([], 60.0)
    assert tidying.due(61.0) == []
    tidying.seen([holder], 70.0)
    assert tidying.due(129.0) == [holder]
    tidying.done([holder])
    assert tidying.due(129.5) is None
    assert tidying.due(131.0) == []


def test_who_asked_of_late_holds_something_that_nobody_knows_yet() -> None:
    tidying = Tidying()
    tidying.seen([], 0.0)
    tidying.asked("a-1", 100.0)
    (holder,) = tidying.due(120.0) or []
    assert (holder["allocation"], holder["devices"]) == ("a-1", "")
    assert tidying.due(401.0) == []
