"""The embedded kubelet: its life, its pods, and what its node shows.

Everything runs on one event loop; time is the given `clock`, which `advance` moves, so that the
five minutes of grace pass at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import grpc.aio

from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2_grpc as rpc
from deviceplugin.testing.kubelet import checkpoint
from deviceplugin.testing.kubelet.allocation import AllocationError, Allocator, TopologyError
from deviceplugin.testing.kubelet.devices import nodes_of
from deviceplugin.testing.kubelet.environment import (
    MAX_MESSAGE_BYTES,
    Call,
    Environment,
    Faults,
    Timeouts,
)
from deviceplugin.testing.kubelet.findings import Finding
from deviceplugin.testing.kubelet.ledger import Key, Record
from deviceplugin.testing.kubelet.manager import DeviceManager
from deviceplugin.testing.kubelet.pluginwatch import PluginWatcher
from deviceplugin.testing.kubelet.podbook import PodBook
from deviceplugin.testing.kubelet.podresources import PodResourcesService, serve_pod_resources
from deviceplugin.testing.kubelet.pods import (
    Admitted,
    ContainerConfig,
    Failed,
    Pod,
    PodStatus,
    misfit,
)
from deviceplugin.testing.kubelet.probes import probe_stream
from deviceplugin.testing.kubelet.registration import RegistrationService
from deviceplugin.testing.kubelet.topology import Policy
from deviceplugin.testing.kubelet.versions import Behaviour


class EmbeddedKubelet:
    """A kubelet in `directory`, which must be short: sockets' paths have at most 107 bytes.

    `kubelet_version` is (major, minor) and `gates` sets feature gates by name. `client_race` says
    whether the end of an old stream disconnects whatever is registered under the name ("legacy") or
    that plugin alone ("fixed"); without it the version decides. `takeovers` tells that a second
    registration under an open stream is wanted. Times are seconds.

    `faults`, `timeouts` and `pod_resources` may be changed at any time. Raises `ValueError` for a
    version or gate that is not modelled.
    """

    def __init__(
        self,
        directory: Path,
        kubelet_version: tuple[int, int] = (1, 34),
        numa_nodes: int = 1,
        seed: int = 0,
        grace: float = 300.0,
        dial_timeout: float = 10.0,
        rpc_watchdog: float = 30.0,
        client_race: Literal["legacy", "fixed"] | None = None,
        *,
        topology_policy: Policy = "none",
        gates: Mapping[str, bool] | None = None,
        takeovers: bool = False,
        prestart_timeout: float = 30.0,
        settle: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        max_message: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self.plugin_dir = directory / "device-plugins"
        self.registry_dir = directory / "plugins_registry"
        self.kubelet_socket = self.plugin_dir / "kubelet.sock"
        self.pod_resources_socket = directory / "pod-resources" / "kubelet.sock"
        self.version, self.numa_nodes = kubelet_version, numa_nodes
        behaviour = Behaviour.of(kubelet_version, gates)
        self._changed = asyncio.Event()
        self._environment = Environment(
            self.plugin_dir,
            self.registry_dir,
            behaviour,
            client_race or ("fixed" if behaviour.clients_by_path else "legacy"),
            topology_policy,
            numa_nodes,
            Timeouts(grace, dial_timeout, prestart_timeout, rpc_watchdog, settle=settle),
            random.Random(seed),  # noqa: S311 - order of devices, not secrets
            clock,
            max_message,
            takeovers,
            changed=self._changed.set,
        )
        self.pod_resources = PodResourcesService(self)
        self._book = PodBook()
        self._vanished: set[str] = set()
        self._server: grpc.aio.Server | None = None
        self._pod_resources: grpc.aio.Server | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._boot(frozenset())

    def _boot(self, already_running: frozenset[tuple[str, str]]) -> None:
        self._manager = DeviceManager(self._environment, self._book.active, already_running)
        self._allocator = Allocator(self._manager)

    # --- what a test reads and sets -------------------------------------------------------------

    @property
    def pods(self) -> dict[str, Pod]:
        """Every pod that was not deleted, by uid, in the order of creation."""
        return self._book.pods

    @property
    def findings(self) -> list[Finding]:
        """What plugins did that kubelet would tolerate and should not have to."""
        return self._environment.findings

    @property
    def calls(self) -> list[Call]:
        """Every call between kubelet and plugins, in the order of their ends; a ListAndWatch stands
        there when it begins, and with an error when it ends.
        """
        return self._environment.calls

    @property
    def faults(self) -> Faults:
        """What kubelet is told to do wrong."""
        return self._environment.faults

    @property
    def timeouts(self) -> Timeouts:
        """Limits and intervals."""
        return self._environment.timeouts

    @property
    def refuse_registrations(self) -> int:
        """`Faults.refuse_registrations`."""
        return self.faults.refuse_registrations

    @refuse_registrations.setter
    def refuse_registrations(self, count: int) -> None:
        self.faults.refuse_registrations = count

    @property
    def ignore_registrations(self) -> bool:
        """`Faults.ignore_registrations`."""
        return self.faults.ignore_registrations

    @ignore_registrations.setter
    def ignore_registrations(self, value: bool) -> None:
        self.faults.ignore_registrations = value

    @property
    def records(self) -> dict[Key, Record]:
        """What containers hold, by pod uid, container and resource."""
        return self._manager.ledger.records

    def checkpoint(self) -> checkpoint.Checkpoint | None:
        """The checkpoint as it lies on disk. Raises `CorruptCheckpointError`."""
        return checkpoint.read(self.plugin_dir)

    # --- life ---------------------------------------------------------------------------------

    async def start(
        self, *, readmit: bool = True, wipe_all_files: bool | None = None
    ) -> dict[str, Admitted | Failed]:
        """Read the checkpoint, clear the directory, listen, and take up the node's pods (2.1).

        Pods that had not ended are admitted again before any plugin can have registered; the
        results are by uid. Without `readmit` that waits for a call of `readmit`. `wipe_all_files`
        overrides what the version removes.
        """
        self._boot(frozenset(self._book.running))
        self._manager.load()
        self.plugin_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._wipe(not self._environment.behaviour.wipes_sockets_only, wipe_all_files)
        self._server = grpc.aio.server()
        service = RegistrationService(self._environment, self._manager.registry)
        rpc.add_RegistrationServicer_to_server(service, self._server)
        self._server.add_insecure_port(f"unix:{self.kubelet_socket}")
        results = await self.readmit() if readmit else {}
        await self._server.start()
        self._pod_resources = await serve_pod_resources(
            self.pod_resources_socket, self.pod_resources
        )
        self.registry_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        watcher = PluginWatcher(self._environment, self._manager.registry)
        self._watcher = asyncio.create_task(watcher.run())
        return results

    def _wipe(self, by_version: bool, asked: bool | None) -> None:
        every_file = by_version if asked is None else asked
        for path in self.plugin_dir.iterdir():
            keep = path.is_dir() or path.name == checkpoint.FILE_NAME
            if path.is_socket() or (every_file and not keep):
                path.unlink()

    async def readmit(self) -> dict[str, Admitted | Failed]:
        """Admit the pods that had not ended when kubelet stopped; from then on all are known."""
        results = {pod.uid: await self.admit(pod) for pod in self._book.active_pods()}
        self._manager.sources_ready = True
        return results

    async def stop(self) -> None:
        """Stop serving; plugins see their streams end. Pods and the checkpoint stay."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self._manager.registry.close()
        for server in (self._server, self._pod_resources):
            if server is not None:
                await server.stop(0)
        self._server = self._pod_resources = self._watcher = None

    async def restart(
        self,
        *,
        wipe_all_files: bool | None = None,
        delete_checkpoint: bool = False,
        corrupt_checkpoint: bool = False,
        readmit: bool = True,
    ) -> dict[str, Admitted | Failed]:
        """Stop and start; running containers are left alone."""
        await self.stop()
        path = self.plugin_dir / checkpoint.FILE_NAME
        if delete_checkpoint:
            path.unlink(missing_ok=True)
        if corrupt_checkpoint:
            path.write_text(path.read_text()[:-2] + "x}" if path.exists() else "x")
        return await self.start(readmit=readmit, wipe_all_files=wipe_all_files)

    async def reboot(
        self,
        *,
        volatile: Iterable[Path] = (),
        delete_checkpoint: bool = False,
        readmit: bool = True,
    ) -> dict[str, Admitted | Failed]:
        """The node restarts: no container runs any more and `volatile` directories, such as those
        below /run, are empty. Plugins are the caller's to end and start.
        """
        await self.stop()
        self._book.running.clear()
        for directory in volatile:
            for path in directory.iterdir() if directory.is_dir() else ():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if delete_checkpoint:
            (self.plugin_dir / checkpoint.FILE_NAME).unlink(missing_ok=True)
        return await self.start(readmit=readmit)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._environment.offset += seconds

    # --- what the node shows --------------------------------------------------------------------

    def capacity(self) -> dict[str, int]:
        """Healthy and unhealthy devices by resource; a plugin gone for five minutes counts 0."""
        return {name: capacity for name, (capacity, _) in self._amounts().items()}

    def allocatable(self) -> dict[str, int]:
        """Healthy devices by resource."""
        return {name: allocatable for name, (_, allocatable) in self._amounts().items()}

    def node_patch(self) -> dict[str, dict[str, str]]:
        """Capacity and allocatable as in the Node object; a dropped resource keeps its key."""
        return {
            "capacity": {name: str(n) for name, n in self.capacity().items()},
            "allocatable": {name: str(n) for name, n in self.allocatable().items()},
        }

    def _amounts(self) -> dict[str, tuple[int, int]]:
        self._vanished |= self._manager.drop_expired()
        return {**dict.fromkeys(sorted(self._vanished), (0, 0)), **self._manager.table.amounts()}

    def device(self, resource: str, identity: str) -> pb.Device:
        """The device as last listed. Raises `KeyError`."""
        return self._manager.table.listed[resource][identity]

    def devices(self, resource: str) -> dict[str, pb.Device]:
        """The last list of a resource."""
        return dict(self._manager.table.listed.get(resource, {}))

    # --- waiting --------------------------------------------------------------------------------

    async def wait_for(self, condition: Callable[[], object], timeout: float = 10.0) -> None:
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

    async def wait_devices(
        self,
        resource: str,
        condition: Callable[[dict[str, pb.Device]], object],
        timeout: float = 10.0,
    ) -> None:
        """Wait until the list of a resource is as wanted."""
        await self.wait_for(lambda: condition(self.devices(resource)), timeout)

    async def wait_departed(self, timeout: float = 10.0) -> None:
        """Wait until kubelet knows of every plugin that left: whose socket's file is gone.

        Until then a resource still looks watched, with the list of the plugin that is no more.
        """
        registry = self._manager.registry
        await self.wait_for(
            lambda: all(
                endpoint.plugin is None
                or endpoint.plugin.socket.exists()
                or not registry.is_open(resource)
                for resource, endpoint in registry.endpoints.items()
            ),
            timeout,
        )

    def is_watched(self, resource: str) -> bool:
        """Whether a plugin's stream is open and has spoken."""
        registry = self._manager.registry
        return registry.is_open(resource) and registry.received[resource] > 0

    def in_flight(self, method: str) -> int:
        """How many calls of a method wait for their answer."""
        return sum(name == method for name, _ in self._environment.in_flight)

    # --- pods -----------------------------------------------------------------------------------

    async def admit(self, pod: Pod) -> Admitted | Failed:
        """Allocate for every container in order, then look whether the pod fits (2.6)."""
        self._book.enter(pod)
        try:
            await self._allocator.admit(pod)
        except AllocationError as error:
            return self._fail(
                pod,
                "UnexpectedAdmissionError",
                f"Allocate failed due to {error}, which is unexpected",
            )
        except TopologyError as error:
            return self._fail(pod, "TopologyAffinityError", str(error))
        except asyncio.CancelledError:
            self._fail(pod, "Cancelled", "kubelet gave the admission up")
            raise
        for reason, message in self._node_check(pod):
            return self._fail(pod, reason, message)
        return Admitted(pod)

    def _fail(self, pod: Pod, reason: str, message: str) -> Failed:
        self._book.fail(pod, reason, message)
        return Failed(pod, reason, message)

    def _node_check(self, pod: Pod) -> Iterator[tuple[str, str]]:
        """Reason and message of a refusal that comes after Allocate.

        For a pod that holds devices the node counts at least what is in use.
        """
        if self.faults.refuse_after_allocation:
            self.faults.refuse_after_allocation -= 1
            yield "NodeAffinity", "refused for the test"
        allocatable = self.allocatable()
        if any(uid == pod.uid for uid, _, _ in self.records):
            for resource, ids in self._manager.ledger.in_use.items():
                allocatable[resource] = max(allocatable.get(resource, 0), len(ids))
        others = [other for other in self._book.active_pods() if other.uid != pod.uid]
        yield from misfit(pod, others, allocatable)

    async def start_container(self, uid: str, name: str) -> ContainerConfig:
        """PreStartContainer, then merge what was allocated (2.8). Ordinary init containers before
        it have ended. Raises `StartError`, after which kubelet tries again, and `KeyError`.
        """
        pod = self.pods[uid]
        container = pod.container(name)
        config = await self._allocator.start(pod, container)
        self._book.start(pod, container)
        return config

    async def restart_container(self, uid: str, name: str) -> ContainerConfig:
        """The container ends and is started again in the same pod (2.9). Raises `StartError`."""
        self._book.running.discard((uid, name))
        return await self.start_container(uid, name)

    async def start_pod(self, uid: str) -> dict[str, ContainerConfig]:
        """Start every container in order. Raises `StartError`."""
        return {
            container.name: await self.start_container(uid, container.name)
            for container in self.pods[uid].ordered()
        }

    def finish_pod(self, uid: str) -> None:
        """The pod ended well; its devices come free at the next look (2.10)."""
        self._book.finish(uid)

    def delete_pod(self, uid: str) -> None:
        """The pod is gone from the API; its devices come free at the next look."""
        self._book.delete(uid)

    def pod_status(self, uid: str) -> PodStatus:
        """What the API shows. Raises `KeyError`."""
        status = self._book.status(uid)
        if not self._environment.behaviour.resource_health:
            return status
        health = {
            container.name: {
                resource: {identity: self._health(resource, identity) for identity in record.ids}
                for resource, record in self.container_records(uid, container.name).items()
            }
            for container in self.pods[uid].containers
            if not container.init
        }
        return PodStatus(status.phase, status.reason, status.message, health)

    def _health(self, resource: str, identity: str) -> str:
        """By the last list; a device that is not in it reads healthy (2.11)."""
        device = self._manager.table.listed.get(resource, {}).get(identity)
        return "Healthy" if device is None or device.health == "Healthy" else "Unhealthy"

    def held(self, uid: str, container: str) -> dict[str, tuple[str, ...]]:
        """The ids of a container by resource."""
        records = self.container_records(uid, container)
        return {resource: record.ids for resource, record in records.items()}

    # --- what PodResources asks -------------------------------------------------------------------

    def listed_pods(self) -> list[Pod]:
        """Frees what ended pods held, and names the pods that List shows."""
        self._manager.collect()
        if self._environment.behaviour.lists_active_only:
            return self._book.active_pods()
        return list(self.pods.values())

    def pod_by_name(self, namespace: str, name: str) -> Pod | None:
        """Any pod of that name, the newest first."""
        return self._book.named(namespace, name)

    def container_records(self, uid: str, container: str) -> dict[str, Record]:
        """What a container holds, by resource."""
        return self._manager.ledger.of_container(uid, container)

    def healthy_devices(self) -> Iterator[tuple[str, str, tuple[int, ...] | None]]:
        """Resource, id and NUMA nodes of every healthy device; None without a topology."""
        table = self._manager.table
        for resource, healthy in table.healthy.items():
            for identity, device in table.listed.get(resource, {}).items():
                if identity in healthy:
                    has_topology = device.HasField("topology")
                    yield resource, identity, nodes_of(device) if has_topology else None

    @property
    def has_get(self) -> bool:
        """Whether PodResources serves Get."""
        return self._environment.behaviour.pod_resources_get

    # --- probing a plugin -------------------------------------------------------------------------

    async def allocate(self, resource: str, *containers: Iterable[str]) -> pb.AllocateResponse:
        """Call Allocate with the ids of each container as they stand, without a pod or a record.

        Raises `PluginError` with the plugin's refusal, `AllocationError` without a plugin.
        """
        return await self._allocator.call_allocate(resource, containers)

    async def drop_stream(self, resource: str) -> None:
        """Close the connection to a plugin. Raises `KeyError` when none is connected."""
        await self._manager.registry.drop(resource)

    async def probe_stream(
        self,
        resource: str,
        change: Callable[[], Awaitable[object]],
        timeout: float = 5.0,
        quiet: float = 0.5,
    ) -> None:
        """Cancel the stream, open another, `change` a device, and look for one update (rule 13).

        Raises `KeyError` when no plugin is connected.
        """
        self._environment.find(
            await probe_stream(
                self._manager, resource, change, self.wait_for, timeout=timeout, quiet=quiet
            )
        )


@contextlib.asynccontextmanager
async def embedded_kubelet(directory: Path, **options: Any) -> AsyncIterator[EmbeddedKubelet]:
    """A running kubelet, stopped at the end."""
    kubelet = EmbeddedKubelet(directory, **options)
    await kubelet.start()
    try:
        yield kubelet
    finally:
        await kubelet.stop()
