"""The monitor as a whole, over real files."""

from __future__ import annotations

import asyncio
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.core import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from deviceplugin.libvgpu import read_region
from deviceplugin.libvgpu.layouts import LAYOUTS
from deviceplugin.monitor import HostDevice, Monitor, MonitoredContainer, MonitoredDevice, Settings
from deviceplugin.testing.libvgpu import FakeProcess, FakeRegion

MIB = 1 << 20
Make = Callable[..., MonitoredContainer]
Directory = Callable[..., Path]
RegionOf = Callable[..., FakeRegion]


def monitor(root: Path, *containers: MonitoredContainer, **fields: Any) -> Monitor:
    return Monitor(root, lambda: containers, lambda: fields.pop("hosts", ()), "n1", **fields)


def scraped(watched: Monitor) -> dict[tuple[str, ...], float]:
    """The samples by name and label values."""
    registry = CollectorRegistry()
    registry.register(watched)
    text = generate_latest(registry).decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: dict[tuple[str, ...], float], name: str, *labels: str) -> float:
    """The one sample of this name whose labels contain these values."""
    (key,) = [key for key in found if key[0] == name and set(labels) <= set(key)]
    return found[key]


def fields(path: Path) -> tuple[int, int]:
    (region,) = path.glob("*.cache")
    found = read_region(region)
    return found.recent_kernel, found.utilization_switch


def test_a_scrape_reads_every_layout(
    root: Path, container: Make, directory: Directory, region: RegionOf
) -> None:
    owners = [container(number) for number in range(len(LAYOUTS))]
    for owner, layout in zip(owners, LAYOUTS, strict=True):
        process = FakeProcess(pid=1, used={0: (MIB, 0, (2 ** len(layout.name)) * MIB)}, sm={0: 40})
        directory(owner, region(layout=layout, processes=[process], last_kernel_time=1))
    found = scraped(monitor(root, *owners))
    for owner, layout in zip(owners, LAYOUTS, strict=True):
        assert (
            value(found, "vGPU_device_memory_usage_in_bytes", owner.pod)
            == MIB + 2 ** len(layout.name) * MIB
        )
        assert value(found, "vGPU_device_memory_limit_in_bytes", owner.pod) == 3000 * MIB
        assert value(found, "Device_utilization_desc_of_container", owner.pod) == 40
        assert value(found, "deviceplugin_isolation_active", owner.pod) == 1
    assert value(found, "deviceplugin_monitor_containers", "read") == 4


def test_two_containers_of_one_pod_are_told_apart(
    root: Path, container: Make, directory: Directory, region: RegionOf
) -> None:
    first, second = container(container="a"), container(container="b")
    directory(first, region(processes=[FakeProcess(used={0: (0, 0, 1)})]))
    directory(second, region(processes=[FakeProcess(used={0: (0, 0, 2)})]))
    found = scraped(monitor(root, first, second))
    assert value(found, "vGPU_device_memory_usage_in_bytes", "a") == 1
    assert value(found, "vGPU_device_memory_usage_in_bytes", "b") == 2


def test_a_directory_that_nobody_vouches_for_has_no_series(
    root: Path, container: Make, directory: Directory, region: RegionOf
) -> None:
    directory(container(5), region())
    assert not any("pod-5" in key for key in scraped(monitor(root)))


@pytest.mark.parametrize("source", ["containers", "hosts"])
def test_a_source_that_fails_costs_only_what_it_would_have_told(
    root: Path, container: Make, directory: Directory, region: RegionOf, gpu: str, source: str
) -> None:
    directory(container(), region())

    def containers() -> Iterable[MonitoredContainer]:
        yield container()
        if source == "containers":
            raise ConnectionError("no answer")

    def hosts() -> Iterable[HostDevice]:
        if source == "hosts":
            raise RuntimeError("driver hung")
        return [HostDevice(gpu, "0", "t", 1.0, 2.0)]

    found = scraped(Monitor(root, containers, hosts, "n1"))
    assert any("vGPU_device_memory_usage_in_bytes" in key for key in found) == (source == "hosts")
    assert any("HostGPUMemoryUsage" in key for key in found) == (source == "containers")
    part = "containers" if source == "containers" else "host-devices"
    assert value(found, "deviceplugin_monitor_errors_total", part) == 1


def test_the_state_of_every_container_is_counted(
    root: Path, container: Make, directory: Directory, region: RegionOf
) -> None:
    owners = [container(number) for number in range(5)]
    directory(owners[0], region())
    directory(owners[1])
    (directory(owners[2]) / "x.cache").write_bytes(b"junk")
    (directory(owners[3]) / "x.cache").mkdir()
    found = scraped(monitor(root, *owners))
    states = {
        key[1]: count for key, count in found.items() if key[0] == "deviceplugin_monitor_containers"
    }
    assert {state: count for state, count in states.items() if count} == {
        "read": 1,
        "no-region": 2,
        "length": 1,
        "not-a-file": 1,
    }


