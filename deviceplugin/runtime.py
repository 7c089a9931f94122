"""One vendor on this node: lock, probe, devices, resources. Nothing here knows another vendor.

*probe → split → advertise → allocate → inject*: a snapshot from the probe changes the inventory,
the inventory and the plan make one table a resource, each table is published to a server, and the
server's allocator decides from it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from deviceplugin import formersplits, health, splitting, vendorlocks
from deviceplugin.allocation.allocator import ResourceAllocator, Surroundings
from deviceplugin.allocation.identity import allocation_id
from deviceplugin.cdi import Spec
from deviceplugin.kubelet.checkpoint import Checkpoint
from deviceplugin.kubelet.podresources import Holding
from deviceplugin.kubelet.resource import Resource
from deviceplugin.kubelet.server import ResourceServer
from deviceplugin.kubelet.service import Allocator
from deviceplugin.metrics import Metrics
from deviceplugin.notices import Notice, Tell, nobody
from deviceplugin.probe.supervisor import (
    DriverAbsent,
    HealthSeen,
    Probe,
    ProbeEvent,
    ProbeFailed,
    SnapshotSeen,
    UsageSeen,
    UsageUnknown,
)
from deviceplugin.probe.supervisor import Timing as ProbeTiming
from deviceplugin.readiness import Readiness
from deviceplugin.refusal import RefusalError
from deviceplugin.registry import load_scheduling
from deviceplugin.tidying import Named, Tidying, holders, unlisted
from deviceplugin.usage import Usages
from deviceplugin.vendor import (
    DriverError,
    Grant,
    InventoryWriter,
    NodeAnnotator,
    NodeBackend,
    NodeDevice,
    Owner,
    PhysicalDevice,
    Planner,
    Registrar,
    ResourcePlan,
    Safeguarded,
    Snapshot,
    Tidier,
    Usage,
    UsageReader,
    Vendor,
    VendorSettings,
)

if TYPE_CHECKING:
    from deviceplugin.scheduled.registration import Offer
    from deviceplugin.secondary import Secondary

LOCK_POLL_SECONDS = 1.0
IMPEDIMENT_POLL_SECONDS = 5.0
PARTITION_SECONDS = 90.0
"""For one hard partition. Kubelet gives up after 30 s and asks again; the answer is the same."""


@dataclass(frozen=True, slots=True)
class NodePlaces:
    """Where this node's shared things are; `kubelet_socket` None means: do not register."""

    plugin_dir: Path
    kubelet_socket: Path | None
    run_dir: Path


@dataclass(slots=True)
class _Served:
    """One resource that is being served."""

    resource: Resource
    allocator: ResourceAllocator
    server: ResourceServer
    task: asyncio.Task[None]


