"""What was handed over is remembered, whatever happens to the file."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin.scheduled.ledger import Ledger, LedgerError, Record, Share

names = st.text(min_size=1, max_size=8)
records = st.builds(
    Record,
    vendor=names,
    resource=names,
    ids=st.frozensets(names, min_size=1, max_size=4),
    pod_uid=names,
    namespace=names,
    pod=names,
    container=names,
    shares=st.lists(st.builds(Share, names, st.integers(0), st.integers(0, 100))).map(tuple),
    init=st.booleans(),
    starts=st.integers(0, 9),
)


@given(st.lists(records, max_size=6))
@settings(max_examples=50)
def test_a_new_agent_knows_what_the_old_one_did(kept: list[Record]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grants.json"
        before = Ledger(path)
        before.put(*kept)
        after = Ledger(path)
        after.load()
        assert {r.key: r for r in after} == {r.key: r for r in kept}
        after.remove(kept)
        before.load()
        assert list(before) == []
        assert [p.name for p in Path(folder).iterdir()] == ["grants.json"]


RECORD = Record("v", "a.b/c", frozenset({"1"}), "u", "ns", "p", "c", (Share("x", 1, 2),))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-5],
        lambda text: text.replace('"p"', '"q"'),
        lambda text: text.replace('"version":1', '"version":2'),
        lambda text: "[]",
        lambda text: "{" * 10_000,
        lambda text: json.dumps({**json.loads(text), "grants": [{}]}),
    ],
)
def test_a_damaged_file_is_told_and_counts_as_none(damage: object, tmp_path: Path) -> None:
    path = tmp_path / "grants.json"
    Ledger(path).put(RECORD)
    path.write_text(damage(path.read_text()))  # type: ignore[operator]
    ledger = Ledger(path)
    with pytest.raises(LedgerError, match=r"grants\.json"):
        ledger.load()
    assert list(ledger) == []


def test_what_cannot_be_written_is_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ledger = Ledger(tmp_path / "file" / "grants.json")
    with pytest.raises(OSError):
        ledger.put(RECORD)
    assert list(ledger) == []


def test_a_write_that_was_cut_off_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "grants.json"
    Ledger(path).put(RECORD)
    (tmp_path / ".grants.json.killed").write_text('{"version"')
    ledger = Ledger(path)
    ledger.load()
    assert list(ledger) == [RECORD]
    assert [p.name for p in tmp_path.iterdir()] == ["grants.json"]


def test_agents_that_share_a_node_keep_each_others_records(tmp_path: Path) -> None:
    """One serves another vendor, or begins before the last one ended."""
    one, other = Ledger(tmp_path / "grants.json"), Ledger(tmp_path / "grants.json")
    theirs = replace(RECORD, vendor="w", pod_uid="other")
    one.put(RECORD)
    other.put(theirs)
    assert set(other) == {RECORD, theirs}
    one.put(replace(RECORD, starts=1))
    assert set(one) == {replace(RECORD, starts=1), theirs}
    other.remove([theirs])
    one.refresh()
    assert set(one) == {replace(RECORD, starts=1)}
    assert [p.name for p in tmp_path.iterdir()] == ["grants.json"]


def test_what_is_known_outlives_a_file_that_is_gone_or_damaged(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "grants.json")
    ledger.put(RECORD)
    (tmp_path / "grants.json").write_text("{")
    ledger.refresh()
    assert list(ledger) == [RECORD]
    (tmp_path / "grants.json").unlink()
    ledger.put(replace(RECORD, pod_uid="v"))
    again = Ledger(tmp_path / "grants.json")
    again.load()
    assert len(list(again)) == 2


def test_records_that_are_put_and_removed_at_once_are_all_there(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "grants.json")
    made = [replace(RECORD, pod_uid=f"u{number}") for number in range(60)]
    stale = [replace(RECORD, pod_uid=f"old{number}") for number in range(30)]
    ledger.put(*stale)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(ledger.put, one) for one in made]
        jobs += [pool.submit(ledger.remove, [one]) for one in stale]
        for job in jobs:
            job.result()
    again = Ledger(tmp_path / "grants.json")
    again.load()
    assert set(again) == set(ledger) == set(made)
