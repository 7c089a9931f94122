"""What tenants put where a region should be."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import socket
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.libvgpu import (
    Fault,
    Field,
    Region,
    RegionError,
    directory,
    files,
    read_region,
    region_name,
    write_fields_at,
)

Written = Callable[[Any], Path]


@pytest.fixture
def region(image_of: Callable[[str], Any]) -> Any:
    return image_of("1.2").limits((1 << 30, 30)).process(0, 1).memory(0, 0, 1, 2, 3, 0, 6)


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose name leaves room for a socket's."""
    path = Path(tempfile.mkdtemp(prefix="dpv-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def fault(path: Path) -> Fault:
    with pytest.raises(RegionError) as caught:
        read_region(path)
    assert caught.value.path == str(path)
    assert caught.value.reason
    assert caught.value.remedy
    return caught.value.fault


def write(path: Path, seen: Region, **values: int) -> frozenset[Field]:
    with directory(str(path.parent)) as parent:
        return write_fields_at(
            parent, path.name, str(path), seen, {Field(k): v for k, v in values.items()}
        )


def test_nothing_there(tmp_path: Path) -> None:
    assert fault(tmp_path / "r.cache") is Fault.MISSING
    assert fault_of_directory(tmp_path / "none") is Fault.MISSING


def fault_of_directory(path: Path) -> Fault:
    with pytest.raises(RegionError) as caught, directory(str(path)):
        pass
    return caught.value.fault


def test_a_link_to_a_file_of_the_host_is_not_followed(
    tmp_path: Path, region: Any, written: Written
) -> None:
    target = written(region)
    (tmp_path / "link.cache").symlink_to(target)
    (tmp_path / "dangling.cache").symlink_to("/nowhere")
    assert fault(tmp_path / "link.cache") is Fault.NOT_A_FILE
    assert fault(tmp_path / "dangling.cache") is Fault.NOT_A_FILE
    with pytest.raises(RegionError, match="symbolic link"):
        write(tmp_path / "link.cache", read_region(target), recent_kernel=-1)
    assert read_region(target).recent_kernel == 2


def test_a_link_in_the_place_of_the_containers_directory_is_not_followed(
    tmp_path: Path, region: Any, written: Written
) -> None:
    path = written(region)
    (tmp_path / "elsewhere").symlink_to(path.parent)
    assert fault_of_directory(tmp_path / "elsewhere") is Fault.NOT_A_FILE
    with directory(str(tmp_path)) as parent:
        for name in ("elsewhere", "r.cache"):
            with pytest.raises(RegionError) as caught, directory(name, parent):
                pass
            assert caught.value.fault is Fault.NOT_A_FILE


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../etc", "/etc"])
def test_a_name_with_a_path_in_it_is_no_name(tmp_path: Path, name: str) -> None:
    with directory(str(tmp_path)) as parent:
        with pytest.raises(RegionError), directory(name, parent):
            pass
        with pytest.raises(RegionError):
            files.read_region_at(parent, name, name)


def test_a_region_beside_the_directory_is_not_reached(
    tmp_path: Path, region: Any, written: Written
) -> None:
    path = written(region)
    (tmp_path / "sub").mkdir()
    with directory(str(tmp_path / "sub")) as parent:
        for name in (f"../{path.name}", str(path)):
            with pytest.raises(RegionError, match="not a name"):
                files.read_region_at(parent, name, name)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "\udcff" * 400])
def test_a_name_that_the_system_cannot_take_is_an_error_with_a_printable_path(
    tmp_path: Path, name: str
) -> None:
    with directory(str(tmp_path)) as parent:
        with pytest.raises(RegionError) as caught:
            files.read_region_at(parent, name, name)
        str(caught.value).encode()


def test_a_pipe_does_not_hold_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.cache")
    assert fault(tmp_path / "r.cache") is Fault.NOT_A_FILE


def test_a_directory_and_a_socket_are_no_regions(short: Path) -> None:
    (short / "d.cache").mkdir()
    assert fault(short / "d.cache") is Fault.NOT_A_FILE
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(short / "s.cache"))
        assert fault(short / "s.cache") is Fault.NOT_A_FILE


