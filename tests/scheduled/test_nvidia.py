"""NVIDIA's backend under a scheduler, from the scheduler's annotation to what the process sees: what
HAMi's own plugin would hand over, to the letter (hami-nvidia-node.md 2.3, 3.4, 3.5, 3.8, 4.2).

Everything is real but the driver's library, libvgpu, kubelet and the API server.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from deviceplugin.api.hami import poddevices
from deviceplugin.api.hami.keys import BIND_PHASE, MUTEX_LOCK, VENDORS
from deviceplugin.injection.store import SpecStore
from deviceplugin.testing.cluster import NODE, Cluster, Outcome, manifest
from deviceplugin.testing.kubelet import ContainerConfig, StartError
from deviceplugin.testing.libvgpu import FakeProcess, FakeRegion
from deviceplugin.testing.placing import DoesNotFitError, admit, place_pod, scheduling_backends
from deviceplugin.testing.scheduling import Habit

KEYS = VENDORS["NVIDIA"]
RESOURCE = "nvidia.com/gpu"
SOURCE = Path(__file__).parents[1] / "fakelibs" / "nvml" / "nvml.c"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
VERSION = "550.54.15"
DRIVERS_ENV = {"NVIDIA_CTK_LIBCUDA_DIR": f"/{LIBRARIES}", "NVIDIA_VISIBLE_DEVICES": "void"}
MIB = 1 << 20
SECTION: dict[str, Any] = {"deviceSplitCount": 10, "libCudaLogLevel": "1"}

LOCKED = {"allocation": "scheduled-locked", "device_list_strategy": ("envvar",)}
LOCKED_CDI = {"allocation": "scheduled-locked", "device_list_strategy": ("cdi-cri",)}
DEFERRED = {"allocation": "scheduled-deferred", "device_list_strategy": ("cdi-cri",)}
ANNOTATED = {"allocation": "scheduled-deferred", "device_list_strategy": ("cdi-annotations",)}
NAMES = {"envvar": LOCKED, "cdi-cri": DEFERRED, "cdi-annotations": ANNOTATED}
MODES = pytest.mark.parametrize("mode", NAMES.values(), ids=NAMES)
CDI_MODES = pytest.mark.parametrize(
    "mode", [LOCKED_CDI, DEFERRED, ANNOTATED], ids=["locked", "deferred", "deferred-annotations"]
)
BY_CRI = pytest.mark.parametrize("mode", [LOCKED, DEFERRED], ids=["locked", "deferred"])


def record(kind: str, **fields: object) -> str:
    return "|".join([kind, *(f"{key}={value}" for key, value in fields.items())]) + "\n"


def card(letter: str, name: str, minor: int, memory: int = 81559) -> str:
    """A card of the fake driver; memory in MiB."""
    bus = f"00000000:{0x3B + minor:02X}:00.0"
    return record(
        "card", uuid=f"GPU-{letter}", name=name, memory=memory * MIB, bus=bus, minor=minor, cc="8.0",
        mig=0,
    )  # fmt: skip


DRIVER = record("driver", version=VERSION, cuda=12040)
A100, P4 = "NVIDIA A100-SXM4-80GB", "Tesla P4"
CARDS = card("a", A100, 0) + card("b", P4, 1)


@pytest.fixture(scope="session")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc) to build the fake NVML with")
    target = tmp_path_factory.mktemp("nvml") / f"libnvidia-ml.so.{VERSION}"
    flags = ["-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([compiler, *flags, "-o", str(target), str(SOURCE)], check=True)
    return target


def granted(*grants: tuple[str, int, int]) -> Any:
    """A container's part of the annotation: uuid, or slot of a card, MiB and percent of each."""
    text = "".join(f"{uuid},NVIDIA,{memory},{cores}:" for uuid, memory, cores in grants)
    return poddevices.decode(f"{text};", KEYS.allocated)[0]


class Machine:
    """A node with the fake driver and libvgpu, in a cluster."""

    def __init__(self, cluster: Cluster, library: Path) -> None:
        self.cluster = cluster
        self.driver, self.host = cluster.root / "driver", cluster.root / "host"
        self.scenario, self.state = cluster.root / "scenario", cluster.root / "state"
        libraries = self.driver / LIBRARIES
        libraries.mkdir(parents=True)
        shutil.copy(library, libraries)
        (libraries / "libnvidia-ml.so.1").symlink_to(library.name)
        (libraries / f"libcuda.so.{VERSION}").write_text("")
        (self.driver / "dev").mkdir()
        for name in ("nvidiactl", "nvidia-uvm", "nvidia0", "nvidia1", "nvidia2"):
            self._node(self.driver / "dev" / name)
        self.put("usr/local/vgpu/libvgpu.so.v2.8.0", "")
        self.put("usr/local/vgpu/ld.so.preload", "/usr/local/vgpu/libvgpu.so\n")

    def _node(self, path: Path) -> None:
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("no right to make device nodes (needs root)")

    def put(self, path: str, text: str) -> None:
        """A file of the host."""
        target = self.host / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    async def start(
        self, mode: Mapping[str, Any], section: Mapping[str, Any], cards: str = CARDS, **more: Any
    ) -> Any:
        """An agent that has announced its devices."""
        self.scenario.write_text(DRIVER + cards)
        given = {
            "vendors": ("nvidia",),
            "nvidia_driver_root": str(self.driver),
            "driver_root_ctr_path": str(self.driver),
            **mode,
            **more,
        }
        agent = self.cluster.start_agent({"nvidia": section}, **given)
        await self.cluster.ready(KEYS, RESOURCE)
        return agent

    async def place(self, *grants: Any, name: str = "p", env: Any = None) -> None:
        """A pod with a container for each list of grants (uuid, MiB, percent), bound as HAMi 2.8
        does.
        """
        await self.cluster.settled(lambda: MUTEX_LOCK not in self.cluster.node_annotations())
        containers = {f"c{i}": len(one) for i, one in enumerate(grants)}
        self.cluster.create(manifest(RESOURCE, name, containers, env=env))
        wishes = [granted(*one) for one in grants]
        await self.cluster.place(Habit.HAMI28, KEYS, name, *wishes)

    async def run(self, *grants: Any, name: str = "p", **more: Any) -> Outcome:
        """What becomes of such a pod."""
        await self.place(*grants, name=name, **more)
        return await self.cluster.run("default", name, 5.0)

    async def refusal(self, name: str, reason: str) -> None:
        """Wait until kubelet is told, whenever it tries to start ``c0``, that it cannot for this.

        Raises `TimeoutError`, and `AssertionError` where the container starts.
        """
        async with asyncio.timeout(15):
            while True:
                try:
                    await self.cluster.start("default", name, "c0")
                except StartError as error:
                    if re.search(reason, str(error)):
                        return
                else:
                    raise AssertionError("it started")
                await asyncio.sleep(0.05)

    def uid(self, name: str = "p") -> str:
        return str(self.cluster.server.get("pods", name, "default")["metadata"]["uid"])

    @property
    def registered(self) -> str:
        return self.cluster.node_annotations()["hami.io/node-nvidia-register"]

    def process(self, config: ContainerConfig) -> dict[str, Any]:
        """What a process sees: variables, mounts (source and whether it is read-only) by place, and
        device nodes; whether by CDI or not.
        """
        oci = config.apply_cdi([self.cluster.root / "cdi"])
        plain = {mount.container_path for mount in config.mounts if mount.read_only}
        return {
            "env": dict(entry.split("=", 1) for entry in oci["process"]["env"]),
            "mounts": {
                m["destination"]: (
                    m["source"],
                    "ro" in m.get("options", ()) or m["destination"] in plain,
                )
                for m in oci["mounts"]
            },
            "devices": sorted(d["path"] for d in oci.get("linux", {}).get("devices", ())),
        }

    def expected(
        self, mode: Mapping[str, Any], name: str, uuids: str, limits: Mapping[str, str]
    ) -> dict[str, Any]:
        """The whole of what hami-nvidia-node.md 3.4 and 3.5 give a container."""
        mounts = {
            "/usr/local/vgpu/libvgpu.so": ("/usr/local/vgpu/libvgpu.so.v2.8.0", True),
            "/usr/local/vgpu": (f"/usr/local/vgpu/containers/{self.uid()}_{name}", False),
            "/tmp/vgpulock": ("/tmp/vgpulock", False),
            "/etc/ld.so.preload": ("/usr/local/vgpu/ld.so.preload", True),
        }
        if mode is LOCKED:
            env = {"NVIDIA_VISIBLE_DEVICES": uuids, **limits}
            return {"env": env, "mounts": mounts, "devices": []}
        files = [f"/{LIBRARIES}/lib{name}.so.{VERSION}" for name in ("cuda", "nvidia-ml")]
        cards = [f"/dev/nvidia{'ab'.index(uuid[-1])}" for uuid in uuids.split(",")]
        return {
            "env": {**DRIVERS_ENV, **limits},
            "mounts": {**{path: (f"{self.driver}{path}", True) for path in files}, **mounts},
            "devices": sorted(["/dev/nvidiactl", "/dev/nvidia-uvm", *cards]),
        }


