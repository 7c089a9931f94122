"""Metrics made anew at every scrape, under HAMi's names of either age."""

from __future__ import annotations

import enum
import platform
import sys
from collections.abc import Sequence

from prometheus_client.core import GaugeMetricFamily

__all__ = ["ZONE", "Labels", "Names", "Series", "build_info"]

ZONE = "vGPU"
"""The label that HAMi puts on everything."""

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Machines as Go calls them."""

Labels = tuple[str, ...]


class Names(enum.Enum):
    """Whose metric names to use (hami-nvidia-node.md 7.4, 7.6, hami-scheduler.md 7); they do not
    collide.
    """

    V2_8 = "v2.8"
    V2_9 = "v2.9"
    BOTH = "both"

    @property
    def old(self) -> bool:
        """Whether those of 2.8 are told."""
        return self is not Names.V2_9

    @property
    def new(self) -> bool:
        """Whether those of 2.9 are told."""
        return self is not Names.V2_8


class Series:
    """One metric, of which no two series are equal."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self.metric = GaugeMetricFamily(name, text, labels=labels)
        self.conflicts = 0
        self._seen: set[Labels] = set()

    def add(self, labels: Labels, value: float | None) -> None:
        """A series, unless there is no value."""
        if value is None:
            return
        if not all(map(str.isascii, labels)):
            labels = tuple(text.encode("utf-8", "replace").decode() for text in labels)
        if labels in self._seen:
            self.conflicts += 1
            return
        self._seen.add(labels)
        self.metric.add_metric(labels, value)


def build_info(version: str, revision: str = "", build_date: str = "") -> Series:
    """``hami_build_info``, as every component of HAMi tells it."""
    labels = ("version", "revision", "build_date", "go_version", "compiler", "platform")
    text = "hami build metadata exposed as labels with a constant value of 1."
    series = Series("hami_build_info", text, labels)
    machine = platform.machine()
    place = f"{sys.platform}/{ARCHITECTURES.get(machine, machine)}"
    python = f"python{platform.python_version()}"
    series.add((version, revision, build_date, python, sys.implementation.name, place), 1)
    return series
