"""NVIDIA's backend under a scheduler: what HAMi's own plugin would hand over, to the letter
(hami-nvidia-node.md 2.3, 3.4, 3.5, 3.8).
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.api.hami.keys import BIND_PHASE, VENDORS
from deviceplugin.testing.cluster import Cluster, devices, manifest
from deviceplugin.testing.kubelet import ContainerConfig
from deviceplugin.testing.scheduling import Habit

KEYS = VENDORS["NVIDIA"]
RESOURCE = "nvidia.com/gpu"
SOURCE = Path(__file__).parents[1] / "fakelibs" / "nvml" / "nvml.c"
LOCKED = {"allocation": "scheduled-locked", "device_list_strategy": ("envvar",)}
DEFERRED = {"allocation": "scheduled-deferred", "device_list_strategy": ("cdi-cri",)}
CACHE = r"/usr/local/vgpu/[0-9a-f-]{36}\.cache"


@pytest.fixture(scope="session")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc) to build the fake NVML with")
    target = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.550.54.15"
    flags = ["-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([compiler, *flags, "-o", str(target), str(SOURCE)], check=True)
    return target


@pytest.fixture
def start(
    cluster: Cluster, nvml: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, object]]:
    """Prepare a node of two cards with libvgpu; answers the agent's options."""

    def prepare(**options: object) -> dict[str, object]:
        driver, host = cluster.root / "driver", cluster.root / "host"
        libraries = driver / "usr/lib/x86_64-linux-gnu"
        libraries.mkdir(parents=True)
        shutil.copy(nvml, libraries)
        (libraries / "libnvidia-ml.so.1").symlink_to(nvml.name)
        (driver / "dev").mkdir()
        for name in ("nvidiactl", "nvidia-uvm", "nvidia0", "nvidia1"):
            (driver / "dev" / name).write_text("")
        vgpu = host / "usr/local/vgpu"
        vgpu.mkdir(parents=True)
        (vgpu / "libvgpu.so.v2.8.0").write_text("")
        (vgpu / "ld.so.preload").write_text("/usr/local/vgpu/libvgpu.so\n")
        scenario = cluster.root / "scenario"
        scenario.write_text(
            "driver|version=550.54.15|cuda=12040\n"
            + "".join(
                f"card|uuid=GPU-{letter}|name={name}|memory={81559 * 1024**2}"
                f"|bus=00000000:{bus}:00.0|minor={minor}|cc=8.0|mig=0\n"
                for minor, (letter, name, bus) in enumerate(
                    (("a", "NVIDIA A100-SXM4-80GB", "3B"), ("b", "Tesla P4", "3C"))
                )
            )
        )
        monkeypatch.setenv("FAKE_NVML_SCENARIO", str(scenario))
        return {"vendors": ("nvidia",), "driver_root_ctr_path": str(driver), **options}

    return prepare


SECTION = {"nvidia": {"deviceSplitCount": 10, "libCudaLogLevel": "1"}}


async def granted(cluster: Cluster, *grants: Any, **more: Any) -> Any:
    containers = {f"c{i}": len(one) for i, one in enumerate(grants)}
    cluster.create(manifest(RESOURCE, "p", containers, **more))
    wishes = [devices(KEYS, *one) for one in grants]
    await cluster.place(Habit.HAMI28, KEYS, "p", *wishes)
    return await cluster.run("default", "p", 5.0)


def mounts(config: ContainerConfig) -> dict[str, tuple[str, bool]]:
    return {m.container_path: (m.host_path, m.read_only) for m in config.mounts}


def without_cache(env: dict[str, str]) -> dict[str, str]:
    assert re.fullmatch(CACHE, env["CUDA_DEVICE_MEMORY_SHARED_CACHE"])
    return {k: v for k, v in env.items() if k != "CUDA_DEVICE_MEMORY_SHARED_CACHE"}


async def test_the_node_announces_its_cards_as_hami_reads_them(
    cluster: Cluster, start: Callable[..., dict[str, object]]
) -> None:
    cluster.start_agent(SECTION, **start(**LOCKED))
    assert await cluster.ready(KEYS, RESOURCE) == ["GPU-a", "GPU-b"]
    assert cluster.node_annotations()["hami.io/node-nvidia-register"] == (
        '[{"id":"GPU-a","count":10,"devmem":81559,"devcore":100,"type":"NVIDIA A100-SXM4-80GB",'
        '"mode":"hami-core","health":true,"devicepairscore":{}},'
        '{"id":"GPU-b","index":1,"count":10,"devmem":81559,"devcore":100,'
        '"type":"NVIDIA-Tesla P4","mode":"hami-core","health":true,"devicepairscore":{}}]'
    )
    assert "hami.io/node-handshake" not in cluster.node_annotations()


