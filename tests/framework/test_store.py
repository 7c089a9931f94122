"""Specifications are there while they may be needed, whatever else goes on."""

from __future__ import annotations

import threading
from pathlib import Path

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
