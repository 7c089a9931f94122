"""The agent with the configuration of its manifest: schedulers hear of the node's GPUs."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.api.node import ALLOCATION
from deviceplugin.testing.cluster import Cluster

KEYS = VENDORS["NVIDIA"]
GPU = "nvidia.com/gpu"


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="dpc-", dir="/tmp") as place:
        async with Cluster(Path(place)) as found:
            yield found


@pytest.fixture
def configuration(agent: Any) -> dict[str, Any]:
    text = agent.one("ConfigMap", "deviceplugin")["data"]["config.yaml"]
    return dict(yaml.safe_load(text))


async def test_schedulers_hear_of_gpus(cluster: Cluster, configuration: dict[str, Any]) -> None:
    section = configuration["nvidia"]
    cluster.start_agent(configuration | {"mock": {"imitate": "nvidia", "section": section}})
    assert len(await cluster.ready(KEYS, GPU)) == 8
    assert cluster.node_annotations()[ALLOCATION] == "deferred"


async def test_gpus_that_no_scheduler_hears_of_are_told_of(
    cluster: Cluster, configuration: dict[str, Any]
) -> None:
    with capture_logs() as lines:
        cluster.start_agent(configuration | {"mock": {"imitate": "nvidia"}})
        await cluster.kubelet.wait_registered(GPU)
    (told,) = (line for line in lines if line["event"] == "no scheduler hears of this resource")
    assert told["resource"] == GPU
    assert "nvidia.deviceSplitCount" in told["remedy"]
