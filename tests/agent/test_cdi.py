"""Allocation by CDI, at once and deferred, as a container finally sees it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from deviceplugin.testing.kubelet import Admitted, Container, Pod, StartError

SMALL = {"profile": "small", "deviceSplitCount": 10}


def pod(node: Any, name: str, count: int = 1, **env: str) -> Pod:
    return Pod(name, (Container("main", {node.resource: count}, env),))


def environment(oci: dict[str, Any]) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in oci["process"]["env"])


@pytest.mark.parametrize("strategy", ["cdi-cri", "cdi-annotations"])
@pytest.mark.parametrize("allocation", ["standalone", "standalone-deferred"])
async def test_limits_beat_the_pods_own_environment(
    node: Any, strategy: str, allocation: str
) -> None:
    node.start_agent(SMALL, device_list_strategy=(strategy,), allocation=allocation)
    await node.kubelet.wait_registered(node.resource)
    result = await node.kubelet.admit(pod(node, "one", MOCK_MEMORY_LIMIT_0="999999m"))
    assert isinstance(result, Admitted), result
    config = await node.kubelet.start_container(result.pod.uid, "main")
    oci = config.apply_cdi([node.cdi_dir])
    assert environment(oci)["MOCK_MEMORY_LIMIT_0"] == "1638m"
    assert [device["path"] for device in oci["linux"]["devices"]]
    assert node.kubelet.findings == []


async def test_a_wiped_cdi_directory_is_written_again(
    node: Any, eventually: Callable[..., Any]
) -> None:
    node.start_agent(SMALL, device_list_strategy=("cdi-cri",))
    await node.kubelet.wait_registered(node.resource)
    result = await node.kubelet.admit(pod(node, "one"))
    config = await node.kubelet.start_container(result.pod.uid, "main")
    before = config.apply_cdi([node.cdi_dir])
    shutil.rmtree(node.cdi_dir)
    await eventually(lambda: node.cdi_dir.exists() and len(list(node.cdi_dir.iterdir())) >= 1)
    await eventually(lambda: _resolves(config, node))
    assert config.apply_cdi([node.cdi_dir]) == before


async def test_after_a_reboot_specifications_of_running_pods_come_back(
    node: Any, eventually: Callable[..., Any]
) -> None:
    """cdi.md 7: the directory emptied, kubelet's checkpoint kept, another agent."""
    first = node.start_agent(SMALL, device_list_strategy=("cdi-cri",))
    await node.kubelet.wait_registered(node.resource)
    result = await node.kubelet.admit(pod(node, "one"))
    config = await node.kubelet.start_container(result.pod.uid, "main")
    await node.stop_agent(first)
    shutil.rmtree(node.cdi_dir)
    node.start_agent(SMALL, device_list_strategy=("cdi-cri",))
    await eventually(lambda: _resolves(config, node))


async def test_specifications_of_ended_pods_are_removed(
    node: Any, eventually: Callable[..., Any]
) -> None:
    node.start_agent(SMALL, device_list_strategy=("cdi-cri",))
    await node.kubelet.wait_registered(node.resource)
    files = lambda: list(node.cdi_dir.glob("k8s.deviceplugin.dev-mock_*.json"))  # noqa: E731
    result = await node.kubelet.admit(pod(node, "one"))
    assert len(files()) == 1
    node.kubelet.finish_pod(result.pod.uid)
    await eventually(lambda: not files())


async def test_deferred_without_pod_resources_does_not_start_and_recovers(node: Any) -> None:
    node.start_agent(SMALL, device_list_strategy=("cdi-cri",), allocation="standalone-deferred")
    await node.kubelet.wait_registered(node.resource)
    result = await node.kubelet.admit(pod(node, "one"))
    node.kubelet.pod_resources.down = True
    with pytest.raises(StartError, match="PodResources"):
        await node.kubelet.start_container(result.pod.uid, "main")
    node.kubelet.pod_resources.down = False
    config = await node.kubelet.start_container(result.pod.uid, "main")
    assert config.apply_cdi([node.cdi_dir])


def _resolves(config: Any, node: Any) -> bool:
    from deviceplugin.cdi import CDIError

    try:
        return bool(config.apply_cdi([node.cdi_dir]))
    except CDIError:
        return False
