"""Sweeping: what goes, what stays, and that nothing outside is ever touched."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from deviceplugin.allocation.identity import allocation_id
from deviceplugin.monitor import Monitor, MonitoredContainer, Settings, garbage
from deviceplugin.monitor.garbage import Owners, absent

GRACE = 300.0


class Sweeper:
    """A monitor with clocks of its own and sweeps an hour apart where nothing else is said."""

    def __init__(self, root: Path) -> None:
        self.containers: list[MonitoredContainer] = []
        self.wall, self.steady = time.time(), 1000.0
        self.monitor = Monitor(
            root, lambda: self.containers, list, "n1", lambda: self.wall, Settings(grace_seconds=GRACE), lambda: self.steady
        )  # fmt: skip

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def sweep(self, *pods: str, allocations: list[str] | None = None) -> garbage.Swept:
        return self.monitor.collect_garbage(set(pods), allocations)

    def twice(self, *pods: str, allocations: list[str] | None = None) -> garbage.Swept:
        """Two sweeps, a grace and more apart."""
        first = self.sweep(*pods, allocations=allocations)
        assert first == garbage.Swept()
        self.pass_time(GRACE + 1)
        return self.sweep(*pods, allocations=allocations)


@pytest.fixture
def sweeper(root: Path) -> Sweeper:
    return Sweeper(root)


@pytest.fixture
def gone(
    container: Callable[..., Any], directory: Callable[..., Path], region: Callable[..., Any]
) -> Path:
    """The directory of a container that nobody knows any more."""
    return directory(container(), region())


def test_a_directory_goes_when_its_pod_has_been_gone_for_the_grace(
    sweeper: Sweeper, gone: Path, root: Path
) -> None:
    assert sweeper.twice("another-pod").removed == (gone.name,)
    assert list(root.iterdir()) == []


def test_a_directory_without_a_region_goes_too(
    sweeper: Sweeper, root: Path, container: Callable[..., Any], directory: Callable[..., Path]
) -> None:
    directory(container())
    assert sweeper.twice().removed == (container().cache_dir,)


def test_a_running_pods_directory_stays(sweeper: Sweeper, gone: Path) -> None:
    assert sweeper.twice(gone.name.partition("_")[0]) == garbage.Swept()
    sweeper.pass_time(1e6)
    assert sweeper.sweep(gone.name.partition("_")[0]) == garbage.Swept()
    assert len(list(gone.iterdir())) == 2


def test_a_directory_in_use_stays_whatever_the_views_say(
    sweeper: Sweeper, gone: Path, container: Callable[..., Any]
) -> None:
    sweeper.containers = [container()]
    assert sweeper.twice() == garbage.Swept()
    assert gone.exists()


def test_nothing_goes_while_a_view_is_unknown(sweeper: Sweeper, gone: Path) -> None:
    for _ in range(3):
        assert sweeper.monitor.collect_garbage(None) == garbage.Swept()
        sweeper.pass_time(GRACE + 1)
    assert gone.exists()
    # and the time in which nobody knew does not count
    assert sweeper.sweep() == garbage.Swept()
    assert gone.exists()


def test_nothing_goes_while_it_is_not_known_which_containers_there_are(
    root: Path, gone: Path
) -> None:
    def fail() -> list[MonitoredContainer]:
        raise RuntimeError("no answer")

    monitor = Monitor(
        root,
        fail,
        list,
        "n1",
        settings=Settings(grace_seconds=0),
        monotonic=iter(range(99)).__next__,
    )
    for _ in range(3):
        assert monitor.collect_garbage(set()) == garbage.Swept()
    assert gone.exists()


def test_a_pod_that_comes_back_starts_its_grace_anew(sweeper: Sweeper, gone: Path) -> None:
    uid = gone.name.partition("_")[0]
    sweeper.sweep()
    sweeper.pass_time(GRACE - 1)
    sweeper.sweep(uid)
    sweeper.pass_time(GRACE - 1)
    assert sweeper.sweep() == garbage.Swept()
    sweeper.pass_time(GRACE - 1)
    assert sweeper.sweep() == garbage.Swept()
    sweeper.pass_time(2)
    assert sweeper.sweep().removed == (gone.name,)


def test_a_directory_that_is_still_written_to_stays(sweeper: Sweeper, gone: Path) -> None:
    sweeper.sweep()
    sweeper.pass_time(GRACE + 1)
    os.utime(gone, (sweeper.wall - 10, sweeper.wall - 10))
    assert sweeper.sweep() == garbage.Swept()
    sweeper.pass_time(GRACE)
    assert sweeper.sweep().removed == (gone.name,)


@pytest.mark.parametrize("jump", [1e7, -1e7])
def test_a_jump_of_the_clock_removes_nothing(sweeper: Sweeper, gone: Path, jump: float) -> None:
    sweeper.sweep()
    sweeper.wall += jump
    assert sweeper.sweep() == garbage.Swept()
    assert gone.exists()


def test_an_allocations_directory_goes_when_kubelet_has_let_it_go(
    sweeper: Sweeper, root: Path
) -> None:
    held, free = (allocation_id("nvidia.com/gpu", [letter]) for letter in "ab")
    for name in (held, free):
        (root / name).mkdir()
        (root / name / "x.cache").touch()
    assert sweeper.twice(allocations=None) == garbage.Swept()
    sweeper.pass_time(GRACE + 1)
    assert sweeper.twice(allocations=[held]).removed == (free,)
    assert [path.name for path in root.iterdir()] == [held]


@pytest.fixture(
    params=[
        "file",
        "directory",
        "link",
        "pipe",
        "socket",
        "hard link",
        "directory.cache",
        "link.cache",
        "pipe.cache",
    ]
)
def unexpected(
    request: pytest.FixtureRequest, gone: Path, tmp_path: Path
) -> Iterator[tuple[str, Path]]:
    """Something that neither libvgpu nor the runtime leaves, and a file of the host's."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("keep me")
    kind, _, suffix = request.param.partition(".")
    place = gone / f"odd{'.cache' if suffix else ''}"
    if kind == "file":
        place.touch()
    elif kind == "directory":
        place.mkdir()
    elif kind == "link":
        place.symlink_to(precious / "data")
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(gone)
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind("odd")
        finally:
            os.chdir(here)
    else:
        place = gone / "odd.cache"
        place.hardlink_to(precious / "data")
    yield place.name, precious
    assert (precious / "data").read_text() == "keep me"


