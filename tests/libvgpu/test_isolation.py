"""Whether limits are in force, by what the region says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.libvgpu import (
    DeviceGrant,
    FileFacts,
    Isolation,
    Reason,
    Region,
    isolation,
    positions,
)

MIB = 1 << 20
FILE = FileFacts(1, 2, 2008953, 0, 0)
A, B, C = (f"GPU-{letter * 8}-0000-0000-0000-000000000000" for letter in "abc")


def region(*limits: tuple[int, int], uuids: tuple[str, ...] = ()) -> Region:
    """Limits in MiB and percent."""
    memory = tuple(memory * MIB for memory, _ in limits)
    cores = tuple(cores for _, cores in limits)
    rest = 16 - len(limits)
    return Region(
        FILE,
        initialised=True,
        uuids=uuids,
        memory_limits=memory + (0,) * rest,
        core_limits=cores + (100,) * rest,
    )


def verdict(found: Region | None, *grant: DeviceGrant) -> tuple[bool | None, Reason]:
    answer = isolation(found, grant)
    assert (answer.detail == "") == (answer.active is True)
    return answer.active, answer.reason


@pytest.mark.parametrize(
    ("found", "grant", "expected"),
    [
        (None, [DeviceGrant(A, 3000, 30)], (None, Reason.NO_REGION)),
        (Region(FILE), [DeviceGrant(A, 3000, 30)], (None, Reason.NOT_INITIALISED)),
        (region(), [], (None, Reason.NOTHING_LIMITED)),
        (region((3000, 30)), [DeviceGrant(A)], (None, Reason.NOTHING_LIMITED)),
        (region((3000, 30)), [DeviceGrant(A, 3000, 30)], (True, Reason.LIMITS_HOLD)),
        (region((3000, 30), uuids=(A,)), [DeviceGrant(A, 3000, 30)], (True, Reason.LIMITS_HOLD)),
        (region((3000, 30)), [DeviceGrant(A, 3000)], (True, Reason.LIMITS_HOLD)),
        (region((3000, 30)), [DeviceGrant(A, None, 30)], (True, Reason.LIMITS_HOLD)),
        (region((3001, 30)), [DeviceGrant(A, 3000, 30)], (False, Reason.MEMORY_DIFFERS)),
        (region((2999, 30)), [DeviceGrant(A, 3000, 30)], (False, Reason.MEMORY_DIFFERS)),
        (region((0, 30)), [DeviceGrant(A, 3000, 30)], (False, Reason.MEMORY_DIFFERS)),
        (region((3000, 31)), [DeviceGrant(A, 3000, 30)], (False, Reason.CORES_DIFFER)),
        (region((3000, 0)), [DeviceGrant(A, 3000, 30)], (False, Reason.CORES_DIFFER)),
        (region((3000, 100)), [DeviceGrant(A, 3000, 30)], (False, Reason.CORES_DIFFER)),
        # 0 and 100 and more are all "no limit of cores"
        (region((3000, 100)), [DeviceGrant(A, 3000, 0)], (True, Reason.LIMITS_HOLD)),
        (region((3000, 0)), [DeviceGrant(A, 3000, 100)], (True, Reason.LIMITS_HOLD)),
        (region((3000, 140)), [DeviceGrant(A, 3000, 100)], (True, Reason.LIMITS_HOLD)),
        # several devices, in the driver's order
        (region((1, 10), (2, 20)), [DeviceGrant(A, 1, 10), DeviceGrant(B, 2, 20)], (True, Reason.LIMITS_HOLD)),
        (region((2, 20), (1, 10), uuids=(B, A)), [DeviceGrant(A, 1, 10), DeviceGrant(B, 2, 20)], (True, Reason.LIMITS_HOLD)),
        (region((1, 10), (2, 20), uuids=(B, A)), [DeviceGrant(A, 1, 10), DeviceGrant(B, 2, 20)], (False, Reason.MEMORY_DIFFERS)),
        (region((1, 10), (1, 10), uuids=(A, B)), [DeviceGrant(A, 1, 10)], (False, Reason.DEVICE_NOT_GRANTED)),
        (region((1, 10), uuids=(A,)), [DeviceGrant(A, 1, 10), DeviceGrant(C, 1, 10)], (False, Reason.DEVICE_MISSING)),
        (region((1, 10), uuids=("",)), [DeviceGrant(A, 1, 10)], (True, Reason.LIMITS_HOLD)),
        (region(), [DeviceGrant(str(n), 1, 10) for n in range(17)], (False, Reason.TOO_MANY_DEVICES)),
    ],
)  # fmt: skip
def test_the_verdict_rests_on_the_region(
    found: Region | None, grant: list[DeviceGrant], expected: tuple[bool | None, Reason]
) -> None:
    assert verdict(found, *grant) == expected


def test_a_difference_is_told_with_both_figures() -> None:
    assert isolation(region((2, 30)), [DeviceGrant(A, 3, 30)]) == Isolation(
        False, Reason.MEMORY_DIFFERS, f"memory of {A}: limit {2 * MIB} bytes, granted 3 MiB"
    )
    assert "limit none, granted 3 MiB" in isolation(region(), [DeviceGrant(A, 3, 30)]).detail
    assert (
        isolation(region((3, 40)), [DeviceGrant(A, 3, 30)]).detail
        == f"cores of {A}: limit 40 %, granted 30 %"
    )


grants = st.lists(
    st.builds(
        DeviceGrant,
        st.sampled_from([f"GPU-{n}" for n in range(20)]),
        st.none() | st.integers(1, 200_000),
        st.none() | st.integers(0, 150),
    ),
    min_size=1,
    max_size=16,
    unique_by=lambda device: device.uuid,
)


@given(grants, st.randoms())
def test_what_libvgpu_writes_for_a_grant_holds_in_any_order_of_the_driver(
    grant: list[DeviceGrant], random: object
) -> None:
    order = list(grant)
    random.shuffle(order)  # type: ignore[attr-defined]
    found = region(
        *[(d.memory_mib or 0, d.cores_percent or 100) for d in order],
        uuids=tuple(d.uuid for d in order),
    )
    limits = any(d.memory_mib is not None or d.cores_percent is not None for d in grant)
    assert isolation(found, grant).active is (True if limits else None)


@given(grants, st.data())
def test_one_wrong_limit_of_memory_is_always_found(
    grant: list[DeviceGrant], data: st.DataObject
) -> None:
    limited = [place for place, device in enumerate(grant) if device.memory_mib is not None]
    found = region(*[(d.memory_mib or 0, d.cores_percent or 100) for d in grant])
    if limited:
        place = data.draw(st.sampled_from(limited))
        memory = list(found.memory_limits)
        wrong = data.draw(st.integers(0, 2**64 - 1).filter(lambda n: n != memory[place]))
        memory[place] = wrong
        spoiled = replace(found, memory_limits=tuple(memory))
        assert verdict(spoiled, *grant) == (False, Reason.MEMORY_DIFFERS)


def test_devices_are_paired_by_uuid_once_the_region_names_them() -> None:
    assert positions(region(), [A, B]) == [0, 1]
    assert positions(region(uuids=("", "")), [A, B]) == [0, 1]
    assert positions(region(uuids=(B, A)), [A, B, C]) == [1, 0, None]
    assert positions(region(), [str(n) for n in range(17)])[15:] == [15, None]
