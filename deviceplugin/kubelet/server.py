"""The life of one resource: serve, check ourselves, register, and again whenever kubelet returns.

One screen shows the whole cycle: `ResourceServer.run` is an endless supervisor that never lets a
failure out, `_live` is one life with one socket, `_stay_registered` keeps kubelet's attention.
The order and the reasons to register again are those of kubelet-deviceplugin.md 2.1, 2.2, 2.12.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
import grpc.aio
import structlog

from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2_grpc as rpc
from deviceplugin.directorywatch import identity
from deviceplugin.kubelet.resource import MAX_MESSAGE_BYTES, Resource
from deviceplugin.kubelet.service import Allocator, DevicePluginService, Observer
from deviceplugin.kubelet.sockets import new_socket, remove_stale

API_VERSION = "v1beta1"

PERMANENT = ("is invalid", "is not supported by kubelet")
"""Texts of refusals that no retry changes (kubelet-deviceplugin.md 2.2)."""


@dataclass(frozen=True, slots=True)
class Timing:
    """All in seconds."""

    register: float = 20.0
    """For Register: above kubelet's 10 s for the dial-back, which happens inside."""
    first_stream: float = 10.0
    """A registration that no ListAndWatch follows within this is not believed."""
    settle: float = 0.2
    """Between the end of the last stream and the next Register: kubelet may be going down."""
    backoff_first: float = 0.2
    backoff_most: float = 30.0
    stop: float = 5.0
    """How long allocations under way may take before streams are closed, and calls after it."""


class Status(Protocol):
    """Who is told where a resource stands."""

    def registered(self, resource: str) -> None:
        """Kubelet accepted the registration and watches."""

    def unregistered(self, resource: str, reason: str) -> None:
        """Not (or no longer) registered, and why."""

    def attempt(self, resource: str, outcome: str) -> None:
        """A Register call ended: ``ok``, ``refused`` or ``failed``."""


