"""How busy whole cards are: from the driver to a scrape over HTTP, and no further."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deviceplugin.agent import Agent
from deviceplugin.http import Endpoint

OLD = ("HostGPUMemoryUsage", "HostCoreUtilization")
NEW = (
    "hami_host_gpu_memory_used_bytes",
    "hami_host_gpu_utilization_ratio",
    "hami_host_gpu_memory_controller_utilization_ratio",
)
FAILURES = "deviceplugin_vendor_errors_total"


@contextmanager
def served(agent: Agent) -> Iterator[str]:
    endpoint = Endpoint("127.0.0.1:0", agent.metrics.registry, agent.readiness.blockers)
    host, port = endpoint.address
    yield f"http://{host}:{port}/metrics"
    endpoint.close()


def page(url: str) -> str:
    with urllib.request.urlopen(url) as answer:  # our own endpoint on loopback
        text: str = answer.read().decode()
    return text


def scraped(url: str) -> dict[str, dict[str, float]]:
    """The figures by metric and card."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(page(url)):
        for sample in family.samples:
            index = sample.labels.get("deviceidx") or sample.labels.get("device_index")
            key = index or sample.labels.get("call", "")
            found.setdefault(sample.name, {})[key] = sample.value
    return found


@pytest.fixture
def busy(node: Any) -> Callable[..., Any]:
    """An agent whose cards are used so, and a way to wait for what a scrape says."""

    def start(usage: list[dict[str, Any]], **more: Any) -> Any:
        profile = {
            "devices": [{"uuid": uuid, "model": "Card", "memoryMiB": 1000} for uuid in "ab"],
            "usage": usage,
        }
        settings = {"monitor_usage_interval": "0.1s", "monitor_names": "both", **more}
        faults = settings.pop("faults", [])
        return node.start_agent({"node": {**profile, "faults": faults}}, **settings)

    return start


async def until(url: str, condition: Callable[[dict[str, dict[str, float]]], Any]) -> Any:
    async with asyncio.timeout(15):
        while not condition(found := await asyncio.to_thread(scraped, url)):
            await asyncio.sleep(0.02)
    return found


async def test_a_scrape_says_how_busy_each_card_is_and_nothing_of_what_is_unknown(
    busy: Any, node: Any
) -> None:
    one = {"usedMiB": 300, "utilisationPercent": 37, "memoryControllerPercent": 12}
    agent = busy([{"device": 0, **one}, {"device": 1, "usedMiB": 0}])
    await node.kubelet.wait_registered(node.resource)
    with served(agent) as url:
        found = await until(url, lambda found: OLD[0] in found)
    mib = 1 << 20
    for memory, cores in (OLD, NEW[:2]):
        assert found[memory] == {"0": 300 * mib, "1": 0}
        assert found[cores] == {"0": 37}
    assert found[NEW[2]] == {"0": 12}


async def test_the_type_is_the_vendors_word_with_the_model(busy: Any, node: Any) -> None:
    agent = busy([{"usedMiB": 1}])
    await node.kubelet.wait_registered(node.resource)
    with served(agent) as url:
        await until(url, lambda found: OLD[0] in found)
        assert 'devicetype="mock-Card"' in await asyncio.to_thread(page, url)


async def test_figures_that_change_change_nothing_that_is_served(
    busy: Any, node: Any, eventually: Callable[..., Any]
) -> None:
    agent = busy([{"at": n / 5, "usedMiB": n} for n in range(900)])
    await node.kubelet.wait_registered(node.resource)
    runtime = await eventually(lambda: agent.runtimes.get("mock"))
    await eventually(lambda: runtime.usage)
    (served,) = runtime._served.values()
    inventory, version = runtime.inventory.devices, served.resource.version
    before = runtime.usage["a"].used_mib
    await eventually(lambda: (runtime.usage["a"].used_mib or 0) > (before or 0) + 2)
    assert {uuid: one.device for uuid, one in runtime.inventory.devices.items()} == {
        uuid: one.device for uuid, one in inventory.items()
    }
    assert served.resource.version == version


async def test_readings_that_fail_leave_no_figure_and_no_card_ill(busy: Any, node: Any) -> None:
    agent = busy([{"usedMiB": 5}], faults=[{"at": 1, "fault": "usage-error"}])
    await node.kubelet.wait_registered(node.resource)
    with served(agent) as url:
        await until(url, lambda found: found.get(OLD[0]) == {"0": 5 << 20, "1": 5 << 20})
        found = await until(url, lambda found: OLD[0] not in found)
        assert found[FAILURES]["usage"] >= 1
    assert agent.readiness.blockers() == {}
    assert {one.health for one in node.kubelet.devices(node.resource).values()} == {"Healthy"}


async def test_a_reading_that_hangs_is_forgotten_and_no_card_ill(busy: Any, node: Any) -> None:
    agent = busy([{"usedMiB": 5}], faults=[{"at": 1, "fault": "usage-hang"}], probe_deadline="2s")
    await node.kubelet.wait_registered(node.resource)
    with served(agent) as url:
        await until(url, lambda found: OLD[0] in found)
        found = await until(url, lambda found: OLD[0] not in found)
        assert found[FAILURES]["usage"] >= 1
        assert "deviceplugin_probe_failures_total" not in found
    assert agent.readiness.blockers() == {}


@pytest.mark.parametrize("off", [{"monitor": False}, {"monitor_usage_interval": "0s"}])
async def test_nobody_reads_what_nobody_shows(
    busy: Any, node: Any, eventually: Callable[..., Any], off: dict[str, Any]
) -> None:
    # A reading would fail at once and be counted.
    agent = busy([{"usedMiB": 5}], faults=[{"at": 0, "fault": "usage-error"}], **off)
    await node.kubelet.wait_registered(node.resource)
    runtime = await eventually(lambda: agent.runtimes.get("mock"))
    for _ in range(2):
        await runtime._probe.discover()
        await asyncio.sleep(0.3)
    with served(agent) as url:
        found = await asyncio.to_thread(scraped, url)
    assert "usage" not in found.get(FAILURES, {})
    assert OLD[0] not in found
