"""What is known of a cluster is set aside from the garbage collector, and no garbage stays."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Iterator

import pytest

from deviceplugin.scheduler import garbage


class Cycle:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


async def until(condition: object) -> None:
    async with asyncio.timeout(60):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def test_nothing_is_set_aside_before_the_cluster_is_known_and_cycles_go_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(garbage, "SECONDS", 0.01)
    monkeypatch.setattr(garbage, "WHOLE", 2)
    known = False
    gc.unfreeze()
    task = asyncio.create_task(garbage.keep_aside(lambda: known))
    try:
        await asyncio.sleep(0.2)
        assert gc.get_freeze_count() == 0
        cycle = Cycle()
        gone = weakref.ref(cycle)
        known = True
        await until(gc.get_freeze_count)
        del cycle
        await until(lambda: gone() is None)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
