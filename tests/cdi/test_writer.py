"""Writing files that runtimes notice, completely or not at all (cdi.md 2 and 6)."""

from __future__ import annotations

import errno
import fcntl
import os
import queue
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from watchdog.events import FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from deviceplugin.cdi import (
    CDIError,
    ContainerEdits,
    Device,
    DeviceNode,
    Spec,
    dumps,
    load_directories,
    loads,
    read_spec,
    remove_spec,
    spec_file_name,
    sweep_temporaries,
    write_spec,
)

Make = Callable[..., Spec]
STEPS = ["open", "flock", "fchmod", "fsync", "rename"]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


# --- names ---


@pytest.mark.parametrize(
    ("kind", "transient", "name"),
    [
        ("nvidia.com/gpu", "", "nvidia.com-gpu"),
        ("ab.com/gpu", "pod/1", "ab.com-gpu_pod_1"),
        ("ab.com/gpu", "../../x", "ab.com-gpu_.._.._x"),
    ],
)
def test_a_file_is_named_after_kind_and_allocation(kind: str, transient: str, name: str) -> None:
    assert spec_file_name(kind, transient) == name


@pytest.mark.parametrize("kind", ["", "gpu", "../etc/x", "v/gpu"])
def test_what_is_no_kind_names_no_file(kind: str) -> None:
    with pytest.raises(CDIError):
        spec_file_name(kind)


@pytest.mark.parametrize("name", ["../x", "a/b", "a\0b"])
def test_a_file_name_cannot_leave_the_directory(name: str, tmp_path: Path, spec: Make) -> None:
    with pytest.raises(CDIError, match="file name"):
        write_spec(tmp_path / "cdi", spec("dev"), name=name)
    with pytest.raises(CDIError, match="file name"):
        remove_spec(tmp_path / "cdi", name)
    assert names(tmp_path) == []


# --- writing ---


def test_what_is_written_reads_back_equal_and_nothing_else_is_left(
    tmp_path: Path, spec: Make
) -> None:
    assert write_spec(tmp_path, spec("dev"))
    path = tmp_path / "vendor.com-device.json"
    assert names(tmp_path) == [path.name]
    assert read_spec(path).devices == spec("dev").devices


def test_a_missing_directory_is_made_readable_for_all_whatever_the_umask(
    tmp_path: Path, spec: Make
) -> None:
    with umask(0o077):
        write_spec(tmp_path / "a" / "cdi", spec("dev"))
    assert mode(tmp_path / "a" / "cdi") == 0o755
    assert mode(tmp_path / "a" / "cdi" / "vendor.com-device.json") == 0o644


def test_an_existing_directory_keeps_its_mode(tmp_path: Path, spec: Make) -> None:
    tmp_path.chmod(0o711)
    write_spec(tmp_path, spec("dev"))
    assert mode(tmp_path) == 0o711


def test_another_mode_can_be_asked_for(tmp_path: Path, spec: Make) -> None:
    assert write_spec(tmp_path, spec("dev"), name="x", mode=0o600)
    assert mode(tmp_path / "x.json") == 0o600
    assert not write_spec(tmp_path, spec("dev"), name="x", mode=0o600)
    assert write_spec(tmp_path, spec("dev"), name="x")
    assert mode(tmp_path / "x.json") == 0o644


def test_the_same_content_is_not_written_again(tmp_path: Path, spec: Make) -> None:
    assert write_spec(tmp_path, spec("dev"))
    before = (tmp_path / "vendor.com-device.json").stat()
    assert not write_spec(tmp_path, spec("dev"))
    after = (tmp_path / "vendor.com-device.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_another_content_overwrites(tmp_path: Path, spec: Make) -> None:
    write_spec(tmp_path, spec("one"))
    assert write_spec(tmp_path, spec("two"))
    assert read_spec(tmp_path / "vendor.com-device.json").devices[0].name == "two"


@pytest.mark.parametrize("damage", ["truncated", "removed", "mode"])
def test_a_damaged_file_is_written_again(tmp_path: Path, spec: Make, damage: str) -> None:
    write_spec(tmp_path, spec("dev"))
    path = tmp_path / "vendor.com-device.json"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:10])
    elif damage == "removed":
        path.unlink()
    else:
        path.chmod(0o600)
    assert write_spec(tmp_path, spec("dev"))
    assert read_spec(path).devices == spec("dev").devices
    assert mode(path) == 0o644


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_a_link_with_the_same_content_is_replaced_because_runtimes_overlook_links(
    tmp_path: Path, spec: Make, kind: str
) -> None:
    original, path = tmp_path / "original", tmp_path / "cdi" / "vendor.com-device.json"
    path.parent.mkdir()
    original.write_text(dumps(spec("dev")))
    original.chmod(0o644)
    if kind == "symbolic":
        path.symlink_to(original)
    else:
        path.hardlink_to(original)
    assert write_spec(path.parent, spec("dev"))
    found = path.lstat()
    assert stat.S_ISREG(found.st_mode)
    assert found.st_nlink == 1
    assert original.read_text() == dumps(spec("dev"))


