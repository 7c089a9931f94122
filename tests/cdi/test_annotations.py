"""Requests in annotations (cdi.md 4.2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.cdi import (
    CDIError,
    annotate,
    annotation_key,
    annotation_value,
    parse_annotations,
)

NAMES = ["vendor.com/class=device1", "vendor.com/class=device2"]


@pytest.mark.parametrize(
    ("plugin", "device", "key"),
    [
        ("vendor.class", "device", "cdi.k8s.io/vendor.class_device"),
        ("v-e.n_d.or.cl-as_s", "d-e/v/i/c-e", "cdi.k8s.io/v-e.n_d.or.cl-as_s_d-e_v_i_c-e"),
        ("p" * 56, "device", f"cdi.k8s.io/{'p' * 56}_device"),
        (
            "nvidia-device-plugin",
            "6f5e1c3a-0b7d-4e2f-9a8c-1d2e3f4a5b6c",
            "cdi.k8s.io/nvidia-device-plugin_6f5e1c3a-0b7d-4e2f-9a8c-1d2e3f4a5b6c",
        ),
    ],
)
def test_a_key_is_plugin_and_id(plugin: str, device: str, key: str) -> None:
    assert annotation_key(plugin, device) == key


@pytest.mark.parametrize(
    ("plugin", "device"),
    [
        ("", "device"),
        ("vendor.class", ""),
        ("_vendor.class", "device"),
        ("vendor.class", "device_"),
        ("vendor.class", "device/"),
        ("ven.dor-cl+ass", "device"),
        ("vendor.class", "dev+ice"),
        ("7" * 57, "device"),
        ("vendör", "device"),
    ],
)
def test_a_bad_key_is_refused(plugin: str, device: str) -> None:
    with pytest.raises(CDIError):
        annotation_key(plugin, device)


def test_a_value_is_the_names_joined_by_commas_without_blanks() -> None:
    assert annotation_value(NAMES) == "vendor.com/class=device1,vendor.com/class=device2"


@pytest.mark.parametrize(
    "names", [[], [""], [*NAMES, "vendor2.com/device2"], ["/dev/null"], [",".join(NAMES)]]
)
def test_a_value_with_anything_but_qualified_names_is_refused(names: list[str]) -> None:
    with pytest.raises(CDIError):
        annotation_value(names)


def test_requests_of_several_plugins_and_devices_are_parsed_back() -> None:
    annotations = annotate({"other": "kept"}, "vendor.class", "one", NAMES)
    annotations = annotate(annotations, "vendor2.class", "two", ["vendor2.com/class=device"])
    assert annotations["other"] == "kept"
    assert parse_annotations(annotations) == (
        ["cdi.k8s.io/vendor.class_one", "cdi.k8s.io/vendor2.class_two"],
        [*NAMES, "vendor2.com/class=device"],
    )


def test_another_prefix_is_honoured() -> None:
    annotations = annotate({}, "vendor.class", "one", NAMES, prefix="example.com/")
    assert list(annotations) == ["example.com/vendor.class_one"]
    assert parse_annotations(annotations) == ([], [])
    assert parse_annotations(annotations, prefix="example.com/")[1] == NAMES


@pytest.mark.parametrize(
    ("plugin", "device", "names"),
    [
        ("", "device", NAMES),
        ("vendor.class", "device", ["vendor.com/device"]),
        ("vendor.class", "taken", NAMES),
    ],
)
def test_an_error_leaves_the_annotations_unchanged(
    plugin: str, device: str, names: list[str]
) -> None:
    annotations = {"cdi.k8s.io/vendor.class_taken": NAMES[0]}
    before = dict(annotations)
    with pytest.raises(CDIError):
        annotate(annotations, plugin, device, names)
    assert annotations == before


@pytest.mark.parametrize(
    "value",
    ["", "/dev/null", f"{NAMES[0]},", f"{NAMES[0]}, {NAMES[1]}", "vendor.com/c=dev", "v/gpu=0"],
)
def test_one_bad_name_fails_all_requests_and_tells_the_key(value: str) -> None:
    annotations = {"cdi.k8s.io/good_1": NAMES[0], "cdi.k8s.io/bad_1": value}
    with pytest.raises(CDIError) as caught:
        parse_annotations(annotations)
    assert caught.value.problems[0].field == "cdi.k8s.io/bad_1"


@given(
    st.from_regex(r"[a-z][a-z.-]{0,20}", fullmatch=True),
    st.from_regex(r"([a-z0-9/-]{0,30})[a-z0-9]", fullmatch=True),
    st.lists(st.from_regex(r"[a-z]{2,9}/[a-z]{2,9}=[a-z0-9]+", fullmatch=True), min_size=1),
)
def test_what_is_annotated_is_parsed(plugin: str, device: str, names: list[str]) -> None:
    keys, parsed = parse_annotations(annotate({}, plugin, device, names))
    assert keys == [annotation_key(plugin, device)]
    assert parsed == names
