"""The page for people and the scrape name the same metrics and states."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deviceplugin.libvgpu import Reason
from deviceplugin.monitor import HostDevice, Monitor, Settings
from deviceplugin.monitor.usage import STATES
from deviceplugin.series import Names

PAGE = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()


def test_every_metric_is_on_the_page_and_every_one_there_exists(
    root: Path, container: Callable[..., Any], gpu: str
) -> None:
    hosts = [
        HostDevice(gpu, "0", "t", 1.0, 2.0, 3.0, 4.0),
        HostDevice("part", "0:0", "t", 1.0, partition=True),
    ]
    monitor = Monitor(
        root, lambda: [container()], lambda: hosts, "n1", settings=Settings(Names.BOTH)
    )
    told = {f"{m.name}_total" if m.type == "counter" else m.name for m in monitor.scrape()}
    tables = "\n".join(line for line in _without_events(PAGE) if line.startswith("|"))
    pattern = r"`((?:hami|deviceplugin|vGPU|Device|Host)_?[A-Za-z_]+|MigInfo)(?:\{[a-z_,]*\})?`"
    on_page = set(re.findall(pattern, tables))
    assert on_page == told


def _without_events(page: str) -> list[str]:
    """Reasons of events stand in a table of their own."""
    before, _, rest = page.partition("\n## Events\n")
    return (before + rest.partition("\n## ")[2]).splitlines()


def test_every_reason_and_state_is_explained() -> None:
    for word in (*(reason.value for reason in Reason), *STATES):
        assert f"`{word}`" in PAGE
