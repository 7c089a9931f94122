"""Whatever a child process does, the supervisor tells what, kills it in time and starts it again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.probe import supervisor
from deviceplugin.probe.supervisor import (
    Probe,
    ProbeEvent,
    ProbeFailed,
    SnapshotSeen,
    Timing,
    UsageSeen,
    UsageUnknown,
)
from deviceplugin.vendor import DriverError, Usage, Vendor, VendorSettings

VENDOR = Vendor("acme", "acme_node:Node", "acme.example.com/gpu")
FAST = Timing(interval=0.1, deadline=5.0, backoff_first=0.01, backoff_most=0.02, stop=5.0)

SAYS = """
import json, os, signal, sys, time
sys.stdin.readline()
def say(kind, **content):
    sys.stdout.write(json.dumps({"type": kind, **content}) + "\\n")
    sys.stdout.flush()
"""


class Watched:
    """A probe with the events that it told."""

    def __init__(self, timing: Timing, python: str = sys.executable) -> None:
        self.events: list[ProbeEvent] = []
        self.probe = Probe(VENDOR, VendorSettings(), timing, self._seen, python=python)
        self.task = asyncio.create_task(self.probe.run())

    async def _seen(self, event: ProbeEvent) -> None:
        self.events.append(event)

    async def until(self, condition: Callable[[ProbeEvent], bool], count: int = 1) -> ProbeEvent:
        async with asyncio.timeout(20):
            while len(found := [e for e in self.events if condition(e)]) < count:
                assert not self.task.done(), self.task
                await asyncio.sleep(0.01)
        return found[count - 1]

    async def failed(self, cause: str, count: int = 1) -> str:
        event = await self.until(lambda e: isinstance(e, ProbeFailed) and e.cause == cause, count)
        assert isinstance(event, ProbeFailed)
        return event.reason


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Watched]]:
    """Start a probe whose child is this script, or the real child with this node half."""
    started: list[Watched] = []

    def begin(script: str, timing: Timing = FAST) -> Watched:
        program = tmp_path / "child"
        program.write_text(f"#!{sys.executable}\n{SAYS}{textwrap.dedent(script)}")
        program.chmod(0o755)
        started.append(Watched(timing, str(program)))
        return started[-1]

    yield begin
    for watched in started:
        await stopped(watched)


async def stopped(watched: Watched) -> None:
    watched.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watched.task


Start = Callable[..., Watched]


@pytest.mark.parametrize(
    ("script", "cause", "words"),
    [
        ("print('{', flush=True)", "garbage", "not JSON"),
        ("print('[1]', flush=True)", "garbage", "without a type"),
        ("sys.stdout.buffer.write(b'\\xff\\xfe\\n'); sys.stdout.flush()", "garbage", "not JSON"),
        ("say('unchanged')", "garbage", "unexpected"),
        ("say('surprise')", "garbage", "surprise"),
        ("say('snapshot', snapshot={'devices': [{'uuid': 1}]})", "garbage", "devices[0].uuid"),
        ("sys.stdout.write('x' * 9_000_000); sys.stdout.flush(); time.sleep(60)", "garbage", ""),
        ("sys.exit(3)", "crash", "status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crash", "signal 11"),
        ("sys.stderr.write('no ioctl\\n'); sys.exit(1)", "crash", "no ioctl"),
        (
            'sys.stdout.write(\'{"type": "snap\'); sys.stdout.flush(); os.kill(os.getpid(), 9)',
            "crash",
            "signal 9",
        ),
    ],
)
async def test_each_end_has_its_cause_and_is_followed_by_another_try(
    start: Start, script: str, cause: str, words: str
) -> None:
    watched = start(script)
    assert words in await watched.failed(cause, count=2)
    assert watched.probe.restarts >= 1


async def test_a_hanging_discovery_is_killed_at_its_deadline(start: Start) -> None:
    watched = start("say('discovering'); time.sleep(600)", Timing(0.1, 0.3, 0.01, 0.02))
    assert "0.3 s" in await watched.failed("deadline", count=2)


async def test_settings_that_nobody_reads_do_not_outlast_the_deadline(
    tmp_path: Path, start: Start
) -> None:
    watched = start("", Timing(0.1, 0.3, 0.01, 0.02))
    await stopped(watched)
    program = tmp_path / "child"
    program.write_text("#!/bin/sh\nsleep 600\n")
    big = VendorSettings(section={"filler": "x" * 1_000_000})
    events: list[ProbeEvent] = []

    async def seen(event: ProbeEvent) -> None:
        events.append(event)

    probe = Probe(VENDOR, big, Timing(0.1, 0.3, 0.01, 0.02), seen, python=str(program))
    task = asyncio.create_task(probe.run())
    async with asyncio.timeout(20):
        while not events:
            await asyncio.sleep(0.01)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert isinstance(events[0], ProbeFailed)
    assert events[0].cause == "deadline"


async def test_a_grandchild_that_keeps_the_pipes_delays_nobody(start: Start) -> None:
    watched = start(
        """
        import subprocess
        subprocess.Popen(['sleep', '30'], start_new_session=True, stdout=subprocess.DEVNULL)
        sys.exit(4)
        """
    )
    assert "status 4" in await watched.failed("crash", count=2)


async def test_what_the_child_started_ends_with_it(start: Start, tmp_path: Path) -> None:
    watched = start(
        f"""
        import subprocess
        helper = subprocess.Popen(['sleep', '600'])
        open({str(tmp_path / "pid")!r}, 'w').write(str(helper.pid))
        say('snapshot', snapshot={{}})
        time.sleep(600)
        """
    )
    await watched.until(lambda e: isinstance(e, SnapshotSeen))
    helper = int((tmp_path / "pid").read_text())
    await stopped(watched)
    async with asyncio.timeout(10):
        while _lives(helper):
            await asyncio.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_child_that_cannot_be_started_is_a_failed_probe_and_tried_again(
    tmp_path: Path,
) -> None:
    watched = Watched(FAST, str(tmp_path / "no-such-python"))
    assert "cannot be started" in await watched.failed("crash", count=2)
    await stopped(watched)


async def test_a_child_that_even_kill_does_not_end_is_told_again_and_not_joined_by_another(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = True
    reaped = supervisor._reaped

    async def hanging(process: Any, limit: float) -> bool:
        if stuck:
            await asyncio.sleep(0.01)
            return False
        return await reaped(process, limit)

    monkeypatch.setattr(supervisor, "_reaped", hanging)
    watched = start("say('snapshot', snapshot={}); sys.exit(1)")
    assert "cannot be killed" in await watched.failed("deadline", count=3)
    assert watched.probe.restarts == 0
    stuck = False
    await watched.until(lambda e: isinstance(e, SnapshotSeen), 2)


async def test_back_off_grows_and_starts_anew_after_a_success(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counter = tmp_path / "count"
    watched = start(
        f"""
        from pathlib import Path
        path = Path({str(counter)!r})
        n = int(path.read_text()) if path.exists() else 0
        path.write_text(str(n + 1))
        if n == 3:
            say('snapshot', snapshot={{}})
        sys.exit(1)
        """,
        Timing(0.1, 5.0, 0.017, 0.6),
    )
    delays: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        if seconds not in (0.01, supervisor.REAP_POLL_SECONDS):
            delays.append(seconds)
        await sleep(min(seconds, 0.01))

    monkeypatch.setattr(supervisor.asyncio, "sleep", noted)
    await watched.failed("crash", count=6)
    assert delays[:5] == [0.017, 0.034, 0.068, 0.017, 0.034]


async def test_stopping_at_any_moment_leaves_no_process(start: Start) -> None:
    for turns in range(0, 12, 2):
        watched = start("say('discovering'); time.sleep(600)")
        for _ in range(turns):
            await asyncio.sleep(0.005)
        pid = watched.probe.pid
        await stopped(watched)
        assert watched.probe.pid is None
        assert pid is None or not _lives(pid)


NODE = """
import time
from deviceplugin.vendor import PhysicalDevice, Snapshot

