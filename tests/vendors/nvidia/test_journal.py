"""The journal's file: read back, replaced as a whole, and never shared by two at work."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.vendors.nvidia.geometry import Place, Placement
from deviceplugin.vendors.nvidia.journal import Entry, Journal, JournalError, JournalHeldError

PLACES = st.builds(
    Place,
    st.sampled_from(["1g.5gb", "1g.5gb+me"]),
    st.builds(Placement, st.integers(0, 7), st.just(1)),
)
LAYOUTS = st.lists(PLACES, max_size=7).map(tuple)
ENTRIES = st.dictionaries(
    st.sampled_from(["GPU-0", "GPU-1"]), st.builds(Entry, LAYOUTS, st.booleans(), LAYOUTS)
)


@given(first=ENTRIES, second=ENTRIES)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, first: dict[str, Entry], second: dict[str, Entry]
) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal") / "nvidia-mig.json")
    for entries in (first, second):
        journal.write(entries)
        assert journal.read() == entries
    assert [path.name for path in journal.path.parent.iterdir()] == ["nvidia-mig.json"]


def test_the_content_is_on_the_disk_before_the_name_points_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append(path.name)
        text = (tmp_path / "j.json").read_text() if (tmp_path / "j.json").exists() else ""
        synced.append("new" if "GPU-0" in text else "old")

    monkeypatch.setattr(os, "fsync", fsync)
    Journal(tmp_path / "j.json").write({"GPU-0": Entry(())})
    assert synced == ["j.new", "old", tmp_path.name, "new"]


def test_no_file_is_no_entry(tmp_path: Path) -> None:
    assert Journal(tmp_path / "missing" / "j.json").read() == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"version": 2, "cards": {}}',
        '{"version": 1, "cards": []}',
        '{"version": 1, "cards": {"GPU-0": {"open": false, "kept": []}}}',
        '{"version": 1, "cards": {"GPU-0": {"open": false, "kept": [], "layout": [["x", 1]]}}}',
        '{"version": 1, "cards": {"GPU-0": {"open": false, "kept": [], "layout": [["x", "y", 1]]}}}',
        "[" * 100_000,
    ],
)
def test_what_is_no_journal_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "j.json"
    path.write_text(text)
    with pytest.raises(JournalError, match=r"j\.json is not readable"):
        Journal(path).read()


def test_a_file_that_cannot_be_read_is_an_error_and_not_an_empty_journal(tmp_path: Path) -> None:
    (tmp_path / "j.json").mkdir()
    with pytest.raises(JournalError, match="IsADirectoryError"):
        Journal(tmp_path / "j.json").read()


def test_only_one_is_at_work(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run" / "j.json")
    with (
        journal.held(wait=True),
        pytest.raises(JournalHeldError),
        Journal(journal.path).held(wait=False),
    ):
        pass
    with journal.held(wait=False):
        pass


def test_recovery_leaves_a_journal_alone_that_another_process_is_at_work_with(
    arena: object,
) -> None:
    """A command that only looks at devices must not end what the agent's probe is doing."""
    arena.partition(arena.request("2-0"))  # type: ignore[attr-defined]
    journal: Path = arena.journal  # type: ignore[attr-defined]
    entry = journal.read_text().replace('"open": false', '"open": true')
    journal.write_text(entry)
    with journal.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert arena.discover().problems == ()  # type: ignore[attr-defined]
        assert journal.read_text() == entry
    arena.discover()  # type: ignore[attr-defined]
    assert '"open": true' not in journal.read_text()
