"""Who asks, where several containers of a pod hold the same ids one after the other."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, cast

from deviceplugin.apiserver.objects import Pod
from deviceplugin.apiserver.pods import Pods
from deviceplugin.kubelet.checkpoint import Entry
from deviceplugin.kubelet.podresources import Holding
from deviceplugin.scheduled.identity import Asker, candidates, choose
from deviceplugin.scheduled.ledger import Record

RESOURCE = "nvidia.com/gpu"


OTHER = "other.com/gpu"


def init_record(resource: str, starts: int) -> Record:
    ids = frozenset({"x"})
    return Record("v", resource, ids, "uid-p", "default", "p", "i0", (), init=True, starts=starts)


def chosen(pod: Pod, starts: int, others: int = 0, resource: str = RESOURCE) -> tuple[str, str]:
    """The name of the container that is taken for the one that starts, and else why none is."""
    askers = [Asker(pod, container) for container in pod.all_containers()]
    random.shuffle(askers)  # as kubelet's record has them
    records = [init_record(RESOURCE, starts), init_record(OTHER, others)]
    found, why = choose(askers, records, resource)
    return (found.container.name if found else "", why)


def status(**state: Any) -> Sequence[dict[str, Any]]:
    return [{"name": "i0", "restartCount": 0, "state": state}]


def test_a_start_that_came_to_nothing_is_told_by_where_kubelet_shows_our_refusal(
    make_pod: Callable[..., Pod],
) -> None:
    """Another plugin refused, or the runtime failed: i0 never ran, whatever kubelet announced."""

    def seen(starts: int, message: str) -> tuple[str, str]:
        waiting = status(waiting={"reason": "CreateContainerConfigError", "message": message})
        return chosen(make_pod([("a", 1, 1)], init=(1,), initContainerStatuses=waiting), starts)

    assert seen(0, "")[0] == "i0"
    nobody, why = seen(1, "the other plugin is not ready")
    assert nobody == ""
    assert "which of default/p/i0, default/p/c0 starts is not known" in why
    told = f"rpc error: code = Unavailable desc = {why}"
    assert seen(1, told)[0] == "i0"
    assert seen(1, told.replace("i0, default/p/c0", "i1, default/p/c0"))[0] == "", "of others"
    assert seen(2, told)[0] == "", "i0 may have run since then, and this be c0"
    assert seen(11, told)[0] == ""


def test_two_resources_that_wait_for_the_same_sign_do_not_hinder_each_other(
    make_pod: Callable[..., Pod],
) -> None:
    """Kubelet asks one after the other, and shows the first refusal only."""

    def seen(message: str, starts: int, others: int, resource: str) -> tuple[str, str]:
        waiting = status(waiting={"message": message})
        pod = make_pod([("a", 1, 1)], init=(1,), initContainerStatuses=waiting)
        return chosen(pod, starts, others, resource)

    nobody, shown = seen("", 1, 1, RESOURCE)
    assert nobody == ""
    assert seen(shown, 1, 1, RESOURCE)[0] == "i0"
    assert seen(shown, 2, 1, OTHER)[0] == "i0"
    assert [seen(shown, 2, 2, resource)[0] for resource in (RESOURCE, OTHER)] == ["", ""]


def test_starts_are_counted_for_each_resource(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod([("a", 1, 1)], init=(1,))
    assert chosen(pod, 1, 0, RESOURCE)[0] == ""
    assert chosen(pod, 1, 0, OTHER)[0] == "i0"


def test_an_init_container_that_ended_badly_starts_again(make_pod: Callable[..., Pod]) -> None:
    ended = status(terminated={"exitCode": 1})
    assert chosen(make_pod([("a", 1, 1)], init=(1,), initContainerStatuses=ended), 1)[0] == "i0"
    well = status(terminated={"exitCode": 0})
    assert chosen(make_pod([("a", 1, 1)], init=(1,), initContainerStatuses=well), 1)[0] == "c0"


class FakePods:
    """The pods that the watch shows."""

    def __init__(self, *pods: Pod) -> None:
        self._pods = pods

    def get(self, namespace: str, name: str) -> Pod | None:
        return next((p for p in self._pods if p.key == f"{namespace}/{name}"), None)

    def by_uid(self, uid: str) -> Pod | None:
        return next((p for p in self._pods if p.uid == uid), None)


LISTED = Holding("default", "p", "c0", RESOURCE, frozenset({"x"}))


def found(pod: Pod, entries: Sequence[Entry] | None) -> tuple[list[str], str]:
    askers, why = candidates(RESOURCE, {"x"}, [LISTED], entries, cast(Pods, FakePods(pod)))
    return [asker.container.name for asker in askers], why


def test_a_record_of_kubelet_that_lags_behind_is_waited_for(make_pod: Callable[..., Pod]) -> None:
    """A name alone may be that of a pod before."""
    pod = make_pod([("a", 1, 1)])
    assert found(pod, [])[0] == []
    assert found(pod, [Entry(pod.uid, "c0", RESOURCE, frozenset({"x"}))])[0] == ["c0"]
    assert found(pod, [Entry("before", "c0", RESOURCE, frozenset({"x"}))])[0] == []
    assert found(pod, None)[0] == ["c0"]


def test_without_kubelets_record_an_init_container_is_not_taken_for_a_later_one(
    make_pod: Callable[..., Pod],
) -> None:
    nobody, why = found(make_pod([("a", 1, 1)], init=(1,)), None)
    assert nobody == []
    assert "cannot be read" in why
    assert found(make_pod([("a", 1, 1)], init=(0,)), None)[0] == ["c0"]
