"""Table 9.6 of hami-scheduler.md: which partition, with its numbers."""

from __future__ import annotations

from typing import Any

import pytest

from deviceplugin.api.hami import poddevices
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.placement.fit import Placement, place
from deviceplugin.placement.observe import NodeView
from deviceplugin.placement.request import asks
from deviceplugin.testing.placing import scheduling_backends
from deviceplugin.vendor.scheduling import (
    Card,
    ContainerSpec,
    NodeDevice,
    NodeFacts,
    PodSpec,
    Policy,
    Tenant,
)

Profile = tuple[str, int, int, int]


def partition(geometries: list[list[Profile]], asked: int) -> tuple[str, int, int]:
    keys = ("name", "core", "memory", "count")
    rows = [
        {
            "models": ["Test"],
            "allowedGeometries": [
                [dict(zip(keys, profile, strict=True)) for profile in geometry]
                for geometry in geometries
            ],
        }
    ]
    (backend,) = scheduling_backends("nvidia", {"knownMigGeometries": rows})
    device = NodeDevice(
        uuid="d", count=7, memory=40960, cores=100, type="NVIDIA-Test", mode="mig", healthy=True
    )
    limits = {"nvidia.com/gpu": "1", "nvidia.com/gpumem": str(asked)}
    pod = PodSpec("n", "p", "u", {}, (ContainerSpec("c", limits),))
    view = NodeView(NodeFacts("n"), {"NVIDIA": (Card(device),)})
    found = place(
        view, pod, asks(pod, [backend]), {"NVIDIA": backend}, Policy.SPREAD, Policy.BINPACK
    )
    assert isinstance(found, Placement), found
    ((given,),) = found.containers["NVIDIA"]
    return str(given.slot), given.memory, given.cores


@pytest.mark.parametrize(
    ("geometries", "asked", "result"),
    [
        pytest.param(
            [[("1g.5gb", 25, 5120, 1)], [("1g.5gb", 25, 5120, 1), ("2g.10gb", 50, 10240, 1)]],
            6000, ("[1-1]", 10240, 50), id="6000 is in the second geometry only",
        ),
        pytest.param(
            [[("1g.3gb", 25, 3072, 1)], [("1g.5gb", 25, 5120, 1), ("2g.10gb", 50, 10240, 1)]],
            8000, ("[1-1]", 10240, 50), id="8000 is in the second geometry only",
        ),
        pytest.param(
            [[("1g.5gb", 25, 5120, 1), ("2g.10gb", 50, 10240, 1)], [("3g.20gb", 100, 20480, 1)]],
            6000, ("[0-1]", 10240, 50), id="the first geometry wins",
        ),
    ],
)  # fmt: skip
def test_on_a_card_that_is_free(
    geometries: list[list[Profile]], asked: int, result: tuple[str, int, int]
) -> None:
    assert partition(geometries, asked) == result


def test_behind_two_others_of_a_sort() -> None:
    """Upstream writes [0-1], the template, and reads it as the second of the small ones. A table
    with such a geometry is refused when it is read.
    """
    with pytest.raises(RuntimeError, match="name different instances; put the profile with more"):
        partition([[("1g.5gb", 50, 5120, 2), ("2g.10gb", 100, 10240, 1)]], 8000)
    last = [("2g.10gb", 100, 10240, 1), ("1g.5gb", 50, 5120, 2)]
    assert partition([last], 8000) == ("[0-0]", 10240, 100)
    assert partition([last], 5000) == ("[0-0]", 10240, 100)


def test_a_card_that_is_not_divided() -> None:
    device = NodeDevice(uuid="d", count=10, memory=8000, cores=100, type="x", healthy=True)
    after = Card(device, (), 0, 2000, 15).with_tenant(Tenant("n/p", 1024, 50))
    assert (after.used, after.used_cores, after.used_memory_mib) == (1, 65, 3024)


@pytest.mark.parametrize(
    ("uuid", "slot"),
    [
        pytest.param("GPU-0[7-9]", (7, 9), id="a place"),
        pytest.param("GPU-0[7-9", None, id="not closed"),
        pytest.param("GPU-07-9]", None, id="not opened"),
        pytest.param("GPU-0[a-b]", None, id="no numbers"),
        pytest.param("GPU-0[7]", None, id="one part"),
        pytest.param("GPU-0[7-8-9]", None, id="three parts"),
    ],
)
def test_a_partition_as_text(uuid: str, slot: Any) -> None:
    text = f"{uuid},NVIDIA,1,1:;"
    if slot is None:
        with pytest.raises(AnnotationError):
            poddevices.decode(text, "x")
        return
    ((device,),) = poddevices.decode(text, "x")
    assert device.slot is not None
    assert (device.uuid, device.slot.geometry, device.slot.position) == ("GPU-0", *slot)