def test_a_directory_with_something_unexpected_is_left_whole_and_reported(
    sweeper: Sweeper, gone: Path, unexpected: tuple[str, Path]
) -> None:
    before = sorted(path.name for path in gone.iterdir())
    swept = sweeper.twice()
    assert swept.removed == ()
    assert unexpected[0] in swept.left[gone.name]
    assert sorted(path.name for path in gone.iterdir()) == before


def test_a_link_in_a_directorys_place_is_left_and_not_followed(
    sweeper: Sweeper, root: Path, tmp_path: Path, container: Callable[..., Any]
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "x.cache").touch()
    (root / container().cache_dir).symlink_to(precious)
    assert list(sweeper.twice().left) == [container().cache_dir]
    assert (precious / "x.cache").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_what_is_mounted_on_a_directory_is_not_emptied(sweeper: Sweeper, gone: Path) -> None:
    mount = subprocess.run(["mount", "-t", "tmpfs", "none", gone], capture_output=True)
    if mount.returncode:
        pytest.skip("this machine mounts nothing")
    try:
        (gone / "x.cache").touch()
        assert "mounted" in sweeper.twice().left[gone.name]
        assert (gone / "x.cache").exists()
    finally:
        subprocess.run(["umount", gone], check=True)


def test_names_that_no_agent_gives_are_left_alone(sweeper: Sweeper, root: Path) -> None:
    for name in ("lost+found", "backup", "_x", "UPPER_case_name"):
        (root / name).mkdir()
    assert sweeper.twice() == garbage.Swept()
    assert len(list(root.iterdir())) == 4


