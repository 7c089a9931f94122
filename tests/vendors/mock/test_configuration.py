"""The vendor's section: which profile is served and what it changes in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.vendor import DriverError, Sharing, VendorSettings
from deviceplugin.vendors.mock.configuration import Configuration, configured, shipped
from deviceplugin.vendors.mock.node import MockNode, create
from deviceplugin.vendors.mock.profile import ProfileError

FILE = "kind: MockNode\nversion: v1\ndevices: [{model: Card, memoryMiB: 7, uuid: x}]\n"


def from_section(**section: Any) -> Configuration:
    return configured(VendorSettings(node_name="n1", section=section))


def test_without_a_section_a_small_node_is_served() -> None:
    assert from_section().profile == from_section(profile="small").profile


@pytest.mark.parametrize(
    ("name", "count", "model", "memory_mib", "numa", "links"),
    [
        ("dgx-a100", 8, "A100-SXM4-80GB", 81920, {0, 1}, {1220, 1210}),
        ("h100", 8, "H100-80GB-HBM3", 81559, {0, 1}, {1820, 1810}),
        ("l40s", 4, "L40S", 46068, {0, 1}, {20, 10}),
        ("small", 2, "T4", 16384, {0}, {20}),
    ],
)
def test_the_shipped_profiles_describe_their_machines(
    name: str, count: int, model: str, memory_mib: int, numa: set[int], links: set[int]
) -> None:
    devices = from_section(profile=name).profile.snapshot.devices
    assert len({device.uuid for device in devices}) == count
    assert {(device.model, device.memory_mib) for device in devices} == {(model, memory_mib)}
    assert {device.numa_node for device in devices} == numa
    assert {score for device in devices for score in device.links.values()} == links
    assert all(len(device.links) == count - 1 for device in devices)


def test_every_shipped_profile_is_tested_here() -> None:
    assert shipped() == ["dgx-a100", "h100", "l40s", "small"]


def test_a_profile_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    assert from_section(profile=str(path)).profile.snapshot.devices[0].memory_mib == 7


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE + "split: {cont: 2}\n")
    with pytest.raises(ProfileError, match=r"mine\.yaml: split\.cont: .* did you mean count\?"):
        from_section(profile=str(path))


def test_the_section_wins_over_the_profile() -> None:
    profile = from_section(
        profile="small",
        resource="example.com/card",
        deviceSplitCount=3,
        deviceMemoryScaling=1.5,
        deviceCoreScaling=2,
        exposure=True,
        faults=[{"at": 4, "device": 1, "fault": "vanish"}],
    ).profile
    assert profile.resource == "example.com/card"
    assert profile.exposure
    assert (profile.split.count, profile.split.memory_scaling) == (3, 1.5)
    assert profile.split.cores_scaling == 2.0
    assert [fault.at for fault in profile.faults] == [4.0]


def test_faults_of_the_section_join_those_of_the_profile_by_time() -> None:
    node = {"devices": [{"model": "Card"}], "faults": [{"at": 2, "fault": "vanish"}]}
    faults = [{"at": 3, "fault": "return"}, {"at": 1, "fault": "crash"}]
    found = from_section(node=node, faults=faults).profile.faults
    assert [fault.at for fault in found] == [1.0, 2.0, 3.0]


def test_a_figure_in_the_section_makes_exclusive_devices_limited_shares() -> None:
    split = from_section(node={"devices": [{"model": "C"}]}, deviceSplitCount=4).profile.split
    assert (split.count, split.sharing, split.separator) == (4, Sharing.LIMITED, "-")


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({"profile": "l40"}, "section mock: profile: no profile 'l40'; did you mean l40s?"),
        ({"profile": "/nowhere/x.yaml"}, "No such file"),
        ({"profile": "small", "node": {}}, "stands beside profile"),
        ({"node": {"devices": 3}}, "section mock: node: devices: 3 is no list"),
        ({"deviceSplitCount": 0}, "deviceSplitCount: 0 is out of range"),
        ({"deviceMemoryScaling": "2"}, "deviceMemoryScaling: '2' is no number"),
        ({"startedAt": "now"}, "startedAt: 'now' is no number"),
        ({"resource": "gpu"}, "resource: 'gpu' is no resource"),
        ({"faults": [{"at": 1, "fault": "vanish", "device": 9}]}, "faults[0].device: no device"),
    ],
)
def test_a_mistake_is_told_by_discovery_and_by_the_plan_and_not_by_creation(
    section: dict[str, Any], text: str
) -> None:
    node = create(VendorSettings(section=section))
    with pytest.raises(DriverError) as discovered:
        node.discover()
    with pytest.raises(ValueError) as planned:
        node.plan(None)  # type: ignore[arg-type]
    assert text in str(discovered.value)
    assert str(planned.value) == str(discovered.value)


def test_an_unknown_key_is_shown_as_a_problem_and_stops_nothing(
    node: Callable[..., MockNode],
) -> None:
    snapshot = node(section={"profle": "h100"}).discover()
    assert len(snapshot.devices) == 3
    assert snapshot.problems == (
        "section mock: profle: unknown key is ignored; did you mean profile?",
    )


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ProfileError, match="is no UTF-8 text"):
        from_section(profile=str(path))
