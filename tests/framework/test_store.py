"""Specifications are there while they may be needed, whatever else goes on."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deviceplugin.cdi import CDIError, loads
from deviceplugin.cdi.model import ContainerEdits, Device, Spec
from deviceplugin.injection.store import SpecStore

KIND = "k8s.deviceplugin.dev/acme"


def spec(name: str) -> Spec:
    return Spec(KIND, (Device(name, ContainerEdits(env=("A=1",))),))


def test_a_file_that_nobody_holds_yet_survives_one_sweep_and_not_two(tmp_path: Path) -> None:
    store = SpecStore(tmp_path)
    store.put("acme", "a-1", spec("a-1"))
    assert store.sweep("acme", ()) == set()
    assert store.sweep("acme", ()) == {"a-1"}
    assert not store.allocations("acme")


def test_a_file_that_was_written_again_counts_as_new(tmp_path: Path) -> None:
    store = SpecStore(tmp_path)
    store.put("acme", "a-1", spec("a-1"))
    store.sweep("acme", ())
    store.put("acme", "a-1", spec("a-1"))
    assert store.sweep("acme", ()) == set()


def test_what_stands_need_not_be_put_again_and_counts_as_new(tmp_path: Path) -> None:
    store = SpecStore(tmp_path)
    assert not store.stands("acme", "a-1", spec("a-1"))
    store.put("acme", "a-1", spec("a-1"))
    assert not store.stands("acme", "a-1", spec("another"))
    store.sweep("acme", ())
    assert store.stands("acme", "a-1", spec("a-1"))
    assert store.sweep("acme", ()) == set(), "as after it was put again"
    (file,) = tmp_path.glob("*.json")
    file.unlink()
    assert not store.stands("acme", "a-1", spec("a-1"))


def test_nobody_waits_to_hear_what_stands(tmp_path: Path) -> None:
    store = SpecStore(tmp_path)
    store.put("acme", "a-1", spec("a-1"))
    inside, leave = threading.Event(), threading.Event()

    class Slow(list[str]):
        def __iter__(self) -> Iterator[str]:
            inside.set()
            leave.wait(20)
            return super().__iter__()

    sweeping = threading.Thread(target=store.sweep, args=("acme", Slow()))
    sweeping.start()
    assert inside.wait(20)
    assert not store.stands("acme", "a-1", spec("a-1"))
    leave.set()
    sweeping.join()
    assert store.stands("acme", "a-1", spec("a-1"))


def test_held_files_stay_and_those_of_another_vendor_are_not_looked_at(tmp_path: Path) -> None:
    store = SpecStore(tmp_path)
    store.put("acme", "a-1", spec("a-1"))
    store.put("other", "a-2", Spec("k8s.deviceplugin.dev/other", spec("a-2").devices))
    for _ in range(3):
        assert store.sweep("acme", {"a-1"}) == set()
    assert store.allocations("other") == {"a-2"}


def test_writing_restoring_and_sweeping_at_once_lose_nothing(tmp_path: Path) -> None:
    store = SpecStore(tmp_path)
    names = [f"a-{number}" for number in range(150)]
    done, errors = threading.Event(), []

    def disturb() -> None:
        try:
            while not done.is_set():
                store.restore()
                store.sweep("acme", names)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=disturb) for _ in range(3)]
    for thread in threads:
        thread.start()
    for name in names:
        store.put("acme", name, spec(name))
    done.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.allocations("acme") == set(names)


def test_a_wiped_directory_is_filled_again(tmp_path: Path) -> None:
    store = SpecStore(tmp_path)
    store.put("acme", "a-1", spec("a-1"))
    for path in tmp_path.iterdir():
        path.unlink()
    assert len(store.restore()) == 1
    assert store.allocations("acme") == {"a-1"}


FILE = "k8s.deviceplugin.dev-acme_a-1.json"


@pytest.mark.parametrize("plant", ["symlink", "hardlink", "dangling"])
def test_a_link_in_the_place_of_a_file_is_no_file_and_what_it_points_at_stays(
    tmp_path: Path, plant: str
) -> None:
    directory, elsewhere = tmp_path / "cdi", tmp_path / "elsewhere"
    store = SpecStore(directory)
    store.put("acme", "a-1", spec("a-1"))
    (directory / FILE).unlink()
    if plant != "dangling":
        elsewhere.write_text("somebody's")
    if plant == "hardlink":
        (directory / FILE).hardlink_to(elsewhere)
    else:
        (directory / FILE).symlink_to(elsewhere)
    assert not store.holds("acme", "a-1")
    assert store.restore() == [FILE.removesuffix(".json")]
    assert store.holds("acme", "a-1")
    assert loads((directory / FILE).read_text()).devices == spec("a-1").devices
    if plant == "dangling":
        assert not elsewhere.exists()
    else:
        assert elsewhere.read_text() == "somebody's"
    (directory / FILE).unlink()
    (directory / FILE).symlink_to(elsewhere)
    store.put("acme", "a-1", spec("a-1"))
    assert store.holds("acme", "a-1")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EROFS, "mount the directory writable"),
        (errno.ENOSPC, "free space"),
        (errno.EACCES, "grant write access"),
    ],
)
def test_a_directory_that_takes_nothing_is_an_error_with_file_and_remedy_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    store = SpecStore(tmp_path)
    rename = os.rename

    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "rename", fails)
    for _ in range(2):
        with pytest.raises(OSError, match=rf"{remedy}.*{FILE}"):
            store.put("acme", "a-1", spec("a-1"))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(os, "rename", rename)
    store.put("acme", "a-1", spec("a-1"))
    assert store.holds("acme", "a-1")


def test_an_invalid_specification_touches_nothing(tmp_path: Path) -> None:
    store = SpecStore(tmp_path)
    with pytest.raises(CDIError):
        store.put("acme", "a-1", Spec(KIND, (Device("a-1", ContainerEdits(env=("no equals",))),)))
    assert not store.holds("acme", "a-1")
    assert store.restore() == []
