"""A scheduler on a fake API server, asked over HTTP as kube-scheduler asks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deviceplugin import registry
from deviceplugin.api.hami import register
from deviceplugin.api.hami.keys import NVIDIA_REGISTER
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.api.node import ALLOCATION
from deviceplugin.apiserver.client import Api
from deviceplugin.scheduler.leadership import Alone, Leading
from deviceplugin.scheduler.run import Scheduler
from deviceplugin.scheduler.server import Server
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.testing.apiserver import ApiServer
from deviceplugin.vendor.scheduling import SchedulingBackend

GPU, MEMORY, CORES = "nvidia.com/gpu", "nvidia.com/gpumem", "nvidia.com/gpucores"


def gpu_node(
    name: str, cards: int = 2, memory: int = 16384, *, deferred: bool = False, **more: Any
) -> dict[str, Any]:
    """A node with GPUs, as its agent describes it."""
    devices = [
        NodeDevice(
            uuid=f"GPU-{name}-{index}",
            index=index,
            count=10,
            memory=memory,
            cores=100,
            type="NVIDIA-Tesla T4",
            mode="hami-core",
            healthy=True,
        )
        for index in range(cards)
    ]
    annotations = {NVIDIA_REGISTER: register.encode(devices)}
    if deferred:
        annotations[ALLOCATION] = "deferred"
    return {
        "metadata": {"name": name, "annotations": annotations, **more},
        "status": {"allocatable": {GPU: str(cards * 10)}, "capacity": {GPU: str(cards * 10)}},
    }


def gpu_pod(
    name: str,
    memory: int = 1000,
    cores: int = 10,
    count: int = 1,
    annotations: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A pod with one container that asks for a share of GPUs."""
    limits = {GPU: str(count), MEMORY: str(memory), CORES: str(cores)}
    return {
        "metadata": {"name": name, "namespace": "default", "annotations": annotations or {}},
        "spec": {
            "schedulerName": "hami-scheduler",
            "containers": [{"name": "main", "image": "x", "resources": {"limits": limits}}],
        },
    }


def nvidia() -> tuple[SchedulingBackend, ...]:
    """NVIDIA's scheduling half."""
    return registry.load_scheduling(registry.load().vendors["nvidia"], {})


class Given:
    """Leadership as a test says: for so many more seconds, whenever somebody asks."""

    def __init__(self, seconds: float = math.inf) -> None:
        self.seconds, self.term, self.holder = seconds, 0, "replica-b"

    def left(self) -> float:
        return self.seconds

    def is_leader(self) -> bool:
        return self.seconds > 0

    async def run(self) -> None:
        await asyncio.Event().wait()


class Bench:
    """One API server, and as many replicas of the scheduler as a test wants."""

    def __init__(self, root: Path, backends: Iterable[SchedulingBackend]) -> None:
        self.server = ApiServer()
        self.server.start()
        self._kubeconfig = self.server.kubeconfig(root / "kubeconfig")
        self._backends = tuple(backends)
        self._stack = contextlib.AsyncExitStack()
        self._session: aiohttp.ClientSession | None = None

    async def scheduler(
        self,
        settings: SchedulerSettings | None = None,
        leading: Leading | None = None,
        **more: Any,
    ) -> tuple[Scheduler, str]:
        """A running replica and its address, once it has seen the cluster."""
        made = Scheduler(
            settings or SchedulerSettings(bind_patience=3.0),
            self._backends,
            self.api(),
            leading or Alone(),
            **more,
        )
        server = Server(made.routes(), made.blockers)
        await server.start("127.0.0.1:0")
        self._stack.push_async_callback(server.close)
        task = asyncio.create_task(made.run())
        self._stack.push_async_callback(_ended, task)
        await self.until(lambda: made.watching.synced)
        return made, f"http://127.0.0.1:{server.address[1]}"

    def api(self) -> Api:
        """A client of the official library, as the scheduler uses it."""
        return Api(self._connect, 16)

    def _connect(self) -> Any:
        from kubernetes import client, config

        configuration = client.Configuration()
        config.load_kube_config(str(self._kubeconfig), client_configuration=configuration)
        configuration.retries = False
        configuration.connection_pool_maxsize = 16
        return client.ApiClient(configuration)

    async def post(self, url: str, body: Any) -> Any:
        """An answer of the extender, decoded."""
        if self._session is None:
            self._session = await self._stack.enter_async_context(aiohttp.ClientSession())
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self._session.post(url, data=data) as response:
            text = await response.text()
            if response.status != 200:
                return response.status, text
            return json.loads(text)

    async def filter(self, address: str, name: str, nodes: list[str]) -> dict[str, Any]:
        """kube-scheduler's filter for a stored pod."""
        pod = self.server.get("pods", name, "default")
        body = {"Pod": pod, "Nodes": None, "NodeNames": nodes}
        found: dict[str, Any] = await self.post(f"{address}/filter", body)
        return found

    async def bind(self, address: str, name: str, node: str) -> str:
        """kube-scheduler's bind; the error's text, empty for none."""
        pod = self.server.get("pods", name, "default")
        body = {
            "PodName": name,
            "PodNamespace": "default",
            "PodUID": pod["metadata"]["uid"],
            "Node": node,
        }
        answer = await self.post(f"{address}/bind", body)
        return str(answer["Error"])

    async def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait until a condition holds. Raises `TimeoutError`."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        await self._stack.aclose()
        self.server.stop()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


SECONDS = 60.0


class Process:
    """The running command, its lines and where it answers."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process, self.lines, self.address = process, list[str](), ""

    async def until(self, pattern: str) -> re.Match[str]:
        """The first line from now on that matches. Raises `TimeoutError`."""
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS):
            while line := await self.process.stdout.readline():
                self.lines.append(line.decode())
                if found := re.search(pattern, self.lines[-1]):
                    return found
        raise AssertionError("".join(self.lines))

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(self.process.communicate(), SECONDS)
        assert self.process.returncode is not None
        return self.process.returncode


@contextlib.asynccontextmanager
async def _started(kubeconfig: Path, *flags: str, **variables: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deviceplugin", "scheduler", "--http_bind=127.0.0.1:0"),
        *("--log-format=json", *flags),
        env={**os.environ, "KUBECONFIG": str(kubeconfig), **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    found = Process(process)
    try:
        address = await found.until(r'"address": "([^"]+)"')
        found.address = f"http://{address[1]}"
        yield found
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
def started() -> Any:
    """The command as a process: a context manager of its kubeconfig and flags."""
    return _started


@pytest.fixture(scope="session")
def make() -> Any:
    """The makers of nodes, pods, backends and leadership, as attributes."""

    class Make:
        node = staticmethod(gpu_node)
        pod = staticmethod(gpu_pod)
        nvidia = staticmethod(nvidia)
        leading = Given

    return Make


@pytest.fixture
def bench_of() -> type[Bench]:
    """For tests that want other backends than NVIDIA's."""
    return Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    found = Bench(tmp_path, nvidia())
    yield found
    await found.close()
