"""The fake API server as the unchanged official client sees it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.testing.apiserver import ApiServer
from deviceplugin.testing.apiserver.status import StatusError

kubernetes = pytest.importorskip("kubernetes")


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


@pytest.fixture
def client(server: ApiServer, tmp_path: Path) -> Any:
    return kubernetes.config.new_client_from_config(str(server.kubeconfig(tmp_path / "config")))


def pod(name: str, **annotations: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations, "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": "x"}]},
    }


def test_pods_are_created_read_listed_and_deleted(client: Any) -> None:
    core = kubernetes.client.CoreV1Api(client)
    made = core.create_namespaced_pod("default", pod("a"))
    assert made.metadata.uid
    assert core.read_namespaced_pod("a", "default").status.phase == "Pending"
    core.create_namespaced_pod("default", pod("b"))
    listed = core.list_namespaced_pod("default", label_selector="app in (b, c)")
    assert [item.metadata.name for item in listed.items] == ["b"]
    core.delete_namespaced_pod("a", "default")
    with pytest.raises(kubernetes.client.ApiException) as refused:
        core.read_namespaced_pod("a", "default")
    assert refused.value.status == 404


def test_binding_sets_the_node_once_and_field_selectors_find_it(client: Any) -> None:
    core = kubernetes.client.CoreV1Api(client)
    core.create_namespaced_pod("default", pod("a"))
    body = {"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}}
    bind = "/api/v1/namespaces/default/pods/a/binding"
    for status in (201, 409):
        call = client.param_serialize("POST", bind, body=body)
        assert client.call_api(*call).status == status
    found = core.list_pod_for_all_namespaces(field_selector="spec.nodeName=n1")
    assert [item.metadata.name for item in found.items] == ["a"]
    with pytest.raises(kubernetes.client.ApiException) as refused:
        core.list_pod_for_all_namespaces(field_selector="spec.priority=1")
    assert refused.value.status == 400


def test_a_binding_of_another_pod_or_of_an_old_version_conflicts(client: Any) -> None:
    core = kubernetes.client.CoreV1Api(client)
    old = core.create_namespaced_pod("default", pod("a")).metadata
    new = core.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"x": "1"}}}).metadata

    def bound(**stated: str) -> int:
        metadata = {"name": "a", **stated}
        body = {"metadata": metadata, "target": {"kind": "Node", "name": "n1"}}
        bind = "/api/v1/namespaces/default/pods/a/binding"
        return int(client.call_api(*client.param_serialize("POST", bind, body=body)).status)

    assert bound(uid="0", resourceVersion=new.resource_version) == 409
    assert bound(uid=new.uid, resourceVersion=old.resource_version) == 409
    assert bound(uid=new.uid, resourceVersion=new.resource_version) == 201


def test_an_update_of_an_old_version_conflicts(client: Any) -> None:
    core = kubernetes.client.CoreV1Api(client)
    core.create_namespaced_pod("default", pod("a"))
    old = core.read_namespaced_pod("a", "default")
    core.patch_namespaced_pod("a", "default", {"metadata": {"annotations": {"x": "1"}}})
    with pytest.raises(kubernetes.client.ApiException) as refused:
        core.replace_namespaced_pod("a", "default", old)
    assert refused.value.status == 409


def test_a_watch_shows_every_change_and_goes_on_from_a_version(client: Any) -> None:
    core = kubernetes.client.CoreV1Api(client)
    version = core.list_namespaced_pod("default").metadata.resource_version

    def act() -> None:
        core.create_namespaced_pod("default", pod("a"))
        core.patch_namespaced_pod("a", "default", {"metadata": {"annotations": {"x": "1"}}})
        core.delete_namespaced_pod("a", "default")

    threading.Thread(target=act).start()
    seen = []
    watch = kubernetes.watch.Watch()
    for event in watch.stream(
        core.list_namespaced_pod, "default", resource_version=version, timeout_seconds=10
    ):
        seen.append(event["type"])
        if event["type"] == "DELETED":
            watch.stop()
    assert seen == ["ADDED", "MODIFIED", "DELETED"]


def test_a_version_that_was_compacted_is_gone(server: ApiServer, client: Any) -> None:
    core = kubernetes.client.CoreV1Api(client)
    version = core.list_namespaced_pod("default").metadata.resource_version
    core.create_namespaced_pod("default", pod("a"))
    server.store.compact()
    with pytest.raises(kubernetes.client.ApiException) as refused:
        for _ in kubernetes.watch.Watch().stream(
            core.list_namespaced_pod, "default", resource_version=version, timeout_seconds=5
        ):
            pass
    assert refused.value.status == 410


def test_annotations_are_texts_and_bounded(server: ApiServer, client: Any) -> None:
    core = kubernetes.client.CoreV1Api(client)
    core.create_namespaced_pod("default", pod("a"))
    for given, status in (({"x": 1}, 422), ({"x": "y" * 300_000}, 422), ({"a b": ""}, 422)):
        with pytest.raises(kubernetes.client.ApiException) as refused:
            core.patch_namespaced_pod("a", "default", {"metadata": {"annotations": given}})
        assert refused.value.status == status


def test_a_pods_spec_and_status_are_not_changed_by_the_way(client: Any) -> None:
    core = kubernetes.client.CoreV1Api(client)
    core.create_namespaced_pod("default", pod("a"))
    changed = core.patch_namespaced_pod("a", "default", {"status": {"phase": "Running"}})
    assert changed.status.phase == "Pending"
    core.patch_namespaced_pod_status("a", "default", {"status": {"phase": "Running"}})
    assert core.read_namespaced_pod("a", "default").status.phase == "Running"
    with pytest.raises(kubernetes.client.ApiException) as refused:
        core.patch_namespaced_pod("a", "default", {"spec": {"nodeName": "elsewhere"}})
    assert refused.value.status == 422


def test_leases_are_served_like_everything_else(client: Any) -> None:
    leases = kubernetes.client.CoordinationV1Api(client)
    lease = {"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}}
    leases.create_namespaced_lease("default", lease)
    assert leases.read_namespaced_lease("l", "default").spec.holder_identity == "me"


def test_gates_of_a_pod_may_go_and_nothing_else_of_its_spec_may_change(
    client: Any, server: ApiServer
) -> None:
    core = kubernetes.client.CoreV1Api(client)
    item = pod("a")
    item["spec"]["schedulingGates"] = [{"name": "one"}, {"name": "two"}]
    core.create_namespaced_pod("default", item)
    for spec in ({"schedulingGates": [{"name": "three"}]}, {"hostNetwork": True}):
        with pytest.raises(StatusError, match="may not change"):
            server.patch("pods", "a", {"spec": spec}, "default")
    body = {"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}}
    bind = client.param_serialize("POST", "/api/v1/namespaces/default/pods/a/binding", body=body)
    refused = client.call_api(*bind)
    assert refused.status == 409
    assert b"pod a has non-empty .spec.schedulingGates" in refused.read()
    for gates in ([{"name": "two"}], None):
        server.patch("pods", "a", {"spec": {"schedulingGates": gates}}, "default")
    assert client.call_api(*bind).status == 201
