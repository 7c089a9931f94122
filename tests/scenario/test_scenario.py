"""The embedded kubelet tells the same story as the real ones whose transcripts are kept here."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

from deviceplugin.testing.cluster import Cluster

HERE = Path(__file__).parent
SCHEDULED = sorted((HERE / "scheduled_transcripts").glob("*.txt"))
TRANSCRIPTS = sorted((HERE / "transcripts").glob("*.txt"))


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scenario_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.timeout(240)
async def test_the_embedded_kubelet_tells_what_real_ones_told() -> None:
    assert TRANSCRIPTS, "no transcript of a real kubelet is kept"
    with tempfile.TemporaryDirectory(prefix="dps-", dir="/tmp") as place:
        cluster = module("embedded").EmbeddedCluster(Path(place))
        await cluster.kubelet.start()
        try:
            lines = await module("scenario").Story(cluster).tell()
        finally:
            await cluster.kubelet.stop()
    assert cluster.kubelet.findings == []
    for path in TRANSCRIPTS:
        told = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert lines == told, path.name


@pytest.mark.timeout(240)
async def test_the_doubles_tell_of_schedulers_what_a_real_cluster_told() -> None:
    assert SCHEDULED, "no transcript of a real cluster is kept"
    with tempfile.TemporaryDirectory(prefix="dps-", dir="/tmp") as place:
        async with Cluster(Path(place)) as cluster:
            world = module("scheduled_embedded").EmbeddedWorld(cluster)
            try:
                lines = await module("scheduled").ScheduledStory(world).tell()
            except BaseException:
                print((Path(place) / "agent.log").read_text()[-4000:])
                raise
            finally:
                world.close()
            # A start that is refused for want of room is waited on for some seconds before.
            assert [f for f in cluster.kubelet.findings if "slow" not in str(f)] == []
    for path in SCHEDULED:
        told = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert lines == told, path.name
