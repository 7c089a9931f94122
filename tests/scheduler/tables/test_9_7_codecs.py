"""Table 9.7 of hami-scheduler.md: codecs, health, parsers, by rows that no table of another room has
(the index names those).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from deviceplugin.api.hami import handshake, register
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.scheduler.cluster import Cluster
from deviceplugin.scheduler.nodes import node_record, withdrawn
from deviceplugin.scheduler.registration import due
from deviceplugin.scheduler.run import Scheduler
from deviceplugin.testing.placing import scheduling_backends
from deviceplugin.vendor.scheduling import ContainerSpec, PodSpec

(DCU,) = scheduling_backends("hygon")
NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DEVICE = NodeDevice(
    uuid="d", index=0, count=4, memory=1000, cores=100, type="DCU-x", mode="hami-core", healthy=True
)


def test_a_nodes_devices_go_round_in_both_forms() -> None:
    for text in (register.encode([DEVICE]), register.encode_legacy([DEVICE])):
        assert register.decode(text, "x") == (DEVICE,)
    seven = "d,4,1000,100,DCU-x,0,true:"
    assert register.decode(seven, "x") == (DEVICE,)


@pytest.mark.parametrize("text", ["a", "a,b:", "d,4,1000,100,DCU-x,0,true,0:"])
def test_what_is_no_list_of_devices_is_an_error(text: str) -> None:
    with pytest.raises(AnnotationError):
        register.decode(text, "x")


def node(stamp: str | None) -> Any:
    annotations = {DCU.keys.register: register.encode_legacy([DEVICE])}
    if stamp is not None:
        annotations[DCU.keys.handshake] = stamp
    return {"metadata": {"name": "a", "annotations": annotations}, "status": {}}


@pytest.mark.parametrize(
    ("stamp", "served", "written"),
    [
        pytest.param("Requesting_2026-03-01 12:00:30", True, None, id="asked, in the future"),
        pytest.param("Requesting_2024-01-01 00:00:00", False, "Deleted_", id="asked, long ago"),
        pytest.param("Deleted_2026-03-01 11:00:00", False, None, id="deleted"),
        pytest.param("whatever", True, "Requesting_", id="unknown text"),
        pytest.param("Reported 2026-03-01 11:59:00", True, "Requesting_", id="reported"),
        # Upstream asks again at once, every 15 seconds.
        pytest.param("Reported 2026-03-01 11:59:01", True, None, id="reported lately"),
        pytest.param("Reported sometime", True, "Requesting_", id="reported, nobody knows when"),
        pytest.param(None, True, "Requesting_", id="nothing"),
    ],
)
def test_health_by_the_handshake(stamp: str | None, served: bool, written: str | None) -> None:
    """Devices are away from when the deletion is written, not before somebody knows of it."""
    backends = {"DCU": DCU}
    record = node_record(node(stamp))
    stamps = due(record, backends, NOW)
    if written is None:
        assert stamps == {}
    else:
        (text,) = stamps.values()
        assert text.startswith(written)
        record = node_record(node(text))
    assert withdrawn(record, DCU) is not served
    cluster = Cluster(backends)
    cluster.set_node(record)
    view = cluster.view("a")
    assert view is not None
    assert bool(view.cards) is served
    assert {"NVIDIA"} == handshake.SILENT


async def test_a_question_that_cannot_be_written_costs_nobody_his_devices(
    every_vendor: Any, make: Any
) -> None:
    bench = every_vendor
    bench.server.create("nodes", node("whatever"))
    made: Scheduler
    made, _ = await bench.scheduler()
    bench.server.faults.deny |= {("patch", "nodes"), ("get", "nodes")}
    await made._handshakes.round()
    view = made.cluster.view("a")
    assert view is not None
    assert "DCU" in view.cards


METAX = scheduling_backends("metax")[1]


@pytest.mark.parametrize(
    ("memory", "mib"),
    [("16", 16384), ("1024Mi", 1024), ("16Gi", 16384), (None, 0)],
    ids=["16 is GiB", "1024Mi", "16Gi", "nothing is all of it"],
)
def test_metaxs_memory(memory: str | None, mib: int) -> None:
    limits = {"metax-tech.com/sgpu": "1"}
    if memory:
        limits["metax-tech.com/vmemory"] = memory
    demand = METAX.demand(ContainerSpec("c", limits), PodSpec())
    assert demand is not None
    assert (demand.memory_mib, demand.memory_percent, demand.cores_percent) == (mib, 100, 100)
