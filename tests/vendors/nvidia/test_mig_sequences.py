"""Any order of requests, ends of containers, stray processes, failing drivers, killed probes, lost
journals and reboots: no instance has two holders, and none that is used is ever destroyed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

CARDS = st.integers(0, 1)
SLOTS = st.sampled_from([f"{g}-{p}" for g, most in enumerate((7, 4, 2, 1)) for p in range(most)])
PROFILES = (["1g.5gb"] * 7, ["1g.5gb"] + ["2g.10gb"] * 3, ["3g.20gb"] * 2, ["7g.40gb"])
FAULTS = st.builds(
    lambda call, nth, effect: {"call": call, "nth": nth, **effect},
    st.sampled_from(
        [
            "nvmlDeviceCreateGpuInstanceWithPlacement",
            "nvmlGpuInstanceCreateComputeInstance",
            "nvmlGpuInstanceDestroy",
            "nvmlComputeInstanceDestroy",
            "nvmlDeviceGetGpuInstances",
        ]
    ),
    st.integers(1, 4),
    st.sampled_from(
        [
            {"code": 19},
            {"code": 999},
            {"code": "kill"},
            {"code": "kill", "when": "after"},
        ]
    ),
)


class Sequences(RuleBasedStateMachine):
    """The agent's part: it knows who holds which slot of which card, and with which uuid."""

    def __init__(self, new_arena: Callable[[], Any], record: Callable[..., str]) -> None:
        super().__init__()
        self.arena, self.record = new_arena(), record
        self.held: dict[tuple[int, str], str] = {}
        self.processes: set[tuple[int, int]] = set()

    # --- what the driver has, without asking the code under test ---

    def stands(self, card: int) -> dict[str, int]:
        """The MIG devices of a card, with the slices that they begin at."""
        spots = {gi["at"]: gi["start"] for gi in self.arena.records("gi", card)}
        return {
            f"MIG-GPU-{card}-{ci['serial']}": spots[ci["in"]]
            for ci in self.arena.records("ci")
            if ci["in"] in spots
        }

    def in_use(self, card: int) -> set[str]:
        """Those that a container holds or a process uses."""
        there = self.stands(card)
        used = {uuid for uuid, start in there.items() if (card, start) in self.processes}
        return used | {uuid for (where, _), uuid in self.held.items() if where == card}

    def scenario(self, *faults: Any) -> None:
        lines = [self.record("process", card=c, start=s, pid=s + 1) for c, s in self.processes]
        self.arena.scenario = "".join([*lines, *(self.record("fault", **f) for f in faults)])

    # --- what happens ---

    @rule(card=CARDS, slot=SLOTS)
    def ask(self, card: int, slot: str) -> None:
        self.scenario()
        alone = not self.others(card, slot) and not self.in_use(card) - {
            self.held.get((card, slot))
        }
        try:
            self.partition(card, slot)
        except self.arena.refused:
            assert not alone, "an idle card can have any geometry"

    @rule(card=CARDS, slot=SLOTS, fault=FAULTS)
    def ask_a_failing_driver(self, card: int, slot: str, fault: Any) -> None:
        self.scenario(fault)
        try:
            self.partition(card, slot)
        except (self.arena.refused, self.arena.killed):
            self.recover(card)

    @rule(card=CARDS, slot=SLOTS, line=st.integers(1, 260))
    def ask_and_kill(self, card: int, slot: str, line: int) -> None:
        self.scenario()
        try:
            self.partition(card, slot, kill_at=line)
        except self.arena.refused:
            pass
        except self.arena.killed:
            self.recover(card)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def a_container_ends(self, data: Any) -> None:
        del self.held[data.draw(st.sampled_from(sorted(self.held)))]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def a_process_starts(self, data: Any) -> None:
        card, slot = data.draw(st.sampled_from(sorted(self.held)))
        self.processes.add((card, self.stands(card)[self.held[card, slot]]))

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def a_process_ends(self, data: Any) -> None:
        self.processes.discard(data.draw(st.sampled_from(sorted(self.processes))))

    @rule()
    def the_journal_is_lost(self) -> None:
        self.arena.journal.unlink(missing_ok=True)

    @rule()
    def the_node_is_booted(self) -> None:
        self.arena.journal.unlink(missing_ok=True)
        self.arena.state.unlink(missing_ok=True)
        self.held, self.processes = {}, set()

    @rule(card=CARDS, data=st.data())
    def somebody_removes_an_idle_instance(self, card: int, data: Any) -> None:
        there = self.stands(card)
        idle = sorted(there.keys() - self.in_use(card))
        if not idle:
            return
        start = there[data.draw(st.sampled_from(idle))]
        (spot,) = [gi["at"] for gi in self.arena.records("gi", card) if gi["start"] == start]
        lines = self.arena.state.read_text().splitlines(keepends=True)
        gone = (f"gi|at={spot}|", f"ci|in={spot}|")
        self.arena.state.write_text("".join(x for x in lines if not x.startswith(gone)))

    # --- what must hold ---

    def others(self, card: int, slot: str) -> list[dict[str, str]]:
        return [
            {"slot": held, "owner": f"ns/pod-{held}/main", "uuid": uuid}
            for (where, held), uuid in self.held.items()
            if where == card and held != slot
        ]

    def partition(self, card: int, slot: str, kill_at: int | None = None) -> None:
        request = self.arena.request(slot, device=card, in_use=self.others(card, slot))
        used = [self.in_use(number) for number in (0, 1)]
        mine = self.held.get((card, slot))
        try:
            device = self.arena.partition(request, kill_at=kill_at)
        finally:
            for number in (0, 1):
                assert used[number] <= self.stands(number).keys(), "what was used is gone"
        geometry, position = map(int, slot.split("-"))
        assert device["profile"] == PROFILES[geometry][position]
        assert device["uuid"] in self.stands(card)
        assert mine in (None, device["uuid"]), "a container's instance was swapped"
        held = {uuid for key, uuid in self.held.items() if key != (card, slot)}
        assert device["uuid"] not in held, "an instance has two holders"
        self.held[card, slot] = device["uuid"]
        self.scenario()
        assert self.arena.partition(request) == device, "equal requests have different answers"

    def recover(self, card: int) -> None:
        """The next discovery ends what was begun."""
        used = self.in_use(card)
        self.scenario()
        assert self.arena.discover().problems == ()
        assert len(self.arena.records("gi", card)) == len(self.stands(card)), "something half-made"
        assert used <= self.stands(card).keys(), "what was used is gone"


def test_no_order_of_events_harms_what_is_used(
    new_arena: Callable[[], Any], record: Callable[..., str]
) -> None:
    run_state_machine_as_test(
        lambda: Sequences(new_arena, record),
        settings=settings(
            max_examples=30,
            stateful_step_count=20,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
