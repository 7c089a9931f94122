"""The node half: the scenario at the time it is now, what a container gets, partitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from deviceplugin.cdi import check
from deviceplugin.registry import load_backend
from deviceplugin.vendor import (
    DeviceNode,
    DriverError,
    Grant,
    HealthEvent,
    HealthWatcher,
    HostDirectory,
    InventoryWriter,
    Mount,
    NodeBackend,
    Owner,
    Partitioner,
    PhysicalDevice,
    Planner,
    Replicas,
    ResourcePlan,
    RuntimeExposed,
    Sharing,
    Snapshot,
    Split,
    Usage,
    UsageReader,
    VendorSettings,
)
from deviceplugin.vendors.mock import VENDOR
from deviceplugin.vendors.mock.configuration import KEYS_OF_OUR_OWN
from deviceplugin.vendors.mock.node import MockNode

Make = Callable[..., MockNode]
GPU = "mock.deviceplugin.dev/gpu"
OWNER = Owner(GPU, "a1b2")
HALF = {"partitions": {"half": {"memoryMiB": 500, "coresPercent": 50}}}


def at(seconds: float, fault: str, **keys: Any) -> dict[str, Any]:
    return {"faults": [{"at": seconds, "fault": fault, **keys}]}


def uuids(snapshot: Snapshot) -> list[str]:
    return [device.uuid for device in snapshot.devices]


def test_the_descriptor_leads_to_a_backend_with_every_capability() -> None:
    backend = load_backend(VENDOR, VendorSettings(section={"exposure": True}))
    for capability in (
        NodeBackend,
        Planner,
        RuntimeExposed,
        InventoryWriter,
        HealthWatcher,
        Partitioner,
    ):
        assert isinstance(backend, capability)


def test_only_a_profile_that_asks_for_it_has_an_exposure() -> None:
    backend = load_backend(VENDOR, VendorSettings())
    assert not isinstance(backend, RuntimeExposed)


# --- time ---


def test_the_scenario_starts_with_the_first_discovery(node: Make, clock: Any) -> None:
    one = node(**at(5, "vanish", device="a"))
    clock.now += 1000
    assert uuids(one.discover()) == ["a", "b", "c"]
    clock.now += 4.5
    assert uuids(one.discover()) == ["a", "b", "c"]
    clock.now += 0.5
    assert uuids(one.discover()) == ["b", "c"]


def test_with_a_start_given_a_restarted_probe_goes_on_in_the_scenario(
    node: Make, clock: Any
) -> None:
    section = {"startedAt": clock.now}
    keys = at(5, "vanish", device="a")
    node(section, **keys).discover()
    clock.now += 6
    assert uuids(node(section, **keys).discover()) == ["b", "c"]


def test_before_the_scenario_starts_nothing_happens(node: Make, clock: Any) -> None:
    one = node({"startedAt": clock.now + 60}, **at(0, "unhealthy", device="a"))
    first = one.discover()
    assert all(device.healthy for device in first.devices)
    assert [event.uuid for event in one.watch_health(first)] == ["a"]
    assert clock.waited == [60]


# --- faults of the driver ---


def test_a_slow_driver_answers_late_with_what_is_true_then(node: Make, clock: Any) -> None:
    slow = {"at": 0, "until": 2, "fault": "slow", "seconds": 7.5}
    one = node(faults=[slow, {"at": 5, "fault": "vanish", "device": "a"}])
    assert uuids(one.discover()) == ["b", "c"]
    assert clock.waited == [7.5]
    one.discover()
    assert clock.waited == [7.5]


def test_a_hanging_driver_does_not_answer(node: Make, stuck: type[BaseException]) -> None:
    with pytest.raises(stuck):
        node(**at(0, "hang")).discover()


def test_a_crashing_driver_ends_the_process_until_the_fault_ends(
    node: Make, clock: Any, died: type[BaseException]
) -> None:
    one = node(**at(0, "crash", until=3))
    with pytest.raises(died):
        one.discover()
    clock.now += 3
    assert uuids(one.discover()) == ["a", "b", "c"]


def test_a_garbling_driver_answers_with_values_of_wrong_types(node: Make) -> None:
    device = node(**at(0, "garbage")).discover().devices[0]
    values: list[object] = [device.uuid, device.index, device.model, device.memory_mib]
    assert [type(value) for value in values] == [int, type(None), list, str]


@pytest.mark.parametrize(("fault", "absent"), [("error", False), ("absent", True)])
def test_a_driver_that_gives_no_answer_gives_the_reason(
    node: Make, fault: str, absent: bool
) -> None:
    with pytest.raises(DriverError, match="no such library") as caught:
        node(**at(0, fault, reason="no such library")).discover()
    assert caught.value.absent is absent


# --- health events ---


def test_every_change_of_health_is_reported_at_its_second(node: Make, clock: Any) -> None:
    one = node(
        faults=[
            {"at": 5, "device": "b", "fault": "unhealthy", "reason": "Xid 79"},
            {"at": 8, "device": "c", "fault": "vanish"},
            {"at": 20, "device": "b", "fault": "healthy"},
            {"at": 30, "until": 31, "fault": "unhealthy", "reason": "reset"},
        ]
    )
    start = clock.now
    first = one.discover()
    seen = [(clock.now - start, event) for event in one.watch_health(first)]
    assert seen == [
        (5, HealthEvent("b", False, "Xid 79")),
        (20, HealthEvent("b", True, "")),
        (30, HealthEvent("a", False, "reset")),
        (30, HealthEvent("b", False, "reset")),
        (31, HealthEvent("a", True, "")),
        (31, HealthEvent("b", True, "")),
    ]


def test_what_happened_before_the_watch_began_is_reported_at_once(node: Make, clock: Any) -> None:
    one = node(**at(5, "unhealthy", device="b", reason="hot"))
    first = one.discover()
    clock.now += 60
    assert list(one.watch_health(first)) == [HealthEvent("b", False, "hot")]
    assert clock.waited == []


# --- the plan ---


def test_all_cards_are_one_resource_in_the_split_of_the_profile(node: Make) -> None:
    one = node(split={"count": 4, "memoryScaling": 1.5})
    split = Split(4, "-", Sharing.LIMITED, memory_scaling=1.5)
    assert one.plan(one.discover()) == [ResourcePlan(GPU, ("a", "b", "c"), split, KEYS_OF_OUR_OWN)]


def test_a_resource_stays_planned_when_the_driver_lists_nothing(node: Make) -> None:
    one = node(**at(0, "empty-list"))
    assert one.plan(one.discover()) == [ResourcePlan(GPU, (), keys=KEYS_OF_OUR_OWN)]


def test_a_uuid_that_is_listed_twice_is_planned_once(node: Make) -> None:
    one = node(**at(0, "duplicate-uuid", device="a"))
    assert one.plan(one.discover())[0].devices == ("a", "b", "c")


def test_the_operators_sharing_wins_over_the_split(node: Make) -> None:
    replicas = Replicas(6, Sharing.TIME_SLICING, f"{GPU}.shared", True)
    one = node(settings={"sharing": {GPU: replicas}}, split={"count": 4})
    split = Split(6, "::", Sharing.TIME_SLICING, max_request=1)
    assert one.plan(one.discover()) == [ResourcePlan(f"{GPU}.shared", ("a", "b", "c"), split)]


# --- what a container gets ---


def card(index: str) -> PhysicalDevice:
    return PhysicalDevice(f"GPU-{index}", index, "Card", 1000)


def test_a_container_is_told_its_devices_and_the_limits_of_each(node: Make) -> None:
    grants = [
        Grant(card("2"), 3, 10, Sharing.LIMITED, 300, 30),
        Grant(card("5"), 1, 1, Sharing.EXCLUSIVE, None, None),
    ]
    edits = node().edits(grants, OWNER)
    assert edits.env == {
        "MOCK_VISIBLE_DEVICES": "GPU-2,GPU-5",
        "MOCK_MEMORY_LIMIT_0": "300m",
        "MOCK_CORES_LIMIT_0": "30",
    }
    assert edits.device_nodes == (
        DeviceNode("/dev/mock2", "/dev/null", permissions="rw"),
        DeviceNode("/dev/mock5", "/dev/null", permissions="rw"),
    )
    assert edits.mounts == ()


@pytest.mark.parametrize("index", ["0:1", "../../etc/passwd", "a b"])
def test_no_index_leads_a_device_node_out_of_dev(node: Make, index: str) -> None:
    path = node().edits([Grant(card(index))], OWNER).device_nodes[0].path
    assert path.startswith("/dev/mock")
    assert path.count("/") == 2
    assert " " not in path
    assert ":" not in path


def test_mounts_of_the_profile_carry_the_allocation(node: Make) -> None:
    mounts = [
        {"hostPath": "/run/mock/{allocation}", "containerPath": "/data", "create": True},
        {"hostPath": "/etc/hostname", "containerPath": "/host", "options": ["ro"]},
    ]
    edits = node(mounts=mounts).edits([Grant(card("0"))], OWNER)
    assert edits.mounts == (
        Mount("/run/mock/a1b2", "/data"),
        Mount("/etc/hostname", "/host", ("ro",)),
    )
    assert edits.host_directories == (HostDirectory("/run/mock/a1b2"),)


# --- CDI inventory ---


@pytest.mark.parametrize("name", ["dgx-a100", "h100", "l40s", "small"])
@pytest.mark.parametrize("strategy", ["uuid", "index"])
def test_the_inventory_of_every_shipped_profile_is_valid(name: str, strategy: str) -> None:
    settings = VendorSettings(section={"profile": name}, options={"deviceIDStrategy": strategy})
    backend = load_backend(VENDOR, settings)
    assert isinstance(backend, MockNode)
    snapshot = backend.discover()
    (spec,) = backend.cdi_specs(snapshot)
    check(spec)
    assert [device.name for device in spec.devices] == [
        *(getattr(device, strategy) for device in snapshot.devices),
        "all",
    ]


def test_the_device_all_has_every_card(node: Make) -> None:
    one = node()
    (spec,) = one.cdi_specs(one.discover())
    nodes = {device.name: device.container_edits.device_nodes for device in spec.devices}
    assert nodes["all"] == nodes["a"] + nodes["b"] + nodes["c"]
    assert nodes["b"] == (DeviceNode("/dev/mock1", "/dev/null", permissions="rw"),)


def test_without_devices_there_is_no_inventory(node: Make) -> None:
    assert node().cdi_specs(Snapshot()) == ()


def test_odd_uuids_do_not_break_the_inventory_of_the_others(node: Make) -> None:
    odd = ["MIG-GPU-x/1/2", "all", "", "x" * 200, "ok", "ok"]
    devices = tuple(PhysicalDevice(uuid, str(i), "Card") for i, uuid in enumerate(odd))
    (spec,) = node().cdi_specs(Snapshot(devices))
    check(spec)
    assert [device.name for device in spec.devices][1:] == ["ok", "all"]


# --- partitions ---


def test_a_partition_is_listed_after_its_card_and_offered_by_its_size(node: Make) -> None:
    one = node(**HALF)
    answer = one.partition({"device": "1", "profile": "half"})
    snapshot = one.discover()
    part = snapshot.device(answer["uuid"])
    assert uuids(snapshot) == ["a", "b", answer["uuid"], "c"]
    assert part is not None
    assert (part.index, part.parent_uuid, part.profile) == ("1:0", "b", "half")
    assert (part.memory_mib, part.cores_percent) == (500, 50)
    assert one.plan(snapshot) == [
        ResourcePlan(GPU, ("a", "c"), keys=KEYS_OF_OUR_OWN),
        ResourcePlan(f"{GPU}-half", (answer["uuid"],)),
    ]


def test_a_card_holds_no_more_partitions_than_it_has_memory_and_cores_for(node: Make) -> None:
    one = node(**HALF)
    made = [one.partition({"device": "a", "profile": "half"}) for _ in range(2)]
    with pytest.raises(DriverError, match="too little memory"):
        one.partition({"device": "a", "profile": "half"})
    one.release({"uuid": made[0]["uuid"]})
    assert one.partition({"device": "a", "profile": "half"}) == made[0]


def test_each_card_has_its_own_room_and_its_own_numbers(node: Make) -> None:
    one = node(**HALF)
    made = [one.partition({"device": card, "profile": "half"}) for card in ("a", "a", "b", "b")]
    assert len({answer["uuid"] for answer in made}) == 4
    assert [d.index for d in one.discover().devices if d.parent_uuid] == [
        "0:0",
        "0:1",
        "1:0",
        "1:1",
    ]


def test_cores_are_counted_too(node: Make) -> None:
    one = node(partitions={"big": {"memoryMiB": 1, "coresPercent": 60}})
    one.partition({"device": "a", "profile": "big"})
    with pytest.raises(DriverError, match="too few cores"):
        one.partition({"device": "a", "profile": "big"})


def test_to_release_what_is_not_there_is_no_error(node: Make) -> None:
    one = node(**HALF)
    made = one.partition({"device": "a", "profile": "half"})
    one.release({"uuid": "nothing"})
    assert made["uuid"] in uuids(one.discover())
    one.release(made)
    one.release(made)
    assert uuids(one.discover()) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({"device": "z", "profile": "half"}, "no card 'z'"),
        ({"device": "a", "profile": "third"}, "known are half"),
        ({}, "no card ''"),
    ],
)
def test_an_impossible_partition_is_refused_with_the_reason(
    node: Make, request_: dict[str, str], text: str
) -> None:
    with pytest.raises(DriverError, match=text):
        node(**HALF).partition(request_)


def test_the_scenario_can_refuse_partitions_for_a_while(node: Make, clock: Any) -> None:
    one = node(**HALF, **at(0, "refuse-partition", until=5, reason="in use"))
    with pytest.raises(DriverError, match="refuses to partition: in use"):
        one.partition({"device": "a", "profile": "half"})
    with pytest.raises(DriverError, match="refuses to release: in use"):
        one.release({"uuid": "x"})
    clock.now += 5
    made = one.partition({"device": "a", "profile": "half"})
    assert made["parent"] == "a"


def test_a_partition_shares_the_fate_of_its_card(node: Make, clock: Any) -> None:
    one = node(
        **HALF,
        faults=[
            {"at": 5, "device": "a", "fault": "unhealthy", "reason": "hot"},
            {"at": 9, "device": "a", "fault": "vanish"},
        ],
    )
    made = one.partition({"device": "a", "profile": "half"})
    clock.now += 5
    part = one.discover().device(made["uuid"])
    assert part is not None
    assert part.reason == "hot"
    clock.now += 4
    assert uuids(one.discover()) == ["b", "c"]


def test_it_says_how_busy_the_scenario_makes_its_devices(node: Make, clock: Any) -> None:
    busy = node(usage=[{"at": 2, "device": "b", "usedMiB": 5, "memoryControllerPercent": 1}])
    assert isinstance(busy, UsageReader)
    snapshot = busy.discover()
    assert busy.usage(snapshot) == ()
    clock.sleep(2)
    assert busy.usage(snapshot) == (Usage("b", 5.0, None, 1.0),)


def test_readings_fail_and_hang_by_the_scenario_and_discovery_does_not(
    node: Make, clock: Any, stuck: type[BaseException]
) -> None:
    failing = node(
        faults=[
            {"at": 0, "until": 5, "fault": "usage-error", "reason": "no licence"},
            {"at": 5, "fault": "usage-hang"},
        ]
    )
    snapshot = failing.discover()
    with pytest.raises(DriverError, match="no licence"):
        failing.usage(snapshot)
    clock.sleep(5)
    assert failing.discover() == snapshot
    with pytest.raises(stuck):
        failing.usage(snapshot)
