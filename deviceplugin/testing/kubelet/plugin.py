"""Kubelet's connection to one plugin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2_grpc as rpc
from deviceplugin.testing.kubelet import findings
from deviceplugin.testing.kubelet.environment import Call, Environment

_READY = grpc.ChannelConnectivity.READY
_CLOSED = "rpc error: code = Canceled desc = grpc: the client connection is closing"


class PluginError(Exception):
    """A call or a connection failed; the text is what Go's client shows."""


def channel(socket: Path, max_message: int) -> grpc.aio.Channel:
    """A connection of its own to a unix socket."""
    return grpc.aio.insecure_channel(
        f"unix:{socket}",
        options=[
            ("grpc.default_authority", "localhost"),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", max_message),
            ("grpc.initial_reconnect_backoff_ms", 100),
        ],
    )


async def ready(connection: grpc.aio.Channel, limit: float) -> None:
    """Wait until a connection stands. Raises `TimeoutError`.

    The state is polled: a watch on a path that no socket can have would never end, and hold up the
    end of the whole process.
    """
    async with asyncio.timeout(limit):
        while connection.get_state(try_to_connect=True) is not _READY:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def go_error(error: grpc.aio.AioRpcError) -> str:
    """The text of a gRPC error as Go prints it."""
    code = "".join(part.capitalize() for part in error.code().name.split("_"))
    code = {"Cancelled": "Canceled"}.get(code, code)
    return f"rpc error: code = {code} desc = {error.details()}"


class Plugin:
    """A plugin at a socket, under the resource that it registered."""

    def __init__(self, environment: Environment, resource: str, socket: Path) -> None:
        self.resource, self.socket = resource, socket
        self._environment = environment
        self._channel = channel(socket, environment.max_message)
        self._stub = rpc.DevicePluginStub(self._channel)
        self.is_closed = False

    async def dial(self, limit: float) -> None:
        """Wait for the connection. Raises `PluginError`."""
        try:
            await ready(self._channel, limit)
        except TimeoutError:
            raise PluginError("failed to dial device plugin: context deadline exceeded") from None

    async def call(self, method: str, request: Any, limit: float | None = None) -> Any:
        """A unary call, with the delays and repetitions that were asked for, and logged.

        Raises `PluginError`.
        """
        faults = self._environment.faults
        await asyncio.sleep(faults.delays.get(method, 0.0))
        for _ in range(faults.repeats.get(method, 0)):
            await self._once(method, request, limit)
        return await self._once(method, request, limit)

    async def _once(self, method: str, request: Any, limit: float | None) -> Any:
        environment = self._environment
        limit = environment.timeouts.watchdog if limit is None else limit
        began, response, error = environment.now(), None, ""
        running = (method, self.resource)
        environment.in_flight.append(running)
        environment.changed()
        try:
            if self.is_closed:
                raise PluginError(_CLOSED)
            pending = getattr(self._stub, method)(request, timeout=limit)
            try:
                response = await pending
            except asyncio.CancelledError:
                if _current_is_cancelled():
                    raise
                raise PluginError(_CLOSED) from None
            except grpc.aio.AioRpcError as failure:
                if failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    environment.find(findings.of_hang(method, limit))
                raise PluginError(go_error(failure)) from None
        except PluginError as failure:
            error = str(failure)
            raise
        except asyncio.CancelledError:
            error = "cancelled by kubelet"
            raise
        finally:
            environment.in_flight.remove(running)
            seconds = environment.now() - began
            environment.calls.append(
                Call(method, self.resource, request, response, error, began, seconds)
            )
            environment.find(findings.of_duration(method, seconds))
        return response

    async def lists(self) -> AsyncIterator[pb.ListAndWatchResponse]:
        """The messages of one ListAndWatch; ends with the stream. Raises `PluginError`."""
        began = self._environment.now()
        self._environment.calls.append(Call("ListAndWatch", self.resource, None, at=began))
        stream = self._stub.ListAndWatch(pb.Empty())
        try:
            async for message in stream:
                yield message
        except grpc.aio.AioRpcError as failure:
            raise PluginError(go_error(failure)) from None
        except asyncio.CancelledError:
            if _current_is_cancelled():
                raise
            raise PluginError(_CLOSED) from None
        finally:
            stream.cancel()

    async def close(self) -> None:
        """Close the connection; calls that wait end with an error."""
        self.is_closed = True
        await self._channel.close()


def _current_is_cancelled() -> bool:
    """Whether it is the caller that is cancelled, and not the call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
