"""The agent registers memory and cores where it is told to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deviceplugin.testing.cluster import Cluster


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    root = Path(tempfile.mkdtemp(prefix="dp-", dir="/tmp"))
    async with Cluster(root) as running:
        yield running
    shutil.rmtree(root, ignore_errors=True)


def section(shared: object) -> dict[str, object]:
    return {"mock": {"imitate": "kunlunxin", "section": {"sharedDevices": shared}}}


OPTIONS = {
    "secondary_resources": True,
    "allocation": "standalone",
    "device_list_strategy": ("envvar",),
}


async def test_a_vendors_amounts_are_registered_in_its_units(cluster: Cluster) -> None:
    cluster.start_agent(section([0, 1]), **OPTIONS)
    await cluster.kubelet.wait_registered("kunlunxin.com/vxpu")
    amounts = {"kunlunxin.com/vxpu-memory": 2 * 98304, "kunlunxin.com/xpu": 6}
    await cluster.until(lambda: amounts.items() <= cluster.kubelet.allocatable().items())


async def test_more_units_than_kubelet_takes_are_said_aloud(cluster: Cluster) -> None:
    agent = cluster.start_agent(section("all"), **OPTIONS)
    await cluster.kubelet.wait_registered("kunlunxin.com/vxpu")
    await cluster.until(lambda: "786432 units" in str(agent.readiness.blockers()))
    assert cluster.kubelet.allocatable()["kunlunxin.com/vxpu"] == 32


async def test_nobody_asked_nothing_is_counted(cluster: Cluster) -> None:
    cluster.start_agent(section([0, 1]), **{**OPTIONS, "secondary_resources": False})
    await cluster.kubelet.wait_registered("kunlunxin.com/vxpu")
    assert "kunlunxin.com/vxpu-memory" not in cluster.kubelet.allocatable()
