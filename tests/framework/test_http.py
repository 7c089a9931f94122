"""The HTTP endpoint: what it answers, and that no client can take it away from the others."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.core import CollectorRegistry
from prometheus_client.metrics import Counter
from prometheus_client.metrics_core import Metric

from deviceplugin.http import MAX_CLIENTS, Endpoint


@pytest.fixture
def blockers() -> dict[str, str]:
    return {}


@pytest.fixture
def serve(blockers: dict[str, str]) -> Iterator[Callable[[str], Endpoint]]:
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc()
    with contextlib.ExitStack() as stack:

        def start(listen: str = "127.0.0.1:0") -> Endpoint:
            endpoint = Endpoint(listen, registry, lambda: blockers)
            stack.callback(endpoint.close)
            return endpoint

        yield start


Serve = Callable[..., Endpoint]


def ask(endpoint: Endpoint, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection(*endpoint.address, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def raw(endpoint: Endpoint, request: bytes) -> bytes:
    with socket.create_connection(endpoint.address, timeout=10) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := client.recv(65536):
                received += chunk
        return received


def test_each_path_has_its_answer(serve: Serve, blockers: dict[str, str]) -> None:
    endpoint = serve()
    assert ask(endpoint, "/metrics")[2].count("things_total 1.0") == 1
    assert ask(endpoint, "/metrics?name[]=things")[0] == 200
    assert ask(endpoint, "/healthz")[::2] == (200, "ok\n")
    assert ask(endpoint, "/readyz")[::2] == (200, "ok\n")
    blockers["acme"] = "no driver"
    assert ask(endpoint, "/readyz")[::2] == (503, "acme: no driver\n")
    assert ask(endpoint, "/healthz")[0] == 200
    assert ask(endpoint, "/nothing")[0] == 404


def test_head_is_get_without_the_body(serve: Serve) -> None:
    endpoint = serve()
    status, headers, body = ask(endpoint, "/metrics", "HEAD")
    assert (status, body) == (200, "")
    assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_other_methods_are_told_which_ones_there_are(serve: Serve, method: str) -> None:
    status, headers, _ = ask(serve(), "/metrics", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_the_version_of_python_is_nobodys_business(serve: Serve) -> None:
    assert "Python" not in ask(serve(), "/metrics")[1].get("Server", "")


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"\xff\xfe\x00\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"GET /metr",
    ],
)
def test_what_is_no_request_hurts_nobody(
    serve: Serve, request_: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    endpoint = serve()
    assert b" 200 " not in raw(endpoint, request_)
    assert ask(endpoint, "/healthz")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_client_that_leaves_before_its_answer_leaves_no_trace(
    serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    endpoint = serve()
    for _ in range(5):
        with socket.create_connection(endpoint.address) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert ask(endpoint, "/metrics")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_many_scrapes_at_once_are_all_answered(serve: Serve) -> None:
    endpoint, answers = serve(), []
    threads = [
        threading.Thread(target=lambda: answers.append(ask(endpoint, "/metrics")[0]))
        for _ in range(MAX_CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * MAX_CLIENTS


def test_silent_clients_keep_nobody_out_and_cost_few_threads(serve: Serve) -> None:
    endpoint = serve()
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CLIENTS * 3):
            stack.enter_context(socket.create_connection(endpoint.address))
        assert ask(endpoint, "/healthz")[0] == 200
        while threading.active_count() - before > MAX_CLIENTS:
            time.sleep(0.01)


def test_a_metric_that_fails_is_an_answer_with_its_reason(
    blockers: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def collect(self) -> Iterator[Metric]:
            raise KeyError("no such card")

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Broken())  # type: ignore[arg-type]
    endpoint = Endpoint("127.0.0.1:0", registry, lambda: blockers)
    try:
        status, _, body = ask(endpoint, "/metrics")
        assert (status, "no such card" in body) == (500, True)
        assert ask(endpoint, "/healthz")[0] == 200
    finally:
        endpoint.close()


def test_ipv6_and_any_address_are_understood(serve: Serve) -> None:
    assert ask(serve("0.0.0.0:0"), "/healthz")[0] == 200
    assert serve(":0").address[0] == "127.0.0.1"
    with contextlib.suppress(OSError):
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        assert ask(serve("[::1]:0"), "/healthz")[0] == 200


def test_a_port_in_use_is_an_error_with_the_flag(serve: Serve) -> None:
    _, port = serve().address[:2]
    with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port}.*in use.*--http-listen"):
        serve(f"127.0.0.1:{port}")


@pytest.mark.parametrize("listen", ["nowhere.invalid:80", "127.0.0.1:http", "127.0.0.1:70000", ""])
def test_an_address_that_is_none_is_an_error_with_the_flag(serve: Serve, listen: str) -> None:
    with pytest.raises(OSError, match="--http-listen"):
        serve(listen)