@pytest.fixture
def machine(cluster: Cluster, nvml: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(cluster, nvml)
    monkeypatch.setenv("FAKE_NVML_SCENARIO", str(made.scenario))
    monkeypatch.setenv("FAKE_NVML_STATE", str(made.state))
    return made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing or in the way is not waited for."""
    monkeypatch.setattr("deviceplugin.scheduled.granting.PATIENCE_SECONDS", 0.2)


def without_cache(seen: Mapping[str, Any]) -> dict[str, Any]:
    """What a process sees but for the name of its cache, which is drawn at random upstream."""
    env = dict(seen["env"])
    cache = env.pop("CUDA_DEVICE_MEMORY_SHARED_CACHE")
    assert re.fullmatch(r"/usr/local/vgpu/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.cache", cache)
    return {**seen, "env": env}


# --- what schedulers read --------------------------------------------------------------------


@MODES
async def test_the_node_announces_its_cards_as_hami_reads_them(
    machine: Machine, mode: dict[str, Any]
) -> None:
    """Names get the brand only where they lack it, and what is zero is left out."""
    for bus, node in (("0000:3b:00.0", "-1"), ("0000:3c:00.0", "1")):
        machine.put(f"sys/bus/pci/devices/{bus}/numa_node", node)
    wanted = (
        '[{"id":"GPU-a","count":10,"devmem":81559,"devcore":100,"type":"NVIDIA A100-SXM4-80GB",'
        '"mode":"hami-core","health":true,"devicepairscore":{}},'
        '{"id":"GPU-b","index":1,"count":10,"devmem":81559,"devcore":100,'
        '"type":"NVIDIA-Tesla P4","numa":1,"mode":"hami-core","health":true,"devicepairscore":{}}]'
    )
    await machine.start(mode, SECTION)
    with suppress(TimeoutError):  # a card whose look took too long is not healthy until the next
        await machine.cluster.settled(lambda: machine.registered == wanted)
    assert machine.registered == wanted
    assert "hami.io/node-handshake" not in machine.cluster.node_annotations()
    assert "hami.io/node-nvidia-score" not in machine.cluster.node_annotations()


async def test_how_cards_are_connected_is_told_where_it_is_wanted(machine: Machine) -> None:
    """On one NUMA node with two NVLinks: 20 + 200; across sockets: 10."""
    links = record("link", one=0, two=1, level=40, nvlinks=2)
    links += record("link", one=0, two=2, level=50, nvlinks=0)
    cards = CARDS + card("c", A100, 2) + links
    await machine.start(LOCKED, SECTION, cards, enable_topology_score=True)
    assert machine.cluster.node_annotations()["hami.io/node-nvidia-score"] == (
        '[{"uuid":"GPU-a","score":{"GPU-b":220,"GPU-c":10}},'
        '{"uuid":"GPU-b","score":{"GPU-a":220}},{"uuid":"GPU-c","score":{"GPU-a":10}}]'
    )


# --- what containers get -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode", [LOCKED, LOCKED_CDI, DEFERRED, ANNOTATED],
    ids=["envvar", "locked-cdi-cri", "cdi-cri", "cdi-annotations"],
)  # fmt: skip
async def test_each_container_gets_exactly_its_own(machine: Machine, mode: dict[str, Any]) -> None:
    await machine.start(mode, SECTION)
    both = [("GPU-a", 3000, 30), ("GPU-b", 3000, 30)]
    outcome = await machine.run([("GPU-b", 500, 3)], [], both)
    assert outcome.failure == ""
    seen = {name: machine.process(config) for name, config in outcome.containers.items()}
    assert without_cache(seen["c0"]) == machine.expected(
        mode,
        "c0",
        "GPU-b",
        {
            "CUDA_DEVICE_MEMORY_LIMIT_0": "500m",
            "CUDA_DEVICE_SM_LIMIT": "3",
            "LIBCUDA_LOG_LEVEL": "1",
        },
    )
    assert seen["c1"] == {"env": {}, "mounts": {}, "devices": []}
    assert without_cache(seen["c2"]) == machine.expected(
        mode,
        "c2",
        "GPU-a,GPU-b",
        {
            "CUDA_DEVICE_MEMORY_LIMIT_0": "3000m",
            "CUDA_DEVICE_MEMORY_LIMIT_1": "3000m",
            "CUDA_DEVICE_SM_LIMIT": "30",
            "LIBCUDA_LOG_LEVEL": "1",
        },
    )
    caches = [seen[name]["env"]["CUDA_DEVICE_MEMORY_SHARED_CACHE"] for name in ("c0", "c2")]
    assert caches[0] != caches[1]
    uid = machine.uid()
    folders = machine.host / "usr/local/vgpu/containers"
    assert {path.name for path in folders.iterdir()} == {f"{uid}_c0", f"{uid}_c2"}
    for path in (*folders.iterdir(), machine.host / "tmp/vgpulock"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o777
    cluster = machine.cluster
    await cluster.settled(lambda: cluster.pod_annotations("p")[BIND_PHASE] == "success")
    await cluster.settled(lambda: MUTEX_LOCK not in cluster.node_annotations())
    assert cluster.pod_annotations("p")["hami.io/vgpu-devices-to-allocate"] == ";;;"
    assert cluster.kubelet.findings == []


@pytest.mark.parametrize("mode", [LOCKED, DEFERRED], ids=["locked", "deferred"])
async def test_what_people_write_is_what_the_process_gets(
    machine: Machine, mode: dict[str, Any]
) -> None:
    """A pod of HAMi's documentation: admitted, placed and bound by NVIDIA's scheduling half."""
    await machine.start(mode, SECTION)
    backends = scheduling_backends("nvidia", SECTION)
    scheduler = machine.cluster.scheduler(Habit.HAMI28)

    async def run(name: str, limits: dict[str, str]) -> Outcome:
        container = {"name": "main", "image": "x", "resources": {"limits": limits}}
        pod = {
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"containers": [container]},
        }
        machine.cluster.create(admit(pod, backends))
        await asyncio.to_thread(place_pod, scheduler, "default", name, backends)
        outcome = await machine.cluster.run("default", name, 5.0)
        await machine.cluster.settled(lambda: MUTEX_LOCK not in machine.cluster.node_annotations())
        return outcome

    outcome = await run("small", {"nvidia.com/gpumem": "2000", "nvidia.com/gpucores": "25"})
    assert outcome.failure == ""
    told = machine.cluster.pod_annotations("small")["hami.io/vgpu-devices-allocated"]
    env = machine.process(outcome.containers["main"])["env"]
    assert told.split(",")[2:] == ["2000", "25:;"]
    assert env["CUDA_DEVICE_MEMORY_LIMIT_0"] == "2000m"
    assert env["CUDA_DEVICE_SM_LIMIT"] == "25"
    assert (await run("whole", {RESOURCE: "1"})).failure == ""
    with pytest.raises(DoesNotFitError) as raised:
        await run("too-much", {RESOURCE: "1"})
    assert "ExclusiveDeviceAllocateConflict" in str(raised.value) or "Insufficient" in str(
        raised.value
    )


@CDI_MODES
async def test_by_cdi_kubelet_passes_on_names_and_nothing_else(
    machine: Machine, mode: dict[str, Any]
) -> None:
    await machine.start(mode, SECTION)
    outcome = await machine.run([("GPU-a", 500, 3), ("GPU-b", 500, 3)])
    config = outcome.containers["c0"]
    assert (config.envs, config.mounts, config.devices) == ((), (), ())
    *cards, own = config.cdi_names()
    allocation = own.removeprefix("k8s.deviceplugin.dev/nvidia=")
    assert re.fullmatch(r"a-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", allocation)
    gpu = "k8s.device-plugin.nvidia.com/gpu="
    # Before the container is known, nothing can be named but what will be written for it.
    assert cards == ([f"{gpu}GPU-a", f"{gpu}GPU-b"] if mode is LOCKED_CDI else [])
    proof = {"grant.deviceplugin.dev/nvidia": f"{machine.uid()}/c0"}
    if mode is ANNOTATED:
        assert config.cdi_devices == ()
        key = f"cdi.k8s.io/nvidia-device-plugin_{allocation}"
        assert config.annotations == {key: own}
    else:
        assert config.cdi_devices == (*cards, own)
        assert config.annotations == (proof if mode is LOCKED_CDI else {})


@CDI_MODES
async def test_by_cdi_the_limits_hold_whatever_the_pod_sets(
    machine: Machine, mode: dict[str, Any]
) -> None:
    await machine.start(mode, {**SECTION, "disableCoreLimit": True})
    own = {
        "LIBCUDA_LOG_LEVEL": "4",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "GPU_CORE_UTILIZATION_POLICY": "force",
        "CUDA_VISIBLE_DEVICES": "0",
        "CUDA_DEVICE_ORDER": "FASTEST_FIRST",
    }
    outcome = await machine.run([("GPU-b", 500, 3)], env=own)
    assert outcome.failure == ""
    assert without_cache(machine.process(outcome.containers["c0"])) == machine.expected(
        mode,
        "c0",
        "GPU-b",
        {
            "CUDA_DEVICE_MEMORY_LIMIT_0": "500m",
            "CUDA_DEVICE_SM_LIMIT": "3",
            "LIBCUDA_LOG_LEVEL": "1",
            "GPU_CORE_UTILIZATION_POLICY": "disable",
            "CUDA_VISIBLE_DEVICES": "0",
            "CUDA_DEVICE_ORDER": "FASTEST_FIRST",
        },
    )


@MODES
async def test_limits_are_numbered_as_the_driver_numbers_the_cards(
    machine: Machine, mode: dict[str, Any]
) -> None:
    """Whatever order the annotation has; the pod's choice among its devices stays its own."""
    await machine.start(mode, SECTION)
    grants = [("GPU-b", 200, 20), ("GPU-a", 100, 10)]
    outcome = await machine.run(grants, env={"CUDA_VISIBLE_DEVICES": "1"})
    assert outcome.failure == ""
    limits = {
        "CUDA_DEVICE_MEMORY_LIMIT_0": "100m",
        "CUDA_DEVICE_MEMORY_LIMIT_1": "200m",
        "CUDA_DEVICE_SM_LIMIT": "10",
        "CUDA_DEVICE_SM_LIMIT_0": "10",
        "CUDA_DEVICE_SM_LIMIT_1": "20",
        "LIBCUDA_LOG_LEVEL": "1",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    seen = without_cache(machine.process(outcome.containers["c0"]))
    assert seen == machine.expected(mode, "c0", "GPU-a,GPU-b", limits)


# --- what pods may not do ----------------------------------------------------------------------


@BY_CRI
@pytest.mark.parametrize(
    "variable",
    [
        {"name": "CUDA_DEVICE_MEMORY_LIMIT_0", "value": "99999m"},
        {"name": "CUDA_DEVICE_SM_LIMIT", "value": "100"},
        {"name": "CUDA_DEVICE_MEMORY_SHARED_CACHE", "value": "/tmp/x.cache"},
        {
            "name": "CUDA_DEVICE_MEMORY_LIMIT_0",
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}},
        },
    ],
    ids=["memory", "cores", "cache", "from-elsewhere"],
)
async def test_a_pod_that_sets_a_limit_itself_is_refused_by_the_variables_name(
    machine: Machine, mode: dict[str, Any], variable: dict[str, Any]
) -> None:
    """Also where the value comes from elsewhere: in the answer to Allocate the pod's wins."""
    await machine.start(mode, SECTION)
    cluster = machine.cluster
    pod = manifest(RESOURCE, "p", {"c0": 1})
    pod["spec"]["containers"][0]["env"] = [variable]
    cluster.create(pod)
    await cluster.place(Habit.HAMI28, KEYS, "p", granted(("GPU-a", 500, 3)))
    outcome = await cluster.run("default", "p")
    text = f"container c0 of pod default/p sets {variable['name']}, which limits devices"
    assert text in outcome.failure
    await cluster.settled(lambda: MUTEX_LOCK not in cluster.node_annotations())
    if mode is LOCKED:
        await cluster.settled(lambda: cluster.pod_annotations("p")[BIND_PHASE] == "failed")