async def test_each_container_gets_exactly_its_environment_and_mounts(
    cluster: Cluster, start: Callable[..., dict[str, object]]
) -> None:
    cluster.start_agent(SECTION, **start(**LOCKED))
    await cluster.ready(KEYS, RESOURCE)
    both = [("GPU-a", 3000, 30), ("GPU-b", 3000, 30)]
    outcome = await granted(cluster, [("GPU-b", 500, 3)], [], both)
    assert outcome.failure == ""
    uid = cluster.server.get("pods", "p", "default")["metadata"]["uid"]
    assert without_cache(outcome.environments["c0"]) == {
        "NVIDIA_VISIBLE_DEVICES": "GPU-b",
        "CUDA_DEVICE_MEMORY_LIMIT_0": "500m",
        "CUDA_DEVICE_SM_LIMIT": "3",
        "LIBCUDA_LOG_LEVEL": "1",
    }
    assert outcome.environments["c1"] == {}
    assert without_cache(outcome.environments["c2"]) == {
        "NVIDIA_VISIBLE_DEVICES": "GPU-a,GPU-b",
        "CUDA_DEVICE_MEMORY_LIMIT_0": "3000m",
        "CUDA_DEVICE_MEMORY_LIMIT_1": "3000m",
        "CUDA_DEVICE_SM_LIMIT": "30",
        "LIBCUDA_LOG_LEVEL": "1",
    }
    folder = f"/usr/local/vgpu/containers/{uid}_c2"
    assert mounts(outcome.containers["c2"]) == {
        "/usr/local/vgpu/libvgpu.so": ("/usr/local/vgpu/libvgpu.so.v2.8.0", True),
        "/usr/local/vgpu": (folder, False),
        "/tmp/vgpulock": ("/tmp/vgpulock", False),
        "/etc/ld.so.preload": ("/usr/local/vgpu/ld.so.preload", True),
    }
    for path in (folder, "/tmp/vgpulock"):
        made = cluster.root / "host" / path.lstrip("/")
        assert stat.S_IMODE(made.stat().st_mode) == 0o777
    await cluster.settled(lambda: cluster.pod_annotations("p")[BIND_PHASE] == "success")
    assert cluster.pod_annotations("p")["hami.io/vgpu-devices-to-allocate"] == ";;;"


async def test_by_cdi_the_same_limits_hold_whatever_the_pod_sets(
    cluster: Cluster, start: Callable[..., dict[str, object]]
) -> None:
    driver = cluster.root / "driver"
    options = start(**DEFERRED, nvidia_driver_root=str(driver))
    for node in (driver / "dev").iterdir():
        node.unlink()
        try:
            os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("no right to make device nodes (needs root)")
    cluster.start_agent(SECTION, **options)
    await cluster.ready(KEYS, RESOURCE)
    own = {"LIBCUDA_LOG_LEVEL": "4", "CUDA_VISIBLE_DEVICES": "0"}
    outcome = await granted(cluster, [("GPU-b", 500, 3)], env=own)
    assert outcome.failure == ""
    env = outcome.environments["c0"]
    assert env["CUDA_DEVICE_MEMORY_LIMIT_0"] == "500m"
    assert env["LIBCUDA_LOG_LEVEL"] == "1"
    assert env["CUDA_VISIBLE_DEVICES"] == "0", "a pod's own choice among its devices is its own"
    oci = outcome.containers["c0"].apply_cdi([cluster.root / "cdi"])
    assert "/dev/nvidia1" in {device["path"] for device in oci["linux"]["devices"]}
    assert "/dev/nvidia0" not in {device["path"] for device in oci["linux"]["devices"]}
    assert "/etc/ld.so.preload" in {mount["destination"] for mount in oci["mounts"]}


@pytest.mark.parametrize("mode", [LOCKED, DEFERRED], ids=["locked", "deferred"])
async def test_a_pod_that_sets_its_own_limit_is_refused_by_name(
    cluster: Cluster, start: Callable[..., dict[str, object]], mode: dict[str, object]
) -> None:
    cluster.start_agent(SECTION, **start(**mode))
    await cluster.ready(KEYS, RESOURCE)
    own = {"CUDA_DEVICE_MEMORY_LIMIT_0": "99999m"}
    outcome = await granted(cluster, [("GPU-a", 500, 3)], env=own)
    assert "sets CUDA_DEVICE_MEMORY_LIMIT_0, which limits devices" in outcome.failure


@pytest.mark.parametrize("allowed", [False, True])
async def test_control_is_switched_off_only_where_the_operator_allows_it(
    cluster: Cluster, start: Callable[..., dict[str, object]], allowed: bool
) -> None:
    section = {"nvidia": {**SECTION["nvidia"], "allowDisableControl": allowed}}
    cluster.start_agent(section, **start(**LOCKED))
    await cluster.ready(KEYS, RESOURCE)
    outcome = await granted(cluster, [("GPU-a", 500, 3)], env={"CUDA_DISABLE_CONTROL": "true"})
    if allowed:
        assert "/etc/ld.so.preload" not in mounts(outcome.containers["c0"])
    else:
        assert "nvidia.allowDisableControl" in outcome.failure


async def test_overcommitted_memory_is_announced_and_told_to_the_library(
    cluster: Cluster, start: Callable[..., dict[str, object]]
) -> None:
    section = {"nvidia": {**SECTION["nvidia"], "deviceMemoryScaling": 2, "disableCoreLimit": True}}
    cluster.start_agent(section, **start(**LOCKED))
    await cluster.ready(KEYS, RESOURCE)
    assert '"devmem":163118' in cluster.node_annotations()["hami.io/node-nvidia-register"]
    outcome = await granted(cluster, [("GPU-a", 100_000, 0)])
    env = without_cache(outcome.environments["c0"])
    assert env["CUDA_OVERSUBSCRIBE"] == "true"
    assert env["GPU_CORE_UTILIZATION_POLICY"] == "disable"
    assert env["CUDA_DEVICE_MEMORY_LIMIT_0"] == "100000m"


async def test_a_hidden_card_is_nowhere(
    cluster: Cluster, start: Callable[..., dict[str, object]]
) -> None:
    section = {"nvidia": {**SECTION["nvidia"], "filterDevices": {"uuid": ["GPU-a"]}}}
    cluster.start_agent(section, **start(**LOCKED))
    assert await cluster.ready(KEYS, RESOURCE) == ["GPU-b"]
    outcome = await granted(cluster, [("GPU-a", 100, 1)])
    assert "GPU-a', which this node does not offer" in outcome.failure
