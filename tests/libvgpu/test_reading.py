"""What a region says, in every layout that libvgpu ever wrote."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deviceplugin.libvgpu import Memory, Region, RegionError, Utilisation, read_region
from deviceplugin.libvgpu.layouts import LAYOUTS
from deviceplugin.testing.libvgpu import FakeProcess, FakeRegion

GIB = 1 << 30
Written = Callable[[Any], Path]


def test_every_field_of_every_layout_comes_back(
    image: Any, layout: str, written: Written, uuids: tuple[str, str]
) -> None:
    image.devices(*uuids).limits((3 * GIB, 30), (4 * GIB, 40))
    image.put("<Q", image.owner_pid, 77)
    image.put("<iii", image.switch, 0, -1, 5)
    image.process(0, 11, 1011).memory(0, 0, 1, 2, 3, 4, 5).memory(0, 1, 6, 7, 8, 9, 10)
    image.monitored(0, 0, 111).monitored(0, 1, 222)
    image.utilisation(0, 0, 21, 22, 23).utilisation(0, 1, 31, 32, 33)
    image.process(1, 12, 0, status=2).memory(1, 1, 100, 200, 300, 0, 600)
    if image.last_kernel:
        image.put("<Q", image.last_kernel, 1_700_000_000)

    region = read_region(written(image))

    assert region.initialised
    assert region.version == layout
    assert region.file.length == len(image.bytes)
    assert region.uuids == uuids
    assert region.memory_limits == (3 * GIB, 4 * GIB, *[0] * 14)
    assert region.core_limits == (30, 40, *[100] * 14)
    assert region.owner_pid == 77
    assert (region.utilization_switch, region.recent_kernel, region.priority) == (0, -1, 5)
    assert region.last_kernel_time == (1_700_000_000 if layout != "0" else None)
    first, second = region.processes
    assert (first.slot, first.pid, first.host_pid, first.suspended) == (0, 11, 1011, False)
    assert first.memory == (Memory(1, 2, 3, 4, 5), Memory(6, 7, 8, 9, 10))
    assert first.monitored == (111, 222)
    assert first.utilisation == (Utilisation(23, 22, 21), Utilisation(33, 32, 31))
    assert (second.slot, second.pid, second.host_pid, second.suspended) == (1, 12, None, True)
    assert second.memory == (Memory(), Memory(100, 200, 300, 0, 600))
    assert not region.doubts
    assert not first.torn


def test_the_sixteenth_device_and_the_last_slot_are_read(image: Any, written: Written) -> None:
    image.devices(*[f"GPU-{n:08d}-0000-0000-0000-000000000000" for n in range(16)])
    image.limits(*[(n + 1, n) for n in range(16)])
    for slot in range(1024):
        image.process(slot, slot + 1)
    image.memory(1023, 15, 1, 2, 3, 0, 6).monitored(1023, 15, 9).utilisation(1023, 15, 1, 2, 3)
    region = read_region(written(image))
    assert region.uuids[15].startswith("GPU-00000015")
    assert (region.memory_limits[15], region.core_limits[15]) == (16, 15)
    assert len(region.processes) == 1024
    last = region.processes[-1]
    assert (last.memory[15].total, last.monitored[15], last.utilisation[15].sm) == (6, 9, 3)


def test_a_slot_beyond_the_live_ones_is_not_read(image: Any, written: Written) -> None:
    image.process(0, 1).process(1, 2)
    image.put("<i", image.proc_num, 1)
    assert [process.pid for process in read_region(written(image)).processes] == [1]


@pytest.mark.parametrize(("pid", "status"), [(0, 1), (5, 0), (0, 0)])
def test_a_slot_that_its_process_left_is_skipped(
    image: Any, written: Written, pid: int, status: int
) -> None:
    image.process(0, 1).process(1, pid, status=status).process(2, 3)
    region = read_region(written(image))
    assert [(p.slot, p.pid) for p in region.processes] == [(0, 1), (2, 3)]


def test_memory_is_seen_before_a_process_has_named_its_devices(
    image: Any, written: Written
) -> None:
    """device_num stays 0 until somebody asks the driver (6.3)."""
    image.limits((GIB, 30)).process(0, 1).memory(0, 0, 1, 2, 3, 0, 6)
    region = read_region(written(image))
    assert region.uuids == ()
    assert region.processes[0].memory == (Memory(1, 2, 3, 0, 6),)


def test_without_limits_and_names_all_sixteen_devices_are_seen(
    image: Any, written: Written
) -> None:
    image.process(0, 1).memory(0, 7, 0, 0, 9, 0, 9)
    assert read_region(written(image)).processes[0].memory[7].total == 9


def test_1_1_and_1_1b_say_the_same_version_and_are_told_apart_by_length(
    image_of: Callable[[str], Any], written: Written, uuids: tuple[str, str]
) -> None:
    for name in ("1.1", "1.1b"):
        image = image_of(name).devices(*uuids)
        assert struct.unpack_from("<II", image.bytes, 4) == (1, 1)
        region = read_region(written(image))
        assert (region.version, region.uuids) == (name, uuids)


def test_a_1_2_region_stays_one_when_a_2_8_1_library_lengthened_its_file(
    image_of: Callable[[str], Any], written: Written, uuids: tuple[str, str]
) -> None:
    image = image_of("1.2").devices(*uuids)
    region = read_region(written(bytes(image.bytes) + bytes(32)))
    assert (region.version, region.uuids) == ("1.2", uuids)


def test_a_file_that_is_being_made_is_a_region_not_yet_initialised(
    layout: str, image: Any, written: Written
) -> None:
    for content in (b"", bytes(len(image.bytes))):
        region = read_region(written(content))
        assert not region.initialised
        assert (region.version, region.uuids, region.processes) == ("", (), ())
        assert region.memory_limits == (0,) * 16


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda i: i.put("<Q", i.device_num, 17), "device_num"),
        (lambda i: i.put("<Q", i.device_num, 2**64 - 1), "device_num"),
        (lambda i: i.devices(b"x" * 96), "uuids"),
        (lambda i: i.devices(b"GPU-\xff\xfe"), "uuids"),
        (lambda i: i.devices(b"GPU-a\nevil 1"), "uuids"),
        (lambda i: i.limits((2**64 - 1, 10)), "limit"),
        (lambda i: i.limits((1, 2**63)), "sm_limit"),
        (lambda i: i.put("<i", i.proc_num, -1), "proc_num"),
        (lambda i: i.put("<i", i.proc_num, 1025), "proc_num"),
        (lambda i: i.process(0, -5), "pid"),
        (lambda i: i.process(0, 1, -5), "hostpid"),
        (lambda i: i.process(0, 1).memory(0, 0, 0, 0, 0, 0, 2**64 - 4096), "used"),
        (lambda i: i.process(0, 1).monitored(0, 0, 2**63), "monitorused"),
        (lambda i: i.process(0, 1).utilisation(0, 0, 0, 0, 101), "device_util"),
    ],
)  # fmt: skip
def test_what_cannot_be_true_is_named_and_not_believed(
    image: Any, written: Written, spoil: Callable[[Any], Any], field: str
) -> None:
    spoil(image)
    region = read_region(written(image))
    assert region.doubts == {field}
    assert all(process.pid > 0 for process in region.processes)
    assert all(memory.total < 2**49 for p in region.processes for memory in p.memory)
    assert all(amount < 2**49 for p in region.processes for amount in p.monitored)
    assert all(util.sm <= 100 for p in region.processes for util in p.utilisation)
    assert all(uuid == "" for uuid in region.uuids)


def test_a_wrong_last_kernel_time_is_not_believed(
    image_of: Callable[[str], Any], written: Written
) -> None:
    image = image_of("1.2")
    image.put("<Q", image.last_kernel, 2**63)
    region = read_region(written(image))
    assert (region.last_kernel_time, region.doubts) == (None, {"last_kernel_time"})


def test_a_slot_that_was_left_half_written_is_marked(
    image_of: Callable[[str], Any], written: Written
) -> None:
    """A process killed inside an update leaves an odd number for ever."""
    for name in ("1.1b", "1.2"):
        image = image_of(name).process(0, 1, seqlock=2).process(1, 2, seqlock=3)
        assert [p.torn for p in read_region(written(image)).processes] == [False, True]


def test_a_slot_that_is_whole_at_the_second_try_is_read_then(
    image_of: Callable[[str], Any], written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deviceplugin.libvgpu import files

    image = image_of("1.2").process(0, 1, seqlock=3).memory(0, 0, 0, 0, 1, 0, 99)
    path = written(image)
    real, reads = files.os.pread, []

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        answer = real(descriptor, length, offset)
        if offset == image.procs:
            reads.append(length)
            if len(reads) == 1:  # the writer ends its update behind the first read
                image.process(0, 1, seqlock=4).memory(0, 0, 0, 0, 1, 0, 1)
                path.write_bytes(bytes(image.bytes))
        return answer

    monkeypatch.setattr(files.os, "pread", pread)
    (process,) = read_region(path).processes
    assert (process.torn, process.memory[0].total) == (False, 1)
    assert len(reads) == 3


def test_what_is_believed_is_what_was_checked(
    image_of: Callable[[str], Any], written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that begins behind the second look spoils that one, and not the first."""
    from deviceplugin.libvgpu import files

    image = image_of("1.2").process(0, 1, seqlock=4).memory(0, 0, 0, 0, 1, 0, 1)
    path = written(image)
    real, reads = files.os.pread, []

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        answer = real(descriptor, length, offset)
        if offset == image.procs:
            reads.append(length)
            if len(reads) == 2:
                answer = answer.replace(
                    struct.pack("<5Q", 0, 0, 1, 0, 1), struct.pack("<5Q", 0, 0, 99, 0, 1)
                )
        return answer

    monkeypatch.setattr(files.os, "pread", pread)
    (process,) = read_region(path).processes
    assert (process.torn, process.memory[0].data, len(reads)) == (False, 1, 2)


