"""``sharing`` and ``resources``: what is taken, ignored with a warning, refused."""

from __future__ import annotations

from typing import Any

import pytest

from deviceplugin.config import Replicas, Sharing

MPS = "flags: {mpsRoot: /mps}\n"


def time_slicing(body: str) -> str:
    return f"sharing: {{timeSlicing: {body}}}"


def test_no_sharing_is_the_default(loader: Any) -> None:
    assert loader().config.sharing == Sharing({}, {})


def test_time_slicing_lets_a_container_ask_for_several_and_mps_does_not(loader: Any) -> None:
    entry = "resources: [{name: nvidia.com/gpu, replicas: 4}]"
    sliced = loader(time_slicing(f"{{{entry}}}")).config.sharing
    assert sliced == Sharing({"nvidia.com/gpu": Replicas(4, False, False)}, {})
    shared = loader(f"{MPS}sharing: {{mps: {{{entry}}}}}").config.sharing
    assert shared == Sharing({}, {"nvidia.com/gpu": Replicas(4, True, False)})


@pytest.mark.parametrize("kind", ["timeSlicing", "mps"])
@pytest.mark.parametrize(("written", "fails"), [("true", True), ("false", False)])
def test_what_is_written_beats_both_defaults(
    kind: str, written: str, fails: bool, loader: Any
) -> None:
    text = f"""{MPS}
sharing: {{{kind}: {{failRequestsGreaterThanOne: {written}, resources: [{{name: gpu, replicas: 2}}]}}}}
"""
    sharing = loader(text).config.sharing
    (entry,) = {**sharing.time_slicing, **sharing.mps}.values()
    assert entry.fail_requests_greater_than_one is fails


def test_null_means_the_default(loader: Any) -> None:
    text = f"{MPS}sharing: {{mps: {{failRequestsGreaterThanOne: null, resources: [{{name: gpu, replicas: 2}}]}}}}"
    assert loader(text).config.sharing.mps["nvidia.com/gpu"].fail_requests_greater_than_one


def test_a_name_without_a_domain_is_nvidias(loader: Any) -> None:
    text = time_slicing(
        "{resources: [{name: mig-1g.5gb, replicas: 2}, {name: a.io/x, replicas: 3}]}"
    )
    assert set(loader(text).config.sharing.time_slicing) == {"nvidia.com/mig-1g.5gb", "a.io/x"}


def test_with_both_kinds_mps_wins_as_a_whole(loader: Any) -> None:
    loaded = loader(
        f"""{MPS}
sharing:
  timeSlicing: {{resources: [{{name: gpu, replicas: 10}}, {{name: other, replicas: 2}}]}}
  mps: {{resources: [{{name: gpu, replicas: 3}}]}}
"""
    )
    assert loaded.config.sharing == Sharing({}, {"nvidia.com/gpu": Replicas(3, True, False)})
    (warning,) = loaded.warnings
    assert (warning.path, warning.rule) == (
        "sharing.timeSlicing",
        "ignored, because sharing.mps wins",
    )


@pytest.mark.parametrize(
    ("by_default", "rename", "warned"),
    [
        ("false", "nvidia.com/gpu.shared", True),
        ("false", "mine", True),
        ("true", "nvidia.com/gpu.shared", False),
        ("true", "gpu.shared", False),
        ("true", "nvidia.com/mine", True),
    ],
)
def test_a_rename_other_than_the_default_one_is_ignored_with_a_warning(
    by_default: str, rename: str, warned: bool, loader: Any
) -> None:
    loaded = loader(
        time_slicing(
            f"{{renameByDefault: {by_default}, "
            f"resources: [{{name: gpu, replicas: 2, rename: {rename}}}]}}"
        )
    )
    assert [warning.path for warning in loaded.warnings] == (
        ["sharing.timeSlicing.resources[0].rename"] if warned else []
    )
    renamed = loaded.config.sharing.time_slicing["nvidia.com/gpu"].renamed
    assert renamed is (by_default == "true")


