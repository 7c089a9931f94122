"""Recordings: replayed exactly, and without real serial numbers where that is asked for."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.vendor import PhysicalDevice, Snapshot, Usage
from deviceplugin.vendors.mock import VENDOR
from deviceplugin.vendors.mock.configuration import configured, shipped
from deviceplugin.vendors.mock.masking import masked
from deviceplugin.vendors.mock.profile import Origin, Profile
from deviceplugin.vendors.mock.reading import parse, read
from deviceplugin.vendors.mock.replay import profile_from_snapshot, profile_from_stream
from deviceplugin.vendors.mock.scenario import state_at, usage_at

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

texts = st.text(max_size=12)
names = texts | st.sampled_from([f"GPU-0000000{n}-1111-2222-3333-44444444aaaa" for n in range(4)])
mappings = st.dictionaries(texts, texts, max_size=3)
whole = st.integers(-(2**53), 2**53)
devices = st.builds(
    PhysicalDevice,
    uuid=names,
    index=texts,
    model=texts,
    memory_mib=st.none() | whole,
    cores_percent=whole,
    numa_node=st.none() | whole,
    links=st.dictionaries(names, whole, max_size=3),
    device_nodes=st.lists(texts, max_size=2).map(tuple),
    healthy=st.booleans(),
    reason=texts,
    parent_uuid=names,
    profile=texts,
    attributes=mappings,
)
snapshots = st.builds(
    Snapshot,
    devices=st.lists(devices, max_size=4).map(tuple),
    attributes=mappings,
    problems=st.lists(texts, max_size=2).map(tuple),
)


def replayed(text: str) -> Profile:
    return read(parse(text, "recorded.yaml"), "recorded.yaml", VENDOR.resource)


@given(snapshots)
def test_a_recording_is_replayed_exactly(snapshot: Snapshot) -> None:
    text = profile_from_snapshot("nvidia", "nvidia.com/gpu", snapshot, {}, mask_serials=False)
    profile = replayed(text)
    assert state_at(profile, 0) == snapshot
    assert profile.origin is Origin.RECORDED
    assert profile.resource == "nvidia.com/gpu"


@given(st.lists(st.tuples(st.integers(1, 30), snapshots), min_size=1, max_size=3))
def test_a_stream_is_replayed_answer_by_answer(steps: list[tuple[int, Snapshot]]) -> None:
    now, frames = 0.0, []
    for step, snapshot in steps:
        frames.append((now, snapshot))
        now += step
    profile = replayed(profile_from_stream("v", "a.b/c", frames, {}, mask_serials=False))
    for position, (at, snapshot) in enumerate(frames):
        end = frames[position + 1][0] if position + 1 < len(frames) else at + 10
        assert state_at(profile, at) == snapshot
        assert state_at(profile, (at + end) / 2) == snapshot


figures = st.none() | st.floats(0, 100)


@given(snapshots, st.data())
def test_how_busy_devices_were_is_replayed_exactly(snapshot: Snapshot, data: st.DataObject) -> None:
    uuids = {device.uuid for device in snapshot.devices if device.uuid}
    busy = {
        uuid: Usage(uuid, data.draw(figures), data.draw(figures), data.draw(figures))
        for uuid in sorted(uuids)
        if data.draw(st.booleans())
    }
    stranger = Usage("listed-by-nobody", 1.0)
    text = profile_from_snapshot("v", "a.b/c", snapshot, {}, False, [*busy.values(), stranger])
    seen = usage_at(replayed(text), snapshot.devices, 0)
    assert {usage.uuid: usage for usage in seen} == busy


def test_readings_of_a_stream_keep_their_seconds_and_false_names() -> None:
    uuid = "GPU-00000001-1111-2222-3333-44444444aaaa"
    card = Snapshot((PhysicalDevice(uuid, "0", "Card"),))
    readings = [(0.0, [Usage(uuid, 1.0)]), (5.0, [Usage(uuid, 2.0)])]
    profile = replayed(profile_from_stream("v", "a.b/c", [(0.0, card)], {}, True, readings))
    (device,) = profile.snapshot.devices
    assert device.uuid != uuid
    assert usage_at(profile, [device], 4.9) == (Usage(device.uuid, 1.0),)
    assert usage_at(profile, [device], 5) == (Usage(device.uuid, 2.0),)


def test_an_empty_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one snapshot"):
        profile_from_stream("v", "a.b/c", [], {}, mask_serials=False)


@pytest.mark.parametrize("name", shipped())
def test_a_replayed_shipped_profile_is_the_same_node(name: str) -> None:
    from deviceplugin.vendor import VendorSettings

    snapshot = configured(VendorSettings(section={"profile": name})).profile.snapshot
    text = profile_from_snapshot("mock", VENDOR.resource, snapshot, {}, mask_serials=False)
    assert state_at(replayed(text), 0) == snapshot


def test_the_text_says_who_was_recorded_with_which_settings() -> None:
    settings = {"migStrategy": "mixed", "deviceSplitCount": 10}
    data = yaml.safe_load(profile_from_snapshot("nvidia", "a.b/c", Snapshot(), settings, True))
    assert data["recorded"] == {"vendor": "nvidia", "settings": settings, "masked": True}


# --- masking ---


@given(snapshots)
def test_masking_changes_names_and_nothing_else(snapshot: Snapshot) -> None:
    text = profile_from_snapshot("v", "a.b/c", snapshot, {}, mask_serials=True)
    false = state_at(replayed(text), 0)
    false_names = {
        real.uuid: mask.uuid for real, mask in zip(snapshot.devices, false.devices, strict=True)
    }
    assert len(set(false_names.values())) == len(false_names)
    for real, mask in zip(snapshot.devices, false.devices, strict=True):
        assert mask.index == real.index
        assert mask.memory_mib == real.memory_mib
        assert sorted(mask.links.values()) == sorted(real.links.values())
        for other, score in real.links.items():
            if other in false_names:
                assert mask.links[false_names[other]] == score
        if real.parent_uuid in false_names:
            assert mask.parent_uuid == false_names[real.parent_uuid]


identities = st.one_of(
    st.uuids().map(lambda u: f"GPU-{u}"),
    st.uuids().map(lambda u: f"MIG-GPU-{u}/1/2"),
    st.from_regex(r"[0-9]{4}", fullmatch=True),
    st.from_regex(r"[A-Z0-9]{4,8}-[0-9A-F]{2,5}", fullmatch=True),
    st.text(max_size=6),
)


@given(st.sets(identities, max_size=40))
def test_masked_names_are_different_and_of_the_same_shape(real: set[str]) -> None:
    false = masked(real)
    assert len(set(false.values())) == len(real)
    for name, mask in false.items():
        assert len(mask) == len(name)
        assert [c.isascii() and c.isalnum() for c in mask] == [
            c.isascii() and c.isalnum() for c in name
        ]
        assert bool(UUID.search(mask)) >= bool(UUID.search(name))


@given(st.uuids())
def test_the_same_uuid_gets_the_same_name_in_every_recording(uuid: Any) -> None:
    name = f"GPU-{uuid}"
    alone = masked([name])[name]
    assert masked([name, "other"])[name] == alone
    assert alone != name
    assert alone.startswith("GPU-")


def test_a_partition_still_shows_its_card() -> None:
    card = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
    false = masked([card, f"MIG-{card}/1/2"])
    assert false[f"MIG-{card}/1/2"] == f"MIG-{false[card]}/1/2"


def test_a_crowded_space_of_numbers_still_gives_different_names() -> None:
    real = [f"{number:04}" for number in range(10_000)]
    assert set(masked(real).values()) == set(real)


def test_no_text_of_a_masked_recording_mentions_a_real_serial() -> None:
    uuid, serial = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "1320219012345"
    device = PhysicalDevice(
        uuid,
        "0",
        "A100",
        reason=f"Xid 79 on {uuid}",
        device_nodes=(f"/dev/by-id/{uuid}",),
        attributes={"boardSerial": serial, "note": f"board {serial}", "slot": "1320"},
    )
    snapshot = Snapshot((device,), {"chassisSerial": "XK12345678"}, (f"{uuid} left out",))
    text = profile_from_snapshot("v", "a.b/c", snapshot, {}, mask_serials=True)
    assert not any(secret in text for secret in (uuid[4:], serial, "XK12345678"))
    mask = state_at(replayed(text), 0)
    assert mask.devices[0].reason == f"Xid 79 on {mask.devices[0].uuid}"
    assert mask.devices[0].attributes["slot"] == "1320"
