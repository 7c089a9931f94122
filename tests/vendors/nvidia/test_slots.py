"""Operating mode mig from the agent's side: what is offered, granted, asked for and injected."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.injection.render import Strategy, deferred_spec, render
from deviceplugin.splitting import grants, split
from deviceplugin.vendor import Grant, Owner, PhysicalDevice, Replicas, Sharing, Snapshot
from deviceplugin.vendors.nvidia import mig_request
from deviceplugin.vendors.nvidia.node import NvidiaNode

A100 = "NVIDIA A100-SXM4-40GB"
STANDALONE = Owner("nvidia.com/gpu", "a1b2")
OWNER = replace(
    STANDALONE,
    pod_uid="7c2f",
    pod_namespace="ns",
    pod_name="pod",
    container="main",
    scheduled=True,
)


def section(**more: Any) -> dict[str, Any]:
    geometries = [
        [{"name": "1g.5gb", "core": 14, "memory": 5120, "count": 7}],
        [
            {"name": "1g.5gb", "core": 14, "memory": 5120, "count": 1},
            {"name": "2g.10gb", "core": 28, "memory": 10240, "count": 3},
        ],
    ]
    table = [{"models": ["A100-SXM4-40GB"], "allowedGeometries": geometries}]
    return {"operatingMode": "mig", "knownMigGeometries": table, **more}


def card(number: int = 0, **fields: Any) -> PhysicalDevice:
    defaults: dict[str, Any] = {
        "index": str(number),
        "model": A100,
        "memory_mib": 40960,
        "device_nodes": ("/dev/nvidiactl", f"/dev/nvidia{number}"),
        "attributes": {
            "platform": "nvml",
            "mig.mode": "enabled",
            "mig.geometries-of": "A100-SXM4-40GB",
        },
    }
    return PhysicalDevice(f"GPU-{number}", **{**defaults, **fields})


def instance(number: int = 0) -> PhysicalDevice:
    return PhysicalDevice(
        f"MIG-{number}",
        f"{number}:1",
        A100,
        memory_mib=9856,
        device_nodes=(
            "/dev/nvidiactl",
            f"/dev/nvidia{number}",
            "/dev/nvidia-caps/nvidia-cap12",
            "/dev/nvidia-caps/nvidia-cap13",
        ),
        parent_uuid=f"GPU-{number}",
        profile="2g.10gb",
        attributes=MappingProxyType({"mig.gpu-instance": "5"}),
    )


@pytest.fixture
def mig(node: Callable[..., NvidiaNode]) -> NvidiaNode:
    return node(section=section(deviceSplitCount=4))


# --- what is offered ---------------------------------------------------------------------------


def test_whole_cards_are_offered_as_often_as_shares_without_any_limit(mig: Any) -> None:
    snapshot = Snapshot((card(), instance(), card(1)))
    (plan,) = mig.plan(snapshot)
    assert (plan.resource, plan.devices) == ("nvidia.com/gpu", ("GPU-0", "GPU-1"))
    assert (plan.mode, plan.keys) == ("mig", VENDORS["NVIDIA"])
    table = split(plan, snapshot)
    assert list(table.virtual)[:5] == ["GPU-0-0", "GPU-0-1", "GPU-0-2", "GPU-0-3", "GPU-1-0"]
    (grant,) = grants(table, ["GPU-0-1"])
    assert (grant.sharing, grant.memory_mib, grant.cores_percent) == (Sharing.EXCLUSIVE, None, None)
    assert mig.impediment(plan) == ""


def test_schedulers_see_the_whole_card_whatever_the_scalings(node: Callable[..., Any]) -> None:
    backend = node(section=section(deviceMemoryScaling=3.0, deviceCoreScaling=2.0))
    snapshot = Snapshot((card(),))
    (plan,) = backend.plan(snapshot)
    (told,) = backend.registered(plan, snapshot)
    assert (told.mode, told.count, told.memory, told.cores) == ("mig", 10, 40960, 100)


@pytest.mark.parametrize(
    "attributes",
    [
        {"platform": "nvml", "mig.mode": "enabled"},
        {"platform": "nvml", "mig.geometries-of": "A100"},
        {},
    ],
)
def test_cards_without_geometries_or_mig_are_not_offered(mig: Any, attributes: Any) -> None:
    assert mig.plan(Snapshot((card(attributes=attributes),))) == ()


def test_mig_strategies_and_isolation_change_nothing_in_this_mode(
    node: Callable[..., Any],
) -> None:
    snapshot = Snapshot((card(), instance()))
    for options in ({"migStrategy": "mixed"}, {"enforce_isolation": False}):
        (plan,) = node(section=section(), **options).plan(snapshot)
        assert (plan.devices, plan.split.sharing) == (("GPU-0",), Sharing.EXCLUSIVE)


def test_sharing_a_partitioned_resource_is_a_contradiction(node: Callable[..., Any]) -> None:
    sharing = {"nvidia.com/gpu": Replicas(2, Sharing.TIME_SLICING)}
    with pytest.raises(ValueError, match="mode mig divides the cards itself; remove"):
        node(section=section(), sharing=sharing).plan(Snapshot((card(),)))


def test_discovery_says_which_geometries_a_card_has_and_what_is_left_out(
    driver: Any, cards: Callable[..., str], one_card: Callable[..., str]
) -> None:
    scenario = cards(
        0,
        one_card(0, name=A100, mig=0),
        one_card(1, name="NVIDIA H100 80GB HBM3", mig=0),
        one_card(2, name=A100, mig=None),
    )
    snapshot = driver.discover(scenario, section=section(), migStrategy="single")
    told = [device.attributes.get("mig.geometries-of") for device in snapshot.devices]
    assert told == ["A100-SXM4-40GB", None, "A100-SXM4-40GB"]
    strategy, unknown, unable = snapshot.problems
    assert "migStrategy single is not applied in operating mode mig" in strategy
    assert "GPU 1 (GPU-1) is not offered in operating mode mig: no entry of" in unknown
    assert "names 'NVIDIA H100 80GB HBM3'; add it to an entry's models" in unknown
    assert "GPU 2 (GPU-2) is not offered in operating mode mig: it has no MIG mode" in unable
    assert driver.discover(scenario).problems == ()


def test_a_tegra_is_not_offered_in_this_mode_and_that_is_told(tree: Any) -> None:
    tree.add("host/etc/nv_tegra_release", "# R35")
    tree.add("host/proc/device-tree/model", "NVIDIA Jetson Orin")
    backend = NvidiaNode(tree.settings(section=section(), deviceDiscoveryStrategy="tegra"))
    snapshot = backend.discover()
    assert backend.plan(snapshot) == ()
    assert "no entry of nvidia.knownMigGeometries names 'NVIDIA Jetson" in snapshot.problems[0]


def test_libvgpu_is_none_of_this_modes_business(
    driver: Any, tree: Any, cards: Callable[..., str], one_card: Callable[..., str]
) -> None:
    tree.add("host/usr/local/vgpu/libvgpu.so")
    scenario = cards(0, one_card(0, name=A100, mig=0, memory=None))
    snapshot = driver.discover(scenario, section=section(deviceSplitCount=4))
    assert snapshot.problems == ()
    assert "libvgpu.file" not in snapshot.devices[0].attributes


def test_a_row_that_hides_a_better_one_is_told(
    driver: Any, cards: Callable[..., str], one_card: Callable[..., str]
) -> None:
    one = {"name": "1g.5gb", "core": 14, "memory": 5120, "count": 7}
    table = [{"models": [name], "allowedGeometries": [[one]]} for name in ("H20", "H200 NVL")]
    scenario = cards(0, one_card(0, name="NVIDIA H200 NVL", mig=0))
    snapshot = driver.discover(scenario, section=section(knownMigGeometries=table))
    (problem,) = snapshot.problems
    assert "has the geometries of 'H20', the first entry that names 'NVIDIA H200 NVL'" in problem
    assert "'H200 NVL' names it better and comes later: move that entry up" in problem


def test_cards_stay_offered_while_they_have_instances(arena: Any) -> None:
    arena.partition(arena.request("1-1"))
    snapshot = arena.discover()
    (plan,) = NvidiaNode(arena.settings).plan(snapshot)
    assert plan.devices == ("GPU-0", "GPU-1")
    assert sum(device.parent_uuid == "GPU-0" for device in snapshot.devices) == 4


def test_a_card_that_is_not_in_mig_mode_yet_is_not_listened_to(arena: Any) -> None:
    """Whoever listens to a card's events may keep the driver from resetting it into MIG mode."""
    arena.card = {"mig": 0}
    before = arena.discover()
    arena.partition(arena.request("0-0"))
    after = arena.discover()
    backend = NvidiaNode(arena.settings)
    for snapshot, watched in ((before, []), (after, ["GPU-0"])):
        backend._last = snapshot
        seen = backend._watched().devices
        assert [device.uuid for device in seen if not device.parent_uuid] == watched


