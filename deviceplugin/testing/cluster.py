"""A cluster of one node in one process: fake API server, embedded kubelet, agents, and a scheduler
that does as it is told. Pods go through it as through a real one, step by step.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deviceplugin import registry
from deviceplugin.agent import Agent
from deviceplugin.api.hami import register
from deviceplugin.api.hami.keys import VendorKeys
from deviceplugin.api.hami.poddevices import ContainerDevice
from deviceplugin.apiserver.client import Api
from deviceplugin.config import load
from deviceplugin.testing.apiserver import ApiServer
from deviceplugin.testing.kubelet import (
    ContainerConfig,
    EmbeddedKubelet,
    Failed,
    Pod,
    StartError,
)
from deviceplugin.testing.scheduling import Habit, ScriptedScheduler, Wish

__all__ = ["NODE", "Cluster", "Outcome", "devices", "manifest"]

NODE = "node-a"


def manifest(
    resource: str,
    name: str,
    containers: Mapping[str, int],
    init: Mapping[str, int] | None = None,
    sidecars: Mapping[str, int] | None = None,
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A pod whose containers, by name, ask for so many devices."""

    def listed(counts: Mapping[str, int] | None, **more: Any) -> list[dict[str, Any]]:
        return [
            {
                "name": key,
                "image": "x",
                "resources": {"limits": {resource: str(count)} if count else {}},
                "env": [{"name": k, "value": v} for k, v in (env or {}).items()],
                **more,
            }
            for key, count in (counts or {}).items()
        ]

    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "schedulerName": "scripted",
            "containers": listed(containers),
            "initContainers": [*listed(init), *listed(sidecars, restartPolicy="Always")],
        },
    }


def devices(keys: VendorKeys, *given: tuple[str, int, int]) -> list[ContainerDevice]:
    """A container's devices: uuid, MiB and percent of each."""
    return [ContainerDevice(uuid, keys.common_word, mib, cores) for uuid, mib, cores in given]


@dataclass(slots=True)
class Outcome:
    """What became of a pod: how each container was started, or why one was not.

    `environments` are what the processes saw when they started: containers that hold ids one after
    the other have one CDI specification, which says something else later.
    """

    containers: dict[str, ContainerConfig] = field(default_factory=dict)
    environments: dict[str, dict[str, str]] = field(default_factory=dict)
    failure: str = ""


