"""Which resource names kubelet takes (kubelet-deviceplugin.md 2.3)."""

from __future__ import annotations

import pytest

from deviceplugin.testing.kubelet.names import is_extended_resource


@pytest.mark.parametrize(
    "name",
    [
        "nvidia.com/gpu",
        "nvidia.com/mig-1g.10gb",
        "huawei.com/Ascend910B-memory",
        "a/" + "x" * 63,
        "a" * 244 + "/x",
    ],
)
def test_legal_names_are_taken(name: str) -> None:
    assert is_extended_resource(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gpu",
        "kubernetes.io/gpu",
        "x.kubernetes.io/gpu",
        "requests.a.com/x",
        "a.com/x/y",
        "A.com/x",
        "a.com/",
        "/x",
        "a.com/-x",
        "a.com/x-",
        "a.com/" + "x" * 64,
        "a" * 245 + "/x",
        "a_b.com/x",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    assert not is_extended_resource(name)
