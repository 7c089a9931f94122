"""The agent's figures beside their targets: ``make bench``.

The agent is the real process with its probe, serving the mock profile dgx-a100 (8 cards by 10) on the
embedded kubelet, which runs in this process. Times are milliseconds from the call to its answer as
the caller sees it; memory is the sum over the agent and its probes, resident (RSS), and with what
processes share divided among them (PSS). As on a node, byte code is compiled before (images/Dockerfile
does so) and the directories of CDI and of records are on a tmpfs.
"""

from __future__ import annotations

import asyncio
import compileall
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc.aio

import deviceplugin
from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2_grpc as rpc
from deviceplugin.testing.kubelet import Admitted, Container, EmbeddedKubelet, Pod

RESOURCE = "mock.deviceplugin.dev/gpu"


def row(what: str, figure: str, target: str) -> None:
    print(f"{what:<58} {figure:>22}   target {target}", flush=True)


def quantiles(values: list[float]) -> str:
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"p50 {statistics.median(ordered):.2f} p99 {p99:.2f} ms"


class Bench:
    def __init__(self, root: Path, split: int, strategy: str, allocation: str) -> None:
        self.root, self.kubelet = root, EmbeddedKubelet(root, numa_nodes=2)
        config = root / "config" / "config.json"
        config.parent.mkdir()
        config.write_text(json.dumps({"mock": {"profile": "dgx-a100", "deviceSplitCount": split}}))
        self.environment: dict[str, str] = {}
        self.flags = {
            "config-file": config,
            "vendors": "mock",
            "kubelet-socket": self.kubelet.kubelet_socket,
            "pod-resources-socket": self.kubelet.pod_resources_socket,
            "cdi-dir": root / "cdi",
            "run-dir": root / "run",
            "http-listen": "127.0.0.1:0",
            "device-list-strategy": strategy,
            "allocation": allocation,
        }

    async def start(self) -> tuple[subprocess.Popen[bytes], float]:
        arguments = [f"--{name}={value}" for name, value in self.flags.items()]
        started = time.perf_counter()
        agent = subprocess.Popen(
            [sys.executable, "-m", "deviceplugin", "serve", *arguments],
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self.environment},
        )
        await self.kubelet.wait_registered(RESOURCE, 30)
        return agent, time.perf_counter() - started

    async def stub(self) -> rpc.DevicePluginStub:
        (socket,) = self.kubelet.plugin_dir.glob("deviceplugin-*.sock")
        channel = grpc.aio.insecure_channel(f"unix:{socket}")
        await channel.channel_ready()
        return rpc.DevicePluginStub(channel)


def tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(p for child in children for p in tree(int(child)))]


def memory(pid: int) -> str:
    totals = {"Rss:": 0, "Pss:": 0}
    for process in tree(pid):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            name, *rest = line.split()
            if name in totals:
                totals[name] += int(rest[0])
    return f"{totals['Rss:'] / 1024:.1f} MiB (PSS {totals['Pss:'] / 1024:.1f})"


def directory() -> Path:
    tmpfs = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="dpb-", dir=tmpfs if tmpfs.is_dir() else "/tmp"))


def compiled() -> None:
    """Byte code of the agent, so that no start compiles it."""
    for folder, _, _ in os.walk(Path(deviceplugin.__file__).parent, followlinks=True):
        compileall.compile_dir(folder, maxlevels=0, quiet=1)


def cpu_seconds(pid: int) -> float:
    ticks = 0
    for process in tree(pid):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def with_agent(split: int, strategy: str, allocation: str, measure) -> None:  # type: ignore[no-untyped-def]
    root = directory()
    bench = Bench(root, split, strategy, allocation)
    await bench.kubelet.start()
    agent, took = await bench.start()
    try:
        await measure(bench, agent, took)
    finally:
        agent.terminate()
        agent.wait(10)
        await bench.kubelet.stop()
        shutil.rmtree(root, ignore_errors=True)