def test_the_directory_may_be_a_link_itself(tmp_path: Path, spec: Make) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "var").symlink_to("run")
    assert write_spec(tmp_path / "var", spec("dev"))
    assert names(tmp_path / "run") == ["vendor.com-device.json"]


def test_the_file_arrives_by_a_rename_within_the_directory(tmp_path: Path, spec: Make) -> None:
    events: queue.Queue[FileSystemEvent] = queue.Queue()

    class Collect(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            events.put(event)

    observer = Observer()
    observer.schedule(Collect(), str(tmp_path))
    observer.start()
    try:
        write_spec(tmp_path, spec("dev"))
        while not isinstance(event := events.get(timeout=30), FileMovedEvent):
            pass
    finally:
        observer.stop()
        observer.join()
    source, target = Path(str(event.src_path)), Path(str(event.dest_path))
    assert target == tmp_path / "vendor.com-device.json"
    assert source.parent == tmp_path
    assert source.suffix not in (".json", ".yaml")


def test_the_content_is_on_disk_and_readable_for_all_before_the_rename_and_the_name_after(
    tmp_path: Path, spec: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, bool]] = []
    fsync, rename = os.fsync, os.rename

    def spied_fsync(handle: int) -> None:
        found = os.fstat(handle)
        is_directory = stat.S_ISDIR(found.st_mode)
        if not is_directory:
            assert stat.S_IMODE(found.st_mode) == 0o644
            assert found.st_size == len(dumps(spec("dev")))
        steps.append(("fsync", is_directory))
        fsync(handle)

    def spied_rename(source: str, target: Path) -> None:
        steps.append(("rename", False))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", spied_fsync)
    monkeypatch.setattr(os, "rename", spied_rename)
    write_spec(tmp_path, spec("dev"))
    assert steps == [("fsync", False), ("rename", False), ("fsync", True)]
    steps.clear()
    write_spec(tmp_path, spec("other"), fsync=False)
    assert steps == [("rename", False)]


def test_a_host_path_that_is_the_containers_is_left_out_and_old_runtimes_read_the_file(
    tmp_path: Path,
) -> None:
    same, other = DeviceNode("/dev/x", "/dev/x"), DeviceNode("/dev/y", "/real/y")
    edits = ContainerEdits(device_nodes=(same,))
    spec = Spec("ab.com/gpu", (Device("dev", edits),), edits)
    write_spec(tmp_path, spec)
    read = read_spec(tmp_path / "ab.com-gpu.json", max_version="0.3.0")
    assert read.devices[0].container_edits == read.container_edits
    assert read.container_edits.device_nodes == (DeviceNode("/dev/x"),)
    assert not write_spec(tmp_path, spec)
    edits = ContainerEdits(device_nodes=(same, other))
    write_spec(tmp_path, Spec("ab.com/gpu", (Device("dev", edits),)))
    read = read_spec(tmp_path / "ab.com-gpu.json")
    assert read.cdi_version == "0.5.0"
    assert read.devices[0].container_edits.device_nodes == (DeviceNode("/dev/x"), other)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "vendor.com/c"},
        {"annotations": {"k": "x" * 300_000}},
        {"cdi_version": "9.9.9"},
        {"container_edits": ContainerEdits(env=("=foo",))},
        {"container_edits": ContainerEdits(device_nodes=(DeviceNode("dev/x"),))},
    ],
)
def test_an_invalid_specification_is_refused_and_leaves_nothing(
    changes: dict[str, Any], tmp_path: Path, spec: Make
) -> None:
    with pytest.raises(CDIError):
        write_spec(tmp_path / "cdi", spec("dev", **changes), name="x")
    assert names(tmp_path) == []


