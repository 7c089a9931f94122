"""What every vendor's tests need: its fake library built, its discovery asked in the real probe, and
a machine with it in a cluster, where pods go the whole way from their author to their process.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deviceplugin import health, registry
from deviceplugin.api.hami.keys import MUTEX_LOCK
from deviceplugin.config import load, settings_of
from deviceplugin.probe.supervisor import DriverAbsent, Probe, ProbeFailed, SnapshotSeen, Timing
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.testing.cluster import Cluster, Outcome
from deviceplugin.testing.extender import extender
from deviceplugin.testing.kubelet import ContainerConfig
from deviceplugin.testing.placing import admit, place_pod, scheduling_backends
from deviceplugin.testing.scheduling import Habit
from deviceplugin.vendor import DriverError, Snapshot, VendorSettings
from deviceplugin.vendor.scheduling import Policy

FAKELIBS = Path(__file__).parents[1] / "fakelibs"
DOCS = Path(__file__).parents[2] / "docs" / "vendors"

LOCKED = {"allocation": "scheduled-locked", "device_list_strategy": ("envvar",)}
LOCKED_CDI = {"allocation": "scheduled-locked", "device_list_strategy": ("cdi-cri",)}
LOCKLESS = {**LOCKED, "lockless": "verify"}
DEFERRED = {"allocation": "scheduled-deferred", "device_list_strategy": ("cdi-cri",)}
STANDALONE = {"allocation": "standalone", "device_list_strategy": ("envvar",)}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds a fake library once: its name, its file's name, and flags of the compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    done: dict[tuple[str, ...], Path] = {}

    def build(name: str, file: str, *flags: str) -> Path:
        if compiler is None:
            pytest.skip(f"no C compiler (cc, gcc) to build the fake {file} with")
        key = (name, file, *flags)
        if key not in done:
            target = tmp_path_factory.mktemp(name) / file
            source = FAKELIBS / name / f"{name}.c"
            command = [
                compiler,
                "-shared",
                "-fPIC",
                "-Wall",
                "-Werror",
                "-Wno-unused-function",
                *flags,
            ]
            subprocess.run([*command, "-o", str(target), str(source)], check=True)
            done[key] = target
        return done[key]

    return build


@pytest.fixture
def doc_pods() -> Callable[[str], dict[str, dict[str, Any]]]:
    """The pods of a vendor's page, by name: what people copy is what is tested."""

    def pods(vendor: str) -> dict[str, dict[str, Any]]:
        text = (DOCS / f"{vendor}.md").read_text()
        found = {}
        for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
            for item in yaml.safe_load_all(block):
                if isinstance(item, dict) and item.get("kind") == "Pod":
                    item["metadata"].setdefault("namespace", "default")
                    item["spec"]["schedulerName"] = "scripted"
                    for container in item["spec"]["containers"]:
                        container.setdefault("image", "x")
                    found[item["metadata"]["name"]] = item
        return found

    return pods


def _settings(vendor: str, root: str, section: Mapping[str, Any] | None) -> VendorSettings:
    found = registry.load().vendors[vendor]
    settings = settings_of(load({}, {}).config, found)
    return replace(settings, node_name="node-a", host_root=root, section=dict(section or {}))


@pytest.fixture
def probed() -> Callable[..., Snapshot]:
    """One discovery of a vendor in the real probe process, as the agent takes it. Raises `DriverError` with its reason;
    the cause of a failed probe is in front.
    """

    def ask(
        vendor: str, root: Path, section: Mapping[str, Any] | None = None, deadline: float = 20.0
    ) -> Snapshot:
        async def once() -> Snapshot:
            answer: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()

            async def handle(event: object) -> None:
                if answer.done():
                    return
                match event:
                    case SnapshotSeen(snapshot):
                        answer.set_result(health.admit(snapshot))
                    case DriverAbsent(reason):
                        answer.set_exception(DriverError(reason, absent=True))
                    case ProbeFailed(cause, reason):
                        answer.set_exception(DriverError(f"{cause}: {reason}"))

            settings = _settings(vendor, str(root), section)
            descriptor = registry.load().vendors[vendor]
            probe = Probe(descriptor, settings, Timing(interval=60, deadline=deadline), handle)
            task = asyncio.create_task(probe.run())
            try:
                return await answer
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        return asyncio.run(once())

    return ask


