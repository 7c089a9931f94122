"""Nodes whose agents come and go, and what strangers write on them (hami-scheduler.md 3.4, 10.4)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deviceplugin import registry
from deviceplugin.api.hami import handshake, register
from deviceplugin.api.hami.keys import NVIDIA_REGISTER, VENDORS
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.scheduler.fencing import FencedApi
from deviceplugin.scheduler.registration import Handshakes

DCU = VENDORS["DCU"]
COUNT = "hygon.com/dcunum"
GPU = "nvidia.com/gpu"


class Now:
    def __init__(self) -> None:
        self.at = datetime(2026, 5, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def later(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@pytest.fixture
async def bench(tmp_path: Path, bench_of: Any) -> AsyncIterator[Any]:
    """With NVIDIA's backend and one whose agents answer."""
    vendors = registry.load().vendors
    found = bench_of(
        tmp_path,
        [
            *registry.load_scheduling(vendors["nvidia"], {}),
            *registry.load_scheduling(vendors["hygon"], {}),
        ],
    )
    yield found
    await found.close()


def node(make: Any, name: str = "a", count: int = 4) -> dict[str, Any]:
    """Both vendors' devices."""
    made: dict[str, Any] = make.node(name, cards=1)
    devices = [
        NodeDevice(
            uuid=f"DCU-{name}-0",
            index=0,
            count=4,
            memory=16000,
            cores=100,
            type="DCU-Z100",
            healthy=True,
        )
    ]
    made["metadata"]["annotations"][DCU.register] = register.encode_legacy(devices)
    for part in ("allocatable", "capacity"):
        made["status"][part][COUNT] = str(count)
    return made


def dcu_pod(make: Any, name: str) -> dict[str, Any]:
    made: dict[str, Any] = make.pod(name)
    made["spec"]["containers"][0]["resources"]["limits"] = {COUNT: "1", "hygon.com/dcumem": "100"}
    return made


class Round:
    """The scheduler's rounds over a bench, and an agent that answers when a test says."""

    def __init__(self, bench: Any, made: Any, leading: Any) -> None:
        self.bench, self.made, self.now = bench, made, Now()
        self.handshakes = Handshakes(
            FencedApi(bench.api(), leading), made.cluster, leading.is_leader, self.now
        )

    def stamp(self, name: str = "a") -> str | None:
        annotations = self.bench.server.get("nodes", name)["metadata"]["annotations"]
        found = annotations.get(DCU.handshake)
        return None if found is None else str(found).partition("_")[0].partition(" ")[0]

    def write(self, **change: Any) -> None:
        self.bench.server.patch("nodes", "a", change)

    def report(self) -> None:
        """The agent's word."""
        text = handshake.encode(handshake.Handshake(handshake.State.REPORTED, self.now.at))
        self.write(metadata={"annotations": {DCU.handshake: text}})

    async def seen(self, name: str = "a") -> None:
        """The scheduler knows the node as it is."""
        nodes = self.made.watching.nodes.objects
        version = self.bench.server.get("nodes", name)["metadata"]["resourceVersion"]
        await self.bench.until(lambda: int(nodes[f"/{name}"].version) >= int(version))

    async def round(self) -> None:
        await self.seen()
        await self.handshakes.round()
        await self.seen()


async def fits(bench: Any, address: str, name: str) -> bool:
    answer = await bench.filter(address, name, ["a"])
    assert answer["Error"] == ""
    return answer["NodeNames"] == ["a"]


@pytest.fixture
async def rounds(bench: Any, make: Any) -> tuple[Round, str]:
    bench.server.create("nodes", node(make))
    bench.server.create("pods", dcu_pod(make, "dcu"))
    bench.server.create("pods", make.pod("gpu"))
    leading = make.leading()
    made, address = await bench.scheduler(leading=leading)
    return Round(bench, made, leading), address


async def test_an_agent_that_answers_is_asked_once_a_minute(rounds: tuple[Round, str]) -> None:
    one, _ = rounds
    asked = []
    for _ in range(12):
        await one.round()
        asked.append(one.stamp())
        if asked[-1] == "Requesting":
            one.report()
        one.now.later(15)
    assert asked == ["Requesting", "Reported", "Reported", "Reported"] * 3
    before = len(one.bench.server.calls)
    await one.round()
    one.now.later(15)
    await one.round()  # it was asked and has not answered yet
    patches = [c for c in one.bench.server.calls[before:] if c.verb == "patch"]
    assert len(patches) == 1


