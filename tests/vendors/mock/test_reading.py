"""Profiles: what is read, and that everything else is refused with place, reason and remedy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.vendor import Mount, Sharing
from deviceplugin.vendors.mock import VENDOR
from deviceplugin.vendors.mock.profile import Fault, FaultKind, PartitionSize, ProfileError
from deviceplugin.vendors.mock.reading import _DEVICE_KEYS, _PROFILE_KEYS, parse, read

CARD = {"model": "Card", "memoryMiB": 1000}


def inline(data: object) -> Any:
    return read(data, "file.yaml", VENDOR.resource, seed="n1", inline=True)


def complaint(data: object) -> str:
    with pytest.raises(ProfileError) as caught:
        inline(data)
    return str(caught.value)


def test_a_counted_template_becomes_numbered_devices_spread_over_numa_nodes() -> None:
    data = {
        "devices": {
            "count": 4,
            "numaNodes": 2,
            "links": {"sameNuma": 20, "otherNuma": 10},
            "template": {
                **CARD,
                "uuid": "card-{index}",
                "deviceNodes": ["/dev/x{index}"],
                "attributes": {"slot": "s{index}"},
            },
        }
    }
    devices = inline(data).snapshot.devices
    assert [d.uuid for d in devices] == ["card-0", "card-1", "card-2", "card-3"]
    assert [d.index for d in devices] == ["0", "1", "2", "3"]
    assert [d.numa_node for d in devices] == [0, 0, 1, 1]
    assert [d.device_nodes for d in devices] == [(f"/dev/x{i}",) for i in range(4)]
    assert [d.attributes["slot"] for d in devices] == ["s0", "s1", "s2", "s3"]
    assert devices[0].links == {"card-1": 20, "card-2": 10, "card-3": 10}
    assert devices[3].links == {"card-0": 10, "card-1": 10, "card-2": 20}


def test_links_in_a_list_may_name_devices_by_index_or_uuid() -> None:
    devices = [{**CARD, "uuid": "a", "links": {1: 20, "c": 30}}, {**CARD, "uuid": "b"}]
    found = inline({"devices": [*devices, {**CARD, "uuid": "c"}]}).snapshot.devices
    assert found[0].links == {"b": 20, "c": 30}


def test_uuids_that_are_not_given_are_stable_and_differ_between_nodes() -> None:
    data = {"devices": {"count": 3, "template": CARD}}
    one = [d.uuid for d in read(data, "f", "a/b", seed="n1", inline=True).snapshot.devices]
    again = [d.uuid for d in read(data, "f", "a/b", seed="n1", inline=True).snapshot.devices]
    other = [d.uuid for d in read(data, "f", "a/b", seed="n2", inline=True).snapshot.devices]
    assert one == again
    assert len({*one, *other}) == 6


def test_without_a_split_devices_are_exclusive_and_a_count_makes_limited_shares() -> None:
    plain = inline({"devices": [CARD]}).split
    shared = inline({"devices": [CARD], "split": {"count": 5, "coreScaling": 2}}).split
    assert (plain.count, plain.sharing, plain.separator) == (1, Sharing.EXCLUSIVE, "")
    assert (shared.count, shared.sharing, shared.separator) == (5, Sharing.LIMITED, "-")
    assert shared.cores_scaling == 2.0


@pytest.mark.parametrize("sharing", ["time-slicing", "mps"])
def test_sharing_by_replicas_separates_ids_by_two_colons(sharing: str) -> None:
    split = inline({"devices": [CARD], "split": {"count": 2, "sharing": sharing}}).split
    assert split.separator == "::"


def test_mounts_partitions_and_faults_are_read() -> None:
    profile = inline(
        {
            "devices": [{**CARD, "uuid": "a"}],
            "mounts": [{"hostPath": "/h", "containerPath": "/c", "options": ["ro"]}],
            "partitions": {"half": {"memoryMiB": 500, "coresPercent": 50}},
            "faults": [
                {"at": 9, "fault": "slow", "seconds": 2.5, "until": 10},
                {"at": 3, "fault": "unhealthy", "device": 0, "reason": "hot"},
            ],
        }
    )
    assert profile.mounts[0].mount == Mount("/h", "/c", ("ro",))
    assert profile.partitions == {"half": PartitionSize(500, 50)}
    assert profile.faults == (
        Fault(FaultKind.UNHEALTHY, 3.0, None, "0", 0.0, "hot"),
        Fault(FaultKind.SLOW, 9.0, 10.0, "", 2.5, ""),
    )


@pytest.mark.parametrize(
    ("change", "place", "remedy"),
    [
        ({"device": []}, "device:", "did you mean devices?"),
        ({"devices": None}, "devices:", "write a list"),
        ({"devices": [{"memoryMiB": 1}]}, "devices[0].model:", "write a text"),
        ({"devices": [{**CARD, "memory": 1}]}, "devices[0].memory:", "did you mean memoryMiB?"),
        ({"devices": [{**CARD, "memoryMiB": "16Gi"}]}, "devices[0].memoryMiB:", "digits"),
        ({"devices": [{**CARD, "memoryMiB": True}]}, "devices[0].memoryMiB:", "digits"),
        ({"devices": [{**CARD, "numaNode": -1}]}, "devices[0].numaNode:", "from 0"),
        ({"devices": [{**CARD, "index": 0}]}, "devices[0].index:", "quotes"),
        ({"devices": [{**CARD, "healthy": "no"}]}, "devices[0].healthy:", "true or false"),
        ({"devices": [{**CARD, "links": {"7": 1}}]}, "devices[0].links.7:", "known are"),
        ({"devices": [{**CARD, "uuid": "a"}] * 2}, "devices[1].uuid:", "duplicate-uuid"),
        ({"devices": {"count": 0, "template": CARD}}, "devices.count:", "from 1"),
        ({"devices": {"template": CARD}}, "devices.count:", "is missing"),
        ({"devices": {"count": 2}}, "devices.template:", "key: value"),
        ({"devices": {"count": 2, "template": {**CARD, "uuid": "a"}}}, "devices[1].uuid:", "own"),
        ({"resource": "gpu"}, "resource:", "domain/name"),
        ({"origin": "recoded"}, "origin:", "did you mean recorded?"),
        ({"kind": "Node"}, "kind:", "write MockNode"),
        ({"version": "v2"}, "version:", "write v1"),
        ({"split": {"count": 3, "sharing": "exclusive"}}, "split.count:", "sharing: limited"),
        ({"split": {"scaling": 2}}, "split.scaling:", "did you mean"),
        ({"split": {"memoryScaling": float("nan")}}, "split.memoryScaling:", "from 0.01"),
        ({"split": 10}, "split:", "key: value"),
        ({"mounts": [{"hostPath": "x", "containerPath": "/y"}]}, "mounts[0].hostPath:", "begin"),
        ({"partitions": {"x": {"memoryMiB": 1}}}, "partitions.x.coresPercent:", "whole number"),
        ({"usage": [{"device": 7}]}, "usage[0].device:", "known are"),
        ({"usage": [{"usedMiB": -1}]}, "usage[0].usedMiB:", "from 0"),
        ({"usage": [{"utilisationPercent": 101}]}, "usage[0].utilisationPercent:", "to 100"),
        ({"usage": [{"used": 1}]}, "usage[0].used:", "did you mean usedMiB?"),
        ({"faults": {}}, "faults:", "entry a line"),
        ({"faults": [{"fault": "unhealty"}]}, "faults[0].fault:", "did you mean unhealthy?"),
        ({"faults": [{"at": -1, "fault": "crash"}]}, "faults[0].at:", "from 0"),
        ({"faults": [{"at": "1s", "fault": "crash"}]}, "faults[0].at:", "write a number"),
        ({"faults": [{"at": 5, "until": 5, "fault": "hang"}]}, "faults[0].until:", "later"),
        ({"faults": [{"until": 5, "fault": "healthy"}]}, "faults[0].until:", "remove it"),
        ({"faults": [{"fault": "vanish", "device": 7}]}, "faults[0].device:", "known are"),
        ({"faults": [{"fault": "crash", "device": 0}]}, "faults[0].device:", "remove it"),
        ({"faults": [{"fault": "slow"}]}, "faults[0].seconds:", "write or remove it"),
        ({"faults": [{"fault": "hang", "seconds": 1}]}, "faults[0].seconds:", "write or remove"),
        ({"changes": [{"devices": []}]}, "changes[0].at:", "is missing"),
        ({"devices": [{**CARD, "index": "\ud800"}]}, "devices[0].index:", "correct it"),
        ({"attributes": {"a": 1}}, "attributes.a:", "quotes"),
    ],
)
def test_a_mistake_is_refused_with_file_key_and_remedy(
    change: dict[str, Any], place: str, remedy: str
) -> None:
    text = complaint({"devices": [CARD], **change})
    assert text.startswith(f"file.yaml: {place}")
    assert remedy in text


def test_a_file_must_say_what_it_is() -> None:
    with pytest.raises(ProfileError, match=r"f\.yaml: kind: is missing"):
        read({"devices": [CARD]}, "f.yaml", VENDOR.resource)


def test_a_recorded_profile_may_say_anything_that_a_driver_says() -> None:
    odd = {"uuid": "a", "memoryMiB": -1, "numaNode": -1, "coresPercent": 250, "links": {"z": -3}}
    profile = inline({"origin": "recorded", "devices": [odd, odd, {}]})
    assert [d.uuid for d in profile.snapshot.devices] == ["a", "a", ""]
    assert profile.snapshot.devices[0].memory_mib == -1
    assert profile.snapshot.devices[0].links == {"z": -3}


def test_a_key_that_stands_twice_is_refused() -> None:
    with pytest.raises(ProfileError, match=r"f.yaml: faults: stands twice \(line 1\)"):
        parse("faults: []\ndevices: []\nfaults: []\n", "f.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "a: 2024-99-99",
        "? [a]\n: b",
        "\x00",
        "[" * 5000,
        "!!x y",
        "!!int ''",
        "!!bool x",
        "!!timestamp x",
    ],
)
def test_what_is_no_yaml_is_refused(text: str) -> None:
    with pytest.raises(ProfileError):
        inline(parse(text, "f.yaml"))


@pytest.mark.parametrize("text", ["[" * 200_000 + "]" * 200_000, "- " * 5000])
def test_a_deep_document_is_refused_and_kills_nobody(text: str) -> None:
    with pytest.raises(ProfileError, match="nested too deeply"):
        parse(text, "f.yaml")


def test_a_document_that_contains_itself_is_refused() -> None:
    with pytest.raises(ProfileError):
        inline(parse("&a\ndevices: *a\nsplit: *a\n", "f.yaml"))


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([kind.value for kind in FaultKind])
    | st.just("\ud800")
)
keys = st.sampled_from([*_PROFILE_KEYS, *_DEVICE_KEYS, "at", "until", "fault", "count", "template"])
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | scalars, inner, max_size=4),
    max_leaves=12,
)


def answer(data: object) -> str:
    """What the reader says to this data; only the profile error may be raised."""
    try:
        inline(data)
    except ProfileError as error:
        return str(error)
    return "file.yaml: fine"


@given(anything | st.dictionaries(st.sampled_from(_PROFILE_KEYS), anything, max_size=5))
def test_garbage_never_raises_anything_but_the_profile_error(data: object) -> None:
    assert answer(data).startswith("file.yaml: ")


@given(st.dictionaries(st.sampled_from(_PROFILE_KEYS), anything, max_size=4))
def test_garbage_beside_good_devices_never_raises_anything_but_the_profile_error(
    data: dict[str, object],
) -> None:
    whole = {**data, "devices": {"count": 2, "template": CARD}}
    assert answer(whole).startswith("file.yaml: ")


@pytest.mark.parametrize("key", ["kind", "devices", "split", "faults", "exposure", "resource"])
def test_a_number_too_long_to_be_shown_is_refused_like_any_other(key: str) -> None:
    number = 10**5000
    assert "beyond reason" in answer({"devices": [CARD], key: number})
    assert "beyond reason" in answer({"devices": [CARD], number: key})
    for member in ({"fault": "crash", "at": number}, {"fault": "vanish", "device": number}):
        assert "beyond reason" in answer({"devices": [CARD], "faults": [member]})


@given(st.text(alphabet="abc:-[]{}&*!|>'\"#\n ?,%@`0.\t~<=", max_size=60))
def test_random_text_is_never_a_profile_and_raises_only_the_profile_error(text: str) -> None:
    with pytest.raises(ProfileError):
        inline(parse(text, "f.yaml"))
