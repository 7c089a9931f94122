"""Choosing devices and Allocate (kubelet-deviceplugin.md 2.6), and container start (2.8)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Set

from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.testing.kubelet import findings, topology
from deviceplugin.testing.kubelet.devices import nodes_of
from deviceplugin.testing.kubelet.ledger import WITHOUT_NODE, Key, Record
from deviceplugin.testing.kubelet.manager import DeviceManager
from deviceplugin.testing.kubelet.plugin import PluginError
from deviceplugin.testing.kubelet.pods import Container, ContainerConfig, Pod, StartError, merge


class AllocationError(Exception):
    """Why the device manager refuses; the text is kubelet's."""


class TopologyError(Exception):
    """The topology policy refuses."""


class _Choice:
    """The ids taken so far for one request; each counts as in use at once."""

    def __init__(self, manager: DeviceManager, resource: str, needed: int) -> None:
        self.ids: set[str] = set()
        self.needed = needed
        self._manager, self._resource = manager, resource

    def take(self, candidates: Iterable[str]) -> bool:
        """Take in random order until enough; whether it is enough now."""
        for identity in self._manager.environment.shuffled(set(candidates) - self.ids):
            self._manager.ledger.use(self._resource, identity)
            self.ids.add(identity)
            self.needed -= 1
            if not self.needed:
                return True
        return False


