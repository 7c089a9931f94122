"""Many pods to one node, from the scheduler to their processes: webhook's work is done, kubelet and
agent are real, each pod sees its own limits.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deviceplugin import registry
from deviceplugin.api.hami.keys import BIND_PHASE, MUTEX_LOCK
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.testing.cluster import NODE, Cluster
from deviceplugin.testing.extender import Extender, extender
from deviceplugin.vendors.mock.configuration import KEYS_OF_OUR_OWN as KEYS

RESOURCE = "mock.deviceplugin.dev/gpu"
SECTION = {"profile": "small", "deviceSplitCount": 30}
MODES = {
    "deferred": {"allocation": "scheduled-deferred", "device_list_strategy": ("cdi-cri",)},
    "locked": {"allocation": "scheduled-locked", "device_list_strategy": ("envvar",)},
}
PODS = 40


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    root = Path(tempfile.mkdtemp(prefix="dp-", dir="/tmp"))
    async with Cluster(root) as found:
        null = os.lstat("/dev/null")
        found.stat = lambda _path: null
        yield found
    shutil.rmtree(root, ignore_errors=True)


def pod(number: int) -> dict[str, Any]:
    """A pod whose memory tells it from every other."""
    limits = {RESOURCE: "1", f"{RESOURCE}-memory": str(100 + number), f"{RESOURCE}-cores": "1"}
    return {
        "metadata": {"name": f"p{number}", "namespace": "default"},
        "spec": {
            "schedulerName": "hami-scheduler",
            "containers": [{"name": "c0", "image": "x", "resources": {"limits": limits}}],
        },
    }


@pytest.mark.parametrize("mode", list(MODES))
async def test_forty_pods_to_one_node_all_run_with_what_was_decided(
    cluster: Cluster, mode: str
) -> None:
    cluster.start_agent({"mock": SECTION}, **MODES[mode])
    uuids = await cluster.ready(KEYS, RESOURCE)
    backends = registry.load_scheduling(registry.load().vendors["mock"], SECTION)
    for number in range(PODS):
        cluster.create(pod(number))
    settings = SchedulerSettings(bind_patience=60.0)
    async with extender(cluster.api(), backends, settings) as ours:
        nodes = [await ours.filter("default", f"p{n}", [NODE]) for n in range(PODS)]
        assert nodes == [NODE] * PODS

        async def served(number: int) -> dict[str, str]:
            """Bound, admitted by kubelet, started: all at the same time as the others."""
            await ours.bind("default", f"p{number}", NODE)
            outcome = await cluster.run("default", f"p{number}", 20.0)
            assert outcome.failure == ""
            return outcome.environments["c0"]

        found = await asyncio.gather(*(served(number) for number in range(PODS)))
        for number, env in enumerate(found):
            assert env["MOCK_MEMORY_LIMIT_0"] == f"{100 + number}m"
            assert env["MOCK_VISIBLE_DEVICES"] in uuids
        await cluster.settled(lambda: MUTEX_LOCK not in cluster.node_annotations())
        phases = {cluster.pod_annotations(f"p{n}")[BIND_PHASE] for n in range(PODS)}
        assert phases == {"success"}
        assert cluster.kubelet.findings == []
        await nothing_is_left(cluster, ours)


async def nothing_is_left(cluster: Cluster, ours: Extender) -> None:
    """Once all have ended the node is as empty as before."""
    for number in range(PODS):
        cluster.end("default", f"p{number}")
    await cluster.until(lambda: not list(ours.scheduler.cluster.holdings()))
    view = ours.scheduler.cluster.view(NODE)
    assert view is not None
    assert all(not card.used for cards in view.cards.values() for card in cards)