async def test_a_node_whose_agent_is_gone_is_withdrawn_and_returns_with_it(
    bench: Any, rounds: tuple[Round, str]
) -> None:
    one, address = rounds
    await one.round()
    assert await fits(bench, address, "dcu")
    one.write(status={"allocatable": {COUNT: "0"}})
    one.now.later(61)
    await one.round()
    assert one.stamp() == "Deleted"
    assert not await fits(bench, address, "dcu")
    assert await fits(bench, address, "gpu"), "the other vendor's devices stay"
    one.now.later(600)
    await one.round()
    assert one.stamp() == "Deleted"
    one.report()
    one.write(status={"allocatable": {COUNT: "4"}})
    await one.seen()
    assert await fits(bench, address, "dcu")


async def test_an_agent_that_is_slow_and_serves_is_not_gone(
    bench: Any, rounds: tuple[Round, str]
) -> None:
    one, address = rounds
    await one.round()
    one.now.later(3600)
    await one.round()
    assert one.stamp() == "Requesting"
    assert await fits(bench, address, "dcu")


async def test_a_deletion_is_taken_back_once_kubelet_offers_devices_again(
    bench: Any, rounds: tuple[Round, str]
) -> None:
    one, address = rounds
    one.write(metadata={"annotations": {DCU.handshake: "Deleted_2026-05-01 11:00:00"}})
    await one.seen()
    assert not await fits(bench, address, "dcu")
    await one.round()
    assert one.stamp() == "Requesting"
    assert await fits(bench, address, "dcu")


async def test_an_agent_that_answers_in_the_same_instant_is_not_taken_for_gone(
    bench: Any, rounds: tuple[Round, str]
) -> None:
    one, _ = rounds
    await one.round()
    one.write(status={"allocatable": {COUNT: "0"}})
    await one.seen()
    one.now.later(61)
    one.made.watching.nodes._take = lambda *_: ""  # what comes now is not heard in time
    one.report()
    await one.handshakes.round()
    assert one.stamp() == "Reported"


async def test_who_does_not_lead_stamps_nothing(bench: Any, make: Any) -> None:
    bench.server.create("nodes", node(make))
    leading = make.leading(0)
    made, _ = await bench.scheduler(leading=leading)
    one = Round(bench, made, leading)
    await one.round()
    assert one.stamp() is None
    leading.seconds = 10.0
    await one.round()
    assert one.stamp() == "Requesting"


async def test_nvidias_devices_go_and_come_with_what_kubelet_offers(
    bench: Any, rounds: tuple[Round, str]
) -> None:
    one, address = rounds
    assert await fits(bench, address, "gpu")
    one.write(status={"allocatable": {GPU: "0"}})
    await one.seen()
    assert not await fits(bench, address, "gpu")
    one.write(status={"allocatable": {GPU: "10"}})
    await one.seen()
    assert await fits(bench, address, "gpu")
    await one.round()
    annotations = bench.server.get("nodes", "a")["metadata"]["annotations"]
    assert VENDORS["NVIDIA"].handshake not in annotations, "they do not answer, so nobody asks"


@pytest.mark.parametrize(
    "text",
    ["", "[", "[1]", '{"id": 1}', "x" * 200_000, '[{"id": "' + "y" * 1000 + '", "count": -5}]'],
    ids=["empty", "broken", "numbers", "no list", "long", "absurd"],
)
async def test_what_nobody_can_read_costs_its_own_node_and_vendor_alone(
    bench: Any, make: Any, rounds: tuple[Round, str], text: str
) -> None:
    one, address = rounds
    bench.server.create("nodes", node(make, "b"))
    one.write(metadata={"annotations": {NVIDIA_REGISTER: text}})
    await one.seen()
    assert not await fits(bench, address, "gpu")
    assert await fits(bench, address, "dcu")
    answer = await bench.filter(address, "gpu", ["a", "b"])
    assert answer["NodeNames"] == ["b"]
    assert not one.made.cluster.drift("a")


async def test_a_node_that_is_made_anew_has_what_its_pods_hold(
    bench: Any, make: Any, rounds: tuple[Round, str]
) -> None:
    one, address = rounds
    assert await fits(bench, address, "gpu")
    assert await bench.bind(address, "gpu", "a") == ""
    bench.server.delete("nodes", "a")
    await bench.until(lambda: one.made.cluster.record("a") is None)
    assert not await fits(bench, address, "dcu")
    bench.server.create("nodes", node(make))
    await bench.until(lambda: one.made.cluster.view("a") is not None)
    (card,) = one.made.cluster.view("a").cards["NVIDIA"]
    assert card.used == 1


async def test_a_server_that_refuses_stamps_stops_no_round(
    bench: Any, rounds: tuple[Round, str]
) -> None:
    one, _ = rounds
    bench.server.faults.deny.add(("patch", "nodes"))
    await one.round()
    bench.server.faults.deny.clear()
    await one.round()
    assert one.stamp() == "Requesting"
