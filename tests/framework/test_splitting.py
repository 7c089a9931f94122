"""Physical devices become shares, and shares never add up to more than the device."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.splitting import grants, split
from deviceplugin.vendor import PhysicalDevice, ResourcePlan, Sharing, Snapshot, Split

PLANS = st.builds(
    lambda n, sharing: Split(n, "-", sharing),
    st.integers(1, 20),
    st.sampled_from([Sharing.LIMITED, Sharing.MPS, Sharing.TIME_SLICING]),
)


@given(memory=st.lists(st.integers(0, 200_000), min_size=1, max_size=4), how=PLANS, data=st.data())
def test_disjoint_containers_never_hold_more_than_there_is(
    memory: list[int], how: Split, data: st.DataObject
) -> None:
    devices = tuple(PhysicalDevice(f"u-{i}", str(i), "M", m) for i, m in enumerate(memory))
    table = split(ResourcePlan("a.b/c", tuple(d.uuid for d in devices), how), Snapshot(devices))
    ids = data.draw(st.permutations(list(table.virtual)))
    cut = data.draw(st.integers(1, len(ids)))
    given_ = [*grants(table, ids[:cut]), *(grants(table, ids[cut:]) if ids[cut:] else ())]
    for device in devices:
        mine = [grant for grant in given_ if grant.device.uuid == device.uuid]
        assert sum(grant.shares for grant in mine) == how.count
        if how.sharing is Sharing.TIME_SLICING:
            assert all(grant.memory_mib is None for grant in mine)
        else:
            assert sum(grant.memory_mib or 0 for grant in mine) <= (device.memory_mib or 0)


def test_all_ids_of_a_card_are_the_whole_card() -> None:
    device = PhysicalDevice("u", "0", "M", 1000)
    table = split(
        ResourcePlan("a.b/c", ("u",), Split(3, "-", Sharing.LIMITED)), Snapshot((device,))
    )
    (grant,) = grants(table, list(table.virtual))
    assert (grant.shares, grant.of, grant.memory_mib, grant.cores_percent) == (3, 3, 1000, 100)


def test_a_held_share_survives_a_smaller_split_with_its_own_size() -> None:
    device = PhysicalDevice("u", "0", "M", 1000)
    wide = split(
        ResourcePlan("a.b/c", ("u",), Split(10, "-", Sharing.LIMITED)), Snapshot((device,))
    )
    held = {"u-9": wide.virtual["u-9"]}
    narrow = split(
        ResourcePlan("a.b/c", ("u",), Split(2, "-", Sharing.LIMITED)), Snapshot((device,)), held
    )
    assert list(narrow.virtual) == ["u-0", "u-1", "u-9"]
    assert grants(narrow, ["u-9"])[0].memory_mib == 100
    assert grants(narrow, ["u-0"])[0].memory_mib == 500


def test_unknown_memory_has_no_limit_and_cores_do() -> None:
    device = PhysicalDevice("u", "0", "M", None)
    table = split(
        ResourcePlan("a.b/c", ("u",), Split(4, "-", Sharing.LIMITED)), Snapshot((device,))
    )
    (grant,) = grants(table, ["u-0"])
    assert (grant.memory_mib, grant.cores_percent) == (None, 25)
