"""Every promise that all vendors make, a test each, and the rule that is Acme's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from acme_accelerator.scheduling import backends

from deviceplugin.vendor.scheduling import (
    ContainerSpec,
    PodSpec,
    RefusedError,
    SchedulingSettings,
)

(ACME,) = backends(SchedulingSettings())


def test_conformance(conformance_check: Callable[[], None]) -> None:
    conformance_check()


def asking(memory: str) -> ContainerSpec:
    count = {"acme.example.com/accelerator": "1"}
    return ContainerSpec("main", count | {"acme.example.com/memory": memory})


def test_memory_comes_in_steps() -> None:
    demand = ACME.demand(asking("1024"), PodSpec())
    assert demand is not None
    assert demand.memory_mib == 1024


def test_memory_between_two_steps_is_refused_with_what_to_write() -> None:
    with pytest.raises(RefusedError, match="write a multiple of 512"):
        ACME.demand(asking("1000"), PodSpec())
