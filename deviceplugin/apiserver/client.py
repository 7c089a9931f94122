"""Requests to the API server through the official client's transport: configuration, credentials
and their renewal are its own, objects stay raw JSON.

The client library is imported when the first request is made, off the loop: importing it costs
more than starting the rest of the agent.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Any

from deviceplugin.api.problems import why

__all__ = [
    "JSON_PATCH",
    "MERGE_PATCH",
    "Api",
    "ApiError",
    "NoWayError",
    "Path",
    "is_configured",
    "official_client",
]

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"

CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
SHORTEST_SECONDS = 0.05
"""With less left a request is not begun."""
REQUESTS_AT_ONCE = 8
"""Those after wait for one of these; watches have threads of their own."""
MAX_BODY_BYTES = 64 * 1024 * 1024
"""Of one answer; a page of 200 pods of the largest size etcd takes does not reach it."""


class ApiError(Exception):
    """The API server did not do what was asked.

    `status` is the HTTP status, 0 when there was no answer at all; `reason` is the machine's word
    of the Status object (``Conflict``, ``NotFound``), empty when there is none. `retry_after` are
    seconds that the server asks to wait, None when it does not. `sent` is False where the request
    surely did not leave.
    """

    def __init__(
        self,
        text: str,
        status: int = 0,
        reason: str = "",
        retry_after: float | None = None,
        *,
        sent: bool = True,
    ) -> None:
        super().__init__(text)
        self.status, self.reason, self.retry_after = status, reason, retry_after
        self.sent = sent

    @property
    def is_ambiguous(self) -> bool:
        """The server may have done it all the same, or may do it yet: it was asked, and did not say
        that it will not.
        """
        return self.sent and (self.status == 0 or self.status >= 500)

    @property
    def is_throttled(self) -> bool:
        """The server has too much to do and did not look at it: ask again later."""
        return self.status == 429

    @property
    def is_missing(self) -> bool:
        """There is no such object."""
        return self.status == 404

    @property
    def is_conflict(self) -> bool:
        """The object is not as the request expects: 409 for versions, 422 for a failed ``test`` of
        a JSON patch (a real API server answers both, by the kind of patch).
        """
        return self.status in (409, 422)

    @property
    def is_forbidden(self) -> bool:
        """The agent's account may not do this; no repetition helps before somebody changes it."""
        return self.status in (401, 403)


@dataclass(frozen=True, slots=True)
class Path:
    """Where an object or a collection is; names are quoted by the client."""

    template: str
    names: Mapping[str, str]

    @staticmethod
    def node(name: str) -> Path:
        """One node."""
        return Path("/api/v1/nodes/{name}", {"name": name})

    @staticmethod
    def pod(namespace: str, name: str) -> Path:
        """One pod."""
        return Path(
            "/api/v1/namespaces/{namespace}/pods/{name}", {"namespace": namespace, "name": name}
        )

    def __str__(self) -> str:
        text = self.template
        for key, value in self.names.items():
            text = text.replace(f"{{{key}}}", value)
        return text


PODS = Path("/api/v1/pods", {})
NODES = Path("/api/v1/nodes", {})
QUOTAS = Path("/api/v1/resourcequotas", {})
BUDGETS = Path("/apis/policy/v1/poddisruptionbudgets", {})