@dataclass
class Machine:
    """A node of a cluster with a vendor's fake library, and its scheduler."""

    cluster: Cluster
    vendor: str
    scenario: Path
    backends: tuple[Any, ...] = ()
    agent: Any = None
    section: Mapping[str, Any] = field(default_factory=dict)

    @property
    def host(self) -> Path:
        """The host's root."""
        return self.cluster.root / "host"

    def put(self, path: str, text: str = "") -> Path:
        """A file of the host."""
        target = self.host / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    async def start(
        self,
        mode: Mapping[str, Any],
        *resources: str,
        sections: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """An agent that kubelet knows these resources of; `sections` by their key of the file."""
        given = {"vendors": (self.vendor,), **mode, **options}
        self.agent = self.cluster.start_agent(sections or {}, **given)
        descriptor = registry.load().vendors[self.vendor]
        section = dict((sections or {}).get(descriptor.section or self.vendor, {}))
        section |= {k: v for k, v in (sections or {}).items() if k in descriptor.shared_sections}
        self.backends = scheduling_backends(self.vendor, section)
        for resource in resources:
            await self.cluster.kubelet.wait_registered(resource)
            await self.cluster.until(
                lambda name=resource: self.cluster.kubelet.allocatable().get(name, 0) > 0
            )
        if mode["allocation"] != "standalone":
            keys = [
                key
                for backend in self.backends
                if backend.resources.count in resources and (key := backend.keys.register)
            ]
            await self.cluster.settled(
                lambda: all(key in self.cluster.node_annotations() for key in keys)
            )
        counts = {name: str(self.cluster.kubelet.allocatable()[name]) for name in resources}
        self.cluster.server.patch(
            "nodes", "node-a", {"status": {"capacity": counts, "allocatable": counts}}
        )

    async def create(
        self,
        manifest: Mapping[str, Any],
        habit: Habit = Habit.OURS,
        policy: Policy = Policy.SPREAD,
    ) -> str:
        """The pod as its author wrote it is admitted by the webhook and placed; its name."""
        await self.cluster.settled(lambda: MUTEX_LOCK not in self.cluster.node_annotations())
        stored = self.cluster.create(admit(manifest, self.backends))
        name = str(stored["metadata"]["name"])
        if habit is Habit.OURS:
            settings = SchedulerSettings(card_policy=policy)
            async with extender(self.cluster.api(), self.backends, settings) as ours:
                await ours.place("default", name, ["node-a"])
            return name
        scheduler = self.cluster.scheduler(habit)
        await asyncio.to_thread(place_pod, scheduler, "default", name, self.backends, policy)
        return name

    async def run(
        self,
        manifest: Mapping[str, Any],
        habit: Habit = Habit.OURS,
        policy: Policy = Policy.SPREAD,
    ) -> Outcome:
        """The pod's whole way to running."""
        name = await self.create(manifest, habit, policy)
        outcome = await self.cluster.run("default", name, 10.0)
        assert outcome.failure == "", outcome.failure
        return outcome

    def seen(self, config: ContainerConfig) -> dict[str, Any]:
        """What a container was given beside its own variables, however it was handed over."""
        oci = self.cluster.oci(config)
        env = dict(entry.split("=", 1) for entry in oci["process"]["env"])
        devices = [d.container_path for d in config.devices]
        devices += [d["path"] for d in oci.get("linux", {}).get("devices", ())]
        mounts = {m["destination"]: m["source"] for m in oci["mounts"]}
        return {"env": env, "devices": sorted(devices), "mounts": mounts}


@pytest.fixture
async def machine() -> AsyncIterator[Callable[..., Machine]]:
    """Makes the machine of a vendor: its library at a path of the host, the variable that names its
    scenario, and the scenario.
    """
    root = Path(tempfile.mkdtemp(prefix="dp-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        async with Cluster(root) as cluster:
            null = os.lstat("/dev/null")
            cluster.stat = lambda _path: null

            def make(
                vendor: str, library: Path, path: str, variable: str, scenario: str
            ) -> Machine:
                made = Machine(cluster, vendor, root / "scenario")
                made.scenario.write_text(scenario)
                patch.setenv(variable, str(made.scenario))
                target = made.host / path.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(library, target)
                return made

            yield make
    shutil.rmtree(root, ignore_errors=True)


def card(**fields: object) -> str:
    """A card of a scenario."""
    return "|".join(["card", *(f"{key}={value}" for key, value in fields.items())]) + "\n"


def fault(**fields: object) -> str:
    """A fault of a scenario."""
    return "|".join(["fault", *(f"{key}={value}" for key, value in fields.items())]) + "\n"


@pytest.fixture
def lines() -> Any:
    """`card` and `fault`."""
    return type("Lines", (), {"card": staticmethod(card), "fault": staticmethod(fault)})