def test_a_full_directory_is_left(sweeper: Sweeper, gone: Path) -> None:
    for number in range(65):
        (gone / f"{number}.cache").touch()
    assert "more than 64" in sweeper.twice().left[gone.name]


def test_a_file_that_appears_in_the_last_moment_keeps_the_directory(
    sweeper: Sweeper, gone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rmdir

    def rmdir(*args: Any, **kwargs: Any) -> None:
        (gone / "late").touch()
        real(*args, **kwargs)

    monkeypatch.setattr(garbage.os, "rmdir", rmdir)
    assert "Directory not empty" in sweeper.twice().left[gone.name]
    assert (gone / "late").exists()


def test_a_file_that_becomes_a_link_in_the_last_moment_is_removed_as_a_link(
    sweeper: Sweeper, gone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "precious"
    target.write_text("keep me")
    real = os.unlink

    def unlink(name: str, **kwargs: Any) -> None:
        if name.endswith(".cache"):
            real(gone / name)
            (gone / name).symlink_to(target)
        real(name, **kwargs)

    monkeypatch.setattr(garbage.os, "unlink", unlink)
    assert sweeper.twice().removed == (gone.name,)
    assert target.read_text() == "keep me"


def test_a_directory_that_is_left_is_told_once_and_counted_while_it_is_there(
    sweeper: Sweeper, gone: Path
) -> None:
    (gone / "odd").touch()
    with capture_logs() as logs:
        for _ in range(3):
            sweeper.sweep()
            sweeper.pass_time(GRACE + 1)
        assert left(sweeper) == 1
        (gone / "odd").unlink()
        gone.joinpath("libvgpu.so").unlink()
        for file in gone.iterdir():
            file.unlink()
        gone.rmdir()
        sweeper.sweep()
        assert left(sweeper) == 0
    assert [entry["event"] for entry in logs] == ["directory left"]


def left(sweeper: Sweeper) -> float:
    (metric,) = [
        m for m in sweeper.monitor.scrape() if m.name == "deviceplugin_monitor_directories_left"
    ]
    return metric.samples[0].value


def test_one_directory_that_cannot_go_does_not_keep_the_others(
    sweeper: Sweeper,
    root: Path,
    container: Callable[..., Any],
    directory: Callable[..., Path],
    region: Callable[..., Any],
) -> None:
    for number in range(3):
        directory(container(number), region())
    (directory(container(1)) / "odd").touch()
    swept = sweeper.twice()
    assert swept.removed == (container(0).cache_dir, container(2).cache_dir)
    assert list(swept.left) == [container(1).cache_dir]


@given(
    st.lists(
        st.tuples(st.sampled_from(["u1", "u2", "u3"]), st.booleans()), min_size=1, max_size=30
    ),
    st.sets(st.sampled_from(["u1", "u2", "u3"])),
)
def test_a_directory_is_absent_only_since_nobody_claimed_it(
    story: list[tuple[str, bool]], always: set[str]
) -> None:
    """Whatever happens, the time counts from the last moment at which somebody claimed it."""
    names = {uid: f"{uid}_main" for uid in ("u1", "u2", "u3")}
    claimed = dict.fromkeys(names, -1)
    since: dict[str, float] = {}
    for now, (uid, is_there) in enumerate(story):
        active = always | ({uid} if is_there else set())
        for one in active:
            claimed[one] = now
        since = absent(names.values(), Owners(active, None), since, float(now))
        for one, name in names.items():
            if name in since:
                assert since[name] == claimed[one] + 1
            else:
                assert claimed[one] == now
