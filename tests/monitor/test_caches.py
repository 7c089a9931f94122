"""Finding containers' directories, whatever they are called and hold."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.allocation.identity import allocation_id
from deviceplugin.libvgpu import Fault, Field, Region, RegionError
from deviceplugin.monitor.caches import CacheName, Caches, parse

UID = "7c2f0b3e-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"{UID}_main", CacheName(UID, "main")),
        (f"{UID}_a", CacheName(UID, "a")),
        (f"{UID}_my-worker-0", CacheName(UID, "my-worker-0")),
        ("0123456789abcdef0123456789abcdef_main", CacheName("0123456789abcdef0123456789abcdef", "main")),
        (allocation_id("nvidia.com/gpu", ["a", "b"]), CacheName(allocation_id=allocation_id("nvidia.com/gpu", ["a", "b"]))),
        ("", None),
        ("_", None),
        ("_main", None),
        (UID, None),
        (f"{UID}_", None),
        (f"{UID}_Main", None),
        (f"{UID}_-main", None),
        (f"{UID}_main_2", None),
        (f"{UID}_{'a' * 64}", None),
        (f"{UID}_main\n", None),
        (f"{UID}_../../etc", None),
        ("..", None),
        ("lost+found", None),
        ("a-not-an-allocation", None),
        ("\udcff_main", None),
        ("uid_\u0430", None),
    ],
)  # fmt: skip
def test_a_name_says_whose_directory_it_is(name: str, expected: CacheName | None) -> None:
    assert parse(name) == expected


@given(st.text())
def test_any_name_is_understood_or_not(name: str) -> None:
    found = parse(name)
    if found is not None:
        assert name == (found.allocation_id or f"{found.pod_uid}_{found.container}")
        assert "/" not in name


def fault(caches: Caches, name: str) -> Fault | None:
    found = caches.read([name])[name]
    return found.fault if isinstance(found, RegionError) else None


def test_each_directory_is_read_for_itself(
    root: Path,
    container: Callable[..., Any],
    directory: Callable[..., Path],
    region: Callable[..., Any],
) -> None:
    good, empty, gone, odd = (container(n) for n in range(4))
    directory(good, region())
    directory(empty)
    (directory(odd) / "x.cache").symlink_to("/etc/shadow")
    found = Caches(root).read(c.cache_dir for c in (good, empty, gone, odd, good))
    assert list(found) == [c.cache_dir for c in (good, empty, gone, odd)]
    assert isinstance(found[good.cache_dir], Region)
    assert found[empty.cache_dir] is None
    assert fault(Caches(root), gone.cache_dir) is Fault.MISSING
    assert fault(Caches(root), odd.cache_dir) is Fault.NOT_A_FILE


@pytest.mark.parametrize("name", ["", "..", "../secret", "/etc", "a\0b"])
def test_a_name_never_leads_out_of_the_root(root: Path, name: str) -> None:
    secret = root.parent / "secret"
    secret.mkdir()
    (secret / "x.cache").touch()
    assert isinstance(Caches(root).read([name])[name], RegionError)


def test_a_directory_that_is_a_link_is_not_entered(
    root: Path, container: Callable[..., Any]
) -> None:
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.cache").touch()
    (root / container().cache_dir).symlink_to(elsewhere)
    assert fault(Caches(root), container().cache_dir) is Fault.NOT_A_FILE


def test_the_root_may_be_a_link_of_the_operators(
    root: Path,
    container: Callable[..., Any],
    directory: Callable[..., Path],
    region: Callable[..., Any],
) -> None:
    directory(container(), region())
    link = root.parent / "link"
    link.symlink_to(root)
    name = container().cache_dir
    assert isinstance(Caches(link).read([name])[name], Region)


def test_without_a_root_there_is_nothing(tmp_path: Path) -> None:
    caches = Caches(tmp_path / "none")
    assert caches.names() == []
    assert fault(caches, "x") is Fault.MISSING


def test_a_root_that_is_no_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RegionError):
        Caches(tmp_path / "file").names()


def test_a_region_that_is_replaced_is_seen(
    root: Path,
    container: Callable[..., Any],
    directory: Callable[..., Path],
    region: Callable[..., Any],
) -> None:
    name = container().cache_dir
    for priority in (1, 0):
        directory(container(), region(priority=priority))
        found = Caches(root).read([name])[name]
        assert isinstance(found, Region)
        assert found.priority == priority
        (root / name / "0b3e7a4c-0000-4000-8000-000000000000.cache").unlink()


def test_fields_are_written_to_the_region_that_was_seen(
    root: Path,
    container: Callable[..., Any],
    directory: Callable[..., Path],
    region: Callable[..., Any],
) -> None:
    caches, name = Caches(root), container().cache_dir
    path = directory(container(), region())
    seen = caches.read([name])[name]
    assert isinstance(seen, Region)
    assert caches.write(name, seen, {Field.RECENT_KERNEL: -1}) == {Field.RECENT_KERNEL}
    again = caches.read([name])[name]
    assert isinstance(again, Region)
    assert again.recent_kernel == -1
    for file in path.glob("*.cache"):
        file.unlink()
    with pytest.raises(RegionError):
        caches.write(name, seen, {Field.RECENT_KERNEL: 0})


def test_no_descriptor_is_left_open(
    root: Path,
    container: Callable[..., Any],
    directory: Callable[..., Path],
    region: Callable[..., Any],
) -> None:
    directory(container(0), region())
    os.mkfifo(directory(container(1)) / "x.cache")
    before = sorted(Path("/proc/self/fd").iterdir())
    caches = Caches(root)
    caches.read([*caches.names(), "none", "/"])
    assert sorted(Path("/proc/self/fd").iterdir()) == before
