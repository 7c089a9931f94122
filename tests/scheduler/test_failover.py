"""Replicas as processes behind a Service, which are killed, stopped and replaced while
kube-scheduler goes on: every pod is bound once, and no card gets more than it has.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deviceplugin.api.hami import poddevices
from deviceplugin.api.hami.keys import BIND_PHASE, MUTEX_LOCK, VENDORS, VGPU_NODE

NVIDIA = VENDORS["NVIDIA"]
FLAGS = (
    *("--metrics-bind-address=", "--leader-elect", "--leader-elect-mode=own"),
    *("--leader-elect-resource-name=ours", "--leader-elect-resource-namespace=default"),
    *("--leader-elect-lease-duration=6s", "--leader-elect-renew-deadline=4s"),
    "--leader-elect-retry-period=500ms",
)
NODES, CARD_MIB, POD_MIB = 6, 1000, 120
PODS = NODES * 8
"""As many as there is room for: whatever is counted wrongly shows."""
SECONDS = 90.0


class KubeScheduler:
    """Eight pods at a time, each over and over again until it is bound; not more of them are there
    than a test has `arrived`.
    """

    def __init__(self, bench: Any, addresses: list[str], pods: list[str]) -> None:
        self._bench, self.addresses, self._pods = bench, addresses, pods
        self.arrived = 0
        self._next = 0

    async def run(self) -> None:
        """Until all pods are bound."""
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(self._work())

    def bound(self) -> int:
        """Pods, so far."""
        return sum(bool(self._node(name)) for name in self._pods)

    async def _work(self) -> None:
        while self._next < len(self._pods):
            if self._next >= self.arrived:
                await asyncio.sleep(0.01)
                continue
            name, self._next = self._pods[self._next], self._next + 1
            await self.serve(name)

    async def serve(self, name: str) -> None:
        nodes = [f"n{i}" for i in range(NODES)]
        while not self._node(name):
            answer = await self._ask("filter", self._filter(name, nodes))
            if answer is not None and answer.get("NodeNames"):
                (node,) = answer["NodeNames"]
                await self._ask("bind", self._bind(name, node))
            if not self._node(name):
                await asyncio.sleep(random.uniform(0.05, 0.4))

    def _node(self, name: str) -> str:
        pod = self._bench.server.get("pods", name, "default")
        return str(pod["spec"].get("nodeName") or "")

    def _filter(self, name: str, nodes: list[str]) -> Any:
        pod = self._bench.server.get("pods", name, "default")
        return {"Pod": pod, "NodeNames": nodes}

    def _bind(self, name: str, node: str) -> Any:
        uid = self._bench.server.get("pods", name, "default")["metadata"]["uid"]
        return {"PodName": name, "PodNamespace": "default", "PodUID": uid, "Node": node}

    async def _ask(self, verb: str, body: Any) -> Any:
        """The answer of whoever decides; None where nobody does now."""
        for address in random.sample(self.addresses, len(self.addresses)):
            try:
                async with (
                    aiohttp.ClientSession() as session,
                    session.post(f"{address}/{verb}", json=body) as response,
                ):
                    answer = json.loads(await response.read())
            except (aiohttp.ClientError, ConnectionError):
                continue
            if not answer["Error"]:
                return answer
        return None


def check(bench: Any) -> None:
    """What holds at the end, by what the API server has."""
    given: Counter[str] = Counter()
    for pod in bench.server.objects("pods"):
        told, node = pod["metadata"]["annotations"], pod["spec"]["nodeName"]
        assert told[VGPU_NODE] == node
        assert told[BIND_PHASE] == "allocating"
        ((device,),) = poddevices.decode(told[NVIDIA.allocated], NVIDIA.allocated)
        assert told[NVIDIA.to_allocate] == told[NVIDIA.allocated]
        assert device.uuid.startswith(f"GPU-{node}-")
        assert device.memory == POD_MIB
        given[device.uuid] += device.memory
    assert len(bench.server.objects("pods")) == PODS
    assert max(given.values()) <= CARD_MIB
    bound = Counter(
        call.path for call in bench.server.calls if "/binding" in call.path and call.status == 201
    )
    assert set(bound.values()) == {1}
    assert len(bound) == PODS


async def agents(bench: Any) -> None:
    """Those of nodes with a lock give it back some time after the pod is bound."""
    while True:
        for node in bench.server.objects("nodes"):
            if MUTEX_LOCK in node["metadata"]["annotations"]:
                await asyncio.sleep(0.02)
                name = node["metadata"]["name"]
                free = {"metadata": {"annotations": {MUTEX_LOCK: None}}}
                bench.server.patch("nodes", name, free)
        await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_replicas_are_killed_and_replaced_under_load(
    started: Any, bench: Any, make: Any, tmp_path: Path
) -> None:
    deferred = frozenset(f"n{i}" for i in range(NODES) if i % 3)
    for i in range(NODES):
        name = f"n{i}"
        node = make.node(name, cards=1, memory=CARD_MIB, deferred=name in deferred)
        bench.server.create("nodes", node)
    pods = [f"p{i}" for i in range(PODS)]
    for name in pods:
        bench.server.create("pods", make.pod(name, memory=POD_MIB, cores=1))
    kubeconfig = bench.server.kubeconfig(tmp_path / "config")
    bench.server.faults.slow = 0.02
    addresses: list[str] = []
    kube = KubeScheduler(bench, addresses, pods)
    serving = asyncio.create_task(agents(bench))
    work = asyncio.create_task(kube.run())
    async with AsyncExitStack() as stack:

        async def another() -> Any:
            made = await stack.enter_async_context(started(kubeconfig, *FLAGS))
            addresses.append(made.address)
            return made

        async def leader() -> Any:
            """Whoever decides, as the processes tell; it is no longer among those that stay."""
            while True:
                for process in running:
                    asked = {"Pod": {"metadata": {}, "spec": {}}}
                    answer = await bench.post(f"{process.address}/preempt", asked)
                    if isinstance(answer, dict):
                        running.remove(process)
                        return process
                await asyncio.sleep(0.05)

        async def bound(some: int) -> None:
            await bench.until(lambda: kube.bound() >= some, SECONDS)

        running = [await another(), await another()]
        # Killed in the middle: nothing is given back, nothing is tidied up.
        kube.arrived = PODS // 3
        await bound(PODS // 6)
        (await leader()).process.kill()
        running.append(await another())
        kube.arrived = 2 * PODS // 3
        # Told to stop in the middle while another takes its place, as an upgrade does.
        await bound(PODS // 2)
        second = await leader()
        stopped = asyncio.create_task(second.stop())
        running.append(await another())
        kube.arrived = PODS
        assert await stopped == 0
        await asyncio.wait_for(work, SECONDS)
        for process in running:
            assert await process.stop() == 0
    serving.cancel()
    check(bench)
