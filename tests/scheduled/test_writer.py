"""Writes that nobody waits for are made, and made once."""

from __future__ import annotations

import asyncio

import pytest

from deviceplugin.apiserver.client import ApiError
from deviceplugin.scheduled import writer
from deviceplugin.scheduled.writer import Writer


async def test_a_write_under_way_is_ended_and_only_the_newest_follows() -> None:
    """Events that come faster than a slow server answers must not keep it from being written."""
    calls: list[int] = []
    answered = asyncio.Event()
    writing = Writer()

    async def write(number: int) -> bool:
        calls.append(number)
        await answered.wait()
        return True

    for number in range(5):
        writing.submit("k", lambda number=number: write(number))
        await asyncio.sleep(0)
    answered.set()
    assert await writing.drain(10.0)
    assert calls == [0, 4]


async def test_a_newer_write_does_not_wait_for_the_next_try_of_an_older(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "BACKOFF_FIRST", 3600.0)
    monkeypatch.setattr(writer, "BACKOFF_MOST", 3600.0)
    tried = asyncio.Event()
    writing = Writer()

    async def fail() -> bool:
        tried.set()
        raise ApiError("away")

    async def succeed() -> bool:
        return True

    writing.submit("k", fail)
    await tried.wait()
    await asyncio.sleep(0)
    writing.submit("k", succeed)
    assert await writing.drain(10.0)