def test_a_limit_that_is_lost_is_told_when_it_happens_and_when_it_is_over(
    root: Path, container: Make, directory: Directory, region: RegionOf
) -> None:
    watched = monitor(root, container())
    said = []
    for memory in (3000, 0, 0, 3000, 3000):
        directory(container(), region(memory=[memory * MIB]))
        with capture_logs() as logs:
            watched.usages()
        said.append([(entry["log_level"], entry["reason"]) for entry in logs])
    assert said == [[], [("error", "memory-limit-differs")], [], [("info", "limits-hold")], []]


def test_a_file_that_cannot_be_read_is_told_with_its_path(
    root: Path, container: Make, directory: Directory
) -> None:
    (directory(container()) / "x.cache").symlink_to("/etc/shadow")
    with capture_logs() as logs:
        monitor(root, container()).usages()
    assert logs[0]["detail"].startswith(
        f"{root}/{container().cache_dir}/x.cache: it is a symbolic link"
    )


def test_a_step_counts_down_and_lifts_the_limit_of_who_is_alone(
    root: Path, container: Make, directory: Directory, region: RegionOf
) -> None:
    path = directory(container(), region())
    watched = monitor(root, container())
    steps = []
    for _ in range(3):
        watched.feedback_once()
        steps.append(fields(path))
    assert steps == [(1, 0), (0, 0), (0, 0)]
    found = scraped(watched)
    assert value(found, "deviceplugin_monitor_feedback_writes_total", "recent_kernel") == 2
    assert value(found, "deviceplugin_monitor_feedback_writes_total", "utilization_switch") == 1


def test_a_low_priority_waits_while_a_high_one_works(
    root: Path, container: Make, directory: Directory, region: RegionOf
) -> None:
    high, low = container(1, priority=0), container(2, priority=1)
    first, second = directory(high, region()), directory(low, region(recent_kernel=0))
    watched = monitor(root, high, low)
    watched.feedback_once()
    assert (fields(first), fields(second)) == ((1, 0), (-1, 1))
    watched.feedback_once()
    assert (fields(first), fields(second)) == ((0, 0), (0, 0))


def test_a_region_cannot_raise_its_own_priority_or_pretend_to_be_elsewhere(
    root: Path, container: Make, directory: Directory, region: RegionOf, gpu: str
) -> None:
    """Priority and devices are the pod's, not what the tenant's file says."""
    other = gpu.replace("0", "1")
    honest, liar = container(1, priority=1), container(2, MonitoredDevice(0, other), priority=1)
    directory(liar, region(priority=0, uuids=[gpu]))
    path = directory(honest, region())
    monitor(root, honest, liar).feedback_once()
    assert fields(path) == (1, 0)


def test_without_a_priority_of_the_pods_the_regions_counts(
    root: Path, container: Make, directory: Directory, region: RegionOf
) -> None:
    high, low = container(1), container(2)
    directory(high, region(priority=0))
    path = directory(low, region(priority=1))
    monitor(root, high, low).feedback_once()
    assert fields(path) == (-1, 1)


def test_a_container_that_nobody_vouches_for_any_more_is_let_go(
    root: Path, container: Make, directory: Directory, region: RegionOf
) -> None:
    path = directory(container(), region(recent_kernel=-1, utilization_switch=0))
    monitor(root).feedback_once()
    assert fields(path) == (0, 1)


def test_nothing_is_written_while_it_is_not_known_which_containers_there_are(
    root: Path, container: Make, directory: Directory, region: RegionOf
) -> None:
    path = directory(container(), region(recent_kernel=-1))

    def fail() -> Iterable[MonitoredContainer]:
        raise ConnectionError

    assert Monitor(root, fail, list, "n1").feedback_once() == 0
    assert fields(path) == (-1, 1)


def test_without_feedback_nobody_waits_and_limits_hold(
    root: Path, container: Make, directory: Directory, region: RegionOf
) -> None:
    high, low = container(1, priority=0), container(2, priority=1)
    directory(high, region())
    path = directory(low, region(recent_kernel=-1, utilization_switch=0))
    monitor(root, high, low, settings=Settings(feedback=False)).feedback_once()
    assert fields(path) == (0, 1)


def test_a_hostile_directory_does_not_keep_others_from_their_step(
    root: Path, container: Make, directory: Directory, region: RegionOf
) -> None:
    (directory(container(1)) / "x.cache").symlink_to("/etc/shadow")
    path = directory(container(2), region())
    assert monitor(root, container(1), container(2)).feedback_once() == 2
    assert fields(path) == (1, 0)


def test_the_root_may_be_missing(tmp_path: Path, container: Make) -> None:
    watched = monitor(tmp_path / "none", container())
    assert watched.feedback_once() == 0
    assert watched.release() == 0
    assert value(scraped(watched), "vGPU_device_memory_limit_in_bytes") == 3000 * MIB


