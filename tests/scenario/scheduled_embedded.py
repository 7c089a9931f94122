"""The story's cluster from the doubles: fake API server and embedded kubelet."""

from __future__ import annotations

import asyncio
from typing import Any

from deviceplugin.apiserver.client import Api
from deviceplugin.testing.cluster import Cluster
from deviceplugin.testing.kubelet import StartError
from deviceplugin.testing.kubelet.checkpoint import FILE_NAME

Seen = dict[str, dict[str, str]]


class EmbeddedWorld:
    """Implements `scheduled.World`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        kubelet = cluster.kubelet
        self.root, self.kubeconfig = cluster.root, cluster.kubeconfig
        self.checkpoint = kubelet.plugin_dir / FILE_NAME
        self.flags = {
            "kubelet-socket": str(kubelet.kubelet_socket),
            "pod-resources-socket": str(kubelet.pod_resources_socket),
            "cdi-dir": str(cluster.root / "cdi"),
            "run-dir": str(cluster.root / "run"),
            "host-root": str(cluster.root / "host"),
        }
        self._gated: dict[str, asyncio.Task[Any]] = {}
        self._reporting = asyncio.create_task(self._report())

    def close(self) -> None:
        self._reporting.cancel()

    async def _report(self) -> None:
        """Kubelet reports the node's amounts and admits gated pods as they are bound."""
        while True:
            amounts = {k: str(v) for k, v in self._cluster.kubelet.allocatable().items()}
            self._cluster.server.patch("nodes", "node-a", {"status": {"allocatable": amounts}})
            for pod in self._cluster.server.objects("pods"):
                name = pod["metadata"]["name"]
                bound = pod["spec"].get("gated") and pod["spec"].get("nodeName")
                if bound and name not in self._gated:
                    admitting = self._cluster.admit("default", name)
                    self._gated[name] = asyncio.create_task(admitting)
            await asyncio.sleep(0.1)

    def api(self) -> Api:
        return self._cluster.api()

    def decorate(self, pod: dict[str, Any], *, gated: bool) -> dict[str, Any]:
        if gated:
            pod["spec"]["gated"] = True
        return pod

    async def outcome(self, name: str, seconds: float) -> Seen:
        uid = self._cluster.server.get("pods", name, "default")["metadata"]["uid"]
        if name in self._gated:
            await self._gated[name]
            outcome = await self._cluster.started("default", name, seconds / 4)
        else:
            outcome = await self._cluster.run("default", name, 8.0)
        ordered = [c.name for c in self._cluster.kubelet.pods[uid].ordered()]
        seen = {key: mine(env) for key, env in outcome.environments.items()}
        if outcome.failure:
            waiting = next((key for key in ordered if key not in seen), ordered[0])
            seen[waiting] = {"refused": reason(outcome.failure)}
        return seen

    async def open_gate(self, name: str) -> None:
        await self._gated[name]

    async def restart_container(self, name: str, container: str) -> dict[str, str]:
        uid = self._cluster.server.get("pods", name, "default")["metadata"]["uid"]
        for _ in range(100):
            try:
                config = await self._cluster.kubelet.restart_container(uid, container)
                return mine(self._cluster.environment(config))
            except StartError:
                await asyncio.sleep(0.1)
        raise TimeoutError(name)

    async def delete(self, name: str) -> None:
        self._gated.pop(name, None)
        self._cluster.delete("default", name)


def mine(env: dict[str, str]) -> dict[str, str]:
    """The mock's variables."""
    return {key: value for key, value in env.items() if key.startswith("MOCK_")}


REASONS = ("does not offer", "do not fit", "has no lock")


def reason(text: str) -> str:
    """The part of a refusal that does not differ from run to run."""
    return next((part for part in REASONS if part in text), text)
