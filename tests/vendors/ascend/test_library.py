"""The binding's structures against the contract, and what it makes of a driver's answers."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.vendor import DriverError, Snapshot
from deviceplugin.vendors.ascend import library

SIZES = {
    "ChipInfo": 100, "ChipInfoV2": 132, "DieId": 20, "HbmInfo": 32, "MemoryInfo": 112,
    "VdevQuery": 264, "SocTotal": 360,
    "SuperPod": 48, "ProcessMemory": 16, "PcieInfo": 64, "BaseResource": 64,
    "ComputingResource": 96, "MediaResource": 56,
}  # fmt: skip

OFFSETS = [
    ("ChipInfo", "chip_name", 32), ("ChipInfo", "aicore_cnt", 96), ("ChipInfoV2", "npu_name", 100),
    ("HbmInfo", "memory_usage", 16), ("HbmInfo", "temp", 24), ("HbmInfo", "bandwidth_util", 28),
    ("MemoryInfo", "freq", 16), ("MemoryInfo", "hugepagesize", 24), ("MemoryInfo", "utiliza", 48),
    ("BaseResource", "vfg_id", 24),
    ("ComputingResource", "memory_size", 24), ("ComputingResource", "event_id", 32),
    ("ComputingResource", "topic_schedule_aicpu", 48), ("ComputingResource", "vdev_aicore_utilization", 60),
    ("ComputingResource", "vdev_memory_total", 64), ("VdevQuery", "query_info", 8),
    ("SocTotal", "vfg_num", 132), ("SocTotal", "base", 144), ("SocTotal", "computing", 208),
    ("SocTotal", "media", 304), ("SuperPod", "super_pod_id", 8), ("SuperPod", "super_pod_type", 20),
    ("ProcessMemory", "proc_mem_usage", 8), ("PcieInfo", "domain", 16), ("PcieInfo", "bdf_funcid", 28),
]  # fmt: skip

QUERY_OFFSETS = {
    "name": 0, "status": 16, "is_container_used": 20, "vfid": 24, "vfg_id": 28, "container_id": 32,
    "base": 40, "computing": 104, "media": 200,
}  # fmt: skip

Probe = Callable[..., Snapshot]


@pytest.mark.parametrize("name", SIZES)
def test_structures_have_the_drivers_sizes(name: str) -> None:
    assert ctypes.sizeof(getattr(library, name)) == SIZES[name]


@pytest.mark.parametrize(("name", "field", "offset"), OFFSETS)
def test_fields_are_where_the_driver_puts_them(name: str, field: str, offset: int) -> None:
    assert getattr(getattr(library, name), field).offset == offset


def test_the_fields_of_a_vnpu_are_where_the_driver_puts_them() -> None:
    info = dict(library.VdevQuery._fields_)["query_info"]
    assert {name: getattr(info, name).offset for name in QUERY_OFFSETS} == QUERY_OFFSETS
    assert ctypes.sizeof(info) == 256


@pytest.fixture
def ask(
    probed: Probe, dcmi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Snapshot]:
    """One discovery in the probe over a scenario; `library` is another build."""

    def asked(
        scenario: str, section: dict[str, Any] | None = None, *, library: Path = dcmi, **more: Any
    ) -> Snapshot:
        host = tmp_path / "host"
        place = host / "usr/local/Ascend/driver/lib64/driver/libdcmi.so"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(library.read_bytes())
        (host / "dev").mkdir(exist_ok=True)
        (host / "dev/davinci_manager").touch()
        for number in range(0xC0, 0xC4):
            path = host / f"sys/bus/pci/devices/0000:{number:02x}:00.0/numa_node"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("1\n" if number > 0xC1 else "0\n")
        path = tmp_path / "scenario"
        path.write_text(scenario)
        monkeypatch.setenv("FAKE_DCMI_SCENARIO", str(path))
        return probed("ascend", host, section, **more)

    return asked


def test_an_npu_with_all_that_the_driver_says(ask: Any, npu: Any, uuid: Any) -> None:
    snapshot = ask(npu(0) + npu(2))
    assert snapshot.problems == ()
    assert snapshot.attributes == {"dcmiVersion": "24.1.0"}
    first, second = snapshot.devices
    assert (first.uuid, first.index, first.model) == (uuid(0), "0", "910B4")
    assert first.uuid == "000000A0-00000012-0BADF00D-00FF00FF-12345678"
    assert (first.memory_mib, first.healthy, first.numa_node) == (32768, True, 0)
    assert first.device_nodes == ("/dev/davinci7",)
    assert first.attributes == {
        "physicalId": "7", "cardId": "0", "deviceId": "0", "driverMemoryMiB": "32768",
    }  # fmt: skip
    assert (second.index, second.attributes["physicalId"], second.numa_node) == ("2", "5", 1)


def test_the_310p_has_ddr_and_the_memory_of_the_table(ask: Any, npus: Any) -> None:
    (device,) = ask(npus(1, "Ascend310P", hbm=0, ddr=21534)).devices
    assert (device.memory_mib, device.attributes["driverMemoryMiB"]) == (21527, "21534")


def test_two_dies_of_a_910c_card_are_two_devices(ask: Any, npus: Any) -> None:
    devices = ask(npus(4, "Ascend910C", pod=7)).devices
    places = [(d.attributes["cardId"], d.attributes["deviceId"]) for d in devices]
    assert places == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert {d.attributes["superPodId"] for d in devices} == {"7"}
    assert {d.model for d in devices} == {"Ascend910"}


def test_controllers_and_cpus_of_a_card_are_no_npus(ask: Any, npu: Any) -> None:
    snapshot = ask(npu(0) + npu(1, type=1) + npu(2, type=2))
    assert [device.index for device in snapshot.devices] == ["0"]
    assert snapshot.problems == ()


def test_an_old_driver_lacks_symbols_and_is_served(
    ask: Any, npu: Any, built: Callable[..., Path]
) -> None:
    """Without dies the uuid is that of the plugins before 1.1."""
    (device,) = ask(npu(3), library=built("ascend", "libdcmi.so", "-DOLD")).devices
    assert (device.uuid, device.model, device.numa_node) == ("Ascend910B4-4", "910B4", None)


def test_a_newer_call_that_fails_falls_back_to_the_older(ask: Any, npu: Any, lines: Any) -> None:
    broken = lines.fault(call="dcmi_get_device_chip_info_v2", status=-8255)
    assert [d.model for d in ask(npu(0) + broken).devices] == ["910B4"]


def test_a_die_of_zeros_is_no_identity(ask: Any, npu: Any) -> None:
    (device,) = ask(npu(0, die="0-0-0-0-0")).devices
    assert device.uuid == "Ascend910B4-7"


def test_a_driver_of_the_next_generation_is_named(
    ask: Any, npu: Any, built: Callable[..., Path]
) -> None:
    with pytest.raises(DriverError, match=r"dcmiv2_\* calls only.*Ascend 950.*not supported"):
        ask(npu(0), library=built("ascend", "libdcmi.so", "-DV2"))


def test_no_library_is_no_driver_unless_its_devices_are_there(
    probed: Probe, tmp_path: Path
) -> None:
    with pytest.raises(DriverError, match=r"libdcmi.so is not in .*install the driver") as found:
        probed("ascend", tmp_path)
    assert found.value.absent
    # These come from LD_LIBRARY_PATH: the library loads others by name, which lie beside it.
    driver = tmp_path / "usr/local/Ascend/driver/lib64"
    assert f"is not in {driver}, {driver}/driver, {driver}/common, " in str(found.value)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/davinci_manager").touch()
    with pytest.raises(DriverError, match=r"libdcmi.so is not in") as found:
        probed("ascend", tmp_path)
    assert not found.value.absent


@pytest.mark.parametrize(
    "call",
    ["dcmi_get_device_logic_id", "dcmi_get_device_phyid_from_logicid", "dcmi_get_device_die_v2",
     "dcmi_get_device_type"],
)  # fmt: skip
def test_one_failing_chip_costs_itself_only(ask: Any, npus: Any, lines: Any, call: str) -> None:
    snapshot = ask(npus(3) + lines.fault(call=call, card=1, status=-8012))
    assert [device.index for device in snapshot.devices] == ["0", "2"]
    (problem,) = snapshot.problems
    assert problem.startswith(
        f"NPU of card 1, device 0 is left out: {call} answers -8012 (not ready: the card has"
    )
    assert "npu-smi info" in problem


def test_a_card_that_does_not_count_its_devices_costs_itself_only(
    ask: Any, npus: Any, lines: Any
) -> None:
    snapshot = ask(npus(3) + lines.fault(call="dcmi_get_device_num_in_card", card=0, status=-8006))
    assert [device.index for device in snapshot.devices] == ["1", "2"]
    assert snapshot.problems[0].startswith("card 0 is left out: dcmi_get_device_num_in_card")


@pytest.mark.parametrize(
    "call", ["dcmi_get_device_hbm_info", "dcmi_get_device_pcie_info_v2", "dcmi_get_dcmi_version"]
)
def test_what_is_only_good_to_know_costs_nothing(
    ask: Any, npus: Any, lines: Any, call: str
) -> None:
    snapshot = ask(npus(2) + lines.fault(call=call, status=-8255))
    assert len(snapshot.devices) == 2
    assert snapshot.problems == ()


def test_health_comes_with_its_reason(ask: Any, npu: Any) -> None:
    well, ill = ask(npu(0) + npu(1, health=2, codes="0x80E18401,0x81078603")).devices
    assert well.healthy
    assert not ill.healthy
    assert ill.reason == "its health is 2, not 0; error codes 0x80e18401, 0x81078603"


def test_no_such_device_is_unhealthy(ask: Any, npu: Any) -> None:
    (device,) = ask(npu(0, health="0xFFFFFFFF")).devices
    assert not device.healthy
    assert "no such device" in device.reason


def test_who_does_not_tell_his_health_is_not_well(ask: Any, npus: Any, lines: Any) -> None:
    first, second = ask(
        npus(2) + lines.fault(call="dcmi_get_device_health", card=0, status=-8008)
    ).devices
    assert (first.healthy, second.healthy) == (False, True)
    assert "dcmi_get_device_health answers -8008 (the device does not exist)" in first.reason


def test_an_unknown_chip_is_left_out_by_name(ask: Any, npu: Any) -> None:
    snapshot = ask(npu(0) + npu(1, name="910B2C") + npu(2, kind="Other"))
    assert [device.index for device in snapshot.devices] == ["0"]
    assert (
        "no entry of vnpus has chipName '910B2C' (type 'Ascend'); known are 310P3, 910A"
        in snapshot.problems[0]
    )
    assert "chipName '910B4' (type 'Other')" in snapshot.problems[1]


def test_garbage_for_a_name_is_shown_and_not_believed(ask: Any, npu: Any) -> None:
    snapshot = ask(npu(0, name=r"\xff\xfe\x01910B4" + "X" * 60))
    assert snapshot.devices == ()
    assert "\\\\xff" in snapshot.problems[0]
    assert snapshot.problems[0].isprintable()


@pytest.mark.parametrize("count", [-1, 65, 2**31 - 1])
def test_an_impossible_number_of_cards_is_an_error(ask: Any, npu: Any, count: int) -> None:
    with pytest.raises(DriverError, match=f"dcmi_get_card_list tells {count}, of 0 to 64"):
        ask(npu(0, count=count))


@pytest.mark.parametrize(("field", "value"), [("logic", -3), ("logic", 256), ("phy", 4096)])
def test_an_impossible_id_costs_its_chip(ask: Any, npu: Any, field: str, value: int) -> None:
    snapshot = ask(npu(0) + npu(1, **{field: value}))
    assert [device.index for device in snapshot.devices] == ["0"]
    assert f"tells {value}, of 0 to 255" in snapshot.problems[0]


def test_twins_are_told_apart_by_nobody(ask: Any, npu: Any, uuid: Any) -> None:
    (device,) = ask(npu(0) + npu(1, die=uuid(0))).devices
    assert (device.uuid, device.healthy, device.reason) == (uuid(0), False, "duplicate uuid")


@pytest.mark.parametrize("call", ["dcmi_init", "dcmi_get_card_list"])
def test_a_driver_that_fails_says_why(ask: Any, npu: Any, lines: Any, call: str) -> None:
    with pytest.raises(DriverError, match=rf"{call} answers -8002 \(no permission: .*privileged"):
        ask(npu(0) + lines.fault(call=call, status=-8002))


def test_npus_come_in_the_order_of_their_logic_ids(ask: Any, npu: Any, uuid: Any) -> None:
    snapshot = ask(npu(0, logic=10) + npu(1, logic=9) + npu(2, logic=2))
    assert [device.uuid for device in snapshot.devices] == [uuid(2), uuid(1), uuid(0)]


USAGE = """
import json, sys
from dataclasses import asdict
from deviceplugin.vendor import VendorSettings
from deviceplugin.vendors.ascend.node import AscendNode
node = AscendNode(VendorSettings(host_root=sys.argv[1]))
json.dump([asdict(one) for one in node.usage(node.discover())], sys.stdout)
"""


def test_how_busy_npus_are(
    dcmi: Path,
    npu: Any,
    npus: Any,
    uuid: Any,
    lines: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of HBM where there is some, of DDR else (E.1 no. 25); what one call does not say, another may."""
    place = tmp_path / "usr/local/Ascend/driver/lib64/driver/libdcmi.so"
    place.parent.mkdir(parents=True)
    place.write_bytes(dcmi.read_bytes())
    scenario = tmp_path / "scenario"
    monkeypatch.setenv("FAKE_DCMI_SCENARIO", str(scenario))
    scenario.write_text(
        npu(0, used=1024, busy=37, bandwidth=12)
        + npu(1, hbm=0, ddr=21534, used=534, busy=101)
        + npu(2, used=5)
        + lines.fault(call="dcmi_get_device_utilization_rate", card=2, status=-8255)
    )
    done = subprocess.run(
        [sys.executable, "-c", USAGE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    found = [tuple(one.values()) for one in json.loads(done.stdout)]
    assert found == [
        (uuid(0), 1024, 37, 12),
        (uuid(1), 534, None, 0),
        (uuid(2), 5, None, None),
    ]


TWICE = """
import os, sys
from deviceplugin.vendor import DriverError, VendorSettings
from deviceplugin.vendors.ascend.node import AscendNode
node = AscendNode(VendorSettings(host_root=sys.argv[1]))
for scenario in sys.argv[2:]:
    with open(os.environ["FAKE_DCMI_SCENARIO"], "w") as file:
        file.write(scenario)
    try:
        print(len(node.discover().devices))
    except DriverError as error:
        print(str(error).split(" (")[0])
"""


def test_a_driver_that_comes_back_is_initialised_anew(
    dcmi: Path, npus: Any, lines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an upgrade of it under the running agent."""
    place = tmp_path / "usr/local/Ascend/driver/lib64/driver/libdcmi.so"
    place.parent.mkdir(parents=True)
    place.write_bytes(dcmi.read_bytes())
    monkeypatch.setenv("FAKE_DCMI_SCENARIO", str(tmp_path / "scenario"))
    lost = npus(2) + lines.fault(call="dcmi_get_card_list", status=-8017)
    command = [sys.executable, "-c", TWICE, str(tmp_path), npus(2), lost, npus(2), npus(3)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2", "dcmi_get_card_list answers -8017", "2", "3"]


def test_hidden_npus_are_not_there(ask: Any, npus: Any, uuid: Any) -> None:
    hidden = {"filterDevices": {"index": [0], "uuid": [uuid(2)]}}
    snapshot = ask(npus(4), hidden)
    assert [device.index for device in snapshot.devices] == ["1", "3"]
    assert snapshot.problems == ()


def test_a_wrong_entry_is_told_with_the_devices_of_the_others(ask: Any, npu: Any) -> None:
    good = {"chipName": "910B4", "commonWord": "W", "resourceName": "huawei.com/W",
            "resourceMemoryName": "huawei.com/W-memory", "memoryAllocatable": 32768, "aiCore": 20}  # fmt: skip
    snapshot = ask(npu(0), {"vnpus": [good, {**good, "chipName": "910B3", "aiCore": "x"}]})
    assert len(snapshot.devices) == 1
    assert 'vnpus[1].aiCore = "x": not a whole number' in snapshot.problems[0]
    with pytest.raises(DriverError, match=r"vnpus\[0\]\.aiCore"):
        ask(npu(0), {"vnpus": [{**good, "aiCore": "x"}]})