def is_configured(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process has a way to an API server."""
    return any(environ.get(name) for name in ("KUBERNETES_SERVICE_HOST", "KUBECONFIG"))


class NoWayError(Exception):
    """Nothing says how an API server is reached; the text names what was read, and the remedy."""


def official_client(connections: int = 4, path: str = "", context: str = "") -> Any:
    """An `ApiClient` of the official library with its own retries off: ours know what is asked.
    So many connections stay open. `path` is a kubeconfig, else KUBECONFIG's or the pod's own;
    `context` one of its contexts, else its current one. Raises `NoWayError`.
    """
    import urllib3
    from kubernetes import client

    configuration = client.Configuration()
    # Named, because the library looks at the variable only once, when it is imported.
    if path := path or os.environ.get("KUBECONFIG", ""):
        _by_kubeconfig(configuration, path, context)
    else:
        _by_service_account(configuration)
    if not configuration.verify_ssl:
        # As the kubeconfig says in so many words; else a warning came with every request.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    configuration.retries = False
    configuration.connection_pool_maxsize = connections
    # As found now: otherwise the library looks through the environment again for every request.
    configuration.proxy = configuration.proxy
    return client.ApiClient(configuration)


def _by_kubeconfig(configuration: Any, path: str, context: str) -> None:
    """`path` may name several files, as KUBECONFIG does. Raises `NoWayError`."""
    import yaml
    from kubernetes import config

    remedy = "correct --kubeconfig or KUBECONFIG"
    files = [FilePath(part).expanduser() for part in path.split(os.pathsep) if part]
    if not any(file.exists() for file in files):
        raise NoWayError(f"kubeconfig {path}: {os.strerror(errno.ENOENT)}; {remedy}")
    try:
        config.load_kube_config(  # type: ignore[no-untyped-call]
            path, context=context or None, client_configuration=configuration
        )
        if not str(configuration.host).startswith(("https://", "http://")):
            text = f"its server {configuration.host!r:.80} is no URL: write https://HOST:PORT"
            raise config.ConfigException(text)
    except OSError as error:
        raise NoWayError(f"kubeconfig {error.filename or path}: {why(error)}; {remedy}") from None
    except config.ConfigException as error:
        raise NoWayError(f"kubeconfig {path}: {_line(error)}; {remedy}") from None
    except yaml.YAMLError as error:
        raise NoWayError(f"kubeconfig {path}: not YAML: {_line(error)}; {remedy}") from None
    except Exception:  # whatever the library makes of a file with something else in it
        raise NoWayError(f"kubeconfig {path}: not made as a kubeconfig is; {remedy}") from None


def _by_service_account(configuration: Any) -> None:
    """Raises `NoWayError`."""
    from kubernetes import config

    try:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except (OSError, config.ConfigException) as error:
        raise NoWayError(
            f"no KUBECONFIG is set, and this is no pod with a service account: {_line(error)}; set "
            "KUBECONFIG to a kubeconfig, or run in a pod that mounts its account's token"
        ) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


class Api:
    """Requests by path. Every coroutine raises `ApiError` and nothing else."""

    def __init__(
        self, connect: Callable[[], Any] = official_client, at_once: int = REQUESTS_AT_ONCE
    ) -> None:
        """`at_once` requests are under way at a time, watches not counted."""
        self._connect = connect
        self._client: Any = None
        self._lock = threading.Lock()
        self.calls = 0
        """Requests made so far, watches included."""
        # Its own, so that a server that is slow to answer keeps nobody from files and devices.
        self._threads = ThreadPoolExecutor(at_once, "API request")

    async def get(
        self, path: Path, query: Mapping[str, str] | None = None, within: float | None = None
    ) -> dict[str, Any]:
        """One object, or one page of a collection; `within` as in `create`."""
        return await self._off_loop(
            partial(self.call, "GET", path, query=query, until=_until(within))
        )

    async def patch(
        self, path: Path, body: object, content_type: str, within: float | None = None
    ) -> dict[str, Any]:
        """Change an object; answers the changed one. `body` is a mapping for `MERGE_PATCH` and a
        list of operations for `JSON_PATCH`; `within` as in `create`.
        """
        return await self._off_loop(
            partial(self.call, "PATCH", path, body, content_type, until=_until(within))
        )

    async def create(self, path: Path, body: object, within: float | None = None) -> dict[str, Any]:
        """Create an object in a collection; answers it as stored.

        `within` so many seconds from now it is over: what still waits for others then is not sent,
        and the server, which is told, gives up what it has not done.
        """
        return await self._off_loop(
            partial(self.call, "POST", path, body, "application/json", until=_until(within))
        )

    async def _off_loop(self, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def call(
        self,
        method: str,
        path: Path,
        body: object = None,
        content_type: str = "",
        query: Mapping[str, str] | None = None,
        until: float | None = None,
    ) -> dict[str, Any]:
        """One request, blocking. After `until`, an instant of `time.monotonic`, it is not sent and
        not waited for. Raises `ApiError`.
        """
        if not {".", ".."}.isdisjoint(path.names.values()):
            # The client quotes slashes, not these: they would name another path.
            raise ApiError(f"{path} has a name that no object can have", sent=False)
        connect, read = CONNECT_SECONDS, READ_SECONDS
        if until is not None:
            left = until - time.monotonic()
            if left <= SHORTEST_SECONDS:
                raise ApiError(f"{method} {path}: not sent: no time is left for it", sent=False)
            # Together they are not more than is left.
            connect = min(connect, left / 3)
            read = min(read, left - connect)
            query = {**(query or {}), "timeout": f"{read:.3f}s"}
        response = self._request(method, path, body, content_type, query, (connect, read))
        data = _read(method, path, response.response)
        if not 200 <= response.status <= 299:
            raise _refused(method, path, response, data)
        return _object(method, path, data)

    def prepare(self) -> None:
        """Read how the server is reached, as the first request would; blocking, and nothing is
        asked yet. Raises `ApiError`.
        """
        with self._lock:
            if self._client is not None:
                return
            try:
                self._client = self._connect()
            except NoWayError as error:
                raise ApiError(f"no way to the API server: {error}", sent=False) from None
            except Exception as error:
                text = f"no way to the API server: {type(error).__name__}: {error}"
                raise ApiError(text, sent=False) from None

    def stream(self, path: Path, query: Mapping[str, str], silence: float) -> Stream:
        """The lines of a watch, blocking; a silence of more than `silence` seconds ends it.

        Raises `ApiError`.
        """
        response = self._request("GET", path, None, "", query, (CONNECT_SECONDS, silence))
        if response.status != 200:
            data = _read("WATCH", path, response.response)
            raise _refused("WATCH", path, response, data)
        return Stream(path, response.response)

    def _request(
        self,
        method: str,
        path: Path,
        body: object,
        content_type: str,
        query: Mapping[str, str] | None,
        timeout: tuple[float, float],
    ) -> Any:
        with self._lock:
            self.calls += 1
        self.prepare()
        headers = {"Accept": "application/json", "User-Agent": "deviceplugin"}
        if content_type:
            headers["Content-Type"] = content_type
        try:
            call = self._client.param_serialize(
                method=method,
                resource_path=path.template,
                path_params=dict(path.names),
                query_params=sorted((query or {}).items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            return self._client.call_api(*call, _request_timeout=timeout)
        except Exception as error:
            raise _unanswered(method, path, error) from None


class Stream:
    """An open watch: iterate for its lines in one thread, `close` from any."""

    def __init__(self, path: Path, response: Any) -> None:
        self._path, self._response = path, response

    def __iter__(self) -> Iterator[bytes]:
        """Every complete line; ends with the server's end. Raises `ApiError`."""
        rest = b""
        try:
            # read1 hands over what has come and does not wait for a buffer to fill.
            while data := self._response.read1(65536, decode_content=True):
                *lines, rest = (rest + data).split(b"\n")
                yield from filter(None, lines)
                if len(rest) > MAX_BODY_BYTES:
                    raise ValueError("a line without end")
        except Exception as error:
            raise _unanswered("WATCH", self._path, error) from None
        finally:
            self._response.close()

    def close(self) -> None:
        """End the watch, also while another thread reads it."""
        try:
            self._response.shutdown()
        except Exception:
            self._response.close()


def _read(method: str, path: Path, response: Any) -> bytes:
    """The whole of a bounded answer. Raises `ApiError` when the connection breaks in it."""
    try:
        data: bytes = response.read(MAX_BODY_BYTES, decode_content=True)
    except Exception as error:
        raise _unanswered(method, path, error) from None
    finally:
        response.release_conn()
    return data


def _object(method: str, path: Path, data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise ApiError(f"{method} {path}: the answer is not JSON") from None
    if not isinstance(found, dict):
        raise ApiError(f"{method} {path}: the answer is not an object")
    return found


def _refused(method: str, path: Path, response: Any, data: bytes) -> ApiError:
    try:
        status = json.loads(data)
        message, reason = str(status.get("message", "")), str(status.get("reason", ""))
    except (ValueError, RecursionError, AttributeError):
        message, reason = data[:200].decode(errors="replace"), ""
    try:
        wait = float(response.headers.get("Retry-After", ""))
    except ValueError:
        wait = None
    text = f"{method} {path}: {response.status} {reason} {message}".rstrip()
    return ApiError(text, response.status, reason, wait)


def _root(error: BaseException) -> Exception:
    """What the system or the other side said, below what libraries made of it; the error itself
    where nobody says more.
    """
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.errno is not None:
            return inner
        inner = inner.__cause__ or inner.__context__
    return error if isinstance(error, Exception) else Exception(error)


def _unanswered(method: str, path: Path, error: Exception) -> ApiError:
    from ssl import SSLError

    from urllib3.exceptions import ConnectTimeoutError  # the client's, so it is loaded by now

    root = _root(error)
    system = isinstance(root, OSError) and not isinstance(root, SSLError)  # that has own numbers
    cause = why(root) if system else f"{type(root).__name__}: {_line(root)}"
    asked: Any = getattr(error, "conn", None) or vars(error).get("pool")
    server = f" from {asked.host}:{asked.port}" if hasattr(asked, "port") else ""
    text = f"{method} {path}: no answer{server}: {cause}"
    # One that could not be made is told as one that took too long.
    return ApiError(text, sent=not isinstance(error, ConnectTimeoutError))


def _until(within: float | None) -> float | None:
    return None if within is None else time.monotonic() + within
