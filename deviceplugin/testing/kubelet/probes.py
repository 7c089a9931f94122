"""What the embedded kubelet does to a plugin that a kubelet in good order would not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

from deviceplugin.testing.kubelet.findings import Finding
from deviceplugin.testing.kubelet.manager import DeviceManager

Wait = Callable[[Callable[[], object], float], Awaitable[None]]
"""Waits so many seconds for a condition, and raises `TimeoutError`."""


async def probe_stream(
    manager: DeviceManager,
    resource: str,
    change: Callable[[], Awaitable[object]],
    wait: Wait,
    *,
    timeout: float,
    quiet: float,
) -> Iterator[Finding]:
    """Cancel a plugin's stream, open another, `change` a device, and look for one update (rule 13).

    The second stream must begin with the list as it was; of the change one list must come, and
    nothing more while it is `quiet`. Raises `KeyError` when no plugin is connected.
    """
    registry, table = manager.registry, manager.table

    async def received(count: int) -> bool:
        with contextlib.suppress(TimeoutError):
            await wait(lambda: registry.received[resource] >= count, timeout)
        return registry.received[resource] >= count

    found: list[str] = []
    before = table.listed.get(resource, {})
    await registry.swap_stream(resource)
    if not await received(1):
        return _thirteen("the second stream got no list")
    if table.listed[resource] != before:
        found.append("the second stream began with another list")
    await change()
    if not await received(2):
        return _thirteen(*found, "the change of a device was lost")
    await asyncio.sleep(quiet)
    if (lists := registry.received[resource] - 1) > 1:
        found.append(f"one change of a device brought {lists} lists")
    return _thirteen(*found)


def _thirteen(*texts: str) -> Iterator[Finding]:
    return (Finding(13, text) for text in texts)
