"""The story's node on the embedded kubelet."""

from __future__ import annotations

from pathlib import Path

from deviceplugin.testing.kubelet import Container, EmbeddedKubelet, Failed, Pod

RESOURCE = "mock.deviceplugin.dev/gpu"


class EmbeddedCluster:
    """Implements `scenario.Cluster`."""

    fault_seconds = 2.0

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kubelet = EmbeddedKubelet(root)
        self.cdi = root / "cdi"
        self.flags = {
            "kubelet-socket": str(self.kubelet.kubelet_socket),
            "pod-resources-socket": str(self.kubelet.pod_resources_socket),
            "cdi-dir": str(self.cdi),
            "run-dir": str(root / "run"),
        }
        self._pods: dict[str, Pod] = {}
        self._held: dict[str, object] = {}

    async def amounts(self) -> tuple[int, int]:
        return self.kubelet.capacity().get(RESOURCE, 0), self.kubelet.allocatable().get(RESOURCE, 0)

    async def run_pod(self, name: str, count: int, env: dict[str, str]) -> dict[str, str]:
        pod = Pod(name, (Container("main", {RESOURCE: count}, env),))
        result = await self.kubelet.admit(pod)
        assert not isinstance(result, Failed), result
        config = await self.kubelet.start_container(pod.uid, "main")
        oci = config.apply_cdi([self.cdi])
        nodes = [d.container_path for d in config.devices]
        nodes += [d["path"] for d in oci.get("linux", {}).get("devices", [])]
        self._pods[name] = pod
        self._held[name] = self.kubelet.held(pod.uid, "main")
        seen = dict(entry.split("=", 1) for entry in oci["process"]["env"])
        return {**seen, "nodes": " ".join(nodes)}

    async def is_running(self, name: str) -> bool:
        return self.kubelet.held(self._pods[name].uid, "main") == self._held[name]

    async def delete_pod(self, name: str) -> None:
        self.kubelet.finish_pod(self._pods[name].uid)

    async def restart_kubelet(self) -> None:
        await self.kubelet.restart()

    def traces(self) -> list[str]:
        folders = (self.kubelet.plugin_dir, self.cdi)
        return [
            p.name
            for folder in folders
            if folder.exists()
            for p in folder.iterdir()
            if "deviceplugin" in p.name
        ]
