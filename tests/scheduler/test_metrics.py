"""The scheduler's metrics over HTTP, under the names of both ages (hami-scheduler.md 7)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deviceplugin.http import Endpoint
from deviceplugin.scheduler.metrics import Latencies, SchedulerMetrics, exposed
from deviceplugin.series import Names

MIB = 1024 * 1024


async def scraped(made: Any, names: Names) -> dict[str, list[tuple[dict[str, str], float]]]:
    """What Prometheus gets, by sample name."""
    from urllib.request import urlopen

    from prometheus_client import CollectorRegistry

    registry, loop = CollectorRegistry(), asyncio.get_running_loop()
    Latencies(registry).seconds.labels("filter").observe(0.1)

    async def now() -> Any:
        return made.moment()

    registry.register(
        SchedulerMetrics(lambda: asyncio.run_coroutine_threadsafe(now(), loop).result(5), names)
    )
    endpoint = Endpoint("127.0.0.1:0", registry, dict)
    try:
        host, port = endpoint.address

        def get() -> str:
            with urlopen(f"http://{host}:{port}/metrics") as answer:
                return str(answer.read().decode())

        text = await asyncio.to_thread(get)
    finally:
        endpoint.close()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


@pytest.fixture
async def running(bench: Any, make: Any) -> Any:
    bench.server.create("nodes", make.node("a", cards=1, memory=8000, deferred=True))
    bench.server.create("pods", make.pod("p", memory=2000, cores=25))
    made, address = await bench.scheduler()
    await bench.filter(address, "p", ["a"])
    assert await bench.bind(address, "p", "a") == ""
    return made


async def test_the_names_and_labels_are_those_of_hami_2_8(running: Any) -> None:
    found = await scraped(running, Names.V2_8)
    card = {"nodeid": "a", "deviceuuid": "GPU-a-0", "deviceidx": "0", "zone": "vGPU"}
    assert found["GPUDeviceMemoryLimit"] == [(card, 8000 * MIB)]
    assert found["GPUDeviceCoreLimit"] == [(card, 100)]
    assert found["GPUDeviceMemoryAllocated"] == [({**card, "devicecores": "25"}, 2000 * MIB)]
    assert found["GPUDeviceSharedNum"] == [(card, 1)]
    assert found["GPUDeviceCoreAllocated"] == [(card, 25)]
    assert found["nodeGPUMemoryPercentage"] == [(card, 0.25)]
    overview = {
        **card,
        "devicecores": "25",
        "sharedcontainers": "1",
        "devicememorylimit": "8000",
        "devicetype": "NVIDIA-Tesla T4",
    }
    assert found["nodeGPUOverview"] == [(overview, 2000 * MIB)]
    pod = {
        "podnamespace": "default",
        "nodename": "a",
        "podname": "p",
        "containeridx": "0",
        "deviceuuid": "GPU-a-0",
        "zone": "vGPU",
    }
    assert found["vGPUMemoryAllocated"] == [(pod, 2000 * MIB)]
    assert found["vGPUCoreAllocated"] == [(pod, 25)]
    assert len(found["hami_build_info"]) == 1
    assert not any(name.startswith("hami_gpu") for name in found)


async def test_the_names_of_2_9_by_a_setting(running: Any) -> None:
    found = await scraped(running, Names.V2_9)
    card = {"node": "a", "device_uuid": "GPU-a-0", "device_index": "0", "zone": "vGPU"}
    assert found["hami_gpu_memory_limit_bytes"] == [(card, 8000 * MIB)]
    pod = {
        "namespace": "default",
        "node": "a",
        "pod": "p",
        "container_index": "0",
        "device_uuid": "GPU-a-0",
        "zone": "vGPU",
    }
    assert found["hami_vgpu_memory_allocated_bytes"] == [(pod, 2000 * MIB)]
    assert "vGPUMemoryAllocated" not in found


async def test_our_own_tell_what_was_answered(running: Any) -> None:
    found = await scraped(running, Names.BOTH)
    answers = {
        (k["verb"], k["outcome"]): v for k, v in found["deviceplugin_scheduler_answers_total"]
    }
    assert answers == {("filter", "placed"): 1, ("bind", "bound"): 1}
    assert found["deviceplugin_scheduler_nodes"] == [({}, 1)]
    assert found["deviceplugin_scheduler_leader"] == [({}, 1)]
    assert found["deviceplugin_scheduler_answer_seconds_count"] == [({"verb": "filter"}, 1)]


async def test_a_gone_node_is_no_longer_told_of(running: Any, bench: Any) -> None:
    bench.server.delete("nodes", "a")
    await bench.until(lambda: running.cluster.names() == ())
    names = {metric.name for metric in exposed(running.moment(), Names.V2_8) if metric.samples}
    assert "GPUDeviceMemoryLimit" not in names


async def test_two_slices_of_one_card_in_one_container_are_one_series(running: Any) -> None:
    """HAMi 2.8's whole scrape fails on them (hami-scheduler.md 10.8)."""
    from dataclasses import replace

    (holding,) = running.cluster.holdings()
    (held,) = holding.held["NVIDIA"]
    twice = replace(held, devices=(*held.devices, *held.devices))
    running.cluster._see(holding.uid, replace(holding, held={"NVIDIA": (twice,)}))
    (family,) = [
        m for m in exposed(running.moment(), Names.V2_8) if m.name == "vGPUMemoryAllocated"
    ]
    assert [sample.value for sample in family.samples] == [4000 * MIB]
