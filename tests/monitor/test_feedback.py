"""Priorities between containers, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.libvgpu import Field
from deviceplugin.monitor.feedback import Tenant, feedback, release

RECENT, SWITCH = Field.RECENT_KERNEL, Field.UTILIZATION_SWITCH


def after(tenants: list[Tenant], changes: Mapping[str, Mapping[Field, int]]) -> list[Tenant]:
    """The containers as a step leaves them."""
    return [
        replace(
            tenant,
            recent_kernel=changes.get(tenant.key, {}).get(RECENT, tenant.recent_kernel),
            utilization_switch=changes.get(tenant.key, {}).get(SWITCH, tenant.utilization_switch),
        )
        for tenant in tenants
    ]


def left(*tenants: tuple[int, str, int, int]) -> list[tuple[int, int]]:
    """What (priority, devices, recent_kernel, switch) become after one step."""
    before = [
        Tenant(str(key), priority, tuple(devices.split()), recent, switch)
        for key, (priority, devices, recent, switch) in enumerate(tenants)
    ]
    return [(t.recent_kernel, t.utilization_switch) for t in after(before, feedback(before))]


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        # alone on its device: counts down and is not throttled
        ([(1, "A", 2, 1)], [(1, 0)]),
        ([(1, "A", 1, 0)], [(0, 0)]),
        ([(1, "A", 0, 0)], [(0, 0)]),
        ([(0, "A", 2, 1)], [(1, 0)]),
        # a block that nobody needs any more ends
        ([(1, "A", -1, 1)], [(0, 0)]),
        ([(0, "A", -1, 1)], [(0, 0)]),
        ([(1, "A", -7, 1)], [(0, 0)]),
        # two of one priority: both throttled while both are active, neither blocked
        ([(1, "A", 2, 0), (1, "A", 2, 0)], [(1, 1), (1, 1)]),
        ([(0, "A", 2, 0), (0, "A", 2, 0)], [(1, 1), (1, 1)]),
        ([(1, "A", 2, 1), (1, "A", 1, 1)], [(1, 0), (0, 0)]),
        ([(1, "A", 2, 1), (1, "B", 2, 1)], [(1, 0), (1, 0)]),
        # a higher priority that is active blocks and throttles the lower one
        ([(0, "A", 2, 1), (1, "A", 2, 0)], [(1, 0), (-1, 1)]),
        ([(0, "A", 2, 0), (1, "A", 0, 0)], [(1, 0), (-1, 1)]),
        ([(0, "A", 2, 0), (1, "A", -1, 1)], [(1, 0), (-1, 1)]),
        # and one that is not, does not
        ([(0, "A", 1, 0), (1, "A", 2, 1)], [(0, 0), (1, 0)]),
        ([(0, "A", 0, 0), (1, "A", -1, 1)], [(0, 0), (0, 0)]),
        ([(0, "B", 2, 0), (1, "A", 2, 1)], [(1, 0), (1, 0)]),
        # a lower priority never blocks a higher one
        ([(0, "A", 0, 1), (1, "A", 2, 0)], [(0, 0), (1, 0)]),
        # all devices are looked at, not only the first
        ([(0, "B", 2, 0), (1, "A B", 2, 0), (1, "A", 2, 0)], [(1, 0), (-1, 1), (1, 1)]),
        # more than two priorities
        ([(1, "A", 2, 0), (2, "A", 2, 0)], [(1, 0), (-1, 1)]),
        ([(0, "A", 2, 0), (1, "A", 2, 0), (5, "A", 2, 0)], [(1, 0), (-1, 1), (-1, 1)]),
        # a negative number is no priority and gains nothing
        ([(-3, "A", 2, 0), (0, "A", 2, 0)], [(-1, 1), (1, 0)]),
        ([(-3, "A", 2, 0), (1, "A", 2, 0)], [(1, 1), (1, 1)]),
        # a number that the library never writes buys no time
        ([(0, "A", 2**31 - 1, 0)], [(1, 0)]),
        # one device granted twice is one device
        ([(1, "A A", 2, 1)], [(1, 0)]),
        # nobody knows its grant: never blocked, its limit holds, and it blocks nobody
        ([(1, "", -1, 0)], [(0, 1)]),
        ([(0, "", 2, 0), (1, "A", 2, 1)], [(1, 1), (1, 0)]),
    ],
)  # fmt: skip
def test_one_step(before: list[tuple[int, str, int, int]], expected: list[tuple[int, int]]) -> None:
    assert left(*before) == expected
    assert left(*reversed(before)) == expected[::-1]


def test_nothing_is_written_that_is_so_already() -> None:
    assert feedback([Tenant("a", 1, ("A",), 0, 0)]) == {}
    assert feedback([Tenant("a", 1, ("A",), 0, 1)]) == {"a": {SWITCH: 0}}
    assert feedback([Tenant("a", 1, ("A",), 1, 0)]) == {"a": {RECENT: 0}}
    busy = [Tenant("a", 0, ("A",), 2, 0), Tenant("b", 1, ("A",), -1, 1)]
    assert feedback(busy) == {"a": {RECENT: 1}}


tenants = st.lists(
    st.builds(
        Tenant,
        st.uuids().map(str),
        st.integers(-2, 4),
        st.lists(st.sampled_from("ABC"), max_size=3).map(tuple),
        st.integers(-2, 3),
        st.integers(-1, 2),
    ),
    max_size=8,
    unique_by=lambda tenant: tenant.key,
)


def runs(tenant: Tenant) -> bool:
    return tenant.recent_kernel >= 0


@given(tenants)
def test_nobody_waits_without_a_higher_priority_at_work_on_the_same_device(
    found: list[Tenant],
) -> None:
    by_key = {tenant.key: tenant for tenant in found}
    for tenant in after(found, feedback(found)):
        if not runs(tenant):
            rank = tenant.priority if tenant.priority >= 0 else 1
            assert any(
                other.recent_kernel > 1
                and (other.priority if other.priority >= 0 else 1) < rank
                and set(other.devices) & set(tenant.devices)
                for other in by_key.values()
            )


@given(tenants)
def test_the_highest_priority_never_waits(found: list[Tenant]) -> None:
    assert all(runs(tenant) for tenant in after(found, feedback(found)) if tenant.priority == 0)


@given(tenants)
def test_when_nobody_starts_kernels_everybody_is_free_after_two_steps(found: list[Tenant]) -> None:
    for _ in range(2):
        found = after(found, feedback(found))
    quiet = after(found, feedback(found))
    assert all(tenant.recent_kernel == 0 for tenant in quiet)
    assert all(tenant.utilization_switch == (0 if tenant.devices else 1) for tenant in quiet)
    assert feedback(quiet) == {}


@given(tenants, st.randoms())
def test_the_order_of_containers_does_not_matter(found: list[Tenant], random: object) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert feedback(shuffled) == feedback(found)


@given(tenants)
def test_only_values_that_the_library_knows_are_written(found: list[Tenant]) -> None:
    for change in feedback(found).values():
        assert change.get(RECENT, 0) in (-1, 0, 1)
        assert change.get(SWITCH, 0) in (0, 1)


@given(tenants)
def test_release_frees_everybody_and_lets_limits_hold(found: list[Tenant]) -> None:
    free = after(found, release(found))
    assert all(runs(tenant) and tenant.utilization_switch == 1 for tenant in free)
    assert release(free) == {}
    before = {tenant.key: tenant.recent_kernel for tenant in found}
    assert all(tenant.recent_kernel == max(before[tenant.key], 0) for tenant in free)
