"""The agent's own client against the fake API server over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as FilePath

import pytest

from deviceplugin.apiserver.annotations import ApiPods
from deviceplugin.apiserver.client import (
    JSON_PATCH,
    MERGE_PATCH,
    Api,
    ApiError,
    Path,
    is_configured,
)
from deviceplugin.refusal import RefusalError
from deviceplugin.testing.apiserver import ApiServer


@pytest.fixture
def server(tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with ApiServer() as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig(tmp_path / "config")))
        running.create("pods", {"metadata": {"name": "p", "annotations": {"a": "1"}}})
        yield running


async def test_annotations_of_a_pod_and_of_none(server: ApiServer) -> None:
    pods = ApiPods()
    assert await pods.annotations("default", "p") == {"a": "1"}
    assert await pods.annotations("default", "nobody") is None
    server.faults.errors = 1
    with pytest.raises(RefusalError, match="500"):
        await pods.annotations("default", "p")


async def test_a_server_that_is_away_is_a_reason_to_try_again(server: ApiServer) -> None:
    pods = ApiPods()
    server.stop()
    with pytest.raises(RefusalError, match="did not tell pod default/p"):
        await pods.annotations("default", "p")
    server.start()
    assert await pods.annotations("default", "p") == {"a": "1"}


async def test_patches_of_both_kinds(server: ApiServer) -> None:
    api, path = Api(), Path.pod("default", "p")
    await api.patch(path, {"metadata": {"annotations": {"b": "2"}}}, MERGE_PATCH)
    test = {"op": "test", "path": "/metadata/annotations/b", "value": "2"}
    removed = await api.patch(
        path, [test, {"op": "remove", "path": "/metadata/annotations/b"}], JSON_PATCH
    )
    assert removed["metadata"]["annotations"] == {"a": "1"}
    with pytest.raises(ApiError) as refused:
        await api.patch(path, [test], JSON_PATCH)
    assert refused.value.is_conflict
    assert api.calls == 3


async def test_a_refusal_says_status_reason_and_when_to_come_back(server: ApiServer) -> None:
    server.faults.throttle, server.faults.retry_after = 1, 2.0
    with pytest.raises(ApiError) as throttled:
        await Api().get(Path.pod("default", "p"))
    assert (throttled.value.status, throttled.value.retry_after) == (429, 2.0)
    server.faults.deny.add(("get", "pods"))
    with pytest.raises(ApiError) as denied:
        await Api().get(Path.pod("default", "p"))
    assert denied.value.is_forbidden


async def test_names_are_quoted_and_reach_no_other_path(server: ApiServer) -> None:
    with pytest.raises(ApiError) as refused:
        await Api().get(Path.pod("default", "../../../nodes"))
    assert refused.value.is_missing
    assert "/api/v1/nodes" not in {call.path for call in server.calls}


async def test_no_configuration_is_a_reason_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere/config")
    with pytest.raises(ApiError, match="no way to the API server"):
        await Api().get(Path.node("n"))
    assert is_configured({"KUBECONFIG": "x"})
    assert not is_configured({})