@MODES
@pytest.mark.parametrize("allowed", [False, True], ids=["by-default", "allowed"])
async def test_control_is_switched_off_only_where_the_operator_allows_it(
    machine: Machine, mode: dict[str, Any], allowed: bool
) -> None:
    await machine.start(mode, {**SECTION, "allowDisableControl": allowed})
    await machine.place([("GPU-a", 500, 3)], env={"CUDA_DISABLE_CONTROL": "true"})
    outcome = await machine.cluster.run("default", "p")
    if not allowed:
        assert "container c0 of pod default/p sets CUDA_DISABLE_CONTROL" in outcome.failure
        assert "nvidia.allowDisableControl" in outcome.failure
        return
    limits = {
        "CUDA_DEVICE_MEMORY_LIMIT_0": "500m",
        "CUDA_DEVICE_SM_LIMIT": "3",
        "LIBCUDA_LOG_LEVEL": "1",
        "CUDA_DISABLE_CONTROL": "true",
    }
    expected = machine.expected(mode, "c0", "GPU-a", limits)
    del expected["mounts"]["/etc/ld.so.preload"]
    assert without_cache(machine.process(outcome.containers["c0"])) == expected


# --- what the operator sets --------------------------------------------------------------------


@MODES
async def test_overcommitted_memory_is_announced_and_told_to_the_library(
    machine: Machine, mode: dict[str, Any]
) -> None:
    section = {"deviceSplitCount": 3, "deviceMemoryScaling": 1.5, "libCudaLogLevel": 3}
    await machine.start(mode, section)
    told = {item["id"]: (item["count"], item["devmem"]) for item in json.loads(machine.registered)}
    assert told == dict.fromkeys(("GPU-a", "GPU-b"), (3, 122338))
    outcome = await machine.run([("GPU-a", 100_000, 0)])
    limits = {
        "CUDA_DEVICE_MEMORY_LIMIT_0": "100000m",
        "CUDA_DEVICE_SM_LIMIT": "0",
        "CUDA_OVERSUBSCRIBE": "true",
        "LIBCUDA_LOG_LEVEL": "3",
    }
    seen = without_cache(machine.process(outcome.containers["c0"]))
    assert seen == machine.expected(mode, "c0", "GPU-a", limits)


