"""A Service reaches the replica that leads: its pod says so, and a follower hangs up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from deviceplugin.scheduler.role import FOLLOWER, LEADER, ROLE, RoleLabel
from deviceplugin.scheduler.server import Server

NAMESPACE = "scheduling"
QUICK = 0.005


class Leadership:
    """As a test wants it."""

    def __init__(self) -> None:
        self.leads, self.term = False, 0
        self.holder = "somebody"

    def left(self) -> float:
        return 100.0 if self.leads else 0.0

    def is_leader(self) -> bool:
        return self.leads

    async def run(self) -> None:
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def said(bench: Any, name: str, leading: Leadership) -> AsyncIterator[None]:
    """The replica of a pod runs."""
    label = RoleLabel(bench.api(), leading, NAMESPACE, name, QUICK)
    task = asyncio.create_task(label.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def pods(bench: Any) -> tuple[str, ...]:
    names = ("a", "b", "other")
    for name in names:
        item = {
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"containers": [{"name": "c", "image": "x"}]},
        }
        bench.server.create("pods", item)
    return names


def roles(bench: Any) -> dict[str, str | None]:
    return {
        item["metadata"]["name"]: (item["metadata"].get("labels") or {}).get(ROLE)
        for item in bench.server.objects("pods", NAMESPACE)
    }


async def test_the_label_follows_leadership(bench: Any, pods: tuple[str, ...]) -> None:
    first, second = Leadership(), Leadership()
    async with said(bench, "a", first), said(bench, "b", second):
        await bench.until(lambda: roles(bench) == {"a": FOLLOWER, "b": FOLLOWER, "other": None})
        first.leads = True
        await bench.until(lambda: roles(bench) == {"a": LEADER, "b": FOLLOWER, "other": None})
        first.leads, second.leads = False, True
        await bench.until(lambda: roles(bench) == {"a": FOLLOWER, "b": LEADER, "other": None})


async def test_whoever_begins_to_lead_takes_it_off_one_that_cannot(
    bench: Any, pods: tuple[str, ...]
) -> None:
    bench.server.patch("pods", "a", {"metadata": {"labels": {ROLE: LEADER}}}, NAMESPACE)
    leading = Leadership()
    leading.leads = True
    async with said(bench, "b", leading):
        await bench.until(lambda: roles(bench) == {"a": FOLLOWER, "b": LEADER, "other": None})


async def test_another_term_of_its_own_is_said_anew(bench: Any, pods: tuple[str, ...]) -> None:
    """Between two looks somebody else may have led."""
    leading = Leadership()
    leading.leads = True
    async with said(bench, "a", leading):
        await bench.until(lambda: roles(bench)["a"] == LEADER)
        bench.server.patch("pods", "a", {"metadata": {"labels": {ROLE: FOLLOWER}}}, NAMESPACE)
        leading.term = 1
        await bench.until(lambda: roles(bench)["a"] == LEADER)


async def test_it_is_said_once_the_api_server_lets_it(bench: Any, pods: tuple[str, ...]) -> None:
    bench.server.faults.deny = {("patch", "pods")}
    leading = Leadership()
    leading.leads = True
    async with said(bench, "a", leading):
        await bench.until(lambda: any(call.status == 403 for call in bench.server.calls))
        assert roles(bench)["a"] is None
        bench.server.faults.deny = set()
        await bench.until(lambda: roles(bench)["a"] == LEADER)


@pytest.mark.parametrize("parts", [True, False])
async def test_a_connection_that_reached_a_follower_is_closed(parts: bool) -> None:
    async def answer(_body: bytes) -> bytes:
        return b"{}"

    server = Server({"/filter": answer}, dict, parts=lambda path: parts and path == "/filter")
    await server.start("127.0.0.1:0")
    url = f"http://127.0.0.1:{server.address[1]}/filter"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=b"{}") as response,
    ):
        assert await response.json() == {}
        assert (response.headers.get("Connection") == "close") is parts
    await server.close()