# --- what is granted ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slot", "geometry", "position"),
    [
        ("0-6", [("1g.5gb", 7)], 6),
        ("1-0", [("1g.5gb", 1), ("2g.10gb", 3)], 0),
        ("1-3", [("1g.5gb", 1), ("2g.10gb", 3)], 3),
    ],
)
def test_a_slot_becomes_a_request_that_names_all_the_probe_needs(
    mig: Any, slot: str, geometry: Any, position: int
) -> None:
    request = mig.slot_request(Grant(card(), slot=slot), OWNER)
    assert json.loads(json.dumps(request)) == {
        "device": "GPU-0",
        "slot": slot,
        "geometry": [{"profile": name, "count": count} for name, count in geometry],
        "position": position,
        "owner": "7c2f/main",
    }
    parsed = mig_request.parsed({**request, "in_use": [{"slot": "1-1", "owner": "a/b/c"}]})
    assert parsed.slot.position == position
    assert len(parsed.profiles) == sum(count for _, count in geometry)


@pytest.mark.parametrize(
    ("grant", "owner", "reason"),
    [
        ({"slot": "4-0"}, OWNER, "geometry 4 of A100-SXM4-40GB is not known on this node"),
        ({"slot": "1-4"}, OWNER, "has 4 partitions and no position 4"),
        ({"slot": "1"}, OWNER, "names no MIG partition"),
        ({"slot": "1-0", "memory_mib": 10240}, OWNER, r"has 5120 MiB \(1g.5gb\), but 10240 MiB"),
        ({}, OWNER, "granted GPU-0 without a partition, .* ask for an amount of memory"),
        ({}, STANDALONE, "none was asked: set --allocation to a scheduled mode, or"),
        ({"device": card(model="NVIDIA H100"), "slot": "0-0"}, OWNER, "names 'NVIDIA H100'"),
    ],
)
def test_grants_that_no_partition_can_honour_are_refused_with_a_remedy(
    mig: Any, grant: Any, owner: Owner, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        mig.slot_request(Grant(**{"device": card(), **grant}), owner)


def test_in_other_modes_a_slot_is_refused_and_nothing_else_asked(
    node: Callable[..., Any],
) -> None:
    backend = node(section={"deviceSplitCount": 4})
    assert backend.slot_request(Grant(card()), OWNER) is None
    with pytest.raises(ValueError, match="in operating mode hami-core and makes none"):
        backend.slot_request(Grant(card(), slot="0-0"), OWNER)


def test_the_grant_of_an_answer_is_the_instance_as_it_was_read(mig: Any) -> None:
    grant = Grant(card(), 2, 4, slot="1-1", memory_mib=10240, cores_percent=28)
    answer = json.loads(json.dumps(mig_request.answer(instance())))
    given = mig.slot_granted(grant, answer)
    assert given == Grant(instance(), slot="1-1")
    assert mig.slot_request(given, OWNER) is None


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"device": {}},
        {"device": None},
        {"device": {"uuid": "MIG-0"}},
        {"device": {**mig_request.answer(instance())["device"], "what": 1}},
        {"device": {**mig_request.answer(instance())["device"], "parent_uuid": ""}},
        {"device": {**mig_request.answer(instance())["device"], "uuid": ""}},
    ],
)
def test_an_answer_that_describes_no_instance_is_refused(mig: Any, answer: Any) -> None:
    with pytest.raises(ValueError, match="the probe answered no MIG device"):
        mig.slot_granted(Grant(card(), slot="1-1"), answer)


