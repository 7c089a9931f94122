"""Healthy, suspect, unhealthy, recovering, healthy: with reasons, both ways."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.health import (
    HealthPolicy,
    Inventory,
    State,
    admit,
    observe,
    observe_event,
    observe_failure,
)
from deviceplugin.kubelet.resource import list_message
from deviceplugin.splitting import grants, split
from deviceplugin.vendor import (
    HealthEvent,
    PhysicalDevice,
    ResourcePlan,
    Sharing,
    Snapshot,
    Split,
    with_health,
)

GOOD = PhysicalDevice("u", "0", "M")
BAD = with_health(GOOD, healthy=False, reason="too hot")


def told(policy: HealthPolicy, *probes: PhysicalDevice | None, step: float = 1.0) -> list[State]:
    inventory, states = Inventory(), []
    for position, device in enumerate(probes):
        snapshot = Snapshot((device,) if device else ())
        inventory = observe(inventory, snapshot, position * step, policy)
        states.append(inventory.devices["u"].state)
    return states


def test_a_failing_device_recovers_after_hold_and_enough_good_probes() -> None:
    policy = HealthPolicy(failures=1, window=1, successes=2, hold=3)
    assert told(policy, GOOD, BAD, GOOD, GOOD, GOOD, GOOD) == [
        State.HEALTHY,
        State.UNHEALTHY,
        State.UNHEALTHY,
        State.UNHEALTHY,
        State.HEALTHY,
        State.HEALTHY,
    ]


def test_one_bad_probe_of_three_makes_it_suspect_and_still_usable() -> None:
    policy = HealthPolicy(failures=2, window=3, successes=1, hold=0)
    assert told(policy, GOOD, BAD, GOOD) == [State.HEALTHY, State.SUSPECT, State.SUSPECT]
    assert told(policy, GOOD, BAD, GOOD, GOOD, GOOD)[-1] is State.HEALTHY
    assert told(policy, GOOD, BAD, GOOD, BAD)[-1] is State.UNHEALTHY
    assert State.SUSPECT.usable


def test_a_device_that_vanishes_is_unhealthy_first_and_forgotten_later() -> None:
    policy = HealthPolicy(forget=10)
    inventory = observe(Inventory(), Snapshot((GOOD,)), 0, policy)
    inventory = observe(inventory, Snapshot(), 1, policy)
    assert inventory.devices["u"].state is State.UNHEALTHY
    assert "no longer lists" in inventory.devices["u"].reason
    assert "u" in observe(inventory, Snapshot(), 10.5, policy).devices
    assert "u" not in observe(inventory, Snapshot(), 11.5, policy).devices


def test_an_event_counts_at_once_both_ways_and_for_all() -> None:
    inventory = observe(Inventory(), Snapshot((GOOD,)), 0, HealthPolicy())
    bad = observe_event(inventory, HealthEvent("", healthy=False, reason="Xid 79"), 1)
    assert bad.snapshot().devices[0].reason == "Xid 79"
    good = observe_event(bad, HealthEvent("u", healthy=True), 2)
    assert good.devices["u"].state is State.HEALTHY
    assert observe_event(inventory, HealthEvent("other", healthy=False), 1) == inventory


def test_the_last_answer_stands_until_too_many_probes_failed() -> None:
    policy = HealthPolicy(probe_failures=3)
    inventory = observe(Inventory(), Snapshot((GOOD,)), 0, policy)
    for number in (1, 2):
        inventory = observe_failure(inventory, "hangs", number, policy)
        assert inventory.devices["u"].state is State.HEALTHY
    inventory = observe_failure(inventory, "hangs", 3, policy)
    assert inventory.devices["u"].reason == "probe: hangs"


def test_duplicates_and_nonsense_are_left_out_by_name() -> None:
    odd = PhysicalDevice("a\nb", "1", "M")
    found = admit(Snapshot((GOOD, GOOD, odd, PhysicalDevice("", "2", "M"))))
    assert [device.uuid for device in found.devices] == ["u"]
    assert not found.devices[0].healthy
    assert len(found.problems) == 3


@given(
    st.lists(st.sampled_from([GOOD, BAD, None]), max_size=30), st.integers(1, 3), st.integers(1, 3)
)
def test_an_unhealthy_device_always_says_why_and_a_healthy_one_nothing(
    probes: list[PhysicalDevice | None], failures: int, successes: int
) -> None:
    policy = HealthPolicy(failures, max(failures, 3), successes, hold=0, forget=5)
    inventory = Inventory()
    for now, device in enumerate(probes):
        inventory = observe(inventory, Snapshot((device,) if device else ()), now, policy)
        for tracked in inventory.devices.values():
            assert bool(tracked.reason) == (tracked.state is not State.HEALTHY)
            assert tracked.shown().healthy == tracked.state.usable


@given(
    memory=st.none() | st.integers() | st.just(10**400),
    cores=st.integers() | st.just(10**400),
    numa=st.none() | st.integers() | st.just(2**70),
)
def test_whatever_numbers_a_driver_gives_kubelet_can_be_told(
    memory: int | None, cores: int, numa: int | None
) -> None:
    device = PhysicalDevice("u", "0", "M", memory, cores, numa)
    admitted = admit(Snapshot((device,)))
    plan = ResourcePlan("a.b/c", ("u",), Split(10, "-", Sharing.LIMITED, 1.5))
    table = split(plan, admitted)
    list_message(table)
    for identity in table.virtual:
        (grant,) = grants(table, [identity])
        assert grant.cores_percent in range(1, 101)
    if admitted.devices != (device,):
        assert "device 0 ('u')" in admitted.problems[0]


def test_an_unknown_numa_node_costs_the_topology_and_not_the_device() -> None:
    admitted = admit(Snapshot((PhysicalDevice("u", "0", "M", numa_node=-1),)))
    assert admitted.devices[0].numa_node is None
    assert "NUMA node -1" in admitted.problems[0]
