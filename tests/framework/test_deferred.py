"""A pod may make its share smaller by annotation; a stranger wrote that annotation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.allocation.deferred import LIMITS_ANNOTATION, AnnotatedShare, limited
from deviceplugin.refusal import RefusalError
from deviceplugin.vendor import Grant, Owner, PhysicalDevice, Sharing

SHARE = (Grant(PhysicalDevice("u", "0", "M", 1000), 1, 2, Sharing.LIMITED, 500, 50),)
KEY = LIMITS_ANNOTATION + "main"


class Pods:
    def __init__(self, annotations: dict[str, str] | None) -> None:
        self._annotations = annotations

    async def annotations(self, namespace: str, name: str) -> dict[str, str] | None:
        return self._annotations


OWNER = Owner("a.b/c", "a-1", pod_namespace="default", pod_name="p", container="main")


async def test_smaller_limits_are_taken() -> None:
    source = AnnotatedShare(Pods({KEY: '{"memoryMiB": 200, "cores": 10}'}))
    (grant,) = await source.grants(OWNER, SHARE)
    assert (grant.memory_mib, grant.cores_percent) == (200, 10)


async def test_no_annotation_and_an_unlisted_container_get_the_share() -> None:
    assert await AnnotatedShare(Pods({})).grants(OWNER, SHARE) == SHARE
    assert await AnnotatedShare(Pods(None)).grants(Owner("a.b/c", "a-1"), SHARE) == SHARE


async def test_a_pod_that_is_not_known_yet_is_tried_again() -> None:
    with pytest.raises(RefusalError, match="not known yet"):
        await AnnotatedShare(Pods(None)).grants(OWNER, SHARE)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "null",
        "[]",
        "{",
        '{"memoryMiB": 501}',
        '{"memoryMiB": 0}',
        '{"memoryMiB": true}',
        '{"memoryMiB": 1.5}',
        '{"gpu": 1}',
        '{"cores": -1}',
        '{"cores": 1e400}',
        "[" * 300,
        '{"memoryMiB": "1"}',
    ],
)
def test_what_a_stranger_may_not_write_is_refused_by_name(value: str) -> None:
    with pytest.raises(RefusalError, match="annotation") as caught:
        limited(SHARE, KEY, value)
    assert KEY in str(caught.value)


def plain() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    return st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(st.text() | plain().map(json.dumps))
def test_no_annotation_ever_makes_a_share_larger(value: str) -> None:
    try:
        (grant,) = limited(SHARE, KEY, value)
    except RefusalError:
        return
    assert grant.memory_mib is not None
    assert grant.cores_percent is not None
    assert 0 < grant.memory_mib <= 500
    assert 0 < grant.cores_percent <= 50
