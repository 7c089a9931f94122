"""``/metrics``, ``/healthz`` and ``/readyz``, on threads of the standard library.

An asynchronous web framework would cost the agent ten MiB of resident memory on every node to
answer one scrape in fifteen seconds.
"""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any

import structlog
from prometheus_client.core import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from deviceplugin.api.fields import host_port
from deviceplugin.api.problems import why

MAX_CLIENTS = 16
"""Connections at a time; one more closes the oldest, so that silent clients keep nobody out."""

PLAIN = "text/plain; charset=utf-8"

Answer = tuple[int, bytes, str]
"""Status, body, content type."""


class Endpoint:
    """A running HTTP server; `address` is (host, port) as really bound."""

    def __init__(
        self,
        listen: str,
        registry: CollectorRegistry,
        blockers: Callable[[], Mapping[str, str]],
        flag: str = "--http-listen",
    ) -> None:
        """`listen` is ``host:port``, port 0 for any, ``[address]:port`` for IPv6; without a host
        it is 127.0.0.1. `blockers` is called from other threads.

        Raises `OSError`, naming the `flag`, when the address is none or cannot be bound.
        """

        def answer(path: str, accept: str) -> Answer:
            if path == "/metrics":
                encode, kind = choose_encoder(accept)
                return 200, encode(registry), kind
            if path == "/healthz":
                return 200, b"ok\n", PLAIN
            if path == "/readyz":
                found = blockers()
                lines = [f"{name}: {reason}" for name, reason in found.items()] or ["ok"]
                return 503 if found else 200, ("\n".join(lines) + "\n").encode(), PLAIN
            return 404, b"not found: try /metrics, /healthz or /readyz\n", PLAIN

        try:
            self._server = _Server(*_resolved(listen), answer)
        except (OSError, ValueError) as error:
            raise OSError(
                f"cannot listen on {listen!r}: {why(error)}; "
                f"give another host:port with {flag}, or an empty one for no endpoint"
            ) from None
        host, port = self._server.server_address[:2]
        self.address: tuple[str, int] = (str(host), int(port))
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    def close(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()


def _resolved(listen: str) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    host, port = host_port(listen)
    found = socket.getaddrinfo(host or "127.0.0.1", port, type=socket.SOCK_STREAM)
    family, _, _, _, address = found[0]
    return family, address


class _Handler(BaseHTTPRequestHandler):
    """One request a connection; only GET, and HEAD, which is GET without the body."""

    timeout = 10
    server_version, sys_version = "deviceplugin", ""
    server: _Server

    def parse_request(self) -> bool:
        """As inherited, and refuse methods that nothing here has."""
        if not super().parse_request():
            return False
        if self.command in ("GET", "HEAD"):
            return True
        self._send((405, b"only GET and HEAD\n", PLAIN), Allow="GET, HEAD")
        return False

    def do_GET(self) -> None:
        """Answer; a metric that cannot be told is an answer too."""
        try:
            answer = self.server.answer(self.path.partition("?")[0], self.headers.get("Accept", ""))
        except Exception as error:
            structlog.get_logger().exception("a request failed", path=self.path)
            answer = 500, f"{type(error).__name__}: {error}\n".encode(), PLAIN
        self._send(answer)

    do_HEAD = do_GET  # noqa: N815

    def _send(self, answer: Answer, **headers: str) -> None:
        code, body, kind = answer
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """A scrape is no news."""


class _Server(socketserver.ThreadingTCPServer):
    """A thread a connection, of which there are never many. `http.server.HTTPServer` is not the
    base because it asks the resolver for its own name, which may take a while.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self,
        family: socket.AddressFamily,
        address: tuple[Any, ...],
        answer: Callable[[str, str], Answer],
    ) -> None:
        self.address_family, self.answer = family, answer
        self._open: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        super().__init__(address[:2], _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, once there is room for it."""
        with self._lock:
            oldest = next(iter(self._open)) if len(self._open) >= MAX_CLIENTS else None
            if oldest is not None:
                del self._open[oldest]
                _hang_up(oldest)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """The connection is over."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news either."""
        if not isinstance(sys.exc_info()[1], OSError):
            structlog.get_logger().exception("a connection failed", client=client_address[0])


def _hang_up(connection: socket.socket) -> None:
    """End a connection whose thread may be reading from it."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
