"""The mock plays another vendor's part: its devices are simulated, its answers are the vendor's."""

from __future__ import annotations

from typing import Any

import pytest

from deviceplugin import registry
from deviceplugin.testing.placing import scheduling_backends
from deviceplugin.vendor import (
    DriverError,
    InventoryWriter,
    NodeBackend,
    Owner,
    Safeguarded,
    VendorSettings,
)
from deviceplugin.vendor.declared.node import DeclaredNode


def mock(**section: Any) -> NodeBackend:
    settings = VendorSettings(node_name="n", section=section)
    return registry.load_backend(registry.load().vendors["mock"], settings)


IMITABLE = sorted(v.name for v in registry.load().vendors.values() if v.profile)


@pytest.mark.parametrize("name", IMITABLE)
def test_every_vendor_with_a_profile_is_played_as_it_is(name: str) -> None:
    played = mock(imitate=name, harmless=False)
    snapshot = played.discover()
    assert snapshot.devices
    vendor = registry.load().vendors[name]
    real = registry.load_backend(vendor, VendorSettings(node_name="n"))
    plans = played.plan(snapshot)  # type: ignore[attr-defined]
    assert plans == real.plan(snapshot)  # type: ignore[attr-defined]
    words = {plan.keys.common_word for plan in plans if plan.keys}
    assert words <= {b.keys.common_word for b in scheduling_backends("mock", {"imitate": name})}


def test_what_it_hands_over_does_no_harm_where_nothing_is_installed() -> None:
    played = mock(imitate="kunlunxin")
    (device, *_) = played.discover().devices
    from deviceplugin.vendor import Grant

    edits = played.edits([Grant(device)], Owner("kunlunxin.com/xpu", "a"))
    assert edits.env["CXPU_VISIBLE_DEVICES"] == "0"
    assert {node.host_path for node in edits.device_nodes} == {"/dev/null"}
    assert {node.path for node in edits.device_nodes} == {"/dev/xpuctrl", "/dev/xpu0"}
    assert not isinstance(played, Safeguarded)  # there are no limits to hold


def test_nor_does_the_inventory_of_its_devices() -> None:
    played = mock(imitate="nvidia")
    assert isinstance(played, InventoryWriter)
    snapshot = played.discover()
    specs = played.cdi_specs(snapshot)
    named = {device.name: device.container_edits for spec in specs for device in spec.devices}
    assert {device.uuid for device in snapshot.devices} <= named.keys()
    edits = [*named.values(), *(spec.container_edits for spec in specs)]
    assert {node.host_path for one in edits for node in one.device_nodes} == {"/dev/null"}
    assert not any(one.mounts or one.hooks for one in edits)


def test_the_imitated_vendor_has_its_own_section() -> None:
    played = mock(imitate="kunlunxin", section={"sharedDevices": "all"})
    (plan,) = played.plan(played.discover())  # type: ignore[attr-defined]
    assert plan.resource == "kunlunxin.com/vxpu"


def test_faults_of_the_scenario_happen_to_the_imitated_vendor() -> None:
    played = mock(imitate="enflame", faults=[{"at": 0, "fault": "error", "reason": "broken"}])
    with pytest.raises(DriverError, match="broken"):
        played.discover()


def test_an_unknown_vendor_is_named_with_those_that_there_are() -> None:
    with pytest.raises(DriverError, match=r"imitate: no vendor .*did you mean ascend"):
        mock(imitate="ascent").discover()


def test_another_profile_may_be_played() -> None:
    snapshot = mock(imitate="nvidia", profile="small").discover()
    assert {device.model for device in snapshot.devices} == {"T4"}


def test_capabilities_are_those_of_the_vendor() -> None:
    assert isinstance(mock(imitate="enflame"), NodeBackend)
    assert not isinstance(mock(imitate="enflame"), DeclaredNode)
