"""The mock vendor in a real probe process: the faults that only a process can suffer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deviceplugin.probe.supervisor import (
    DriverAbsent,
    HealthSeen,
    Probe,
    ProbeEvent,
    ProbeFailed,
    SnapshotSeen,
    Timing,
)
from deviceplugin.vendor import VendorSettings
from deviceplugin.vendors.mock import VENDOR

TIMING = Timing(interval=30.0, deadline=60.0, backoff_first=0.01, backoff_most=0.01)


async def events(section: dict[str, Any], count: int) -> list[ProbeEvent]:
    """The first events of a probe of that section."""
    seen: asyncio.Queue[ProbeEvent] = asyncio.Queue()
    probe = Probe(VENDOR, VendorSettings(section=section), TIMING, seen.put)
    task = asyncio.create_task(probe.run())
    try:
        async with asyncio.timeout(60):
            return [await seen.get() for _ in range(count)]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_healthy_node_reports_its_devices() -> None:
    (event,) = await events({"profile": "l40s"}, 1)
    assert isinstance(event, SnapshotSeen)
    assert len(event.snapshot.devices) == 4


@pytest.mark.parametrize(
    ("fault", "cause", "reason"),
    [
        ("crash", "crash", "signal 11"),
        ("garbage", "garbage", "uuid is"),
        ("error", "error", "the simulated driver fails"),
    ],
)
async def test_a_fault_of_the_driver_costs_one_probe(fault: str, cause: str, reason: str) -> None:
    (event,) = await events({"faults": [{"at": 0, "fault": fault}]}, 1)
    assert isinstance(event, ProbeFailed)
    assert event.cause == cause
    assert reason in event.reason


async def test_an_absent_driver_is_no_failure() -> None:
    (event,) = await events({"faults": [{"at": 0, "fault": "absent"}]}, 1)
    assert isinstance(event, DriverAbsent)


async def test_a_broken_profile_is_a_failure_that_names_the_key() -> None:
    (event,) = await events({"node": {"devices": 3}}, 1)
    assert isinstance(event, ProbeFailed)
    assert "section mock: node: devices: 3 is no list" in event.reason


async def test_health_comes_between_two_discoveries() -> None:
    faults = [{"at": 0.2, "device": 1, "fault": "unhealthy", "reason": "Xid 79"}]
    snapshot, health = await events({"faults": faults}, 2)
    assert isinstance(snapshot, SnapshotSeen)
    assert isinstance(health, HealthSeen)
    assert health.event.uuid == snapshot.snapshot.devices[1].uuid
    assert health.event.reason == "Xid 79"
