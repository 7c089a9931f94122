"""Rules between values: each start-up refusal, and that it blames only real values."""

from __future__ import annotations

from typing import Any

import pytest

from deviceplugin.api.fields import duration_seconds, duration_text

MPS = "sharing: {mps: {resources: [{name: gpu, replicas: 2}]}}\n"


@pytest.mark.parametrize(
    ("text", "argv", "rule"),
    [
        (MPS, {}, "MPS needs a directory"),
        (MPS, {"mps_root": "/mps", "mig_strategy": "mixed"}, "MPS does not go with"),
        (MPS.replace("gpu", "mig-1g.5gb"), {"mps_root": "/mps"}, "MIG instances cannot"),
        ("", {"allocation": "standalone-deferred"}, "deferred allocation needs CDI"),
        ("", {"allocation": "standalone-deferred", "device_list_strategy": "envvar,volume-mounts"},
         "deferred allocation needs CDI"),
        ("agent: {health: {failures: 3, window: 2}}", {}, "more failures than probes"),
        ("agent: {probe: {backoffFirst: 9s, backoffMost: 8s}}", {}, "the longest wait"),
    ],
)  # fmt: skip
def test_values_that_contradict_each_other_are_refused(
    text: str, argv: dict[str, str], rule: str, loader: Any
) -> None:
    problem = loader.problem(text, argv=argv)
    assert problem.rule.startswith(rule)
    assert problem.remedy


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        (MPS, {"mps_root": "/mps"}),
        (MPS, {"mps_root": "/mps", "mig_strategy": "single"}),
        (MPS.replace("mps", "timeSlicing"), {"mig_strategy": "mixed"}),
        (
            "",
            {"allocation": "standalone-deferred", "device_list_strategy": "envvar,cdi-annotations"},
        ),
        ("", {"allocation": "standalone-deferred", "device_list_strategy": "cdi-cri"}),
        ("agent: {health: {failures: 3, window: 3}}", {}),
    ],
)
def test_neighbours_of_the_refused_values_are_allowed(
    text: str, argv: dict[str, str], loader: Any
) -> None:
    assert loader(text, argv=argv).config


def test_the_blame_goes_to_the_source_of_the_first_value(loader: Any) -> None:
    problem = loader.problem(argv={"allocation": "standalone-deferred"})
    assert (problem.source, problem.path, problem.value) == (
        "--allocation",
        "agent.allocation",
        "standalone-deferred",
    )


def test_no_rule_judges_the_stand_in_of_a_value_that_was_refused(loader: Any) -> None:
    argv = {"allocation": "standalone-deferred", "device_list_strategy": "cdi-crio"}
    assert [problem.path for problem in loader.problems(argv=argv)] == ["--device-list-strategy"]


@pytest.mark.parametrize("text", ["5m0s", "2m0s", "1h0m0s", "30s", "1.5s", "1m30s"])
def test_a_duration_is_written_as_go_writes_it(text: str) -> None:
    seconds = duration_seconds(text)
    assert seconds is not None
    assert duration_text(seconds) == text
