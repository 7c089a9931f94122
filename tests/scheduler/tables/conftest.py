"""What tables need beside the scheduler of one vendor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deviceplugin import registry


@pytest.fixture
async def every_vendor(bench: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """A scheduler that serves all vendors, as `bench`."""
    (root := tmp_path / "all").mkdir()
    backends = [
        backend
        for name, vendor in registry.load().vendors.items()
        if name != "mock"
        for backend in registry.load_scheduling(vendor, {})
    ]
    found = type(bench)(root, backends)
    yield found
    await found.close()
