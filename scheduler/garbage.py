"""Python's garbage collector, told what a scheduler's memory is like: much that stays.

By itself it looks through everything again and again, a tenth of a second at a time with 10,000
pods, while filters wait. What is known of the cluster is no garbage: it is set aside (`gc.freeze`)
once a minute, and what of it goes later is freed by its count of references as ever.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

__all__ = ["keep_aside"]

YOUNG = 10_000
"""New objects after which the youngest are looked through; Python's 700 are half a request's."""
NEVER = 1_000_000
SECONDS = 60.0
WHOLE = 60
"""Every so many times everything is looked through, for cycles that became garbage while aside."""


async def keep_aside(known: Callable[[], bool]) -> None:
    """From when the cluster is `known` on, until cancelled."""
    gc.set_threshold(YOUNG, 10, NEVER)
    while not known():  # noqa: ASYNC110 - nothing tells when it is
        await asyncio.sleep(0.1)
    turn = 0
    while True:
        if turn % WHOLE == 0:
            gc.unfreeze()
        gc.collect()
        gc.freeze()
        turn += 1
        await asyncio.sleep(SECONDS)
