"""A broken entry point is reported by name and left out."""

from __future__ import annotations

from importlib.metadata import EntryPoint

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


def test_a_second_set_of_kubelets_stubs_is_explained(tmp_path: object, monkeypatch: object) -> None:
    from pathlib import Path

    import deviceplugin.api.kubelet.deviceplugin_v1beta1.deviceplugin_pb2 as ours

    assert ours.DESCRIPTOR is not None
    source = Path(ours.__file__).read_text()
    path = Path(str(tmp_path)) / "strangers_stubs.py"
    path.write_text(
        source.replace(
            "deviceplugin/api/kubelet/deviceplugin_v1beta1/deviceplugin.proto",
            "other/place/of/the/same/deviceplug.proto___________________",
        ).replace("\\n?deviceplugin", "\\n?other")
    )
    monkeypatch.syspath_prepend(str(tmp_path))  # type: ignore[attr-defined]
    found = registry.load([entry("s", "strangers_stubs:DESCRIPTOR"), GOOD])
    assert list(found.vendors) == ["mock"]
    (broken,) = found.broken
    assert broken.reason
