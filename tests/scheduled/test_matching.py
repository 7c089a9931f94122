"""Which container a scheduler meant, for every generation that writes the annotation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.hami import poddevices
from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.api.hami.poddevices import ContainerDevice
from deviceplugin.scheduled.matching import (
    NoGrantError,
    assignments,
    emptied,
    remaining,
    without_next,
)

KEYS = VENDORS["NVIDIA"]
TO_ALLOCATE = str(KEYS.to_allocate)
RESOURCE = "nvidia.com/gpu"
A, B = [("a", 100, 10)], [("b", 200, 20)]


def found(pod: Any) -> dict[str, list[str]]:
    return {
        item.container.name: [d.uuid for d in item.devices]
        for item in assignments(pod, KEYS, RESOURCE)
    }


def test_containers_without_devices_take_nothing(make_pod: Any) -> None:
    assert found(make_pod(A, [], B, asks=(1, 0, 1))) == {"c0": ["a"], "c2": ["b"]}


def test_lost_empty_segments_shift_nothing(make_pod: Any) -> None:
    """A writer of 2.8 drops them."""
    assert found(make_pod(A, B, asks=(0, 1, 0, 1))) == {"c1": ["a"], "c3": ["b"]}


def test_init_containers_come_first_where_they_have_devices(make_pod: Any) -> None:
    assert found(make_pod(A, B, asks=(1,), init=(1,))) == {"i0": ["a"], "c0": ["b"]}


def test_a_2_8_scheduler_gives_init_containers_nothing(make_pod: Any) -> None:
    assert found(make_pod(A, B, asks=(1, 1), init=(1,))) == {"c0": ["a"], "c1": ["b"]}


def test_a_sidecar_is_served_like_an_init_container(make_pod: Any) -> None:
    assert found(make_pod(A, B, asks=(1,), sidecars=(1,))) == {"s0": ["a"], "c0": ["b"]}


def test_a_count_that_fits_no_reading_is_refused_with_the_candidates(make_pod: Any) -> None:
    with pytest.raises(NoGrantError, match=r"c0, c2.*cannot be told"):
        found(make_pod(A, A, B, asks=(1, 0, 1)))


def test_devices_of_another_vendor_are_left_out(make_pod: Any) -> None:
    """A 2.8 scheduler repeats the first vendor's devices in the second one's list."""
    text = "x,DCU,1,1:a,NVIDIA,100,10:;"
    pod = make_pod(A, annotations={KEYS.allocated: text})
    assert found(pod) == {"c0": ["a"]}


def test_a_pod_without_the_annotation_is_told_of_its_scheduler(make_pod: Any) -> None:
    with pytest.raises(NoGrantError, match="schedulerName"):
        found(make_pod(A, annotations={KEYS.allocated: ""}))


def test_a_malformed_annotation_is_named(make_pod: Any) -> None:
    with pytest.raises(NoGrantError, match=KEYS.allocated):
        found(make_pod(A, annotations={KEYS.allocated: "a,NVIDIA:;"}))


def test_the_next_one_is_emptied_and_every_semicolon_stays() -> None:
    text = "a,NVIDIA,1,1:;;b,NVIDIA,1,1:;"
    once = without_next(text, "NVIDIA")
    assert once == ";;b,NVIDIA,1,1:;"
    assert without_next(once, "NVIDIA") == ";;;" == emptied(text, "NVIDIA")
    assert without_next("x,DCU,1,1:;a,NVIDIA,1,1:;", "NVIDIA") == "x,DCU,1,1:;;"


segments = st.lists(
    st.lists(st.sampled_from("abcd"), max_size=3, unique=True), min_size=1, max_size=6
)


@given(segments)
def test_popping_serves_every_container_once_and_in_order(chosen: list[list[str]]) -> None:
    text = poddevices.encode(
        [[ContainerDevice(u, "NVIDIA", 1, 1) for u in one] for one in chosen], TO_ALLOCATE
    )
    served = []
    while left := poddevices.segments(poddevices.decode(text, TO_ALLOCATE)):
        served.append([d.uuid for d in poddevices.decode(text, TO_ALLOCATE)[left[0]]])
        text = without_next(text, "NVIDIA")
        assert text.count(";") == len(chosen)
    assert served == [one for one in chosen if one]


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_and_never_more(text: str) -> None:
    from deviceplugin.apiserver.objects import Container, Pod

    pod = Pod(
        "default",
        "p",
        "u",
        annotations={KEYS.allocated: text, TO_ALLOCATE: text},
        containers=(Container("c0", {RESOURCE: 1}),),
    )
    for read in (lambda: assignments(pod, KEYS, RESOURCE), lambda: remaining(pod, KEYS)):
        try:
            read()
        except NoGrantError as error:
            assert "default/p" in str(error)


def test_containers_that_never_run_at_once_are_init_containers_and_the_others(
    make_pod: Any,
) -> None:
    pod = make_pod(asks=(1, 1), init=(1, 1), sidecars=(1,))
    assert pod.apart("i0") == ("i1", "c0", "c1")
    assert pod.apart("c0") == ("i0", "i1")
    assert pod.apart("s0") == ()
    assert pod.apart("nobody") == ()
