"""The monitor's figures beside their targets.

One scrape is what a GET of /metrics costs the agent, without the socket: from the question to the
registry until the text is there, all regions read anew. Every container has its own region file
with two processes on one device, below a directory of this machine's temporary files; the figure is
the median of several. The step of the feedback loop reads the same files and writes what changes.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.core import CollectorRegistry

from deviceplugin.monitor import HostDevice, Monitor, MonitoredContainer, MonitoredDevice
from deviceplugin.testing.libvgpu import FakeProcess, FakeRegion

MIB = 1 << 20
ROUNDS = 15
CARDS = [f"GPU-{n:08d}-5c87-89ac-b1a6-7b53aa24b0ec" for n in range(8)]


def row(what: str, figure: str, target: str) -> None:
    print(f"{what:<58} {figure:>22}   target {target}", flush=True)


def milliseconds(call: Callable[[], object]) -> float:
    values = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        values.append((time.perf_counter() - started) * 1000)
    return statistics.median(values)


def containers(root: Path, count: int) -> list[MonitoredContainer]:
    found = []
    for number in range(count):
        uid, uuid = f"00000000-0000-4000-8000-{number:012d}", CARDS[number % len(CARDS)]
        directory = root / f"{uid}_main"
        directory.mkdir()
        (directory / "libvgpu.so").touch()
        processes = [FakeProcess(pid, 1000 + pid, 1, {0: (MIB, MIB, 256 * MIB)}) for pid in (1, 2)]
        region = FakeRegion(
            uuids=[uuid],
            memory=[3000 * MIB],
            cores=[30] * 16,
            processes=processes,
            last_kernel_time=int(time.time()),
        )
        region.write(directory / f"{uid}.cache")
        device = MonitoredDevice(0, uuid, 3000, 30)
        pod = f"pod-{number}"
        found.append(MonitoredContainer("default", pod, uid, "main", directory.name, (device,), 1))
    return found


def measure(count: int, scrape_target: str) -> None:
    root = Path(tempfile.mkdtemp(prefix="dpm-", dir="/tmp"))
    try:
        known = containers(root, count)
        cards = [
            HostDevice(uuid, str(n), "NVIDIA-Bench", 1.0, 50.0, 8.0) for n, uuid in enumerate(CARDS)
        ]
        monitor = Monitor(root, lambda: known, lambda: cards, "node")
        registry = CollectorRegistry()
        registry.register(monitor)
        text = generate_latest(registry)
        series = sum(not line.startswith(b"#") for line in text.splitlines())
        figure = milliseconds(lambda: generate_latest(registry))
        row(f"scrape, {count} containers, {series} series", f"{figure:.1f} ms", scrape_target)
        figure = milliseconds(monitor.feedback_once)
        row(f"step of the feedback loop, {count} containers", f"{figure:.1f} ms", "none, every 5 s")
    finally:
        shutil.rmtree(root)


measure(64, "<= 30 ms")
measure(1000, "<= 300 ms")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
row("peak memory of this program, 1,000 containers", f"{peak:.1f} MiB", "none")
