"""The embedded kubelet itself: registration, lists, admission, container start, restart.

Everything runs on one event loop; time is the injected `clock`, which `advance` moves, so that the
five minutes of grace pass at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2_grpc as rpc
from deviceplugin.testing.kubelet import checkpoint, findings
from deviceplugin.testing.kubelet.names import is_extended_resource
from deviceplugin.testing.kubelet.podresources import PodResourcesService, serve_pod_resources
from deviceplugin.testing.kubelet.pods import (
    Admitted,
    Container,
    ContainerConfig,
    Failed,
    Pod,
    StartError,
    merge,
)

GRACE_SECONDS = 300.0
MAX_MESSAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """One call between kubelet and a plugin; `error` is empty when it succeeded."""

    method: str
    resource: str
    request: object
    response: object = None
    error: str = ""


@dataclass(slots=True)
class _Endpoint:
    """A registered plugin; `stopped` is the clock's time at which its stream ended."""

    resource: str
    socket: str = ""
    channel: grpc.aio.Channel | None = None
    options: pb.DevicePluginOptions = field(default_factory=pb.DevicePluginOptions)
    stopped: float | None = None
    receiver: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """What a container holds of one resource."""

    ids: tuple[str, ...]
    response: bytes


Key = tuple[str, str, str]
"""Pod uid, container, resource."""


class AllocationError(Exception):
    """Why the device manager refuses; the text is kubelet's."""


