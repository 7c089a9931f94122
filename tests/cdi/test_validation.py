"""Every rule of a valid specification, and what a writer checks beyond (cdi.md 1.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from deviceplugin.cdi import (
    CDIError,
    ContainerEdits,
    Device,
    DeviceNode,
    Hook,
    IntelRdt,
    Mount,
    NetDevice,
    Problem,
    Spec,
    check,
    problems,
)

HOOKS = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
KiB = 1024


def found(edits: ContainerEdits, *, strict: bool = True) -> list[str]:
    """The fields that are wrong, both where edits are a device's and where they are common."""
    device = Device("dev", replace(edits, env=(*edits.env, "A=b")))
    of_device = problems(Spec("vendor.com/device", (device,)), strict=strict)
    good = Device("dev", ContainerEdits(env=("A=b",)))
    common = problems(Spec("vendor.com/device", (good,), edits), strict=strict)
    prefix = "devices[0].containerEdits."
    fields = [problem.field.removeprefix(prefix) for problem in of_device]
    assert [f"containerEdits.{field}" for field in fields] == [p.field for p in common]
    return fields


def node(**fields: object) -> ContainerEdits:
    return ContainerEdits(device_nodes=(DeviceNode(**{"path": "/dev/x", **fields}),))  # type: ignore[arg-type]


