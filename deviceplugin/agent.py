"""The node agent: every vendor of the node under one roof, each on its own.

`Agent.run` is the whole life: start a runtime for each vendor that is present, watch kubelet's and
the CDI directory, ask kubelet now and then who holds what, and take a new configuration in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from deviceplugin import observed, registry, vendorlocks
from deviceplugin.allocation.allocator import Surroundings
from deviceplugin.allocation.deferred import GrantSource, ShareOfIds
from deviceplugin.allocation.modes import Mode
from deviceplugin.allocation.standalone import Standalone
from deviceplugin.cdi import sweep_temporaries
from deviceplugin.config import Config, settings_of
from deviceplugin.directorywatch import DirectoryWatch
from deviceplugin.health import HealthPolicy
from deviceplugin.injection.render import Strategy
from deviceplugin.injection.store import MANIFEST_FILE, SpecStore
from deviceplugin.kubelet.podresources import PodResources, PodResourcesError
from deviceplugin.leaving import Leaving
from deviceplugin.metrics import Metrics
from deviceplugin.monitor import Monitor, MonitoredContainer, Settings
from deviceplugin.notices import nobody
from deviceplugin.probe.supervisor import Timing as ProbeTiming
from deviceplugin.readiness import Readiness
from deviceplugin.runtime import NodePlaces, VendorRuntime
from deviceplugin.series import Names
from deviceplugin.splitting import Table
from deviceplugin.vendor import ResourcePlan, Vendor

if TYPE_CHECKING:  # a node that no scheduler knows of does without these rooms
    from deviceplugin.apiserver.client import Api
    from deviceplugin.scheduled.announcer import Announcer
    from deviceplugin.scheduled.node import ScheduledNode

RECONCILE_SECONDS = float(os.environ.get("DEVICEPLUGIN_RECONCILE_SECONDS", "30"))
"""Between two questions to kubelet who holds what."""

FIRST_RECONCILE_SECONDS = 3.0
"""After the start, so that what others handed over before us is known soon."""

PRESENCE_SECONDS = 60.0
"""Between two looks for drivers that came later."""

RESTART_FIRST_SECONDS, RESTART_MOST_SECONDS = 1.0, 60.0
"""Before a part that failed starts again; doubles until it has held for the longest wait."""


class Agent:
    """All vendors of one node. `found` says which modules exist; see `registry.load`."""

    def __init__(
        self,
        config: Config,
        found: registry.Registry,
        metrics: Metrics | None = None,
        grant_source: Callable[[Config], GrantSource] = lambda _: ShareOfIds(),
        reconcile: float = RECONCILE_SECONDS,
        api: Callable[[], Api] | None = None,
    ) -> None:
        self.config = config
        self.metrics = metrics or Metrics()
        self.readiness = Readiness(self.metrics)
        self.runtimes: dict[str, VendorRuntime] = {}
        self.scheduled: ScheduledNode | None = None
        """What scheduled allocation knows of this node; None in standalone modes."""
        self.announcer: Announcer | None = None
        self._monitor: Monitor | None = None
        self._found, self._grant_source, self._reconcile = found, grant_source, reconcile
        self._api = api
        self._new_config = asyncio.Event()
        self._log = structlog.get_logger()

    def apply(self, config: Config) -> None:
        """Serve by another configuration; what runs goes on with what it has."""
        self.config = config
        self._new_config.set()

    async def run(self) -> None:
        """Serve until cancelled. Every life serves one configuration."""
        for broken in self._found.broken:
            self._log.error("vendor left out", vendor=broken.name, reason=broken.reason)
        former: dict[str, dict[str, Table]] = {}
        while True:
            self._new_config.clear()
            life = asyncio.create_task(self._live(self.config, former))
            changed = asyncio.create_task(self._new_config.wait())
            try:
                await asyncio.wait({life, changed}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                former |= {name: runtime.tables() for name, runtime in self.runtimes.items()}
                changed.cancel()
                life.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await life

    async def _live(self, config: Config, former: Mapping[str, Mapping[str, Table]]) -> None:
        """Serve one configuration; sockets are gone when this ends."""
        self.runtimes = {}
        pod_resources = PodResources(Path(config.paths.pod_resources_socket))
        self.scheduled = self.announcer = None
        if config.allocation.startswith("scheduled"):
            self.scheduled, self.announcer = self._join(config, pod_resources)
        around = self._surroundings(config, pod_resources)
        leaving = Leaving(Path(config.paths.run_dir))
        with contextlib.suppress(OSError):
            await asyncio.to_thread(leaving.forget)
        if config.uses_cdi:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(sweep_temporaries, around.store.directory)
        try:
            async with asyncio.TaskGroup() as tasks:
                parts: dict[str, Callable[[], Awaitable[None]]] = {
                    "directory watch": lambda: self._watch_directories(config, around),
                    "reconciliation": lambda: self._ask_kubelet(pod_resources),
                }
                if (monitor := self._start_monitor(config)) is not None:
                    parts["monitor"] = monitor.run
                if self.scheduled and self.announcer:
                    parts["API server"] = self.scheduled.run
                    parts["node registration"] = self.announcer.run
                    parts["events"] = self.scheduled.events.run
                for name, part in parts.items():
                    tasks.create_task(self._supervise(name, part), name=name)
                begun: set[str] = set()
                while True:
                    present = await asyncio.to_thread(self._present, config)
                    for name in present.keys() - begun:
                        begun.add(name)
                        serve = partial(
                            self._serve, present[name], config, around, former.get(name)
                        )
                        tasks.create_task(self._supervise(name, serve), name=name)
                    await asyncio.sleep(PRESENCE_SECONDS)
        finally:
            if self._monitor is not None:
                self.metrics.registry.unregister(self._monitor)
                self._monitor = None
            for name in {*self._found.vendors, *config.vendors}:
                self.readiness.clear(name)
            with contextlib.suppress(OSError):
                leaving.forget()
            await pod_resources.close()

    def _start_monitor(self, config: Config) -> Monitor | None:
        """The monitor, known to the metrics, where it is wanted."""
        if not config.monitor.enabled:
            return None
        root = Path(config.paths.host_root) / config.paths.hook_path.lstrip("/")
        self._monitor = Monitor(
            root / "vgpu" / "containers",
            lambda: observed.containers(tuple(self.runtimes.values()), self.scheduled),
            lambda: observed.host_devices(tuple(self.runtimes.values())),
            config.node_name,
            settings=Settings(
                Names(config.monitor.names),
                config.monitor.legacy_labels,
                config.monitor.feedback,
                grace_seconds=config.monitor.grace_seconds,
            ),
            tell=self._isolation_teller(),
        )
        self.metrics.registry.register(self._monitor)
        return self._monitor

    def _isolation_teller(self) -> Callable[[MonitoredContainer, str], None]:
        """Tells on pods what the monitor finds, in whichever thread it does."""
        loop, node = asyncio.get_running_loop(), self.scheduled

        def tell(owner: MonitoredContainer, problem: str) -> None:
            if node is not None:
                with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                    loop.call_soon_threadsafe(
                        node.tell_isolation, owner.pod_uid, owner.container, problem
                    )

        return tell

    async def _look_at_containers(self) -> None:
        """Isolation that was lost is told, whether anybody scrapes or not, and directories of
        containers that are gone leave the node.
        """
        if self._monitor is None:
            return
        await asyncio.to_thread(self._monitor.usages)
        held = {name for runtime in self.runtimes.values() for _, name, _ in runtime.held()}
        pods = await asyncio.to_thread(observed.living_pods, self.scheduled)
        swept = await asyncio.to_thread(self._monitor.collect_garbage, pods, held)
        if swept.removed:
            self._log.info("removed directories of ended containers", count=len(swept.removed))

    def _present(self, config: Config) -> dict[str, Vendor]:
        """The vendors to serve: those named, else those that leave traces on this node."""
        known = self._found.vendors
        for name in set(config.vendors) - known.keys():
            reason = f"no such vendor; installed are {', '.join(known) or 'none'}"
            self.readiness.block(name, reason)
            self._log.error("unknown vendor", vendor=name, reason=reason)
        if config.vendors:
            return {name: known[name] for name in config.vendors if name in known}
        root = Path(config.paths.host_root)
        present = {}
        for name, vendor in known.items():
            try:
                if registry.is_present(vendor, root):
                    present[name] = vendor
            except (OSError, ValueError, NotImplementedError) as error:
                reason = f"its traces {', '.join(vendor.presence)} cannot be looked for: {error}"
                self.readiness.block(name, reason)
                self._log.error("vendor left out", vendor=name, reason=reason)
        return present

    async def _serve(
        self,
        vendor: Vendor,
        config: Config,
        around: Surroundings,
        former: Mapping[str, Table] | None,
    ) -> None:
        """Serve one vendor; raises what its code raises where it cannot even be loaded."""
        settings = settings_of(config, vendor)
        # Its module may do anything when it is imported, also wait.
        backend = await asyncio.to_thread(registry.load_backend, vendor, settings)
        if (earlier := self.runtimes.get(vendor.name)) is not None:
            former = earlier.tables()
        runtime = VendorRuntime(
            vendor,
            settings,
            backend,
            around,
            NodePlaces(
                Path(config.paths.plugin_dir),
                Path(config.paths.kubelet_socket) if config.paths.kubelet_socket else None,
                Path(config.paths.run_dir),
            ),
            ProbeTiming(
                config.probe.interval_seconds,
                config.probe.deadline_seconds,
                config.probe.backoff_first_seconds,
                config.probe.backoff_most_seconds,
                usage=config.monitor.usage_seconds if config.monitor.enabled else 0.0,
            ),
            HealthPolicy(
                config.health.failures,
                config.health.window,
                config.health.successes,
                config.health.hold_seconds,
                config.health.forget_seconds,
                config.health.probe_failures,
            ),
            self.metrics,
            self.readiness,
            former,
            self.announcer.offer if self.announcer else None,
            self.scheduled.tell if self.scheduled else nobody,
        )
        self.runtimes[vendor.name] = runtime
        await runtime.run()

    async def _supervise(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """A part that fails starts again and takes nobody along."""
        loop = asyncio.get_running_loop()
        delay = RESTART_FIRST_SECONDS
        while True:
            started = loop.time()
            try:
                await run()
            except Exception as error:
                self._log.exception("a part of the agent failed and starts again", part=name)
                self.readiness.block(name, f"{type(error).__name__}: {error}")
            if loop.time() - started > RESTART_MOST_SECONDS:
                delay = RESTART_FIRST_SECONDS
            await asyncio.sleep(delay)
            self.readiness.clear(name)
            delay = min(delay * 2, RESTART_MOST_SECONDS)

    def _surroundings(self, config: Config, pod_resources: PodResources) -> Surroundings:
        run_dir = Path(config.paths.run_dir)
        return Surroundings(
            strategy=Strategy(
                names=config.device_list_strategy,
                device_ids=config.device_id_strategy,
                pass_device_specs=config.pass_device_specs,
                annotation_prefix=config.cdi_annotation_prefix,
            ),
            store=SpecStore(
                Path(config.paths.cdi_dir), run_dir / MANIFEST_FILE, Leaving(run_dir).announced
            ),
            mode=self._modes(config, pod_resources),
            policy=config.allocation_policy,
            host_root=Path(config.paths.host_root),
            scored=config.topology_score,
            counted=config.secondary_resources,
        )

    def _modes(self, config: Config, pod_resources: PodResources) -> Callable[[ResourcePlan], Mode]:
        """The mode of each resource: one that no scheduler knows is kubelet's to hand out."""
        deferred = config.allocation == "standalone-deferred"
        standalone = Standalone(pod_resources, self._grant_source(config) if deferred else None)
        node = self.scheduled
        if node is None:
            return lambda _: standalone

        from deviceplugin.scheduled.deferred import Deferred
        from deviceplugin.scheduled.locked import Locked

        def mode(plan: ResourcePlan) -> Mode:
            if plan.keys is None:
                return standalone
            node.served[plan.resource] = plan.keys
            if node.deferred:
                return Deferred(node, plan.keys)
            return Locked(node, plan.keys, config.lockless)

        return mode

    def _join(self, config: Config, pod_resources: PodResources) -> tuple[ScheduledNode, Announcer]:
        """What a node has that schedulers know of."""
        from deviceplugin.apiserver.client import Api
        from deviceplugin.scheduled.announcer import Announcer
        from deviceplugin.scheduled.node import ScheduledNode

        node = ScheduledNode(
            config.node_name,
            (self._api or Api)(),
            pod_resources,
            Path(config.paths.plugin_dir),
            Path(config.paths.run_dir),
            deferred=config.allocation == "scheduled-deferred",
        )
        self.metrics.events_dropped.set_function(lambda: node.events.dropped)
        run_dir = Path(config.paths.run_dir)
        return node, Announcer(
            node, self.readiness, lambda: self._others(run_dir), Leaving(run_dir).announced
        )

    def _others(self, run_dir: Path) -> frozenset[str]:
        """The vendors that other agents serve on this node. Raises `OSError`."""
        mine = {name for name, runtime in self.runtimes.items() if runtime.serves}
        return frozenset(vendorlocks.held(run_dir)) - mine

    async def _watch_directories(self, config: Config, around: Surroundings) -> None:
        """Wake the servers at every change; write CDI files again that somebody removed."""
        wiped = asyncio.Event()

        def changed() -> None:
            wiped.set()
            for runtime in self.runtimes.values():
                runtime.directory_changed()

        directories = [Path(config.paths.plugin_dir)]
        if config.uses_cdi:
            directories.append(Path(config.paths.cdi_dir))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(DirectoryWatch(changed, *directories).run())
            while True:
                await wiped.wait()
                wiped.clear()
                if config.uses_cdi:
                    await self._restore(around.store)

    async def _restore(self, store: SpecStore) -> None:
        try:
            restored = await asyncio.to_thread(store.restore)
        except (OSError, ValueError) as error:
            reason = f"CDI files cannot be written to {store.directory}: {error}"
            self.readiness.block("cdi", reason)
            self._log.error("CDI directory", reason=reason)
        else:
            self.readiness.clear("cdi")
            if restored:
                self._log.warning("wrote CDI files again that were gone", files=len(restored))

    async def _ask_kubelet(self, pod_resources: PodResources) -> None:
        wait = min(self._reconcile, FIRST_RECONCILE_SECONDS)
        while True:
            await asyncio.sleep(wait)
            if not self.runtimes:
                continue
            wait = self._reconcile
            try:
                holdings = await pod_resources.holdings()
            except PodResourcesError as error:
                self._log.debug("who holds what is unknown", reason=str(error))
                continue
            for runtime in list(self.runtimes.values()):
                try:
                    await runtime.holdings_seen(holdings)
                except Exception as error:
                    self._log.warning("reconciling failed", vendor=runtime.name, reason=str(error))
            if any(runtime.unsettled for runtime in self.runtimes.values()):
                wait = min(self._reconcile, FIRST_RECONCILE_SECONDS)
            await self._look_at_containers()
