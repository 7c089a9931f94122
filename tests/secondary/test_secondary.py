"""Amounts that kubelet only counts: how many, how they are shown, and what is too many."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.kubelet.counted import CountedResource, NothingToHandOver, most_units
from deviceplugin.kubelet.resource import MAX_MESSAGE_BYTES
from deviceplugin.secondary import amounts
from deviceplugin.testing.kubelet import Container, EmbeddedKubelet, Pod
from deviceplugin.vendor import NodeDevice
from deviceplugin.vendor.scheduling import Resources

NVIDIA = Resources(
    "nvidia.com/gpu", "nvidia.com/gpumem", "nvidia.com/gpucores", "nvidia.com/gpumem-percentage"
)


def card(memory: int, cores: int = 100, healthy: bool = True) -> NodeDevice:
    return NodeDevice(uuid="u", count=10, memory=memory, cores=cores, type="x", healthy=healthy)


@pytest.mark.parametrize(
    ("cards", "resources", "wanted"),
    [
        ([card(81920)] * 3, NVIDIA, (245760, 300, 300)),
        ([card(81920)] * 2 + [card(81920, healthy=False)], NVIDIA, (163840, 200, 200)),
        ([], NVIDIA, (0, 0, 0)),
    ],
)
def test_nvidias_cards_are_summed(
    cards: list[NodeDevice], resources: Resources, wanted: tuple[int, int, int]
) -> None:
    names = (resources.memory, resources.cores, resources.memory_percent)
    assert amounts(cards, resources) == dict(zip(names, wanted, strict=True))


@pytest.mark.parametrize(("unit", "units"), [(1, 43054), (2, 21527), (4, 10763), (8, 5381)])
def test_memory_is_counted_in_the_units_of_requests(unit: int, units: int) -> None:
    resources = Resources(
        "huawei.com/Ascend310P", "huawei.com/Ascend310P-memory", memory_unit_mib=unit
    )
    assert amounts([card(21527)] * 2, resources) == {"huawei.com/Ascend310P-memory": units}


def test_a_dcu_node_shows_what_its_six_cards_have() -> None:
    found = amounts([card(65520)] * 6, Resources("hygon.com/dcunum", "hygon.com/dcumem"))
    assert found == {"hygon.com/dcumem": 393120}


@given(st.integers(0, 5000) | st.integers(99_990, 100_010))
def test_the_list_has_a_device_a_unit(units: int) -> None:
    message = CountedResource("x", units).message
    assert len({device.ID for device in message.devices}) == units


def test_the_most_that_fits_fits_and_one_more_does_not() -> None:
    most = most_units()
    assert most == 226_600
    full = CountedResource("x", most)
    assert full.message.ByteSize() <= MAX_MESSAGE_BYTES
    assert full.problem == ""
    over = CountedResource("example.com/memory", most + 1)
    assert "226601 units of example.com/memory are more than the 226600" in over.problem
    assert "larger units" in over.problem


async def test_streams_learn_of_another_number_and_of_no_change() -> None:
    resource = CountedResource("x", 3)
    before = resource.version
    resource.count(3)
    assert resource.version == before
    resource.count(2)
    assert await resource.next_version(before) == before + 1
    assert len(resource.message.devices) == 2


async def test_nothing_is_handed_over() -> None:
    allocator = NothingToHandOver()
    injection = await allocator.allocate(["1", "2"])
    assert (dict(injection.envs), injection.devices, injection.spec) == ({}, (), None)
    assert allocator.prefer(["1", "2", "3"], ["2"], 2) == ["2", "1"]


@pytest.fixture
async def kubelet() -> Any:
    root = Path(tempfile.mkdtemp(prefix="dp-", dir="/tmp"))
    running = EmbeddedKubelet(root)
    await running.start()
    yield running
    await running.stop()
    shutil.rmtree(root, ignore_errors=True)


async def test_kubelet_counts_and_allocates_the_units(kubelet: Any) -> None:
    from deviceplugin.kubelet.server import ResourceServer
    from deviceplugin.metrics import Metrics
    from deviceplugin.readiness import Readiness
    from deviceplugin.secondary import Secondary

    metrics = Metrics()
    readiness = Readiness(metrics)

    def server(resource: CountedResource, allocator: NothingToHandOver) -> ResourceServer:
        return ResourceServer(
            resource, allocator, metrics, readiness, kubelet.plugin_dir, kubelet.kubelet_socket
        )

    secondary = Secondary(server, lambda: ())
    secondary.count({"nvidia.com/gpumem": 16384, "nvidia.com/gpucores": 100})
    try:
        await kubelet.wait_registered("nvidia.com/gpumem")
        await kubelet.wait_registered("nvidia.com/gpucores")
        async with asyncio.timeout(10):
            while kubelet.allocatable().get("nvidia.com/gpumem") != 16384:
                await asyncio.sleep(0.02)
        limits = {"nvidia.com/gpumem": 3000, "nvidia.com/gpucores": 30}
        admitted = await kubelet.admit(Pod("p", (Container("main", limits),)))
        config = await kubelet.start_container(admitted.pod.uid, "main")
        assert (config.devices, config.mounts) == ((), ())
        secondary.count({"nvidia.com/gpumem": 8192})
        async with asyncio.timeout(10):
            while kubelet.allocatable().get("nvidia.com/gpumem") != 8192:
                await asyncio.sleep(0.02)
    finally:
        await secondary.close()
