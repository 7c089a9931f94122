"""Events against the fake API server over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.apiserver import events as module
from deviceplugin.apiserver.client import Api
from deviceplugin.apiserver.events import Events, Subject, event
from deviceplugin.testing.apiserver import ApiServer

POD = Subject.pod("team", "p", "uid-1")
NOON = datetime(2026, 1, 20, 12, tzinfo=UTC)


class Bench:
    """Events that run against a server, at a time that stands still."""

    def __init__(self, server: ApiServer) -> None:
        self.server, self.now = server, NOON
        self.events = Events(Api(), "agent", "node-a", lambda: self.now)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.events.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, found: Callable[[], object]) -> Any:
        async with asyncio.timeout(20):
            while not (answer := found()):  # nothing tells when a counter moves
                await asyncio.sleep(0.01)
            return answer

    def stored(self) -> list[dict[str, Any]]:
        return self.server.objects("events")

    async def settled(self, *counts: int) -> list[dict[str, Any]]:
        """The events once they have these counts."""
        await self.until(lambda: sorted(e["count"] for e in self.stored()) == sorted(counts))
        return self.stored()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with ApiServer() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "config")))
        server.create("namespaces", {"metadata": {"name": "team"}})
        yield Bench(server)


async def test_an_event_stands_where_kubectl_looks_for_it(bench: Bench) -> None:
    bench.events.say(POD, "GrantRefused", "no room", warning=True)
    async with bench.running():
        (stored,) = await bench.settled(1)
    assert stored["metadata"]["namespace"] == "team"
    assert stored["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": "p",
        "uid": "uid-1",
        "namespace": "team",
    }
    assert (stored["reason"], stored["message"]) == ("GrantRefused", "no room")
    assert stored["type"] == "Warning"
    assert stored["source"] == {"component": "agent", "host": "node-a"}
    assert stored["firstTimestamp"] == stored["lastTimestamp"] == "2026-01-20T12:00:00Z"


async def test_a_node_has_its_events_in_the_namespace_default(bench: Bench) -> None:
    bench.events.say(Subject.node("node-a"), "DeviceRecovered", "it is well", warning=False)
    async with bench.running():
        (stored,) = await bench.settled(1)
    assert stored["metadata"]["namespace"] == "default"
    assert stored["involvedObject"]["uid"] == "node-a"  # as kubelet calls it
    assert "namespace" not in stored["involvedObject"]
    assert stored["type"] == "Normal"


async def test_what_happens_again_is_counted_up_in_one_event(bench: Bench) -> None:
    async with bench.running():
        bench.events.say(POD, "A", "same", warning=True)
        await bench.settled(1)
        bench.now += timedelta(minutes=1)
        for _ in range(5):
            bench.events.say(POD, "A", "same", warning=True)
        (stored,) = await bench.settled(6)
        assert stored["firstTimestamp"] == "2026-01-20T12:00:00Z"
        assert stored["lastTimestamp"] == "2026-01-20T12:01:00Z"
        patches = [call for call in bench.server.calls if call.verb == "patch"]
        assert len(patches) == 1, "those that waited together are one write"
        for different in (("B", "same", POD), ("A", "other", POD), ("A", "same", _named("q"))):
            reason, message, about = different
            bench.events.say(about, reason, message, warning=True)
        await bench.settled(6, 1, 1, 1)


def _named(name: str) -> Subject:
    return Subject.pod("team", name, f"uid-{name}")


@pytest.mark.parametrize("why", ["expired", "forbidden"])
async def test_what_cannot_be_counted_up_is_told_anew(bench: Bench, why: str) -> None:
    """Events last an hour; and HAMi's own roles let nobody change them."""
    async with bench.running():
        bench.events.say(POD, "A", "same", warning=True)
        (stored,) = await bench.settled(1)
        if why == "expired":
            bench.server.delete("events", stored["metadata"]["name"], "team")
        else:
            bench.server.faults.deny.add(("patch", "events"))
        bench.events.say(POD, "A", "same", warning=True)
        await bench.settled(*([1] if why == "expired" else [1, 1]))
        await bench.until(
            lambda: {e["metadata"]["name"] for e in bench.stored()} - {stored["metadata"]["name"]}
        )
    assert bench.events.dropped == 0


async def test_a_server_that_is_away_costs_the_events_and_nothing_else(bench: Bench) -> None:
    bench.server.stop()
    async with bench.running():
        for number in range(3):
            bench.events.say(_named(f"p{number}"), "A", "lost", warning=True)
        await bench.until(lambda: bench.events.dropped == 3)
        bench.server.start()
        bench.events.say(POD, "A", "heard", warning=True)
        (stored,) = await bench.settled(1)
    assert stored["message"] == "heard"


async def test_a_queue_that_is_full_takes_no_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 2)
    for number in range(4):
        bench.events.say(_named(f"p{number}"), "A", "text", warning=True)
    bench.events.say(_named("p0"), "A", "text", warning=True)  # waits already: counted up
    assert bench.events.dropped == 2
    async with bench.running():
        await bench.settled(2, 1)


async def test_so_many_are_remembered_and_no_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_REMEMBERED", 1)
    async with bench.running():
        for name in ("a", "b", "b", "a"):
            before = len(bench.server.calls)
            bench.events.say(_named(name), "A", "text", warning=True)
            await bench.until(lambda: len(bench.server.calls) > before)  # noqa: B023
        await bench.settled(1, 2, 1)


@pytest.mark.parametrize("text", ["x" * 5000, "ä" * 5000, "\ud800" + "x" * 5000])
def test_a_message_is_no_longer_than_the_api_server_takes(text: str) -> None:
    body = event(POD, "A", text, NOON, warning=True, component="agent")
    message = str(body["message"])
    assert 990 <= len(message.encode()) <= 1000


async def test_names_of_the_longest_objects_are_taken(bench: Bench) -> None:
    bench.events.say(_named("p" * 253), "A", "text", warning=True)
    async with bench.running():
        (stored,) = await bench.settled(1)
    assert len(stored["metadata"]["name"]) <= 253