UUID = "GPU-ebe7c3f7-303d-558d-435e-99a160631fe4"


@pytest.mark.parametrize(
    ("devices", "warned"),
    [("all", False), ("2", True), ("[0]", True), ('["0", "0:1"]', True), (f"[{UUID}]", True),
     (f"[MIG-{UUID[4:]}]", True)],
)  # fmt: skip
def test_a_choice_of_devices_is_ignored_with_a_warning(
    devices: str, warned: bool, loader: Any
) -> None:
    text = time_slicing(f"{{resources: [{{name: gpu, replicas: 2, devices: {devices}}}]}}")
    loaded = loader(text)
    assert bool(loaded.warnings) is warned
    assert loaded.config.sharing.time_slicing["nvidia.com/gpu"].replicas == 2


@pytest.mark.parametrize(
    ("body", "path", "rule"),
    [
        ("{}", "resources", "an empty list"),
        ("{resources: []}", "resources", "an empty list"),
        ("{resources: {}}", "resources", "not a list"),
        ("{resources: [gpu]}", "resources[0]", "not a mapping"),
        ("{resources: [{name: gpu, replicas: 1}]}", "resources[0].replicas", "out of range"),
        ("{resources: [{name: gpu, replicas: '4'}]}", "resources[0].replicas", "not a whole"),
        ("{resources: [{name: gpu, replicas: true}]}", "resources[0].replicas", "not a whole"),
        ("{resources: [{name: gpu}]}", "resources[0].replicas", "missing"),
        ("{resources: [{replicas: 2}]}", "resources[0].name", "missing"),
        ("{resources: [{name: '', replicas: 2}]}", "resources[0].name", "missing"),
        ("{resources: [{name: -gpu, replicas: 2}]}", "resources[0].name", "not a resource name"),
        (f"{{resources: [{{name: {'g' * 60}, replicas: 2}}]}}", "resources[0].name", "of 63"),
        (f"{{renameByDefault: true, resources: [{{name: {'g' * 50}, replicas: 2}}]}}",
         "resources[0].name", "longer than 63"),
        ("{resources: [{name: gpu, replicas: 2}, {name: nvidia.com/gpu, replicas: 3}]}",
         "resources[1].name", "twice"),
        ("{renameByDefault: 1, resources: [{name: gpu, replicas: 2}]}", "renameByDefault", "truth"),
        ("{failRequestsGreaterThanOne: x, resources: [{name: gpu, replicas: 2}]}",
         "failRequestsGreaterThanOne", "truth"),
        ("{resources: [{name: gpu, replicas: 2, devices: 0}]}", "resources[0].devices", "choice"),
        ("{resources: [{name: gpu, replicas: 2, devices: []}]}", "resources[0].devices", "choice"),
        ("{resources: [{name: gpu, replicas: 2, devices: [x]}]}", "resources[0].devices",
         "not a device"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_at_its_place(
    body: str, path: str, rule: str, loader: Any
) -> None:
    problems = loader.problems(time_slicing(body))
    assert problems[0].path == f"sharing.timeSlicing.{path}"
    assert rule in problems[0].rule
    assert len(problems) == 1


def test_sharing_of_another_type_is_refused(loader: Any) -> None:
    assert loader.problem("sharing: []").path == "sharing"
    assert loader.problem("sharing: {mps: yes}").path == "sharing.mps"


def test_resource_patterns_are_ignored_with_a_warning(loader: Any) -> None:
    loaded = loader("resources: {gpus: [{pattern: '*', name: gpu}], mig: []}")
    (warning,) = loaded.warnings
    assert warning.path == "resources"
    assert "ignored" in warning.rule
    problem = loader.problem("resources: {gpus: [{pattern: 3}]}")
    assert problem.path == "resources.gpus[0].pattern"