@pytest.mark.skipif(os.geteuid() != 0, reason="making devices needs root")
def test_a_device_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening some devices already does something."""
    path = tmp_path / "r.cache"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this machine makes no devices")
    opened = []
    real = os.open
    monkeypatch.setattr(
        files.os,
        "open",
        lambda name, flags, **k: opened.append((name, flags)) or real(name, flags, **k),
    )
    assert fault(path) is Fault.NOT_A_FILE
    assert all(flags & os.O_PATH or flags & os.O_DIRECTORY for _, flags in opened)


def test_a_hard_link_is_refused_for_reading_and_writing(
    tmp_path: Path, region: Any, written: Written
) -> None:
    path = written(region)
    seen = read_region(path)
    (tmp_path / "other").hardlink_to(path)
    assert fault(path) is Fault.HARD_LINK
    with pytest.raises(RegionError, match="2 names"):
        write(path, seen, recent_kernel=-1)
    (tmp_path / "other").unlink()
    assert read_region(path).recent_kernel == 2


def test_a_huge_sparse_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.cache"
    with path.open("wb") as file:
        file.write(struct.pack("<iII", 19920718, 1, 1))
        file.truncate(1 << 40)
    monkeypatch.setattr(files.os, "pread", lambda *_: pytest.fail("it was read"))
    assert fault(path) is Fault.LENGTH


def test_a_region_is_read_in_a_few_bounded_parts(
    region: Any, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = []
    real = os.pread
    monkeypatch.setattr(files.os, "pread", lambda f, n, o: lengths.append(n) or real(f, n, o))
    read_region(written(region))
    assert sum(lengths) < 8192
    assert len(lengths) == 5


def test_a_foreign_file_of_the_right_length_is_told_from_a_region(written: Written) -> None:
    assert fault(written(b"\x7fELF" + bytes(2008949))) is Fault.FOREIGN


@pytest.mark.parametrize("version", [(1, 3), (2, 0), (0, 0)])
def test_a_newer_version_is_not_guessed_at(
    region: Any, written: Written, version: tuple[int, int]
) -> None:
    assert fault(written(region.put("<II", 4, *version))) is Fault.VERSION


@pytest.mark.parametrize("reads", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("length", [0, 4, 1000, 4000, 2008000])
def test_a_file_that_shrinks_between_any_two_reads_is_a_reason(
    region: Any, written: Written, monkeypatch: pytest.MonkeyPatch, reads: int, length: int
) -> None:
    path = written(region)
    real, done = os.pread, []

    def pread(descriptor: int, count: int, offset: int) -> bytes:
        if len(done) == reads:
            os.truncate(path, length)
        done.append(count)
        return real(descriptor, count, offset)

    monkeypatch.setattr(files.os, "pread", pread)
    assert fault(path) is Fault.CHANGED


def test_a_file_that_is_replaced_while_it_is_read_is_a_reason(
    region: Any, written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(region)
    real = os.pread

    def pread(descriptor: int, count: int, offset: int) -> bytes:
        (tmp_path / "new").symlink_to("/etc/shadow")
        (tmp_path / "new").replace(path)
        monkeypatch.undo()
        return real(descriptor, count, offset)

    monkeypatch.setattr(files.os, "pread", pread)
    assert fault(path) is Fault.CHANGED
    assert fault(path) is Fault.NOT_A_FILE


def test_a_name_that_becomes_a_pipe_after_it_was_looked_at_changes_nothing(
    region: Any, written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that was looked at is the one that is opened."""
    path = written(region)
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        found = real(descriptor)
        monkeypatch.undo()
        path.rename(tmp_path / "aside")
        os.mkfifo(path)
        return found

    monkeypatch.setattr(files.os, "fstat", fstat)
    assert read_region(path).memory_limits[0] == 1 << 30
    assert fault(path) is Fault.NOT_A_FILE


def test_a_lease_does_not_hold_the_reader(region: Any, written: Written) -> None:
    """Opening waits for a lease up to 45 seconds, unless told not to."""
    path = written(region)
    with path.open("rb+") as holder:
        try:
            fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError:
            pytest.skip("no leases on this file system")
        with ignored_sigio():
            assert fault(path) is Fault.BUSY


@contextmanager
def ignored_sigio() -> Iterator[None]:
    """The lease's holder is told by a signal, which ends a process that does not expect it."""
    former = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, former)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
def test_a_file_of_any_user_is_read_and_its_owner_told(region: Any, written: Written) -> None:
    path = written(region)
    os.chown(path, 65534, 12345)
    path.chmod(0)
    found = read_region(path)
    assert (found.file.uid, found.file.gid) == (65534, 12345)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ENXIO, errno.ESTALE])
