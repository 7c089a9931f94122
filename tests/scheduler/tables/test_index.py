"""The index is whole: what it names exists, and every test of this folder is in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
TESTS = HERE.parents[1]
PAGE = (TESTS.parent / "docs" / "compatibility.md").read_text()
INDEX: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "index.yaml").read_text())


def rows() -> Iterator[tuple[str, list[Any]]]:
    for table, entries in INDEX.items():
        for row, places in entries.items():
            yield f"{table}: {row}", places if isinstance(places, list) else [places]


def names_of(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test")
    }


@pytest.mark.parametrize(("row", "places"), list(rows()), ids=[row for row, _ in rows()])
def test_a_row_has_a_test_or_a_difference_that_is_told(row: str, places: list[Any]) -> None:
    assert places, row
    for place in places:
        if isinstance(place, dict):
            assert f"\n| {place['differs']} |" in PAGE
            continue
        file, _, name = place.partition("::")
        assert (TESTS / file).is_file(), file
        if name:
            assert name in names_of(TESTS / file), place


def test_every_test_of_the_tables_is_in_the_index() -> None:
    named = {place for _, places in rows() for place in places if isinstance(place, str)}
    for path in HERE.glob("test_*.py"):
        if path.name == Path(__file__).name:
            continue
        for name in names_of(path):
            assert f"scheduler/tables/{path.name}::{name}" in named
