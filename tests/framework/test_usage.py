"""How busy devices are is known for a while, and then it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from deviceplugin.usage import Usages
from deviceplugin.vendor import Usage

A, B = Usage("a", 1.0), Usage("b", 2.0)


class Timers:
    """The loop's timers, which only the test lets expire."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: list[tuple[float, Callable[[], Any]]] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", self._later)

    def _later(self, seconds: float, call: Callable[[], Any]) -> Any:
        entry = (seconds, call)
        self.waiting.append(entry)

        def cancel() -> None:
            self.waiting = [other for other in self.waiting if other is not entry]

        return SimpleNamespace(cancel=cancel)

    def expire(self) -> None:
        expired, self.waiting = self.waiting, []
        for _, call in expired:
            call()


@pytest.fixture
async def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    return Timers(monkeypatch)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
async def usages(timers: Timers, told: list[str]) -> Usages:
    return Usages(25.0, told.append)


async def test_a_reading_replaces_the_former_one_whole(usages: Usages, told: list[str]) -> None:
    usages.seen([A, B])
    assert usages.newest == {"a": A, "b": B}
    usages.seen([B])
    assert usages.newest == {"b": B}
    assert told == []


async def test_a_reading_that_nobody_followed_is_forgotten(
    usages: Usages, timers: Timers, told: list[str]
) -> None:
    usages.seen([A])
    usages.seen([A])
    assert [seconds for seconds, _ in timers.waiting] == [25.0]
    timers.expire()
    assert usages.newest == {}
    assert told == ["no reading for 25 s"]


async def test_a_first_reading_that_never_comes_is_told(
    usages: Usages, timers: Timers, told: list[str]
) -> None:
    usages.expect()
    usages.expect()
    assert len(timers.waiting) == 1
    timers.expire()
    assert told == ["no reading for 25 s"]
    usages.seen([A])
    assert usages.newest == {"a": A}


async def test_a_failed_reading_leaves_nothing_known(
    usages: Usages, timers: Timers, told: list[str]
) -> None:
    usages.seen([A])
    usages.unknown("no licence")
    assert usages.newest == {}
    assert told == ["no licence"]
    assert len(timers.waiting) == 1


async def test_after_forgetting_nobody_waits(
    usages: Usages, timers: Timers, told: list[str]
) -> None:
    usages.seen([A])
    usages.forget()
    assert usages.newest == {}
    assert timers.waiting == []
    assert told == []
