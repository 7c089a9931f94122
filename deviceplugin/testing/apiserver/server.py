"""The HTTP side: paths to collections, watches as streams, Status objects for refusals."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from deviceplugin.testing.apiserver import patching
from deviceplugin.testing.apiserver.faults import Faults
from deviceplugin.testing.apiserver.requests import Requests, Target, chosen_by, target_of
from deviceplugin.testing.apiserver.resources import Resource
from deviceplugin.testing.apiserver.selectors import Test
from deviceplugin.testing.apiserver.status import StatusError, bad_request
from deviceplugin.testing.apiserver.store import Event, Object, Store, resource_of

BOOKMARK_SECONDS = 1.0
"""A real server sends one a minute; tests want to see them."""
MAX_BODY = 3 * 1024 * 1024

_SECONDS = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m?)s")
"""Of Go's durations, what clients here write."""

VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it was answered; from when to when it was here, by `time.monotonic`, which
    all processes of a machine share. A watch ends when it begins.
    """

    verb: str
    path: str
    status: int
    client: str
    began: float = 0.0
    ended: float = 0.0


class ApiServer:
    """A server on a port of loopback; use it as a context manager.

    `faults` is what goes wrong, `calls` what was asked. The methods are for tests and act at once,
    past faults and HTTP.
    """

    def __init__(self, port: int = 0, store: Store | None = None) -> None:
        self.store = store or Store()
        self.faults = Faults()
        self.calls: list[Call] = []
        self.bookmarks = True
        self._port = port
        self._server: _Server | None = None
        self._open: set[socket.socket] = set()

    def __enter__(self) -> ApiServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """``http://127.0.0.1:<port>``."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Answer, on the same port as before if there was one."""
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections and drop the open ones; what is stored stays."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.shutdown()
        server.server_close()
        self.drop_connections()

    def drop_connections(self) -> None:
        """End every connection, watches too, as a load balancer does."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def kubeconfig(self, path: Path) -> Path:
        """Write a file with which clients find this server."""
        cluster = {"name": "test", "cluster": {"server": self.url}}
        context = {"name": "test", "context": {"cluster": "test", "user": "test"}}
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [cluster],
                    "contexts": [context],
                    "users": [{"name": "test", "user": {"token": "agent"}}],
                }
            )
        )
        return path

    def create(self, plural: str, item: Mapping[str, Any]) -> Object:
        """Store an object. Raises `StatusError`."""
        resource = resource_of(plural)
        return self.store.create(resource, _namespace(resource, item), dict(item))

    def get(self, plural: str, name: str, namespace: str = "") -> Object:
        """One object. Raises `StatusError`."""
        return self.store.get(resource_of(plural), namespace, name)

    def patch(self, plural: str, name: str, patch: object, namespace: str = "") -> Object:
        """Merge a patch into an object, its status as well. Raises `StatusError`."""
        resource = resource_of(plural)
        subresource = "status" if isinstance(patch, Mapping) and "status" in patch else ""
        edit: Callable[[Object], Object] = lambda old: patching.merged(old, patch)  # noqa: E731
        return self.store.change(resource, namespace, name, edit, subresource)

    def delete(self, plural: str, name: str, namespace: str = "", grace: int = 0) -> None:
        """Remove an object. Raises `StatusError`."""
        self.store.delete(resource_of(plural), namespace, name, grace_seconds=grace)

    def objects(self, plural: str, namespace: str = "") -> list[Object]:
        """The objects of a collection."""
        return self.store.all(resource_of(plural), namespace)[0]

    def wait_for(self, found: Callable[[], object], seconds: float = 10.0) -> Any:
        """Wait until `found` answers something true after a change; answers it. Raises
        `TimeoutError`.
        """
        deadline = time.monotonic() + seconds
        while True:
            if answer := found():
                return answer
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"not within {seconds} s")
            with self.store.changed:
                self.store.changed.wait(min(left, 0.1))


def _namespace(resource: Resource, item: Mapping[str, Any]) -> str:
    if not resource.namespaced:
        return ""
    return str((item.get("metadata") or {}).get("namespace") or "default")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], owner: ApiServer) -> None:
        self.owner = owner
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's fault."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.owner._open.add(self.connection)

    def finish(self) -> None:
        self.server.owner._open.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Tests look at `ApiServer.calls`."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client went away
            self.close_connection = True

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def parse_request(self) -> bool:
        self._began = time.monotonic()
        return super().parse_request()

    # --- one request ---

    def _called(self, verb: str, path: str, code: int) -> None:
        client = self.headers.get("User-Agent", "")
        call = Call(verb, path, code, client, self._began, time.monotonic())
        self.server.owner.calls.append(call)

    def _answer(self) -> None:
        owner = self.server.owner
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        verb = VERBS[self.command]
        try:
            body = self._body()
            if self.command == "GET" and (plain := _plain(url.path)) is not None:
                self._send(200, plain)
                return
            target = target_of(url.path)
            if verb == "get" and not target.name:
                verb = "watch" if query.get("watch") in ("true", "1") else "list"
            limit = _deadline(query.get("timeout", ""))
            owner.faults.meet(verb, target.resource.plural)
            if verb == "watch":
                self._watch(target, query)
                return
            if limit and time.monotonic() - self._began > limit:
                raise StatusError(
                    504, "Timeout", "request did not complete within the allotted timeout"
                )
            code, answer = self._requests().serve(verb, target, query, body)
            if (verb, target.resource.plural) in owner.faults.mute:
                self._called(verb, url.path, 0)
                self.close_connection = True
                return
        except StatusError as error:
            code, answer = error.code, error.body()
        self._called(verb, url.path, code)
        self._send(code, answer)

    def _requests(self) -> Requests:
        kind = self.headers.get("Content-Type", "").partition(";")[0]
        # Whose token it is: the token itself is the name.
        user = self.headers.get("Authorization", "").removeprefix("Bearer ")
        owner = self.server.owner
        return Requests(owner.store, owner.faults, kind, user or "system:anonymous")

    # --- watches ---

    def _watch(self, target: Target, query: Mapping[str, str]) -> None:
        owner, resource = self.server.owner, target.resource
        test = chosen_by(resource, query)
        text = query.get("resourceVersion", "")
        if text and not text.isdigit():
            raise StatusError(500, "", f"strconv.ParseUint: parsing {text!r}: invalid syntax")
        store = owner.store
        with store.changed:
            first: list[tuple[str, Object]] = []
            version = int(text or 0)
            if version == 0:
                items, version = store.shown(resource, target.namespace)
                first = [("ADDED", item) for item in items if test(item)]
            store.events(resource, target.namespace, version)  # 410 before the stream begins
        self._called("watch", urlsplit(self.path).path, 200)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for kind, item in first:
            self._chunk({"type": kind, "object": item})
        self._follow(target, query, test, version)

    def _follow(self, target: Target, query: Mapping[str, str], test: Test, version: int) -> None:
        owner, resource = self.server.owner, target.resource
        store = owner.store
        end = time.monotonic() + float(query.get("timeoutSeconds", "1800"))
        bookmark = time.monotonic() + BOOKMARK_SECONDS
        wanted = query.get("allowWatchBookmarks") in ("true", "1")
        while time.monotonic() < end and owner._server is self.server:
            with store.changed:
                try:
                    events = store.events(resource, target.namespace, version)
                except StatusError as error:
                    self._chunk({"type": "ERROR", "object": error.body()})
                    break
                latest = store.version
                if not events:
                    store.changed.wait(0.05)
            for event in events:
                for change in _seen(event, test):
                    self._chunk(change)
            version = max([version, *(event.version for event in events)])
            if not events:
                version = max(version, latest)
            if wanted and owner.bookmarks and time.monotonic() > bookmark:
                bookmark = time.monotonic() + BOOKMARK_SECONDS
                mark = {
                    "kind": resource.kind,
                    "apiVersion": resource.api_version,
                    "metadata": {"resourceVersion": str(version), "creationTimestamp": None},
                }
                self._chunk({"type": "BOOKMARK", "object": mark})
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, event: Object) -> None:
        data = json.dumps(event).encode() + b"\n"
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    # --- bodies ---

    def _body(self) -> Any:
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY:
            self.close_connection = True
            raise StatusError(413, "RequestEntityTooLarge", "the request is too large")
        data = self.rfile.read(length)
        if not data:
            return None
        kind = self.headers.get("Content-Type", "").partition(";")[0]
        if kind not in (patching.MERGE, patching.JSON, patching.STRATEGIC, "application/json", ""):
            raise StatusError(
                415, "UnsupportedMediaType", f"the body was in an unknown format: {kind}"
            )
        try:
            return json.loads(data)
        except ValueError as error:
            raise bad_request(f"the body is no JSON: {error}") from None

    def _send(self, code: int, answer: Object) -> None:
        data = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        wait = (answer.get("details") or {}).get("retryAfterSeconds")
        if code == 429 and wait is not None:
            self.send_header("Retry-After", str(int(wait)))
        self.end_headers()
        self.wfile.write(data)


def _deadline(text: str) -> float:
    """Seconds after which a request is given up, 0 for the server's own. Raises `StatusError`."""
    if not text:
        return 0.0
    if not (found := _SECONDS.fullmatch(text)):
        raise bad_request(f"invalid timeout specified in the request URL - {text!r}")
    return float(found[1]) / (1000 if found[2] else 1)


def _seen(event: Event, test: Test) -> Iterator[Object]:
    """An event as a selector shows it: objects that begin or cease to fit come and go."""
    before = event.before is not None and test(event.before)
    after = event.type != "DELETED" and test(event.after)
    if after:
        yield {"type": "MODIFIED" if before else "ADDED", "object": event.after}
    elif before:
        yield {"type": "DELETED", "object": event.after}


def _plain(path: str) -> Object | None:
    """What stands outside of collections."""
    match path:
        case "/version":
            return {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
        case "/readyz" | "/healthz" | "/livez":
            return {"status": "ok"}
        case "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
    return None
