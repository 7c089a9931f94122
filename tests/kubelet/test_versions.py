"""What versions of kubelet do differently (kubelet-deviceplugin.md 3.3)."""

from __future__ import annotations

import pytest

from deviceplugin.testing.kubelet.versions import Behaviour

VERSIONS = [(1, minor) for minor in range(27, 38)]


def since(field: str, **gates: bool) -> list[int]:
    return [v[1] for v in VERSIONS if getattr(Behaviour.of(v, gates), field)]


@pytest.mark.parametrize(
    ("field", "first"),
    [
        ("cdi_devices", 29),
        ("wipes_sockets_only", 33),
        ("register_bounds_dial", 35),
        ("hints_by_device_nodes", 35),
        ("clients_by_path", 37),
        ("resource_health", 36),
        ("lists_active_only", 34),
        ("pod_resources_get", 34),
    ],
)
def test_each_behaviour_begins_with_its_version(field: str, first: int) -> None:
    assert since(field) == list(range(first, 38))


@pytest.mark.parametrize(
    ("gate", "field", "first"),
    [
        ("DevicePluginCDIDevices", "cdi_devices", 28),
        ("ResourceHealthStatus", "resource_health", 31),
        ("KubeletPodResourcesGet", "pod_resources_get", 27),
    ],
)
def test_a_gate_brings_a_behaviour_forward_to_its_alpha(gate: str, field: str, first: int) -> None:
    assert since(field, **{gate: True}) == list(range(first, 38))


@pytest.mark.parametrize(
    ("gate", "field", "first"),
    [
        ("DevicePluginCDIDevices", "cdi_devices", 31),
        ("KubeletPodResourcesGet", "pod_resources_get", 36),
        ("ResourceHealthStatus", "resource_health", 38),
    ],
)
def test_a_gate_turns_a_behaviour_off_until_it_is_locked(gate: str, field: str, first: int) -> None:
    assert since(field, **{gate: False}) == list(range(first, 38))


def test_what_is_not_modelled_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="1, 26"):
        Behaviour.of((1, 26))
    with pytest.raises(ValueError, match="Frobnicate"):
        Behaviour.of((1, 34), {"Frobnicate": True})
