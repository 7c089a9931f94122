"""Ids of a container that only make sense on one device: which are preferred."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.allocation.preferred import preferred
from deviceplugin.splitting import Table, split
from deviceplugin.vendor import PhysicalDevice, ResourcePlan, Sharing, Snapshot, Split


def table(cards: int, count: int = 4) -> Table:
    how = Split(count, "-", Sharing.LIMITED, together=True)
    devices = tuple(PhysicalDevice(f"n{i}", str(i), "M", 1000) for i in range(cards))
    return split(ResourcePlan("a.b/c", tuple(d.uuid for d in devices), how), Snapshot(devices))


def cards_of(ids: tuple[str, ...]) -> dict[str, int]:
    return dict(Counter(i.partition("-")[0] for i in ids))


@pytest.mark.parametrize(
    ("taken", "size", "cards"),
    [
        ([], 1, {"n0": 1}),
        ([], 4, {"n0": 4}),
        ([], 8, {"n0": 4, "n1": 4}),
        (["n0-0"], 4, {"n1": 4}),  # not three here and one there
        (["n0-0"], 3, {"n0": 3}),  # the fullest that has room
        (["n0-0", "n1-0", "n1-1"], 2, {"n1": 2}),
        (["n0-0", "n1-0", "n2-0"], 6, {"n0": 3, "n1": 3}),
    ],
)
def test_as_few_devices_as_can_be(taken: list[str], size: int, cards: dict[str, int]) -> None:
    devices = table(3)
    free = [i for i in devices.virtual if i not in taken]
    assert cards_of(preferred(devices, free, [], size)) == cards


def test_a_device_that_must_be_in_is_filled_first() -> None:
    devices = table(3)
    chosen = preferred(devices, list(devices.virtual), ["n2-3"], 3)
    assert chosen[0] == "n2-3"
    assert cards_of(chosen) == {"n2": 3}


@given(st.sets(st.integers(0, 11)), st.integers(1, 12))
def test_no_other_choice_needs_fewer_devices(taken: set[int], size: int) -> None:
    devices = table(3)
    free = [i for n, i in enumerate(devices.virtual) if n not in taken]
    if len(free) < size:
        return
    chosen = preferred(devices, free, [], size)
    assert len(set(chosen)) == size
    assert set(chosen) <= set(free)
    room = sorted(cards_of(tuple(free)).values(), reverse=True)
    needed = next(n for n in range(1, 4) if sum(room[:n]) >= size)
    assert len(cards_of(chosen)) == needed