def test_a_root_that_is_no_directory_is_counted_and_logged(tmp_path: Path, container: Make) -> None:
    (tmp_path / "root").touch()
    watched = monitor(tmp_path / "root", container())
    with capture_logs() as logs:
        assert watched.feedback_once() == 0
        assert watched.release() == 0
        watched.collect_garbage(set())
    assert [entry["part"] for entry in logs] == ["feedback", "feedback", "garbage"]
    found = scraped(watched)
    assert value(found, "deviceplugin_monitor_errors_total", "feedback") == 2


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.005)


async def test_the_loop_keeps_priorities_and_lets_everybody_go_at_its_end(
    root: Path, container: Make, directory: Directory, region: RegionOf
) -> None:
    high, low = container(1, priority=0), container(2, priority=1)
    busy, path = directory(high, region(recent_kernel=1_000_000)), directory(low, region())
    main = threading.get_ident()
    threads = set()

    def containers() -> Iterable[MonitoredContainer]:
        threads.add(threading.get_ident())
        (file,) = busy.glob("*.cache")
        with file.open("rb+") as opened:
            opened.seek(2008904)
            opened.write(struct.pack("<i", 2))  # it never rests
        return [high, low]

    watched = Monitor(root, containers, list, "n1", settings=Settings(feedback_seconds=0.01))
    task = asyncio.create_task(watched.run())
    await asyncio.wait_for(until(lambda: fields(path) == (-1, 1)), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fields(path) == (0, 1)
    assert fields(busy)[1] == 1
    assert main not in threads


async def test_a_step_that_is_under_way_at_the_end_writes_nothing_behind_the_release(
    root: Path, container: Make, directory: Directory, region: RegionOf
) -> None:
    high, low = container(1, priority=0), container(2, priority=1)
    directory(high, region())
    path = directory(low, region())
    asked, answer = threading.Event(), threading.Event()

    def containers() -> Iterable[MonitoredContainer]:
        asked.set()
        answer.wait(10)
        return [high, low]

    watched = Monitor(root, containers, list, "n1")
    task = asyncio.create_task(watched.run())
    await asyncio.wait_for(until(asked.is_set), 10)
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    answer.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fields(path) == (0, 1)


async def test_the_loop_survives_whatever_happens_in_a_step(
    root: Path,
    container: Make,
    directory: Directory,
    region: RegionOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = directory(container(), region())
    watched = monitor(root, container(), settings=Settings(feedback_seconds=0.01))
    real, calls = watched.feedback_once, []

    def once() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise MemoryError
        return real()

    monkeypatch.setattr(watched, "feedback_once", once)
    with capture_logs():
        task = asyncio.create_task(watched.run())
        await asyncio.wait_for(until(lambda: fields(path) == (0, 0)), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert value(scraped(watched), "deviceplugin_monitor_errors_total", "feedback") == 2


def test_a_thousand_containers_are_scraped_without_a_descriptor_left(
    root: Path, container: Make, directory: Directory, region: RegionOf
) -> None:
    owners = [container(number) for number in range(1000)]
    for number, owner in enumerate(owners):
        directory(owner, region(processes=[FakeProcess(used={0: (0, 0, number)})]))
    watched = monitor(root, *owners)
    before = len(list(Path("/proc/self/fd").iterdir()))
    found = scraped(watched)
    used = {key for key in found if key[0] == "vGPU_device_memory_usage_in_bytes"}
    assert len(used) == 1000
    assert sum(found[key] for key in used) == sum(range(1000))
    assert watched.feedback_once() == 1000  # all count down; all share a GPU and stay limited
    # What tests before this one left to the garbage collector may go meanwhile.
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_scrapes_beside_each_other_and_beside_the_loop_do_not_disturb(
    root: Path, container: Make, directory: Directory, region: RegionOf
) -> None:
    owners = [container(number) for number in range(20)]
    for owner in owners:
        directory(owner, region())
    watched, failures = monitor(root, *owners), []

    def work() -> None:
        try:
            for _ in range(5):
                assert value(scraped(watched), "deviceplugin_monitor_containers", "read") == 20
                watched.feedback_once()
                watched.collect_garbage(set())
        except Exception as error:  # it must reach the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def loaded(*modules: str) -> set[str]:
    """Everything that is loaded after importing these in a fresh interpreter."""
    program = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return set(run.stdout.split())


def test_the_monitor_is_light_and_knows_no_vendor_and_no_cluster() -> None:
    found = loaded("deviceplugin.log", "deviceplugin.monitor")
    heavy = {"kubernetes", "pydantic", "aiohttp", "numpy", "grpc", "yaml", "rich", "click"}
    assert not heavy & found
    ours = {name.split(".")[1] for name in found if name.startswith("deviceplugin.")}
    assert ours == {"libvgpu", "log", "monitor", "series", "version"}


def test_the_library_imports_nothing_of_ours() -> None:
    found = loaded("deviceplugin.libvgpu")
    ours = {name.split(".")[1] for name in found if name.startswith("deviceplugin.")}
    assert ours == {"libvgpu", "version"}  # the latter by the package itself
    assert not {"prometheus_client", "structlog"} & found
