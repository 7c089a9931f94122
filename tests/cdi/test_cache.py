"""What a runtime knows after reading directories: priority, conflicts, errors (cdi.md 2)."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.cdi import (
    DEFAULT_DIRECTORIES,
    CDIError,
    ContainerEdits,
    Device,
    Spec,
    combine,
    load_directories,
    read_spec,
    remove_spec,
    resolve,
    write_spec,
)

Put = Callable[..., Path]


@pytest.fixture
def directories(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "static", tmp_path / "dynamic"


def test_the_static_directory_comes_before_the_dynamic_one() -> None:
    assert [str(path) for path in DEFAULT_DIRECTORIES] == ["/etc/cdi", "/var/run/cdi"]


def test_no_directories_give_nothing() -> None:
    cache = load_directories([])
    assert (cache.specs, cache.devices, cache.errors) == ((), {}, {})
    assert (cache.vendors(), cache.classes()) == ([], [])


def test_missing_and_empty_directories_are_fine(directories: tuple[Path, Path]) -> None:
    directories[0].mkdir()
    cache = load_directories(directories)
    assert (cache.specs, cache.devices, cache.errors) == ((), {}, {})


def test_a_file_gives_vendor_class_devices_path_and_priority(
    directories: tuple[Path, Path], put: Put
) -> None:
    path = put("dynamic/a.json", {"dev1": {"env": ["A=1"]}})
    cache = load_directories(directories)
    (loaded,) = cache.specs
    assert (loaded.path, loaded.priority, loaded.spec.kind) == (path, 1, "vendor.com/device")
    assert list(cache.devices) == ["vendor.com/device=dev1"]
    assert cache.devices["vendor.com/device=dev1"].origin is loaded
    assert (cache.vendors(), cache.classes()) == (["vendor.com"], ["device"])


def test_a_broken_file_hides_no_other_and_its_error_is_kept(
    directories: tuple[Path, Path], put: Put
) -> None:
    put("static/a.json", {"dev1": {"env": ["A=1"]}})
    broken = put("static/b.json", {"dev2": {}})
    put("static/c.json", {"dev3": {"env": ["A=1"]}})
    cache = load_directories(directories)
    assert list(cache.devices) == ["vendor.com/device=dev1", "vendor.com/device=dev3"]
    assert list(cache.errors) == [broken]
    assert str(broken) in str(cache.errors[broken][0])
    assert "empty device edits" in str(cache.errors[broken][0])


def test_in_the_higher_directory_a_device_overrides_silently(
    directories: tuple[Path, Path], put: Put
) -> None:
    low = put("static/a.json", {"dev1": {"env": ["A=low"]}, "dev2": {"env": ["A=low"]}})
    high = put("dynamic/a.json", {"dev1": {"env": ["A=high"]}})
    cache = load_directories(directories)
    assert cache.devices["vendor.com/device=dev1"].origin.path == high
    assert cache.devices["vendor.com/device=dev2"].origin.path == low
    assert (cache.errors, cache.conflicts) == ({}, frozenset())


def test_a_device_twice_in_a_directory_is_gone_and_both_files_have_the_error(
    directories: tuple[Path, Path], put: Put
) -> None:
    one = put("static/a.json", {"dev1": {"env": ["A=1"]}})
    two = put("static/b.json", {"dev1": {"env": ["A=1"]}, "dev2": {"env": ["A=1"]}})
    cache = load_directories(directories)
    assert list(cache.devices) == ["vendor.com/device=dev2"]
    assert cache.conflicts == {"vendor.com/device=dev1"}
    rule = f'conflicting device "vendor.com/device=dev1" (specs "{two}", "{one}")'
    for path in (one, two):
        assert [error.problems[0].rule for error in cache.errors[path]] == [rule]
        assert cache.errors[path][0].problems[0].source == str(path)
    assert len(cache.specs) == 2


def test_a_conflict_removes_the_device_even_where_a_higher_directory_has_it(
    directories: tuple[Path, Path], put: Put
) -> None:
    put("static/a.json", {"dev1": {"env": ["A=1"]}})
    put("static/b.json", {"dev1": {"env": ["A=1"]}})
    put("dynamic/c.json", {"dev1": {"env": ["A=1"]}})
    assert load_directories(directories).devices == {}


def test_files_of_one_kind_with_other_device_names_live_together(
    directories: tuple[Path, Path], put: Put
) -> None:
    put("static/a.json", {"dev1": {"env": ["A=1"]}})
    put("static/b.json", {"dev2": {"env": ["A=1"]}})
    cache = load_directories(directories)
    assert len(cache.devices) == 2
    assert cache.errors == {}


def test_our_file_and_another_writers_do_not_conflict_in_one_directory(
    directories: tuple[Path, Path], put: Put, spec: Callable[..., Spec]
) -> None:
    put("static/nvidia.com-gpu.json", {"0": {"env": ["A=1"]}}, kind="nvidia.com/gpu")
    write_spec(directories[0], spec("0", kind="k8s.example.com/gpu"))
    cache = load_directories(directories)
    assert sorted(cache.devices) == ["k8s.example.com/gpu=0", "nvidia.com/gpu=0"]
    assert cache.errors == {}


def test_only_json_and_yaml_directly_inside_are_read(
    directories: tuple[Path, Path], put: Put
) -> None:
    good = {"dev1": {"env": ["A=1"]}}
    for name in ("a.yml", "a.json.tmp", ".cdi-x.tmp", "sub/a.json", "json"):
        put(f"static/{name}", good)
    (directories[0] / "folder.json").mkdir()
    os.mkfifo(directories[0] / "fifo.json")
    cache = load_directories(directories)
    assert (cache.specs, cache.errors) == ((), {})
    path = directories[0] / "a.yaml"
    path.write_text((directories[0] / "a.yml").read_text())
    assert [loaded.path for loaded in load_directories(directories).specs] == [path]


def test_what_cannot_be_read_is_an_error_and_no_end(
    directories: tuple[Path, Path], put: Put
) -> None:
    put("static/a.json", {"dev1": {"env": ["A=1"]}})
    dangling, binary = directories[0] / "b.json", directories[0] / "c.yaml"
    dangling.symlink_to("nowhere")
    binary.write_bytes(b"\xff\xfe")
    directories[1].write_text("not a directory")
    cache = load_directories(directories)
    assert list(cache.devices) == ["vendor.com/device=dev1"]
    assert {path: str(found[0]) for path, found in cache.errors.items()} == {
        dangling: f"{dangling}: cannot be read: no such file or directory",
        binary: f"{binary}: not UTF-8",
        directories[1]: f"{directories[1]}: cannot be read: not a directory",
    }


def test_a_link_is_read_like_a_file(directories: tuple[Path, Path], put: Put) -> None:
    path = put("elsewhere/a.json", {"dev1": {"env": ["A=1"]}})
    directories[0].mkdir()
    (directories[0] / "a.json").symlink_to(path)
    assert list(load_directories(directories).devices) == ["vendor.com/device=dev1"]


def test_a_file_of_a_one_character_class_does_not_crash_the_reader(
    directories: tuple[Path, Path], put: Put
) -> None:
    path = put("static/a.json", {"dev1": {"env": ["A=1"]}}, kind="vendor.com/c")
    cache = load_directories(directories)
    assert (list(cache.errors), cache.devices) == ([path], {})


def test_several_vendors_and_classes_are_listed_once_and_sorted(
    directories: tuple[Path, Path], put: Put
) -> None:
    for number, kind in enumerate(["b.com/gpu", "a.com/gpu", "a.com/nic", "b.com/nic"]):
        put(f"static/{number}.json", {"dev": {"env": ["A=1"]}}, kind=kind)
    cache = load_directories(directories)
    assert (cache.vendors(), cache.classes()) == (["a.com", "b.com"], ["gpu", "nic"])


def test_an_old_runtime_does_not_see_a_newer_file(directories: tuple[Path, Path], put: Put) -> None:
    old = put("static/a.json", {"dev1": {"env": ["A=1"]}}, cdiVersion="0.5.0")
    new = put("static/b.json", {"dev2": {"env": ["A=1"]}}, cdiVersion="0.6.0")
    cache = load_directories(directories, max_version="0.5.0")
    assert [loaded.path for loaded in cache.specs] == [old]
    assert list(cache.errors) == [new]
    read_spec(new)
    with pytest.raises(CDIError, match=r"up to 0\.5\.0$"):
        read_spec(new, max_version="0.5.0")


def test_loading_again_sees_added_removed_and_shadowed_files(
    directories: tuple[Path, Path], put: Put
) -> None:
    first = put("static/a.json", {"dev1": {"env": ["A=1"]}})
    before = load_directories(directories)
    put("static/b.json", {"dev2": {"env": ["A=1"]}})
    shadow = put("dynamic/a.json", {"dev1": {"env": ["A=2"]}})
    cache = load_directories(directories)
    assert cache.devices["vendor.com/device=dev1"].origin.path == shadow
    assert "vendor.com/device=dev2" in cache.devices
    shadow.unlink()
    assert load_directories(directories).devices["vendor.com/device=dev1"].origin.path == first
    first.unlink()
    assert list(load_directories(directories).devices) == ["vendor.com/device=dev2"]
    assert list(before.devices) == ["vendor.com/device=dev1"]


@given(
    st.dictionaries(
        st.tuples(st.sampled_from([0, 1, 2]), st.sampled_from(["a", "b", "c"])),
        st.sets(st.sampled_from(["dev1", "dev2", "dev3"]), min_size=1),
    )
)
def test_wherever_devices_stand_priority_and_conflict_decide(
    files: dict[tuple[int, str], set[str]],
) -> None:
    with tempfile.TemporaryDirectory() as base:
        directories = [Path(base, str(priority)) for priority in range(3)]
        for (priority, name), devices in files.items():
            edits = ContainerEdits(env=("A=1",))
            listed = tuple(Device(device, edits) for device in sorted(devices))
            write_spec(directories[priority], Spec("vendor.com/device", listed), name=name)
        cache = load_directories(directories)

    expected, conflicts, touched = {}, set(), set()
    for device in ("dev1", "dev2", "dev3"):
        name = f"vendor.com/device={device}"
        places = [
            [
                directories[p] / f"{f}.json"
                for (p, f), found in files.items()
                if p == at and device in found
            ]
            for at in range(3)
        ]
        for twice in places:
            if len(twice) > 1:
                conflicts.add(name)
                touched.update(twice)
        if name not in conflicts and any(places):
            expected[name] = next(found[0] for found in reversed(places) if found)
    assert {name: loaded.origin.path for name, loaded in cache.devices.items()} == expected
    assert cache.conflicts == conflicts
    assert set(cache.errors) == touched


def test_while_a_file_is_updated_and_shadowed_an_injection_sees_one_complete_state(
    directories: tuple[Path, Path],
) -> None:
    def state(text: str) -> Spec:
        edits = ContainerEdits(env=(f"A={text}", f"B={text}"))
        return Spec(
            "vendor.com/device", (Device("dev", edits),), ContainerEdits(env=(f"C={text}",))
        )

    static, dynamic = directories
    write_spec(static, state("first"))
    finished = threading.Event()

    def change() -> None:
        try:
            for turn in range(60):
                write_spec(static, state(f"static{turn}"), fsync=False)
                write_spec(dynamic, state(f"dynamic{turn}"), fsync=False)
                remove_spec(dynamic, "vendor.com-device")
        finally:
            finished.set()

    def inject() -> set[str]:
        seen = set()
        while not finished.is_set():
            cache = load_directories(directories)
            env = combine(resolve(["vendor.com/device=dev"], cache)).env
            (text,) = {entry.partition("=")[2] for entry in env}
            assert len(env) == 3
            seen.add(text)
        return seen

    with ThreadPoolExecutor(3) as pool:
        injections = [pool.submit(inject) for _ in range(2)]
        pool.submit(change).result()
    assert all(injection.result() for injection in injections)
    last = combine(resolve(["vendor.com/device=dev"], load_directories(directories)))
    assert last.env == ("C=static59", "A=static59", "B=static59")