class Allocator:
    """Serves containers out of one device manager.

    Choosing is one at a time, as in kubelet; calls of Allocate may overlap.
    """

    def __init__(self, manager: DeviceManager) -> None:
        self._manager, self._environment = manager, manager.environment
        self._choosing = asyncio.Lock()
        self._masks: dict[tuple[str, str], topology.Mask | None] = {}

    # --- admission ------------------------------------------------------------------------------

    async def admit(self, pod: Pod) -> None:
        """Align and allocate container by container, init containers first.

        Raises `AllocationError` and `TopologyError`.
        """
        for container in pod.ordered():
            hint, admitted = self._affinity(pod, container)
            if not admitted:
                raise TopologyError(topology.REFUSED)
            self._masks[pod.uid, container.name] = hint.mask
            await self._serve(pod, container)

    def _affinity(self, pod: Pod, container: Container) -> tuple[topology.Hint, bool]:
        environment = self._environment
        machine = range(environment.numa_nodes)
        if environment.policy == "none":
            return topology.merge("none", (), machine)
        self._manager.collect()
        wanted = {r: n for r, n in container.limits.items() if self._manager.is_known(r)}
        offers = [self._hints((pod.uid, container.name, r), n) for r, n in wanted.items()]
        return topology.merge(environment.policy, offers, machine)

    def _hints(self, key: Key, request: int) -> list[topology.Hint] | None:
        """None when the resource does not care, an empty list when nothing would do."""
        uid, _, resource = key
        table, ledger = self._manager.table, self._manager.ledger
        devices = table.nodes(resource)
        if not topology.has_topology(devices):
            return None
        held = ledger.ids(key)
        available = table.healthy.get(resource, set()) - ledger.in_use.get(resource, set())
        reusable = ledger.reusable(uid).get(resource, set())
        if held:
            available, reusable = held, set()
        if len(available | reusable) < request or (held and len(held) != request):
            return []
        return topology.hints(
            devices,
            available,
            reusable,
            request,
            range(self._environment.numa_nodes),
            by_device_nodes=self._environment.behaviour.hints_by_device_nodes,
        )

    async def _serve(self, pod: Pod, container: Container) -> None:
        """Allocate what a container asks for, and see to what its pod may use again (2.9)."""
        ledger = self._manager.ledger
        reusable = ledger.reusable(pod.uid)
        collected = changed = False
        for resource in self._environment.shuffled(container.limits):
            if not self._manager.is_known(resource):
                continue
            if not collected:
                self._manager.collect()
                collected = True
            key = (pod.uid, container.name, resource)
            async with self._choosing:
                chosen = await self._choose(
                    key, container.limits[resource], reusable.get(resource, set())
                )
            if chosen:
                await self._allocate(key, chosen)
                changed = True
        if changed:
            self._save()
        if container.init and not container.restartable:
            ledger.pass_on(pod.uid, container.name)
        else:
            ledger.keep(pod.uid, container.name)

    def _save(self) -> None:
        try:
            self._manager.save()
        except OSError as error:
            raise AllocationError(f"failed to write checkpoint file: {error}") from None

    # --- choosing -------------------------------------------------------------------------------

    async def _choose(self, key: Key, required: int, reusable: Set[str]) -> set[str]:
        """The ids for a container; empty when no call is needed."""
        uid, container, resource = key
        manager = self._manager
        recorded = manager.ledger.ids(key)
        if recorded and len(recorded) != required:
            raise AllocationError(
                f'pod "{uid}" container "{container}" changed request for resource '
                f'"{resource}" from {len(recorded)} to {required}'
            )
        if manager.is_already_running(uid, container):
            return set()
        self._check_health(resource, recorded)
        choice = _Choice(manager, resource, required - len(recorded))
        if not choice.needed or choice.take(reusable):
            return choice.ids
        available = manager.table.healthy[resource] - manager.ledger.in_use.get(resource, set())
        if len(available) < choice.needed:
            raise AllocationError(
                f"requested number of devices unavailable for {resource}. "
                f"Requested: {choice.needed}, Available: {len(available)}"
            )
        await self._fill(choice, key, available, required)
        return choice.ids

    def _check_health(self, resource: str, recorded: set[str]) -> None:
        healthy = self._manager.table.healthy.get(resource)
        if healthy is None:
            raise AllocationError(f"cannot allocate unregistered device {resource}")
        text = f"cannot allocate unhealthy devices {resource}"
        if not healthy:
            raise AllocationError(f"no healthy devices present; {text}")
        if recorded - healthy:
            raise AllocationError(f"previously allocated devices are no longer healthy; {text}")

    async def _fill(self, choice: _Choice, key: Key, available: set[str], required: int) -> None:
        """Aligned devices first; the plugin's preference within what is permitted."""
        uid, container, resource = key
        aligned, unaligned, without = topology.by_affinity(
            available,
            self._manager.table.nodes(resource),
            self._masks.get((uid, container)),
        )
        if choice.needed < len(aligned):
            preferred = await self._prefer(resource, aligned | choice.ids, choice.ids, required)
            enough = choice.take(preferred & aligned) or choice.take(aligned)
        else:
            enough = choice.take(aligned)
            if not enough:
                preferred = await self._prefer(
                    resource, available | choice.ids, choice.ids, required
                )
                enough = (
                    choice.take(preferred & available)
                    or choice.take(unaligned)
                    or choice.take(without)
                )
        if not enough:
            raise AllocationError(
                "unexpectedly allocated less resources than required. "
                f"Requested: {required}, Got: {required - choice.needed}"
            )

    async def _prefer(
        self, resource: str, available: set[str], must_include: set[str], size: int
    ) -> set[str]:
        endpoint = self._manager.registry.endpoints.get(resource)
        if endpoint is None:
            raise AllocationError(
                f"endpoint not found in cache for a registered resource: {resource}"
            )
        if not endpoint.options.get_preferred_allocation_available:
            return set()
        ask = pb.ContainerPreferredAllocationRequest(
            available_deviceIDs=self._environment.shuffled(available),
            must_include_deviceIDs=self._environment.shuffled(must_include),
            allocation_size=size,
        )
        try:
            answer = await endpoint.call(
                "GetPreferredAllocation", pb.PreferredAllocationRequest(container_requests=[ask])
            )
        except PluginError as error:
            raise AllocationError(
                f"device plugin GetPreferredAllocation rpc failed with err: {error}"
            ) from None
        lists = [list(item.deviceIDs) for item in answer.container_responses]
        self._environment.find(findings.of_preference(ask, lists))
        return set(lists[0]) if lists else set()

    # --- calling --------------------------------------------------------------------------------

    async def _allocate(self, key: Key, chosen: set[str]) -> None:
        """One Allocate for one container and resource, and its record."""
        resource, ledger = key[2], self._manager.ledger
        ids = self._environment.shuffled(chosen)
        try:
            response = await self.call_allocate(resource, [ids])
        except (PluginError, AllocationError, asyncio.CancelledError) as error:
            ledger.rebuild()
            if isinstance(error, PluginError):
                raise AllocationError(str(error)) from None
            raise
        if not response.container_responses:
            raise AllocationError("no containers return in allocation response ")
        listed = self._manager.table.listed.get(resource, {})
        by_node: dict[int, list[str]] = {}
        for identity in ids:
            nodes = nodes_of(listed[identity]) if identity in listed else ()
            for node in nodes or (WITHOUT_NODE,):
                by_node.setdefault(node, []).append(identity)
        ledger.records[key] = Record(
            {node: tuple(found) for node, found in by_node.items()},
            response.container_responses[0].SerializeToString(),
        )

    async def call_allocate(
        self, resource: str, containers: Iterable[Iterable[str]]
    ) -> pb.AllocateResponse:
        """Allocate as it stands, with findings and without a record.

        Raises `PluginError` and, when no plugin was ever there, `AllocationError`.
        """
        endpoint = self._manager.registry.endpoints.get(resource)
        if endpoint is None:
            raise AllocationError(f"unknown Device Plugin {resource}")
        table = self._manager.table
        listed = set(table.listed.get(resource, {}))
        healthy = set(table.healthy.get(resource, ()))
        request = pb.AllocateRequest(
            container_requests=[pb.ContainerAllocateRequest(devices_ids=ids) for ids in containers]
        )
        response: pb.AllocateResponse = await endpoint.call("Allocate", request)
        self._environment.find(findings.of_allocation(request, response, listed, healthy))
        return response

    # --- container start ------------------------------------------------------------------------

    async def start(self, pod: Pod, container: Container) -> ContainerConfig:
        """PreStartContainer and what was allocated, merged (2.8). Raises `StartError`."""
        ledger = self._manager.ledger
        missing = False
        for resource in self._environment.shuffled(container.limits):
            if not container.limits[resource] or not self._manager.is_known(resource):
                continue
            key = (pod.uid, container.name, resource)
            await self._pre_start(key)
            if self._manager.is_active(pod.uid) and not ledger.ids(key):
                missing = True
        if missing:
            try:
                await self._serve(pod, container)
            except AllocationError as error:
                raise StartError(str(error)) from None
        records = ledger.of_container(pod.uid, container.name)
        responses = [
            pb.ContainerAllocateResponse.FromString(records[resource].response)
            for resource in self._environment.shuffled(records)
        ]
        config, contradictions = merge(
            responses, container, cdi_devices=self._environment.behaviour.cdi_devices
        )
        self._environment.find(
            findings.of_contradiction(kind, name) for kind, name in contradictions
        )
        return config

    async def _pre_start(self, key: Key) -> None:
        uid, container, resource = key
        endpoint = self._manager.registry.endpoints.get(resource)
        if endpoint is None:
            raise StartError(f"endpoint not found in cache for a registered resource: {resource}")
        if not endpoint.options.pre_start_required:
            return
        ids = self._environment.shuffled(self._manager.ledger.ids(key))
        if not ids:
            raise StartError(
                f"no devices found allocated in local cache for pod {uid}, container {container}, "
                f"resource {resource}"
            )
        try:
            await endpoint.call(
                "PreStartContainer",
                pb.PreStartContainerRequest(devices_ids=ids),
                self._environment.timeouts.pre_start,
            )
        except PluginError as error:
            raise StartError(
                f"device plugin PreStartContainer rpc failed with err: {error}"
            ) from None