def hook(**fields: object) -> ContainerEdits:
    given = {"hook_name": "prestart", "path": "/bin/x", **fields}
    return ContainerEdits(hooks=(Hook(**given),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "edits",
    [
        ContainerEdits(),
        ContainerEdits(env=("A=b", "A=", "A==")),
        node(),
        node(type="b"),
        node(type="c", permissions="rw"),
        node(type="u", permissions="m", major=1, minor=2, file_mode=0o7777, uid=0, gid=2**32 - 1),
        node(type="p"),
        ContainerEdits(mounts=(Mount("/a", "/b"),)),
        *(hook(hook_name=name, timeout=1, env=("A=b",)) for name in HOOKS),
        ContainerEdits(intel_rdt=IntelRdt("class")),
        ContainerEdits(intel_rdt=IntelRdt("/")),
        ContainerEdits(intel_rdt=IntelRdt("x" * 4095)),
        ContainerEdits(intel_rdt=IntelRdt()),
        ContainerEdits(net_devices=(NetDevice("eth1", "net0"), NetDevice("eth2", "net1"))),
        ContainerEdits(additional_gids=(0, 5, 5)),
    ],
)
def test_valid_edits_have_no_problem(edits: ContainerEdits) -> None:
    assert found(edits) == []


@pytest.mark.parametrize(
    ("edits", "field"),
    [
        (ContainerEdits(env=("",)), "env[0]"),
        (ContainerEdits(env=("A=b", "=foo")), "env[1]"),
        (ContainerEdits(env=("FOO",)), "env[0]"),
        (node(path=""), "deviceNodes[0].path"),
        (node(type="f"), "deviceNodes[0].type"),
        (node(permissions="rwx"), "deviceNodes[0].permissions"),
        (node(permissions="none"), "deviceNodes[0].permissions"),
        (node(uid=-1), "deviceNodes[0].uid"),
        (node(gid=2**32), "deviceNodes[0].gid"),
        (node(major=2**63), "deviceNodes[0].major"),
        (node(file_mode=2**32), "deviceNodes[0].fileMode"),
        (ContainerEdits(mounts=(Mount("", "/b"),)), "mounts[0].hostPath"),
        (ContainerEdits(mounts=(Mount("/a", ""),)), "mounts[0].containerPath"),
        (hook(hook_name="prestop"), "hooks[0].hookName"),
        (hook(hook_name=""), "hooks[0].hookName"),
        (hook(path=""), "hooks[0].path"),
        (hook(env=("=x",)), "hooks[0].env[0]"),
        (ContainerEdits(net_devices=(NetDevice("", "net0"),)), "netDevices[0].hostInterfaceName"),
        (ContainerEdits(net_devices=(NetDevice("eth1", ""),)), "netDevices[0].name"),
        (
            ContainerEdits(net_devices=(NetDevice("eth1", "a"), NetDevice("eth1", "b"))),
            "netDevices[1].hostInterfaceName",
        ),
        (
            ContainerEdits(net_devices=(NetDevice("eth1", "a"), NetDevice("eth2", "a"))),
            "netDevices[1].name",
        ),
        *(
            (ContainerEdits(intel_rdt=IntelRdt(name)), "intelRdt.closID")
            for name in (".", "..", "a/b", "/a", "//", "a\nb", "x" * 4096)
        ),
        (ContainerEdits(additional_gids=(1, -1)), "additionalGids[1]"),
    ],
)
def test_edits_that_no_reader_takes_are_told_by_field(edits: ContainerEdits, field: str) -> None:
    assert field in found(edits)
    assert found(edits, strict=False) == [field]


@pytest.mark.parametrize(
    ("edits", "field"),
    [
        (node(path="dev/x"), "deviceNodes[0].path"),
        (node(host_path="dev/x"), "deviceNodes[0].hostPath"),
        (node(file_mode=0), "deviceNodes[0].fileMode"),
        (node(file_mode=0o20666), "deviceNodes[0].fileMode"),
        (node(major=-1), "deviceNodes[0].major"),
        (node(minor=-1), "deviceNodes[0].minor"),
        (ContainerEdits(mounts=(Mount("a", "/b"),)), "mounts[0].hostPath"),
        (ContainerEdits(mounts=(Mount("/a", "b"),)), "mounts[0].containerPath"),
        (hook(path="bin/x"), "hooks[0].path"),
        (hook(timeout=0), "hooks[0].timeout"),
        (hook(timeout=-1), "hooks[0].timeout"),
    ],
)
def test_what_readers_do_not_enforce_binds_only_writers(edits: ContainerEdits, field: str) -> None:
    assert found(edits) == [field]
    assert found(edits, strict=False) == []


@pytest.mark.parametrize("kind", ["", "vendor.com", "vendor.com/", "/gpu", "a.b/c/d", "-v.com/gpu"])
def test_a_kind_must_be_vendor_and_class(kind: str) -> None:
    spec = Spec(kind, (Device("dev", ContainerEdits(env=("A=b",))),))
    assert [problem.field for problem in problems(spec, strict=False)] == ["kind"]


def test_a_specification_without_devices_is_refused(spec: Callable[..., Spec]) -> None:
    assert [str(p) for p in problems(spec())] == ["devices: invalid spec, no devices"]


def test_a_device_without_edits_is_refused_by_name() -> None:
    spec = Spec("vendor.com/device", (Device("dev", ContainerEdits()),))
    (problem,) = problems(spec, strict=False)
    assert problem.value == "dev"
    assert problem.rule == "invalid device, empty device edits"


def test_the_first_and_the_third_device_with_the_same_name_are_refused(
    spec: Callable[..., Spec],
) -> None:
    (problem,) = problems(spec("one", "two", "one"), strict=False)
    assert (problem.field, problem.value) == ("devices[2].name", "one")
    assert "devices[0]" in problem.rule


def test_three_distinct_devices_are_valid(spec: Callable[..., Spec]) -> None:
    check(spec("one", "two", "three"))


@pytest.mark.parametrize("name", ["", "-dev", "dev:", "a b", "a/b"])
def test_a_device_with_a_bad_name_is_refused(name: str, spec: Callable[..., Spec]) -> None:
    assert [p.field for p in problems(spec(name), strict=False)] == ["devices[0].name"]


@pytest.mark.parametrize(
    "annotations",
    [
        {"key": ""},
        {"vendor.com/Key_1.x": "any\ntext"},
        {"VENDOR.com/key": "compared in lower case"},
        {"k" * 63: "v", "k": "v" * (256 * KiB - 64 - 1)},
    ],
)
def test_annotations_with_qualified_names_within_the_size_are_valid(
    annotations: dict[str, str], spec: Callable[..., Spec]
) -> None:
    check(spec("dev", annotations=annotations))


@pytest.mark.parametrize(
    "annotations",
    [
        {"": "v"},
        {"a b": "v"},
        {"-a": "v"},
        {"k" * 64: "v"},
        {"/k": "v"},
        {"a/b/c": "v"},
        {"ven_dor.com/k": "v"},
        {f"{'v' * 254}/k": "v"},
        {"k": "v" * 256 * KiB},
        {"k": "ä" * 128 * KiB},
    ],
)
def test_bad_or_big_annotations_bind_only_writers(
    annotations: dict[str, str], spec: Callable[..., Spec]
) -> None:
    device = Device("dev", ContainerEdits(env=("A=b",)), annotations)
    for given, field in (
        (spec("dev", annotations=annotations), "annotations"),
        (Spec("vendor.com/device", (device,)), "devices[0].annotations"),
    ):
        assert [problem.field for problem in problems(given)] == [field]
        assert problems(given, strict=False) == ()


def test_an_error_tells_all_problems_with_file_field_value_and_rule() -> None:
    edits = ContainerEdits(env=("FOO",), mounts=(Mount("", "b"),))
    spec = Spec("vendor.com/device", (Device("one", edits), Device("-", edits)))
    with pytest.raises(CDIError) as caught:
        check(spec, "/etc/cdi/x.json")
    told = caught.value.problems
    assert (
        Problem(
            "/etc/cdi/x.json",
            "devices[1].containerEdits.env[0]",
            "FOO",
            "a variable is NAME=value with a name",
        )
        in told
    )
    assert len(told) == 7
    assert str(caught.value).splitlines() == [str(problem) for problem in told]
    assert "/etc/cdi/x.json: devices[1].containerEdits.env[0] 'FOO': a variable is" in str(
        caught.value
    )


def test_checking_is_pure_and_lenient_about_a_missing_version(spec: Callable[..., Spec]) -> None:
    given = spec("dev", cdi_version="")
    assert problems(given) == problems(given) == ()
