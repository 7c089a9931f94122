"""The official client, unchanged, against a small API server over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from deviceplugin.cluster import ApiPods, is_configured
from deviceplugin.refusal import RefusalError


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = {"/api/v1/namespaces/default/pods/p": {"a": "1"}}
            status = 500 if "broken" in self.path else 200 if self.path in known else 404
            body = json.dumps({"metadata": {"annotations": known.get(self.path)}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [
            {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        ],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore")
async def test_annotations_of_a_pod_and_of_none(server: HTTPServer) -> None:
    pods = ApiPods()
    assert await pods.annotations("default", "p") == {"a": "1"}
    assert await pods.annotations("default", "nobody") is None
    with pytest.raises(RefusalError, match="500"):
        await pods.annotations("default", "broken")


@pytest.mark.filterwarnings("ignore")
async def test_an_api_server_that_is_away_is_a_reason_to_try_again(server: HTTPServer) -> None:
    pods = ApiPods()
    server.shutdown()
    server.server_close()
    with pytest.raises(RefusalError, match="API server did not tell pod default/p"):
        await pods.annotations("default", "p")


def test_without_a_way_to_an_api_server_nobody_asks() -> None:
    assert not is_configured({})
    assert is_configured({"KUBERNETES_SERVICE_HOST": "x"})
