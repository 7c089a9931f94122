"""What people are told of a change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.config.difference import differences


@dataclass(frozen=True)
class Part:
    size: int
    names: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b: 1 -> 2"]),
        ({"a": 1}, {}, ["a: 1 -> nothing"]),
        ({}, {"a": {"b": None}}, ['a: nothing -> {"b": null}']),
        ({"a": (1, 2)}, {"a": [1, 3, 4]}, ["a[1]: 2 -> 3", "a[2]: nothing -> 4"]),
        (Part(1, ("x",)), Part(2, ("x",)), ["size: 1 -> 2"]),
        ({"p": Part(1)}, {"p": Part(1, ("x",))}, ['p.names[0]: nothing -> "x"']),
        ({"a": True}, {"a": "yes"}, ['a: true -> "yes"']),
        (1, 2, ["all: 1 -> 2"]),
        ({"a": 1}, {"a": 1}, []),
    ],
)
def test_each_value_that_is_another_is_a_line(before: Any, after: Any, told: list[str]) -> None:
    assert differences(before, after) == told


def test_many_changes_are_counted() -> None:
    before, after = dict.fromkeys(map(str, range(30)), 0), dict.fromkeys(map(str, range(30)), 1)
    assert differences(before, after, 3) == ["0: 0 -> 1", "1: 0 -> 1", "2: 0 -> 1", "and 27 more"]


trees = st.recursive(
    st.integers(0, 3) | st.text("ab", max_size=2) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=10,
)


@given(trees, trees)
def test_there_is_something_to_tell_exactly_where_they_differ(before: Any, after: Any) -> None:
    assert bool(differences(before, after)) is (before != after)
