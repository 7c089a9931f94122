"""The monitor of one node: reads what containers use, keeps priorities, sweeps what is left over.

Everything here blocks on files, so it runs in threads: a scrape in the HTTP server's, the rest in
one of the event loop's. Sources of containers and devices are asked in those threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import structlog
from prometheus_client.metrics import Counter, Gauge
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from deviceplugin.libvgpu import Field, Region, RegionError
from deviceplugin.monitor.caches import Caches, Seen
from deviceplugin.monitor.exposition import families
from deviceplugin.monitor.feedback import LOW, Tenant, feedback, release
from deviceplugin.monitor.garbage import YOUNG, Owners, Swept, absent, remove
from deviceplugin.monitor.usage import ContainerUsage, collect
from deviceplugin.monitor.values import HostDevice, MonitoredContainer, Settings

T = TypeVar("T")


class Monitor(Collector):
    """A collector for a Prometheus registry, and the loop behind it.

    `root` is the directory of all containers' directories, ``<hook path>/vgpu/containers``.
    `containers` and `host_devices` answer what is known at the moment, from any thread; what they
    raise is logged and counted, and costs only what they would have told. `clock` gives Unix
    seconds, `monotonic` seconds that never go back. `tell` hears, from any thread, what is wrong
    with a container when that changes; empty when it is well again.
    """

    def __init__(
        self,
        root: Path,
        containers: Callable[[], Iterable[MonitoredContainer]],
        host_devices: Callable[[], Iterable[HostDevice]],
        node: str,
        clock: Callable[[], float] = time.time,
        settings: Settings = Settings(),  # noqa: B008 - frozen
        monotonic: Callable[[], float] = time.monotonic,
        tell: Callable[[MonitoredContainer, str], None] = lambda _container, _problem: None,
    ) -> None:
        self._caches = Caches(root)
        self._containers, self._host_devices = containers, host_devices
        self._node, self._settings = node, settings
        self._clock, self._monotonic = clock, monotonic
        self._told = tell
        self._log = structlog.get_logger()
        self._lock = threading.Lock()
        self._said: dict[str, str] = {}
        self._absent: dict[str, float] = {}
        self._left_before: dict[str, str] = {}
        self._conflicts = Counter(
            "deviceplugin_monitor_conflicts",
            "Series left out of a scrape because an equal one was there before.",
            registry=None,
        )
        self._errors = Counter(
            "deviceplugin_monitor_errors",
            "Failures of a part of the monitor; the other parts went on.",
            ["part"],
            registry=None,
        )
        self._writes = Counter(
            "deviceplugin_monitor_feedback_writes",
            "Fields written to regions to keep priorities.",
            ["field"],
            registry=None,
        )
        self._removed = Counter(
            "deviceplugin_monitor_directories_removed",
            "Directories of containers that are gone, removed.",
            registry=None,
        )
        self._left = Gauge(
            "deviceplugin_monitor_directories_left",
            "Directories that are nobody's and hold something unexpected, at the last sweep.",
            registry=None,
        )

    def collect(self) -> Iterable[Metric]:
        """As Prometheus's registry asks for it."""
        return self.scrape()

    def scrape(self) -> Iterator[Metric]:
        """All metrics of this moment. Blocking, from any thread; never raises."""
        hosts = self._ask("host-devices", self._host_devices) or ()
        usages = self.usages()
        yield from families(
            usages, hosts, self._clock(), self._node, self._settings, self._conflicts.inc
        )
        for own in (self._conflicts, self._errors, self._writes, self._removed, self._left):
            yield from own.collect()

    def usages(self) -> tuple[ContainerUsage, ...]:
        """What every container uses at this moment. Blocking, from any thread."""
        containers = self._ask("containers", self._containers)
        if containers is None:
            return ()
        regions = self._caches.read(c.cache_dir for c in containers if c.cache_dir)
        found = tuple(collect(containers, regions))
        self._tell(found)
        return found

    def feedback_once(self) -> int:
        """One step of the loop that keeps priorities; answers how many fields were written.

        Containers that nobody vouches for any more are let go. Nothing is written while it is not
        known which containers there are.
        """
        containers = self._ask("containers", self._containers)
        if containers is None:
            return 0
        try:
            names = self._caches.names()
        except RegionError as error:
            self._failed("feedback", str(error))
            return 0
        seen = self._caches.read(names)
        tenants = _tenants(containers, seen)
        step = feedback(tenants) if self._settings.feedback else release(tenants)
        return self._write(step, seen)

    def release(self) -> int:
        """Let every container go: limits of cores hold and nobody waits for a monitor that is gone.
        Answers how many fields were written.
        """
        try:
            seen = self._caches.read(self._caches.names())
        except RegionError as error:
            self._failed("feedback", str(error))
            return 0
        return self._write(release(_tenants((), seen)), seen)

    def collect_garbage(
        self,
        active_pod_uids: Collection[str] | None,
        active_allocations: Collection[str] | None = None,
    ) -> Swept:
        """Remove the directories of containers that are gone. Blocking.

        `active_pod_uids` are the pods that kubelet *or* the API server still knows, and
        `active_allocations` the allocation ids that kubelet still holds; None while one of them
        cannot be asked, and then nothing of that kind is removed. A directory goes when it was
        nobody's and untouched for the whole grace, as this monitor has seen it.
        """
        containers = self._ask("containers", self._containers)
        if containers is None:
            return Swept()
        kept = {container.cache_dir for container in containers}
        owners = Owners(active_pod_uids, active_allocations, kept)
        try:
            listed = self._caches.names()
            now, grace = self._monotonic(), self._settings.grace_seconds
            self._absent = absent(listed, owners, self._absent, now)
            ends = {}
            if due := [name for name, since in self._absent.items() if now - since >= grace]:
                with self._caches.opened() as root:
                    ends = {name: remove(root, name, self._clock() - grace) for name in due}
        except RegionError as error:
            self._failed("garbage", str(error))
            return Swept()
        return self._swept(ends)

    async def run(self) -> None:
        """Keep priorities until cancelled, and let every container go then."""
        step: asyncio.Task[None] | None = None
        try:
            while True:
                step = asyncio.create_task(asyncio.to_thread(self._step))
                await asyncio.shield(step)
                await asyncio.sleep(self._settings.feedback_seconds)
        finally:
            if step is not None:
                # A thread cannot be cancelled: what it writes must not come after the release.
                await asyncio.wait({step})
            await asyncio.to_thread(self.release)

    def _step(self) -> None:
        try:
            self.feedback_once()
        except Exception as error:
            self._failed("feedback", f"{type(error).__name__}: {error}")

    def _ask(self, part: str, source: Callable[[], Iterable[T]]) -> tuple[T, ...] | None:
        """What a source says; None where it fails."""
        try:
            return tuple(source())
        except Exception as error:
            self._failed(part, f"{type(error).__name__}: {error}")
            return None

    def _failed(self, part: str, reason: str) -> None:
        self._errors.labels(part).inc()
        self._log.error("monitor", part=part, reason=reason)

    def _write(self, step: Mapping[str, Mapping[Field, int]], seen: Mapping[str, Seen]) -> int:
        count = 0
        for name, values in step.items():
            region = seen[name]
            if not isinstance(region, Region):
                continue
            # What the tenant does meanwhile is found, and told, at the next look.
            with contextlib.suppress(RegionError):
                for field in self._caches.write(name, region, values):
                    self._writes.labels(field.value).inc()
                    count += 1
        return count

    def _swept(self, ends: Mapping[str, str]) -> Swept:
        removed = tuple(name for name, reason in ends.items() if not reason)
        left = {name: reason for name, reason in ends.items() if reason and reason != YOUNG}
        self._removed.inc(len(removed))
        self._left.set(len(left))
        for name in removed:
            self._absent.pop(name, None)
            self._log.info("directory removed", directory=name)
        for name, reason in left.items():
            if self._left_before.get(name) != reason:
                self._log.warning("directory left", directory=name, reason=reason)
        self._left_before = left
        return Swept(removed, left)

    def _tell(self, usages: Iterable[ContainerUsage]) -> None:
        """Log what is wrong with a container when it begins, and when it ends."""
        with self._lock:
            former, self._said = self._said, {}
            for usage in usages:
                owner, verdict = usage.container, usage.isolation
                key = f"{owner.pod_uid}/{owner.container}"
                bad = usage.problem is not None or verdict.active is False
                if bad:
                    self._said[key] = verdict.detail
                if (said := self._said.get(key, "")) == former.get(key, ""):
                    continue
                log = self._log.bind(
                    namespace=owner.namespace, pod=owner.pod, container=owner.container
                )
                self._told(owner, said)
                if said:
                    log.error("isolation", reason=verdict.reason.value, detail=said)
                else:
                    log.info("isolation", reason=verdict.reason.value)


def _tenants(containers: Iterable[MonitoredContainer], seen: Mapping[str, Seen]) -> list[Tenant]:
    """Every container with a region; priority and devices as granted, whatever the region says."""
    known = {container.cache_dir: container for container in containers}
    found = []
    for name, region in seen.items():
        if not isinstance(region, Region) or not region.initialised:
            continue
        container = known.get(name)
        priority = LOW
        if container is not None:
            priority = region.priority if container.priority is None else container.priority
        devices = tuple(device.uuid for device in container.devices) if container else ()
        found.append(
            Tenant(name, priority, devices, region.recent_kernel, region.utilization_switch)
        )
    return found
