"""What containers use, joined from grants and regions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from deviceplugin.libvgpu import (
    Fault,
    FileFacts,
    Memory,
    Process,
    Reason,
    Region,
    RegionError,
    Utilisation,
)
from deviceplugin.monitor import ContainerUsage, MonitoredContainer, MonitoredDevice, by_host_pid
from deviceplugin.monitor.caches import Seen
from deviceplugin.monitor.usage import STATES, collect

MIB = 1 << 20
FILE = FileFacts(1, 2, 2008953, 0, 0)
A, B = (f"GPU-{letter * 8}-0000-0000-0000-000000000000" for letter in "ab")
Make = Callable[..., MonitoredContainer]


def process(pid: int, *devices: tuple[int, int], host_pid: int | None = None) -> Process:
    """Bytes and percent for each device."""
    memory = tuple(Memory(total=total) for total, _ in devices)
    return Process(
        pid,
        pid,
        host_pid,
        False,
        memory,
        (0,) * len(devices),
        tuple(Utilisation(sm) for _, sm in devices),
    )


def region(
    *processes: Process, uuids: tuple[str, ...] = (), limits: tuple[int, ...] = (3000,)
) -> Region:
    memory = tuple(limit * MIB for limit in limits)
    return Region(
        FILE,
        initialised=True,
        uuids=uuids,
        memory_limits=memory + (0,) * (16 - len(limits)),
        core_limits=(30,) * len(limits) + (100,) * (16 - len(limits)),
        processes=processes,
    )


def usage(container: MonitoredContainer, seen: Seen) -> ContainerUsage:
    (found,) = collect([container], {container.cache_dir: seen})
    assert found.container == container
    assert found.state in STATES
    return found


def test_before_the_first_kernel_use_is_zero_and_the_limit_is_the_grants(container: Make) -> None:
    missing = RegionError("d", Fault.MISSING, "not there", "wait")
    for seen, state in [
        (None, "no-region"),
        (missing, "no-region"),
        (Region(FILE), "not-initialised"),
    ]:
        found = usage(container(), seen)
        (device,) = found.devices
        assert (device.limit_bytes, device.memory.total, device.utilisation.sm) == (
            3000 * MIB,
            0,
            0,
        )
        assert (found.isolation.active, found.isolation.reason.value) == (None, state)
        assert (found.state, found.problem) == (state, None)


def test_a_container_whose_vendor_keeps_no_regions_has_its_limit(container: Make) -> None:
    found = usage(container(cache_dir=""), None)
    assert (found.state, found.devices[0].limit_bytes) == ("not-kept", 3000 * MIB)


def test_limits_that_processes_keep_by_themselves_are_called_cooperative(container: Make) -> None:
    for where in ("", "uid_main"):
        found = usage(container(cache_dir=where, cooperative=True), None)
        assert (found.isolation.active, found.isolation.reason) == (None, Reason.COOPERATIVE)
        assert (found.state, found.devices[0].limit_bytes) == ("not-kept", 3000 * MIB)


def test_what_libvgpu_wrote_counts_before_what_the_node_does_now(container: Make, gpu: str) -> None:
    """A container that was started before the node's operating mode was changed."""
    found = usage(container(cooperative=True), region(process(1, (1, 2)), uuids=(gpu,)))
    assert (found.isolation.active, found.state) == (True, "read")


def test_a_region_that_cannot_be_read_leaves_use_unknown(container: Make) -> None:
    problem = RegionError("d/r.cache", Fault.NOT_A_FILE, "it is a pipe", "find out")
    found = usage(container(), problem)
    assert found.problem is problem
    assert (found.isolation.active, found.isolation.reason) == (None, Reason.UNREADABLE)
    assert "it is a pipe" in found.isolation.detail
    assert found.state == "not-a-file"


def test_all_processes_of_a_container_share_its_region(container: Make, gpu: str) -> None:
    """vLLM's workers are many processes of one container (hami-nvidia-node.md 8)."""
    seen = region(process(1, (100, 20)), process(2, (200, 30)), process(3, (300, 0)), uuids=(gpu,))
    found = usage(container(), seen)
    assert found.devices[0].memory.total == 600
    assert found.devices[0].utilisation.sm == 50
    assert [p.memory[0].total for p in found.processes] == [100, 200, 300]
    assert found.isolation.active is True


