"""What containers get, and what stands in the way of that."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.injection.render import Strategy, render
from deviceplugin.vendor import (
    Grant,
    HostDirectory,
    Mount,
    Owner,
    PhysicalDevice,
    ResourcePlan,
    Sharing,
    Split,
    VendorSettings,
)
from deviceplugin.vendors.nvidia import hami_core
from deviceplugin.vendors.nvidia.node import NvidiaNode
from deviceplugin.vendors.nvidia.settings import NvidiaSettings

OWNER = Owner("nvidia.com/gpu", "a1b2")
POD = replace(OWNER, pod_uid="7c2f", pod_namespace="ns", pod_name="p", container="main")
SPLIT = {"deviceSplitCount": 10}
LIMITED = ResourcePlan("nvidia.com/gpu", ("GPU-0",), Split(10, "-", Sharing.LIMITED))
MPS = ResourcePlan("nvidia.com/gpu.shared", ("GPU-0",), Split(4, "::", Sharing.MPS))


@pytest.fixture
def limited(device: Callable[..., Any]) -> Callable[..., Grant]:
    """Three tenths of a card whose node has the library."""

    def make(uuid: str = "GPU-0", **fields: Any) -> Grant:
        facts = {"platform": "nvml", "libvgpu.file": "libvgpu.so.v2.8.0"}
        defaults: dict[str, Any] = {
            "shares": 3,
            "of": 10,
            "sharing": Sharing.LIMITED,
            "memory_mib": 3000,
            "cores_percent": 30,
        }
        card = device(uuid, device_nodes=("/dev/nvidiactl", f"/dev/{uuid}"), attributes=facts)
        return Grant(card, **{**defaults, **fields})

    return make


def test_an_exclusive_card_comes_with_its_nodes_each_once(
    node: Callable[..., Any], device: Callable[..., Any]
) -> None:
    other = device("GPU-1", device_nodes=("/dev/nvidiactl", "/dev/nvidia1"))
    edits = node().edits((Grant(device()), Grant(other)), OWNER)
    assert [(item.path, item.host_path, item.permissions) for item in edits.device_nodes] == [
        ("/dev/nvidiactl", "", "rw"),
        ("/dev/nvidia0", "", "rw"),
        ("/dev/nvidia1", "", "rw"),
    ]
    assert (edits.env, edits.mounts, edits.host_directories) == ({}, (), ())


def test_nodes_below_a_dev_root_appear_at_their_usual_place(
    node: Callable[..., Any], device: Callable[..., Any]
) -> None:
    card = device(device_nodes=("/run/nvidia/driver/dev/nvidia0",))
    edits = node(nvidiaDevRoot="/run/nvidia/driver").edits((Grant(card),), OWNER)
    (item,) = edits.device_nodes
    assert (item.path, item.host_path) == ("/dev/nvidia0", "/run/nvidia/driver/dev/nvidia0")


# --- libvgpu -----------------------------------------------------------------------------------


def test_shares_are_limited_as_hami_does(
    node: Callable[..., Any], limited: Callable[..., Grant]
) -> None:
    backend = node(section={**SPLIT, "libCudaLogLevel": "1"})
    edits = backend.edits((limited("GPU-a"), limited("GPU-b")), POD)
    cache = edits.env["CUDA_DEVICE_MEMORY_SHARED_CACHE"]
    assert cache.startswith("/usr/local/vgpu/")
    assert cache.endswith(".cache")
    assert edits.env == {
        "CUDA_DEVICE_MEMORY_LIMIT_0": "3000m",
        "CUDA_DEVICE_MEMORY_LIMIT_1": "3000m",
        "CUDA_DEVICE_SM_LIMIT": "30",
        "CUDA_DEVICE_MEMORY_SHARED_CACHE": cache,
        "LIBCUDA_LOG_LEVEL": "1",
    }
    assert [(m.container_path, m.host_path, "ro" in m.options) for m in edits.mounts] == [
        ("/usr/local/vgpu/libvgpu.so", "/usr/local/vgpu/libvgpu.so.v2.8.0", True),
        ("/usr/local/vgpu", "/usr/local/vgpu/containers/7c2f_main", False),
        ("/tmp/vgpulock", "/tmp/vgpulock", False),
        ("/etc/ld.so.preload", "/usr/local/vgpu/ld.so.preload", True),
    ]
    assert edits.host_directories == (
        HostDirectory("/usr/local/vgpu/containers/7c2f_main", 0o777, private=True),
        HostDirectory("/tmp/vgpulock", 0o777),
    )


def test_without_a_known_pod_the_directory_is_named_by_the_allocation(
    node: Callable[..., Any], limited: Callable[..., Grant]
) -> None:
    edits = node(section=SPLIT, hookPath="/opt/hook").edits((limited(),), OWNER)
    assert edits.mounts[1].host_path == "/opt/hook/vgpu/containers/a1b2"


def test_the_cache_is_the_same_for_the_same_allocation_and_no_other(
    node: Callable[..., Any], limited: Callable[..., Grant]
) -> None:
    def cache(owner: Owner) -> str:
        env = node(section=SPLIT).edits((limited(),), owner).env
        return str(env["CUDA_DEVICE_MEMORY_SHARED_CACHE"])

    assert cache(OWNER) == cache(POD) != cache(replace(OWNER, allocation_id="other"))


@pytest.mark.parametrize(
    ("section", "grant", "name", "value"),
    [
        ({}, {"memory_scaling": 1.5}, "CUDA_OVERSUBSCRIBE", "true"),
        ({}, {"memory_scaling": 1.0}, "CUDA_OVERSUBSCRIBE", None),
        ({"disableCoreLimit": True}, {}, "GPU_CORE_UTILIZATION_POLICY", "disable"),
        ({}, {}, "GPU_CORE_UTILIZATION_POLICY", None),
        ({}, {}, "LIBCUDA_LOG_LEVEL", None),
        ({"libCudaLogLevel": 3}, {}, "LIBCUDA_LOG_LEVEL", "3"),
        ({}, {"cores_percent": None}, "CUDA_DEVICE_SM_LIMIT", None),
        ({}, {"cores_percent": 0}, "CUDA_DEVICE_SM_LIMIT", "0"),
    ],
)
def test_a_variable_stands_only_where_it_is_meant(
    node: Callable[..., Any],
    limited: Callable[..., Grant],
    section: dict[str, Any],
    grant: dict[str, Any],
    name: str,
    value: str | None,
) -> None:
    edits = node(section={**SPLIT, **section}).edits((limited(**grant),), OWNER)
    assert edits.env.get(name) == value


def test_different_core_limits_are_set_for_each_device(
    node: Callable[..., Any], limited: Callable[..., Grant]
) -> None:
    held = (limited("GPU-a", cores_percent=30), limited("GPU-b", cores_percent=60))
    env = node(section=SPLIT).edits(held, OWNER).env
    assert {key: env[key] for key in env if "SM_LIMIT" in key} == {
        "CUDA_DEVICE_SM_LIMIT": "30",
        "CUDA_DEVICE_SM_LIMIT_0": "30",
        "CUDA_DEVICE_SM_LIMIT_1": "60",
    }


def test_a_licensed_library_comes_with_its_validator(
    node: Callable[..., Any], limited: Callable[..., Grant]
) -> None:
    grant = limited()
    facts = {**grant.device.attributes, "libvgpu.license": "present"}
    grant = replace(grant, device=replace(grant.device, attributes=facts))
    mounts = node(section=SPLIT).edits((grant,), OWNER).mounts
    assert [mount.container_path for mount in mounts[4:]] == [
        "/tmp/license",
        "/usr/bin/vgpuvalidator",
    ]


def test_without_isolation_nothing_limits_and_nothing_is_mounted(
    node: Callable[..., Any], limited: Callable[..., Grant]
) -> None:
    edits = node(section=SPLIT, enforce_isolation=False).edits((limited(),), OWNER)
    assert (edits.env, edits.mounts, edits.host_directories) == ({}, (), ())
    assert len(edits.device_nodes) == 2


@pytest.mark.parametrize(
    ("grant", "reason"),
    [
        ({"memory_mib": None}, "no memory figure"),
        ({"memory_mib": 0}, "less than 1 MiB"),
    ],
)
def test_a_limit_that_cannot_be_expressed_is_refused(
    node: Callable[..., Any], limited: Callable[..., Grant], grant: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        node(section=SPLIT).edits((limited(**grant),), OWNER)


def test_a_whole_card_of_unknown_memory_needs_no_memory_limit(
    node: Callable[..., Any], limited: Callable[..., Grant]
) -> None:
    edits = node(section=SPLIT).edits((limited(memory_mib=None, shares=10),), OWNER)
    assert "CUDA_DEVICE_MEMORY_LIMIT_0" not in edits.env


def test_without_the_library_a_share_is_refused(
    node: Callable[..., Any], limited: Callable[..., Grant]
) -> None:
    grant = limited()
    grant = replace(grant, device=replace(grant.device, attributes={}))
    with pytest.raises(ValueError, match=r"limits need /usr/local/vgpu/libvgpu\.so"):
        node(section=SPLIT).edits((grant,), OWNER)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["libvgpu.so.v2.8.0", "libvgpu.so.v2.10.0", "libvgpu.so"], "libvgpu.so.v2.10.0"),
        (["libvgpu.so", "ld.so.preload"], "libvgpu.so"),
        (["libvgpu.so.v2.8.0"], "libvgpu.so.v2.8.0"),
        (["ld.so.preload", "libvgpu"], ""),
        ([], ""),
    ],
)
def test_the_newest_library_is_chosen(names: list[str], chosen: str) -> None:
    assert hami_core.newest(names) == chosen


def test_the_installers_link_says_which_library_and_a_dangling_one_says_nothing(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "usr/local/vgpu"
    folder.mkdir(parents=True)
    for version in ("v2.8.0", "v2.10.0"):
        (folder / f"libvgpu.so.{version}").write_text("")
    link = folder / "libvgpu.so"
    settings = NvidiaSettings(host_root=str(tmp_path))
    for target, chosen in (
        ("libvgpu.so.v2.8.0", "libvgpu.so.v2.8.0"),
        ("libvgpu.so.gone", "libvgpu.so.v2.10.0"),
    ):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert hami_core.files(settings)["libvgpu.file"] == chosen


def test_discovery_tells_which_library_the_node_has(
    driver: Any, tree: Any, cards: Callable[..., str]
) -> None:
    tree.add("host/usr/local/vgpu/libvgpu.so.v2.8.0")
    tree.add("host/usr/local/vgpu/license")
    (gpu,) = driver.discover(cards(1), section=SPLIT).devices
    assert gpu.attributes["libvgpu.file"] == "libvgpu.so.v2.8.0"
    assert gpu.attributes["libvgpu.license"] == "present"


# --- impediments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "libvgpu.so is missing"),
        ({"libvgpu.so": ""}, "ld.so.preload is missing"),
        (
            {"libvgpu.so": "", "ld.so.preload": "/other/vgpu/libvgpu.so\n"},
            "does not name /usr/local/vgpu/libvgpu.so",
        ),
        ({"libvgpu.so.v2.8.0": "", "ld.so.preload": "/usr/local/vgpu/libvgpu.so\n"}, ""),
    ],
)
def test_limits_wait_for_the_library_on_the_host(
    node: Callable[..., Any], tree: Any, files: dict[str, str], reason: str
) -> None:
    for name, text in files.items():
        tree.add(f"host/usr/local/vgpu/{name}", text)
    found = node(section=SPLIT).impediment(LIMITED)
    assert (reason in found) if reason else (found == "")


def test_nothing_stands_in_the_way_without_isolation(node: Callable[..., Any]) -> None:
    assert node(section=SPLIT, enforce_isolation=False).impediment(LIMITED) == ""


@pytest.mark.parametrize(
    "kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM], ids=lambda k: k.name
)
def test_mps_waits_for_a_daemon_that_listens(
    node: Callable[..., Any], tree: Any, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = node(mpsRoot="/run/nvidia/mps")
    place = "/run/nvidia/mps/nvidia.com/gpu.shared"
    remedy = " on the node; run `deviceplugin mps` there and look at its log"
    before = "the MPS daemon of nvidia.com/gpu.shared is not ready: "
    for name in ("/run/nvidia/mps/.ready", f"{place}/.started"):
        assert backend.impediment(MPS) == f"{before}{name} is missing{remedy}"
        tree.add(f"host{name}")
    control = f"{place}/pipe/control"
    assert backend.impediment(MPS) == f"{before}{control} is missing{remedy}"
    Path(f"{tree.host}{place}/pipe").mkdir()
    monkeypatch.chdir(f"{tree.host}{place}/pipe")
    with socket.socket(socket.AF_UNIX, kind) as daemon:
        daemon.bind("control")
        if kind != socket.SOCK_DGRAM:
            daemon.listen()
        assert backend.impediment(MPS) == ""
        if kind != socket.SOCK_DGRAM:
            daemon.settimeout(0)
            with pytest.raises(BlockingIOError):
                daemon.accept()
    left = f"{before}{control} does not answer (Connection refused){remedy}"
    assert backend.impediment(MPS) == left, "files outlive a daemon that is killed"


def test_mps_without_its_directory_says_which_option_is_missing(node: Callable[..., Any]) -> None:
    assert "--mps-root" in node().impediment(MPS)


def test_a_required_imex_channel_that_is_missing_stands_in_the_way(
    node: Callable[..., Any], tree: Any
) -> None:
    plan = ResourcePlan("nvidia.com/gpu", ("GPU-0",))
    backend = node(imexChannelIDs=(0,), imexRequired=True)
    assert "channel0 is missing" in backend.impediment(plan)
    assert node(imexChannelIDs=(0,)).impediment(plan) == ""
    tree.add("driver-root/dev/nvidia-caps-imex-channels/channel0")
    assert backend.impediment(plan) == ""


# --- MPS ---------------------------------------------------------------------------------------


def test_a_client_of_mps_gets_pipe_and_shared_memory(
    node: Callable[..., Any], device: Callable[..., Any]
) -> None:
    grant = Grant(device(), 1, 4, Sharing.MPS, 2000, 25)
    owner = replace(OWNER, resource="nvidia.com/gpu.shared")
    edits = node(mpsRoot="/run/nvidia/mps").edits((grant,), owner)
    assert edits.env == {"CUDA_MPS_PIPE_DIRECTORY": "/mps/nvidia.com/gpu.shared/pipe"}
    assert [(mount.host_path, mount.container_path) for mount in edits.mounts] == [
        ("/run/nvidia/mps/nvidia.com/gpu.shared/pipe", "/mps/nvidia.com/gpu.shared/pipe"),
        ("/run/nvidia/mps/shm", "/dev/shm"),
    ]


MODE = {"operatingMode": "mps", "mpsLimits": True, "deviceSplitCount": 10}


@pytest.fixture
def client(device: Callable[..., Any]) -> Callable[..., Grant]:
    """What a scheduler granted of a card that MPS shares."""
    return lambda uuid, memory, cores, **more: Grant(
        device(uuid), 1, 10, Sharing.MPS, memory, cores, **more
    )


def test_in_mode_mps_a_container_has_the_limits_of_its_own_grant_and_no_library(
    node: Callable[..., Any], client: Callable[..., Grant]
) -> None:
    backend = node(section=MODE, mpsRoot="/run/nvidia/mps")
    edits = backend.edits((client("GPU-0", 3000, 30),), POD)
    assert edits.env == {
        "CUDA_MPS_PIPE_DIRECTORY": "/mps/nvidia.com/gpu/pipe",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=3000M",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "30",
    }
    assert [(mount.host_path, mount.container_path) for mount in edits.mounts] == [
        ("/run/nvidia/mps/nvidia.com/gpu/pipe", "/mps/nvidia.com/gpu/pipe"),
        ("/run/nvidia/mps/shm", "/dev/shm"),
    ]
    assert edits.host_directories == ()


@given(
    st.lists(
        st.tuples(st.integers(1, 200_000), st.none() | st.integers(0, 250)), min_size=1, max_size=8
    )
)
def test_cards_are_numbered_in_the_drivers_order_and_no_cards_cores_are_exceeded(
    amounts: list[tuple[int, int | None]],
) -> None:
    backend = NvidiaNode(VendorSettings(section=MODE, options={"mpsRoot": "/mps"}))
    grants = [
        Grant(PhysicalDevice(f"GPU-{i}", str(i), "x"), 1, 10, Sharing.MPS, memory, cores)
        for i, (memory, cores) in enumerate(amounts)
    ]
    env = backend.edits(grants, POD).env
    said = [part.split("=") for part in env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"].split(",")]
    assert said == [[str(i), f"{memory}M"] for i, (memory, _) in enumerate(amounts)]
    threads = int(env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"])
    assert threads == min(100, *(cores or 100 for _, cores in amounts))
    order = env.get("CUDA_DEVICE_ORDER")
    assert order == ("PCI_BUS_ID" if len(amounts) > 1 else None), "not by speed"


def test_cores_that_are_not_to_be_limited_are_not(
    node: Callable[..., Any], client: Callable[..., Grant]
) -> None:
    backend = node(section={**MODE, "disableCoreLimit": True})
    env = backend.edits((client("GPU-0", 3000, 30),), POD).env
    assert env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "100"


@pytest.mark.parametrize(
    ("amounts", "reason"), [((0, 30), "less than 1 MiB"), ((None, 30), "has no memory figure")]
)
def test_a_share_that_mps_cannot_limit_is_refused(
    node: Callable[..., Any], client: Callable[..., Grant], amounts: Any, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        node(section=MODE).edits((client("GPU-0", *amounts),), POD)


@pytest.mark.parametrize(
    ("name", "cards", "refused"),
    [
        ("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", 1, True),
        ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", 1, True),
        ("CUDA_MPS_PIPE_DIRECTORY", 1, True),
        ("CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING", 1, True),
        ("CUDA_VISIBLE_DEVICES", 1, False),
        ("CUDA_VISIBLE_DEVICES", 2, True),
        ("CUDA_DEVICE_ORDER", 2, True),
        ("CUDA_DEVICE_MEMORY_LIMIT_0", 1, False),
    ],
)
def test_in_mode_mps_the_variables_of_limits_are_ours(
    node: Callable[..., Any],
    client: Callable[..., Grant],
    name: str,
    cards: int,
    refused: bool,
) -> None:
    grants = [client(f"GPU-{i}", 100, 10) for i in range(cards)]
    owner = replace(POD, scheduled=True, environment={name: "1"})
    backend = node(section=MODE)
    if not refused:
        assert backend.edits(grants, owner).env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "10"
        return
    text = f"container main of pod ns/p sets {name}, which limits devices: remove it"
    with pytest.raises(ValueError, match=text):
        backend.edits(grants, owner)


# --- what NVIDIA's runtime is told -------------------------------------------------------------


def test_the_exposure_names_only_what_has_a_specification(
    node: Callable[..., Any], tree: Any
) -> None:
    backend = node(gdrcopyEnabled=True, gdsEnabled=True, mofedEnabled=True, imexChannelIDs=(0,))
    tree.add("driver-root/dev/infiniband/uverbs0")
    vendor = "k8s.device-plugin.nvidia.com"
    assert backend.exposure().cdi_names == (f"{vendor}/mofed=all",)
    for name in ("gdrdrv", "nvidia-fs0", "nvidia-caps-imex-channels/channel0"):
        tree.add(f"driver-root/dev/{name}")
    exposure = backend.exposure()
    assert exposure.cdi_names == tuple(
        f"{vendor}/{name}" for name in ("imex-channel=0", "gdrcopy=all", "gds=all", "mofed=all")
    )
    assert exposure.list_env == {"NVIDIA_IMEX_CHANNELS": "0"}
    assert exposure.mount_names == ("imex/0",)
    assert exposure.env_always == {
        "NVIDIA_GDRCOPY": "enabled",
        "NVIDIA_GDS": "enabled",
        "NVIDIA_MOFED": "enabled",
    }


def test_the_frameworks_rendering_is_nvidias_answer(
    node: Callable[..., Any], device: Callable[..., Any]
) -> None:
    held = (Grant(device()), Grant(device("GPU-1")))
    backend = node()
    injection = render(
        "nvidia", "id", held, backend.edits(held, OWNER), backend.exposure(), Strategy()
    )
    assert injection.envs == {"NVIDIA_VISIBLE_DEVICES": "GPU-0,GPU-1"}
    assert (injection.devices, injection.mounts) == ((), ())
    mounted = render(
        "nvidia",
        "id",
        held,
        backend.edits(held, OWNER),
        backend.exposure(),
        Strategy(("volume-mounts",), pass_device_specs=True),
    )
    assert mounted.envs == {"NVIDIA_VISIBLE_DEVICES": "/var/run/nvidia-container-devices"}
    assert mounted.mounts[1] == Mount("/dev/null", "/var/run/nvidia-container-devices/GPU-1")
    assert len(mounted.devices) == 2


@given(
    memory=st.integers(1, 10**6),
    cores=st.integers(0, 100),
    count=st.integers(1, 16),
    allocation=st.from_regex(r"[a-z0-9]{1,40}", fullmatch=True),
)
def test_edits_are_pure_and_every_device_has_its_own_limit(
    memory: int, cores: int, count: int, allocation: str
) -> None:
    from deviceplugin.vendor import PhysicalDevice

    held = tuple(
        Grant(
            PhysicalDevice(f"GPU-{i}", str(i), "x", attributes={"libvgpu.file": "libvgpu.so"}),
            1,
            10,
            Sharing.LIMITED,
            memory + i,
            cores,
        )
        for i in range(count)
    )
    settings = VendorSettings(section=SPLIT)
    owner = Owner("nvidia.com/gpu", allocation)
    edits = NvidiaNode(settings).edits(held, owner)
    assert edits == NvidiaNode(settings).edits(held, owner)
    limits = [edits.env[f"CUDA_DEVICE_MEMORY_LIMIT_{i}"] for i in range(count)]
    assert limits == [f"{memory + i}m" for i in range(count)]


def test_settings_that_make_no_sense_are_all_named(node: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="deviceSplitCount"):
        node(section={"deviceSplitCount": "many"})
    with pytest.raises(ValueError, match="migStrategy is 'all'; write one of none, single, mixed"):
        node(migStrategy="all")
