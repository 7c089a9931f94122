"""Discovery through pynvml and our fake NVML, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from deviceplugin.vendor import DriverError


def test_a_card_is_described_completely(driver: Any, tree: Any, cards: Callable[..., str]) -> None:
    for name in ("nvidiactl", "nvidia-uvm", "nvidia0"):
        tree.add(f"driver-root/dev/{name}")
    tree.add("host/sys/bus/pci/devices/0000:3b:00.0/numa_node", "1\n")
    snapshot = driver.discover(cards(1))
    assert snapshot.attributes == {"driver.version": "550.54.15", "cuda.version": "12.4"}
    assert snapshot.problems == ()
    (gpu,) = snapshot.devices
    assert (gpu.uuid, gpu.index, gpu.model) == ("GPU-0", "0", "NVIDIA Test")
    assert (gpu.memory_mib, gpu.cores_percent, gpu.numa_node) == (4096, 100, 1)
    assert gpu.device_nodes == ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0")
    assert gpu.healthy
    assert gpu.attributes == {
        "platform": "nvml",
        "pci.bus-id": "0000:3b:00.0",
        "cuda.compute-capability": "8.0",
        "mig.mode": "disabled",
    }


@pytest.mark.parametrize("text", ["-1\n", "what\n"])
def test_a_numa_node_that_is_negative_or_garbage_is_unknown(
    driver: Any, tree: Any, cards: Callable[..., str], text: str
) -> None:
    tree.add("host/sys/bus/pci/devices/0000:3b:00.0/numa_node", text)
    assert driver.discover(cards(1)).devices[0].numa_node is None


def test_links_count_the_way_over_pci_and_every_nvlink(
    driver: Any, cards: Callable[..., str], record: Callable[..., str]
) -> None:
    snapshot = driver.discover(
        cards(
            3,
            record("link", one=0, two=1, level=10, nvlinks=4),
            record("link", one=0, two=2, level=50),
        )
    )
    links = [dict(device.links) for device in snapshot.devices]
    assert links == [{"GPU-1": 450, "GPU-2": 10}, {"GPU-0": 450}, {"GPU-0": 10}]


def test_host_paths_of_device_nodes_lie_below_the_dev_root(
    driver: Any, tree: Any, cards: Callable[..., str]
) -> None:
    tree.add("driver-root/dev/nvidiactl")
    snapshot = driver.discover(cards(1), nvidiaDriverRoot="/run/nvidia/driver")
    assert snapshot.devices[0].device_nodes == (
        "/run/nvidia/driver/dev/nvidiactl",
        "/run/nvidia/driver/dev/nvidia0",
    )


# --- what is wrong with one card ---------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetName",
        "nvmlDeviceGetPciInfo_v3",
        "nvmlDeviceGetMinorNumber",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetCudaComputeCapability",
    ],
)
def test_a_failing_call_makes_its_card_unhealthy_and_no_other(
    driver: Any, cards: Callable[..., str], record: Callable[..., str], call: str
) -> None:
    snapshot = driver.discover(cards(3, record("fault", call=call, card=1, code=999)))
    assert [device.healthy for device in snapshot.devices] == [True, False, True]
    assert f"{call.removesuffix('_v3')}: Unknown Error" in snapshot.devices[1].reason
    (problem,) = snapshot.problems
    assert problem.startswith("GPU 1 (GPU-1) is unhealthy: ")


@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID"])
def test_a_card_that_never_said_its_uuid_is_left_out(
    driver: Any, cards: Callable[..., str], record: Callable[..., str], call: str
) -> None:
    snapshot = driver.discover(cards(2, record("fault", call=call, card=0, code=999)))
    assert [device.uuid for device in snapshot.devices] == ["GPU-1"]
    assert snapshot.problems[0].startswith("GPU 0 is left out: Unknown Error")


def test_a_lost_card_is_remembered_as_unhealthy_and_comes_back(
    driver: Any, cards: Callable[..., str], record: Callable[..., str]
) -> None:
    lost = record("fault", call="*", card=1, code=15)
    before, during, after = driver.discoveries(cards(3), cards(3, lost), cards(3))
    assert [device.uuid for device in during.devices] == ["GPU-0", "GPU-1", "GPU-2"]
    assert [device.healthy for device in during.devices] == [True, False, True]
    assert "GPU is lost" in during.devices[1].reason
    assert during.devices[1].memory_mib == before.devices[1].memory_mib
    assert during.devices[1].device_nodes == before.devices[1].device_nodes
    assert after == before


def test_a_failing_card_keeps_the_facts_of_better_days(
    driver: Any, cards: Callable[..., str], record: Callable[..., str]
) -> None:
    fault = record("fault", call="nvmlDeviceGetMemoryInfo", card=0, code=999)
    before, during = driver.discoveries(cards(1), cards(1, fault))
    assert during.devices[0].memory_mib == before.devices[0].memory_mib == 4096
    assert not during.devices[0].healthy


def test_the_instances_of_a_lost_card_are_unhealthy_with_it(
    driver: Any, mig_node: Callable[..., str], record: Callable[..., str]
) -> None:
    lost = record("fault", call="*", card=0, code=15)
    _, during = driver.discoveries(mig_node(), mig_node(lost))
    assert [device.uuid for device in during.devices] == ["GPU-0", "MIG-0", "MIG-1"]
    assert not any(device.healthy for device in during.devices)


def test_a_card_that_is_only_old_is_healthy(driver: Any, one_card: Callable[..., str]) -> None:
    (gpu,) = driver.discover(one_card(0, mig=None, cc=None)).devices
    assert gpu.healthy
    assert "mig.mode" not in gpu.attributes


# --- memory ------------------------------------------------------------------------------------


def test_unified_memory_has_no_figure(driver: Any, one_card: Callable[..., str]) -> None:
    assert driver.discover(one_card(0, memory=None)).devices[0].memory_mib is None


def test_unified_memory_gets_the_configured_figure(
    driver: Any, one_card: Callable[..., str]
) -> None:
    section = {"preConfiguredDeviceMemory": 120000}
    snapshot = driver.discover(one_card(0, memory=None), section=section)
    assert snapshot.devices[0].memory_mib == 120000


def test_shares_of_unknown_memory_are_a_problem_that_names_the_remedy(
    driver: Any, one_card: Callable[..., str]
) -> None:
    section = {"deviceSplitCount": 10}
    (problem,) = driver.discover(one_card(0, memory=None), section=section).problems
    assert "nvidia.preConfiguredDeviceMemory" in problem


# --- what the operator hides -------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [{"uuid": ["GPU-1"]}, {"index": [1]}])
def test_filtered_cards_do_not_appear(
    driver: Any, cards: Callable[..., str], hidden: dict[str, Any]
) -> None:
    snapshot = driver.discover(cards(3), section={"filterDevices": hidden})
    assert [device.uuid for device in snapshot.devices] == ["GPU-0", "GPU-2"]
    assert snapshot.problems == ()


def test_a_hidden_card_in_trouble_is_not_even_mentioned(
    driver: Any, cards: Callable[..., str], record: Callable[..., str]
) -> None:
    lost = record("fault", call="*", card=1, code=15)
    snapshot = driver.discover(cards(2, lost), section={"filterDevices": {"index": [1]}})
    assert [device.uuid for device in snapshot.devices] == ["GPU-0"]
    assert snapshot.problems == ()


# --- MIG ---------------------------------------------------------------------------------------


def test_mig_instances_carry_profile_placement_and_capability_nodes(
    driver: Any, mig_node: Callable[..., str]
) -> None:
    gpu, first, second = driver.discover(mig_node(), migStrategy="mixed").devices
    assert gpu.attributes["mig.mode"] == "enabled"
    assert (first.index, first.parent_uuid, first.profile) == ("0:0", "GPU-0", "1g.5gb")
    assert first.device_nodes == (
        "/dev/nvidia0",
        "/dev/nvidia-caps/nvidia-cap12",
        "/dev/nvidia-caps/nvidia-cap13",
    )
    assert first.attributes["mig.gpu-instance"] == "1"
    assert first.attributes["mig.compute-instance"] == "0"
    assert first.memory_mib == 4864
    assert (second.index, second.profile) == ("0:2", "2g.10gb+me")


def test_a_profile_is_computed_where_the_driver_does_not_name_it(
    driver: Any, mig_node: Callable[..., str]
) -> None:
    scenario = mig_node().replace(" MIG 1g.5gb", "").replace(" MIG 2g.10gb+me", "")
    devices = driver.discover(scenario).devices
    assert [device.profile for device in devices] == ["", "1g.5gb", "2g.10gb"]


def test_an_instance_that_does_not_tell_its_profile_is_a_problem(
    driver: Any, mig_node: Callable[..., str]
) -> None:
    scenario = mig_node().replace(" MIG 1g.5gb", "").replace("|compute=1|slices=1", "")
    snapshot = driver.discover(scenario)
    assert snapshot.devices[1].healthy
    assert snapshot.problems == ("MIG instance 0:0 (MIG-0) does not tell its profile",)


def test_an_instance_without_capability_nodes_is_unhealthy(
    driver: Any, tree: Any, mig_node: Callable[..., str]
) -> None:
    scenario = mig_node()
    tree.add("host/proc/driver/nvidia-caps/mig-minors", "gpu0/gi2/access 21\n")
    gpu, first, _ = driver.discover(scenario).devices
    assert gpu.healthy
    assert not first.healthy
    assert "gpu0/gi1/access is not in /proc/driver/nvidia-caps/mig-minors" in first.reason


def test_a_failing_instance_does_not_harm_its_siblings(
    driver: Any, mig_node: Callable[..., str], record: Callable[..., str]
) -> None:
    fault = record("fault", call="nvmlDeviceGetGpuInstanceId", mig=0, code=999)
    devices = driver.discover(mig_node(fault)).devices
    assert [device.healthy for device in devices] == [True, False, True]


def test_an_instance_without_uuid_is_left_out(
    driver: Any, mig_node: Callable[..., str], record: Callable[..., str]
) -> None:
    fault = record("fault", call="nvmlDeviceGetUUID", mig=0, code=999)
    snapshot = driver.discover(mig_node(fault))
    assert [device.uuid for device in snapshot.devices] == ["GPU-0", "MIG-1"]
    assert "MIG instance 0:0 is left out" in snapshot.problems[0]


@pytest.mark.parametrize(("strategy", "problems"), [("none", 0), ("single", 1), ("mixed", 1)])
def test_a_card_in_mig_mode_without_instances_is_told_where_that_matters(
    driver: Any, one_card: Callable[..., str], strategy: str, problems: int
) -> None:
    snapshot = driver.discover(one_card(0, mig=1), migStrategy=strategy)
    assert len(snapshot.problems) == problems
    assert snapshot.devices[0].healthy


# --- no driver ---------------------------------------------------------------------------------


def test_without_a_library_the_driver_is_absent(node: Callable[..., Any]) -> None:
    with pytest.raises(DriverError, match=r"libnvidia-ml\.so\.1 .* install the driver") as caught:
        node().discover()
    assert caught.value.absent


def test_without_the_kernel_module_the_driver_is_absent(
    driver: Any, record: Callable[..., str]
) -> None:
    text, absent = driver.refusal(record("fault", call="nvmlInitWithFlags", code=9))
    assert absent
    assert "modprobe nvidia" in text


@pytest.mark.parametrize(("fail", "absent"), [(True, False), (False, True)])
def test_another_failure_of_nvml_is_a_fault_unless_the_operator_tolerates_it(
    driver: Any, record: Callable[..., str], fail: bool, absent: bool
) -> None:
    scenario = record("fault", call="nvmlInitWithFlags", code=999)
    text, said = driver.refusal(scenario, failOnInitError=fail)
    assert (said, text) == (absent, "nvmlInit: Unknown Error; see dmesg")


def test_a_driver_that_cannot_count_is_a_fault(driver: Any, record: Callable[..., str]) -> None:
    text, absent = driver.refusal(record("fault", call="nvmlDeviceGetCount_v2", code=999))
    assert not absent
    assert "Unknown Error" in text


def test_a_replaced_driver_ends_the_process_so_that_the_next_loads_the_new_one(
    driver: Any, tree: Any, cards: Callable[..., str], record: Callable[..., str]
) -> None:
    # The first discovery loads the library; then another one is installed, and the kernel's
    # module answers that the loaded one is too old.
    folder = tree.driver / "usr" / "lib64"
    script = (
        "import os, sys\n"
        "from deviceplugin.vendor import VendorSettings\n"
        "from deviceplugin.vendors.nvidia.node import NvidiaNode\n"
        f"options = {{'containerDriverRoot': {str(tree.driver)!r}}}\n"
        "node = NvidiaNode(VendorSettings(options=options))\n"
        "node.discover()\n"
        f"os.rename({str(folder / 'libnvidia-ml.so.550.54.15')!r}, {str(folder / 'new')!r})\n"
        f"os.unlink({str(folder / 'libnvidia-ml.so.1')!r})\n"
        f"os.symlink('new', {str(folder / 'libnvidia-ml.so.1')!r})\n"
        "open(os.environ['FAKE_NVML_SCENARIO'], 'w').write(sys.argv[1])\n"
        "node.discover()\n"
    )
    driver.scenario.write_text(cards(1))
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, record("fault", call="nvmlInitWithFlags", code=18)],
        env=driver.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("the driver was replaced: ")


# --- other platforms ---------------------------------------------------------------------------


def test_a_tegra_is_one_device(tree: Any, node: Callable[..., Any]) -> None:
    tree.add("host/etc/nv_tegra_release", "# R36")
    tree.add("host/proc/device-tree/model", "Jetson AGX Orin\0")
    (device,) = node().discover().devices
    assert (device.uuid, device.model, device.healthy) == ("tegra", "Jetson AGX Orin", True)


def test_a_tegra_cannot_be_handed_over_by_cdi(node: Callable[..., Any]) -> None:
    with pytest.raises(DriverError, match="Tegra has no NVML"):
        node(deviceDiscoveryStrategy="tegra", deviceListStrategy=("cdi-cri",)).discover()


def test_under_wsl_every_card_is_the_one_paravirtual_node(
    driver: Any, tree: Any, cards: Callable[..., str]
) -> None:
    tree.add("driver-root/dev/dxg")
    snapshot = driver.discover(cards(2))
    assert [device.device_nodes for device in snapshot.devices] == [("/dev/dxg",)] * 2
