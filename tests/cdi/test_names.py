"""Qualified names and the names made of ids (cdi.md 1.3)."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deviceplugin.cdi import (
    CDIError,
    ContainerEdits,
    Device,
    Spec,
    check,
    device_name_for,
    identity_of,
    is_qualified_name,
    parse_qualified_name,
    problems,
    qualified_name,
)

UUID = "6f5e1c3a-0b7d-4e2f-9a8c-1d2e3f4a5b6c"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("vendor.com/class=dev", ("vendor.com", "class", "dev")),
        ("vendor.com/class=0", ("vendor.com", "class", "0")),
        ("vendor1.com/class1=dev1", ("vendor1.com", "class1", "dev1")),
        ("vendor1.com/class.subclass=dev1", ("vendor1.com", "class.subclass", "dev1")),
        ("other-vendor1.com/class_1=dev_1", ("other-vendor1.com", "class_1", "dev_1")),
        (
            "yet_another-vendor2.com/c-lass_2=dev_1:2.3",
            ("yet_another-vendor2.com", "c-lass_2", "dev_1:2.3"),
        ),
        ("vendor.com/gpu=GPU-1::0", ("vendor.com", "gpu", "GPU-1::0")),
        ("VENDOR.com/gpu=0", ("VENDOR.com", "gpu", "0")),
        ("vendor..com/gpu=0", ("vendor..com", "gpu", "0")),
    ],
)
def test_a_valid_name_is_taken_apart_and_put_together(
    text: str, parts: tuple[str, str, str]
) -> None:
    found = parse_qualified_name(text)
    assert (found.vendor, found.cls, found.name) == parts
    assert str(found) == text
    assert qualified_name(found.kind, found.name) == text
    assert is_qualified_name(text)


@pytest.mark.parametrize(
    "text",
    [
        "_invalid.com/class=dev",
        "invalid2.com-/class=dev",
        "invalid3.com/_class=dev",
        "invalid4.com/class_=dev",
        "invalid5.com/class=-dev",
        "invalid6.com/class=dev:",
        "*.com/*dev=*gpu*",
        "9vendor.com/gpu=0",
        "vendor.com/1gpu=0",
        "vendor.com/gpu=a=b",
        "vendor.com/gpu=MIG-GPU-x/1/2",
        "vendör.com/gpu=0",
        "vendor.com/gpu=٣",
        "vendor.com/gpu=0\n",
        "/dev/null",
        "vendor.com/device",
        "vendor.com=dev",
        "class=dev",
        "=",
        "",
        "/class=dev",
        "vendor.com/=dev",
        "vendor.com/class=",
    ],
)
def test_an_invalid_name_is_refused_with_the_name_in_the_error(text: str) -> None:
    assert not is_qualified_name(text)
    with pytest.raises(CDIError) as caught:
        parse_qualified_name(text)
    assert [problem.value for problem in caught.value.problems] == [text]


@pytest.mark.parametrize("text", ["v/class=dev", "vendor.com/c=dev"])
def test_one_character_of_vendor_or_class_is_refused_because_runtimes_crash(text: str) -> None:
    with pytest.raises(CDIError, match="one character crashes"):
        parse_qualified_name(text)
    kind, _, name = text.partition("=")
    spec = Spec(kind, (Device(name, ContainerEdits(env=("A=b",))),))
    assert [found.field for found in problems(spec, strict=False)] == ["kind"]


def test_one_character_is_enough_for_a_device() -> None:
    assert parse_qualified_name("vendor.com/class=d").name == "d"


@pytest.mark.parametrize(
    ("kind", "name", "field"),
    [
        (f"{'v' * 64}.com/gpu", "dev", "kind"),
        (f"{'.'.join(['v' * 60] * 5)}/gpu", "dev", "kind"),
        (f"vendor.com/{'c' * 64}", "dev", "kind"),
        ("vendor.com/gpu", "d" * 64, "devices[0].name"),
    ],
)
def test_limits_of_length_bind_writers_and_not_readers(kind: str, name: str, field: str) -> None:
    spec = Spec(kind, (Device(name, ContainerEdits(env=("A=b",))),))
    assert [found.field for found in problems(spec)] == [field]
    assert problems(spec, strict=False) == ()


def test_names_at_the_limits_may_be_written() -> None:
    vendor = ".".join(["v" * 63, "v" * 63, "v" * 63, "v" * 61])
    assert len(vendor) == 253
    check(Spec(f"{vendor}/{'c' * 63}", (Device("d" * 63, ContainerEdits(env=("A=b",))),)))


@pytest.mark.parametrize(
    "identity",
    [
        f"GPU-{UUID}",
        f"GPU-{UUID}::3",
        f"MIG-{UUID}",
        "0",
        "0:1",
        "node-1_gpu.0",
    ],
)
def test_a_legal_id_is_its_own_name(identity: str) -> None:
    assert device_name_for(identity) == identity
    assert identity_of(identity) == identity


@pytest.mark.parametrize(
    "identity", [f"MIG-GPU-{UUID}/1/2", f"MIG-GPU-{UUID}/1/2::10", f"GPU-{UUID}::", "-0", "0000:3b"]
)
def test_ids_of_today_fit_the_limits_of_a_name(identity: str) -> None:
    check(Spec("vendor.com/gpu", (Device(device_name_for(identity), ContainerEdits(("A=b",))),)))


@given(st.text())
@example("")
@example("x.")
@example("x.a.x")
@example("x._2f_.x")
@example("_2f_/")
@example("::")
@example("a" + "/" * 20)
@example("\ud800")
def test_every_id_has_a_legal_name_that_gives_it_back(identity: str) -> None:
    name = device_name_for(identity)
    assert is_qualified_name(f"vendor.com/gpu={name}")
    assert identity_of(name) == identity


@given(st.from_regex(r"x\.[0-9a-fx_.:-]*", fullmatch=True))
@example("x.a")
@example("x._zz_.x")
@example("x._ff_.x")
@example("x._2_.x")
@example("x.gpu.x")
def test_a_name_gives_an_id_only_if_it_was_made_of_one(name: str) -> None:
    try:
        identity = identity_of(name)
    except CDIError:
        # Only an id can be the reason that a name is taken, and none has this one.
        inner = name.removeprefix("x.").removesuffix(".x")
        assert device_name_for(inner) != name
    else:
        assert device_name_for(identity) == name
