"""Registration by a watched directory (kubelet-deviceplugin.md 1.3)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from deviceplugin.api.kubelet.pluginregistration_v1 import pluginregistration_pb2 as pb
from deviceplugin.api.kubelet.pluginregistration_v1 import pluginregistration_pb2_grpc as rpc
from deviceplugin.testing.kubelet import registration
from deviceplugin.testing.kubelet.environment import Call, Environment
from deviceplugin.testing.kubelet.plugin import PluginError, channel, go_error, ready

DEVICE_PLUGIN = "DevicePlugin"
LEFT_ALONE = ("CSIPlugin", "DRAPlugin")
"""Types that kubelet serves and this one has no part in."""

_FIRST_BACK_OFF, _LONGEST_BACK_OFF = 0.5, 128.0


@dataclass(slots=True)
class _Found:
    """A socket in the directory; `inode` tells a new one of the same name."""

    inode: int
    registered: tuple[str, Path] | None = None
    is_done: bool = False
    wait: float = _FIRST_BACK_OFF
    due: float = 0.0


class PluginWatcher:
    """Looks through the directory and its sub-directories, and registers what it finds."""

    def __init__(self, environment: Environment, registry: registration.Registry) -> None:
        self._environment, self._registry = environment, registry
        self._found: dict[Path, _Found] = {}

    async def run(self) -> None:
        """Until cancelled: reconcile at the interval of the time-outs."""
        while True:
            await self._reconcile()
            await asyncio.sleep(self._environment.timeouts.reconcile)

    async def _reconcile(self) -> None:
        present = {
            path: path.stat().st_ino
            for path in self._environment.registry_dir.rglob("*")
            if not path.name.startswith(".") and path.is_socket()
        }
        for path, found in list(self._found.items()):
            if present.get(path) != found.inode:
                del self._found[path]
                if found.registered is not None:
                    await self._registry.deregister(*found.registered)
        for path, inode in present.items():
            found = self._found.setdefault(path, _Found(inode))
            if not found.is_done and self._environment.now() >= found.due:
                await self._try(path, found)

    async def _try(self, path: Path, found: _Found) -> None:
        try:
            found.registered = await self._register(path)
            found.is_done = True
        except PluginError as error:
            now = self._environment.now()
            self._environment.calls.append(
                Call("RegisterPlugin", str(path), None, error=str(error), at=now)
            )
            found.due, found.wait = now + found.wait, min(found.wait * 2, _LONGEST_BACK_OFF)

    async def _register(self, path: Path) -> tuple[str, Path] | None:
        """Resource and endpoint of the plugin; None for types that are left alone."""
        connection = channel(path, self._environment.max_message)
        try:
            return await self._negotiate(path, connection)
        finally:
            await connection.close()

    async def _negotiate(self, path: Path, connection: grpc.aio.Channel) -> tuple[str, Path] | None:
        timeouts, stub = self._environment.timeouts, rpc.RegistrationStub(connection)
        try:
            await ready(connection, timeouts.dial)
        except TimeoutError:
            raise PluginError(f"dial failed at socket {path}") from None
        try:
            info: pb.PluginInfo = await stub.GetInfo(pb.InfoRequest(), timeout=timeouts.info)
        except grpc.aio.AioRpcError as error:
            raise PluginError(f"failed to get plugin info: {go_error(error)}") from None
        if info.type in LEFT_ALONE:
            return None
        endpoint = Path(info.endpoint) if info.endpoint else path
        try:
            if info.type != DEVICE_PLUGIN:
                raise PluginError(f"no handler registered for plugin type: {info.type}")
            registration.check(info.name, list(info.supported_versions))
            await self._registry.connect(info.name, endpoint)
        except PluginError as error:
            await self._notify(stub, registered=False, text=f"RegisterPlugin error -- {error}")
            raise
        try:
            await self._notify(stub, registered=True)
        except PluginError:
            await self._registry.deregister(info.name, endpoint)
            raise
        return info.name, endpoint

    async def _notify(
        self, stub: rpc.RegistrationAsyncStub, *, registered: bool, text: str = ""
    ) -> None:
        status = pb.RegistrationStatus(plugin_registered=registered, error=text)
        try:
            await stub.NotifyRegistrationStatus(status, timeout=self._environment.timeouts.notify)
        except grpc.aio.AioRpcError as error:
            raise PluginError(f"{text}: {go_error(error)}") from None