def test_the_fake_region_is_read_as_it_was_meant(tmp_path: Path, uuids: tuple[str, str]) -> None:
    for layout in LAYOUTS:
        fake = FakeRegion(
            layout,
            uuids,
            (GIB, 2 * GIB),
            (30, 40),
            (FakeProcess(7, 70, 1, {1: (1, 2, 3)}, {0: 5}, {1: 50}, 4), FakeProcess(8, status=0)),
            0,
            -1,
            0,
            1_700_000_000,
        )
        region = read_region(fake.write(tmp_path / "f.cache"))
        assert (region.version, region.uuids) == (layout.name, uuids)
        assert region.memory_limits[:3] == (GIB, 2 * GIB, 0)
        assert region.core_limits[:3] == (30, 40, 0)
        assert (region.utilization_switch, region.recent_kernel, region.priority) == (0, -1, 0)
        (process,) = region.processes
        assert (process.pid, process.host_pid, process.monitored) == (7, 70, (5, 0))
        assert process.memory[1] == Memory(1, 2, 3, 0, 6)
        assert process.utilisation[1] == Utilisation(50)


@st.composite
def regions(draw: st.DrawFn) -> tuple[str, list[tuple[int, int, list[int]]]]:
    name = draw(st.sampled_from(["0", "1.1", "1.1b", "1.2"]))
    amount = st.integers(0, 2**40)
    process = st.tuples(
        st.integers(1, 2**22), st.integers(0, 2**22), st.lists(amount, min_size=5, max_size=5)
    )
    return name, draw(st.lists(process, max_size=8))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(regions())
