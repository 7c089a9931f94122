"""The lines between a probe and the agent: what goes in comes out, and garbage has a name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.probe import stream
from deviceplugin.vendor import PhysicalDevice, Replicas, Sharing, Snapshot, Usage, VendorSettings

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TEXTS = st.dictionaries(NAMES, NAMES, max_size=3)
DEVICES = st.builds(
    PhysicalDevice,
    uuid=NAMES,
    index=NAMES,
    model=NAMES,
    memory_mib=st.none() | st.integers(),
    cores_percent=st.integers(),
    numa_node=st.none() | st.integers(),
    links=st.dictionaries(NAMES, st.integers(), max_size=3),
    device_nodes=st.lists(NAMES, max_size=3).map(tuple),
    healthy=st.booleans(),
    reason=NAMES,
    parent_uuid=NAMES,
    profile=NAMES,
    attributes=TEXTS,
)
SNAPSHOTS = st.builds(
    Snapshot,
    devices=st.lists(DEVICES, max_size=4).map(tuple),
    attributes=TEXTS,
    problems=st.lists(NAMES, max_size=3).map(tuple),
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(SNAPSHOTS)
def test_a_snapshot_survives_the_line(snapshot: Snapshot) -> None:
    line = stream.encode({"type": "snapshot", "snapshot": stream.snapshot_to_dict(snapshot)})
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert stream.snapshot_from_dict(stream.decode(line)["snapshot"]) == snapshot


@given(
    st.builds(
        VendorSettings,
        node_name=NAMES,
        host_root=NAMES,
        enforce_isolation=st.booleans(),
        section=st.dictionaries(NAMES, st.integers() | NAMES | st.lists(NAMES), max_size=3),
        options=TEXTS,
        sharing=st.dictionaries(
            NAMES,
            st.builds(Replicas, st.integers(1, 99), st.sampled_from(Sharing), NAMES, st.booleans()),
            max_size=3,
        ),
    )
)
def test_settings_survive_the_line(settings: VendorSettings) -> None:
    line = stream.encode({"type": "settings", "settings": stream.settings_to_dict(settings)})
    assert stream.settings_from_dict(stream.decode(line)["settings"]) == settings


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_a_named_error(line: bytes) -> None:
    try:
        assert isinstance(stream.decode(line)["type"], str)
    except stream.StreamError as error:
        assert "a line" in str(error)


@given(JSON)
def test_any_json_is_a_snapshot_or_a_named_error(data: Any) -> None:
    for read in (
        stream.snapshot_from_dict,
        stream.device_from_dict,
        stream.health_from_dict,
        stream.usages_from_dict,
    ):
        try:
            read(data)
        except stream.StreamError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("uuid", 7),
        ("memory_mib", 1.5),
        ("memory_mib", True),
        ("links", {"other": "near"}),
        ("device_nodes", "dev"),
        ("attributes", {"a": None}),
    ],
)
def test_a_field_of_the_wrong_type_is_named_with_its_place(field: str, value: object) -> None:
    with pytest.raises(stream.StreamError, match=rf"snapshot\.devices\[1\]\.{field}"):
        stream.snapshot_from_dict({"devices": [{}, {field: value}]})


def test_half_characters_of_a_driver_become_question_marks() -> None:
    line = stream.encode(
        {"type": "failed", "reason": b"\xff card".decode(errors="surrogateescape")}
    )
    assert stream.decode(line)["reason"] == "? card"


def test_half_characters_on_the_line_are_garbage_and_whole_ones_are_not() -> None:
    with pytest.raises(stream.StreamError):
        stream.decode(rb'{"type": "failed", "reason": "\ud800"}')
    assert stream.decode(json.dumps({"type": "failed", "reason": "😀"}).encode())["reason"] == "😀"


def test_a_deep_nesting_is_garbage_and_no_crash() -> None:
    with pytest.raises(stream.StreamError):
        stream.decode(b"[" * 100_000)


figures = st.none() | st.floats(0, 1e15)


@given(st.lists(st.builds(Usage, NAMES, figures, figures, figures)))
def test_readings_come_back_as_they_were(usages: list[Usage]) -> None:
    line = stream.encode({"type": "usage", "devices": [stream.usage_to_dict(u) for u in usages]})
    read = stream.usages_from_dict(stream.decode(line))
    assert read == tuple(usages)


@pytest.mark.parametrize("value", ["1", True, -1, float("nan"), float("inf"), [], {}])
def test_a_figure_that_is_none_is_named_with_its_place(value: object) -> None:
    with pytest.raises(stream.StreamError, match=r"usage\.devices\[0\]\.used_mib"):
        stream.usages_from_dict({"devices": [{"uuid": "a", "used_mib": value}]})