def test_an_invalid_specification_leaves_the_former_file(tmp_path: Path, spec: Make) -> None:
    write_spec(tmp_path, spec("dev"))
    with pytest.raises(CDIError):
        write_spec(tmp_path, spec("dev", "dev"))
    assert read_spec(tmp_path / "vendor.com-device.json").devices == spec("dev").devices
    assert names(tmp_path) == ["vendor.com-device.json"]


def test_transient_files_are_added_and_removed_each_for_itself(tmp_path: Path, spec: Make) -> None:
    write_spec(tmp_path, spec("static"))
    transient = [spec_file_name("vendor.com/device", f"pod/{i}") for i in range(3)]
    for position, name in enumerate(transient):
        assert write_spec(tmp_path, spec(f"t{position}"), name=name)
    assert len(load_directories([tmp_path]).devices) == 4
    assert remove_spec(tmp_path, transient[1])
    assert sorted(load_directories([tmp_path]).devices) == [
        "vendor.com/device=static",
        "vendor.com/device=t0",
        "vendor.com/device=t2",
    ]


def test_after_a_reboot_emptied_the_directory_the_same_call_restores_the_file(
    tmp_path: Path, spec: Make
) -> None:
    directory = tmp_path / "cdi"
    write_spec(directory, spec("dev"))
    remove_spec(directory, "vendor.com-device")
    directory.rmdir()
    assert write_spec(directory, spec("dev"))
    assert list(load_directories([directory]).devices) == ["vendor.com/device=dev"]


def test_removing_what_is_not_there_is_fine(tmp_path: Path) -> None:
    assert not remove_spec(tmp_path, "x")
    assert not remove_spec(tmp_path / "missing", "x")


