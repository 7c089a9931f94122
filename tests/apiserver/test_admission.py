"""Webhooks as a real API server calls them, over HTTP."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from deviceplugin.apiserver.client import Api, ApiError, Path
from deviceplugin.testing.apiserver import ApiServer

PODS = Path("/api/v1/namespaces/{namespace}/pods", {"namespace": "default"})
Answer = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def server(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with ApiServer() as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig(tmp_path / "config")))
        yield running


@pytest.fixture
def hook(server: ApiServer) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Serve a webhook and configure it; answers the list of requests that it gets."""
    running: list[HTTPServer] = []

    def serve(answer: Answer, kind: str = "mutating", **more: Any) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked.append(request["request"])
                reply = {"uid": asked[-1]["uid"], **answer(asked[-1])}
                data = json.dumps({"response": reply}).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                """Quiet."""

        http = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=http.serve_forever, daemon=True).start()
        running.append(http)
        rule = {"apiGroups": [""], "resources": ["pods"], "operations": ["CREATE", "UPDATE"]}
        webhook = {
            "name": "hook.test",
            "clientConfig": {"url": f"http://127.0.0.1:{http.server_port}/"},
            "rules": [rule],
            "sideEffects": "None",
            **more,
        }
        name = f"h{len(running)}"
        server.create(
            f"{kind}webhookconfigurations", {"metadata": {"name": name}, "webhooks": [webhook]}
        )
        return asked

    yield serve
    for http in running:
        http.shutdown()
        http.server_close()


def pod(**labels: str) -> dict[str, Any]:
    return {"metadata": {"name": "p", "labels": labels}, "spec": {"containers": []}}


def patch(*operations: dict[str, Any]) -> dict[str, Any]:
    text = base64.b64encode(json.dumps(operations).encode()).decode()
    return {"allowed": True, "patchType": "JSONPatch", "patch": text}


async def test_a_mutating_hook_changes_what_is_stored(server: ApiServer, hook: Any) -> None:
    add = {"op": "add", "path": "/spec/schedulerName", "value": "ours"}
    asked = hook(lambda _: patch(add))
    stored = await Api().create(PODS, pod())
    assert stored["spec"]["schedulerName"] == "ours"
    assert (asked[0]["operation"], asked[0]["namespace"]) == ("CREATE", "default")
    assert asked[0]["userInfo"]["username"] == "agent"


async def test_a_validating_hook_sees_what_the_mutating_one_made_and_may_refuse(
    server: ApiServer, hook: Any
) -> None:
    hook(lambda _: patch({"op": "add", "path": "/metadata/labels/seen", "value": "yes"}))

    def refuse(request: dict[str, Any]) -> dict[str, Any]:
        seen = request["object"]["metadata"]["labels"].get("seen")
        return {"allowed": False, "status": {"message": f"seen {seen}", "code": 400}}

    hook(refuse, "validating")
    with pytest.raises(ApiError, match="denied the request: seen yes") as refused:
        await Api().create(PODS, pod(a="b"))
    assert refused.value.status == 400
    assert server.objects("pods") == []


async def test_an_update_shows_the_object_before_and_after(server: ApiServer, hook: Any) -> None:
    server.create("pods", pod())
    asked = hook(lambda _: {"allowed": True}, "validating")
    body = {"metadata": {"annotations": {"x": "1"}}}
    await Api().patch(Path.pod("default", "p"), body, "application/merge-patch+json")
    (request,) = asked
    assert request["operation"] == "UPDATE"
    assert "annotations" not in request["oldObject"]["metadata"]
    assert request["object"]["metadata"]["annotations"] == {"x": "1"}


@pytest.mark.parametrize(("policy", "stored"), [("Fail", False), ("Ignore", True)])
async def test_a_hook_that_is_away_fails_or_is_ignored(
    server: ApiServer, policy: str, stored: bool
) -> None:
    rule = {"apiGroups": [""], "resources": ["pods"], "operations": ["*"]}
    webhook = {
        "name": "away.test",
        "clientConfig": {"url": "http://127.0.0.1:1/"},
        "rules": [rule],
        "failurePolicy": policy,
        "sideEffects": "None",
    }
    server.create(
        "mutatingwebhookconfigurations", {"metadata": {"name": "a"}, "webhooks": [webhook]}
    )
    if stored:
        await Api().create(PODS, pod())
    else:
        with pytest.raises(ApiError, match="failed calling webhook"):
            await Api().create(PODS, pod())
    assert bool(server.objects("pods")) is stored


async def test_selected_objects_alone_are_shown(server: ApiServer, hook: Any) -> None:
    rule = {"key": "hami.io/webhook", "operator": "NotIn", "values": ["ignore"]}
    asked = hook(lambda _: {"allowed": True}, objectSelector={"matchExpressions": [rule]})
    labelled = {"metadata": {"name": "q", "labels": {"hami.io/webhook": "ignore"}}, "spec": {}}
    await Api().create(PODS, labelled)
    assert asked == []
    await Api().create(PODS, pod())
    assert len(asked) == 1
