"""Partitions made on demand through the production binding and our fake NVML, which remembers them
when the process that made them is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from deviceplugin.probe.supervisor import Probe, Timing
from deviceplugin.vendor import DriverError
from deviceplugin.vendors.nvidia import VENDOR

SEVEN = {"1g.5gb": 7}
MIXED = {"1g.5gb": 1, "2g.10gb": 3}


def profiles(arena: Any, device: int = 0) -> dict[str, int]:
    return dict(Counter(arena.stands(device).values()))


def holder(slot: str, owner: str = "ns/pod/main", **more: Any) -> dict[str, Any]:
    return {"slot": slot, "owner": owner, **more}


def refused(arena: Any, request: Any) -> str:
    """The reason that the probe gives."""
    (answer,) = arena.run(request)
    assert list(answer) == ["error"], answer
    return answer["error"]


# --- what a request makes ----------------------------------------------------------------------


def test_the_worked_example(arena: Any) -> None:
    """hami-nvidia-node.md 4.4: two geometries one after the other, the third request needs none."""
    assert arena.partition(arena.request("1-1"))["profile"] == "2g.10gb"
    assert profiles(arena) == MIXED
    assert arena.partition(arena.request("0-1"))["profile"] == "1g.5gb"
    assert profiles(arena) == SEVEN
    before = arena.state.read_text()
    assert arena.partition(arena.request("0-2"))["profile"] == "1g.5gb"
    assert arena.state.read_text() == before
    assert profiles(arena, device=1) == {}


def test_every_slot_of_a_geometry_is_another_instance_of_its_profile(arena: Any) -> None:
    devices = [arena.partition(arena.request(f"1-{position}")) for position in range(4)]
    assert [device["profile"] for device in devices] == ["1g.5gb", *["2g.10gb"] * 3]
    assert len({device["uuid"] for device in devices}) == 4
    # The driver lists them the other way round: the fourth device of the card is the 1g.5gb.
    assert [device["index"] for device in devices] == ["0:3", "0:2", "0:1", "0:0"]


def test_the_answer_describes_the_device_as_discovery_does(arena: Any) -> None:
    device = arena.partition(arena.request("2-0", device=1))
    found = arena.discover().device(device["uuid"])
    assert device == {
        "uuid": found.uuid,
        "index": found.index,
        "model": "NVIDIA A100-SXM4-40GB",
        "memory_mib": 19968,
        "numa_node": None,
        "device_nodes": list(found.device_nodes),
        "parent_uuid": "GPU-1",
        "profile": "3g.20gb",
        "attributes": dict(found.attributes),
    }
    caps = [node for node in found.device_nodes if "nvidia-caps" in node]
    assert len(caps) == 2


def test_equal_requests_get_equal_answers_in_a_new_process_too(arena: Any) -> None:
    first = arena.partition(arena.request("0-4"))
    again = arena.run(*[arena.request("0-4")] * 2)
    assert [answer["answer"]["device"] for answer in again] == [first, first]


def test_the_geometry_of_others_may_stand_already(arena: Any) -> None:
    """Instances that somebody else made are used, not made again."""
    for position in range(7):
        arena.partition(arena.request(f"0-{position}"))
    arena.journal.unlink()
    before = arena.records("ci")
    assert arena.partition(arena.request("0-6"))
    assert arena.records("ci") == before


def test_an_instance_that_vanished_is_made_again_beside_those_in_use(arena: Any) -> None:
    devices = [arena.partition(arena.request(f"0-{n}")) for n in range(3)]
    lost = next(gi for gi in arena.records("gi") if gi["start"] == 1)
    text = arena.state.read_text()
    kept = [line for line in text.splitlines() if f"gi|at={lost['at']}|" not in line]
    kept = [line for line in kept if f"ci|in={lost['at']}|" not in line]
    arena.state.write_text("\n".join(kept) + "\n")
    others = [holder("0-0", uuid=devices[0]["uuid"]), holder("0-2", uuid=devices[2]["uuid"])]
    again = arena.partition(arena.request("0-1", in_use=others))
    assert again["uuid"] not in {device["uuid"] for device in devices}
    assert {devices[0]["uuid"], devices[2]["uuid"]} <= set(arena.stands())
    assert profiles(arena) == SEVEN


def test_drivers_that_do_not_name_profiles_are_understood(
    arena: Any, record: Callable[..., str]
) -> None:
    arena.scenario = record("fault", call="nvmlDeviceGetGpuInstanceProfileInfoV", code=13)
    assert arena.partition(arena.request("1-3"))["profile"] == "2g.10gb"
    assert profiles(arena) == MIXED


def test_drivers_of_older_process_lists_are_understood(
    arena: Any, record: Callable[..., str]
) -> None:
    kinds = ("Compute", "MPSCompute")
    calls = [f"nvmlDeviceGet{kind}RunningProcesses_v3" for kind in kinds]
    older = "".join(record("fault", call=call, code=13) for call in calls)
    arena.scenario = older + record("process", card=0, start=0, pid=4711)
    arena.partition(arena.request("0-0"))
    assert "is used by process 4711" in refused(arena, arena.request("1-0"))
    # Without that list nobody can tell who uses what, so nothing is done.
    none = record("fault", call="nvmlDeviceGetComputeRunningProcesses_v2", code=13)
    arena.scenario = older + none
    assert "GPU-0: Function Not Found" in refused(arena, arena.request("1-0"))
    arena.scenario = ""
    assert profiles(arena) == SEVEN


# --- MIG mode ----------------------------------------------------------------------------------


def test_mig_mode_is_switched_on_for_the_first_partition(arena: Any) -> None:
    arena.card = {"mig": 0}
    before = arena.discover().devices
    assert [device.attributes["mig.mode"] for device in before] == ["disabled"] * 2
    assert arena.partition(arena.request("2-1"))["profile"] == "3g.20gb"
    modes = {d.uuid: d.attributes.get("mig.mode") for d in arena.discover().devices}
    assert (modes["GPU-0"], modes["GPU-1"]) == ("enabled", "disabled")


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        ({"mig": 0, "enable": 16}, "MIG mode of GPU GPU-0 is pending (GPU requires restart): stop"),
        ({"mig": 0, "enable": 19}, "is pending (In use by another client): stop whatever uses"),
        ({"mig": None}, "GPU GPU-0 has no MIG mode and cannot be partitioned"),
    ],
)
def test_a_card_that_does_not_come_into_mig_mode_says_what_to_do(
    arena: Any, card: Any, reason: str
) -> None:
    arena.card = card
    assert reason in refused(arena, arena.request("0-0"))
    assert arena.stands() == {}


def test_a_pending_mode_is_tried_again(arena: Any) -> None:
    arena.card = {"mig": 0, "enable": 19}
    assert "pending" in refused(arena, arena.request("0-0"))
    arena.card = {"mig": 0}
    assert arena.partition(arena.request("0-0"))


def test_a_card_that_is_used_as_a_whole_is_left_alone(
    arena: Any, record: Callable[..., str]
) -> None:
    arena.card = {"mig": 0}
    arena.scenario = record("process", card=0, pid=4711)
    assert "used as a whole by process 4711: wait" in refused(arena, arena.request("0-0"))
    assert {d.attributes["mig.mode"] for d in arena.discover().devices} == {"disabled"}


def test_a_mode_that_is_about_to_end_is_not_built_on(arena: Any) -> None:
    arena.run(None)
    arena.state.write_text("mode|card=0|now=1|pending=0\nmode|card=1|now=1|pending=1\n")
    assert "ends with its next reset" in refused(arena, arena.request("0-0"))
    assert arena.partition(arena.request("0-0", device=1))


def test_an_instance_that_somebody_divided_further_is_of_no_geometry(
    arena: Any, record: Callable[..., str]
) -> None:
    arena.run(None)
    # A 2g.10gb with one compute instance of two slices' one: MIG device 1c.2g.10gb.
    arena.state.write_text(
        "next|serial=9\nmode|card=0|now=1|pending=1\nmode|card=1|now=1|pending=1\n"
        "gi|at=0|card=0|profile=1|id=5|start=0\nci|in=0|id=0|slices=1|serial=8\n"
    )
    assert arena.stands() == {"MIG-GPU-0-8": "1c.2g.10gb"}
    arena.scenario = record("process", card=0, start=0, pid=4711)
    assert "MIG-GPU-0-8 (2g.10gb at slice 0) is used" in refused(arena, arena.request("1-1"))
    arena.scenario = ""
    assert arena.partition(arena.request("1-1"))["uuid"] != "MIG-GPU-0-8"
    assert profiles(arena) == MIXED


def test_after_a_reboot_living_containers_get_their_slots_again(arena: Any) -> None:
    arena.card = {"mig": 0}
    slots = ("1-0", "1-2")
    profile = [arena.partition(arena.request(slot))["profile"] for slot in slots]
    arena.state.unlink()
    arena.journal.unlink()
    again = [
        arena.partition(arena.request(slot, in_use=[holder(other, uuid="MIG-of-last-boot")]))
        for slot, other in (slots, reversed(slots))
    ]
    assert [device["profile"] for device in again] == profile


# --- who is in the way -------------------------------------------------------------------------


def test_another_geometry_waits_for_those_who_hold_partitions(arena: Any) -> None:
    arena.partition(arena.request("0-0"))
    before = arena.state.read_text()
    reason = refused(arena, arena.request("1-1", in_use=[holder("0-0", "ns/busy/main")]))
    assert "GPU-0 cannot be partitioned now: ns/busy/main holds partition 0-0" in reason
    assert arena.state.read_text() == before


def test_another_geometry_waits_for_processes_that_nobody_knows_of(
    arena: Any, record: Callable[..., str]
) -> None:
    device = arena.partition(arena.request("0-3"))
    arena.scenario = record("process", card=0, start=3, pid=4711)
    reason = refused(arena, arena.request("1-1"))
    assert f"{device['uuid']} (1g.5gb at slice 3) is used by process 4711" in reason
    assert profiles(arena) == SEVEN
    arena.scenario = ""
    assert arena.partition(arena.request("1-1"))


def test_the_driver_keeps_what_is_used_by_processes_that_it_does_not_list(
    arena: Any, record: Callable[..., str]
) -> None:
    """Without the host's process ids nobody is listed; the driver refuses all the same."""
    device = arena.partition(arena.request("0-3"))
    arena.scenario = record("process", card=0, start=3, pid=4711, hidden=1)
    reason = refused(arena, arena.request("1-1"))
    assert f"removing {device['uuid']}" in reason
    assert "In use by another client; something still uses it" in reason
    assert device["uuid"] in arena.stands()
    # What stands is advertised, and what of it is asked for is given.
    assert arena.partition(arena.request("0-3")) == device


