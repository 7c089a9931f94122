"""A watch of a directory outlives the directory."""

from __future__ import annotations

import asyncio
from pathlib import Path

from deviceplugin.directorywatch import DirectoryWatch


async def test_a_directory_that_is_replaced_or_comes_late_is_watched(tmp_path: Path) -> None:
    changed = asyncio.Event()
    late = tmp_path / "late"
    watching = asyncio.create_task(DirectoryWatch(changed.set, late).run(poll=0.05))

    async def noticed(what: Path) -> None:
        await asyncio.sleep(0.2)
        changed.clear()
        what.touch()
        async with asyncio.timeout(10):
            await changed.wait()

    try:
        late.mkdir()
        await noticed(late / "one")
        late.rename(tmp_path / "away")
        late.mkdir()
        await noticed(late / "two")
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