class VendorRuntime:
    """Runs one vendor until cancelled; a failure stays inside, with its reason."""

    def __init__(
        self,
        vendor: Vendor,
        settings: VendorSettings,
        backend: NodeBackend,
        around: Surroundings,
        places: NodePlaces,
        timing: ProbeTiming,
        policy: health.HealthPolicy,
        metrics: Metrics,
        readiness: Readiness,
        former: Mapping[str, splitting.Table] | None = None,
        announce: Callable[[str, Offer | None], None] | None = None,
        tell: Tell = nobody,
    ) -> None:
        """`former` are the tables of the configuration before: what is held of them is kept.
        `announce` is told what each resource has to offer to schedulers, where there are any;
        `tell` what people should hear of.
        """
        self.name = vendor.name
        self._vendor, self._backend, self._around = vendor, backend, around
        self._places, self._policy = places, policy
        self._metrics, self._readiness = metrics, readiness
        self._former = dict(former or {})
        self._announce, self._tell = announce, tell
        if not isinstance(backend, UsageReader):
            timing = replace(timing, usage=0.0)
        self._probe = Probe(vendor, settings, timing, self._probed)
        self._reads_usage = timing.usage > 0
        self._usages = Usages(timing.usage + timing.deadline, self._usage_unknown)
        self._usage_told = ""
        self._inventory = health.Inventory()
        self.serves = False
        """Whether this is the agent that serves the vendor on this node, and not one that waits."""
        self._specs: Sequence[Spec] = ()
        self._served: dict[str, _Served] = {}
        self._told = ""
        self._impediments: dict[str, str] = {}
        self._unfinished = True
        """Whether the last attempt to publish left something undone."""
        self._holdings: tuple[Holding, ...] | None = None
        self._remembered: dict[str, Mapping[str, splitting.VirtualDevice]] = {}
        self._checkpoint = Checkpoint(places.plugin_dir)
        self._tidying = Tidying()
        self._secondary = self._counting(settings) if around.counted else None
        self._log = structlog.get_logger().bind(vendor=vendor.name)

    @property
    def inventory(self) -> health.Inventory:
        """What is known of the devices."""
        return self._inventory

    @property
    def usage(self) -> Mapping[str, Usage]:
        """How busy devices are, by uuid; one of which nothing is known is not there. From any
        thread.
        """
        return self._usages.newest

    @property
    def word(self) -> str:
        """What schedulers call this vendor's devices, empty where none knows them. From any
        thread.
        """
        served = tuple(self._served.values())
        words = (one.allocator.plan.keys.common_word for one in served if one.allocator.plan.keys)
        return next(words, "")

    @property
    def cooperative(self) -> frozenset[str]:
        """The resources whose limits hold only by co-operation. From any thread."""
        served = tuple(self._served.items())
        return frozenset(n for n, one in served if one.allocator.plan.split.sharing.cooperative)

    def tables(self) -> dict[str, splitting.Table]:
        """The last table of every resource that was served."""
        return self._former | {n: served.resource.table for n, served in self._served.items()}

    async def run(self) -> None:
        """Serve until cancelled; sockets are gone when this ends, and what was said of them."""
        try:
            with await self._lock():
                self.serves = True
                await self._run()
        finally:
            self.serves = False
            self._readiness.clear(self.name)

    async def _run(self) -> None:
        self._unfinished = True
        await self._recall()
        self._readiness.block(self.name, "the driver has not answered yet")
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._probe.run())
                if isinstance(self._backend, Safeguarded):
                    tasks.create_task(self._watch_impediments())
        finally:
            self._usages.forget()
            ended, self._former = [*self._served.values()], self.tables()
            self._served.clear()
            for served in ended:
                served.task.cancel()
            await asyncio.gather(*(served.task for served in ended), return_exceptions=True)
            for served in ended:
                self._forget(served.resource.name)
            if self._secondary is not None:
                await self._secondary.close()
            self._readiness.clear(self._offering)

    def directory_changed(self) -> None:
        """Something happened in kubelet's directory: let every server look."""
        for served in self._served.values():
            served.server.changed.set()
        if self._secondary is not None:
            self._secondary.directory_changed()

    def held(self) -> Iterator[tuple[Holding, str, Sequence[Grant]]]:
        """Who held what of this vendor at the last look, the allocation's name, and its share."""
        for name, served in tuple(self._served.items()):
            table = served.resource.table
            for item in self._holdings or ():
                if item.resource == name and item.ids <= table.virtual.keys():
                    share = splitting.grants(table, sorted(item.ids))
                    yield item, served.allocator.name_of(item.ids), share

    async def holdings_seen(self, holdings: Sequence[Holding]) -> None:
        """Kubelet's word on who holds what: drop what nobody holds, restore what is missing."""
        self._holdings = tuple(holdings)
        await self._adopt(holdings)
        if self._around.strategy.cdi:
            await self._reconcile_specs(holdings)
        self._retire()
        await self._remember()
        await self._tidy(holdings)

    @property
    def unsettled(self) -> bool:
        """Whether ids wait for the next look at who holds what."""
        return any(served.resource.table.withheld for served in self._served.values())

    async def _adopt(self, holdings: Sequence[Holding]) -> None:
        """What was handed over before us is known from here on."""
        for served in list(self._served.values()):
            ours = (held for held in holdings if held.resource == served.resource.name)
            for held in ours:
                if await served.allocator.adopt(sorted(held.ids), holdings):
                    self._metrics.adopted.labels(held.resource).inc()
                    self._log.info(
                        "adopted a grant", pod=f"{held.namespace}/{held.pod}", to=held.container
                    )

    async def _lock(self) -> TextIO:
        """Hold the node's lock for this vendor; wait while another agent has it."""
        path = vendorlocks.lock_file(self._places.run_dir, self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    reason = f"another agent on this node serves {self.name} (lock {path})"
                    self._readiness.block(self.name, reason)
                    self._log.warning("waiting for another agent to stop", lock=str(path))
                    told = True
                await asyncio.sleep(LOCK_POLL_SECONDS)
            else:
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
                return file

    async def _probed(self, event: ProbeEvent) -> None:
        """Take one event of the probe in; never raises."""
        self._take_usage(event)
        if not isinstance(event, UsageSeen | UsageUnknown):
            await self._observe(event)

    def _take_usage(self, event: ProbeEvent) -> None:
        """Figures for people: they touch neither the inventory nor what is served."""
        match event:
            case UsageSeen(usages):
                self._usages.seen(usages)
                self._usage_told = ""
            case UsageUnknown(reason):
                self._usages.unknown(reason)
            case SnapshotSeen() if self._reads_usage:
                self._usages.expect()
            case DriverAbsent() | ProbeFailed():
                self._usages.forget()

    async def _observe(self, event: SnapshotSeen | HealthSeen | DriverAbsent | ProbeFailed) -> None:
        """What a driver says of its devices, or that it says nothing."""
        now = asyncio.get_running_loop().time()
        before = self._inventory
        match event:
            case SnapshotSeen(snapshot):
                self._inventory = health.observe(before, snapshot, now, self._policy)
                self._readiness.clear(self.name)
                for problem in self._inventory.problems:
                    if problem not in before.problems:
                        self._log.warning("left out", reason=problem)
                        self._tell(Notice.DEVICE_LEFT_OUT, f"{self.name}: {problem}")
            case HealthSeen(happened):
                self._inventory = health.observe_event(before, happened, now)
            case DriverAbsent(reason):
                self._readiness.block(self.name, f"no driver: {reason}")
                self._log.info("no driver on this node", reason=reason)
                self._inventory = health.observe(before, Snapshot(), now, self._policy)
            case ProbeFailed(cause, reason):
                self._metrics.probe_failures.labels(self.name, cause).inc()
                self._metrics.probe_restarts.labels(self.name).inc(cause != "error")
                self._readiness.block(self.name, f"probe failed: {reason}")
                self._log.warning("probe failed", cause=cause, reason=reason)
                self._inventory = health.observe_failure(before, reason, now, self._policy)
        if self._inventory != before:
            self._tell_changes(before)
        if self._inventory != before or self._unfinished:
            await self._publish()

    def _usage_unknown(self, reason: str) -> None:
        self._metrics.vendor_errors.labels(self.name, "usage").inc()
        if reason != self._usage_told:  # it is tried again soon
            self._usage_told = reason
            self._log.warning("how busy devices are is unknown", reason=reason)

    def _tell_changes(self, before: health.Inventory) -> None:
        for state, number in health.counts(self._inventory.devices.values()).items():
            self._metrics.devices.labels(self.name, state).set(number)
        for uuid, device in self._inventory.devices.items():
            old = before.devices.get(uuid)
            if old is None:
                self._log.info("device found", device=uuid, model=device.device.model)
            if (old.state if old else health.State.HEALTHY) is not device.state:
                self._log.warning(
                    "device health changed",
                    device=uuid,
                    state=device.state.value,
                    reason=device.reason,
                )
            self._tell_health(old, device)
        for uuid in before.devices.keys() - self._inventory.devices.keys():
            self._log.warning("device forgotten", device=uuid)
            self._tell(
                Notice.DEVICE_FORGOTTEN,
                f"{self.name} device {uuid} left the node: its driver has not listed it for "
                f"{self._policy.forget:.0f} s",
                uuid,
            )

    def _tell_health(self, old: health.TrackedDevice | None, new: health.TrackedDevice) -> None:
        """Only what changes for containers: one who is suspected is still handed out, and one who
        recovers not yet.
        """
        device = new.device
        what = f"{self.name} device {device.uuid} ({device.model})"
        before = old.state if old else health.State.HEALTHY
        if new.state is health.State.UNHEALTHY and before is not new.state:
            message = f"{what} is unhealthy and not handed out: {new.reason}"
            self._tell(Notice.DEVICE_UNHEALTHY, message, device.uuid)
        elif new.state is health.State.HEALTHY and not before.usable:
            message = f"{what} is healthy again and handed out"
            self._tell(Notice.DEVICE_RECOVERED, message, device.uuid)

    def _unsound(self, call: str, reason: str) -> None:
        """A call of the vendor's code failed for one container."""
        self._metrics.vendor_errors.labels(self.name, call).inc()
        self._log.error("the vendor's code failed", call=call, reason=reason)

    @property
    def _offering(self) -> str:
        """The name under which readiness says why devices cannot be offered."""
        return f"{self.name} devices"

    def _failed(self, call: str, error: Exception) -> None:
        """Something of the vendor's own failed: nobody else is stopped by it."""
        mine = isinstance(error, (ValueError, OSError))  # their texts are written for people
        reason = str(error) if mine else f"{call} failed: {type(error).__name__}: {error}"
        self._unfinished = True
        self._metrics.vendor_errors.labels(self.name, call).inc()
        self._readiness.block(self._offering, reason)
        if reason != self._told:  # it is tried again at every probe
            self._told = reason
            self._log.error(
                "devices cannot be offered", call=call, reason=reason, exc_info=not mine
            )

    async def _publish(self) -> None:
        """Bring servers, lists and CDI specifications in line with the inventory. What cannot be
        done is told and tried again after the next probe; what is served already is served on.
        """
        self._unfinished = False
        snapshot = self._inventory.snapshot()
        try:
            plans = self._plans(snapshot)
        except Exception as error:
            self._failed("plan", error)
            plans = [served.allocator.plan for served in self._served.values()]
        described = True
        if self._around.strategy.cdi and isinstance(self._backend, InventoryWriter):
            try:
                await self._write_inventory(self._backend, snapshot)
            except Exception as error:
                self._failed("cdi_specs", error)
                described = False
        for name in self._served.keys() - {plan.resource for plan in plans}:
            await self._withdraw(name)
        for plan in plans:
            if not described and plan.resource not in self._served:
                continue
            try:
                await self._bring(plan, snapshot)
            except Exception as error:
                self._failed(plan.resource, error)
        self._count_amounts(plans, snapshot)
        await self._remember()
        if not self._unfinished:
            self._told = ""
            self._readiness.clear(self._offering)

    async def _bring(self, plan: ResourcePlan, snapshot: Snapshot) -> None:
        """Serve a resource, or show its list of now."""
        served = self._served.get(plan.resource)
        former = served.resource.table if served else self._former.get(plan.resource)
        table = self._table(plan, snapshot, _surplus(former, plan))
        impediment = await self._impediment(plan)
        if served is None:
            self._serve(plan, table, impediment)
            if self._announce is not None and plan.keys is None:
                # legitimate (MIG instances of `mixed`), and easily not what was meant
                self._log.warning(
                    "no scheduler hears of this resource",
                    resource=plan.resource,
                    reason="its devices are not divided into shares; kubelet hands them out",
                    remedy="set the vendor's split (nvidia.deviceSplitCount, for example)",
                )
        else:
            served.allocator.plan = plan
            served.allocator.inventory = self._specs
            served.resource.publish(table, impediment)
        self._count(self._served[plan.resource].resource)
        self._offer(plan, table)

    def _table(
        self,
        plan: ResourcePlan,
        snapshot: Snapshot,
        former: Mapping[str, splitting.VirtualDevice],
    ) -> splitting.Table:
        """The list of now, with the ids of former splits that have to stay."""
        table = splitting.split(plan, snapshot, former)
        if self._announce is not None and plan.keys is not None:
            return table  # schedulers decide on shares, and ids are only counted
        return splitting.withhold(
            table, plan.split, self._held(plan.resource), tuple(self._elsewhere(plan))
        )

    def _elsewhere(self, plan: ResourcePlan) -> Iterator[splitting.VirtualDevice]:
        """What containers hold of the plan's devices by the name of a resource that is served no
        more, as after it was renamed.
        """
        for name, table in self._former.items():
            if name == plan.resource or name in self._served:
                continue
            held = self._held(name)
            for item in table.virtual.values():
                if item.uuid in plan.devices and (held is None or item.id in held):
                    yield item

    def _held(self, resource: str) -> set[str] | None:
        """The ids that containers held at the last look; None before the first."""
        if self._holdings is None:
            return None
        return {i for item in self._holdings if item.resource == resource for i in item.ids}

    def _offer(self, plan: ResourcePlan, table: splitting.Table) -> None:
        if self._announce is None:
            return
        from deviceplugin.scheduled.registration import offer

        annotations = None
        snapshot = self._inventory.snapshot()
        devices = self._registered(plan, snapshot)
        if isinstance(self._backend, NodeAnnotator) and plan.keys is not None:
            annotations = self._backend.node_annotations(plan, snapshot)
        found = offer(plan, table, devices, scored=self._around.scored, annotations=annotations)
        self._announce(plan.resource, found)

    def _count_amounts(self, plans: Sequence[ResourcePlan], snapshot: Snapshot) -> None:
        if self._secondary is None:
            return
        try:
            self._secondary.show((plan, self._registered(plan, snapshot)) for plan in plans)
        except Exception as error:
            self._failed("secondary resources", error)

    def _registered(self, plan: ResourcePlan, snapshot: Snapshot) -> Sequence[NodeDevice]:
        """The devices of a resource as schedulers count them; none where they know it not."""
        if plan.keys is None:
            return ()
        if isinstance(self._backend, Registrar):
            return self._backend.registered(plan, snapshot)
        from deviceplugin.scheduled.registration import described

        return described(plan, splitting.split(plan, snapshot))

    def _counting(self, settings: VendorSettings) -> Secondary:
        """What counts memory and cores; the vendor's scheduling half says their names and units."""
        from deviceplugin.secondary import Secondary

        def server(resource: Resource, allocator: Allocator) -> ResourceServer:
            places = self._places
            return ResourceServer(
                resource,
                allocator,
                self._metrics,
                self._readiness,
                places.plugin_dir,
                places.kubelet_socket,
            )

        return Secondary(server, lambda: load_scheduling(self._vendor, settings.section))

    def _plans(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        if not isinstance(self._backend, Planner):
            uuids = tuple(device.uuid for device in snapshot.devices)
            return (ResourcePlan(self._vendor.resource, uuids),) if uuids else ()
        plans = tuple(self._backend.plan(snapshot))
        for plan in plans:
            if not isinstance(plan, ResourcePlan):
                raise TypeError(f"plan() gave a {type(plan).__name__} among its resources")
        names = [plan.resource for plan in plans]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{', '.join(sorted(twice))} is planned twice")
        return plans

    async def _write_inventory(self, backend: InventoryWriter, snapshot: Snapshot) -> None:
        self._specs = await asyncio.to_thread(backend.cdi_specs, snapshot)
        await asyncio.to_thread(self._around.store.put_inventory, self.name, self._specs)

    def _serve(self, plan: ResourcePlan, table: splitting.Table, impediment: str) -> None:
        resource = Resource(plan.resource, table, impediment)
        allocator = ResourceAllocator(
            self.name, self._backend, plan, resource, self._around, self, self._unsound
        )
        allocator.inventory = self._specs
        server = ResourceServer(
            resource,
            allocator,
            self._metrics,
            self._readiness,
            self._places.plugin_dir,
            self._places.kubelet_socket,
        )
        task = asyncio.create_task(server.run(), name=plan.resource)
        self._served[plan.resource] = _Served(resource, allocator, server, task)

    async def make(self, owner: Owner, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """A hard partition, made in the probe; the devices are looked at again after it.

        Raises `DriverError`.
        """
        self._tidying.asked(owner, asyncio.get_running_loop().time())
        answer = await self._probe.command("partition", request, PARTITION_SECONDS)
        await self._probe.discover()
        return answer

    async def describe(self, device: PhysicalDevice) -> None:
        """Have the CDI inventory name a partition before the next discovery does. Raises `OSError`
        and `ValueError`.
        """
        if not (self._around.strategy.cdi and isinstance(self._backend, InventoryWriter)):
            return
        snapshot = self._inventory.snapshot()
        if snapshot.device(device.uuid) is None:
            snapshot = replace(snapshot, devices=(*snapshot.devices, device))
        await self._write_inventory(self._backend, snapshot)
        for served in self._served.values():
            served.allocator.inventory = self._specs

    async def _withdraw(self, name: str) -> None:
        served = self._served.pop(name)
        self._former[name] = served.resource.table
        served.task.cancel()
        await asyncio.gather(served.task, return_exceptions=True)
        self._forget(name)
        if self._announce is not None:
            self._announce(name, None)
        self._log.info("resource withdrawn", resource=name)

    def _forget(self, name: str) -> None:
        """Nothing is said any more of a resource that is not served."""
        self._readiness.clear(name)
        self._readiness.clear(f"{name} impediment")
        self._metrics.forget_resource(name)

    async def _impediment(self, plan: ResourcePlan) -> str:
        if not isinstance(self._backend, Safeguarded):
            return ""
        try:
            reason = await asyncio.to_thread(self._backend.impediment, plan)
        except Exception as error:
            self._metrics.vendor_errors.labels(self.name, "impediment").inc()
            reason = f"what it depends on cannot be checked: {type(error).__name__}: {error}"
        self._metrics.impediment.labels(plan.resource).set(bool(reason))
        self._tell_impediment(plan.resource, reason)
        if reason:
            self._readiness.block(f"{plan.resource} impediment", reason)
        else:
            self._readiness.clear(f"{plan.resource} impediment")
        return reason

    def _tell_impediment(self, resource: str, reason: str) -> None:
        if reason == self._impediments.get(resource, ""):
            return
        self._impediments[resource] = reason
        if reason:
            message = f"{resource} is not handed out: {reason}"
            self._tell(Notice.ISOLATION_IMPEDED, message)
        else:
            self._tell(Notice.ISOLATION_POSSIBLE, f"{resource} is handed out again")

    async def _watch_impediments(self) -> None:
        while True:
            await asyncio.sleep(IMPEDIMENT_POLL_SECONDS)
            for served in list(self._served.values()):
                name = served.resource.name
                reason = await self._impediment(served.allocator.plan)
                if self._served.get(name) is not served:
                    self._forget(name)
                elif reason != served.resource.impediment:
                    self._log.warning("impediment changed", resource=name, reason=reason or "none")
                    served.resource.publish(served.resource.table, reason)
                    self._count(served.resource)

    async def _reconcile_specs(self, holdings: Sequence[Holding]) -> None:
        """Our files are exactly what kubelet's allocations need."""
        keep: set[str] = set()
        for served in list(self._served.values()):
            for held in holdings:
                if held.resource != served.resource.name:
                    continue
                keep.add(served.allocator.name_of(held.ids))
                pod = f"{held.namespace}/{held.pod}"
                try:
                    if await served.allocator.restore(sorted(held.ids)):
                        self._log.info("restored a CDI specification", pod=pod)
                except RefusalError as refusal:
                    self._log.warning("cannot restore", pod=pod, reason=str(refusal))
        entries = await asyncio.to_thread(self._checkpoint.entries) or ()
        for entry in unlisted(entries, holdings):
            if (mine := self._served.get(entry.resource)) is not None:
                keep.add(mine.allocator.name_of(entry.ids))
        removed = await asyncio.to_thread(self._around.store.sweep, self.name, keep)
        if removed:
            self._log.info("removed CDI specifications of ended containers", count=len(removed))

    async def _tidy(self, holdings: Sequence[Holding]) -> None:
        """Partitions go once their containers have been gone for a while. Containers outlive their
        driver's answers: who holds devices that are not served now is a holder too, and while
        nothing is served, nobody can be told.
        """
        if not isinstance(self._backend, Tidier) or not self._served:
            return
        entries = await asyncio.to_thread(self._checkpoint.entries) or ()
        names: dict[str, tuple[Named, Named]] = {
            name: (partial(allocation_id, name), lambda _: "") for name in self._former
        }
        for name, served in self._served.items():
            names[name] = (served.allocator.name_of, served.allocator.devices_of)
        now = asyncio.get_running_loop().time()
        self._tidying.seen(holders(holdings, entries, names), now)
        held = self._tidying.due(now)
        if held is None:
            return
        try:
            # The probe does one thing after the other: who asks after `due` is served after this.
            answer = await self._probe.command("tidy", {"held": held}, PARTITION_SECONDS)
        except DriverError as error:
            self._unsound("tidy", str(error))
            return
        self._tidying.done(held)
        removed = [str(what)[:200] for what in answer.get("removed", ())]
        for what in removed:
            self._log.info("tidied", removed=what)
        if removed:
            message = f"{self.name}: removed {', '.join(removed)}, whose containers are gone"
            self._tell(Notice.PARTITIONS_REMOVED, message)

    def _retire(self) -> None:
        """Ids of a former split leave the list once nobody holds them. They were not handed out any
        more since the look before this one, so none of them is on its way into a container.
        """
        snapshot = self._inventory.snapshot()
        for name, served in self._served.items():
            table, plan = served.resource.table, served.allocator.plan
            former, held = _surplus(table, plan), self._held(name) or set()
            if not former and not table.withheld:
                continue
            waited = table.withheld.keys() if self._announce is None else former.keys()
            kept = {i: item for i, item in former.items() if i in held or i not in waited}
            served.resource.publish(self._table(plan, snapshot, kept), served.resource.impediment)
            self._count(served.resource)
            if len(kept) < len(former):
                self._log.info(
                    "ids of a former split are free", resource=name, still_held=len(kept)
                )

    async def _recall(self) -> None:
        """What the agent before us knew of ids that may still be held."""
        if self._former:
            return
        try:
            self._former = await asyncio.to_thread(formersplits.load, self._splits_file)
        except (OSError, ValueError) as error:
            self._log.warning("former splits are unknown", reason=str(error))

    async def _remember(self) -> None:
        """Whoever comes after us has to know what the ids that are held stand for."""
        tables = {
            name: table
            for name, table in self.tables().items()
            if name in self._served or self._held(name) is None or self._held(name)
        }
        virtual = {name: table.virtual for name, table in tables.items()}
        if virtual == self._remembered:
            return
        try:
            await asyncio.to_thread(formersplits.save, self._splits_file, tables)
            self._remembered = virtual
        except OSError as error:
            self._log.warning("splits cannot be remembered", reason=str(error))

    @property
    def _splits_file(self) -> Path:
        return self._places.run_dir / f"{self.name}{formersplits.SUFFIX}"

    def _count(self, resource: Resource) -> None:
        healthy = sum(d.health == "Healthy" for d in resource.message.devices)
        gauge = self._metrics.virtual_devices
        gauge.labels(resource.name, "healthy").set(healthy)
        gauge.labels(resource.name, "unhealthy").set(len(resource.message.devices) - healthy)


def _surplus(
    former: splitting.Table | None, plan: ResourcePlan
) -> Mapping[str, splitting.VirtualDevice]:
    """The virtual devices that the plan's own split would not make."""
    if former is None:
        return MappingProxyType({})
    return {identity: item for identity, item in former.virtual.items() if item.split != plan.split}
