"""The exact effects of each strategy (kubelet-deviceplugin.md 4.4)."""

from __future__ import annotations

import itertools
import uuid

import pytest

from deviceplugin.cdi import check, parse_annotations
from deviceplugin.cdi.model import DeviceNode, Hook, Mount
from deviceplugin.injection.render import (
    STRATEGIES,
    CannotInjectError,
    Injection,
    Strategy,
    render,
)
from deviceplugin.vendor import ContainerEdits, Exposure, Grant, PhysicalDevice

GRANTS = [Grant(PhysicalDevice(f"GPU-{i}", str(i), "M")) for i in (0, 1)]
EXPOSURE = Exposure(
    "NVIDIA_VISIBLE_DEVICES",
    "/var/run/nvidia-container-devices",
    "nvidia.com/gpu",
    "nvidia-device-plugin",
    cdi_names=("nvidia.com/gds=all", "nvidia.com/mofed=all"),
    list_env={"NVIDIA_IMEX_CHANNELS": "0"},
    mount_names=("imex/0",),
    env_always={"NVIDIA_GDS": "enabled"},
)
EDITS = ContainerEdits(
    env={"LIMIT": "5m"},
    device_nodes=(DeviceNode("/dev/x"),),
    mounts=(Mount("/lib/x", "/lib/x", ("ro",)),),
)


def rendered(
    *names: str,
    exposure: Exposure | None = EXPOSURE,
    edits: ContainerEdits = EDITS,
    **options: object,
) -> Injection:
    strategy = Strategy(names=names, **options)  # type: ignore[arg-type]
    return render("nvidia", "a-1", GRANTS, edits, exposure, strategy)


def test_envvar_lists_the_ids() -> None:
    got = rendered("envvar")
    assert dict(got.envs) == {
        "NVIDIA_VISIBLE_DEVICES": "GPU-0,GPU-1",
        "NVIDIA_IMEX_CHANNELS": "0",
        "NVIDIA_GDS": "enabled",
        "LIMIT": "5m",
    }
    assert got.devices == ()
    assert got.spec is None


def test_volume_mounts_mounts_one_file_an_id() -> None:
    got = rendered("volume-mounts")
    assert got.envs["NVIDIA_VISIBLE_DEVICES"] == EXPOSURE.mount_root
    assert [m.container_path for m in got.mounts if m.host_path == "/dev/null"] == [
        f"{EXPOSURE.mount_root}/{name}" for name in ("GPU-0", "GPU-1", "imex/0")
    ]


NAMES = (
    "nvidia.com/gpu=GPU-0",
    "nvidia.com/gpu=GPU-1",
    "nvidia.com/gds=all",
    "nvidia.com/mofed=all",
)


def test_cdi_cri_names_the_devices_and_carries_limits_in_a_specification() -> None:
    got = rendered("cdi-cri")
    assert got.cdi_names == (*NAMES, "k8s.deviceplugin.dev/nvidia=a-1")
    assert dict(got.envs) == {"NVIDIA_GDS": "enabled"}
    assert got.spec is not None
    assert got.spec.devices[0].container_edits.env == ("LIMIT=5m",)
    assert got.spec.devices[0].container_edits.device_nodes == ()
    check(got.spec)


def test_cdi_annotations_has_one_key_under_the_prefix() -> None:
    got = rendered(
        "cdi-annotations", annotation_prefix="custom.cdi.k8s.io/", edits=ContainerEdits()
    )
    assert dict(got.annotations) == {"custom.cdi.k8s.io/nvidia-device-plugin_a-1": ",".join(NAMES)}
    assert got.cdi_names == ()


def test_index_names_devices_by_their_place() -> None:
    assert rendered("envvar", device_ids="index").envs["NVIDIA_VISIBLE_DEVICES"] == "0,1"


def test_device_specs_are_passed_only_beside_a_list() -> None:
    assert rendered("envvar", pass_device_specs=True).devices == EDITS.device_nodes
    assert rendered("cdi-cri", pass_device_specs=True).devices == ()


def test_a_vendor_without_a_runtime_of_its_own_gets_its_nodes_either_way() -> None:
    assert rendered("envvar", exposure=None).devices == EDITS.device_nodes
    got = rendered("cdi-cri", exposure=None)
    assert got.cdi_names == ("k8s.deviceplugin.dev/nvidia=a-1",)
    assert got.spec is not None
    assert got.spec.devices[0].container_edits.device_nodes == EDITS.device_nodes


def test_nothing_to_say_is_no_annotation_and_no_specification() -> None:
    got = rendered("cdi-annotations", exposure=None, edits=ContainerEdits())
    assert (dict(got.annotations), got.spec) == ({}, None)


def test_hooks_without_cdi_are_refused_with_the_remedy() -> None:
    with pytest.raises(CannotInjectError, match="cdi-cri"):
        rendered("envvar", edits=ContainerEdits(hooks=(Hook("createContainer", "/x"),)))


@pytest.mark.parametrize(
    "names", [c for n in range(1, 5) for c in itertools.combinations(STRATEGIES, n)]
)
def test_limits_travel_in_exactly_one_way(names: tuple[str, ...]) -> None:
    """Where CDI is in the combination a pod's own environment must not win."""
    got = rendered(*names)
    by_cdi = any(name.startswith("cdi") for name in names)
    assert ("LIMIT" in got.envs) == (not by_cdi)
    assert (got.spec is not None) == by_cdi


@pytest.mark.parametrize("vendor", ["xy", "kunlunxin", "a-vendor-with-a-rather-long-na"])
def test_the_annotations_key_is_legal_for_every_vendor_and_allocation(vendor: str) -> None:
    allocation = f"a-{uuid.uuid4()}"
    got = render(vendor, allocation, GRANTS, EDITS, None, Strategy(names=("cdi-annotations",)))
    ((key, value),) = got.annotations.items()
    keys, names = parse_annotations(got.annotations)
    assert keys == [key]
    assert names == [value] == [f"k8s.deviceplugin.dev/{vendor}={allocation}"]
    assert len(key.removeprefix("cdi.k8s.io/")) <= 63
    assert allocation in key
