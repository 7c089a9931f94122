"""The API server's word, asked and read from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.apiserver.client import Api
from deviceplugin.doctor.cluster import ApiCluster, SnapshotCluster, SnapshotError
from deviceplugin.doctor.model import NotCheckedError
from deviceplugin.testing.apiserver import ApiServer

NODE = {"metadata": {"name": "n1"}}


def pod(name: str, node: str = "n1") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "x"}]},
    }


def saved(tmp_path: Path, document: Any) -> SnapshotCluster:
    path = tmp_path / "snapshot.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return SnapshotCluster.read(path)


@pytest.mark.parametrize(
    "document",
    [
        {"node": NODE, "pods": [pod("a"), pod("b", "n2")]},
        {"node": NODE, "pods": {"kind": "List", "items": [pod("a"), pod("b", "n2")]}},
        {
            "kind": "List",
            "items": [
                {"kind": "Node", **NODE},
                {"kind": "Pod", **pod("a")},
                {"kind": "Pod", **pod("b", "n2")},
            ],
        },
    ],
    ids=["lists", "as kubectl writes pods", "one list of both"],
)
def test_saved_objects_answer_as_an_api_server(tmp_path: Path, document: Any) -> None:
    cluster = saved(tmp_path, document)
    assert cluster.only_node == "n1"
    assert cluster.node("n1") is not None
    assert cluster.node("n2") is None
    assert [item["metadata"]["name"] for item in cluster.pods("n1")] == ["a"]
    assert cluster.pod("default", "b") is not None
    assert cluster.pod("default", "c") is None
    assert cluster.pod("other", "a") is None


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no node and no pods"),
        ({"pods": [], "node": None}, "no node and no pods"),
        ({"kind": "ConfigMapList", "items": [{"metadata": {"name": "x"}}]}, "no node and no pods"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, document: Any, says: str) -> None:
    with pytest.raises(SnapshotError, match=says):
        saved(tmp_path, document)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="No such file"):
        SnapshotCluster.read(tmp_path / "none")


def test_what_was_not_saved_is_not_known(tmp_path: Path) -> None:
    only_node, only_pods = saved(tmp_path, {"node": NODE}), saved(tmp_path, {"pods": [pod("a")]})
    with pytest.raises(NotCheckedError, match="no pods"):
        only_node.pods("n1")
    with pytest.raises(NotCheckedError, match="no pods"):
        only_node.pod("default", "a")
    with pytest.raises(NotCheckedError, match="no node"):
        only_pods.node("n1")
    assert only_pods.only_node == ""


@pytest.fixture
def server() -> Any:
    with ApiServer() as running:
        yield running


@pytest.fixture
def api(server: ApiServer, tmp_path: Path) -> ApiCluster:
    from kubernetes import client, config

    path = server.kubeconfig(tmp_path / "kubeconfig")

    def connect() -> Any:
        configuration = client.Configuration()
        config.load_kube_config(str(path), client_configuration=configuration)
        configuration.retries = False
        return client.ApiClient(configuration)

    return ApiCluster(Api(connect))


def test_an_api_server_is_asked_page_by_page(server: ApiServer, api: ApiCluster) -> None:
    server.create("nodes", NODE)
    for number in range(450):
        server.create("pods", pod(f"p{number}", "n1" if number % 2 else "n2"))
    assert len(api.pods("n1")) == 225
    assert {item["spec"]["nodeName"] for item in api.pods("n1")} == {"n1"}
    found, one = api.node("n1"), api.pod("default", "p7")
    assert found is not None
    assert one is not None
    assert (found["metadata"]["name"], one["metadata"]["name"]) == ("n1", "p7")


def test_what_an_api_server_does_not_have_is_none(api: ApiCluster) -> None:
    assert api.node("n1") is None
    assert api.pod("default", "x") is None
    assert api.pods("n1") == ()


def test_an_api_server_that_is_gone_is_a_reason_not_to_check(
    server: ApiServer, api: ApiCluster
) -> None:
    server.stop()
    for ask in (lambda: api.node("n1"), lambda: api.pods("n1"), lambda: api.pod("a", "b")):
        with pytest.raises(NotCheckedError):
            ask()
