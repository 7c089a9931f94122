"""NVIDIA's MPS daemons: against a recording of what they are asked, and by the command with fake
programs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.vendor import PhysicalDevice, ResourcePlan, Sharing, Snapshot, Split
from deviceplugin.vendors.nvidia import mps
from deviceplugin.vendors.nvidia.mps import Daemon, Effects, MpsError

RESOURCE = "nvidia.com/gpu.shared"
CARDS = tuple(PhysicalDevice(f"GPU-{i}", str(i), "x", memory_mib=40961) for i in range(2))


class World:
    """Programs that do nothing but remember how they were called; `broken` says which fail."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.environments: list[dict[str, str]] = []
        self.broken: Callable[[str, str], bool] = lambda command, stdin: False
        self.answer = "25.0\n"
        self.alive = True
        self.mounted = False

    def run(self, argv: Sequence[str], env: Mapping[str, str], stdin: str) -> str:
        command = " ".join(argv)
        self.calls.append((command, stdin))
        self.environments.append(dict(env))
        if stdin == "quit\n":
            self.alive = False
        if self.broken(command, stdin) or (stdin.startswith("get_") and not self.alive):
            raise MpsError(f"{command} ended with status 1")
        return self.answer

    def effects(self) -> Effects:
        return Effects(
            run=self.run,
            is_mount=lambda _: self.mounted,
            label=lambda path: self.calls.append(("label", path.name)),
            meminfo=lambda: "MemTotal:       131072000 kB\n",
            sleep=lambda seconds: self.calls.append(("sleep", f"{seconds:g}")),
        )


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(RESOURCE, CARDS, 4, tmp_path)


def test_only_resources_shared_by_mps_need_a_daemon(tmp_path: Path) -> None:
    plans = [
        ResourcePlan(RESOURCE, ("GPU-1",), Split(4, "::", Sharing.MPS)),
        ResourcePlan("nvidia.com/gpu", ("GPU-0",), Split(4, "::", Sharing.TIME_SLICING)),
    ]
    (found,) = mps.daemons(plans, Snapshot(CARDS), tmp_path)
    assert found == Daemon(RESOURCE, CARDS[1:], 4, tmp_path)


