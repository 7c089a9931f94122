"""Two replicas of the plain manifests as processes, a kube-scheduler beside each, and what pods come to.

Needs root, because each replica has a host name of its own, as pods have. KUBE_SCHEDULER in the
environment names another kube-scheduler, KUBE_SCHEDULER_FLAGS more flags for it.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import queue
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lab import (
    DECISION,
    GPU,
    NAME,
    NAMESPACE,
    POLICY,
    STATUS,
    Lab,
    Service,
    commands,
    free_port,
    pod,
    until,
    webhooks_at,
    with_flags,
)

from deviceplugin.api.hami import poddevices, register
from deviceplugin.api.hami.keys import NVIDIA_REGISTER
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.api.node import ALLOCATION

CARDS, CARD_MIB, SLOTS = 8, 16384, 10
"""Of a node that is made up."""
SECONDS = 300.0
UNVERIFIED = ssl._create_unverified_context()


class Client:
    """The API server over one kept connection; for one thread."""

    def __init__(self, port: int, token: str, timeout: float | None = 60) -> None:
        self._port, self._token, self._timeout = port, token, timeout
        self._connection: http.client.HTTPSConnection | None = None

    def call(self, method: str, path: str, body: Any = None, kind: str = "json") -> Any:
        """Raises `RuntimeError` with the API server's words."""
        response = self.open(method, path, body, kind)
        text = response.read()
        if response.status >= 400:
            raise RuntimeError(f"{response.status} {text[:300].decode()}")
        return json.loads(text)

    def open(
        self, method: str, path: str, body: Any = None, kind: str = "json"
    ) -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                "127.0.0.1", self._port, timeout=self._timeout, context=UNVERIFIED
            )
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": f"application/{kind}",
        }
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, headers)
        return self._connection.getresponse()


def _ready(port: int) -> bool:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=UNVERIFIED)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass
class Seen:
    """A pod, all the nodes that it was ever seen on, and when it was first seen bound and running."""

    namespace: str
    name: str
    nodes: set[str] = field(default_factory=set)
    bound: float = 0.0
    running: float = 0.0


class Watch:
    """Every change of every pod, from the beginning, by a stream of its own."""

    def __init__(self, client: Client) -> None:
        self.pods: dict[str, Seen] = {}
        self._client = client
        self.broken = ""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            listed = self._client.call("GET", "/api/v1/pods")
            version = listed["metadata"]["resourceVersion"]
            path = f"/api/v1/pods?watch=1&timeoutSeconds=3600&resourceVersion={version}"
            for line in self._client.open("GET", path):
                self._hear(json.loads(line)["object"])
            self.broken = "the watch ended"
        except Exception as error:
            self.broken = repr(error)

    def _hear(self, item: dict[str, Any]) -> None:
        metadata = item["metadata"]
        seen = self.pods.setdefault(metadata["uid"], Seen(metadata["namespace"], metadata["name"]))
        if (node := item["spec"].get("nodeName")) and node not in seen.nodes:
            seen.bound = seen.bound or time.monotonic()
            seen.nodes.add(node)
        if item.get("status", {}).get("phase") == "Running":
            seen.running = seen.running or time.monotonic()

    def of(self, prefix: str) -> list[Seen]:
        """Pods whose names begin so."""
        return [p for p in tuple(self.pods.values()) if p.name.startswith(prefix)]

    def bound(self, prefix: str) -> int:
        return sum(1 for p in self.of(prefix) if p.nodes)


class Replica:
    """The two containers of one pod of the Deployment, as processes."""

    def __init__(self, pair: Replicas, name: str) -> None:
        self.pair, self.name = pair, name
        self.port, self.metrics = free_port(), free_port()
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        lab, folder = self.pair.lab, self.pair.folder
        ours, theirs = self.pair.containers
        own_name = ("unshare", "--uts", "sh", "-c", f'hostname {self.name}; exec "$0" "$@"')
        changed = {
            "--http_bind": f"127.0.0.1:{self.port}",
            "--metrics-bind-address": f"127.0.0.1:{self.metrics}",
            "--device-config-file": str(folder / "device-config.yaml"),
        }
        configuration = yaml.safe_load((folder / "config.yaml").read_text())
        configuration["clientConnection"] = {"kubeconfig": str(self.pair.kubeconfig)}
        configuration["extenders"][0]["urlPrefix"] = f"https://127.0.0.1:{self.port}"
        here = folder / f"{self.name}.yaml"
        here.write_text(json.dumps(configuration))
        self._processes = [
            lab.start(
                f"scheduler-{self.name}",
                *with_flags(ours["args"], changed),
                command=(*own_name, sys.executable, "-m", "deviceplugin"),
                KUBECONFIG=str(self.pair.kubeconfig),
                POD_NAMESPACE=NAMESPACE,
            ),
            lab.start(
                f"kube-scheduler-{self.name}",
                f"--config={here}",
                "--bind-address=127.0.0.1",
                f"--secure-port={free_port()}",
                *[arg for arg in theirs["command"][1:] if not arg.startswith("--config")],
                *os.environ.get("KUBE_SCHEDULER_FLAGS", "").split(),
                command=(*own_name, kube_scheduler(lab)),
            ),
        ]

    def kill(self) -> None:
        """As a node that is gone."""
        self._unlisted()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def leave(self) -> bool:
        """As kubelet ends a pod: the Service drops it, the preStop hook waits, SIGTERM to all."""
        self._unlisted()
        time.sleep(5)
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        return all(process.wait(45) in (0, 1) for process in self._processes)

    def _unlisted(self) -> None:
        service = self.pair.service
        service.ports = [port for port in service.ports if port != self.port]

    def back(self) -> None:
        self.start()
        until(f"{self.name} is ready", lambda: _ready(self.port))
        self.pair.service.ports = [*self.pair.service.ports, self.port]