def test_nothing_is_destroyed_unless_somebody_says_who_holds_the_card(arena: Any) -> None:
    arena.partition(arena.request("0-0", in_use=None))
    reason = refused(arena, arena.request("1-0", in_use=None))
    assert "the request does not say who holds partitions of it" in reason
    assert profiles(arena) == SEVEN


def test_a_slot_that_another_holds_is_not_given_again(arena: Any) -> None:
    arena.partition(arena.request("0-0"))
    reason = refused(arena, arena.request("0-0", in_use=[holder("0-0", "ns/first/main")]))
    assert "ns/first/main holds this very partition" in reason


def test_a_holder_whose_instance_stands_for_another_slot_now_stops_the_card(arena: Any) -> None:
    device = arena.partition(arena.request("0-1"))
    others = [holder("0-2", uuid=device["uuid"])]
    assert "somebody else changed the GPU" in refused(arena, arena.request("0-1", in_use=others))


# --- what fails --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call", ["nvmlDeviceCreateGpuInstanceWithPlacement", "nvmlGpuInstanceCreateComputeInstance"]
)
@pytest.mark.parametrize("nth", [1, 2, 4])
def test_what_was_made_before_a_failure_is_removed(
    arena: Any, record: Callable[..., str], call: str, nth: int
) -> None:
    arena.scenario = record("fault", call=call, nth=nth, code=23)
    reason = refused(arena, arena.request("1-1"))
    assert "GPU GPU-0: making " in reason
    assert "Insufficient Resources; what others made on the GPU is in the way" in reason
    assert arena.records("gi") == []
    assert "GPU-0" not in arena.journal.read_text()
    arena.scenario = ""
    assert arena.partition(arena.request("1-1"))["profile"] == "2g.10gb"


