"""The scheduler's metrics over HTTP, under the names of both ages (hami-scheduler.md 7)."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deviceplugin import registry
from deviceplugin.api.hami import register
from deviceplugin.api.hami.keys import MUTEX_LOCK
from deviceplugin.api.hami.keys import NVIDIA_REGISTER as REGISTER
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
    place = {"node": "a", "device_uuid": "GPU-a-0", "device_index": "0", "zone": "vGPU"}
    card = {**place, "device_type": "NVIDIA-Tesla T4"}
    assert found["hami_gpu_memory_limit_bytes"] == [(card, 8000 * MIB)]
    assert found["hami_gpu_core_limit_ratio"] == [(card, 100)]
    allocated = {**card, "device_cores": "25"}
    assert found["hami_gpu_memory_allocated_bytes"] == [(allocated, 2000 * MIB)]
    assert found["hami_gpu_shared_count"] == [(card, 1)]
    assert found["hami_gpu_core_allocated_ratio"] == [(card, 25)]
    overview = {**allocated, "shared_containers": "1", "device_memory_limit": "8000"}
    assert found["hami_node_gpu_overview"] == [(overview, 2000 * MIB)]
    assert found["hami_node_gpu_memory_allocated_ratio"] == [(place, 0.25)]
    pod = {
        "namespace": "default",
        "node": "a",
        "pod": "p",
        "container_index": "0",
        "device_uuid": "GPU-a-0",
        "zone": "vGPU",
    }
    assert found["hami_vgpu_memory_allocated_bytes"] == [(pod, 2000 * MIB)]
    assert found["hami_vgpu_core_allocated_ratio"] == [(pod, 25)]
    assert not any(name.startswith(("GPU", "nodeGPU", "vGPU", "Quota")) for name in found)


async def test_quotas_and_use_without_one(running: Any, bench: Any) -> None:
    hard = {"limits.nvidia.com/gpumem": "5000"}
    bench.server.create(
        "resourcequotas",
        {"metadata": {"name": "q", "namespace": "default"}, "spec": {"hard": hard}},
    )
    await bench.until(lambda: list(running.quotas.limits()))
    found = await scraped(running, Names.BOTH)
    assert told(found["QuotaUsed"], "quotanamespace", "quotaName", "limit") == {
        ("default", "nvidia.com/gpumem", "5000"): 2000,
        ("default", "nvidia.com/gpucores", "0"): 25,
    }
    assert told(found["hami_resource_quota_used"], "namespace", "quota_name", "limit") == {
        ("default", "nvidia.com/gpumem", "5000"): 2000,
        ("default", "nvidia.com/gpucores", "0"): 25,
    }
    limits = told(found["hami_resource_quota_limit"], "namespace", "quota_name")
    assert limits == {("default", "nvidia.com/gpumem"): 5000}


async def test_partitions_are_told_by_profile_and_position_also_the_free_ones(
    bench: Any, make: Any
) -> None:
    """And containers that hold them by the slot, as it is written on the pod."""
    profiles = [("1g.5gb", 14, 5120, 1), ("2g.10gb", 28, 10240, 3)]
    geometry = [
        {"name": name, "core": core, "memory": memory, "count": count}
        for name, core, memory, count in profiles
    ]
    section = {"knownMigGeometries": [{"models": ["T4"], "allowedGeometries": [geometry]}]}
    item = make.node("a", cards=2, memory=40960, deferred=True)
    annotations = item["metadata"]["annotations"]
    devices = [
        replace(device, mode="mig", count=7) for device in register.decode(annotations[REGISTER])
    ]
    annotations[REGISTER] = register.encode(devices)
    bench.server.create("nodes", item)
    made, address = await bench.scheduler()
    await made.serve(registry.load_scheduling(registry.load().vendors["nvidia"], section))
    for name in ("p", "q"):
        bench.server.create("pods", make.pod(name, memory=8000, cores=0))
        answer = await bench.filter(address, name, ["a"])
        assert answer["NodeNames"] == ["a"], answer
    found = await scraped(made, Names.BOTH)
    for metric, uuid, label in (
        ("nodeGPUMigInstance", "deviceuuid", "migname"),
        ("hami_node_gpu_mig_instance_info", "device_uuid", "mig_name"),
    ):
        by_card: dict[str, dict[str, float]] = {}
        for labels, value in found[metric]:
            by_card.setdefault(labels[uuid], {})[labels[label]] = value
        (names, *_others) = by_card.values()
        assert list(names) == ["1g.5gb-0", "2g.10gb-1", "2g.10gb-2", "2g.10gb-3"]
        assert sum(sum(values.values()) for values in by_card.values()) == 2
    for metric, uuid in (
        ("vGPUMemoryAllocated", "deviceuuid"),
        ("hami_vgpu_memory_allocated_bytes", "device_uuid"),
    ):
        assert len(found[metric]) == 2
        for labels, value in found[metric]:
            assert re.fullmatch(r"GPU-a-[01]\[0-[123]\]", labels[uuid])
            assert value == 10240 * MIB


def told(found: list[tuple[dict[str, str], float]], *labels: str) -> dict[tuple[str, ...], float]:
    """The values of a metric by some of its labels; the rest is the zone."""
    assert all(set(each) == {*labels, "zone"} for each, _ in found)
    return {tuple(each[label] for label in labels): value for each, value in found}


async def test_a_card_of_no_size_has_no_share(bench: Any, make: Any) -> None:
    """HAMi 2.8 tells NaN; 2.10 nothing."""
    bench.server.create("nodes", make.node("a", cards=1, memory=0, deferred=True))
    made, _ = await bench.scheduler()
    found = await scraped(made, Names.BOTH)
    assert "nodeGPUMemoryPercentage" not in found
    assert "hami_node_gpu_memory_allocated_ratio" not in found
    assert [value for _, value in found["GPUDeviceMemoryLimit"]] == [0]


async def test_the_platform_is_called_as_go_calls_it(running: Any) -> None:
    ((labels, value),) = (await scraped(running, Names.V2_8))["hami_build_info"]
    assert value == 1
    assert labels.keys() == {
        *("version", "revision", "build_date", "go_version", "compiler", "platform")
    }
    assert labels["platform"] in ("linux/amd64", "linux/arm64")


async def test_our_own_tell_what_was_answered(running: Any) -> None:
    found = await scraped(running, Names.BOTH)
    answers = {
        (k["verb"], k["outcome"]): v for k, v in found["deviceplugin_scheduler_answers_total"]
    }
    assert answers == {("filter", "placed"): 1, ("bind", "bound"): 1}
    assert found["deviceplugin_scheduler_nodes"] == [({}, 1)]
    assert found["deviceplugin_scheduler_leader"] == [({}, 1)]
    assert found["deviceplugin_scheduler_answer_seconds_count"] == [({"verb": "filter"}, 1)]


async def test_our_own_tell_what_waits_and_why(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a", cards=1, memory=8000))
    bench.server.create("nodes", make.node("b", cards=1, memory=8000))
    for name, memory in (("p", 2000), ("large", 9000)):
        bench.server.create("pods", make.pod(name, memory=memory))
    held = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ},default,large"
    bench.server.patch("nodes", "a", {"metadata": {"annotations": {MUTEX_LOCK: held}}})
    waits: list[float] = []
    made, address = await bench.scheduler(waited=waits.append)
    assert (await bench.filter(address, "large", ["a", "b", "c"]))["NodeNames"] is None
    assert (await bench.filter(address, "p", ["a"]))["NodeNames"] == ["a"]
    binding = asyncio.create_task(bench.bind(address, "p", "a"))
    await bench.until(lambda: made.locks.waiting)
    found = await scraped(made, Names.BOTH)

    def one(name: str) -> float:
        ((_, value),) = found[f"deviceplugin_scheduler_{name}"]
        return value

    assert {k["reason"]: v for k, v in found["deviceplugin_scheduler_unfit_nodes_total"]} == {
        "CardInsufficientMemory": 2,
        "NodeInsufficientDevice": 1,
    }
    assert (one("decisions"), one("lock_waits"), one("takeovers_total")) == (1, 1, 1)
    # Each is read off the clock by itself, and a bind uses the decision right before it waits.
    assert one("decision_oldest_seconds") > 0
    assert one("lock_oldest_wait_seconds") > 0
    assert one("drift_total") == one("decisions_lapsed_total") == one("events_dropped_total") == 0
    assert waits == []
    assert one("stuck_nodes") == 0
    assert "node lock contention" in await binding
    assert len(waits) == 1
    found = await scraped(made, Names.BOTH)
    assert one("stuck_nodes") == 1
    assert one("decisions") == one("lock_waits") == one("lock_oldest_wait_seconds") == 0


async def test_a_gone_node_is_no_longer_told_of(running: Any, bench: Any) -> None:
    bench.server.delete("nodes", "a")
    await bench.until(lambda: running.cluster.names() == ())
    names = {metric.name for metric in exposed(running.moment(), Names.V2_8) if metric.samples}
    assert "GPUDeviceMemoryLimit" not in names


async def test_two_slices_of_one_card_in_one_container_are_one_series(running: Any) -> None:
    """HAMi 2.8's whole scrape fails on them (hami-scheduler.md 10.8)."""
    (holding,) = running.cluster.holdings()
    (held,) = holding.held["NVIDIA"]
    twice = replace(held, devices=(*held.devices, *held.devices))
    running.cluster._see(holding.uid, replace(holding, held={"NVIDIA": (twice,)}))
    (family,) = [
        m for m in exposed(running.moment(), Names.V2_8) if m.name == "vGPUMemoryAllocated"
    ]
    assert [sample.value for sample in family.samples] == [4000 * MIB]