def test_workers_on_two_devices_are_counted_on_each(container: Make) -> None:
    owner = container(0, MonitoredDevice(0, A, 3000, 30), MonitoredDevice(1, B, 4000, 30))
    seen = region(
        process(1, (100, 10), (0, 0)),
        process(2, (1, 0), (200, 20)),
        uuids=(A, B),
        limits=(3000, 4000),
    )
    found = usage(owner, seen)
    assert [(d.device.uuid, d.memory.total, d.limit_bytes // MIB) for d in found.devices] == [
        (A, 101, 3000),
        (B, 200, 4000),
    ]


def test_figures_follow_the_uuid_where_the_driver_orders_otherwise(container: Make) -> None:
    owner = container(0, MonitoredDevice(0, A, 3000, 30), MonitoredDevice(1, B, 4000, 30))
    seen = region(process(1, (100, 10), (200, 20)), uuids=(B, A), limits=(4000, 3000))
    found = usage(owner, seen)
    assert [(d.device.uuid, d.memory.total, d.utilisation.sm) for d in found.devices] == [
        (A, 200, 20),
        (B, 100, 10),
    ]
    assert [m.total for m in found.processes[0].memory] == [200, 100]
    assert found.isolation.active is True


def test_devices_are_told_in_the_order_of_their_numbers(container: Make) -> None:
    owner = container(0, MonitoredDevice(1, B, 4000, 30), MonitoredDevice(0, A, 3000, 30))
    found = usage(owner, region(process(1, (100, 10), (200, 20)), limits=(3000, 4000)))
    assert [(d.device.uuid, d.memory.total) for d in found.devices] == [(A, 100), (B, 200)]


def test_a_device_granted_twice_is_counted_once(container: Make) -> None:
    owner = container(0, MonitoredDevice(0, A, 3000, 30), MonitoredDevice(1, A, 3000, 30))
    found = usage(owner, region(process(1, (100, 10), (0, 0)), uuids=(A,), limits=(3000, 3000)))
    assert [device.memory.total for device in found.devices] == [100, 0]


def test_a_forged_region_only_spoils_its_own_figures(container: Make, gpu: str) -> None:
    """The labels are the grant's: nobody shows up on a device that he was not given."""
    found = usage(container(), region(process(1, (100, 10)), uuids=(A,)))
    assert [device.device.uuid for device in found.devices] == [gpu]
    assert found.devices[0].memory.total == 0
    assert (found.isolation.active, found.isolation.reason) == (False, Reason.DEVICE_NOT_GRANTED)


def test_a_limit_that_cannot_be_true_is_not_shown(container: Make) -> None:
    seen = replace(region(), memory_limits=(2**63,) * 16, doubts=frozenset({"limit"}))
    found = usage(container(), seen)
    assert found.devices[0].limit_bytes == 3000 * MIB
    assert found.isolation.active is False


def test_a_limit_that_is_not_the_granted_one_is_shown_as_it_is(container: Make) -> None:
    found = usage(container(), region(limits=(8000,)))
    assert found.devices[0].limit_bytes == 8000 * MIB
    assert (found.isolation.active, found.isolation.reason) == (False, Reason.MEMORY_DIFFERS)


def test_more_devices_than_a_region_has_do_not_break_it(container: Make) -> None:
    owner = container(0, *[MonitoredDevice(n, f"GPU-{n}", 10, 10) for n in range(17)])
    found = usage(owner, region(process(1, (5, 5))))
    assert len(found.devices) == 17
    assert found.devices[16].memory.total == 0
    assert found.isolation.reason is Reason.TOO_MANY_DEVICES


def test_a_pid_of_the_host_names_container_and_process(container: Make) -> None:
    first, second, third = container(1), container(2), container(3)
    regions = {
        first.cache_dir: region(process(7, (1, 1), host_pid=1007), process(8, (1, 1))),
        second.cache_dir: region(process(7, (2, 2), host_pid=2007), process(9, (2, 2), host_pid=5)),
        third.cache_dir: region(process(1, (3, 3), host_pid=5)),
    }
    found = by_host_pid(collect([first, second, third], regions))
    assert {pid: (u.container.pod, p.pid) for pid, (u, p) in found.items()} == {
        1007: ("pod-1", 7),
        2007: ("pod-2", 7),
    }


@pytest.mark.parametrize(
    ("seen", "state"),
    [(None, "no-region"), (Region(FILE), "not-initialised"), (region(), "read")],
)
def test_a_grant_without_limits_has_no_isolation_to_speak_of(
    container: Make, gpu: str, seen: Seen, state: str
) -> None:
    found = usage(container(0, MonitoredDevice(0, gpu)), seen)
    assert (found.isolation.active, found.isolation.reason) == (None, Reason.NOTHING_LIMITED)
    assert found.state == state
