"""What stands on a pod."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.api.hami.pod import (
    BindPhase,
    PodGrant,
    decode_phase,
    decode_time,
    encode_time,
    pod_devices,
    pod_grant,
)
from deviceplugin.api.hami.poddevices import ContainerDevice

NVIDIA = VENDORS["NVIDIA"]
A = ContainerDevice("GPU-a", "NVIDIA", 3000, 30)
B = ContainerDevice("GPU-b", "NVIDIA", 500, 3)
POD = {
    "hami.io/vgpu-node": "n1",
    "hami.io/vgpu-time": "1768896930",
    "hami.io/vgpu-devices-to-allocate": ";;GPU-b,NVIDIA,500,3:;",
    "hami.io/vgpu-devices-allocated": "GPU-a,NVIDIA,3000,30:;;GPU-b,NVIDIA,500,3:;",
    "hami.io/bind-phase": "allocating",
    "hami.io/bind-time": "1768896931",
    "nvidia.com/use-gpuuuid": "GPU-a",
}


def test_a_pod_in_the_middle_of_its_allocation() -> None:
    grant = pod_grant(POD, NVIDIA)
    assert grant == PodGrant(
        node="n1",
        allocated=((A,), (), (B,)),
        to_allocate=((), (), (B,)),
        assigned_at=datetime(2026, 1, 20, 8, 15, 30, tzinfo=UTC),
        phase=BindPhase.ALLOCATING,
        bound_at=datetime(2026, 1, 20, 8, 15, 31, tzinfo=UTC),
    )
    assert grant.served == 1


def test_before_it_is_bound_a_pod_has_no_phase() -> None:
    unbound = {key: value for key, value in POD.items() if "bind" not in key}
    grant = pod_grant(unbound, NVIDIA)
    assert grant is not None
    assert (grant.phase, grant.bound_at) == (None, None)


@pytest.mark.parametrize("missing", ["hami.io/vgpu-node", "hami.io/vgpu-devices-allocated"])
def test_without_node_or_devices_there_is_no_grant(missing: str) -> None:
    assert pod_grant({**POD, missing: ""}, NVIDIA) is None
    assert pod_grant({key: value for key, value in POD.items() if key != missing}, NVIDIA) is None


def test_a_pod_of_another_vendor_has_no_grant_of_this_one() -> None:
    assert pod_grant(POD, VENDORS["DCU"]) is None
    assert pod_grant({**POD, "hami.io/dcu-devices-allocated": ";;"}, VENDORS["DCU"]) is None


def test_devices_of_other_vendors_do_not_count() -> None:
    mixed = {**POD, NVIDIA.allocated: "N,Ascend910B4,1,0:GPU-a,NVIDIA,3000,30:;N,Ascend910B4,1,0:;"}
    assert pod_devices(mixed, NVIDIA) == ((A,), ())


def test_vendors_that_do_not_count_down_have_nothing_to_allocate() -> None:
    annotations = {
        "hami.io/vgpu-node": "n1",
        "hami.io/kunlun-allocated": "n1-kunlun-0,kunlun,98304,100:;",
    }
    grant = pod_grant(annotations, VENDORS["kunlun"])
    assert grant is not None
    assert grant.to_allocate == ()
    assert grant.allocated == ((ContainerDevice("n1-kunlun-0", "kunlun", 98304, 100),),)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hami.io/vgpu-node", "n1\n"),
        ("hami.io/vgpu-time", "soon"),
        ("hami.io/bind-time", "-1"),
        ("hami.io/bind-phase", "Success"),
        ("hami.io/vgpu-devices-to-allocate", "GPU-a"),
        ("hami.io/vgpu-devices-allocated", "GPU-a,NVIDIA,x,1:;"),
    ],
)
def test_what_is_wrong_names_its_annotation(key: str, value: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        pod_grant({**POD, key: value}, NVIDIA)
    assert caught.value.annotation == key


def test_phases_are_peers_words() -> None:
    assert [str(phase) for phase in BindPhase] == ["allocating", "success", "failed"]
    assert decode_phase("success") is BindPhase.SUCCESS


@pytest.mark.parametrize(
    "text", ["", " 1", "1.0", "+1", "1e3", "٣", "253402300800", "9" * 5000, "2024-01-01T00:00:00Z"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(AnnotationError, match="write Unix seconds"):
        decode_time(text, "hami.io/bind-time")


@given(st.integers(0, 253402300799))
def test_reading_gives_the_time_that_was_written(second: int) -> None:
    text = str(second)
    assert encode_time(decode_time(text, "hami.io/bind-time")) == text