def test_a_daemon_is_started_in_order_and_limited(world: World, daemon: Daemon) -> None:
    mps.start(daemon, world.effects())
    assert world.calls == [
        ("nvidia-smi -i GPU-0 -c EXCLUSIVE_PROCESS", ""),
        ("nvidia-smi -i GPU-1 -c EXCLUSIVE_PROCESS", ""),
        ("label", "pipe"),
        ("label", "log"),
        ("nvidia-cuda-mps-control -d", ""),
        (
            "nvidia-cuda-mps-control",
            "set_default_device_pinned_mem_limit 0 10240M\n"
            "set_default_device_pinned_mem_limit 1 10240M\n"
            "set_default_active_thread_percentage 25\n",
        ),
    ]
    place = daemon.root / RESOURCE
    assert world.environments[-1] == {
        "CUDA_MPS_PIPE_DIRECTORY": str(place / "pipe"),
        "CUDA_MPS_LOG_DIRECTORY": str(place / "log"),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert stat.S_IMODE(daemon.pipe.stat().st_mode) == 0o755
    assert (place / ".started").exists()


def test_clients_with_limits_of_their_own_are_held_at_the_whole_card(tmp_path: Path) -> None:
    """A client's limit can only be lower than its daemon's, and a grant may be of any size."""
    plan = ResourcePlan("nvidia.com/gpu", ("GPU-0",), Split(4, "-", Sharing.MPS), mode="mps")
    (daemon,) = mps.daemons([plan], Snapshot(CARDS), tmp_path)
    assert daemon.limits() == (
        "set_default_device_pinned_mem_limit 0 40961M\nset_default_active_thread_percentage 100\n"
    )


def test_a_daemon_of_unknown_memory_is_refused_before_anything_changes(
    world: World, daemon: Daemon
) -> None:
    card = replace(CARDS[0], memory_mib=None)
    with pytest.raises(MpsError, match="preConfiguredDeviceMemory"):
        mps.start(replace(daemon, devices=(card,)), world.effects())
    assert world.calls == []


def test_stopping_quits_waits_and_undoes(world: World, daemon: Daemon) -> None:
    mps.start(daemon, world.effects())
    world.calls.clear()
    mps.stop(daemon, world.effects())
    assert world.calls == [
        ("nvidia-cuda-mps-control", "quit\n"),
        ("nvidia-cuda-mps-control", "get_default_active_thread_percentage\n"),
        ("nvidia-smi -i GPU-0 -c DEFAULT", ""),
        ("nvidia-smi -i GPU-1 -c DEFAULT", ""),
    ]
    assert not daemon.log.exists()
    assert not (daemon.directory / ".started").exists()


def test_a_daemon_that_does_not_end_is_waited_for_only_so_long(
    world: World, daemon: Daemon
) -> None:
    effects = replace(world.effects(), run=lambda argv, env, stdin: "25.0")
    mps.stop(daemon, effects)
    assert world.calls == [("sleep", "1")] * mps.QUIT_CHECKS


@pytest.mark.parametrize(("answer", "reason"), [("25.0\n", ""), ("", "answers ''"), ("no", "'no'")])
def test_health_is_a_number(world: World, daemon: Daemon, answer: str, reason: str) -> None:
    world.answer = answer
    found = mps.failure(daemon, world.effects())
    assert (reason in found) if reason else (found == "")


def test_ready_is_marked_only_while_all_daemons_run(world: World, daemon: Daemon) -> None:
    ready = daemon.root / ".ready"
    ready.touch()
    with mps.running((daemon,), daemon.root, world.effects()):
        assert ready.exists()
    assert not ready.exists()
    assert not (daemon.directory / ".started").exists()


def test_when_one_does_not_start_all_are_undone_and_nothing_is_ready(
    world: World, daemon: Daemon
) -> None:
    (daemon.root / ".ready").touch()
    other = replace(daemon, resource="nvidia.com/other", devices=CARDS[1:])
    world.broken = lambda command, stdin: (
        command.endswith("-d")
        and any(
            "other" in env.get("CUDA_MPS_PIPE_DIRECTORY", "") for env in world.environments[-1:]
        )
    )
    with (
        pytest.raises(MpsError, match="ended with status 1"),
        mps.running((daemon, other), daemon.root, world.effects()),
    ):
        pytest.fail("it must not start")
    assert not (daemon.root / ".ready").exists()
    assert not (daemon.directory / ".started").exists()
    modes = [command for command, _ in world.calls if command.startswith("nvidia-smi")]
    assert set(modes[-3:]) == {
        "nvidia-smi -i GPU-0 -c DEFAULT",
        "nvidia-smi -i GPU-1 -c DEFAULT",
    }


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("MemFree: 1 kB\nMemTotal:  131072001 kB\n", "65536000k"),
        ("", "65536k"),
        ("MemTotal: plenty\n", "65536k"),
        ("MemTotal:\n", "65536k"),
    ],
)
def test_shared_memory_is_half_of_the_machines(text: str, size: str) -> None:
    assert mps.shm_size(text) == size


def test_shared_memory_is_mounted_once(world: World, tmp_path: Path) -> None:
    mps.mount_shm(tmp_path, world.effects())
    options = "rw,nosuid,nodev,noexec,relatime,size=65536000k"
    assert world.calls[-1] == (f"mount -t tmpfs -o {options} shm {tmp_path}/shm", "")
    world.mounted = True
    world.calls.clear()
    mps.mount_shm(tmp_path, world.effects())
    assert world.calls == [("label", "shm")]


def test_serving_ends_when_it_is_time(world: World, daemon: Daemon) -> None:
    world.mounted = True
    waits = iter([False, False, True])
    mps.serve((daemon,), daemon.root, world.effects(), lambda seconds: next(waits))
    asked = [stdin for _, stdin in world.calls if stdin.startswith("get_")]
    assert len(asked) == 3
    assert not (daemon.root / ".ready").exists()


def test_serving_fails_with_a_daemon_that_stops_answering(world: World, daemon: Daemon) -> None:
    world.mounted = True

    def wait(seconds: float) -> bool:
        world.alive = False
        return False

    with pytest.raises(MpsError, match=r"ended with status 1; see .*/log"):
        mps.serve((daemon,), daemon.root, world.effects(), wait)
    assert not (daemon.root / ".ready").exists()


def test_a_program_that_fails_is_an_error_with_its_words() -> None:
    with pytest.raises(MpsError, match="ended with status 3: oops"):
        mps.run(["sh", "-c", "echo oops >&2; exit 3"], {}, "")
    with pytest.raises(MpsError, match="is not in this container; run it with NVIDIA's runtime"):
        mps.run(["no-such-program-of-ours"], {}, "")
    assert mps.run(["sh", "-c", 'echo "$X"; cat'], {"X": "1"}, "2") == "1\n2"


# --- the command -------------------------------------------------------------------------------

