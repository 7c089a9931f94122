"""The node's annotations, as a v2.8 scheduler reads them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from deviceplugin.api.hami import register
from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.api.node import ALLOCATION
from deviceplugin.scheduled.registration import (
    handshakes,
    node_annotations,
    offer,
)
from deviceplugin.splitting import split
from deviceplugin.vendor import PhysicalDevice, Snapshot

NOW = datetime(2026, 1, 20, 8, 15, 30, tzinfo=UTC)


def test_the_split_shows_in_count_memory_and_cores(plan: Any) -> None:
    how = replace(plan.split, memory_scaling=1.5, cores_scaling=2.0)
    plan = replace(plan, split=how, devices=("a",))
    card = PhysicalDevice("a", "3", "NVIDIA M", 1000, numa_node=1, healthy=False, reason="x")
    made = offer(plan, split(plan, Snapshot((card,))), None, scored=False)
    assert made is not None
    text = node_annotations([made], deferred=False)["hami.io/node-nvidia-register"]
    (device,) = register.decode(text)
    assert (device.uuid, device.count, device.memory, device.cores) == ("a", 10, 1500, 200)
    assert (device.index, device.numa, device.healthy, device.mode) == (3, 1, False, "hami-core")


def test_a_card_without_a_memory_figure_is_not_offered(plan: Any) -> None:
    plan = replace(plan, devices=("a",))
    made = offer(plan, split(plan, Snapshot((PhysicalDevice("a", "0", "M"),))), None, scored=False)
    assert made is not None
    assert node_annotations([made], deferred=True) == {}


def test_links_are_told_where_they_are_wanted_and_only_of_offered_cards(plan: Any) -> None:
    plan = replace(plan, devices=("a", "b"))
    cards = (
        PhysicalDevice("a", "0", "M", 1000, links={"b": 220, "hidden": 10}),
        PhysicalDevice("b", "1", "M", 1000, links={"a": 220}),
    )
    table = split(plan, Snapshot(cards))
    quiet, scored = (offer(plan, table, None, scored=flag) for flag in (False, True))
    assert quiet
    assert scored
    assert "hami.io/node-nvidia-score" not in node_annotations([quiet], deferred=False)
    assert node_annotations([scored], deferred=False)["hami.io/node-nvidia-score"] == (
        '[{"uuid":"a","score":{"b":220}},{"uuid":"b","score":{"a":220}}]'
    )


def test_a_node_with_deferred_grants_says_so(plan: Any, table: Any) -> None:
    made = offer(plan, table, None, scored=False)
    assert made
    assert node_annotations([made], deferred=True)[ALLOCATION] == "deferred"
    assert ALLOCATION not in node_annotations([made], deferred=False)


def test_a_resource_that_no_scheduler_knows_has_no_offer(plan: Any, table: Any) -> None:
    assert offer(replace(plan, keys=None), table, None, scored=False) is None


def test_nvidias_agent_speaks_only_to_be_taken_back(plan: Any, table: Any) -> None:
    made = offer(plan, table, None, scored=False)
    assert made
    key = "hami.io/node-handshake"
    for text, due in (
        (None, False),
        ("Requesting_2026-01-20 08:15:00", False),
        ("Reported 2026-01-20 08:15:00", False),
        ("Deleted_2026-01-20 08:15:00", True),
    ):
        current = {} if text is None else {key: text}
        answer = handshakes([made], current, NOW, changed=False)
        assert (key in answer) is due
        assert not due or answer[key].startswith("Reported 2026-01-20 08:15:30")


def test_other_agents_answer_each_request(plan: Any, table: Any) -> None:
    made = offer(replace(plan, keys=VENDORS["DCU"]), table, None, scored=False)
    assert made
    key = "hami.io/node-handshake-dcu"
    asked = {key: "Requesting_2026-01-20 08:15:00"}
    assert handshakes([made], asked, NOW, changed=False)[key].startswith("Reported")
    assert handshakes([made], {key: "Reported x"}, NOW, changed=False) == {}
