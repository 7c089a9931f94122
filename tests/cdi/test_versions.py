"""The lowest version that covers a specification (cdi.md 1.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest

from deviceplugin.cdi import (
    CURRENT,
    RELEASED,
    CDIError,
    ContainerEdits,
    DeviceNode,
    Hook,
    IntelRdt,
    Mount,
    NetDevice,
    Spec,
    check,
    dumps,
    loads,
    required_version,
)

EDITS = {
    "plain": ("0.3.0", ContainerEdits(env=("A=b",))),
    "node": ("0.3.0", ContainerEdits(device_nodes=(DeviceNode("/dev/x", type="c", major=1),))),
    "hook": ("0.3.0", ContainerEdits(hooks=(Hook("prestart", "/bin/true"),))),
    "mount": ("0.3.0", ContainerEdits(mounts=(Mount("/a", "/b"),))),
    "mount type": ("0.4.0", ContainerEdits(mounts=(Mount("/a", "/b", type="bind"),))),
    "host path": ("0.5.0", ContainerEdits(device_nodes=(DeviceNode("/dev/x", "/dev/x"),))),
    "rdt": ("0.7.0", ContainerEdits(intel_rdt=IntelRdt("class"))),
    "empty rdt": ("0.7.0", ContainerEdits(intel_rdt=IntelRdt())),
    "gids": ("0.7.0", ContainerEdits(additional_gids=(5,))),
    "net device": ("1.1.0", ContainerEdits(net_devices=(NetDevice("eth1", "net0"),))),
    "schemata": ("1.1.0", ContainerEdits(intel_rdt=IntelRdt(schemata=("L3:0=f",)))),
    "monitoring": ("1.1.0", ContainerEdits(intel_rdt=IntelRdt(enable_monitoring=True))),
}
CHANGES: dict[str, tuple[str, Callable[[Spec], Spec]]] = {
    "digit first": ("0.5.0", lambda s: replace(s, devices=(replace(s.devices[0], name="0"),))),
    "annotations": ("0.6.0", lambda s: replace(s, annotations={"k": "v"})),
    "device annotations": (
        "0.6.0",
        lambda s: replace(s, devices=(replace(s.devices[0], annotations={"k": "v"}),)),
    ),
    "dot in class": ("0.6.0", lambda s: replace(s, kind="vendor.com/class.sub")),
}


def _in_device(edits: ContainerEdits) -> Callable[[Spec], Spec]:
    return lambda s: replace(s, devices=(replace(s.devices[0], container_edits=edits),))


def _common(edits: ContainerEdits) -> Callable[[Spec], Spec]:
    return lambda s: replace(s, container_edits=edits)


FEATURES = {
    **{f"device {name}": (v, _in_device(edits)) for name, (v, edits) in EDITS.items()},
    **{f"common {name}": (v, _common(edits)) for name, (v, edits) in EDITS.items()},
    **CHANGES,
}


@pytest.mark.parametrize("name", FEATURES)
def test_each_feature_needs_its_version(name: str, spec: Callable[..., Spec]) -> None:
    version, change = FEATURES[name]
    assert required_version(change(spec("dev"))) == version


def test_of_several_features_the_newest_counts(spec: Callable[..., Spec]) -> None:
    for one, two in combinations(FEATURES, 2):
        if one.split()[0] == "device" == two.split()[0]:
            continue  # both replace the device's edits
        (low, first), (high, second) = FEATURES[one], FEATURES[two]
        both = second(first(spec("dev")))
        assert required_version(both) == max(low, high, key=RELEASED.index), (one, two)


def test_the_minimum_is_written_and_not_the_newest(spec: Callable[..., Spec]) -> None:
    for version, change in FEATURES.values():
        assert loads(dumps(change(spec("dev")))).cdi_version == version


def test_a_version_below_the_required_one_is_refused(spec: Callable[..., Spec]) -> None:
    for version, change in FEATURES.values():
        for stated in RELEASED:
            given = replace(change(spec("dev")), cdi_version=stated)
            if RELEASED.index(stated) >= RELEASED.index(version):
                check(given)
            else:
                with pytest.raises(CDIError, match=f"must be at least v{version}"):
                    check(given)


@pytest.mark.parametrize("version", ["0.0.1", "0.5.1", "1.0", "2.0.0", "x", "vv1.1.0", "1.1.0 "])
def test_a_version_that_was_never_released_is_refused(
    version: str, spec: Callable[..., Spec]
) -> None:
    with pytest.raises(CDIError, match=f'invalid version "{version}"'):
        check(spec("dev", cdi_version=version))


def test_the_current_version_is_valid_also_with_a_leading_v(spec: Callable[..., Spec]) -> None:
    check(spec("dev", cdi_version=CURRENT))
    check(spec("dev", cdi_version=f"v{CURRENT}"))