class Node:
    def __init__(self, settings):
        self.seen = 0
    def discover(self):
        self.seen += 1
        return Snapshot((PhysicalDevice("u", "0", f"seen {self.seen}"),))
    def edits(self, grants, owner):
        raise NotImplementedError
    def partition(self, request):
        time.sleep(request["seconds"])
        return {"odd": {1, 2}} if request.get("odd") else {"uuid": "p"}
    def release(self, request):
        pass
"""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real child finds the node half ``acme_node:Node``."""
    (tmp_path / "acme_node.py").write_text(NODE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


async def test_a_long_command_is_waited_for_and_a_late_discovery_forgiven(node: None) -> None:
    watched = Watched(Timing(interval=0.1, deadline=3.0, backoff_first=0.01, backoff_most=0.02))
    await watched.until(lambda e: isinstance(e, SnapshotSeen))
    answer = await watched.probe.command("partition", {"seconds": 4}, 30)
    assert answer == {"uuid": "p"}
    assert not [e for e in watched.events if isinstance(e, ProbeFailed)]
    await stopped(watched)


async def test_discoveries_go_on_however_many_commands_come(node: None) -> None:
    watched = Watched(Timing(interval=0.2, deadline=5.0, backoff_first=0.01, backoff_most=0.02))
    await watched.until(lambda e: isinstance(e, SnapshotSeen))
    before = len(watched.events)
    async with asyncio.timeout(20):
        while len(watched.events) < before + 3:
            await watched.probe.command("partition", {"seconds": 0.05}, 5)
    await stopped(watched)


async def test_an_answer_that_is_no_json_is_an_error_of_that_command_alone(node: None) -> None:
    watched = Watched(FAST)
    await watched.until(lambda e: isinstance(e, SnapshotSeen))
    pid = watched.probe.pid
    with pytest.raises(DriverError, match="JSON"):
        await watched.probe.command("partition", {"seconds": 0, "odd": True}, 5)
    assert await watched.probe.command("release", {}, 5) == {}
    assert watched.probe.pid == pid
    await stopped(watched)


async def test_a_child_killed_in_a_command_ends_the_wait_for_it(node: None) -> None:
    watched = Watched(FAST)
    await watched.until(lambda e: isinstance(e, SnapshotSeen))
    command = asyncio.create_task(watched.probe.command("partition", {"seconds": 60}, 60))
    await asyncio.sleep(0.1)
    pid = watched.probe.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(DriverError, match="ended before"):
        await command
    await stopped(watched)


@pytest.mark.parametrize("wrong", ["None", "Snapshot((None,))", "Snapshot(attributes={'a': b''})"])
async def test_a_snapshot_that_cannot_be_told_is_a_failed_discovery(
    tmp_path: Path, node: None, wrong: str
) -> None:
    (tmp_path / "acme_node.py").write_text(
        NODE.replace(
            'return Snapshot((PhysicalDevice("u", "0", f"seen {self.seen}"),))', f"return {wrong}"
        )
    )
    watched = Watched(FAST)
    assert "discovery raised" in await watched.failed("error", count=2)
    assert watched.probe.restarts == 0
    await stopped(watched)


BUSY = Timing(interval=0.1, deadline=5.0, backoff_first=0.01, backoff_most=0.02, usage=0.05)

READER = """
    def usage(self, snapshot):
        return [Usage(device.uuid, 7.5, None, 3) for device in snapshot.devices]
"""


def reading(method: str) -> str:
    """The node half with another way to say how busy its devices are."""
    return NODE.replace("import PhysicalDevice", "import PhysicalDevice, Usage") + method


async def test_readings_come_beside_discoveries(tmp_path: Path, node: None) -> None:
    (tmp_path / "acme_node.py").write_text(reading(READER))
    watched = Watched(BUSY)
    seen = await watched.until(lambda e: isinstance(e, UsageSeen), 3)
    assert seen == UsageSeen((Usage("u", 7.5, None, 3.0),))
    await stopped(watched)


async def test_nobody_reads_unasked(tmp_path: Path, node: None) -> None:
    (tmp_path / "acme_node.py").write_text(reading(READER))
    watched = Watched(FAST)
    await watched.until(lambda e: isinstance(e, SnapshotSeen), 3)
    assert not [e for e in watched.events if isinstance(e, UsageSeen | UsageUnknown)]
    await stopped(watched)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("", "does not say how busy"),
        ("    def usage(self, snapshot): raise OSError('no ioctl')", "no ioctl"),
        ("    def usage(self, snapshot): raise SystemExit('replaced')", "replaced"),
        ("    def usage(self, snapshot): return [Usage('u', {1, 2})]", "JSON"),
        ("    def usage(self, snapshot): return [Usage('u', 'full')]", "used_mib"),
        ("    def usage(self, snapshot): return 7", "not iterable"),
    ],
)
async def test_a_failed_reading_costs_nothing_else(
    tmp_path: Path, node: None, method: str, words: str
) -> None:
    (tmp_path / "acme_node.py").write_text(reading(method))
    watched = Watched(BUSY)
    event = await watched.until(lambda e: isinstance(e, UsageUnknown), 2)
    assert isinstance(event, UsageUnknown)
    assert words in event.reason
    await watched.until(lambda e: isinstance(e, SnapshotSeen), 3)
    assert watched.probe.restarts == 0
    await stopped(watched)


async def test_a_reading_that_hangs_keeps_no_discovery_waiting(tmp_path: Path, node: None) -> None:
    (tmp_path / "acme_node.py").write_text(
        reading("    def usage(self, snapshot): time.sleep(600)")
    )
    watched = Watched(BUSY)
    await watched.until(lambda e: isinstance(e, SnapshotSeen), 4)
    assert not [e for e in watched.events if isinstance(e, ProbeFailed)]
    await stopped(watched)


async def test_readings_are_no_sign_of_life_of_discovery(start: Start) -> None:
    watched = start(
        """
        say('discovering')
        while True:
            say('usage', devices=[])
            time.sleep(0.02)
        """,
        Timing(0.1, 0.3, 0.01, 0.02),
    )
    assert "0.3 s" in await watched.failed("deadline")
