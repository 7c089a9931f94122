"""Patches by their standards."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.testing.apiserver.patching import PatchError, merged, operated, strategic

values = st.recursive(
    st.integers(0, 3) | st.text("ab", max_size=2),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text("abc", min_size=1, max_size=2), values, max_size=4)


def difference(old: Any, new: Any) -> Any:
    """The merge patch from one object to another."""
    patch: dict[str, Any] = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        if key in old and isinstance(value, dict) and isinstance(old[key], dict):
            patch[key] = difference(old[key], value)
        elif old.get(key) != value:
            patch[key] = value
    return patch


@given(objects, objects)
def test_the_difference_of_two_objects_leads_from_one_to_the_other(old: Any, new: Any) -> None:
    assert merged(old, difference(old, new)) == new


@given(objects)
def test_a_patch_leaves_its_target_alone(old: Any) -> None:
    before = str(old)
    merged(old, {"zz": 1, **dict.fromkeys(old)})
    assert str(old) == before


def test_examples_of_the_standard() -> None:
    assert merged({"a": "b"}, {"a": "c"}) == {"a": "c"}
    assert merged({"a": [1]}, {"a": {"b": None, "c": 1}}) == {"a": {"c": 1}}
    assert operated({"a": {"b/c": 1}}, [{"op": "remove", "path": "/a/b~1c"}]) == {"a": {}}
    assert operated({"a": [1, 3]}, [{"op": "add", "path": "/a/1", "value": 2}]) == {"a": [1, 2, 3]}
    assert operated({"a": 1}, [{"op": "move", "from": "/a", "path": "/b"}]) == {"b": 1}


@pytest.mark.parametrize(
    "operations",
    [
        {"op": "add"},
        [{"op": "test", "path": "/a", "value": 2}],
        [{"op": "remove", "path": "/none"}],
        [{"op": "replace", "path": "/none/deep", "value": 1}],
        [{"op": "add", "path": "/none/deep", "value": 1}],
        [{"op": "shout", "path": "/a"}],
        [{"op": "add", "path": "a"}],
        [{"op": "add", "path": "/l/7", "value": 1}],
    ],
)
def test_what_does_not_fit_changes_nothing(operations: Any) -> None:
    target = {"a": 1, "l": []}
    with pytest.raises(PatchError):
        operated(target, operations)
    assert target == {"a": 1, "l": []}


def test_strategic_merge_joins_containers_by_name() -> None:
    old = {"containers": [{"name": "a", "image": "1"}, {"name": "b"}], "args": [1]}
    patch = {"containers": [{"name": "a", "image": "2"}, {"name": "b", "$patch": "delete"}]}
    assert strategic(old, {**patch, "args": [2]}) == {
        "containers": [{"name": "a", "image": "2"}],
        "args": [2],
    }
