"""Physical devices become shares, and shares never add up to more than the device."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.splitting import grants, split, withhold
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


SPLITS = st.builds(lambda n: Split(n, "-", Sharing.LIMITED), st.integers(1, 12))


@given(old=SPLITS, new=SPLITS, data=st.data())
def test_a_change_of_split_never_hands_out_more_than_there_is(
    old: Split, new: Split, data: st.DataObject
) -> None:
    """Containers come and go by the lists that are shown, looks at them may be late."""
    device = PhysicalDevice("u", "0", "M", 1000)
    snapshot = Snapshot((device,))
    table = split(ResourcePlan("a.b/c", ("u",), old), snapshot)
    plan = ResourcePlan("a.b/c", ("u",), new)
    held: dict[str, int] = {}  # id -> the parts that its split has
    for identity in data.draw(st.sets(st.sampled_from(list(table.virtual)))):
        held[identity] = old.count
    seen: set[str] | None = None
    for step in data.draw(st.lists(st.sampled_from(["look", "take", "free"]), max_size=25)):
        former = {i: item for i, item in table.virtual.items() if item.split != new}
        if step == "look":
            seen = set(held)
            former = {i: x for i, x in former.items() if i in seen or i not in table.withheld}
        elif step == "take":
            free = [i for i in table.virtual if i not in held and i not in table.withheld]
            if free:
                identity = data.draw(st.sampled_from(free))
                held[identity] = table.virtual[identity].split.count
        elif held:
            del held[data.draw(st.sampled_from(sorted(held)))]
        table = withhold(split(plan, snapshot, former), new, seen)
        assert sum(Fraction(1, count) for count in held.values()) <= 1
        for identity, count in held.items():
            assert table.virtual[identity].split.count == count


@given(old=SPLITS, new=SPLITS)
def test_when_nobody_holds_anything_the_new_split_is_there_after_two_looks(
    old: Split, new: Split
) -> None:
    device = PhysicalDevice("u", "0", "M", 1000)
    snapshot, plan = Snapshot((device,)), ResourcePlan("a.b/c", ("u",), new)
    table = split(ResourcePlan("a.b/c", ("u",), old), snapshot)
    for _ in range(2):
        former = {
            i: item
            for i, item in table.virtual.items()
            if item.split != new and i not in table.withheld
        }
        table = withhold(split(plan, snapshot, former), new, set())
    assert table == split(plan, snapshot)


def test_a_share_that_is_held_leaves_room_for_the_rest() -> None:
    device = PhysicalDevice("u", "0", "M", 1000)
    wide = split(
        ResourcePlan("a.b/c", ("u",), Split(10, "-", Sharing.LIMITED)), Snapshot((device,))
    )
    narrow = Split(4, "-", Sharing.LIMITED)
    held = {i: wide.virtual[i] for i in ("u-7", "u-8", "u-9")}
    table = split(ResourcePlan("a.b/c", ("u",), narrow), Snapshot((device,)), held)
    shown = withhold(table, narrow, set(held))
    assert [i for i in shown.virtual if i not in shown.withheld] == ["u-0", "u-1", *held]
    assert "3 containers' shares" in shown.withheld["u-2"]
    assert not set(withhold(table, narrow, None).virtual) - {*held, *shown.withheld, "u-0", "u-1"}


@given(old=SPLITS, new=SPLITS, data=st.data())
def test_what_is_held_by_another_name_takes_its_room(
    old: Split, new: Split, data: st.DataObject
) -> None:
    snapshot = Snapshot((PhysicalDevice("u", "0", "M", 1000), PhysicalDevice("v", "1", "M", 1000)))
    before = split(ResourcePlan("a.b/c", ("u", "v"), old), snapshot)
    held = data.draw(st.sets(st.sampled_from(list(before.virtual))))
    plan = ResourcePlan("a.b/d", ("u", "v"), new)
    whole = split(plan, snapshot)
    shown = withhold(whole, new, set(), [before.virtual[identity] for identity in held])
    assert shown.virtual == whole.virtual
    for uuid in ("u", "v"):
        taken = sum(before.virtual[identity].uuid == uuid for identity in held)
        free = [i for i, x in shown.virtual.items() if x.uuid == uuid and i not in shown.withheld]
        room = 1 - Fraction(taken, old.count)
        assert Fraction(len(free), new.count) <= room < Fraction(len(free) + 1, new.count)