async def test_without_overcommitment_cores_limit_and_log_level_nothing_is_said_of_them(
    machine: Machine,
) -> None:
    await machine.start(LOCKED, {"deviceSplitCount": 10, "disableCoreLimit": True})
    outcome = await machine.run([("GPU-a", 500, 3)])
    limits = {
        "CUDA_DEVICE_MEMORY_LIMIT_0": "500m",
        "CUDA_DEVICE_SM_LIMIT": "3",
        "GPU_CORE_UTILIZATION_POLICY": "disable",
    }
    seen = without_cache(machine.process(outcome.containers["c0"]))
    assert seen == machine.expected(LOCKED, "c0", "GPU-a", limits)


@BY_CRI
@pytest.mark.parametrize(
    "hidden", [{"uuid": ["GPU-a"]}, {"index": [0]}], ids=["by-uuid", "by-index"]
)
async def test_config_json_overrides_the_node_and_hides_cards_from_everybody(
    machine: Machine, mode: dict[str, Any], hidden: dict[str, Any]
) -> None:
    overrides = [
        {"name": "another", "devicesplitcount": 7, "filterdevices": {"index": [1]}},
        {
            "name": NODE,
            "operatingmode": "mps",
            "devicememoryscaling": 2,
            "devicesplitcount": 5,
            "libcudaloglevel": "3",
            "filterdevices": hidden,
        },
    ]
    file = machine.cluster.root / "config.json"
    file.write_text(json.dumps({"nodeconfig": overrides}))
    await machine.start(mode, SECTION, config_json=str(file))
    assert machine.registered == (
        '[{"id":"GPU-b","index":1,"count":5,"devmem":163118,"devcore":100,'
        '"type":"NVIDIA-Tesla P4","mode":"mps","health":true,"devicepairscore":{}}]'
    )
    shown = machine.cluster.kubelet.devices(RESOURCE)
    assert set(shown) == {f"GPU-b-{n}" for n in range(5)}
    outcome = await machine.run([("GPU-b", 500, 3)], name="one")
    assert outcome.failure == ""
    env = machine.process(outcome.containers["c0"])["env"]
    assert (env["LIBCUDA_LOG_LEVEL"], env["CUDA_OVERSUBSCRIBE"]) == ("3", "true")
    await machine.place([("GPU-a", 100, 1)], name="two")
    outcome = await machine.cluster.run("default", "two")
    assert "GPU-a', which this node does not offer" in outcome.failure


# --- operating mode mig ------------------------------------------------------------------------

