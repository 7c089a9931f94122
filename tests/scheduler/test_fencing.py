"""No write of a leader outlives its leadership."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from deviceplugin.apiserver.client import MERGE_PATCH, ApiError, Path
from deviceplugin.scheduler.fencing import FencedApi

LATE = {"metadata": {"labels": {"late": "yes"}}}


async def test_who_does_not_lead_writes_nothing(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a"))
    fenced = FencedApi(bench.api(), make.leading(0))
    with pytest.raises(ApiError, match="replica-b") as patched:
        await fenced.patch(Path.node("a"), LATE, MERGE_PATCH)
    with pytest.raises(ApiError, match="no longer leads") as created:
        await fenced.create(Path("/api/v1/nodes", {}), make.node("b"))
    assert not patched.value.is_ambiguous
    assert not created.value.is_ambiguous
    assert bench.server.calls == []
    assert (await fenced.get(Path.node("a")))["metadata"]["name"] == "a"


async def test_a_write_that_the_server_did_not_do_in_time_is_not_done_later(
    bench: Any, make: Any
) -> None:
    bench.server.create("nodes", make.node("a"))
    fenced = FencedApi(bench.api(), make.leading(0.5))
    hang = bench.server.faults.hang = threading.Event()
    with pytest.raises(ApiError) as refused:
        await fenced.patch(Path.node("a"), LATE, MERGE_PATCH)
    assert refused.value.is_ambiguous
    await asyncio.sleep(0.3)  # the server counts from when it received the request
    hang.set()
    await bench.until(lambda: bench.server.calls)
    assert [call.status for call in bench.server.calls] == [504]
    assert "late" not in bench.server.get("nodes", "a")["metadata"].get("labels", {})
