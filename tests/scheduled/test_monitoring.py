"""What containers use shows in the agent's metrics from the first scrape after their grant."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import generate_latest

from deviceplugin.testing.cluster import Cluster, devices, manifest
from deviceplugin.testing.libvgpu import FakeRegion
from deviceplugin.testing.scheduling import Habit
from deviceplugin.vendors.mock.configuration import KEYS_OF_OUR_OWN as KEYS

RESOURCE = "mock.deviceplugin.dev/gpu"
SMALL = {"mock": {"profile": "small", "deviceSplitCount": 10}}
DEFERRED = {"allocation": "scheduled-deferred", "device_list_strategy": ("cdi-cri",)}


def samples(agent: Any, name: str) -> list[str]:
    text = generate_latest(agent.metrics.registry).decode()
    return [line for line in text.splitlines() if line.startswith(name + "{")]


async def test_a_scheduled_container_is_seen_with_its_limit_at_once_and_gone_when_it_is(
    cluster: Cluster,
) -> None:
    agent = cluster.start_agent(SMALL, **DEFERRED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.OURS, KEYS, "p", devices(KEYS, (a, 100, 1)))
    assert (await cluster.run("default", "p")).failure == ""
    (line,) = await asyncio.to_thread(samples, agent, "vGPU_device_memory_limit_in_bytes")
    assert 'podname="p"' in line
    assert line.endswith(" 1.048576e+08")
    cluster.delete("default", "p")
    async with asyncio.timeout(10):
        while await asyncio.to_thread(samples, agent, "vGPU_device_memory_limit_in_bytes"):
            await asyncio.sleep(0.05)


async def test_a_region_that_the_library_wrote_is_used(cluster: Cluster) -> None:
    agent = cluster.start_agent(SMALL, **DEFERRED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.OURS, KEYS, "p", devices(KEYS, (a, 100, 1)))
    assert (await cluster.run("default", "p")).failure == ""
    uid = cluster.server.get("pods", "p", "default")["metadata"]["uid"]
    folder = cluster.root / "host" / "usr/local/vgpu/containers" / f"{uid}_c0"
    folder.mkdir(parents=True)
    region = FakeRegion(uuids=(a,), memory=(100 << 20,), cores=(1,))
    region.write(folder / "x.cache")
    active = await asyncio.to_thread(samples, agent, "deviceplugin_isolation_active")
    assert active, "the verdict on the limits is told"


async def test_a_standalone_container_is_seen_by_kubelets_word(cluster: Cluster) -> None:
    agent = cluster.start_agent(SMALL)
    await cluster.kubelet.wait_registered(RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    assert (await cluster.run("default", "p")).failure == ""
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(samples, agent, "vGPU_device_memory_limit_in_bytes"):
            await asyncio.sleep(0.05)


async def test_a_standalone_containers_limits_are_cooperative_where_its_own_processes_keep_them(
    cluster: Cluster,
) -> None:
    node = {"devices": [{"model": "M"}], "split": {"count": 4, "sharing": "mps"}}
    agent = cluster.start_agent({"mock": {"node": node}})
    await cluster.kubelet.wait_registered(RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    assert (await cluster.run("default", "p")).failure == ""
    async with asyncio.timeout(10):
        while not (
            seen := await asyncio.to_thread(samples, agent, "deviceplugin_isolation_unknown")
        ):
            await asyncio.sleep(0.05)
    assert [line.rpartition("reason=")[2] for line in seen] == ['"cooperative"} 1.0']
