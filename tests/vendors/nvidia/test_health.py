"""Which errors count, and the loop that waits for them in the real binding."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.probe.supervisor import HealthSeen, Probe, ProbeEvent, ProbeFailed, Timing
from deviceplugin.vendor import PhysicalDevice, Snapshot
from deviceplugin.vendors.nvidia import VENDOR
from deviceplugin.vendors.nvidia.health import (
    APPLICATION_XIDS,
    WHOLE,
    Watch,
    XidEvent,
    XidPolicy,
    concerned,
    policy,
)


@pytest.mark.parametrize(
    ("disable", "enable", "watches", "counting", "ignored"),
    [
        ((), (), True, (48, 79), (13, 31, 43, 45, 68, 109)),
        (("79",), (), True, (48,), (79, 13)),
        ((), ("13",), True, (13, 48), (31,)),
        (("79",), ("79",), True, (79,), ()),
        (("all",), (), False, (), (48, 79)),
        (("xids",), (), False, (), (48,)),
        (("48", "ALL"), (), False, (), (79,)),
        (("all",), ("48",), False, (48,), (79,)),
        (("all",), ("all",), True, (13, 48), ()),
        (("13",), ("all",), True, (13,), ()),
        (("79,abc, 48 ,-1,0x1",), (), True, (1, 62), (79, 48)),
        ((" XIDS ",), (" 31,All ",), True, (31, 79), ()),
        (("", ","), ("",), True, (48,), (13,)),
    ],
)
def test_lists_of_xids_have_nvidias_precedence(
    disable: tuple[str, ...],
    enable: tuple[str, ...],
    watches: bool,
    counting: tuple[int, ...],
    ignored: tuple[int, ...],
) -> None:
    rules = policy(disable, enable)
    assert rules.watches is watches
    assert [xid for xid in counting if not rules.counts(xid)] == []
    assert [xid for xid in ignored if rules.counts(xid)] == []


@given(
    disable=st.frozensets(st.integers(0, 150)),
    enable=st.frozensets(st.integers(0, 150)),
    xid=st.integers(0, 150),
)
def test_the_enabled_list_wins_over_the_disabled_and_that_over_the_built_in_one(
    disable: frozenset[int], enable: frozenset[int], xid: int
) -> None:
    rules = policy([",".join(map(str, disable))], [str(number) for number in enable])
    assert rules == XidPolicy(enable, disable)
    assert rules.counts(xid) == (xid in enable or xid not in disable | APPLICATION_XIDS)


DEVICES = (
    PhysicalDevice("GPU-0", "0", "x"),
    *(
        PhysicalDevice(
            f"MIG-{gi}",
            f"0:{gi}",
            "x",
            parent_uuid="GPU-0",
            attributes={"mig.gpu-instance": str(gi), "mig.compute-instance": "0"},
        )
        for gi in (1, 2)
    ),
    PhysicalDevice("GPU-1", "1", "x"),
)


@pytest.mark.parametrize(
    ("event", "uuids"),
    [
        (XidEvent(79, "GPU-1"), ("GPU-1",)),
        (XidEvent(79, "GPU-0"), ("GPU-0", "MIG-1", "MIG-2")),
        (XidEvent(79, "GPU-0", 2, 0), ("GPU-0", "MIG-2")),
        (XidEvent(79, "GPU-0", 2, 1), ("GPU-0",)),
        (XidEvent(79, "GPU-0", 2, WHOLE), ("GPU-0", "MIG-1", "MIG-2")),
        (XidEvent(79, "GPU-9"), ()),
    ],
)
def test_an_event_concerns_its_card_and_the_instances_it_names(
    event: XidEvent, uuids: tuple[str, ...]
) -> None:
    assert concerned(event, DEVICES) == uuids


# --- the loop ----------------------------------------------------------------------------------


def test_a_critical_error_makes_its_card_unhealthy(
    driver: Any, cards: Callable[..., str], record: Callable[..., str]
) -> None:
    events = driver.events(
        cards(
            2,
            record("event", card=0, data=31),  # an application's error
            record("event", card=0, type=1, data=79),  # a corrected bit
            record("event", card=1, data=79),
        ),
        1,
    )
    assert [(event.uuid, event.healthy) for event in events] == [("GPU-1", False)]
    assert events[0].reason == "Xid 79 reported by the driver; see dmesg"


def test_an_error_of_an_instance_leaves_its_siblings_alone(
    driver: Any, mig_node: Callable[..., str], record: Callable[..., str]
) -> None:
    events = driver.events(mig_node(record("event", card=0, data=48, gi=2, ci=0)), 2)
    assert [event.uuid for event in events] == ["GPU-0", "MIG-1"]


def test_the_operators_lists_are_heeded(
    driver: Any, cards: Callable[..., str], record: Callable[..., str]
) -> None:
    scenario = cards(1, record("event", card=0, data=79), record("event", card=0, data=31))
    options = {"disableHealthChecks": ("79",), "enableHealthChecks": ("31",)}
    (event,) = driver.events(scenario, 1, **options)
    assert event.reason.startswith("Xid 31 ")


def test_a_failing_wait_concerns_every_device(
    driver: Any, cards: Callable[..., str], record: Callable[..., str]
) -> None:
    (event,) = driver.events(cards(2, record("event", code=999)), 1)
    assert (event.uuid, event.healthy) == ("", False)
    assert event.reason == "waiting for health events failed: Unknown Error"


def test_a_lost_card_does_not_take_the_others_with_it(
    driver: Any, cards: Callable[..., str], record: Callable[..., str]
) -> None:
    lost = record("fault", call="nvmlDeviceGetMemoryInfo", card=1, code=15)
    (event,) = driver.events(cards(3, lost, record("event", code=15)), 1)
    assert (event.uuid, event.healthy) == ("GPU-1", False)


def test_a_card_that_cannot_be_watched_is_unhealthy(
    driver: Any, cards: Callable[..., str], record: Callable[..., str]
) -> None:
    fault = record("fault", call="nvmlDeviceRegisterEvents", card=1, code=999)
    (event,) = driver.events(cards(2, fault), 1)
    assert event.uuid == "GPU-1"
    assert event.reason == "no health events: nvmlDeviceRegisterEvents: Unknown Error"


def test_an_old_card_without_events_stays_healthy(
    driver: Any, cards: Callable[..., str], record: Callable[..., str]
) -> None:
    old = record("fault", call="nvmlDeviceRegisterEvents", card=0, code=3)
    (event,) = driver.events(cards(2, old, record("event", card=1, data=79)), 1)
    assert event.uuid == "GPU-1"


def test_an_event_of_a_nameless_card_concerns_every_device(
    driver: Any, cards: Callable[..., str], record: Callable[..., str]
) -> None:
    scenario = cards(1) + record("card", name="nameless") + record("event", card=1, data=79)
    (event,) = driver.events(scenario, 1)
    assert event.uuid == ""
    assert "Xid 79" in event.reason


def test_a_watch_that_is_switched_off_ends_at_once(
    driver: Any, cards: Callable[..., str], record: Callable[..., str]
) -> None:
    scenario = cards(1, record("event", card=0, data=79))
    assert driver.events(scenario, 1, disableHealthChecks=("all",)) == []


def test_a_tegra_is_not_watched(node: Callable[..., Any]) -> None:
    backend = node(deviceDiscoveryStrategy="tegra")
    assert list(backend.watch_health(backend.discover())) == []


class Binding:
    """As much of pynvml as a watch asks; `refusing` cards cannot be registered."""

    NVML_ERROR_TIMEOUT, NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_GPU_IS_LOST = 10, 3, 15
    nvmlEventTypeXidCriticalError = 8  # noqa: N815
    nvmlEventTypeDoubleBitEccError = 2  # noqa: N815
    nvmlEventTypeSingleBitEccError = 1  # noqa: N815

    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            super().__init__(f"error {value}")
            self.value = value

    def __init__(self) -> None:
        self.registered: list[str] = []
        self.refusing: set[str] = set()
        self.freed = False
        self.pending: list[Any] = []

    def nvmlEventSetCreate(self) -> str:
        return "set"

    def nvmlEventSetFree(self, events: str) -> None:
        self.freed = True

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetSupportedEventTypes(self, handle: str) -> int:
        return 8

    def nvmlDeviceRegisterEvents(self, handle: str, types: int, events: str) -> None:
        assert types == 8  # only what the card supports
        if handle in self.refusing:
            raise self.NVMLError(999)
        self.registered.append(handle)

    def nvmlEventSetWait(self, events: str, milliseconds: int) -> Any:
        assert milliseconds == 5000
        if not self.pending:
            raise self.NVMLError(10)
        return self.pending.pop(0)


def xid(number: int, uuid: str) -> SimpleNamespace:
    return SimpleNamespace(
        eventType=8, eventData=number, device=uuid, gpuInstanceId=WHOLE, computeInstanceId=WHOLE
    )


def test_cards_that_come_later_are_watched_too() -> None:
    binding = Binding()
    snapshots = iter([Snapshot(DEVICES[:1]), Snapshot(DEVICES[:1])])
    watch = Watch(binding, XidPolicy(), lambda: next(snapshots, Snapshot(DEVICES)), print)
    binding.pending = [xid(31, "GPU-0"), xid(79, "GPU-1"), xid(79, "GPU-1")]
    events = watch.events()
    assert next(events).uuid == "GPU-1"
    assert binding.registered == ["GPU-0", "GPU-1"]
    events.close()  # type: ignore[attr-defined]
    assert binding.freed


def test_a_refused_card_is_asked_again_until_it_is_watched() -> None:
    binding = Binding()
    binding.refusing = {"GPU-1"}
    watch = Watch(binding, XidPolicy(), lambda: Snapshot(DEVICES), print)
    events = watch.events()
    assert [next(events).uuid, next(events).uuid] == ["GPU-1", "GPU-1"]
    binding.refusing = set()
    binding.pending = [xid(31, "GPU-1"), xid(79, "GPU-1")]
    assert next(events).reason.startswith("Xid 79")
    assert binding.registered == ["GPU-0", "GPU-1"]


# --- in the probe ------------------------------------------------------------------------------


async def probe_events(
    driver: Any, monkeypatch: pytest.MonkeyPatch, scenario: str, count: int, deadline: float
) -> list[ProbeEvent]:
    driver.scenario.write_text(scenario)
    monkeypatch.setenv("FAKE_NVML_SCENARIO", str(driver.scenario))
    seen: asyncio.Queue[ProbeEvent] = asyncio.Queue()
    timing = Timing(interval=30.0, deadline=deadline, backoff_first=0.01, backoff_most=0.01)
    probe = Probe(VENDOR, driver.tree.settings(), timing, seen.put)
    task = asyncio.create_task(probe.run())
    try:
        async with asyncio.timeout(60):
            return [await seen.get() for _ in range(count)]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("code", "deadline", "cause"), [("crash", 60.0, "crash"), ("hang", 3.0, "deadline")]
)
async def test_a_library_that_crashes_or_hangs_costs_one_probe(
    driver: Any,
    monkeypatch: pytest.MonkeyPatch,
    cards: Callable[..., str],
    record: Callable[..., str],
    code: str,
    deadline: float,
    cause: str,
) -> None:
    scenario = cards(1, record("fault", call="nvmlDeviceGetName", card=0, code=code))
    (event,) = await probe_events(driver, monkeypatch, scenario, 1, deadline)
    assert isinstance(event, ProbeFailed)
    assert event.cause == cause


async def test_the_probe_hands_on_health_events(
    driver: Any,
    monkeypatch: pytest.MonkeyPatch,
    cards: Callable[..., str],
    record: Callable[..., str],
) -> None:
    scenario = cards(1, record("event", card=0, data=79))
    _, event = await probe_events(driver, monkeypatch, scenario, 2, 60.0)
    assert isinstance(event, HealthSeen)
    assert (event.event.uuid, event.event.healthy) == ("GPU-0", False)
