"""CDI specifications of a fake driver root; all of them must pass our own strict rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.cdi import Spec, check, load_directories, required_version, to_dict, write_spec
from deviceplugin.vendor import PhysicalDevice, Snapshot, VendorSettings
from deviceplugin.vendors.nvidia import cdi, driverfiles
from deviceplugin.vendors.nvidia.host import host_of, resolved_below
from deviceplugin.vendors.nvidia.node import NvidiaNode
from deviceplugin.vendors.nvidia.settings import read

VERSION = "999.88.77"
LIBS = "lib/x86_64-linux-gnu"
READ_ONLY = ["ro", "nosuid", "nodev", "rbind", "rprivate"]
FACTS = {"driver.version": VERSION}


@pytest.fixture
def installed(tree: Any) -> Any:
    """A driver root with the two libraries and the two nodes of the reference result."""
    tree.add(f"driver-root/{LIBS}/libcuda.so.{VERSION}")
    tree.add(f"driver-root/{LIBS}/vdpau/libvdpau_nvidia.so.{VERSION}")
    for name in ("nvidiactl", "nvidia0"):
        tree.add(f"driver-root/dev/{name}")
    return tree


def gpu(root: str = "", **fields: Any) -> PhysicalDevice:
    defaults: dict[str, Any] = {
        "uuid": "GPU-a",
        "index": "0",
        "model": "NVIDIA Test",
        "device_nodes": (f"{root}/dev/nvidiactl", f"{root}/dev/nvidia0"),
        "attributes": {"platform": "nvml", "pci.bus-id": "0000:3b:00.0"},
    }
    return PhysicalDevice(**{**defaults, **fields})


def specs_of(tree: Any, devices: Sequence[PhysicalDevice] = (), **options: Any) -> dict[str, Spec]:
    """The specifications by class, each checked by the strict rules."""
    backend = NvidiaNode(tree.settings(**options))
    found = backend.cdi_specs(Snapshot(tuple(devices), FACTS))
    for spec in found:
        check(spec)
    return {spec.kind.partition("/")[2]: spec for spec in found}


def test_one_card_is_described_as_the_reference_tool_does(installed: Any) -> None:
    root = str(installed.driver)
    options = {"nvidiaDriverRoot": root, "nvidiaCDIHookPath": "/usr/bin/nvidia-cdi-hook"}
    settings = read(installed.settings(deviceIDStrategy="index", **options))
    host = host_of(settings)
    files = driverfiles.find(host.driver, VERSION)
    spec = cdi.gpus("example.com/device", [gpu(root)], files, settings, host)
    assert spec is not None
    check(spec)

    def hook(*args: str) -> dict[str, Any]:
        return {
            "hookName": "createContainer",
            "path": "/usr/bin/nvidia-cdi-hook",
            "args": ["nvidia-cdi-hook", *args],
            "env": ["NVIDIA_CTK_DEBUG=false"],
        }

    def mount(path: str) -> dict[str, Any]:
        return {"hostPath": root + path, "containerPath": path, "options": READ_ONLY}

    def node(path: str) -> dict[str, str]:
        return {"path": path, "hostPath": root + path}

    folder = f"/{LIBS}"
    card = {"deviceNodes": [node("/dev/nvidia0")]}
    assert to_dict(spec) == {
        "cdiVersion": "0.5.0",
        "kind": "example.com/device",
        "devices": [
            {"name": "0", "containerEdits": card},
            {"name": "all", "containerEdits": card},
        ],
        "containerEdits": {
            "env": [f"NVIDIA_CTK_LIBCUDA_DIR={folder}", "NVIDIA_VISIBLE_DEVICES=void"],
            "deviceNodes": [node("/dev/nvidiactl")],
            "hooks": [
                hook("create-symlinks", "--link", f"libcuda.so.1::{folder}/libcuda.so"),
                hook("enable-cuda-compat", f"--host-driver-version={VERSION}"),
                hook("update-ldcache", "--folder", folder, "--folder", f"{folder}/vdpau"),
                hook("disable-device-node-modification"),
                hook("update-application-profile"),
            ],
            "mounts": [
                mount(f"{folder}/libcuda.so.{VERSION}"),
                mount(f"{folder}/vdpau/libvdpau_nvidia.so.{VERSION}"),
            ],
        },
    }


def test_paths_are_translated_to_the_host(installed: Any) -> None:
    root = "/run/nvidia/driver"
    specs = specs_of(installed, [gpu(root)], nvidiaDriverRoot=root)
    edits = specs["gpu"].container_edits
    assert edits.mounts[0].host_path == f"{root}/{LIBS}/libcuda.so.{VERSION}"
    assert edits.mounts[0].container_path == f"/{LIBS}/libcuda.so.{VERSION}"
    assert edits.device_nodes[0].host_path == f"{root}/dev/nvidiactl"
    assert edits.device_nodes[0].path == "/dev/nvidiactl"


def test_a_dev_root_of_its_own_is_heeded(installed: Any) -> None:
    options = {"nvidiaDriverRoot": "/run/nvidia/driver", "nvidiaDevRoot": "/"}
    specs = specs_of(installed, [gpu()], **options)
    assert specs["gpu"].container_edits.device_nodes[0].host_path == ""
    assert specs["gpu"].container_edits.mounts[0].host_path.startswith("/run/nvidia/driver/lib")


def test_names_are_uuids_by_default_and_all_is_there(installed: Any) -> None:
    (first, second) = (gpu(), gpu(uuid="GPU-b", index="1", device_nodes=("/dev/nvidia1",)))
    spec = specs_of(installed, [first, second])["gpu"]
    assert [device.name for device in spec.devices] == ["GPU-a", "GPU-b", "all"]
    every = spec.devices[-1].container_edits.device_nodes
    assert [item.path for item in every] == ["/dev/nvidia0", "/dev/nvidia1"]


def test_the_programs_own_name_decides_how_it_is_called(installed: Any) -> None:
    hooks = specs_of(installed, [gpu()])["gpu"].container_edits.hooks
    assert hooks[0].path == "/usr/bin/nvidia-ctk"
    assert hooks[0].args[:3] == ("nvidia-ctk", "hook", "create-symlinks")


@pytest.mark.parametrize(
    ("disabled", "left"),
    [
        (("all",), []),
        (
            ("enable-cuda-compat", "update-application-profile"),
            ["create-symlinks", "update-ldcache", "disable-device-node-modification"],
        ),
    ],
)
def test_hooks_can_be_left_out(installed: Any, disabled: tuple[str, ...], left: list[str]) -> None:
    hooks = specs_of(installed, [gpu()], cdiDisableHooks=disabled)["gpu"].container_edits.hooks
    assert [hook.args[2] for hook in hooks] == left


# --- MIG ---------------------------------------------------------------------------------------

ENABLED = {"platform": "nvml", "mig.mode": "enabled"}
INSTANCE = PhysicalDevice(
    "MIG-a",
    "0:1",
    "NVIDIA Test",
    parent_uuid="GPU-a",
    profile="1g.5gb",
    device_nodes=(
        "/dev/nvidiactl",
        "/dev/nvidia0",
        "/dev/nvidia-caps/nvidia-cap12",
        "/dev/nvidia-caps/nvidia-cap13",
    ),
)


@pytest.mark.parametrize(
    ("strategy", "by", "names"),
    [
        ("none", "uuid", ["GPU-a", "MIG-a", "all"]),
        ("single", "uuid", ["MIG-a", "all"]),
        ("mixed", "index", ["0:1", "all"]),
    ],
)
def test_a_card_in_mig_mode_is_listed_only_where_it_is_offered(
    installed: Any, strategy: str, by: str, names: list[str]
) -> None:
    devices = [gpu(attributes=ENABLED), INSTANCE]
    spec = specs_of(installed, devices, migStrategy=strategy, deviceIDStrategy=by)["gpu"]
    assert [device.name for device in spec.devices] == names
    instance = spec.devices[-2].container_edits.device_nodes
    assert [item.path for item in instance] == [
        "/dev/nvidia0",
        "/dev/nvidia-caps/nvidia-cap12",
        "/dev/nvidia-caps/nvidia-cap13",
    ]


# --- more of the driver ------------------------------------------------------------------------


def test_graphics_nodes_go_with_their_card(installed: Any) -> None:
    for name in ("card1", "renderD128"):
        installed.add(f"host/sys/bus/pci/devices/0000:3b:00.0/drm/{name}/dev")
        installed.add(f"driver-root/dev/dri/{name}")
    installed.add("host/sys/bus/pci/devices/0000:3b:00.0/drm/controlD64/dev")
    by_path = installed.driver / "dev/dri/by-path"
    by_path.mkdir()
    (by_path / "pci-0000:3b:00.0-card").symlink_to("../card1")
    (by_path / "pci-0000:3b:00.0-render").symlink_to("../renderD128")
    (by_path / "pci-0000:99:00.0-card").symlink_to("../card9")
    edits = specs_of(installed, [gpu()])["gpu"].devices[0].container_edits
    assert [item.path for item in edits.device_nodes] == [
        "/dev/nvidia0",
        "/dev/dri/card1",
        "/dev/dri/renderD128",
    ]
    assert edits.hooks[0].args == (
        "nvidia-ctk",
        "hook",
        "create-symlinks",
        "--link",
        "../card1::/dev/dri/by-path/pci-0000:3b:00.0-card",
        "--link",
        "../renderD128::/dev/dri/by-path/pci-0000:3b:00.0-render",
    )


def test_programs_firmware_sockets_and_data_are_mounted(installed: Any) -> None:
    paths = [
        "usr/bin/nvidia-smi",
        "usr/bin/nvidia-cuda-mps-control",
        f"usr/lib/firmware/nvidia/{VERSION}/gsp_ga10x.bin",
        "usr/share/glvnd/egl_vendor.d/10_nvidia.json",
        f"{LIBS}/libnvidia-nvvm70.so.4",
    ]
    for path in [*paths, "run/nvidia-persistenced/socket", "usr/bin/other"]:
        installed.add(f"driver-root/{path}")
    installed.add(f"driver-root/{LIBS}/libcuda.so.1.2.3")
    mounts = specs_of(installed, [gpu()])["gpu"].container_edits.mounts
    options = {mount.container_path: list(mount.options) for mount in mounts}
    assert options.pop("/run/nvidia-persistenced/socket") == [
        *("nosuid", "nodev", "rbind", "rprivate", "noexec")
    ]
    libraries = [f"{LIBS}/libcuda.so.{VERSION}", f"{LIBS}/vdpau/libvdpau_nvidia.so.{VERSION}"]
    assert options == {f"/{path}": READ_ONLY for path in [*paths, *libraries]}


def test_a_merged_usr_is_named_by_its_real_directory(tree: Any) -> None:
    tree.add(f"driver-root/usr/{LIBS}/libcuda.so.{VERSION}")
    (tree.driver / "lib").symlink_to("usr/lib")
    found = driverfiles.find(tree.driver, VERSION)
    assert found.libcuda_folder == f"/usr/{LIBS}"
    assert found.mounts == (f"/usr/{LIBS}/libcuda.so.{VERSION}",)


@pytest.mark.parametrize("version", ["", "1.2.3"])
def test_an_unknown_driver_still_gives_its_nodes(installed: Any, version: str) -> None:
    backend = NvidiaNode(installed.settings())
    (spec, *_) = backend.cdi_specs(Snapshot((gpu(),), {"driver.version": version}))
    check(spec)
    assert spec.container_edits.mounts == ()
    assert spec.container_edits.hooks == ()
    assert spec.devices[0].container_edits.device_nodes[0].path == "/dev/nvidia0"


# --- the other classes -------------------------------------------------------------------------


def test_management_has_the_drivers_nodes_but_not_the_fabrics(installed: Any) -> None:
    for name in ("nvidia-fs0", "nvidia-nvswitch0", "nvidia-nvlink", "nvidia-caps/nvidia-cap1"):
        installed.add(f"driver-root/dev/{name}")
    (device,) = specs_of(installed)["management"].devices
    assert device.name == "all"
    assert [item.path for item in device.container_edits.device_nodes] == [
        "/dev/nvidia0",
        "/dev/nvidiactl",
        "/dev/nvidia-caps/nvidia-cap1",
    ]


@pytest.mark.parametrize(
    ("option", "name", "files", "nodes", "mounts"),
    [
        ("gdrcopyEnabled", "gdrcopy", ["dev/gdrdrv"], ["/dev/gdrdrv"], []),
        (
            "gdsEnabled",
            "gds",
            ["dev/nvidia-fs0", "dev/nvidia-fs1", "etc/cufile.json"],
            ["/dev/nvidia-fs0", "/dev/nvidia-fs1"],
            ["/etc/cufile.json"],
        ),
        (
            "mofedEnabled",
            "mofed",
            ["dev/infiniband/uverbs0", "dev/infiniband/rdma_cm", "dev/infiniband/umad0"],
            ["/dev/infiniband/uverbs0", "/dev/infiniband/rdma_cm"],
            [],
        ),
    ],
)
def test_a_class_beside_gpus_is_offered_where_it_has_nodes(
    tree: Any, option: str, name: str, files: list[str], nodes: list[str], mounts: list[str]
) -> None:
    assert name not in specs_of(tree, **{option: True})
    for path in files:
        tree.add(f"driver-root/{path}")
    assert name not in specs_of(tree)
    (device,) = specs_of(tree, **{option: True})[name].devices
    assert device.name == "all"
    assert [item.path for item in device.container_edits.device_nodes] == nodes
    assert [item.container_path for item in device.container_edits.mounts] == mounts


def test_imex_channels_are_named_by_number(tree: Any) -> None:
    assert "imex-channel" not in specs_of(tree, imexChannelIDs=(0,))
    tree.add("driver-root/dev/nvidia-caps-imex-channels/channel0")
    (device,) = specs_of(tree, imexChannelIDs=(0,))["imex-channel"].devices
    assert device.name == "0"
    (item,) = device.container_edits.device_nodes
    assert item.path == "/dev/nvidia-caps-imex-channels/channel0"


def test_a_node_without_anything_has_no_specification(tree: Any) -> None:
    everything = {"gdsEnabled": True, "mofedEnabled": True, "gdrcopyEnabled": True}
    assert specs_of(tree, **everything, imexChannelIDs=(0,)) == {}


def test_everything_together_is_written_and_read_back_by_a_runtimes_rules(
    installed: Any, tmp_path: Path
) -> None:
    for name in ("nvidia-fs0", "gdrdrv", "infiniband/uverbs0"):
        installed.add(f"driver-root/dev/{name}")
    options = {"gdsEnabled": True, "mofedEnabled": True, "gdrcopyEnabled": True}
    specs = specs_of(installed, [gpu(), INSTANCE], **options)
    assert {required_version(spec) for spec in specs.values()} <= {"0.3.0", "0.5.0"}
    directory = tmp_path / "cdi"
    for spec in specs.values():
        write_spec(directory, spec)
    cache = load_directories([directory])
    assert not cache.errors
    vendor = "k8s.device-plugin.nvidia.com"
    assert set(cache.devices) == {
        *(f"{vendor}/gpu={name}" for name in ("GPU-a", "MIG-a", "all")),
        *(f"{vendor}/{name}=all" for name in ("management", "gdrcopy", "gds", "mofed")),
    }


# --- roots -------------------------------------------------------------------------------------


def test_links_are_followed_inside_the_root_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr/lib64").mkdir(parents=True)
    (root / "usr/lib64/real").touch()
    (tmp_path / "secret").touch()
    (root / "absolute").symlink_to("/usr/lib64/real")
    (root / "relative").symlink_to("usr/../usr/lib64/real")
    (root / "escaping").symlink_to("../../secret")
    (root / "loop").symlink_to("loop")
    assert resolved_below(root, root / "absolute") == root / "usr/lib64/real"
    assert resolved_below(root, root / "relative") == root / "usr/lib64/real"
    assert resolved_below(root, root / "escaping") is None
    assert resolved_below(root, root / "loop") is None
    assert resolved_below(root, root / "missing") is None


def test_without_a_mounted_driver_root_the_hosts_is_used(
    tmp_path: Path, device: Callable[..., Any]
) -> None:
    (tmp_path / "opt/driver/dev").mkdir(parents=True)
    settings = VendorSettings(
        host_root=str(tmp_path),
        options={"nvidiaDriverRoot": "/opt/driver/", "containerDriverRoot": "/nowhere"},
    )
    host = host_of(read(settings))
    assert host.driver == host.dev == tmp_path / "opt/driver"
    assert host.node("/dev/nvidia0") == "/opt/driver/dev/nvidia0"