def test_an_answer_of_another_card_is_refused(mig: Any) -> None:
    with pytest.raises(ValueError, match="MIG-1 of GPU-1, asked for a partition of GPU-0"):
        mig.slot_granted(Grant(card(), slot="1-1"), mig_request.answer(instance(1)))


@given(data=st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x, max_size=3)))
def test_no_garbage_crashes_the_reader_of_requests(data: Any) -> None:
    request = {"device": "G", "slot": "0-0", "geometry": data, "position": 0, "in_use": data}
    with pytest.raises(Exception, match="not a request for a MIG partition"):
        mig_request.parsed(request)


# --- what a container gets ---------------------------------------------------------------------


def test_a_container_gets_the_nodes_of_its_instance_and_no_limit(mig: Any) -> None:
    edits = mig.edits((Grant(instance(), slot="1-1"),), OWNER)
    assert [node.path for node in edits.device_nodes] == [
        "/dev/nvidiactl",
        "/dev/nvidia0",
        "/dev/nvidia-caps/nvidia-cap12",
        "/dev/nvidia-caps/nvidia-cap13",
    ]
    assert (edits.env, edits.mounts, edits.host_directories) == ({}, (), ())
    injection = render("nvidia", "a1b2", [Grant(instance())], edits, mig.exposure(), Strategy())
    assert injection.envs == {"NVIDIA_VISIBLE_DEVICES": "MIG-0"}


