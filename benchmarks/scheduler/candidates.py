"""What is measured: processes, each with an API server of its own on the same cluster."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.scheduler.asking import Connection

SYNC_SECONDS = 300.0
HAMI = {
    "nvidia": {
        "resourceCountName": "nvidia.com/gpu",
        "resourceMemoryName": "nvidia.com/gpumem",
        "resourceMemoryPercentageName": "nvidia.com/gpumem-percentage",
        "resourceCoreName": "nvidia.com/gpucores",
        "resourcePriorityName": "nvidia.com/priority",
        "overwriteEnv": False,
        "defaultMemory": 0,
        "defaultCores": 0,
        "defaultGPUNum": 1,
    }
}
"""What HAMi's scheduler is told of vendors: as little as it can be, which is the best for it."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the API server, see `deviceplugin.testing.apiserver.server.Call`."""

    verb: str
    path: str
    status: int
    client: str
    began: float
    ended: float


class Served:
    """The API server's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = str(json.loads(self._line())["url"])
        self.connection = Connection(int(self.url.rpartition(":")[2]), tls=False)

    def calls(self) -> list[Call]:
        """Those since the last time, without our own."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return [call for call in (Call(*each) for each in json.loads(self._line())) if call.client]

    def create(self, pod: Mapping[str, Any]) -> dict[str, Any]:
        """The pod as it was stored. Raises `RuntimeError`."""
        namespace = pod["metadata"]["namespace"]
        status, answer = self.connection.send("POST", f"/api/v1/namespaces/{namespace}/pods", pod)
        if status != 201:
            raise RuntimeError(f"{status}: {answer.body}")
        stored: dict[str, Any] = answer.body
        return stored

    def delete(self, pod: Mapping[str, Any]) -> None:
        """The pod is gone at once, whether it was there or not."""
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        path = f"/api/v1/namespaces/{namespace}/pods/{name}?gracePeriodSeconds=0"
        self.connection.send("DELETE", path, {})

    def get(self, pod: Mapping[str, Any]) -> dict[str, Any]:
        """The pod as it is now."""
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        stored: dict[str, Any] = self.connection.send("GET", path)[1].body
        return stored

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scheduler that has seen the whole cluster, `ready` seconds after its start."""

    name: str
    pid: int
    port: int
    ready: float

    def connect(self) -> Connection:
        return Connection(self.port)


@contextlib.contextmanager
def served(cluster: Path) -> Iterator[Served]:
    """An API server with this cluster."""
    command = [sys.executable, "-m", "benchmarks.scheduler.served", str(cluster)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Served(process)
        finally:
            process.kill()


@contextlib.contextmanager
def candidate(root: Path, api: Served, binary: str = "") -> Iterator[Candidate]:
    """Our scheduler, or HAMi's from this file. Raises `RuntimeError` when it does not come up."""
    port, metrics = free_ports(2)
    config = root / "kubeconfig"
    config.write_text(json.dumps(kubeconfig(api.url)))
    flags = [
        f"--http_bind=127.0.0.1:{port}",
        f"--cert_file={root / 'tls.crt'}",
        f"--key_file={root / 'tls.key'}",
        "--scheduler-name=hami-scheduler",
        f"--metrics-bind-address=127.0.0.1:{metrics}",
    ]
    if binary:
        told = root / "device-config.yaml"
        told.write_text(json.dumps(HAMI))  # without its own limits on requests, 5 a second
        command = [binary, *flags, f"--device-config-file={told}"]
        command += ["--kube-qps=10000", "--kube-burst=10000"]
    else:
        command = [sys.executable, "-m", "deviceplugin", "scheduler", *flags]
    log = (root / f"{'hami' if binary else 'ours'}.log").open("ab")
    started = time.monotonic()
    with subprocess.Popen(
        command,
        stdout=log,
        stderr=log,
        env={**os.environ, "KUBECONFIG": str(config), "POD_NAMESPACE": "kube-system"},
    ) as process:
        try:
            wait(process, port, Path(log.name))
            name = "HAMi v2.8.0" if binary else "ours"
            yield Candidate(name, process.pid, port, time.monotonic() - started)
        finally:
            process.kill()


def wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until it answers a filter of a pod that asks for nothing, which it does once it has seen the
    cluster. Raises `RuntimeError`.
    """
    nothing = {
        "Pod": {
            "metadata": {"namespace": "default", "name": "nobody", "uid": "0"},
            "spec": {"containers": [{"name": "main"}]},
        },
        "NodeNames": ["nowhere"],
    }
    deadline = time.monotonic() + SYNC_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, RuntimeError):
            connection = Connection(port, timeout=SYNC_SECONDS)
            if connection.post("/filter", nothing).body["NodeNames"]:
                return
        time.sleep(0.05)
    raise RuntimeError(f"it did not come up:\n{log.read_text()[-2000:]}")


def free_ports(count: int) -> list[int]:
    """Different ones, because all are held until the last is found."""
    with contextlib.ExitStack() as held:
        found = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in found]


def kubeconfig(url: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {"server": url}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "users": [{"name": "bench", "user": {"token": "scheduler"}}],
    }
