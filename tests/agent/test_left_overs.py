"""The next holder of the same ids inherits nothing of the last one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deviceplugin.testing.kubelet import Admitted, Container, Pod
from deviceplugin.vendor import HostDirectory
from deviceplugin.vendors.mock.node import MockNode


def pod(node: Any, name: str) -> Pod:
    return Pod(name, (Container("main", {node.resource: 1}),))


@pytest.mark.parametrize(
    "mode",
    [{}, {"allocation": "standalone-deferred", "device_list_strategy": ("cdi-cri",)}],
    ids=["standalone", "standalone-deferred"],
)
async def test_a_private_directory_is_emptied_for_a_new_pod_and_kept_for_the_same(
    node: Any, monkeypatch: pytest.MonkeyPatch, mode: dict[str, Any]
) -> None:
    plain = MockNode.edits

    def edits(self: Any, grants: Any, owner: Any) -> Any:
        folder = HostDirectory(f"/caches/{owner.allocation_id}", 0o777, private=True)
        return replace(plain(self, grants, owner), host_directories=(folder,))

    monkeypatch.setattr(MockNode, "edits", edits)
    host = node.root / "host"
    host.mkdir()
    node.start_agent(
        {"profile": "small", "deviceSplitCount": 1}, host_root=str(host), reconcile=30.0, **mode
    )
    await node.kubelet.wait_registered(node.resource)
    first, second = pod(node, "one"), pod(node, "two")
    assert isinstance(await node.kubelet.admit(first), Admitted)
    assert isinstance(await node.kubelet.admit(second), Admitted)
    for started in (first, second):
        await node.kubelet.start_container(started.uid, "main")
    for folder in (host / "caches").iterdir():
        (folder / "x.cache").write_text("secret")
        (folder / "deep").mkdir()
        (folder / "link").symlink_to("/etc/passwd")
    await node.kubelet.restart_container(first.uid, "main")
    assert len(list((host / "caches").glob("*/x.cache"))) == 2
    ids = node.kubelet.held(first.uid, "main")[node.resource]
    await node.kubelet.allocate(node.resource, ids)  # kubelet asks again for a pod that runs
    assert len(list((host / "caches").glob("*/x.cache"))) == 2
    node.kubelet.finish_pod(first.uid)
    node.kubelet.listed_pods()
    assert isinstance(await node.kubelet.admit(pod(node, "three")), Admitted)
    (left,) = (host / "caches").glob("*/x.cache")
    assert left.read_text() == "secret"
    assert [len(list(folder.iterdir())) for folder in sorted((host / "caches").iterdir())].count(0)
