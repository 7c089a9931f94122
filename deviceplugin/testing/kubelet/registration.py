"""Registration of plugins and their streams (kubelet-deviceplugin.md 2.2, 2.5, 2.12)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2_grpc as rpc
from deviceplugin.testing.kubelet import findings
from deviceplugin.testing.kubelet.devices import DeviceTable
from deviceplugin.testing.kubelet.environment import Call, Environment
from deviceplugin.testing.kubelet.names import is_extended_resource
from deviceplugin.testing.kubelet.plugin import Plugin, PluginError

API_VERSION = "v1beta1"


@dataclass(slots=True)
class Endpoint:
    """Who is asked for a resource; `stopped` is the clock's time at which its stream ended."""

    resource: str
    plugin: Plugin | None = None
    options: pb.DevicePluginOptions = field(default_factory=pb.DevicePluginOptions)
    stopped: float | None = None

    async def call(self, method: str, request: Any, limit: float | None = None) -> Any:
        """A unary call. Raises `PluginError`, also when the plugin is gone."""
        if self.plugin is None or self.stopped is not None:
            raise PluginError(f"endpoint {self.resource} has been stopped")
        return await self.plugin.call(method, request, limit)


class Registry:
    """The clients and endpoints of one run of kubelet.

    Up to 1.36 clients are known by resource alone: a failed registration erases the entry of the
    plugin that serves, and the end of an old stream disconnects whoever is registered now.
    """

    def __init__(
        self, environment: Environment, table: DeviceTable, save: Callable[[], None]
    ) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self.received: Counter[str] = Counter()
        """Lists that came on the present stream of each resource."""
        self._environment, self._table, self._save = environment, table, save
        self._clients: dict[tuple[str, Path | None], Plugin] = {}
        self._plugins: list[Plugin] = []
        self._receivers: dict[Plugin, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def remember(self, resource: str) -> None:
        """A resource of the checkpoint: known, and stopped until its plugin registers."""
        self._table.know(resource)
        self.endpoints[resource] = Endpoint(resource, stopped=self._environment.now())

    def is_open(self, resource: str) -> bool:
        """Whether a plugin is connected."""
        endpoint = self.endpoints.get(resource)
        return endpoint is not None and endpoint.plugin is not None and endpoint.stopped is None

    def has_expired(self, resource: str) -> bool:
        """Whether the plugin of a resource stayed away for longer than the grace."""
        endpoint = self.endpoints.get(resource)
        if endpoint is None or endpoint.stopped is None:
            return False
        return self._environment.now() - endpoint.stopped > self._environment.timeouts.grace

    # --- registration ---------------------------------------------------------------------------

    async def register(self, request: pb.RegisterRequest, remaining: float | None) -> None:
        """Kubelet's checks in kubelet's order. Raises `PluginError` with its texts."""
        faults = self._environment.faults
        await asyncio.sleep(faults.register_delay)
        while faults.hang_registrations:  # noqa: ASYNC110 - a plain knob that tests turn
            await asyncio.sleep(0.02)
        if faults.refuse_registrations:
            faults.refuse_registrations -= 1
            raise PluginError("refused for the test")
        check(request.resource_name, [request.version])
        directory = self._environment.plugin_dir
        self._environment.find(findings.of_endpoint(request.endpoint, str(directory)))
        connecting = asyncio.create_task(
            self.connect(request.resource_name, directory / request.endpoint, remaining)
        )
        self._watch_over(connecting)
        if self._environment.behaviour.register_bounds_dial:
            options = await connecting
        else:
            options = await asyncio.shield(connecting)
        self._environment.find(findings.of_options(request, options))

    async def connect(
        self, resource: str, socket: Path, remaining: float | None = None
    ) -> pb.DevicePluginOptions:
        """Dial a plugin, ask for its options, and begin to read its lists. Raises `PluginError`."""
        environment, timeouts = self._environment, self._environment.timeouts
        bound = remaining if environment.behaviour.register_bounds_dial else None
        plugin = Plugin(environment, resource, socket)
        key = self._key(plugin)
        if environment.race == "fixed" and key in self._clients:
            await plugin.close()
            raise PluginError(f"{resource} is already registered at {socket}")
        self._clients[key] = plugin
        self._plugins.append(plugin)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await plugin.dial(timeouts.dial if bound is None else min(timeouts.dial, bound))
            left = None if bound is None else max(0.0, bound - (loop.time() - began))
            options = await _options(plugin, left)
        except (PluginError, asyncio.CancelledError):
            self._clients.pop(key, None)
            await plugin.close()
            raise
        if self.is_open(resource) and not environment.takeovers:
            environment.find(findings.of_takeover(resource))
        self.endpoints[resource] = Endpoint(resource, plugin, options)
        self.received[resource] = 0
        if not environment.faults.ignore_registrations:
            self._read_lists(plugin)
        environment.changed()
        return options

    async def deregister(self, resource: str, socket: Path) -> None:
        """Disconnect a plugin whose socket left the watched directory."""
        for (name, path), plugin in list(self._clients.items()):
            if name == resource and path in (None, socket):
                del self._clients[name, path]
                await self._disconnect(plugin)

    async def drop(self, resource: str) -> None:
        """Close the connection to a plugin. Raises `KeyError` when there is none."""
        plugin = self.endpoints[resource].plugin
        if plugin is None:
            raise KeyError(resource)
        self._clients.pop(self._key(plugin), None)
        await self._disconnect(plugin)

    async def swap_stream(self, resource: str) -> None:
        """Cancel the stream of a resource and open another. Raises `KeyError`."""
        plugin = self.endpoints[resource].plugin
        if plugin is None:
            raise KeyError(resource)
        await self._stop_reading(plugin)
        self._read_lists(plugin)

    async def close(self) -> None:
        """Kubelet ends: every connection is closed."""
        for plugin in self._plugins:
            await self._stop_reading(plugin)
            await plugin.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- lists ----------------------------------------------------------------------------------

    def _read_lists(self, plugin: Plugin) -> None:
        self.received[plugin.resource] = 0
        task = asyncio.create_task(self._receive(plugin))
        self._receivers[plugin] = task
        self._watch_over(task)

    async def _stop_reading(self, plugin: Plugin) -> None:
        task = self._receivers.pop(plugin, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _receive(self, plugin: Plugin) -> None:
        environment = self._environment
        pace = findings.ListPace(environment.now())
        end = "EOF"
        try:
            async for message in plugin.lists():
                environment.find(pace.of_message(message, environment.now()))
                self._take(plugin.resource, message)
        except PluginError as error:
            end = str(error)
        environment.calls.append(
            Call("ListAndWatch", plugin.resource, None, error=end, at=environment.now())
        )
        await self._ended(plugin)

    def _take(self, resource: str, message: pb.ListAndWatchResponse) -> None:
        environment = self._environment
        environment.find(findings.of_list(message, environment.numa_nodes))
        if ("Allocate", resource) in environment.in_flight:
            before = self._table.listed.get(resource, {}).keys()
            environment.find(
                findings.of_lists("Allocate", before, {device.ID for device in message.devices})
            )
        self._table.take(resource, message)
        self.received[resource] += 1
        # Kubelet only logs it when a list's checkpoint cannot be written.
        with contextlib.suppress(OSError):
            self._save()
        environment.changed()

    # --- ends -----------------------------------------------------------------------------------

    async def _ended(self, plugin: Plugin) -> None:
        wanted = plugin.is_closed
        client = self._clients.pop(self._key(plugin), None)
        if client is not None:
            await self._disconnect(client)
        if not wanted:
            self._spawn(self._look_after(plugin))

    async def _disconnect(self, plugin: Plugin) -> None:
        """All devices turn unhealthy and the grace begins."""
        endpoint = self.endpoints.get(plugin.resource)
        if endpoint is not None and endpoint.plugin is plugin:
            self._table.lose(plugin.resource)
            endpoint.stopped = self._environment.now()
        await plugin.close()
        self._environment.changed()

    async def _look_after(self, plugin: Plugin) -> None:
        """What a plugin leaves when its stream has ended by itself (rules 13 and 14)."""
        await asyncio.sleep(self._environment.timeouts.settle)
        if not plugin.socket.is_socket():
            return
        if not await _listens(plugin.socket):
            text = f"{plugin.socket.name} lies there and nobody listens"
            self._environment.find([findings.Finding(14, text)])
        elif not self.is_open(plugin.resource):
            text = f"the stream of {plugin.resource} ended while its plugin goes on serving"
            self._environment.find([findings.Finding(13, text)])

    # --- inside ---------------------------------------------------------------------------------

    def _key(self, plugin: Plugin) -> tuple[str, Path | None]:
        by_path = self._environment.race == "fixed"
        return plugin.resource, plugin.socket if by_path else None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._watch_over(asyncio.create_task(work))

    def _watch_over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def check(resource: str, versions: list[str]) -> None:
    """Whether kubelet takes a plugin with these versions and name. Raises `PluginError`."""
    if API_VERSION not in versions:
        raise PluginError(
            f'requested API version "{versions[0] if versions else ""}" is not supported by '
            f'kubelet. Supported version is ["{API_VERSION}"]'
        )
    if not is_extended_resource(resource):
        raise PluginError(f'the ResourceName "{resource}" is invalid')


async def _options(plugin: Plugin, limit: float | None) -> pb.DevicePluginOptions:
    try:
        options: pb.DevicePluginOptions = await plugin.call(
            "GetDevicePluginOptions", pb.Empty(), limit
        )
    except PluginError as error:
        raise PluginError(f"failed to get device plugin options: {error}") from None
    return options


async def _listens(socket: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(socket)
    except OSError:
        return False
    writer.close()
    return True


class RegistrationService(rpc.RegistrationServicer):
    """Registration on kubelet's own socket."""

    def __init__(self, environment: Environment, registry: Registry) -> None:
        self._environment, self._registry = environment, registry

    async def Register(  # noqa: N802
        self,
        request: pb.RegisterRequest,
        context: grpc.aio.ServicerContext[pb.RegisterRequest, pb.Empty],
    ) -> pb.Empty:
        """Every refusal reaches the plugin as UNKNOWN with kubelet's text."""
        environment, name = self._environment, request.resource_name
        began = environment.now()
        try:
            await self._registry.register(request, context.time_remaining())
        except PluginError as error:
            environment.calls.append(
                Call("Register", name, request, None, str(error), began, environment.now() - began)
            )
            await context.abort(grpc.StatusCode.UNKNOWN, str(error))
        environment.calls.append(
            Call("Register", name, request, pb.Empty(), "", began, environment.now() - began)
        )
        return pb.Empty()
