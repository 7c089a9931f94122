"""How kube-scheduler asks an extender: JSON over one TLS connection that stays open."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """From when to when it took by `time.monotonic`, in seconds: from the first byte of the request
    to the last of the answer.
    """

    began: float
    ended: float
    body: Any

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Connection:
    """One connection to an extender, or to an API server without TLS."""

    def __init__(self, port: int, tls: bool = True, timeout: float = 60.0) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket: socket.socket = plain
        if tls:  # as kube-scheduler is told by HAMi's chart: tlsConfig.insecure
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self._socket = context.wrap_socket(plain)

    def post(self, path: str, body: object) -> Answer:
        """The answer of an extender. Raises `RuntimeError` for any other status than 200."""
        status, answer = self.send("POST", path, body)
        if status != 200:
            raise RuntimeError(f"{path}: {status} {answer.body}")
        return answer

    def send(self, method: str, path: str, body: object = None) -> tuple[int, Answer]:
        """Status and answer. `body` is bytes, or what becomes JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer bench\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        message = head.encode() + data
        began = time.monotonic()
        self._socket.sendall(message)
        response = http.client.HTTPResponse(self._socket, method=method)
        response.begin()
        found = response.read()
        ended = time.monotonic()
        try:
            decoded = json.loads(found) if found else None
        except ValueError:
            decoded = found
        return response.status, Answer(began, ended, decoded)

    def close(self) -> None:
        self._socket.close()