@pytest.mark.parametrize("call", ["open", "pread", "fstat"])
def test_whatever_the_system_says_is_a_reason(
    region: Any, written: Written, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = written(region)

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with directory(str(path.parent)) as parent, monkeypatch.context() as patch:
        patch.setattr(files.os, call, fail)
        with pytest.raises(RegionError, match=os.strerror(code)) as caught:
            files.read_region_at(parent, path.name, str(path))
    assert caught.value.fault is Fault.SYSTEM


def test_no_descriptor_is_left_open(tmp_path: Path, region: Any, written: Written) -> None:
    path = written(region)
    seen = read_region(path)
    (tmp_path / "link.cache").symlink_to(path)
    os.mkfifo(tmp_path / "pipe.cache")
    (tmp_path / "empty.cache").touch()
    (tmp_path / "short.cache").write_bytes(b"x")
    before = sorted(Path("/proc/self/fd").iterdir())
    for name in ("r", "link", "pipe", "empty", "short", "none"):
        with suppress(RegionError):
            read_region(tmp_path / f"{name}.cache")
        with suppress(RegionError):
            write(tmp_path / f"{name}.cache", seen, recent_kernel=1)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_fields_are_written_where_each_layout_has_them_and_nothing_else(
    image: Any, written: Written
) -> None:
    path = written(image)
    before = path.read_bytes()
    fields = write(path, read_region(path), recent_kernel=-1, utilization_switch=0)
    assert fields == {Field.RECENT_KERNEL, Field.UTILIZATION_SWITCH}
    expected = bytearray(before)
    struct.pack_into("<i", expected, image.recent, -1)
    struct.pack_into("<i", expected, image.switch, 0)
    assert path.read_bytes() == bytes(expected)


def test_a_field_that_changed_since_it_was_read_is_left_alone(
    region: Any, written: Written
) -> None:
    region.put("<i", region.recent, 1)
    path = written(region)
    seen = read_region(path)
    with path.open("rb+") as file:
        file.seek(region.recent)
        file.write(struct.pack("<i", 2))  # a kernel started
    assert write(path, seen, recent_kernel=0, utilization_switch=0) == {Field.UTILIZATION_SWITCH}
    assert read_region(path).recent_kernel == 2


def test_another_file_in_the_same_place_is_not_written_to(
    region: Any, written: Written, tmp_path: Path
) -> None:
    path = written(region)
    seen = read_region(path)
    other = tmp_path / "other"
    other.write_bytes(path.read_bytes())
    other.replace(path)
    before = path.read_bytes()
    with pytest.raises(RegionError) as caught:
        write(path, seen, recent_kernel=-1)
    assert caught.value.fault is Fault.CHANGED
    assert path.read_bytes() == before


def test_a_file_that_was_emptied_is_not_written_to(region: Any, written: Written) -> None:
    path = written(region)
    seen = read_region(path)
    os.truncate(path, 0)
    with pytest.raises(RegionError):
        write(path, seen, recent_kernel=-1)
    assert path.stat().st_size == 0


def test_a_region_that_is_made_anew_is_not_written_to(region: Any, written: Written) -> None:
    path = written(region)
    seen = read_region(path)
    with path.open("rb+") as file:
        file.write(bytes(4))
    with pytest.raises(RegionError) as caught:
        write(path, seen, recent_kernel=-1)
    assert caught.value.fault is Fault.CHANGED


def test_a_region_that_is_not_initialised_has_no_fields(written: Written) -> None:
    path = written(b"")
    with pytest.raises(RegionError, match="not initialised"):
        write(path, read_region(path), recent_kernel=0)


@pytest.mark.parametrize(
    "values", [{"recent_kernel": -2}, {"recent_kernel": 1 << 31}, {"utilization_switch": 2}]
)
def test_values_that_mean_nothing_are_not_written(
    region: Any, written: Written, values: dict[str, int]
) -> None:
    path = written(region)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="cannot be"):
        write(path, read_region(path), **values)
    assert path.read_bytes() == before


def test_the_region_is_found_beside_the_mount_point_of_the_library(tmp_path: Path) -> None:
    with directory(str(tmp_path)) as parent:
        assert region_name(parent, "d") is None
        for name in ("libvgpu.so", "license", "x.cache.old"):
            (tmp_path / name).touch()
        assert region_name(parent, "d") is None
        (tmp_path / "0b3e.cache").touch()
        assert region_name(parent, "d") == "0b3e.cache"


def test_several_regions_are_not_chosen_from(tmp_path: Path) -> None:
    for name in ("a.cache", "b.cache"):
        (tmp_path / name).touch()
    with (
        directory(str(tmp_path)) as parent,
        pytest.raises(RegionError, match="2 regions") as caught,
    ):
        region_name(parent, "d")
    assert caught.value.fault is Fault.AMBIGUOUS


def test_a_directory_full_of_files_is_not_looked_through(tmp_path: Path) -> None:
    for number in range(65):
        (tmp_path / f"{number}").touch()
    with directory(str(tmp_path)) as parent, pytest.raises(RegionError, match="more than 64"):
        region_name(parent, "d")