A100_40 = "NVIDIA A100-SXM4-40GB"
GEOMETRIES = [
    [{"name": "1g.5gb", "core": 14, "memory": 5120, "count": 7}],
    [
        {"name": "1g.5gb", "core": 14, "memory": 5120, "count": 1},
        {"name": "2g.10gb", "core": 28, "memory": 10240, "count": 3},
    ],
]
MIG = {
    "operatingMode": "mig",
    "deviceSplitCount": 10,
    "knownMigGeometries": [{"models": ["A100-SXM4-40GB"], "allowedGeometries": GEOMETRIES}],
}
PARTITIONABLE = (
    card("a", A100_40, 0, 40960)
    + card("b", A100_40, 1, 40960)
    + record("profile", index=0, id=19, name="MIG 1g.5gb", slices=1, memory=4864, size=1,
             starts="0,1,2,3,4,5,6", base=7)
    + record("profile", index=1, id=14, name="MIG 2g.10gb", slices=2, memory=9856, size=2,
             starts="0,2,4", base=3)
)  # fmt: skip
SMALL, LARGE = ("GPU-a[1-0]", 5120, 14), ("GPU-a[1-2]", 10240, 28)


@pytest.fixture
def divisible(machine: Machine) -> Machine:
    """Two cards that can be partitioned, and a kernel that knows their capabilities."""
    keys = [
        key
        for gpu in range(2)
        for gi in range(14)
        for key in (f"gpu{gpu}/gi{gi}/access", f"gpu{gpu}/gi{gi}/ci0/access")
    ]
    minors = "".join(f"{key} {number}\n" for number, key in enumerate(keys, 3))
    machine.put("proc/driver/nvidia-caps/mig-minors", minors)
    machine.put("proc/devices", "Character devices:\n239 nvidia-caps\n")
    return machine


def instances(machine: Machine) -> dict[str, tuple[str, list[str]]]:
    """What stands on the cards by the driver's own record: profile and capability nodes by uuid."""
    lines = machine.state.read_text().splitlines() if machine.state.exists() else []
    rows = [
        (text.split("|")[0], dict(pair.split("=") for pair in text.split("|")[1:]))
        for text in lines
    ]
    gis = {fields["at"]: fields for kind, fields in rows if kind == "gi"}
    found = {}
    for kind, fields in rows:
        if kind == "ci":
            gi = gis[fields["in"]]
            minor = 3 + 28 * int(gi["card"]) + 2 * int(gi["id"])
            nodes = [f"/dev/nvidia-caps/nvidia-cap{number}" for number in (minor, minor + 1)]
            profile = ("1g.5gb", "2g.10gb")[int(gi["profile"])]
            found[f"MIG-GPU-{'ab'[int(gi['card'])]}-{fields['serial']}"] = (profile, nodes)
    return found