class EmbeddedKubelet:
    """A kubelet in `directory`, which must be short: sockets' paths have at most 107 bytes.

    `kubelet_version` is (major, minor). `client_race` imitates kubelet up to 1.36, where the end
    of an old stream disconnects whatever is registered under the name (2.12).
    """

    def __init__(
        self,
        directory: Path,
        kubelet_version: tuple[int, int] = (1, 34),
        numa_nodes: int = 1,
        seed: int = 0,
        grace: float = GRACE_SECONDS,
        dial_timeout: float = 10.0,
        rpc_watchdog: float = 30.0,
        client_race: bool = False,
    ) -> None:
        self.plugin_dir = directory / "device-plugins"
        self.pod_resources_socket = directory / "pod-resources" / "kubelet.sock"
        self.kubelet_socket = self.plugin_dir / "kubelet.sock"
        self.version, self.numa_nodes = kubelet_version, numa_nodes
        self.findings: list[str] = []
        self.calls: list[Call] = []
        self.pods: dict[str, Pod] = {}
        self.refuse_registrations = 0
        self.ignore_registrations = False
        """Say yes to Register and never ask for the list."""
        self.records: dict[Key, Record] = {}
        self._random = random.Random(seed)  # noqa: S311 - order of devices, not secrets
        self._grace, self._dial, self._watchdog = grace, dial_timeout, rpc_watchdog
        self._race = client_race
        self._offset = 0.0
        self._endpoints: dict[str, _Endpoint] = {}
        self._devices: dict[str, dict[str, pb.Device]] = {}
        self._healthy: dict[str, set[str]] = {}
        self._unhealthy: dict[str, set[str]] = {}
        self._active: set[str] = set()
        self._running: set[tuple[str, str]] = set()
        self._server: grpc.aio.Server | None = None
        self._pod_resources: grpc.aio.Server | None = None
        self.pod_resources = PodResourcesService(self)
        self._changed = asyncio.Event()

    # --- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the checkpoint, clear the directory of sockets, listen (2.1)."""
        self._load_checkpoint()
        self.plugin_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        for path in self.plugin_dir.iterdir():
            sockets_only = self.version >= (1, 33)
            keep = path.is_dir() or path.name == checkpoint.FILE_NAME
            if path.is_socket() or (not sockets_only and not keep):
                path.unlink()
        self._server = grpc.aio.server()
        rpc.add_RegistrationServicer_to_server(_Registration(self), self._server)
        self._server.add_insecure_port(f"unix:{self.kubelet_socket}")
        await self._server.start()
        self._pod_resources = await serve_pod_resources(
            self.pod_resources_socket, self.pod_resources
        )

    async def stop(self) -> None:
        """Stop serving; plugins see their streams end. Pods and the checkpoint stay."""
        for endpoint in list(self._endpoints.values()):
            await self._drop(endpoint)
        self._endpoints.clear()
        for server in (self._server, self._pod_resources):
            if server is not None:
                await server.stop(0)
        self._server = self._pod_resources = None

    async def restart(self, *, delete_checkpoint: bool = False) -> None:
        """Stop and start; running containers are left alone."""
        await self.stop()
        self._healthy, self._unhealthy, self._devices = {}, {}, {}
        self.records = {}
        if delete_checkpoint:
            (self.plugin_dir / checkpoint.FILE_NAME).unlink(missing_ok=True)
        await self.start()

    def advance(self, seconds: float) -> None:
        """Let time pass for the grace of vanished plugins."""
        self._offset += seconds

    # --- what the node shows --------------------------------------------------------------------

    def capacity(self) -> dict[str, int]:
        """Healthy and unhealthy devices by resource; a plugin gone for five minutes counts 0."""
        return {
            name: 0 if self._expired(name) else len(healthy) + len(self._unhealthy[name])
            for name, healthy in self._healthy.items()
        }

    def allocatable(self) -> dict[str, int]:
        """Healthy devices by resource."""
        return {name: 0 if self._expired(name) else len(ids) for name, ids in self._healthy.items()}

    def device(self, resource: str, identity: str) -> pb.Device:
        """The device as last listed. Raises `KeyError`."""
        return self._devices[resource][identity]

    def devices(self, resource: str) -> dict[str, pb.Device]:
        """The last list of a resource."""
        return dict(self._devices.get(resource, {}))

    async def wait_for(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait until `condition` holds, looking at each change. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self._changed.wait()

    async def wait_registered(self, resource: str, timeout: float = 10.0) -> None:
        """Wait until a plugin is registered and has listed its devices."""
        await self.wait_for(lambda: self.is_watched(resource), timeout)

    def is_watched(self, resource: str) -> bool:
        """Whether a plugin's stream is open and has spoken."""
        endpoint = self._endpoints.get(resource)
        return endpoint is not None and endpoint.stopped is None and resource in self._devices

    # --- registration ---------------------------------------------------------------------------

    async def register(self, request: pb.RegisterRequest, remaining: float | None) -> None:
        """Kubelet's checks in kubelet's order (2.2). Raises `AllocationError` with its texts."""
        if self.refuse_registrations:
            self.refuse_registrations -= 1
            raise AllocationError("refused for the test")
        if request.version != "v1beta1":
            raise AllocationError(
                f'requested API version "{request.version}" is not supported by kubelet. '
                'Supported version is ["v1beta1"]'
            )
        if not is_extended_resource(request.resource_name):
            raise AllocationError(f'the ResourceName "{request.resource_name}" is invalid')
        endpoint = _Endpoint(request.resource_name, request.endpoint)
        limit = min(self._dial, remaining) if remaining and self.version >= (1, 35) else self._dial
        channel = _channel(self.plugin_dir / request.endpoint)
        try:
            async with asyncio.timeout(limit):
                await channel.channel_ready()
        except TimeoutError:
            await channel.close()
            raise AllocationError("failed to dial device plugin: deadline exceeded") from None
        try:
            options = await self._call(
                endpoint, "GetDevicePluginOptions", rpc.DevicePluginStub(channel), pb.Empty()
            )
        except AllocationError as error:
            await channel.close()
            raise AllocationError(f"failed to get device plugin options: {error}") from None
        endpoint.options = options
        endpoint.channel = channel
        self.findings.extend(findings.of_registration(request, options, str(self.plugin_dir)))
        old = self._endpoints.get(endpoint.resource)
        if old is not None and old.stopped is None and not self._race:
            self.findings.append(f"{endpoint.resource} registered while the old stream is open")
        self._endpoints[endpoint.resource] = endpoint
        if not self.ignore_registrations:
            endpoint.receiver = asyncio.create_task(self._receive(endpoint))

    async def _receive(self, endpoint: _Endpoint) -> None:
        assert endpoint.channel is not None
        self.calls.append(Call("ListAndWatch", endpoint.resource, None))
        try:
            async for message in rpc.DevicePluginStub(endpoint.channel).ListAndWatch(pb.Empty()):
                self._take_list(endpoint.resource, message)
        except grpc.aio.AioRpcError as error:
            self.calls.append(Call("ListAndWatch", endpoint.resource, None, error=_go_error(error)))
        finally:
            named = self._endpoints.get(endpoint.resource)
            await self._disconnect(named if self._race and named else endpoint)

    def _take_list(self, resource: str, message: pb.ListAndWatchResponse) -> None:
        self.findings.extend(findings.of_list(message, self.numa_nodes))
        self._devices[resource] = {device.ID: device for device in message.devices}
        self._healthy[resource] = {d.ID for d in message.devices if d.health == "Healthy"}
        self._unhealthy[resource] = {d.ID for d in message.devices if d.health != "Healthy"}
        self._write_checkpoint()
        self._changed.set()

    async def _disconnect(self, endpoint: _Endpoint) -> None:
        """All devices turn unhealthy, the grace begins (2.5)."""
        if endpoint.stopped is not None:
            return
        endpoint.stopped = self._now()
        if self._endpoints.get(endpoint.resource) is endpoint:
            ids = self._healthy.get(endpoint.resource, set())
            self._unhealthy.setdefault(endpoint.resource, set()).update(ids)
            self._healthy[endpoint.resource] = set()
        if endpoint.channel is not None:
            await endpoint.channel.close()
        self._changed.set()

    async def _drop(self, endpoint: _Endpoint) -> None:
        if endpoint.receiver is not None:
            endpoint.receiver.cancel()
            await asyncio.gather(endpoint.receiver, return_exceptions=True)
        if endpoint.channel is not None:
            await endpoint.channel.close()

    # --- admission ------------------------------------------------------------------------------

    async def admit(self, pod: Pod) -> Admitted | Failed:
        """Allocate for every container in order, init containers first (2.6)."""
        self._collect()
        self._active.add(pod.uid)
        self.pods[pod.uid] = pod
        reusable: dict[str, set[str]] = {}
        try:
            for container in pod.containers:
                limits = list(container.limits.items())
                self._random.shuffle(limits)
                for resource, count in limits:
                    await self._allocate(pod, container, resource, count, reusable)
                    held = set(self._ids((pod.uid, container.name, resource)))
                    if container.init and not container.restartable:
                        reusable.setdefault(resource, set()).update(held)
                    else:
                        reusable.get(resource, set()).difference_update(held)
                self._write_checkpoint()
        except AllocationError as error:
            self._active.discard(pod.uid)
            message = f"Allocate failed due to {error}, which is unexpected"
            return Failed(pod, "UnexpectedAdmissionError", message)
        return Admitted(pod)

    async def _allocate(
        self,
        pod: Pod,
        container: Container,
        resource: str,
        count: int,
        reusable: Mapping[str, set[str]],
    ) -> None:
        if resource not in self._healthy and resource not in self._endpoints:
            return
        key = (pod.uid, container.name, resource)
        chosen = await self._choose(key, count, reusable.get(resource, set()))
        if not chosen:
            return
        endpoint = self._endpoints.get(resource)
        if endpoint is None:
            raise AllocationError(f"unknown Device Plugin {resource}")
        if endpoint.stopped is not None:
            raise AllocationError(f"endpoint {resource} has been stopped")
        ids = sorted(chosen)
        self._random.shuffle(ids)
        request = pb.AllocateRequest(
            container_requests=[pb.ContainerAllocateRequest(devices_ids=ids)]
        )
        stub = rpc.DevicePluginStub(_open(endpoint))
        response = await self._call(endpoint, "Allocate", stub, request)
        self.findings.extend(findings.of_allocation(response))
        if not response.container_responses:
            raise AllocationError("no containers return in allocation response")
        missing = chosen - self._devices[resource].keys()
        if missing:
            self.findings.append(f"the list lost {sorted(missing)} during their Allocate")
        answer = response.container_responses[0].SerializeToString()
        self.records[key] = Record(tuple(sorted(chosen)), answer)

    async def _choose(self, key: Key, count: int, reusable: set[str]) -> set[str]:
        """The ids for a container; empty when no call is needed (2.6, steps 1 to 8)."""
        uid, container, resource = key
        needed = count
        recorded = set(self._ids(key))
        if recorded:
            needed -= len(recorded)
            if needed:
                raise AllocationError(
                    f'pod "{uid}" container "{container}" changed request for resource '
                    f'"{resource}" from {len(recorded)} to {count}'
                )
        if (uid, container) in self._running:
            return set()
        if resource not in self._healthy:
            raise AllocationError(f"cannot allocate unregistered device {resource}")
        healthy = self._still_healthy(resource, recorded)
        if not needed:
            return set()
        chosen = set(sorted(reusable & healthy)[:needed])
        if len(chosen) == needed:
            return chosen
        used = {i for (_, _, name), r in self.records.items() if name == resource for i in r.ids}
        available = healthy - used
        if len(available) < needed - len(chosen):
            raise AllocationError(
                f"requested number of devices unavailable for {resource}. "
                f"Requested: {needed - len(chosen)}, Available: {len(available)}"
            )
        preferred = await self._preferred(resource, available | chosen, chosen, needed)
        for identity in [i for i in preferred if i in available] + self._shuffled(available):
            if len(chosen) == needed:
                break
            chosen.add(identity)
        return chosen

    def _still_healthy(self, resource: str, recorded: set[str]) -> set[str]:
        """The healthy ids of a resource of which what is recorded is part."""
        healthy = self._healthy[resource]
        text = f"cannot allocate unhealthy devices {resource}"
        if not healthy:
            raise AllocationError(f"no healthy devices present; {text}")
        if recorded - healthy:
            raise AllocationError(f"previously allocated devices are no longer healthy; {text}")
        return healthy

    async def _preferred(
        self, resource: str, available: set[str], must_include: set[str], size: int
    ) -> Sequence[str]:
        endpoint = self._endpoints.get(resource)
        if (
            endpoint is None
            or endpoint.stopped is not None
            or not endpoint.options.get_preferred_allocation_available
        ):
            return ()
        ask = pb.ContainerPreferredAllocationRequest(
            available_deviceIDs=self._shuffled(available),
            must_include_deviceIDs=self._shuffled(must_include),
            allocation_size=size,
        )
        stub = rpc.DevicePluginStub(_open(endpoint))
        try:
            answer = await self._call(
                endpoint,
                "GetPreferredAllocation",
                stub,
                pb.PreferredAllocationRequest(container_requests=[ask]),
            )
        except AllocationError as error:
            raise AllocationError(
                f"device plugin GetPreferredAllocation rpc failed with err: {error}"
            ) from None
        lists = [list(item.deviceIDs) for item in answer.container_responses]
        self.findings.extend(findings.of_preference(ask, lists))
        return lists[0] if lists else ()

    # --- containers -----------------------------------------------------------------------------

    async def start_container(self, uid: str, name: str) -> ContainerConfig:
        """PreStartContainer, then merge what was allocated (2.8). Raises `StartError`."""
        pod = self.pods[uid]
        container = next(item for item in pod.containers if item.name == name)
        resources = [r for r, count in container.limits.items() if count and r in self._healthy]
        self._random.shuffle(resources)
        responses = []
        for resource in resources:
            key = (uid, name, resource)
            endpoint = self._endpoints.get(resource)
            if endpoint and endpoint.options.pre_start_required and endpoint.stopped is None:
                await self._pre_start(endpoint, key)
            if key not in self.records:
                try:
                    await self._allocate(pod, container, resource, container.limits[resource], {})
                except AllocationError as error:
                    raise StartError(str(error)) from None
            record = self.records[key]
            responses.append(pb.ContainerAllocateResponse.FromString(record.response))
        config, contradictions = merge(responses, container)
        self.findings.extend(contradictions)
        self._running.add((uid, name))
        return config

    async def _pre_start(self, endpoint: _Endpoint, key: Key) -> None:
        ids = self._shuffled(set(self._ids(key)))
        if not ids:
            raise StartError(f"no devices found allocated in local cache for {key}")
        request = pb.PreStartContainerRequest(devices_ids=ids)
        stub = rpc.DevicePluginStub(_open(endpoint))
        try:
            await self._call(endpoint, "PreStartContainer", stub, request)
        except AllocationError as error:
            raise StartError(
                f"device plugin PreStartContainer rpc failed with err: {error}"
            ) from None

    def finish_pod(self, uid: str) -> None:
        """The pod ended; its devices come free at the next look (2.10)."""
        self._active.discard(uid)
        self._running = {item for item in self._running if item[0] != uid}

    def active_pods(self) -> list[Pod]:
        """Pods that hold what they hold; frees the devices of all others."""
        self._collect()
        return [self.pods[uid] for uid in self.pods if uid in self._active]

    def held(self, uid: str, container: str) -> dict[str, tuple[str, ...]]:
        """The ids of a container by resource."""
        return {
            resource: record.ids
            for (owner, name, resource), record in self.records.items()
            if (owner, name) == (uid, container)
        }

    # --- inside ---------------------------------------------------------------------------------

    async def _call(self, endpoint: _Endpoint, method: str, stub: Any, request: Any) -> Any:
        try:
            response = await getattr(stub, method)(request, timeout=self._watchdog)
        except grpc.aio.AioRpcError as error:
            text = _go_error(error)
            self.calls.append(Call(method, endpoint.resource, request, error=text))
            raise AllocationError(text) from None
        self.calls.append(Call(method, endpoint.resource, request, response))
        return response

    def _collect(self) -> None:
        self.records = {k: r for k, r in self.records.items() if k[0] in self._active}

    def _ids(self, key: Key) -> tuple[str, ...]:
        record = self.records.get(key)
        return record.ids if record else ()

    def _shuffled(self, ids: set[str]) -> list[str]:
        ordered = sorted(ids)
        self._random.shuffle(ordered)
        return ordered

    def _expired(self, resource: str) -> bool:
        endpoint = self._endpoints.get(resource)
        stopped = endpoint.stopped if endpoint else None
        return stopped is not None and self._now() - stopped > self._grace

    def _now(self) -> float:
        return time.monotonic() + self._offset

    def _numa(self, resource: str, identity: str) -> str:
        device = self._devices.get(resource, {}).get(identity)
        nodes = device.topology.nodes if device is not None else ()
        return str(nodes[0].ID) if nodes else "-1"

    def _write_checkpoint(self) -> None:
        entries = []
        for (uid, container, resource), record in self.records.items():
            by_node: dict[str, list[str]] = {}
            for identity in record.ids:
                by_node.setdefault(self._numa(resource, identity), []).append(identity)
            ids = {node: tuple(found) for node, found in by_node.items()}
            entries.append(checkpoint.Entry(uid, container, resource, ids, record.response))
        registered = {name: sorted(ids) for name, ids in self._healthy.items()}
        checkpoint.write(self.plugin_dir, checkpoint.Checkpoint(tuple(entries), registered))

    def _load_checkpoint(self) -> None:
        path = self.plugin_dir / checkpoint.FILE_NAME
        if not path.exists():
            return
        try:
            loaded = checkpoint.from_json(path.read_text())
        except checkpoint.CorruptCheckpointError as error:
            self.findings.append(f"corrupt checkpoint: {error}")
            return
        for entry in loaded.entries or ():
            ids = tuple(sorted(i for found in entry.ids.values() for i in found))
            key = (entry.pod_uid, entry.container, entry.resource)
            self.records[key] = Record(ids, entry.response or b"")
        for resource in loaded.registered or {}:
            self._healthy[resource], self._unhealthy[resource] = set(), set()
            self._endpoints[resource] = _Endpoint(resource, stopped=self._now())


class _Registration(rpc.RegistrationServicer):
    def __init__(self, kubelet: EmbeddedKubelet) -> None:
        self._kubelet = kubelet

    async def Register(  # noqa: N802
        self,
        request: pb.RegisterRequest,
        context: grpc.aio.ServicerContext[pb.RegisterRequest, pb.Empty],
    ) -> pb.Empty:
        try:
            await self._kubelet.register(request, context.time_remaining())
        except AllocationError as error:
            text = str(error)
            self._kubelet.calls.append(Call("Register", request.resource_name, request, error=text))
            await context.abort(grpc.StatusCode.UNKNOWN, text)
        self._kubelet.calls.append(Call("Register", request.resource_name, request))
        return pb.Empty()


def _channel(socket: Path) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(
        f"unix:{socket}",
        options=[
            ("grpc.default_authority", "localhost"),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ],
    )


def _open(endpoint: _Endpoint) -> grpc.aio.Channel:
    if endpoint.channel is None:
        raise AllocationError(f"endpoint {endpoint.resource} has been stopped")
    return endpoint.channel


def _go_error(error: grpc.aio.AioRpcError) -> str:
    """The text of a gRPC error as Go prints it."""
    code = "".join(part.capitalize() for part in error.code().name.split("_"))
    return f"rpc error: code = {code} desc = {error.details()}"


@contextlib.asynccontextmanager
async def embedded_kubelet(directory: Path, **options: Any) -> AsyncIterator[EmbeddedKubelet]:
    """A running kubelet, stopped at the end."""
    kubelet = EmbeddedKubelet(directory, **options)
    await kubelet.start()
    try:
        yield kubelet
    finally:
        await kubelet.stop()
