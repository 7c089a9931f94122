"""Profiles, MIG strategies, and the division of devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.splitting import grants, split
from deviceplugin.vendor import PhysicalDevice, Replicas, Sharing, Snapshot, Split
from deviceplugin.vendors.nvidia import mig


def gpu(number: int, enabled: bool = False) -> PhysicalDevice:
    mode = "enabled" if enabled else "disabled"
    return PhysicalDevice(
        f"GPU-{number}",
        str(number),
        "NVIDIA Test",
        memory_mib=8000,
        attributes={"mig.mode": mode, "platform": "nvml", "cuda.compute-capability": "8.0"},
    )


def instance(parent: int, slot: int, profile: str, compute: int = 1, whole: int = 1) -> Any:
    return PhysicalDevice(
        f"MIG-{parent}-{slot}",
        f"{parent}:{slot}",
        "NVIDIA Test",
        memory_mib=1000,
        parent_uuid=f"GPU-{parent}",
        profile=profile,
        attributes={"mig.compute-slices": str(compute), "mig.gpu-slices": str(whole)},
    )


def resources(node: Any, *devices: PhysicalDevice) -> dict[str, tuple[str, ...]]:
    return {plan.resource: plan.devices for plan in node.plan(Snapshot(devices))}


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "1g.5gb"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb+me", "1g.5gb+me"),
        ("NVIDIA A100-SXM4-40GB MIG 1c.2g.10gb", "1c.2g.10gb"),
        ("NVIDIA RTX PRO 6000 MIG 1g.24gb+me.all", "1g.24gb+me.all"),
        ("NVIDIA RTX PRO 6000 MIG 2g.48gb-me", "2g.48gb-me"),
        ("7g.80gb", "7g.80gb"),
        ("NVIDIA A100-SXM4-40GB", ""),
        ("", ""),
    ],
)
def test_a_profile_is_read_from_the_devices_name(name: str, profile: str) -> None:
    assert mig.profile_in(name) == profile


@pytest.mark.parametrize(
    ("compute", "whole", "memory", "gpu_memory", "profile"),
    [
        (1, 1, 4864, 40960, "1g.5gb"),
        (2, 2, 9856, 40960, "2g.10gb"),
        (3, 3, 19968, 40960, "3g.20gb"),
        (7, 7, 40192, 40960, "7g.40gb"),
        (1, 2, 9856, 40960, "1c.2g.10gb"),
        (1, 1, 9728, 81920, "1g.10gb"),
        (1, 1, 9728, 0, ""),
        (0, 0, 9728, 81920, ""),
    ],
)
def test_a_profile_is_computed_from_slices_and_memory(
    compute: int, whole: int, memory: int, gpu_memory: int, profile: str
) -> None:
    assert mig.profile_of_slices(compute, whole, memory, gpu_memory) == profile


def test_the_old_form_of_a_mig_uuid_tells_its_placement() -> None:
    uuid = "GPU-ebe7c3f7-303d-558d-435e-99a160631fe4"
    assert mig.parsed_uuid(f"MIG-{uuid}/7/0") == (uuid, 7, 0)
    assert mig.parsed_uuid("MIG-ebe7c3f7-303d-558d-435e-99a160631fe4") is None


# --- strategies --------------------------------------------------------------------------------


def test_none_offers_every_card_whole(node: Callable[..., Any]) -> None:
    devices = (gpu(0), gpu(1, enabled=True), instance(1, 0, "1g.5gb"))
    assert resources(node(), *devices) == {"nvidia.com/gpu": ("GPU-0", "GPU-1")}


def test_single_offers_the_instances_as_gpus(node: Callable[..., Any]) -> None:
    devices = (gpu(0, enabled=True), instance(0, 0, "1g.5gb"), instance(0, 1, "1g.5gb"))
    assert resources(node(migStrategy="single"), *devices) == {
        "nvidia.com/gpu": ("MIG-0-0", "MIG-0-1")
    }


def test_single_without_any_mig_offers_whole_cards(node: Callable[..., Any]) -> None:
    assert resources(node(migStrategy="single"), gpu(0)) == {"nvidia.com/gpu": ("GPU-0",)}


@pytest.mark.parametrize(
    ("devices", "reason"),
    [
        ((gpu(0), gpu(1, True), instance(1, 0, "1g.5gb")), "not on GPU-0"),
        ((gpu(0, True), gpu(1, True), instance(1, 0, "1g.5gb")), "no MIG instance on GPU-0"),
        (
            (gpu(0, True), instance(0, 0, "1g.5gb"), instance(0, 1, "2g.10gb", 2, 2)),
            "different profiles 1g.5gb, 2g.10gb",
        ),
    ],
)
def test_single_refuses_cards_that_are_not_alike(
    node: Callable[..., Any], devices: tuple[PhysicalDevice, ...], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        node(migStrategy="single").plan(Snapshot(devices))


def test_mixed_offers_a_resource_a_profile(node: Callable[..., Any]) -> None:
    devices = (
        gpu(0),
        gpu(1, enabled=True),
        instance(1, 0, "1g.5gb+me"),
        instance(1, 1, "2g.10gb", 2, 2),
        instance(1, 2, "1c.2g.10gb", 1, 2),
        gpu(2, enabled=True),
    )
    assert resources(node(migStrategy="mixed"), *devices) == {
        "nvidia.com/gpu": ("GPU-0",),
        "nvidia.com/mig-1g.5gb.me": ("MIG-1-0",),
        "nvidia.com/mig-2g.10gb": ("MIG-1-1",),
    }


# --- division ----------------------------------------------------------------------------------


def test_without_any_wish_devices_are_exclusive_and_named_by_uuid(
    node: Callable[..., Any],
) -> None:
    (plan,) = node().plan(Snapshot((gpu(0),)))
    assert list(split(plan, Snapshot((gpu(0),))).virtual) == ["GPU-0"]


def test_hamis_shares_have_its_ids_and_limits(node: Callable[..., Any]) -> None:
    section = {
        "deviceSplitCount": 4,
        "deviceMemoryScaling": 2.0,
        "deviceCoreScaling": 1.0,
        "resourceCountName": "example.com/vgpu",
    }
    snapshot = Snapshot((gpu(0),))
    (plan,) = node(section=section).plan(snapshot)
    table = split(plan, snapshot)
    assert plan.resource == "example.com/vgpu"
    assert list(table.virtual) == ["GPU-0-0", "GPU-0-1", "GPU-0-2", "GPU-0-3"]
    (grant,) = grants(table, ["GPU-0-1", "GPU-0-3"])
    assert (grant.sharing, grant.memory_mib, grant.cores_percent) == (Sharing.LIMITED, 8000, 50)


def test_without_isolation_hamis_shares_are_turns(node: Callable[..., Any]) -> None:
    section = {"deviceSplitCount": 4}
    (plan,) = node(section=section, enforce_isolation=False).plan(Snapshot((gpu(0),)))
    assert (plan.split.count, plan.split.separator) == (4, "-")
    assert plan.split.sharing is Sharing.TIME_SLICING


@pytest.mark.parametrize(("fail", "most"), [(True, 1), (False, 0)])
def test_time_slicing_makes_replicas_under_the_shared_name(
    node: Callable[..., Any], fail: bool, most: int
) -> None:
    name = "nvidia.com/gpu"
    sharing = {name: Replicas(2, Sharing.TIME_SLICING, f"{name}.shared", fail)}
    snapshot = Snapshot((gpu(0),))
    (plan,) = node(sharing=sharing, section={"deviceSplitCount": 9}).plan(snapshot)
    assert plan.resource == "nvidia.com/gpu.shared"
    assert plan.split.max_request == most
    assert list(split(plan, snapshot).virtual) == ["GPU-0::0", "GPU-0::1"]


def test_a_mig_resource_is_time_sliced_by_its_own_name(node: Callable[..., Any]) -> None:
    sharing = {"nvidia.com/mig-1g.5gb": Replicas(2, Sharing.TIME_SLICING)}
    devices = (gpu(0, True), instance(0, 0, "1g.5gb"), instance(0, 1, "2g.10gb", 2, 2))
    plans = node(sharing=sharing, migStrategy="mixed").plan(Snapshot(devices))
    assert [plan.split.count for plan in plans] == [2, 1]


def test_instances_are_never_divided_by_hami(node: Callable[..., Any]) -> None:
    devices = (gpu(0, True), instance(0, 0, "1g.5gb"))
    (plan,) = node(section={"deviceSplitCount": 9}, migStrategy="single").plan(Snapshot(devices))
    assert (plan.split.count, plan.split.separator) == (1, "")


@pytest.mark.parametrize(
    ("capability", "most"),
    [("7.0", 16), ("7.4", 16), ("7.5", 48), ("8.0", 48), ("10.0", 48), ("", 16)],
)
def test_mps_has_a_limit_of_clients(node: Callable[..., Any], capability: str, most: int) -> None:
    card = replace(gpu(0), attributes={"cuda.compute-capability": capability})

    def plan(count: int) -> Any:
        sharing = {"nvidia.com/gpu": Replicas(count, Sharing.MPS)}
        return node(sharing=sharing).plan(Snapshot((card,)))

    assert plan(most)[0].split.count == most
    with pytest.raises(ValueError, match=f"allows {most} clients; lower replicas"):
        plan(most + 1)


# --- operating mode mps ---

MODE = {"operatingMode": "mps", "mpsLimits": True}


def test_in_mode_mps_cards_are_shared_in_hamis_way_by_mps(node: Callable[..., Any]) -> None:
    section = {**MODE, "deviceMemoryScaling": 2.0, "deviceCoreScaling": 1.5}
    backend, snapshot = node(section=section), Snapshot((gpu(0), gpu(1)))
    (plan,) = backend.plan(snapshot)
    assert plan.split == Split(10, "-", Sharing.MPS, cores_scaling=1.5)
    assert (plan.resource, plan.keys, plan.mode) == ("nvidia.com/gpu", VENDORS["NVIDIA"], "mps")
    told = backend.registered(plan, snapshot)
    memory = snapshot.devices[0].memory_mib
    assert [(d.mode, d.count, d.memory, d.cores) for d in told] == [("mps", 10, memory, 150)] * 2


@pytest.mark.parametrize(
    ("more", "sharing"),
    [
        ({"section": {"operatingMode": "mps", "deviceSplitCount": 4}}, Sharing.LIMITED),
        ({"section": {"operatingMode": "hami-core", "mpsLimits": True, "deviceSplitCount": 4}},
         Sharing.LIMITED),
        ({"section": {**MODE, "deviceSplitCount": 4}, "enforce_isolation": False},
         Sharing.TIME_SLICING),
    ],
    ids=["hamis-mode-mps", "another-mode", "without-isolation"],
)  # fmt: skip
def test_mps_limits_only_where_the_operator_says_both(
    node: Callable[..., Any], more: dict[str, Any], sharing: Sharing
) -> None:
    (plan,) = node(**more).plan(Snapshot((gpu(0),)))
    assert plan.split.sharing is sharing
    assert plan.mode == more["section"]["operatingMode"], "what schedulers read is HAMi's"


@pytest.mark.parametrize("strategy", ["none", "single", "mixed"])
@pytest.mark.parametrize(
    "devices", [(gpu(0), gpu(1, True)), (gpu(0, True), instance(0, 0, "1g.5gb"))]
)
def test_in_mode_mps_nothing_may_be_in_mig_mode(
    node: Callable[..., Any], strategy: str, devices: Any
) -> None:
    with pytest.raises(
        ValueError, match=r"operating mode mps: GPU-. is in MIG mode, which MPS can"
    ):
        node(section=MODE, migStrategy=strategy).plan(Snapshot(devices))


def test_in_mode_mps_a_card_is_not_split_into_more_than_mps_has_clients(
    node: Callable[..., Any],
) -> None:
    card = replace(gpu(0), attributes={"cuda.compute-capability": "7.0"})
    with pytest.raises(ValueError, match=r"allows 16 clients; lower nvidia\.deviceSplitCount"):
        node(section={**MODE, "deviceSplitCount": 17}).plan(Snapshot((card,)))


def test_in_mode_mps_sharing_says_nothing_more(node: Callable[..., Any]) -> None:
    sharing = {"nvidia.com/gpu": Replicas(2, Sharing.MPS)}
    with pytest.raises(ValueError, match="mode mps divides the cards itself; remove"):
        node(section=MODE, sharing=sharing).plan(Snapshot((gpu(0),)))


def test_mps_cannot_share_instances(node: Callable[..., Any]) -> None:
    sharing = {"nvidia.com/gpu": Replicas(2, Sharing.MPS)}
    devices = (gpu(0, True), instance(0, 0, "1g.5gb"))
    with pytest.raises(ValueError, match="MIG instance, which MPS cannot share"):
        node(sharing=sharing, migStrategy="single").plan(Snapshot(devices))


@given(
    enabled=st.lists(st.booleans(), max_size=6),
    slots=st.integers(0, 3),
    strategy=st.sampled_from(["none", "mixed"]),
)
def test_no_device_is_offered_twice_and_never_together_with_its_parent(
    enabled: list[bool], slots: int, strategy: str
) -> None:
    devices = [
        device
        for number, on in enumerate(enabled)
        for device in (
            gpu(number, on),
            *(instance(number, slot, "1g.5gb") for slot in range(slots if on else 0)),
        )
    ]
    found = [d for group in mig.offered(devices, strategy, "r").values() for d in group]
    uuids = [device.uuid for device in found]
    assert len(uuids) == len(set(uuids))
    assert not {device.parent_uuid for device in found} & set(uuids)
    plain = [device.uuid for device in devices if device.attributes.get("mig.mode") == "disabled"]
    assert set(plain) <= set(uuids)
