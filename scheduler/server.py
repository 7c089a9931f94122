"""The HTTP side: routes of HAMi's scheduler, bounded and never without an answer
(hami-scheduler.md 1.4).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiohttp import web

from deviceplugin.api.fields import host_port
from deviceplugin.api.problems import why

__all__ = ["Routes", "Server", "UnavailableError"]

MOST_BODY = 16 * 1024 * 1024
"""Bytes of a request: 5,000 names of nodes and the largest pod stay far below it, and so do 1,000
whole nodes, and the two states of the largest object that an API server stores."""
MOST_BODIES = 4 * MOST_BODY
"""Of all requests that are being read or answered; who comes when there are more is to come again.
"""
LEAVE_SECONDS = 20.0
"""That answers may take yet once nothing new is taken: a write to the API server and what comes of
it, within the 30 seconds that Kubernetes gives a pod."""
READ_SECONDS = 20.0
"""That a request may take to arrive."""
KEEP_SECONDS = 180.0
"""That a silent connection stays open: longer than Go's clients keep one, so that none is closed
while a request is on its way."""

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]
Handler = Callable[[bytes], Awaitable[bytes]]
Routes = Mapping[str, Handler]
"""What is answered to a POST, by path: JSON to JSON."""


class UnavailableError(Exception):
    """The request is as it should be and cannot be answered now; the text goes to who asks."""


class Server:
    """Serves until it is closed. `blockers` says why this replica is not ready, by name."""

    def __init__(
        self,
        routes: Routes,
        blockers: Callable[[], Mapping[str, str]],
        timed: Callable[[str, float], None] = lambda _path, _seconds: None,
        parts: Callable[[str], bool] = lambda _path: False,
    ) -> None:
        """`timed` is told of each answer how many seconds it took. After an answer on a path on
        which it `parts`, the connection is closed: whoever asks again finds another replica.
        """
        self._routes, self._blockers, self._timed = routes, blockers, timed
        self._parts = parts
        self._leaving = False
        self._bytes = 0
        self._runner: web.AppRunner | None = None
        self.address: tuple[str, int] = ("", 0)
        """Where it listens, as really bound."""

    async def start(self, listen: str, tls: ssl.SSLContext | None = None) -> None:
        """Listen on ``host:port``, port 0 for any. Raises `OSError`, naming the flag."""
        app = web.Application(
            client_max_size=MOST_BODY, middlewares=[self._parting, self._known, self._bounded]
        )
        for path, handler in self._routes.items():
            app.router.add_post(path, _answering(path, handler, self._timed))
        app.router.add_get("/healthz", _healthy)
        app.router.add_get("/readyz", self._ready)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=KEEP_SECONDS,
            shutdown_timeout=LEAVE_SECONDS,
            auto_decompress=False,  # nobody compresses; a small body could become a huge one
        )
        await self._runner.setup()
        try:
            host, port = host_port(listen)
            await web.TCPSite(self._runner, host or "127.0.0.1", port, ssl_context=tls).start()
        except (OSError, ValueError) as error:
            await self._runner.cleanup()
            raise OSError(
                f"cannot listen on {listen!r}: {why(error)}; give another host:port with "
                "--http_bind"
            ) from None
        found = self._runner.addresses[0]
        self.address = (str(found[0]), int(found[1]))

    async def close(self) -> None:
        """Answer what is under way, then stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    def leave(self) -> None:
        """From now on every answer closes its connection, so that callers find another replica
        before this one is closed: a request that is on its way at that instant would be lost.
        """
        self._leaving = True

    @web.middleware
    async def _bounded(self, request: web.Request, handler: Answering) -> web.StreamResponse:
        """So much at a time and no more."""
        size = request.content_length if request.can_read_body else 0
        size = MOST_BODY if size is None else min(size, MOST_BODY)
        if self._bytes + size > MOST_BODIES:
            text = "too much is asked at once\n"
            return web.Response(status=503, text=text, headers={"Retry-After": "1"})
        self._bytes += size
        try:
            return await handler(request)
        finally:
            self._bytes -= size

    @web.middleware
    async def _known(self, request: web.Request, handler: Answering) -> web.StreamResponse:
        """What is not here is said together with what is."""
        try:
            return await handler(request)
        except web.HTTPNotFound:
            posts = ", ".join(sorted(self._routes))
            text = f"not found: POST to {posts}, or GET /healthz or /readyz\n"
            return web.Response(status=404, text=text)
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            text = f"only {allowed} to {request.path}\n"
            return web.Response(status=405, text=text, headers={"Allow": allowed})

    @web.middleware
    async def _parting(self, request: web.Request, handler: Answering) -> web.StreamResponse:
        response = await handler(request)
        if self._leaving or self._parts(request.path):
            response.force_close()
        return response

    async def _ready(self, _request: web.Request) -> web.Response:
        found = self._blockers()
        text = "".join(f"{name}: {reason}\n" for name, reason in found.items()) or "ok\n"
        return web.Response(status=503 if found else 200, text=text)


def _answering(
    path: str, handler: Handler, timed: Callable[[str, float], None]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    log = structlog.get_logger().bind(path=path)

    async def answer(request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(READ_SECONDS):
                body = await request.read()
        except TimeoutError:
            return web.Response(status=408, text="the request did not arrive in time\n")
        if not body:
            return web.Response(status=400, text="Please send a request body\n")
        began = time.perf_counter()
        try:
            found = await handler(body)
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        except RecursionError:
            return web.Response(status=400, text="the body is nested too deeply\n")
        except UnavailableError as error:
            return web.Response(status=503, text=f"{error}\n")
        except Exception:
            log.exception("a request was not answered")
            return web.Response(status=500, text="an error of the scheduler's own, see its log\n")
        timed(path, time.perf_counter() - began)
        return web.Response(body=found, content_type="application/json")

    return answer


async def _healthy(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")