def test_a_failure_beside_instances_in_use_leaves_them_alone(
    arena: Any, record: Callable[..., str]
) -> None:
    kept = arena.partition(arena.request("0-6"))["uuid"]
    lines = arena.state.read_text().splitlines()
    (spot,) = [gi["at"] for gi in arena.records("gi") if gi["start"] == 6]
    mine = [line for line in lines if line[:2] not in ("gi", "ci")]
    mine += [line for line in lines if line.startswith((f"gi|at={spot}|", f"ci|in={spot}|"))]
    arena.state.write_text("\n".join(mine) + "\n")
    call = "nvmlGpuInstanceCreateComputeInstance"
    arena.scenario = record("fault", call=call, nth=3, code=999)
    refused(arena, arena.request("0-1", in_use=[holder("0-6", uuid=kept)]))
    assert list(arena.stands()) == [kept]
    arena.scenario = ""
    assert arena.partition(arena.request("0-6"))["uuid"] == kept


def test_what_a_failed_attempt_could_not_remove_goes_at_the_next_discovery(
    arena: Any, record: Callable[..., str]
) -> None:
    arena.scenario = "".join(
        [
            record("fault", call="nvmlGpuInstanceCreateComputeInstance", nth=2, code=999),
            record("fault", call="nvmlGpuInstanceDestroy", code=19),
        ]
    )
    refused(arena, arena.request("1-1"))
    assert len(arena.records("gi")) == 2
    snapshot = arena.discover()
    assert [p for p in snapshot.problems if "half-made MIG partitions of GPU GPU-0" in p]
    arena.scenario = ""
    assert arena.discover().problems == ()
    assert arena.records("gi") == []