# --- faults ---


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EROFS, "mount the directory writable"),
        (errno.ENOSPC, "free space"),
        (errno.EACCES, "run as root"),
        (errno.EIO, "input/output error"),
    ],
)
@pytest.mark.parametrize("step", STEPS)
def test_a_fault_at_any_step_is_explained_and_leaves_the_former_file(
    step: str,
    number: int,
    remedy: str,
    tmp_path: Path,
    spec: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_spec(tmp_path, spec("old"))
    handles = len(names(Path("/proc/self/fd")))

    def fail(*arguments: Any, **others: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(fcntl if step == "flock" else os, step, fail)
        with pytest.raises(OSError, match=remedy) as caught:
            write_spec(tmp_path, spec("new"))
    assert caught.value.errno == number
    assert caught.value.filename == str(tmp_path / "vendor.com-device.json")
    assert names(tmp_path) == ["vendor.com-device.json"]
    assert read_spec(tmp_path / "vendor.com-device.json").devices[0].name == "old"
    assert len(names(Path("/proc/self/fd"))) == handles
    assert write_spec(tmp_path, spec("new"))


def test_a_file_system_that_takes_only_a_part_leaves_the_former_file(
    tmp_path: Path, spec: Make
) -> None:
    write_spec(tmp_path, spec("old"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            write_spec(tmp_path, spec("new"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["vendor.com-device.json"]
    assert read_spec(tmp_path / "vendor.com-device.json").devices[0].name == "old"


def test_a_file_in_place_of_the_directory_is_explained(tmp_path: Path, spec: Make) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "cdi"):
        with pytest.raises(OSError, match="configure a directory"):
            write_spec(directory, spec("dev"))


def test_a_directory_in_place_of_the_file_is_explained(tmp_path: Path, spec: Make) -> None:
    (tmp_path / "vendor.com-device.json").mkdir()
    with pytest.raises(IsADirectoryError, match="remove the directory of that name"):
        write_spec(tmp_path, spec("dev"))
    assert names(tmp_path) == ["vendor.com-device.json"]


def test_a_name_that_is_too_long_is_explained(tmp_path: Path, spec: Make) -> None:
    with pytest.raises(OSError, match="use a shorter name"):
        write_spec(tmp_path, spec("dev"), name="x" * 300)
    assert names(tmp_path) == []


KILLED = """
import fcntl, os, signal, sys
from pathlib import Path
from deviceplugin.cdi import read_spec, write_spec

spec = read_spec(Path(sys.argv[1]))
left = int(sys.argv[3])

def lethal(call):
    def replaced(*arguments, **others):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **others)
    return replaced

for module, name in [(os, "mkdir"), (os, "chmod"), (os, "open"), (fcntl, "flock"), (os, "fdopen"),
                     (os, "fchmod"), (os, "fsync"), (os, "rename"), (os, "close")]:
    setattr(module, name, lethal(getattr(module, name)))
write_spec(Path(sys.argv[2]), spec)
"""


@pytest.mark.parametrize("before", ["nothing", "a file"])
def test_a_writer_killed_at_any_step_leaves_the_former_or_the_new_file_and_no_rest(
    before: str, tmp_path: Path, spec: Make
) -> None:
    new = tmp_path / "new.json"
    new.write_text(dumps(spec("new")))
    seen = []
    for step in range(30):
        directory = tmp_path / str(step)
        if before == "a file":
            write_spec(directory, spec("old"))
        arguments = [sys.executable, "-c", KILLED, str(new), str(directory), str(step)]
        done = subprocess.run(arguments, check=False).returncode
        assert done in (0, -signal.SIGKILL)
        cache = load_directories([directory])
        assert cache.errors == {}
        rest = len(list(directory.glob("*"))) - len(cache.specs) if directory.exists() else 0
        assert sweep_temporaries(directory) == rest
        assert rest in (0, 1)
        if cache.specs:
            path = cache.specs[0].path
            assert names(directory) == [path.name]
            assert mode(path) == 0o644
        found = [name.rpartition("=")[2] for name in cache.devices]
        seen.append((found, rest))
        if done == 0:
            break
    else:
        raise AssertionError("the writer never came to its end")
    former = ["old"] if before == "a file" else []
    assert seen[-1] == (["new"], 0)
    assert {tuple(found) for found, _ in seen} == {tuple(former), ("new",)}
    assert (former, 1) in seen  # some were killed between write and rename


# --- sweeping ---


def test_sweeping_takes_only_temporary_files_of_ours(tmp_path: Path, spec: Make) -> None:
    write_spec(tmp_path, spec("dev"))
    for name in (".cdi-abc.tmp", "spec.123.tmp", ".cdi-x.json", "note"):
        (tmp_path / name).write_text("")
    assert sweep_temporaries(tmp_path) == 1
    assert names(tmp_path) == [".cdi-x.json", "note", "spec.123.tmp", "vendor.com-device.json"]


def test_sweeping_a_missing_directory_is_fine_and_makes_none(tmp_path: Path) -> None:
    assert sweep_temporaries(tmp_path / "missing") == 0
    assert names(tmp_path) == []


def test_a_sweep_lets_a_writer_at_work_finish(
    tmp_path: Path, spec: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, swept = os.rename, []

    def sweep_first(source: str, target: Path) -> None:
        swept.append(sweep_temporaries(tmp_path))
        rename(source, target)

    monkeypatch.setattr(os, "rename", sweep_first)
    assert write_spec(tmp_path, spec("dev"))
    assert swept == [0]
    assert names(tmp_path) == ["vendor.com-device.json"]


# --- several at once ---


def test_concurrent_writers_end_in_one_complete_content_and_no_reader_sees_less(
    tmp_path: Path, spec: Make
) -> None:
    contents = [spec(*(f"w{writer}-{i}" for i in range(writer * 20 + 1))) for writer in range(4)]
    complete = {dumps(content) for content in contents}
    write_spec(tmp_path, contents[0])
    path = tmp_path / "vendor.com-device.json"
    finished = threading.Event()

    def write(content: Spec) -> None:
        for _ in range(40):
            write_spec(tmp_path, content, fsync=False)

    def until_finished(step: Callable[[], object]) -> int:
        rounds = 0
        while not finished.is_set():
            step()
            rounds += 1
        return rounds

    def read() -> None:
        text = path.read_text()
        assert text in complete
        loads(text)

    with ThreadPoolExecutor(6) as pool:
        reader = pool.submit(until_finished, read)
        sweeper = pool.submit(until_finished, lambda: sweep_temporaries(tmp_path))
        try:
            for writer in [pool.submit(write, content) for content in contents]:
                writer.result()
        finally:
            finished.set()
        assert reader.result() > 0
        assert sweeper.result() > 0
    assert path.read_text() in complete
    assert names(tmp_path) == [path.name]