class ResourceServer:
    """Serves one resource for ever; `changed` is to be set when the socket directory changed."""

    def __init__(
        self,
        resource: Resource,
        allocator: Allocator,
        observer: Observer,
        status: Status,
        directory: Path,
        kubelet_socket: Path | None,
        timing: Timing = Timing(),
    ) -> None:
        self._resource, self._allocator, self._observer = resource, allocator, observer
        self._status, self._directory, self._kubelet = status, directory, kubelet_socket
        self._timing = timing
        self._log = structlog.get_logger().bind(resource=resource.name)
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Live, and live again after whatever ended a life. Ends by cancellation only."""
        backoff = _Backoff(self._timing.backoff_first, self._timing.backoff_most)
        if self._kubelet is not None:
            self._status.unregistered(self._resource.name, "not registered yet")
        while True:
            try:
                await self._live(backoff)
            except Exception as error:
                details = error.details() if isinstance(error, grpc.aio.AioRpcError) else None
                reason = details or str(error) or type(error).__name__
                self._log.error("resource server ended", reason=reason)
                self._status.unregistered(self._resource.name, reason)
                await asyncio.sleep(backoff.next())

    async def _live(self, backoff: _Backoff) -> None:
        """One socket's life: ends when the socket is gone or somebody cancels."""
        while problem := self._resource.problem:
            self._status.unregistered(self._resource.name, problem)
            self._log.error("not registered", reason=problem)
            await self._resource.next_version(self._resource.version)
        path = new_socket(self._directory, self._resource.name)
        service = DevicePluginService(
            self._resource, self._allocator, self._observer, self.changed.set
        )
        async with self._serving(service, path):
            await self._check_ourselves(path)
            for stale in remove_stale(self._directory, self._resource.name, path):
                self._log.info("removed a stale socket of an earlier agent", socket=stale.name)
            backoff.reset()
            if self._kubelet is None:
                self._log.info("serving without registration, as configured", socket=str(path))
                await asyncio.Event().wait()
            else:
                await self._stay_registered(service, path, self._kubelet)
        self._log.warning("own socket is gone, starting again", socket=path.name)

    @contextlib.asynccontextmanager
    async def _serving(self, service: DevicePluginService, path: Path) -> AsyncIterator[None]:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
            ]
        )
        rpc.add_DevicePluginServicer_to_server(service, server)
        try:
            server.add_insecure_port(f"unix:{path}")
            await server.start()
            yield
        finally:
            # Kubelet drops the connection, with every call on it, when the stream ends, and an
            # Allocate that is cut off is a pod that failed for good. So allocations under way
            # first, then streams, then the socket, then we.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.stop):
                    await self._resource.idle()
            service.stop()
            await asyncio.shield(server.stop(self._timing.stop))
            path.unlink(missing_ok=True)

    async def _check_ourselves(self, path: Path) -> None:
        """Kubelet calls back while our Register is pending; find out before that it will work.

        A kubelet that restarts meanwhile removes our socket: then there is nothing to wait for.
        """

        async def gone() -> None:
            while path.exists():
                await self._change()
            raise FileNotFoundError(f"our socket {path.name} was removed before it was of use")

        async with _channel(path) as channel:
            answer = rpc.DevicePluginStub(channel).GetDevicePluginOptions(
                pb.Empty(), timeout=self._timing.first_stream, wait_for_ready=True
            )
            first = {asyncio.create_task(answer.wait_for_connection()), asyncio.create_task(gone())}
            try:
                done, _ = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                await answer
            finally:
                for task in first:
                    task.cancel()
                await asyncio.gather(*first, return_exceptions=True)

    async def _stay_registered(
        self, service: DevicePluginService, path: Path, kubelet: Path
    ) -> None:
        """Register when there is reason to; returns when our own socket is gone."""
        backoff = _Backoff(self._timing.backoff_first, self._timing.backoff_most)
        accepted: tuple[int, int, int] | None = None
        refused: tuple[int, int, int] | None = None
        name = self._resource.name
        while True:
            self.changed.clear()
            # In this order: kubelet removes our socket before it listens on a new one of its own,
            # so a kubelet seen here is not yet gone by the time we look for ours.
            there = identity(kubelet)
            if not path.exists():
                return
            if there is None:
                accepted = refused = None
                self._status.unregistered(name, f"kubelet's socket {kubelet} does not exist yet")
                await self.changed.wait()
                backoff.reset()
            elif there == refused or (there == accepted and service.streams):
                await self.changed.wait()
            elif there == accepted:
                if not await self._stream_comes_back(service):
                    accepted = None  # and look again: kubelet may be another one by now
            else:
                opened = service.streams_opened
                outcome = await self._register(service, path, kubelet)
                accepted = there if outcome == "ok" else None
                refused = there if outcome == "refused" else None
                if outcome == "ok" and await self._watched(service, opened):
                    backoff.reset()
                    self._status.registered(name)
                    self._log.info("registered", devices=len(self._resource.message.devices))
                elif outcome != "refused":
                    await self._pause(backoff.next(), there, kubelet)
                    accepted = None

    async def _stream_comes_back(self, service: DevicePluginService) -> bool:
        """After the last stream ended: whether kubelet opens another one by itself."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timing.settle):
                while not service.streams:
                    await self._change()
        if service.streams:
            return True
        self._status.unregistered(self._resource.name, "kubelet closed the list stream")
        return False

    async def _register(self, service: DevicePluginService, path: Path, kubelet: Path) -> str:
        """One Register call: ``ok``, ``refused`` for good, or ``failed``."""
        name = self._resource.name
        request = pb.RegisterRequest(
            version=API_VERSION, endpoint=path.name, resource_name=name, options=service.options()
        )
        try:
            async with _channel(kubelet) as channel:
                await rpc.RegistrationStub(channel).Register(request, timeout=self._timing.register)
        except grpc.aio.AioRpcError as error:
            text = error.details() or error.code().name
            outcome = "refused" if any(part in text for part in PERMANENT) else "failed"
            self._log.warning(
                "kubelet did not take the registration",
                reason=text,
                retry="when kubelet restarts" if outcome == "refused" else "with back-off",
            )
            self._status.unregistered(name, f"kubelet refused: {text}")
        else:
            outcome = "ok"
        self._status.attempt(name, outcome)
        return outcome

    async def _watched(self, service: DevicePluginService, opened: int) -> bool:
        """Whether kubelet really opened a list stream after it had said yes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timing.first_stream):
                while service.streams_opened == opened:
                    await self._change()
        if service.streams_opened != opened:
            return True
        self._log.warning("kubelet accepted the registration but never asked for the list")
        self._status.unregistered(self._resource.name, "kubelet never asked for the list")
        return False

    async def _pause(self, seconds: float, there: object, kubelet: Path) -> None:
        """Wait before the next try, but not beyond the arrival of another kubelet."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while identity(kubelet) == there:
                    await self._change()

    async def _change(self) -> None:
        self.changed.clear()
        await self.changed.wait()


class _Backoff:
    """Doubling delays in seconds up to a most; `reset` after a success."""

    def __init__(self, first: float, most: float) -> None:
        self._first, self._most = first, most
        self._delay = first

    def next(self) -> float:
        delay, self._delay = self._delay, min(self._delay * 2, self._most)
        return delay

    def reset(self) -> None:
        self._delay = self._first


def _channel(socket: Path) -> grpc.aio.Channel:
    """A connection of its own: an old one to a socket of the same path must not be reused."""
    return grpc.aio.insecure_channel(
        f"unix:{socket}",
        options=[("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)],
    )
