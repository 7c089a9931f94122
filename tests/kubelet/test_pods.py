"""Pods: what is counted of them, and what a manifest says."""

from __future__ import annotations

import pytest

from deviceplugin.testing.kubelet import Container, Pod
from deviceplugin.testing.kubelet.pods import misfit

R = "example.com/resource"


def init(name: str, count: int, *, sidecar: bool = False) -> Container:
    return Container(name, {R: count}, init=True, restartable=sidecar)


@pytest.mark.parametrize(
    ("containers", "request_size"),
    [
        ((Container("one", {R: 2}), Container("two", {R: 1})), 3),
        ((init("i", 1), Container("main", {R: 1})), 1),
        ((init("i", 5), init("j", 4), Container("main", {R: 3})), 5),
        ((init("s", 1, sidecar=True), init("i", 5), Container("main", {R: 2})), 6),
        ((init("i", 5), init("s", 1, sidecar=True), Container("main", {R: 2})), 5),
        ((Container("main"),), 0),
    ],
)
def test_a_pod_counts_with_the_most_that_it_holds_at_one_time(
    containers: tuple[Container, ...], request_size: int
) -> None:
    assert Pod("pod", containers).request(R) == request_size


def test_the_node_check_counts_the_other_pods() -> None:
    one = Pod("one", (Container("main", {R: 1}),))
    other = Pod("other", (Container("main", {R: 2}),))
    assert list(misfit(one, [other], {R: 3})) == []
    ((reason, message),) = misfit(one, [other], {R: 2})
    assert reason == f"OutOf{R}"
    assert message.endswith("requested: 1, used: 2, capacity: 2")


def test_the_node_check_leaves_out_what_the_node_does_not_show() -> None:
    assert list(misfit(Pod.of("pod", nvidia_com__gpumem=4000), [], {R: 0})) == []


def test_a_manifest_says_init_containers_sidecars_and_annotations() -> None:
    limits = {"limits": {R: "1", "cpu": "500m"}}
    pod = Pod.from_manifest(
        {
            "metadata": {"name": "pod", "namespace": "ns", "annotations": {"a": "b"}},
            "spec": {
                "initContainers": [
                    {"name": "first", "resources": limits},
                    {"name": "side", "resources": limits, "restartPolicy": "Always"},
                ],
                "containers": [{"name": "main", "env": [{"name": "A", "value": "1"}]}],
            },
        }
    )
    assert (pod.name, pod.namespace, dict(pod.annotations)) == ("pod", "ns", {"a": "b"})
    assert pod.containers == (
        init("first", 1),
        init("side", 1, sidecar=True),
        Container("main", {}, {"A": "1"}),
    )


@pytest.mark.parametrize("manifest", [{}, {"metadata": {"name": "x"}}, {"metadata": 1, "spec": 2}])
def test_what_is_no_manifest_is_refused(manifest: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a pod manifest"):
        Pod.from_manifest(manifest)


def test_a_container_that_the_pod_lacks_is_named() -> None:
    with pytest.raises(KeyError, match="has no container 'other'"):
        Pod.of("pod").container("other")


def test_the_short_form_names_resources() -> None:
    assert Pod.of("pod", example__resource=2).containers[0].limits == {"example/resource": 2}