def test_a_driver_that_makes_nothing_and_says_so_is_not_believed(
    arena: Any, record: Callable[..., str]
) -> None:
    call = "nvmlGpuInstanceCreateComputeInstance"
    arena.scenario = record("fault", call=call, nth=2, code="skip")
    reason = refused(arena, arena.request("2-1"))
    assert "the driver did not make 3g.20gb at slice 4, but said so; see dmesg" in reason
    assert arena.records("gi") == []


def test_a_card_whose_profiles_the_table_misnames_says_which_it_has(arena: Any) -> None:
    request = arena.request("0-0", geometry=[{"profile": "1g.12gb", "count": 7}])
    reason = refused(arena, request)
    assert "GPU-0 has no MIG profile 1g.12gb, only 1g.5gb, 1g.5gb+me, 2g.10gb" in reason
    request = arena.request("0-0", geometry=[{"profile": "3g.20gb", "count": 3}])
    assert "cannot hold 3 x 3g.20gb side by side" in refused(arena, request)


def test_without_rights_the_remedy_is_named(arena: Any, record: Callable[..., str]) -> None:
    call = "nvmlDeviceCreateGpuInstanceWithPlacement"
    arena.scenario = record("fault", call=call, code=4)
    reason = refused(arena, arena.request("3-0"))
    assert "making 7g.40gb at slice 0: Insufficient Permissions; run the agent privileged" in reason


def test_a_card_that_is_not_there_is_an_error_with_its_name(arena: Any) -> None:
    assert "GPU GPU-7: " in refused(arena, arena.request("0-0", device=7))


def test_an_instance_without_its_device_nodes_is_not_handed_out(
    arena: Any, record: Callable[..., str]
) -> None:
    arena.scenario = record("fault", call="nvmlDeviceGetComputeInstanceId", code=999)
    reason = refused(arena, arena.request("0-0"))
    assert "MIG device MIG-GPU-0-1 is unhealthy: nvmlDeviceGetComputeInstanceId" in reason
    assert profiles(arena) == SEVEN


@pytest.mark.parametrize(
    "wrong",
    [
        {"slot": "what"},
        {"slot": None},
        {"position": 1},
        {"geometry": []},
        {"geometry": [{"profile": "1g.5gb"}]},
        {"geometry": 7},
        {"in_use": [{"slot": "0-1"}]},
        {"in_use": ["0-1"]},
    ],
)
def test_what_is_no_request_changes_nothing(arena: Any, wrong: Any) -> None:
    assert "not a request for a MIG partition" in refused(arena, {**arena.request("0-0"), **wrong})
    assert not arena.state.exists()


# --- the journal -------------------------------------------------------------------------------


def test_without_a_journal_no_card_is_changed(arena: Any) -> None:
    arena.run_dir.write_text("a file where the directory should be")
    reason = refused(arena, arena.request("0-0"))
    assert f"{arena.journal} cannot be written, and without it no GPU is partitioned" in reason
    assert not arena.state.exists()


def test_a_damaged_journal_is_told_and_ignored(arena: Any) -> None:
    device = arena.partition(arena.request("0-5"))
    arena.journal.write_text('{"version": 1, "cards": {"GPU-0": {"layout"')
    (problem,) = arena.discover().problems
    assert f"{arena.journal} is not readable" in problem
    assert arena.partition(arena.request("0-5")) == device
    assert arena.discover().problems == ()


def test_in_other_modes_no_partition_is_made_and_none_is_removed(arena: Any) -> None:
    arena.partition(arena.request("1-0"))
    arena.section = {"deviceSplitCount": 4}
    assert "not in operating mode mig" in refused(arena, arena.request("1-0"))
    assert profiles(arena) == MIXED