def kube_scheduler(lab: Lab) -> str:
    """Its path."""
    return os.environ.get("KUBE_SCHEDULER", str(lab.binaries / "kube-scheduler"))


def versions(lab: Lab) -> str:
    """What the programs say on top."""
    command = [kube_scheduler(lab), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return f"# kube-apiserver {lab.version}, kube-scheduler {said.split()[-1]}"


class Replicas:
    """The manifests, two replicas of them, and the pods that somebody makes."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.folder = lab, lab.root / "config"
        self.folder.mkdir()
        self.replicas = {name: Replica(self, name) for name in ("replica-a", "replica-b")}
        self.service = Service()
        self.watch = Watch(Client(lab.port, lab.admin, timeout=None))

    def client(self, token: str) -> Client:
        return Client(self.lab.port, token)

    # --- what there is ----------------------------------------------------------------------------

    def install(self, *accounts: str) -> None:
        """The manifests, and somebody who makes pods; `accounts` may do all with pods and nodes."""
        lab, kubectl = self.lab, self.lab.kubectl
        for command in commands("Install", "" if lab.has_policy else POLICY):
            kubectl(*command)
        kubectl("-n", NAMESPACE, "scale", "deployment", NAME, "--replicas=0")
        for name in ("default", "dev"):
            with contextlib.suppress(RuntimeError):
                kubectl("-n", "default", "create", "serviceaccount", name)
        kubectl("create", "clusterrole", "pods", "--verb=*", "--resource=pods,nodes")
        subjects = [f"--serviceaccount={name}" for name in ("default:dev", *accounts)]
        kubectl("create", "clusterrolebinding", "pods", "--clusterrole=pods", *subjects)
        self.dev = kubectl("create", "token", "dev", "--duration=3h").strip()
        token = kubectl("-n", NAMESPACE, "create", "token", NAME, "--duration=3h").strip()
        self.kubeconfig = lab.kubeconfig("scheduler", token)
        webhooks_at(lab, self.service)
        deployment = lab.get("-n", NAMESPACE, "deployment", NAME)
        self.containers = deployment["spec"]["template"]["spec"]["containers"]
        for name in ("deviceplugin-scheduler", "deviceplugin-kube-scheduler"):
            for file, text in lab.get("-n", NAMESPACE, "configmap", name)["data"].items():
                (self.folder / file).write_text(text)

    def begin(self) -> None:
        """Both replicas."""
        for replica in self.replicas.values():
            replica.back()
        until("one leads", self.leader)
        # API servers take a moment to see the caBundle.
        trial = pod("trial")
        path = "/api/v1/namespaces/default/pods?dryRun=All"
        client = self.client(self.dev)
        until("a pod is made on trial", lambda: client.call("POST", path, trial))

    def agent_token(self, node: str, account: str = "deviceplugin", **more: Any) -> str:
        """As kubelet asks for it: the token says on which node the agent is."""
        name = f"agent-{node}-{account}"
        agent = pod(
            name, asks=False, namespace="kube-system", nodeName=node, serviceAccountName=account
        )
        agent["spec"]["containers"][0] |= more
        kubectl = self.lab.kubectl
        kubectl("create", "-f", "-", stdin=agent)
        bound = ("--bound-object-kind=Pod", f"--bound-object-name={name}", "--duration=3h")
        return kubectl("-n", "kube-system", "create", "token", account, *bound).strip()

    def node(self, client: Client, name: str, *, deferred: bool) -> None:
        """One that is made up."""
        devices = [
            NodeDevice(
                uuid=f"GPU-{name}-{index}", index=index, count=SLOTS, memory=CARD_MIB, cores=100,
                type="NVIDIA-T4", mode="hami-core", healthy=True,
            )
            for index in range(CARDS)
        ]  # fmt: skip
        annotations = {NVIDIA_REGISTER: register.encode(devices)}
        if deferred:
            annotations[ALLOCATION] = "deferred"
        labels = {"kubernetes.io/hostname": name}
        metadata = {"name": name, "annotations": annotations, "labels": labels}
        client.call(
            "POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
        )
        path = f"/api/v1/nodes/{name}"
        amounts = {
            key: {**STATUS["status"][key], GPU: str(CARDS * SLOTS)}
            for key in ("capacity", "allocatable")
        }
        status = {"status": {**STATUS["status"], **amounts}}
        client.call("PATCH", f"{path}/status", status, "merge-patch+json")
        client.call("PATCH", path, {"spec": {"taints": None}}, "merge-patch+json")

    # --- pods ---------------------------------------------------------------------------------------

    def make(self, client: Client, name: str, mib: int = 1000, **more: Any) -> Any:
        item = pod(name, **more)
        item["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpumem"] = str(mib)
        namespace = item["metadata"]["namespace"]
        return client.call("POST", f"/api/v1/namespaces/{namespace}/pods", item)

    def burst(self, prefix: str, count: int, threads: int = 8, **more: Any) -> float:
        """Make many at once; when the first was."""
        names: queue.SimpleQueue[str] = queue.SimpleQueue()
        for index in range(count):
            names.put(f"{prefix}-{index}")
        began = time.monotonic()

        def work() -> None:
            client = self.client(self.dev)
            with contextlib.suppress(queue.Empty):
                while True:
                    self.make(client, names.get_nowait(), **more)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return began

    def leader(self) -> Replica | None:
        lease = self.lab.get("-n", NAMESPACE, "lease", "hami-scheduler")
        holder = str(lease["spec"].get("holderIdentity") or "")
        return self.replicas.get(holder.partition("_")[0])

    def all_bound(self, prefix: str, count: int) -> float:
        """When the last of them was."""
        end = time.monotonic() + SECONDS
        while self.watch.bound(prefix) < count and time.monotonic() < end:
            time.sleep(0.1)
        assert not self.watch.broken, self.watch.broken
        self.lab.holds(
            f"{self.watch.bound(prefix)} of {count} pods bound", self.watch.bound(prefix) == count
        )
        return max(p.bound for p in self.watch.of(prefix))

    def recounted(self) -> None:
        """What is written on the pods against what the nodes have."""
        twice = [p.name for p in self.watch.pods.values() if len(p.nodes) > 1]
        self.lab.holds(f"no pod was ever bound to two nodes {twice[:3]}", not twice)
        cards = {
            device.uuid: device
            for item in self.lab.get("nodes")["items"]
            if (text := item["metadata"].get("annotations", {}).get(NVIDIA_REGISTER))
            for device in register.decode(text)
        }
        memory, cores, slots = Counter[str](), Counter[str](), Counter[str]()
        for item in self.lab.get("pods", "-A")["items"]:
            text = item["metadata"].get("annotations", {}).get(DECISION)
            if not text or not item["spec"].get("nodeName"):
                continue
            for device in itertools.chain.from_iterable(poddevices.decode(text, DECISION)):
                memory[device.uuid] += device.memory
                cores[device.uuid] += device.cores
                slots[device.uuid] += 1
        over = [
            uuid for uuid, card in cards.items()
            if memory[uuid] > card.memory or cores[uuid] > card.cores or slots[uuid] > card.count
        ]  # fmt: skip
        fullest = max(memory, key=lambda uuid: memory[uuid] / cards[uuid].memory)
        self.lab.holds(
            f"{sum(slots.values())} shares on {len(memory)} cards, the fullest with "
            f"{memory[fullest]} of {cards[fullest].memory} MiB, the most shares on one are "
            f"{max(slots.values())} of {max(card.count for card in cards.values())}; "
            f"over capacity: {over[:3]}",
            not over and memory.keys() <= cards.keys(),
        )
        forbidden = [
            line
            for file in self.lab.root.glob("*scheduler-*.log")
            for line in file.read_text().splitlines()
            if "forbidden" in line.lower() and "denied" not in line
        ]
        self.lab.holds(f"neither was forbidden anything {forbidden[:3]}", not forbidden)


def note(text: str) -> None:
    """A figure."""
    print(f"    {text}", flush=True)


def tell(story: Callable[[Any], Any], given: type[Lab] = Lab) -> NoReturn:
    """A program whose argument is the folder of binaries: everything that a story tells, and the
    ends of the logs where it breaks off.
    """
    with tempfile.TemporaryDirectory(prefix="dpl-", dir="/tmp") as place:
        with given(Path(sys.argv[1]), Path(place)) as lab:
            print(versions(lab), flush=True)
            try:
                story(lab).tell()
            except BaseException:
                for log in sorted(Path(place).glob("*.log")):
                    print(f"--- {log.name}", log.read_text()[-3000:], file=sys.stderr)
                raise
        sys.exit(1 if lab.failures else 0)