@pytest.mark.parametrize(
    ("slot", "owner", "reason"),
    [
        ("1-1", OWNER, "partition 1-1 of GPU-0 was not made before the container"),
        ("", OWNER, "the scheduler granted GPU-0 without a partition"),
        ("", STANDALONE, "partitioned as schedulers ask .* or nvidia.operatingMode to hami-core"),
    ],
)
def test_nobody_gets_a_card_as_a_whole(mig: Any, slot: str, owner: Owner, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        mig.edits((Grant(instance()), Grant(card(), slot=slot)), owner)


def test_a_fresh_instance_has_its_cdi_name_before_the_next_discovery(arena: Any) -> None:
    """The inventory of the last snapshot and the instance that was answered is the inventory of
    the next snapshot, as far as this instance goes.
    """
    backend = NvidiaNode(arena.settings)
    before = arena.discover()
    whole = Grant(before.device("GPU-0"), slot="1-1")
    (answer,) = arena.run({**backend.slot_request(whole, OWNER), "in_use": []})
    given = backend.slot_granted(whole, answer["answer"])
    known = backend.cdi_specs(replace(before, devices=(*before.devices, given.device)))
    spec = deferred_spec(
        "nvidia",
        "a1b2",
        [given],
        backend.edits([given], OWNER),
        backend.exposure(),
        known,
        Strategy(names=("cdi-cri",)),
    )
    (device,) = spec.devices
    caps = device.container_edits.device_nodes[-2:]
    assert [(node.type, node.major, node.file_mode) for node in caps] == [("c", 239, 0o444)] * 2
    assert [node.path for node in caps] == [
        path for path in given.device.device_nodes if "nvidia-caps" in path
    ]
    assert [node.path for node in caps] == [
        f"/dev/nvidia-caps/nvidia-cap{node.minor}" for node in caps
    ]

    def described(specs: Any) -> Any:
        (gpus,) = (each for each in specs if each.kind.endswith("/gpu"))
        return next(each for each in gpus.devices if each.name == given.device.uuid)

    assert described(backend.cdi_specs(arena.discover())) == described(known)


def test_a_card_in_mig_mode_is_no_cdi_device_of_its_own(mig: Any) -> None:
    (spec,) = (s for s in mig.cdi_specs(Snapshot((card(), instance()))) if s.kind.endswith("/gpu"))
    assert [device.name for device in spec.devices] == ["MIG-0", "all"]


def test_capability_nodes_that_are_there_are_left_to_the_runtime(mig: Any, tree: Any) -> None:
    tree.add(
        "host/proc/devices", "Character devices:\n  1 mem\n239 nvidia-caps\n\nBlock devices:\n"
    )
    tree.add("driver-root/dev/nvidia-caps/nvidia-cap12")
    (spec,) = (s for s in mig.cdi_specs(Snapshot((instance(),))) if s.kind.endswith("/gpu"))
    there, made = spec.devices[0].container_edits.device_nodes[-2:]
    assert (there.type, there.major) == ("", 0)
    assert (made.type, made.major, made.minor) == ("c", 239, 13)