def partition(machine: Machine, config: ContainerConfig) -> str:
    """The uuid of the one instance whose nodes a container has, beside those of all containers with
    something of its card; it has no limits and no library of ours.
    """
    seen = machine.process(config)
    assert seen["env"] == DRIVERS_ENV
    assert [place for place in seen["mounts"] if "vgpu" in place or "preload" in place] == []
    common = {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0"}
    own = set(seen["devices"]) - common
    assert common <= set(seen["devices"])
    (uuid,) = (uuid for uuid, (_, nodes) in instances(machine).items() if set(nodes) == own)
    return uuid


async def test_a_partitioned_node_announces_whole_cards_in_mode_mig(divisible: Machine) -> None:
    section = {**MIG, "deviceMemoryScaling": 2, "deviceCoreScaling": 2}
    await divisible.start(DEFERRED, section, PARTITIONABLE)
    assert divisible.registered == "".join(
        [
            '[{"id":"GPU-a","count":10,"devmem":40960,"devcore":100,',
            '"type":"NVIDIA A100-SXM4-40GB","mode":"mig","health":true,"devicepairscore":{}},',
            '{"id":"GPU-b","index":1,"count":10,"devmem":40960,"devcore":100,',
            '"type":"NVIDIA A100-SXM4-40GB","mode":"mig","health":true,"devicepairscore":{}}]',
        ]
    )


async def test_a_granted_partition_is_made_and_reaches_the_container(divisible: Machine) -> None:
    machine = divisible
    await machine.start(DEFERRED, MIG, PARTITIONABLE)
    assert instances(machine) == {}
    outcome = await machine.run([SMALL], name="one")
    assert outcome.failure == ""
    standing = instances(machine)
    assert sorted(profile for profile, _ in standing.values()) == ["1g.5gb", *["2g.10gb"] * 3]
    first = partition(machine, outcome.containers["c0"])
    assert standing[first][0] == "1g.5gb"
    outcome = await machine.run([LARGE], [("GPU-a[1-1]", 10240, 28)], name="two")
    assert outcome.failure == ""
    others = [partition(machine, outcome.containers[name]) for name in ("c0", "c1")]
    assert instances(machine) == standing, "what stands is used and not made anew"
    assert [standing[uuid][0] for uuid in others] == ["2g.10gb", "2g.10gb"]
    assert len({first, *others}) == 3
    assert machine.cluster.kubelet.findings == []


@pytest.mark.parametrize("mode", [LOCKED, LOCKED_CDI, ANNOTATED], ids=["envvar", "cdi", "annot"])
async def test_partitions_reach_containers_however_they_are_handed_over(
    divisible: Machine, mode: dict[str, Any]
) -> None:
    machine = divisible
    await machine.start(mode, MIG, PARTITIONABLE)
    outcome = await machine.run([SMALL], [], [LARGE, ("GPU-b[0-3]", 5120, 14)])
    assert outcome.failure == ""
    profiles = {uuid: profile for uuid, (profile, _) in instances(machine).items()}
    small, both = outcome.containers["c0"], outcome.containers["c2"]
    if mode is LOCKED:
        seen = {name: machine.process(config) for name, config in outcome.containers.items()}
        assert all(one["mounts"] == {} and one["devices"] == [] for one in seen.values())
        assert (seen["c0"]["env"].keys(), seen["c1"]["env"]) == ({"NVIDIA_VISIBLE_DEVICES"}, {})
        one, two = (seen[c]["env"]["NVIDIA_VISIBLE_DEVICES"].split(",") for c in ("c0", "c2"))
        assert [profiles[uuid] for uuid in (*one, *two)] == ["1g.5gb", "2g.10gb", "1g.5gb"]
        assert [uuid[:9] for uuid in two] == ["MIG-GPU-a", "MIG-GPU-b"]
        return
    assert profiles[partition(machine, small)] == "1g.5gb"
    devices = set(machine.process(both)["devices"])
    held = [uuid for uuid, (_, nodes) in instances(machine).items() if set(nodes) <= devices]
    assert [(uuid[:9], profiles[uuid]) for uuid in sorted(held)] == [
        ("MIG-GPU-a", "2g.10gb"),
        ("MIG-GPU-b", "1g.5gb"),
    ]
    assert len([path for path in devices if "nvidia-cap" in path]) == 4
    if mode is LOCKED_CDI:
        named = [name.partition("=")[2] for name in both.cdi_devices]
        assert named == sorted(held), "limits there are none, so the instances are all"


@BY_CRI
async def test_a_partition_that_is_held_is_refused_to_others_by_its_holder(
    divisible: Machine, mode: dict[str, Any], impatient: None
) -> None:
    machine, cluster = divisible, divisible.cluster
    await machine.start(mode, MIG, PARTITIONABLE)
    outcome = await machine.run([SMALL], name="one")
    first = outcome.containers["c0"]
    await machine.place([SMALL], name="two")
    refused = await cluster.run("default", "two")
    assert "partition 1-0 of GPU-a is held by default/one/c0" in refused.failure
    cluster.end("default", "one")
    if mode is LOCKED:
        outcome = await machine.run([SMALL], name="three")
        assert outcome.containers["c0"].envs == first.envs
    else:
        second = await cluster.start("default", "two", "c0", 5.0)
        assert partition(machine, second) == partition(machine, first)


async def test_a_card_is_partitioned_anew_once_nobody_holds_anything_of_it(
    divisible: Machine, impatient: None
) -> None:
    """Also by an agent that did not make what is held."""
    machine, cluster = divisible, divisible.cluster
    agent = await machine.start(DEFERRED, MIG, PARTITIONABLE)
    assert (await machine.run([SMALL], name="one")).failure == ""
    before = instances(machine)
    await machine.place([("GPU-a[0-4]", 5120, 14)], name="two")
    refusal = "default/one/c0 holds partition 1-0, which is of another geometry"
    assert refusal in (await cluster.run("default", "two")).failure
    await cluster.stop_agent(agent)
    await machine.start(DEFERRED, MIG, PARTITIONABLE)
    await machine.refusal("two", refusal)
    assert instances(machine) == before
    cluster.end("default", "one")
    config = await cluster.start("default", "two", "c0", 5.0)
    partition(machine, config)
    assert [profile for profile, _ in instances(machine).values()] == ["1g.5gb"] * 7


async def test_an_agent_that_goes_down_over_a_partition_finds_it_again(
    divisible: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes between the making and the start; the instance is what the container gets."""
    machine, cluster = divisible, divisible.cluster
    agent = await machine.start(DEFERRED, MIG, PARTITIONABLE)
    await machine.place([SMALL])
    assert await cluster.admit("default", "p") is None
    made, over = threading.Event(), threading.Event()

    def put(*_: object) -> None:
        made.set()
        over.wait(20)
        raise OSError("it went down before it wrote this")

    with monkeypatch.context() as patch:
        patch.setattr(SpecStore, "put", put)
        start = asyncio.create_task(cluster.start("default", "p", "c0"))
        assert await asyncio.to_thread(made.wait, 20)
        before = instances(machine)
        stopped = asyncio.create_task(cluster.stop_agent(agent))
        over.set()
        await stopped
        with pytest.raises(StartError):
            await start
    assert len(before) == 4
    await machine.start(DEFERRED, MIG, PARTITIONABLE)
    config = await cluster.start("default", "p", "c0", 10.0)
    assert instances(machine) == before
    assert before[partition(machine, config)][0] == "1g.5gb"


async def test_partitions_that_a_reboot_took_are_made_again_at_the_start(
    divisible: Machine,
) -> None:
    machine, cluster = divisible, divisible.cluster
    agent = await machine.start(DEFERRED, MIG, PARTITIONABLE)
    outcome = await machine.run([SMALL], [LARGE])
    before = [partition(machine, config) for config in outcome.containers.values()]
    await cluster.stop_agent(agent)
    for name in ("run", "cdi"):
        shutil.rmtree(cluster.root / name)
    machine.state.write_text("next|serial=100\n")
    await machine.start(DEFERRED, MIG, PARTITIONABLE)
    configs = [await cluster.start("default", "p", name, 10.0) for name in ("c0", "c1")]
    after = [partition(machine, config) for config in configs]
    assert not set(before) & set(after)
    assert [instances(machine)[uuid][0] for uuid in after] == ["1g.5gb", "2g.10gb"]


@pytest.mark.parametrize("mode", [LOCKED, LOCKED_CDI], ids=["envvar", "cdi"])
@pytest.mark.parametrize("same", [True, False], ids=["same-name", "other-name"])
async def test_a_container_that_was_told_of_a_partition_that_is_gone_does_not_start(
    divisible: Machine, mode: dict[str, Any], same: bool
) -> None:
    """Kubelet keeps the answer to Allocate over a reboot, and drivers may name instances anew."""
    machine, cluster = divisible, divisible.cluster
    agent = await machine.start(mode, MIG, PARTITIONABLE)
    outcome = await machine.run([SMALL])
    await cluster.stop_agent(agent)
    for path in (cluster.root / "run").iterdir():
        path.unlink()
    machine.state.write_text(f"next|serial={1 if same else 100}\n")
    await machine.start(mode, MIG, PARTITIONABLE)
    if same:
        assert await cluster.start("default", "p", "c0", 10.0) == outcome.containers["c0"]
        return
    gone = r"default/p/c0 was given is gone and was made again as MIG-GPU-a-\d+, .* delete the pod"
    await machine.refusal("p", gone)


@BY_CRI
@pytest.mark.parametrize(
    ("grant", "reason"),
    [
        (("GPU-a", 40960, 100), "granted GPU-a without a partition, which operating mode mig does"),
        (("GPU-a[1-4]", 5120, 14), "geometry 1 of A100-SXM4-40GB has 4 partitions and no"),
        (("GPU-a[2-0]", 5120, 14), "geometry 2 of A100-SXM4-40GB is not known on this node"),
        (("GPU-a[1-0]", 10240, 28), "has 5120 MiB (1g.5gb), but 10240 MiB are granted"),
    ],
    ids=["whole", "position", "geometry", "amount"],
)
async def test_what_no_partition_can_honour_is_refused_and_leaves_the_cards_alone(
    divisible: Machine, mode: dict[str, Any], grant: Any, reason: str
) -> None:
    machine, cluster = divisible, divisible.cluster
    await machine.start(mode, MIG, PARTITIONABLE)
    await machine.place([grant])
    assert reason in (await cluster.run("default", "p")).failure
    assert instances(machine) == {}
    await cluster.settled(lambda: MUTEX_LOCK not in cluster.node_annotations())


# --- operating mode mps ------------------------------------------------------------------------

MPS = {"operatingMode": "mps", "mpsLimits": True, "deviceSplitCount": 10}
MPS_ROOT = "/run/nvidia/mps"
MPS_PLACE = f"{MPS_ROOT}/{RESOURCE}"
MPS_CONTROL = Path(__file__).parents[1] / "fakelibs" / "mps" / "mps_control.py"
MPS_MOUNTS = {
    f"/mps/{RESOURCE}/pipe": (f"{MPS_PLACE}/pipe", False),
    "/dev/shm": (f"{MPS_ROOT}/shm", False),
}


class Daemons:
    """``deviceplugin mps`` on a machine, with a control program that writes down what it is told."""

    def __init__(self, machine: Machine) -> None:
        self.machine, root = machine, machine.cluster.root
        self.host = machine.host / MPS_ROOT.lstrip("/")
        self.told = root / "told"
        self._config, self._programs = root / "mps.yaml", root / "bin"
        self._config.write_text(json.dumps({"version": "v1", "nvidia": MPS}))
        self._programs.mkdir()
        for name in ("nvidia-smi", "mount"):
            (self._programs / name).write_text("#!/bin/sh\n")
            (self._programs / name).chmod(0o755)
        (self._programs / "nvidia-cuda-mps-control").symlink_to(MPS_CONTROL)
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        self._run()
        await self.machine.cluster.settled(self._ready, 60.0)

    def _run(self) -> None:
        self.machine.scenario.write_text(DRIVER + CARDS)
        options = {
            "config-file": self._config, "node-name": NODE, "mps-dir": self.host,
            "host-root": self.machine.host, "nvidia-driver-root": self.machine.driver,
            "container-driver-root": self.machine.driver,
        }  # fmt: skip
        main = "import sys; from deviceplugin.cli.mps import mps; mps(sys.argv[1:])"
        path = f"{self._programs}:{os.environ['PATH']}"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", main, *(f"--{k}={v}" for k, v in options.items())],
            env={**os.environ, "PATH": path, "FAKE_MPS_RECORD": str(self.told)},
        )

    def _ready(self) -> bool:
        """Whether its marks are its own, and not those of one before."""
        assert self._process is not None
        assert self._process.poll() is None
        return (self.host / ".ready").exists() and any(self.host.rglob("*.pid"))

    def kill(self) -> None:
        """It and its control daemon end without a word, as with their container."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for file in self.host.rglob("*.pid"):
            watched = os.pidfd_open(int(file.read_text()))
            signal.pidfd_send_signal(watched, signal.SIGKILL)
            select.select([watched], [], [])  # nobody's child of ours: gone when this says so
            os.close(watched)
            file.unlink()


@pytest.fixture
def daemons(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemons]:
    """On a node whose kubelet learns at once what has changed."""
    monkeypatch.setattr("deviceplugin.runtime.IMPEDIMENT_POLL_SECONDS", 0.05)
    made = Daemons(machine)
    yield made
    made.kill()


def healthy(machine: Machine) -> bool:
    states = machine.cluster.kubelet.devices(RESOURCE).values()
    return all(state.health == "Healthy" for state in states)


def by_mps(machine: Machine, mode: Mapping[str, Any], uuids: str, limits: Any) -> dict[str, Any]:
    """The whole of what a container gets that MPS limits: what any gets of the cards, the way to
    the daemon, and nothing of libvgpu.
    """
    expected = machine.expected(mode, "", uuids, limits)
    expected["env"]["CUDA_MPS_PIPE_DIRECTORY"] = f"/mps/{RESOURCE}/pipe"
    cards = {k: v for k, v in expected["mounts"].items() if k.startswith(f"/{LIBRARIES}")}
    return {**expected, "mounts": {**cards, **MPS_MOUNTS}}


@pytest.mark.parametrize(
    "mode", [LOCKED, LOCKED_CDI, DEFERRED, ANNOTATED],
    ids=["envvar", "locked-cdi-cri", "cdi-cri", "cdi-annotations"],
)  # fmt: skip
async def test_in_mode_mps_each_container_gets_exactly_its_own(
    daemons: Daemons, machine: Machine, mode: dict[str, Any]
) -> None:
    await daemons.start()
    assert daemons.told.read_text().splitlines()[:3] == [
        "set_default_device_pinned_mem_limit 0 81559M",
        "set_default_device_pinned_mem_limit 1 81559M",
        "set_default_active_thread_percentage 100",
    ]
    section = {**MPS, "deviceMemoryScaling": 2, "libCudaLogLevel": "1"}
    agent = await machine.start(mode, section, mps_root=MPS_ROOT)
    assert machine.registered == (
        '[{"id":"GPU-a","count":10,"devmem":81559,"devcore":100,"type":"NVIDIA A100-SXM4-80GB",'
        '"mode":"mps","health":true,"devicepairscore":{}},'
        '{"id":"GPU-b","index":1,"count":10,"devmem":81559,"devcore":100,'
        '"type":"NVIDIA-Tesla P4","mode":"mps","health":true,"devicepairscore":{}}]'
    )
    both = [("GPU-b", 200, 20), ("GPU-a", 3000, 30)]
    outcome = await machine.run([("GPU-b", 500, 3)], [], both)
    assert outcome.failure == ""
    seen = {name: machine.process(config) for name, config in outcome.containers.items()}
    assert seen["c0"] == by_mps(
        machine,
        mode,
        "GPU-b",
        {
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=500M",
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "3",
        },
    )
    assert seen["c1"] == {"env": {}, "mounts": {}, "devices": []}
    assert seen["c2"] == by_mps(
        machine,
        mode,
        "GPU-a,GPU-b",
        {
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=3000M,1=200M",
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "20",
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        },
    )
    assert not (machine.host / "usr/local/vgpu/containers").exists()
    cluster = machine.cluster
    await cluster.settled(lambda: cluster.pod_annotations("p")[BIND_PHASE] == "success")
    await cluster.settled(lambda: MUTEX_LOCK not in cluster.node_annotations())
    assert cluster.kubelet.findings == []
    assert await asyncio.to_thread(samples, agent, "deviceplugin_isolation_active") == []
    unknown = await asyncio.to_thread(samples, agent, "deviceplugin_isolation_unknown")
    owner = {"namespace": "default", "pod": "p", "reason": "cooperative"}
    assert unknown == [({**owner, "container": name}, 1.0) for name in ("c0", "c2")]


@BY_CRI
async def test_what_people_write_is_what_a_client_of_mps_gets(
    daemons: Daemons, machine: Machine, mode: dict[str, Any]
) -> None:
    """Placed on cards of this mode by NVIDIA's scheduling half."""
    await daemons.start()
    await machine.start(mode, MPS, mps_root=MPS_ROOT)
    backends = scheduling_backends("nvidia", MPS)
    limits = {RESOURCE: "2", "nvidia.com/gpumem-percentage": "50", "nvidia.com/gpucores": "25"}
    container = {"name": "main", "image": "x", "resources": {"limits": limits}}
    meta = {"name": "p", "namespace": "default", "annotations": {"nvidia.com/vgpu-mode": "mps"}}
    machine.cluster.create(admit({"metadata": meta, "spec": {"containers": [container]}}, backends))
    scheduler = machine.cluster.scheduler(Habit.HAMI28)
    await asyncio.to_thread(place_pod, scheduler, "default", "p", backends)
    outcome = await machine.cluster.run("default", "p", 5.0)
    assert outcome.failure == ""
    env = machine.process(outcome.containers["main"])["env"]
    assert env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=40779M,1=40779M"
    assert env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "25"


@BY_CRI
async def test_without_its_daemon_nothing_is_handed_out_and_the_remedy_is_named(
    daemons: Daemons, machine: Machine, mode: dict[str, Any]
) -> None:
    agent = await machine.start(mode, MPS, mps_root=MPS_ROOT)
    cluster = machine.cluster
    await cluster.until(lambda: not healthy(machine))
    reason = (
        f"the MPS daemon of {RESOURCE} is not ready: {MPS_ROOT}/.ready is missing on the node; run "
        "`deviceplugin mps` there and look at its log"
    )
    assert agent.readiness.blockers()[f"{RESOURCE} impediment"] == reason
    if mode is DEFERRED:  # in the other its lock would have to expire
        await machine.place([("GPU-a", 500, 3)], name="early")
        assert "unhealthy devices" in (await cluster.run("default", "early")).failure
    await daemons.start()
    await cluster.until(lambda: healthy(machine))
    outcome = await machine.run([("GPU-a", 500, 3)])
    assert outcome.failure == ""


@BY_CRI
async def test_a_container_that_starts_again_waits_for_a_daemon_that_died(
    daemons: Daemons, machine: Machine, mode: dict[str, Any]
) -> None:
    await daemons.start()
    await machine.start(mode, MPS, mps_root=MPS_ROOT)
    outcome = await machine.run([("GPU-a", 500, 3)])
    assert outcome.failure == ""
    daemons.kill()
    assert (daemons.host / ".ready").exists(), "marks outlive who made them"
    left = f"{MPS_PLACE}/pipe/control does not answer .* run `deviceplugin mps` there"
    await machine.refusal("p", left)
    await machine.cluster.until(lambda: not healthy(machine))
    await daemons.start()
    await machine.cluster.until(lambda: healthy(machine))
    again = await machine.cluster.start("default", "p", "c0")
    assert machine.process(again) == machine.process(outcome.containers["c0"])


@BY_CRI
@pytest.mark.parametrize(
    ("name", "cards"),
    [
        ("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", 1),
        ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", 1),
        ("CUDA_MPS_PIPE_DIRECTORY", 1),
        ("CUDA_VISIBLE_DEVICES", 2),
    ],
)
async def test_in_mode_mps_a_pod_that_sets_a_limit_itself_is_refused(
    daemons: Daemons, machine: Machine, mode: dict[str, Any], name: str, cards: int
) -> None:
    await daemons.start()
    await machine.start(mode, MPS, mps_root=MPS_ROOT)
    grant = [(f"GPU-{letter}", 500, 3) for letter in "ab"[:cards]]
    await machine.place(grant, env={name: "0"})
    outcome = await machine.cluster.run("default", "p")
    assert f"container c0 of pod default/p sets {name}, which limits devices" in outcome.failure


# --- what the library writes -------------------------------------------------------------------


def samples(agent: Any, name: str) -> list[tuple[dict[str, str], float]]:
    """Labels and values of a metric."""
    text = generate_latest(agent.metrics.registry).decode()
    return [
        (dict(re.findall(r'(\w+)="([^"]*)"', line)), float(line.rpartition(" ")[2]))
        for line in text.splitlines()
        if line.startswith(name + "{")
    ]


@MODES
@pytest.mark.parametrize(
    ("memory", "cores", "reason"),
    [
        ((100, 200), (10, 20), "limits-hold"),
        ((100, 0), (10, 20), "memory-limit-differs"),
        ((200, 100), (10, 20), "memory-limit-differs"),
        ((100, 200), (10, 100), "core-limit-differs"),
    ],
)
async def test_limits_count_as_in_force_where_the_library_wrote_those_that_were_granted(
    machine: Machine, mode: dict[str, Any], memory: Any, cores: Any, reason: str
) -> None:
    agent = await machine.start(mode, SECTION)
    outcome = await machine.run([("GPU-a", 100, 10), ("GPU-b", 200, 20)])
    seen = machine.process(outcome.containers["c0"])
    # Where the process would write it, through its mount, is where it is found.
    inside = Path(seen["env"]["CUDA_DEVICE_MEMORY_SHARED_CACHE"])
    folder = machine.host / seen["mounts"][str(inside.parent)][0].lstrip("/")
    process = FakeProcess(7, 4711, used={1: (1 * MIB, 2 * MIB, 3 * MIB)}, sm={1: 15})
    FakeRegion(
        uuids=("GPU-a", "GPU-b"),
        memory=[amount * MIB for amount in memory],
        cores=cores,
        processes=[process],
    ).write(folder / inside.name)
    found = {
        name: await asyncio.to_thread(samples, agent, name)
        for name in (
            "deviceplugin_isolation_active",
            "vGPU_device_memory_usage_in_bytes",
            "vGPU_device_memory_limit_in_bytes",
            "Device_utilization_desc_of_container",
        )
    }
    owner = {"namespace": "default", "pod": "p", "container": "c0", "reason": reason}
    active = float(reason == "limits-hold")
    assert found.pop("deviceplugin_isolation_active") == [(owner, active)]
    values = {
        name: [
            (labels["podname"], labels["ctrname"], labels["deviceuuid"], value)
            for labels, value in one
        ]
        for name, one in found.items()
    }
    assert values == {
        "vGPU_device_memory_usage_in_bytes": [
            ("p", "c0", "GPU-a", 0.0),
            ("p", "c0", "GPU-b", 6.0 * MIB),
        ],
        "vGPU_device_memory_limit_in_bytes": [
            ("p", "c0", "GPU-a", memory[0] * MIB),
            ("p", "c0", "GPU-b", memory[1] * MIB),
        ],
        "Device_utilization_desc_of_container": [
            ("p", "c0", "GPU-a", 0.0),
            ("p", "c0", "GPU-b", 15.0),
        ],
    }
