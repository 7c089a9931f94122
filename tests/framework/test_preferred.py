"""Which ids go together: the vectors of kubelet-deviceplugin.md 4.8, and properties."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.allocation.preferred import NotEnoughDevicesError, preferred
from deviceplugin.splitting import Table, split
from deviceplugin.vendor import PhysicalDevice, ResourcePlan, Sharing, Snapshot, Split


def table(cards: int, replicas: int = 1, links: dict[tuple[int, int], int] | None = None) -> Table:
    shared = replicas > 1
    how = Split(
        replicas, "::" if shared else "", Sharing.TIME_SLICING if shared else Sharing.EXCLUSIVE
    )
    score = links or {}
    devices = tuple(
        PhysicalDevice(
            f"GPU-{i}",
            str(i),
            "M",
            links={f"GPU-{j}": s for (a, j), s in score.items() if a == i},
        )
        for i in range(cards)
    )
    return split(ResourcePlan("a.b/c", tuple(d.uuid for d in devices), how), Snapshot(devices))


def spread(ids: tuple[str, ...]) -> list[int]:
    return sorted(Counter(i.partition("::")[0] for i in ids).values(), reverse=True)


@pytest.mark.parametrize(
    ("cards", "replicas", "size", "distributed", "packed"),
    [
        (2, 4, 2, [1, 1], [2]),
        (2, 4, 4, [2, 2], [4]),
        (2, 4, 5, [3, 2], [4, 1]),
        (3, 2, 3, [1, 1, 1], [2, 1]),
    ],
)
def test_vectors_of_shared_devices(
    cards: int, replicas: int, size: int, distributed: list[int], packed: list[int]
) -> None:
    devices = table(cards, replicas)
    assert spread(preferred(devices, list(devices.virtual), [], size)) == distributed
    assert spread(preferred(devices, list(devices.virtual), [], size, "packed")) == packed


def test_a_partly_used_card_is_still_used_for_the_second_id() -> None:
    devices = table(2, 2)
    assert spread(preferred(devices, ["GPU-0::0", "GPU-0::1", "GPU-1::0"], [], 2)) == [1, 1]


def test_too_few_is_an_error() -> None:
    devices = table(1, 2)
    with pytest.raises(NotEnoughDevicesError, match="not enough available devices"):
        preferred(devices, list(devices.virtual), [], 5)


def test_an_unknown_policy_is_distributed() -> None:
    devices = table(2, 4)
    assert spread(preferred(devices, list(devices.virtual), [], 2, "whatever")) == [1, 1]


def test_whole_cards_come_in_well_connected_pairs_and_leave_such_pairs() -> None:
    """Best for this container alone would be 1+2; the best partition keeps 0+1 and 2+3."""
    links = {(0, 1): 100, (1, 0): 100, (2, 3): 100, (3, 2): 100, (1, 2): 110, (2, 1): 110}
    devices = table(4, 1, links)
    assert set(preferred(devices, list(devices.virtual), [], 2)) in (
        {"GPU-0", "GPU-1"},
        {"GPU-2", "GPU-3"},
    )


def test_what_must_be_in_draws_its_neighbour() -> None:
    links = dict.fromkeys(((0, 3), (3, 0), (1, 2), (2, 1)), 200)
    devices = table(4, 1, links)
    assert set(preferred(devices, list(devices.virtual), ["GPU-2"], 2)) == {"GPU-2", "GPU-1"}


@given(
    cards=st.integers(1, 12),
    replicas=st.integers(1, 4),
    data=st.data(),
    policy=st.sampled_from(["distributed", "packed"]),
)
def test_the_answer_is_what_kubelet_asked_for_and_ignores_order(
    cards: int, replicas: int, data: st.DataObject, policy: str
) -> None:
    devices = table(cards, replicas)
    available = data.draw(st.lists(st.sampled_from(list(devices.virtual)), min_size=1, unique=True))
    must = data.draw(st.lists(st.sampled_from(available), unique=True, max_size=len(available)))
    size = data.draw(st.integers(max(1, len(must)), len(available)))
    answer = preferred(devices, available, must, size, policy)
    assert len(answer) == len(set(answer)) == size
    assert set(must) <= set(answer) <= set(available)
    assert set(answer) == set(preferred(devices, available[::-1], must[::-1], size, policy))