def test_any_processes_come_back_as_they_were_written(
    image_of: Callable[[str], Any], written: Written, drawn: tuple[str, list[Any]]
) -> None:
    name, processes = drawn
    image = image_of(name).limits((GIB, 30))
    for slot, (pid, host_pid, kinds) in enumerate(processes):
        image.process(slot, pid, host_pid).memory(slot, 0, *kinds)
    region = read_region(written(image))
    assert [(p.pid, p.host_pid or 0, p.memory[0]) for p in region.processes] == [
        (pid, host_pid, Memory(*kinds)) for pid, host_pid, kinds in processes
    ]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=4096))
def test_random_files_are_refused_with_reason_and_remedy(written: Written, content: bytes) -> None:
    try:
        region = read_region(written(content))
    except RegionError as error:
        assert error.path.endswith("r.cache")
        assert error.reason
        assert error.remedy
        assert error.path in str(error)
    else:
        assert not content
        assert not region.initialised


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_random_bytes_in_a_region_give_a_region_or_a_reason(
    image_of: Callable[[str], Any], written: Written, data: st.DataObject
) -> None:
    image = image_of(data.draw(st.sampled_from(["0", "1.1", "1.1b", "1.2"])))
    spots = st.one_of(
        st.integers(0, image.procs + 3 * image.slot_size),
        st.integers(image.proc_num - 16, len(image.bytes) - 1),
    )
    for offset, garbage in data.draw(
        st.lists(st.tuples(spots, st.binary(min_size=1, max_size=200)))
    ):
        image.bytes[offset : offset + len(garbage)] = garbage[: len(image.bytes) - offset]
    length = data.draw(st.one_of(st.just(len(image.bytes)), st.integers(0, len(image.bytes) + 64)))
    content = bytes(image.bytes[:length]).ljust(length, b"\0")
    try:
        region = read_region(written(content))
    except RegionError as error:
        assert error.reason
        assert error.remedy
        return
    assert isinstance(region, Region)
    assert len(region.uuids) <= 16
    assert len(region.processes) <= 1024
    assert all(uuid.isascii() and uuid.isprintable() for uuid in region.uuids)
