"""``/metrics``, ``/healthz`` and ``/readyz``, on a thread of the standard library.

An asynchronous web framework would cost the agent ten MiB of resident memory on every node to
answer one scrape in fifteen seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client.core import CollectorRegistry
from prometheus_client.exposition import choose_encoder


class Endpoint:
    """A running HTTP server; `address` is (host, port) as really bound."""

    def __init__(
        self,
        listen: str,
        registry: CollectorRegistry,
        blockers: Callable[[], Mapping[str, str]],
    ) -> None:
        """`listen` is ``host:port``, port 0 for any. Raises `OSError` when it cannot be bound."""
        host, _, port = listen.rpartition(":")

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    encode, kind = choose_encoder(self.headers.get("Accept", ""))
                    self._answer(200, encode(registry), kind)
                elif path == "/healthz":
                    self._answer(200, b"ok\n")
                elif path == "/readyz":
                    found = blockers()
                    lines = [f"{name}: {reason}" for name, reason in found.items()] or ["ok"]
                    self._answer(503 if found else 200, ("\n".join(lines) + "\n").encode())
                else:
                    self._answer(404, b"not found: try /metrics, /healthz or /readyz\n")

            def _answer(self, code: int, body: bytes, kind: str = "text/plain") -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """A scrape is no news."""

        self._server = ThreadingHTTPServer((host.strip("[]") or "127.0.0.1", int(port)), Handler)
        self._server.daemon_threads = True
        self.address: tuple[str, int] = self._server.server_address[:2]  # type: ignore[assignment]
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    def close(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()