class Cluster:
    """One node's worth of a cluster below `root`, a directory with a path short enough for sockets.

    Everything is driven by the test; nothing happens by itself but what the agent does.
    """

    def __init__(self, root: Path, numa_nodes: int = 1) -> None:
        self.root = root
        self.server = ApiServer()
        self.kubelet = EmbeddedKubelet(root, numa_nodes=numa_nodes)
        self.agents: list[tuple[Agent, asyncio.Task[None]]] = []
        self.kubeconfig = root / "kubeconfig"
        self.stat: Callable[[str], os.stat_result] = os.lstat
        """How the container runtime looks at the host's device nodes."""

    async def __aenter__(self) -> Cluster:
        self.server.start()
        self.server.kubeconfig(self.kubeconfig)
        self.server.create("nodes", {"metadata": {"name": NODE}})
        await self.kubelet.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for agent, _task in list(self.agents):
            await self.stop_agent(agent)
        await self.kubelet.stop()
        self.server.stop()

    def api(self) -> Api:
        """A client of the official library, as the agent uses it."""
        return Api(self._connect)

    def _connect(self) -> Any:
        from kubernetes import client, config

        configuration = client.Configuration()
        config.load_kube_config(str(self.kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
        configuration.retries = False
        return client.ApiClient(configuration)

    def scheduler(self, habit: Habit = Habit.OURS) -> ScriptedScheduler:
        """A scheduler with the ways of one of those that there are."""
        return ScriptedScheduler(self.api(), NODE, habit)

    def start_agent(
        self, sections: Mapping[str, Any], found: registry.Registry | None = None, **given: object
    ) -> Agent:
        """Start an agent with these sections of the configuration file and these options."""
        path = self.root / "config" / "config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"version": "v1", **sections}))
        arguments: dict[str, object] = {
            "config_file": str(path),
            "vendors": ("mock",),
            "kubelet_socket": str(self.kubelet.kubelet_socket),
            "pod_resources_socket": str(self.kubelet.pod_resources_socket),
            "cdi_dir": str(self.root / "cdi"),
            "run_dir": str(self.root / "run"),
            "host_root": str(self.root / "host"),
            "probe_interval": "1s",
            "health_hold": "0s",
            **given,
        }
        loaded = load(arguments, {"NODE_NAME": NODE})
        agent = Agent(loaded.config, found or registry.load(), reconcile=0.2, api=self.api)
        self.agents.append((agent, asyncio.create_task(agent.run())))
        return agent

    async def stop_agent(self, agent: Agent) -> None:
        """End an agent as SIGTERM does, and wait until kubelet noticed."""
        for position, (running, task) in enumerate(self.agents):
            if running is agent:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                del self.agents[position]
                await self.kubelet.wait_departed()
                return

    # --- the node and what is written to it ---------------------------------------------------

    def node_annotations(self) -> dict[str, str]:
        """The node's annotations now."""
        return dict(self.server.get("nodes", NODE)["metadata"].get("annotations") or {})

    def pod_annotations(self, name: str) -> dict[str, str]:
        """The annotations of a pod in the namespace default."""
        return dict(self.server.get("pods", name, "default")["metadata"].get("annotations") or {})

    async def ready(self, keys: VendorKeys, resource: str) -> list[str]:
        """The uuids that the node announces, once it does and kubelet knows the resource."""
        await self.kubelet.wait_registered(resource)
        text = await self.settled(lambda: self.node_annotations().get(str(keys.register)))
        return [device.uuid for device in register.decode(text)]

    async def place(
        self,
        habit: Habit,
        keys: VendorKeys,
        name: str,
        *containers: Sequence[ContainerDevice],
    ) -> None:
        """A scheduler gives a pod these devices and binds it."""
        wish = Wish(keys, containers)
        await asyncio.to_thread(self.scheduler(habit).place, "default", name, wish)

    async def settled(self, found: Callable[[], object], seconds: float = 10.0) -> Any:
        """Wait until `found` answers something true. Raises `TimeoutError`."""
        return await asyncio.to_thread(self.server.wait_for, found, seconds)

    async def until(self, found: Callable[[], object], seconds: float = 10.0) -> Any:
        """Wait until `found` answers something true; it is asked on this loop, as everything that
        concerns kubelet must be. Raises `TimeoutError`.
        """
        async with asyncio.timeout(seconds):
            while not (answer := found()):  # noqa: ASYNC110 - nothing tells when it changes
                await asyncio.sleep(0.02)
            return answer

    def environment(self, config: ContainerConfig) -> dict[str, str]:
        """The variables of a container's process, after the runtime applied CDI."""
        return dict(entry.split("=", 1) for entry in self.oci(config)["process"]["env"])

    def oci(self, config: ContainerConfig) -> dict[str, Any]:
        """The OCI specification of a container, after the runtime applied CDI."""
        return config.apply_cdi([self.root / "cdi"], self.stat)

    # --- pods -------------------------------------------------------------------------------------

    def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """A user creates a pod."""
        return self.server.create("pods", manifest)

    async def admit(self, namespace: str, name: str) -> Failed | None:
        """Kubelet admits the pod that the API server has; a failure is written to its status."""
        pod = Pod.from_manifest(self.server.get("pods", name, namespace))
        admitted = await self.kubelet.admit(pod)
        if isinstance(admitted, Failed):
            self.phase(namespace, name, "Failed")
            return admitted
        return None

    async def start(
        self, namespace: str, name: str, container: str, patience: float = 0.0
    ) -> ContainerConfig:
        """Kubelet starts one container, again and again for `patience` seconds.

        Raises `StartError`.
        """
        uid = self.server.get("pods", name, namespace)["metadata"]["uid"]
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            try:
                return await self.kubelet.start_container(uid, container)
            except StartError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.05)

    async def run(self, namespace: str, name: str, patience: float = 0.0) -> Outcome:
        """A bound pod's whole way to running: admitted, every container started in order, init
        containers ended well before the next.
        """
        if failed := await self.admit(namespace, name):
            return Outcome(failure=failed.message)
        return await self.started(namespace, name, patience)

    async def started(self, namespace: str, name: str, patience: float = 0.0) -> Outcome:
        """An admitted pod's way to running."""
        outcome = Outcome()
        uid = self.server.get("pods", name, namespace)["metadata"]["uid"]
        for container in self.kubelet.pods[uid].ordered():
            try:
                config = await self.start(namespace, name, container.name, patience)
            except StartError as error:
                outcome.failure = str(error)
                return outcome
            outcome.containers[container.name] = config
            outcome.environments[container.name] = self.environment(config)
            if container.init and not container.restartable:
                self.init_ended(namespace, name, container.name)
        running = [
            {
                "name": item.name,
                "restartCount": 0,
                "state": {"running": {"startedAt": "2026-01-20T08:15:30Z"}},
            }
            for item in self.kubelet.pods[uid].containers
            if not item.init
        ]
        self.server.patch(
            "pods",
            name,
            {"status": {"phase": "Running", "containerStatuses": running}},
            namespace,
        )
        return outcome

    def init_ended(self, namespace: str, name: str, container: str, exit_code: int = 0) -> None:
        """Kubelet reports the end of an init container."""
        self._init_is(namespace, name, container, {"terminated": {"exitCode": exit_code}})

    def init_waits(self, namespace: str, name: str, container: str, message: str) -> None:
        """Kubelet reports why it cannot start an init container."""
        why = {"reason": "CreateContainerConfigError", "message": message}
        self._init_is(namespace, name, container, {"waiting": why})

    def _init_is(
        self, namespace: str, name: str, container: str, state: Mapping[str, object]
    ) -> None:
        status = self.server.get("pods", name, namespace).get("status") or {}
        others = [s for s in status.get("initContainerStatuses") or () if s["name"] != container]
        now = {"name": container, "restartCount": 0, "state": state}
        self.server.patch(
            "pods", name, {"status": {"initContainerStatuses": [*others, now]}}, namespace
        )

    def phase(self, namespace: str, name: str, phase: str) -> None:
        """Kubelet reports the pod's phase."""
        self.server.patch("pods", name, {"status": {"phase": phase}}, namespace)

    def end(self, namespace: str, name: str) -> None:
        """The pod ends well and stays listed, as a job's does."""
        uid = self.server.get("pods", name, namespace)["metadata"]["uid"]
        self.kubelet.finish_pod(uid)
        self.phase(namespace, name, "Succeeded")

    def delete(self, namespace: str, name: str) -> None:
        """The pod is deleted and gone."""
        uid = self.server.get("pods", name, namespace)["metadata"]["uid"]
        if uid in self.kubelet.pods:
            self.kubelet.delete_pod(uid)
        self.server.delete("pods", name, namespace)
