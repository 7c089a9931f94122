"""The agent's figures under a scheduler, beside their targets; part of ``make bench``.

The agent is the real process with its probe, the API server a fake one over HTTP in this process,
answering after 5 ms where that is said. Every grant is checked, so that no figure is that of an
answer that helps nobody.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path

from agent import RESOURCE, Bench, compiled, directory, memory, quantiles, row, timed

from deviceplugin.api.hami import register
from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.apiserver.client import JSON_PATCH, Api
from deviceplugin.apiserver.client import Path as ApiPath
from deviceplugin.testing.apiserver import ApiServer
from deviceplugin.testing.cluster import NODE, devices, manifest
from deviceplugin.testing.kubelet import Admitted, Pod
from deviceplugin.testing.scheduling import Habit, LockHeldError, ScriptedScheduler, Wish
from deviceplugin.vendors.mock.configuration import KEYS_OF_OUR_OWN as KEYS


class Cluster:
    """One node with a real agent process."""

    def __init__(self, root: Path, strategy: str, allocation: str) -> None:
        self.bench = Bench(root, 20, strategy, allocation)
        self.server = ApiServer()
        self.root = root
        self.uuids: list[str] = []

    async def start(self) -> int:
        self.server.start()
        self.server.create("nodes", {"metadata": {"name": NODE}})
        config = self.server.kubeconfig(self.root / "kubeconfig")
        self.bench.environment = {"KUBECONFIG": str(config), "NODE_NAME": NODE}
        await self.bench.kubelet.start()
        self.agent, _ = await self.bench.start()
        text = await asyncio.to_thread(self.server.wait_for, self._announced, 20)
        self.uuids = [device.uuid for device in register.decode(text)]
        return self.agent.pid

    def _announced(self) -> str:
        annotations = self.server.get("nodes", NODE)["metadata"].get("annotations") or {}
        return str(annotations.get(str(KEYS.register), ""))

    async def stop(self) -> None:
        self.agent.terminate()
        self.agent.wait(10)
        await self.bench.kubelet.stop()
        self.server.stop()

    def connect(self) -> object:
        from kubernetes import config

        return config.new_client_from_config(str(self.root / "kubeconfig"))

    async def place(self, position: int, habit: Habit) -> Pod:
        name = f"pod-{position}"
        self.server.create("pods", manifest(RESOURCE, name, {"main": 1}))
        uuid = self.uuids[position % len(self.uuids)]
        wish = Wish(KEYS, [devices(KEYS, (uuid, 100 + position, 1))])
        scheduler = ScriptedScheduler(Api(self.connect), NODE, habit)
        await asyncio.to_thread(scheduler.filter, "default", name, wish)
        while True:
            try:
                await asyncio.to_thread(scheduler.bind, "default", name)
                break
            except LockHeldError:
                await asyncio.sleep(0.005)
        return Pod.from_manifest(self.server.get("pods", name, "default"))

    def check(self, position: int, environment: dict[str, str]) -> None:
        assert environment["MOCK_MEMORY_LIMIT_0"] == f"{100 + position}m", environment


async def with_cluster(strategy: str, allocation: str, measure) -> None:  # type: ignore[no-untyped-def]
    root = directory()
    cluster = Cluster(root, strategy, allocation)
    pid = await cluster.start()
    try:
        await measure(cluster, pid)
    finally:
        await cluster.stop()
        shutil.rmtree(root, ignore_errors=True)


async def locked(cluster: Cluster, pid: int) -> None:
    stub = await cluster.bench.stub()
    ids = sorted(cluster.bench.kubelet.devices(RESOURCE))
    values, calls = [], []
    for position in range(60):
        await cluster.place(position, Habit.HAMI28)
        # A real kubelet hears of the pod from the same server: by then the watch has shown it.
        await asyncio.sleep(0.05)
        cluster.server.faults.slow = 0.005
        before = len(cluster.server.calls)
        ask = pb.ContainerAllocateRequest(devices_ids=[ids[position]])
        started = time.perf_counter()
        answer = await stub.Allocate(pb.AllocateRequest(container_requests=[ask]))
        values.append((time.perf_counter() - started) * 1000)
        cluster.server.faults.slow = 0.0
        cluster.check(position, dict(answer.container_responses[0].envs))
        await asyncio.sleep(0.05)
        calls += [call for call in cluster.server.calls[before:] if call.verb != "watch"]
    row("Allocate locked, API server at 5 ms", quantiles(values[10:]), "<= 8 ms p50")
    api = Api(cluster.connect)
    cluster.server.faults.slow = 0.005
    patch = [{"op": "add", "path": "/metadata/annotations/x", "value": "y"}]

    async def alone(position: int) -> None:
        await api.patch(ApiPath.pod("default", f"pod-{position % 60}"), patch, JSON_PATCH)

    row("  of that: one PATCH by the official client alone", quantiles(await timed(alone, 60)), "-")
    cluster.server.faults.slow = 0.0
    on_pods = [call for call in calls if "/pods/" in call.path]
    row("API calls before its answer, a container", f"{len(on_pods) / 60:.2f}", "1 write")
    row("API calls in all, a container", f"{len(calls) / 60:.2f}", "HAMi: several")


async def deferred(cluster: Cluster, pid: int) -> None:
    row("resident memory with API watch on", memory(pid), "<= 90 MiB")
    before = len(cluster.server.calls)
    pods = [await cluster.place(position, Habit.OURS) for position in range(100)]
    scheduling = 3 * len(pods)
    starts = []
    for pod in pods:
        admitted = await cluster.bench.kubelet.admit(pod)
        assert isinstance(admitted, Admitted), admitted
    stub = await cluster.bench.stub()
    held = [cluster.bench.kubelet.held(pod.uid, "main")[RESOURCE] for pod in pods]

    async def allocate(position: int) -> None:
        ask = pb.ContainerAllocateRequest(devices_ids=held[position % len(held)])
        await stub.Allocate(pb.AllocateRequest(container_requests=[ask]))

    allocations = await timed(allocate, 1000)
    for position, pod in enumerate(pods):
        await asyncio.sleep(0.012)  # PodResources takes 100 questions a second
        started = time.perf_counter()
        config = await cluster.bench.kubelet.start_container(pod.uid, "main")
        starts.append((time.perf_counter() - started) * 1000)
        oci = config.apply_cdi([cluster.root / "cdi"])
        cluster.check(position, dict(entry.split("=", 1) for entry in oci["process"]["env"]))
        if position == 63:
            await asyncio.sleep(1)
            row("resident memory with 64 grants", memory(pid), "<= 100 MiB")
    row("Allocate scheduled, deferred", quantiles(allocations), "<= 1.0 / 3 ms")
    row("PreStartContainer scheduled, up to 100 pods", quantiles(starts[10:]), "<= 10 / 25 ms")
    again = []
    for pod in pods:
        await asyncio.sleep(0.012)
        started = time.perf_counter()
        await cluster.bench.kubelet.restart_container(pod.uid, "main")
        again.append((time.perf_counter() - started) * 1000)
    row("PreStartContainer of a restart, 100 pods", quantiles(again), "<= 10 / 25 ms")
    await asyncio.sleep(2)
    calls = [call for call in cluster.server.calls[before:] if call.verb != "watch"]
    row(
        "API calls of the agent, a container",
        f"{(len(calls) - scheduling) / len(pods):.2f}",
        "<= 1, none on the path",
    )
    grants = json.loads((cluster.root / "run" / "grants.json").read_text())["grants"]
    assert len(grants) == len(pods)


async def main() -> None:
    compiled()
    await with_cluster("envvar", "scheduled-locked", locked)
    await with_cluster("cdi-cri", "scheduled-deferred", deferred)


if __name__ == "__main__":
    asyncio.run(main())
