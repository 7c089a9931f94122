"""Kunlunxin's node half, its library through the production binding."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.vendor import (
    DriverError,
    Grant,
    Owner,
    PhysicalDevice,
    Sharing,
    Snapshot,
    VendorSettings,
)
from deviceplugin.vendors.kunlunxin import library
from deviceplugin.vendors.kunlunxin.node import KunlunxinNode

LIBRARY = "usr/local/xpu/lib64/libxpuml.so.1"


@pytest.fixture
def host(
    tmp_path: Path, built: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """A host whose driver has these cards."""

    def make(scenario: str, *flags: str) -> Path:
        target = tmp_path / LIBRARY
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(built("xpuml", "libxpuml.so.1", *flags).read_bytes())
        (tmp_path / "scenario").write_text(scenario)
        monkeypatch.setenv("FAKE_XPUML", str(tmp_path / "scenario"))
        (tmp_path / "dev").mkdir(exist_ok=True)
        (tmp_path / "dev/xpuctrl").touch()
        for bus, numa in ((3, 0), (5, 1)):
            pci = tmp_path / f"sys/bus/pci/devices/0000:{bus:02x}:00.0"
            pci.mkdir(parents=True, exist_ok=True)
            (pci / "vendor").write_text("0x1d22\n")
            (pci / "device").write_text("0x3684\n")
            (pci / "numa_node").write_text(f"{numa}\n")
        return tmp_path

    return make


def test_structures_have_the_sizes_of_the_header() -> None:
    assert ctypes.sizeof(library.PciInfo) == 128
    assert ctypes.sizeof(library.Memory) == 128
    assert ctypes.sizeof(library.Attributes) == 128


def test_cards_are_found_with_their_place_and_state(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    root = host(lines.card(bus=3) + lines.card(bus=5, state=207))
    snapshot = probed("kunlunxin", root)
    first, second = snapshot.devices
    assert snapshot.attributes == {"driverVersion": "5.0.21.16"}
    assert (first.uuid, first.index, first.model) == ("XPU-0000-03-00.0", "0", "P800")
    assert (first.memory_mib, first.numa_node, first.healthy) == (98304, 0, True)
    assert first.device_nodes == ("/dev/xpu0",)
    assert first.links == {second.uuid: 20}
    assert (second.numa_node, second.healthy) == (1, False)
    assert second.reason == "the driver reports an error (state 207)"


def test_a_card_that_answers_with_an_error_is_left_out_alone(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    root = host(
        lines.card(bus=3)
        + lines.card(bus=5)
        + lines.fault(call="xpumlDeviceGetMemoryInfo", card=0, status=15)
    )
    snapshot = probed("kunlunxin", root)
    assert [device.index for device in snapshot.devices] == ["1"]
    assert "card 0 is left out: xpumlDeviceGetMemoryInfo answers 15" in snapshot.problems[0]
    assert "the card is lost" in snapshot.problems[0]


def test_two_cards_at_one_place_cannot_be_told_apart(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    snapshot = probed("kunlunxin", host(lines.card(bus=3) + lines.card(bus=3)))
    (device,) = snapshot.devices
    assert (device.healthy, device.reason) == (False, "duplicate uuid")
    assert "another device has the same uuid" in snapshot.problems[0]


def test_an_older_library_without_a_call_is_used_for_what_it_has(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    snapshot = probed("kunlunxin", host(lines.card(bus=3), "-DWITHOUT_VERSION"))
    assert len(snapshot.devices) == 1
    assert snapshot.attributes == {}


def test_without_a_driver_the_vendor_is_absent(
    tmp_path: Path, probed: Callable[..., Snapshot]
) -> None:
    with pytest.raises(DriverError) as raised:
        probed("kunlunxin", tmp_path)
    assert raised.value.absent


# --- pure parts -----------------------------------------------------------------------------------


def device(index: int) -> PhysicalDevice:
    return PhysicalDevice(
        f"XPU-{index}", str(index), "P800", 98304, device_nodes=(f"/dev/xpu{index}",)
    )


def node(**section: Any) -> KunlunxinNode:
    return KunlunxinNode(VendorSettings(node_name="n", section=section))


def grant(index: int, memory: int | None = None) -> Grant:
    return Grant(device(index), sharing=Sharing.LIMITED, memory_mib=memory)


OWNER = Owner("kunlunxin.com/vxpu", "a")
ALL = Snapshot(tuple(device(i) for i in range(8)))


@pytest.mark.parametrize(
    ("shared", "whole", "slices"),
    [("none", 8, 0), ("all", 0, 8), ([6, 7], 6, 2), ([], 8, 0), ("6, 7", 6, 2)],
)
def test_a_card_is_offered_whole_or_in_slices_and_never_as_both(
    shared: object, whole: int, slices: int
) -> None:
    if shared == "6, 7":
        shared = [6, 7]
    plans = {p.resource: p for p in node(sharedDevices=shared).plan(ALL)}
    assert len(plans["kunlunxin.com/xpu"].devices if whole else ()) == whole
    assert len(plans["kunlunxin.com/vxpu"].devices if slices else ()) == slices
    assert len(plans) == bool(whole) + bool(slices)


def test_schedulers_names_of_whole_cards_are_counted_without_the_shared_ones() -> None:
    (plan, _) = node(sharedDevices=[0, 1]).plan(ALL)
    assert plan.names == {f"n-kunlun-{i}": f"XPU-{i + 2}" for i in range(6)}


def test_a_whole_card_has_no_limit() -> None:
    edits = node().edits([grant(3), grant(5)], OWNER)
    assert edits.env == {"CXPU_VISIBLE_DEVICES": "3,5", "XPU_VISIBLE_DEVICES": "0,1"}
    assert [n.path for n in edits.device_nodes] == ["/dev/xpu3", "/dev/xpu5", "/dev/xpuctrl"]


def test_the_limit_is_the_sum_because_the_toolkit_divides_it() -> None:
    edits = node().edits([grant(0, 24576), grant(1, 24576)], OWNER)
    assert edits.env["CXPU_CONTAINER_MEMORY_LIMIT"] == str(2 * 24576 * 1048576)


@pytest.mark.parametrize("memories", [(24576, 49152), (24576, 98304), (24576, None)])
def test_unequal_shares_are_refused(memories: tuple[int | None, int | None]) -> None:
    with pytest.raises(ValueError, match="the same memory"):
        node().edits([grant(i, memory) for i, memory in enumerate(memories)], OWNER)


def test_all_of_a_card_is_no_limit() -> None:
    assert "CXPU_CONTAINER_MEMORY_LIMIT" not in node().edits([grant(0, 98304)], OWNER).env


def test_slices_need_the_vendors_runtime_on_the_host(tmp_path: Path) -> None:
    settings = VendorSettings(host_root=str(tmp_path), section={"sharedDevices": [7]})
    made = KunlunxinNode(settings)
    whole, slices = made.plan(ALL)
    assert made.impediment(whole) == ""
    assert "install xpu-container-toolkit" in made.impediment(slices)
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/xpu-container-runtime").touch()
    assert made.impediment(slices) == ""


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"sharedDevices": "some"}, "write all, none, or a list of card indices"),
        ({"resourceCountName": "xpu"}, "not a resource name"),
        ({"containerRuntime": "xpu"}, "begin with /"),
    ],
)
def test_a_section_that_cannot_be_used_is_refused_with_the_key(
    section: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        node(**section)


def test_an_unknown_key_is_told_and_ignored(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    snapshot = probed("kunlunxin", host(lines.card(bus=3)), {"sharedDevice": "all"})
    assert "did you mean sharedDevices?" in snapshot.problems[0]
