"""The vendor as the framework finds it: cheap to import, complete, configured by the options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deviceplugin import registry
from deviceplugin.config import load, vendor_settings
from deviceplugin.vendor import (
    HealthWatcher,
    InventoryWriter,
    Partitioner,
    Planner,
    RuntimeExposed,
    Safeguarded,
    Sharing,
    Slotted,
    VendorSettings,
)
from deviceplugin.vendors.nvidia import VENDOR
from deviceplugin.vendors.nvidia.settings import read


def test_the_entry_point_leads_to_a_node_half_with_all_capabilities() -> None:
    vendor = registry.load().vendors["nvidia"]
    assert vendor is VENDOR
    backend = registry.load_backend(vendor, VendorSettings())
    capabilities = (
        *(Planner, RuntimeExposed, InventoryWriter, HealthWatcher, Safeguarded),
        *(Partitioner, Slotted),
    )
    for capability in capabilities:
        assert isinstance(backend, capability)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("deviceplugin.vendors.nvidia", ("deviceplugin.vendors.nvidia.node", "ctypes", "yaml")),
        ("deviceplugin.vendors.nvidia.node", ("pynvml", "subprocess", "click", "grpc")),
    ],
)
def test_importing_loads_no_binding_and_nothing_heavy(module: str, absent: tuple[str, ...]) -> None:
    script = f"import sys, {module}; print(*sorted(set({absent!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("path", "present"),
    [
        ("dev/nvidiactl", True),
        ("dev/nvidia3", True),
        ("dev/dxg", True),
        ("run/nvidia/driver/dev/nvidiactl", True),
        ("dev/nvram", False),
        ("dev/nvme0", False),
    ],
)
def test_presence_is_told_by_device_nodes(tmp_path: Path, path: str, present: bool) -> None:
    target = tmp_path / path
    target.parent.mkdir(parents=True)
    target.touch()
    assert any(list(tmp_path.glob(pattern)) for pattern in VENDOR.presence) is present


def test_every_option_reaches_the_backend(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "nvidia: {deviceSplitCount: 4, preConfiguredDeviceMemory: 100}\n"
        "sharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 2}]}}\n"
    )
    given = {
        "config_file": str(file),
        "mig_strategy": "mixed",
        "nvidia_driver_root": "/run/nvidia/driver/",
        "nvidia_dev_root": "/dev-root",
        "driver_root_ctr_path": "/ctr",
        "nvidia_cdi_hook_path": "/opt/nvidia-cdi-hook",
        "gdrcopy_enabled": "true",
        "gds_enabled": "true",
        "mofed_enabled": "true",
        "imex_channel_ids": "0",
        "imex_required": "true",
        "device_discovery_strategy": "nvml",
        "device_list_strategy": "cdi-cri",
        "device_id_strategy": "index",
        "mps_root": "/run/mps",
        "hook_path": "/opt/hook",
        "cdi_disable_hooks": "enable-cuda-compat",
        "fail_on_init_error": "false",
        "disable_health_checks": "48,79",
        "enable_health_checks": "13",
    }
    settings = read(vendor_settings(load(given, {}).config, "nvidia"))
    assert settings.section.pre_configured_device_memory == 100
    assert settings.limited
    assert settings.sharing["nvidia.com/gpu"].sharing is Sharing.TIME_SLICING
    assert (settings.driver_root, settings.dev_root) == ("/run/nvidia/driver", "/dev-root")
    assert settings.container_driver_root == "/ctr"
    assert settings.cdi_hook_path == "/opt/nvidia-cdi-hook"
    assert (settings.gdrcopy, settings.gds, settings.mofed) == (True, True, True)
    assert (settings.imex_channels, settings.imex_required) == ((0,), True)
    assert (settings.mig_strategy, settings.discovery_strategy) == ("mixed", "nvml")
    assert (settings.by_index, settings.uses_cdi) == (True, True)
    assert (settings.mps_root, settings.hook_path) == ("/run/mps", "/opt/hook")
    assert settings.disabled_hooks == {"enable-cuda-compat"}
    assert settings.fail_on_init_error is False
    assert (settings.disable_checks, settings.enable_checks) == (("48", "79"), ("13",))


def test_without_options_the_dev_root_is_the_driver_root_and_nothing_is_split() -> None:
    settings = read(VendorSettings(options={"nvidiaDriverRoot": "/run/nvidia/driver"}))
    assert settings.dev_root == "/run/nvidia/driver"
    assert not settings.split
    assert read(VendorSettings()).driver_root == "/"


def test_where_isolation_is_not_enforced_shares_are_not_limited() -> None:
    section = {"deviceSplitCount": 2}
    assert not read(VendorSettings(section=section, enforce_isolation=False)).limited