CONFIGURATION = """
version: v1
sharing:
  mps:
    renameByDefault: true
    resources: [{name: nvidia.com/gpu, replicas: 4}]
"""
CONTROL = Path(__file__).parents[2] / "fakelibs" / "mps" / "mps_control.py"
MAIN = "import sys; from deviceplugin.cli.mps import mps; mps(sys.argv[1:])"


@pytest.fixture
def command(driver: Any, tmp_path: Path) -> Callable[..., list[str]]:
    """The command line of ``deviceplugin mps`` with programs that write down their input."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("nvidia-smi", "mount"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    (programs / "nvidia-cuda-mps-control").symlink_to(CONTROL)
    driver.environment["FAKE_MPS_RECORD"] = str(tmp_path / "calls")
    driver.environment["PATH"] = f"{programs}:{os.environ['PATH']}"
    config = tmp_path / "config.yaml"
    config.write_text(CONFIGURATION)

    def line(*more: str) -> list[str]:
        return [
            *(sys.executable, "-P", "-c", MAIN),
            *("--config-file", str(config), "--mps-root", "/run/nvidia/mps"),
            *("--mps-dir", str(tmp_path / "mps"), "--host-root", str(driver.tree.host)),
            *("--container-driver-root", str(driver.tree.driver), *more),
        ]

    return line


@contextlib.contextmanager
def running(line: list[str], environment: dict[str, str]) -> Iterator[Any]:
    process = subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_command_runs_the_daemons_until_it_is_told_to_stop(
    driver: Any, command: Callable[..., list[str]], cards: Callable[..., str], tmp_path: Path
) -> None:
    driver.scenario.write_text(cards(1))
    with running(command(), driver.environment) as process:
        first = process.stderr.readline()
        assert first == "MPS daemon of nvidia.com/gpu.shared: 1 device(s), 4 clients each\n"
        ready = tmp_path / "mps" / ".ready"
        until(ready.exists)
        assert (tmp_path / "mps/nvidia.com/gpu.shared/.started").exists()
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "")
    assert not ready.exists()
    assert "set_default_device_pinned_mem_limit 0 1024M" in (tmp_path / "calls").read_text()


MODE = """
version: v1
nvidia: {operatingMode: mps, deviceSplitCount: 4, %s}
"""


def test_the_command_runs_a_daemon_for_what_schedulers_hand_out(
    driver: Any, command: Callable[..., list[str]], cards: Callable[..., str], tmp_path: Path
) -> None:
    driver.scenario.write_text(cards(1))
    (tmp_path / "config.yaml").write_text(MODE % "mpsLimits: true")
    with running(command(), driver.environment) as process:
        first = process.stderr.readline()
        assert first == "MPS daemon of nvidia.com/gpu: 1 device(s), 4 clients each\n"
        until((tmp_path / "mps/.ready").exists)
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "")
    assert (tmp_path / "calls").read_text().splitlines()[:2] == [
        "set_default_device_pinned_mem_limit 0 4096M",
        "set_default_active_thread_percentage 100",
    ]


@pytest.mark.parametrize(
    "text", ["version: v1\n", MODE % "mpsLimits: false"], ids=["", "hamis-mode"]
)
def test_without_anything_to_share_the_command_waits(
    driver: Any, command: Callable[..., list[str]], tmp_path: Path, text: str
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with running(command(), driver.environment) as process:
        assert process.stderr.readline().startswith("nothing is shared by MPS on this node")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("scenario", "more", "status", "reason"),
    [
        ("fault|call=nvmlInitWithFlags|code=9\n", (), 1, "modprobe nvidia"),
        ("card|uuid=GPU-0|cc=8.0\n", (), 1, "has no memory figure"),
        ("card|uuid=GPU-0|cc=8.0\n", ("--mig-strategy", "mixed"), 2, "MPS does not go with"),
        ("card|uuid=GPU-0|cc=8.0\n", ("--mig-strategy", "half"), 2, "--mig-strategy"),
    ],
)
def test_the_command_says_what_is_wrong_and_how_bad_that_is(
    driver: Any,
    command: Callable[..., list[str]],
    scenario: str,
    more: tuple[str, ...],
    status: int,
    reason: str,
) -> None:
    driver.scenario.write_text(scenario)
    done = subprocess.run(
        command(*more),
        env=driver.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_too_many_replicas_are_refused_by_the_command(
    driver: Any, command: Callable[..., list[str]], cards: Callable[..., str], tmp_path: Path
) -> None:
    driver.scenario.write_text(cards(1).replace("cc=8.0", "cc=7.0"))
    config = tmp_path / "config.yaml"
    config.write_text(CONFIGURATION.replace("replicas: 4", "replicas: 17"))
    done = subprocess.run(
        command(), env=driver.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "allows 16 clients; lower replicas" in done.stderr
