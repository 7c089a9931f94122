"""A broken entry point is reported by name and left out."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from deviceplugin import registry


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, registry.GROUP)


GOOD = entry("mock", "deviceplugin.vendors.mock:VENDOR")


def test_builtin_vendors_come_through_the_same_door() -> None:
    assert {"mock", "nvidia"} <= registry.load().vendors.keys()


def test_what_is_broken_does_not_hide_what_works() -> None:
    found = registry.load(
        [
            entry("a", "no_such_module:VENDOR"),
            entry("b", "json:no_such_name"),
            entry("c", "json:dumps"),
            GOOD,
        ]
    )
    assert list(found.vendors) == ["mock"]
    assert {broken.name for broken in found.broken} == {"a", "b", "c"}
    assert all(broken.reason for broken in found.broken)


def test_a_second_vendor_of_the_same_name_is_reported() -> None:
    found = registry.load([GOOD, entry("again", "deviceplugin.vendors.mock:VENDOR")])
    assert [broken.reason for broken in found.broken] == [
        "the name 'mock' is taken by another entry point"
    ]


STRANGERS_STUBS = """
from google.protobuf import descriptor_pb2, descriptor_pool
from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2

copy = descriptor_pb2.FileDescriptorProto()
deviceplugin_pb2.DESCRIPTOR.CopyToProto(copy)
copy.name = "strangers/api.proto"
descriptor_pool.Default().AddSerializedFile(copy.SerializeToString())
"""


def test_a_second_set_of_kubelets_stubs_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strangers_stubs.py").write_text(STRANGERS_STUBS)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = registry.load([entry("s", "strangers_stubs:VENDOR"), GOOD])
    assert list(found.vendors) == ["mock"]
    (broken,) = found.broken
    assert "instead of a second copy" in broken.reason


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("VENDOR = Vendor('../up', 'm:N', 'a.b/c')", "name '../up'"),
        ("VENDOR = Vendor(['x'], 'm:N', 'a.b/c')", "name ['x']"),
        ("VENDOR = Vendor('Upper', 'm:N', 'a.b/c')", "name 'Upper'"),
        ("VENDOR = Vendor('xy', 'm:N', 'a.b/c', presence='dev/x*')", "presence"),
        ("VENDOR = Vendor('xy', 'm:N', 'a.b/c', library_path=None)", "library_path"),
    ],
)
def test_a_descriptor_that_would_fail_later_is_left_out_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    module = f"stranger_{abs(hash(source))}"
    (tmp_path / f"{module}.py").write_text(f"from deviceplugin.vendor import Vendor\n{source}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = registry.load([entry("x", f"{module}:VENDOR"), GOOD])
    assert list(found.vendors) == ["mock"]
    assert reason in found.broken[0].reason
