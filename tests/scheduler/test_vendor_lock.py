"""Cambricon's plugin has a node lock of its own: a time that names no pod, and two minutes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deviceplugin import registry
from deviceplugin.api.hami import nodelock
from deviceplugin.api.hami.keys import MUTEX_LOCK, VENDORS
from deviceplugin.scheduler.settings import SchedulerSettings

LOCK = str(VENDORS["MLU"].lock)
COUNT, CORES = "cambricon.com/vmlu", "cambricon.com/mlu.smlu.vcore"


@pytest.fixture
async def mlu(bench: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """A bench whose scheduler knows MLUs."""
    (tmp_path / "mlu").mkdir()
    backends = registry.load_scheduling(registry.load().vendors["cambricon"], {})
    made = type(bench)(tmp_path / "mlu", backends)
    capacity = {COUNT: "2", CORES: "200", "cambricon.com/mlu.smlu.vmemory": "192"}
    made.server.create(
        "nodes",
        {"metadata": {"name": "a"}, "status": {"capacity": capacity, "allocatable": capacity}},
    )
    for name in ("p", "q"):
        limits = {COUNT: "1", CORES: "10", "cambricon.com/mlu.smlu.vmemory": "8"}
        container = {"name": "main", "image": "x", "resources": {"limits": limits}}
        made.server.create(
            "pods",
            {
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"schedulerName": "hami-scheduler", "containers": [container]},
            },
        )
    yield made
    await made.close()


def lock(bench: Any) -> str | None:
    found: str | None = bench.server.get("nodes", "a")["metadata"].get("annotations", {}).get(LOCK)
    return found


def ago(**how: int) -> str:
    return nodelock.encode(nodelock.NodeLock(datetime.now(UTC) - timedelta(**how)))


async def test_the_lock_is_a_time_and_nothing_else(mlu: Any) -> None:
    _, address = await mlu.scheduler(SchedulerSettings(bind_patience=20.0))
    assert (await mlu.filter(address, "p", ["a"]))["NodeNames"] == ["a"]
    assert await mlu.bind(address, "p", "a") == ""
    text = lock(mlu)
    assert text is not None
    assert not nodelock.decode(text, LOCK).names_pod
    assert MUTEX_LOCK not in mlu.server.get("nodes", "a")["metadata"]["annotations"]


async def test_it_is_waited_for_and_given_back_when_the_bind_fails(mlu: Any) -> None:
    made, address = await mlu.scheduler(SchedulerSettings(bind_patience=0.5))
    for name in ("p", "q"):
        assert (await mlu.filter(address, name, ["a"]))["NodeNames"] == ["a"]
    assert await mlu.bind(address, "p", "a") == ""
    held = lock(mlu)
    error = await mlu.bind(address, "q", "a")
    assert "node a has been locked within 2m0s" in error
    assert lock(mlu) == held, "another pod's stays"
    mlu.server.patch("nodes", "a", {"metadata": {"annotations": {LOCK: None}}})
    await mlu.until(lambda: LOCK not in made.cluster.record("a").facts.annotations)
    assert (await mlu.filter(address, "q", ["a"]))["NodeNames"] == ["a"]
    mlu.server.faults.deny.add(("create", "pods"))
    assert "Forbidden" in await mlu.bind(address, "q", "a")
    assert lock(mlu) is None, "its own goes"


@pytest.mark.parametrize(("minutes", "taken"), [(1, False), (3, True)])
async def test_it_is_nobodys_after_two_minutes(mlu: Any, minutes: int, taken: bool) -> None:
    made, address = await mlu.scheduler(SchedulerSettings(bind_patience=0.5))
    assert (await mlu.filter(address, "p", ["a"]))["NodeNames"] == ["a"]
    mlu.server.patch("nodes", "a", {"metadata": {"annotations": {LOCK: ago(minutes=minutes)}}})
    await mlu.until(lambda: LOCK in made.cluster.record("a").facts.annotations)
    assert (await mlu.bind(address, "p", "a") == "") is taken