def lines_of(arena: Any, request: Any) -> int:
    """At how many lines of code the probe can be killed while it does this, from here."""
    former = arena.copy()
    arena.partition(request, kill_at=0)
    arena.paste(former)
    return arena.lines


def instances(answer: Any) -> dict[str, str]:
    return {
        device["uuid"]: device["profile"]
        for device in answer["snapshot"]["devices"]
        if device["parent_uuid"]
    }


@pytest.mark.slow
def test_a_kill_at_every_step_from_one_geometry_to_another_is_recovered_from(arena: Any) -> None:
    """Whatever line the probe dies at, the next one finds whole instances or none, and the request
    succeeds.
    """
    arena.partition(arena.request("2-0"))
    former, request = arena.copy(), arena.request("1-1")
    for line in range(1, lines_of(arena, request) + 1):
        arena.paste(former)
        with pytest.raises(arena.killed):
            arena.partition(request, kill_at=line)
        found = arena.discover()
        assert found.problems == (), line
        assert len(arena.records("gi")) == len(arena.records("ci")), line
        done, after = arena.run(request, None)
        assert done["answer"]["device"]["profile"] == "2g.10gb", line
        assert Counter(instances(after).values()) == MIXED, line
        assert '"open": true' not in arena.journal.read_text(), line


@pytest.mark.slow
def test_a_kill_at_every_step_never_touches_what_others_use(arena: Any) -> None:
    """One of seven instances is held and the others are missing while the probe dies."""
    kept = arena.partition(arena.request("0-2"))["uuid"]
    (spot,) = [gi["at"] for gi in arena.records("gi") if gi["start"] == 2]
    mine = (f"gi|at={spot}|", f"ci|in={spot}|", "mode", "next")
    lines = arena.state.read_text().splitlines(keepends=True)
    arena.state.write_text("".join(line for line in lines if line.startswith(mine)))
    former, request = arena.copy(), arena.request("0-4", in_use=[holder("0-2", uuid=kept)])
    for line in range(1, lines_of(arena, request) + 1, 2):
        arena.paste(former)
        with pytest.raises(arena.killed):
            arena.partition(request, kill_at=line)
        before, done, after = arena.run(None, request, None)
        assert kept in instances(before), line
        assert done["answer"]["device"]["uuid"] != kept, line
        assert kept in instances(after), line
        assert Counter(instances(after).values()) == SEVEN, line


def test_half_made_instances_of_others_are_none_of_our_business(
    arena: Any, record: Callable[..., str]
) -> None:
    """Recovery removes what an open entry of ours began, and nothing else."""
    arena.run(None)
    arena.state.write_text(
        "mode|card=0|now=1|pending=1\nmode|card=1|now=1|pending=1\n"
        "gi|at=0|card=0|profile=0|id=12|start=1\n"
    )
    call = "nvmlGpuInstanceCreateComputeInstance"
    arena.scenario = record("fault", call=call, nth=1, code=999)
    refused(arena, arena.request("0-0"))
    arena.scenario = ""
    arena.discover()
    assert [gi["start"] for gi in arena.records("gi")] == [1]
    assert arena.partition(arena.request("0-0"))
    assert profiles(arena) == SEVEN


# --- in the agent's hands ----------------------------------------------------------------------


async def test_a_probe_that_dies_over_a_partition_costs_one_answer(
    arena: Any, record: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The framework's own probe: killed by the driver in the middle, started again, asked again."""
    call = "nvmlGpuInstanceCreateComputeInstance"
    arena.scenario = record("fault", call=call, nth=3, code="kill", when="after")
    for name, value in arena.environment.items():
        monkeypatch.setenv(name, value)
    alive = asyncio.Event()

    async def handle(_: Any) -> None:
        alive.set()

    timing = Timing(interval=30, deadline=20, backoff_first=0.01, backoff_most=0.01)
    probe = Probe(VENDOR, arena.settings, timing, handle)
    running = asyncio.create_task(probe.run())
    try:
        await asyncio.wait_for(alive.wait(), 30)
        with pytest.raises(DriverError, match="ended before it answered"):
            await probe.command("partition", arena.request("1-2"), 30)
        arena.scenario = ""
        assert arena.environment["FAKE_NVML_STATE"] == os.environ["FAKE_NVML_STATE"]
        alive.clear()
        await asyncio.wait_for(alive.wait(), 30)
        answer = await probe.command("partition", arena.request("1-2"), 30)
        assert answer["device"]["profile"] == "2g.10gb"
        await probe.command("release", arena.request("1-2"), 30)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert profiles(arena) == MIXED
