"""The agent's own client against the fake API server over real HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path as FilePath

import pytest
from urllib3.exceptions import InsecureRequestWarning

from deviceplugin.apiserver.annotations import ApiPods
from deviceplugin.apiserver.client import (
    JSON_PATCH,
    MERGE_PATCH,
    Api,
    ApiError,
    Path,
    is_configured,
    official_client,
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


async def test_a_server_that_is_away_is_named_in_the_systems_words(server: ApiServer) -> None:
    server.stop()
    with pytest.raises(ApiError) as refused:
        await Api().get(Path.pod("default", "p"))
    assert re.search(r"no answer from 127\.0\.0\.1:\d+: Connection refused", str(refused.value))


async def test_a_kubeconfig_with_a_server_that_is_no_url_is_refused(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config"
    file.write_text(
        "clusters: [{name: c, cluster: {server: 'foo'}}]\n"
        "users: [{name: u, user: {}}]\n"
        "contexts: [{name: x, context: {cluster: c, user: u}}]\n"
        "current-context: x\n"
    )
    monkeypatch.setenv("KUBECONFIG", str(file))
    with pytest.raises(ApiError, match="its server 'foo' is no URL: write https://HOST:PORT"):
        await Api().get(Path.node("n"))


async def test_a_write_that_is_late_is_not_sent(server: ApiServer) -> None:
    """Also one that waited for a free thread, while the server was slow to answer others."""
    api = Api(at_once=1)
    hang = server.faults.hang = threading.Event()
    first = asyncio.create_task(api.get(Path.pod("default", "p")))
    labels = {"metadata": {"labels": {"late": "yes"}}}
    late = asyncio.create_task(api.patch(Path.pod("default", "p"), labels, MERGE_PATCH, 0.2))
    await asyncio.sleep(0.5)
    hang.set()
    await first
    with pytest.raises(ApiError, match="not sent") as refused:
        await late
    assert not refused.value.is_ambiguous
    assert [call.verb for call in server.calls] == ["get"]


async def test_the_server_is_told_until_when_a_write_counts(server: ApiServer) -> None:
    """So that it does not do later what nobody waits for any more."""
    hang = server.faults.hang = threading.Event()
    labels = {"metadata": {"labels": {"late": "yes"}}}
    with pytest.raises(ApiError, match="no answer") as refused:
        await Api().patch(Path.pod("default", "p"), labels, MERGE_PATCH, 0.6)
    assert refused.value.is_ambiguous
    await asyncio.sleep(0.3)  # the server's time is over too, as it received the request later
    hang.set()
    server.wait_for(lambda: server.calls)
    assert [call.status for call in server.calls] == [504]
    assert "late" not in server.get("pods", "p", "default")["metadata"].get("labels", {})


@pytest.mark.parametrize(
    ("error", "ambiguous"),
    [
        (ApiError("conflict", 409), False),
        (ApiError("too many", 429), False),
        (ApiError("of its own", 500), True),
        (ApiError("too late", 504), True),
        (ApiError("silence"), True),
        (ApiError("refused", sent=False), False),
    ],
)
def test_what_may_have_happened_all_the_same(error: ApiError, ambiguous: bool) -> None:
    assert error.is_ambiguous is ambiguous


async def test_a_server_that_is_not_there_did_nothing(server: ApiServer) -> None:
    server.stop()
    with pytest.raises(ApiError) as refused:
        await Api().create(Path("/api/v1/nodes", {}), {"metadata": {"name": "n"}})
    assert not refused.value.is_ambiguous


@pytest.mark.parametrize("name", [".", ".."])
async def test_a_name_that_would_lead_to_another_path_is_never_asked_for(
    server: ApiServer, name: str
) -> None:
    before = len(server.calls)
    with pytest.raises(ApiError, match="no object can have"):
        await Api().get(Path.pod("default", name))
    assert len(server.calls) == before


def test_a_kubeconfig_that_wants_no_check_is_not_warned_about(tmp_path: FilePath) -> None:
    cluster = {"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": True}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": cluster}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "users": [{"name": "x", "user": {"token": "t"}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    official_client(path=str(tmp_path / "config"))
    warnings.warn("with every request", InsecureRequestWarning, stacklevel=1)  # else an error