async def timed(call, rounds: int) -> list[float]:  # type: ignore[no-untyped-def]
    values = []
    for position in range(rounds):
        started = time.perf_counter()
        await call(position)
        values.append((time.perf_counter() - started) * 1000)
    return values[rounds // 10 :]


async def starts() -> None:
    times = []

    async def measure(bench: Bench, agent: subprocess.Popen[bytes], took: float) -> None:
        times.append(took)

    for _ in range(5):
        await with_agent(10, "envvar", "standalone", measure)
    row(
        "process start -> first list at kubelet (8 x 10), median of 5",
        f"{statistics.median(times):.2f} s",
        "<= 0.6 s",
    )


async def standalone(bench: Bench, agent: subprocess.Popen[bytes], _: float) -> None:
    stub = await bench.stub()
    ids = sorted(bench.kubelet.devices(RESOURCE))

    async def allocate(position: int) -> None:
        ask = pb.ContainerAllocateRequest(devices_ids=[ids[position % len(ids)]])
        await stub.Allocate(pb.AllocateRequest(container_requests=[ask]))

    row("Allocate standalone, envvar", quantiles(await timed(allocate, 1000)), "<= 1.0 / 3 ms")

    async def prefer(position: int) -> None:
        ask = pb.ContainerPreferredAllocationRequest(available_deviceIDs=ids, allocation_size=2)
        await stub.GetPreferredAllocation(pb.PreferredAllocationRequest(container_requests=[ask]))

    row(
        f"GetPreferredAllocation, {len(ids)} ids",
        quantiles(await timed(prefer, 300)),
        "p50 <= 1.5 ms",
    )
    await asyncio.sleep(2)
    row(
        "resident memory, standalone, agent and probe",
        memory(agent.pid),
        "<= 64 MiB",
    )
    before, started = cpu_seconds(agent.pid), time.perf_counter()
    await asyncio.sleep(30)
    share = (cpu_seconds(agent.pid) - before) / (time.perf_counter() - started) * 100
    row("idle CPU over 30 s", f"{share:.2f} %", "<= 0.3 %")
    back = []
    for _ in range(3):
        await bench.kubelet.stop()
        await bench.kubelet.start()
        started = time.perf_counter()
        await bench.kubelet.wait_registered(RESOURCE)
        await bench.kubelet.wait_for(lambda: bench.kubelet.allocatable()[RESOURCE] == len(ids))
        back.append(time.perf_counter() - started)
    row(
        "kubelet.sock created -> list answered, median of 3",
        f"{statistics.median(back):.2f} s",
        "<= 0.5 s",
    )


async def many(bench: Bench, agent: subprocess.Popen[bytes], _: float) -> None:
    stub = await bench.stub()
    ids = sorted(bench.kubelet.devices(RESOURCE))

    async def prefer(position: int) -> None:
        ask = pb.ContainerPreferredAllocationRequest(available_deviceIDs=ids, allocation_size=2)
        await stub.GetPreferredAllocation(pb.PreferredAllocationRequest(container_requests=[ask]))

    row(
        f"GetPreferredAllocation, {len(ids)} ids",
        quantiles(await timed(prefer, 200)),
        "p50 <= 6 ms",
    )


async def by_cdi(bench: Bench, agent: subprocess.Popen[bytes], _: float) -> None:
    stub = await bench.stub()
    ids = sorted(bench.kubelet.devices(RESOURCE))

    async def allocate(position: int) -> None:
        ask = pb.ContainerAllocateRequest(devices_ids=[ids[position % len(ids)]])
        await stub.Allocate(pb.AllocateRequest(container_requests=[ask]))

    row(
        "Allocate standalone, cdi-cri, first writes",
        quantiles(await timed(allocate, len(ids))),
        "<= 1.0 / 3 ms",
    )
    row(
        "Allocate standalone, cdi-cri, repeated",
        quantiles(await timed(allocate, 800)),
        "<= 1.0 / 3 ms",
    )


async def deferred(bench: Bench, agent: subprocess.Popen[bytes], _: float) -> None:
    pods = [Pod(f"pod-{i}", (Container("main", {RESOURCE: 1}),)) for i in range(100)]
    for pod in pods:
        assert isinstance(await bench.kubelet.admit(pod), Admitted)
    stub = await bench.stub()
    held = [bench.kubelet.held(pod.uid, "main")[RESOURCE] for pod in pods]

    async def allocate(position: int) -> None:
        ask = pb.ContainerAllocateRequest(devices_ids=held[position % 100])
        await stub.Allocate(pb.AllocateRequest(container_requests=[ask]))

    async def pre_start(position: int) -> None:
        # kubelet's PodResources takes 100 a second: stay below, and time only the call
        await stub.PreStartContainer(pb.PreStartContainerRequest(devices_ids=held[position % 100]))

    row("Allocate deferred", quantiles(await timed(allocate, 1000)), "<= 1.0 / 3 ms")
    values = []
    for position in range(200):
        await asyncio.sleep(0.012)
        values += await timed(lambda _, p=position: pre_start(p), 1)
    row("PreStartContainer deferred, 100 pods", quantiles(values), "<= 10 / 25 ms")
    row(
        "resident memory with 100 grants, no API watch",
        memory(agent.pid),
        "<= 100 MiB",
    )


async def main() -> None:
    compiled()
    await starts()
    await with_agent(10, "envvar", "standalone", standalone)
    await with_agent(160, "envvar", "standalone", many)
    await with_agent(10, "cdi-cri", "standalone", by_cdi)
    await with_agent(20, "cdi-cri", "standalone-deferred", deferred)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "deviceplugin", "devices", "--vendors", "mock"],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        times.append(time.perf_counter() - started)
    row("deviceplugin devices, median of 5", f"{statistics.median(times):.2f} s", "<= 0.7 s")


if __name__ == "__main__":
    asyncio.run(main())
