"""Two replicas of the plain manifests under load: ``python tests/charts/under_load.py BINARIES``.

BINARIES as for real.py; KUBE_SCHEDULER in the environment names another kube-scheduler. Needs root, because
each replica has a host name of its own, as pods have. Nodes are made up, so nothing runs on them.
Prints what holds, and how long it took; the exit code is 1 when something does not hold.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from real import (
    ADMIN,
    DECISION,
    NAME,
    NAMESPACE,
    STATUS,
    Lab,
    Service,
    commands,
    free_port,
    pod,
    until,
    with_flags,
)

from deviceplugin.api.hami import poddevices, register
from deviceplugin.api.hami.keys import MUTEX_LOCK, NVIDIA_REGISTER
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.api.node import ALLOCATION

NODES, CARDS, CARD_MIB, SLOTS = 100, 8, 16384, 10
LOCKED = "node-locked"
HANDOVER_SECONDS = 0.1
"""What the agent of the locked node takes for a container."""
SECONDS = 300.0
UNVERIFIED = ssl._create_unverified_context()


class Client:
    """The API server over one kept connection; for one thread."""

    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token
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
                "127.0.0.1", self._port, timeout=60, context=UNVERIFIED
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
    """A pod, all the nodes that it was ever seen on, and when it was first seen bound."""

    namespace: str
    name: str
    nodes: set[str] = field(default_factory=set)
    bound: float = 0.0


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

    def of(self, prefix: str) -> list[Seen]:
        """Pods whose names begin so."""
        return [p for p in tuple(self.pods.values()) if p.name.startswith(prefix)]

    def bound(self, prefix: str) -> int:
        return sum(1 for p in self.of(prefix) if p.nodes)


class Replica:
    """The two containers of one pod of the Deployment, as processes."""

    def __init__(self, story: Story, name: str) -> None:
        self.story, self.name = story, name
        self.port, self.metrics = free_port(), free_port()
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        lab, folder = self.story.lab, self.story.folder
        ours, theirs = self.story.containers
        own_name = ("unshare", "--uts", "sh", "-c", f'hostname {self.name}; exec "$0" "$@"')
        changed = {
            "--http_bind": f"127.0.0.1:{self.port}",
            "--metrics-bind-address": f"127.0.0.1:{self.metrics}",
            "--device-config-file": str(folder / "device-config.yaml"),
        }
        configuration = yaml.safe_load((folder / "config.yaml").read_text())
        configuration["clientConnection"] = {"kubeconfig": str(self.story.kubeconfig)}
        configuration["extenders"][0]["urlPrefix"] = f"https://127.0.0.1:{self.port}"
        here = folder / f"{self.name}.yaml"
        here.write_text(json.dumps(configuration))
        binary = os.environ.get("KUBE_SCHEDULER", str(lab.binaries / "kube-scheduler"))
        self._processes = [
            lab.start(
                f"scheduler-{self.name}",
                *with_flags(ours["args"], changed),
                command=(*own_name, sys.executable, "-m", "deviceplugin"),
                KUBECONFIG=str(self.story.kubeconfig),
                POD_NAMESPACE=NAMESPACE,
            ),
            lab.start(
                f"kube-scheduler-{self.name}",
                f"--config={here}",
                "--bind-address=127.0.0.1",
                f"--secure-port={free_port()}",
                *[arg for arg in theirs["command"][1:] if not arg.startswith("--config")],
                command=(*own_name, binary),
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
        service = self.story.service
        service.ports = [port for port in service.ports if port != self.port]

    def back(self) -> None:
        self.start()
        until(f"{self.name} is ready", lambda: _ready(self.port))
        self.story.service.ports = [*self.story.service.ports, self.port]


class Load:
    """Pods, one after the other, until it is told to stop or has made `most`."""

    def __init__(self, story: Story, prefix: str, pause: float = 0.1, most: int = 2_000) -> None:
        self.prefix, self.made, self.errors = prefix, 0, list[str]()
        self._story, self._pause, self._most = story, pause, most
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        client = self._story.client(self._story.dev)
        while self.made < self._most and not self._ended.wait(self._pause):
            try:
                name = f"{self.prefix}-{self.made}"
                self._story.make(client, name, affinity=_not_on(LOCKED))
                self.made += 1
            except (RuntimeError, OSError, http.client.HTTPException) as error:
                self.errors.append(str(error))
                client = self._story.client(self._story.dev)


class Story:
    def __init__(self, lab: Lab) -> None:
        self.lab, self.folder = lab, lab.root / "config"
        self.folder.mkdir()
        self.replicas = {name: Replica(self, name) for name in ("replica-a", "replica-b")}
        self.service = Service()
        self.watch = Watch(self.client(ADMIN))

    def client(self, token: str) -> Client:
        return Client(self.lab.port, token)

    def tell(self) -> None:
        self.installed()
        self.a_thousand()
        self.one_after_the_other()
        self.quota()
        self.leader_killed()
        self.rolling_restart()
        self.new_certificate()
        self.recounted()

    # --- what there is --------------------------------------------------------------------------

    def installed(self) -> None:
        lab, kubectl = self.lab, self.lab.kubectl
        for command in commands("Install"):
            kubectl(*command)
        admin = self.client(ADMIN)
        for index in range(NODES):
            self.node(admin, f"node-{index}", deferred=True)
        self.node(admin, LOCKED, deferred=False)
        for name in ("default", "dev"):
            kubectl("-n", "default", "create", "serviceaccount", name)
        kubectl("-n", "kube-system", "create", "serviceaccount", "deviceplugin")
        kubectl("create", "clusterrole", "pods", "--verb=*", "--resource=pods,nodes")
        accounts = ("--serviceaccount=default:dev", "--serviceaccount=kube-system:deviceplugin")
        kubectl("create", "clusterrolebinding", "pods", "--clusterrole=pods", *accounts)
        self.dev = kubectl("create", "token", "dev").strip()
        # As kubelet asks for it: the token says on which node the agent is.
        agent = pod(
            "agent", asks=False, namespace="kube-system", nodeName=LOCKED,
            serviceAccountName="deviceplugin",
        )  # fmt: skip
        kubectl("create", "-f", "-", stdin=agent)
        bound = ("--bound-object-kind=Pod", "--bound-object-name=agent")
        agent_token = kubectl("-n", "kube-system", "create", "token", "deviceplugin", *bound)
        self.agent = agent_token.strip()
        token = kubectl("-n", NAMESPACE, "create", "token", NAME).strip()
        self.kubeconfig = lab.kubeconfig("scheduler", token)
        for plural in ("mutatingwebhookconfiguration", "validatingwebhookconfiguration"):
            path = lab.get(plural, NAME)["webhooks"][0]["clientConfig"]["service"]["path"]
            url = f"https://localhost:{self.service.port}{path}"
            change = [{"op": "replace", "path": "/webhooks/0/clientConfig", "value": {"url": url}}]
            kubectl("patch", plural, NAME, "--type=json", "-p", json.dumps(change))
        deployment = lab.get("-n", NAMESPACE, "deployment", NAME)
        self.containers = deployment["spec"]["template"]["spec"]["containers"]
        for name in ("deviceplugin-scheduler", "deviceplugin-kube-scheduler"):
            for file, text in lab.get("-n", NAMESPACE, "configmap", name)["data"].items():
                (self.folder / file).write_text(text)
        for replica in self.replicas.values():
            replica.back()
        until("one leads", self.leader)
        client = self.client(self.dev)
        until("a pod is made", lambda: self.make(client, "first"))
        until("and bound", lambda: self.watch.bound("first") == 1)
        lab.holds(f"two replicas, {NODES} nodes of {CARDS} cards, a first pod is bound", True)

    def node(self, client: Client, name: str, *, deferred: bool) -> None:
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
        client.call("PATCH", f"{path}/status", STATUS, "merge-patch+json")
        client.call("PATCH", path, {"spec": {"taints": None}}, "merge-patch+json")

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

    # --- what happens -----------------------------------------------------------------------------

    def a_thousand(self) -> None:
        spread = {"nodeSelector": None, "affinity": _not_on(LOCKED)}
        began = self.burst("many", 1_000, **spread)
        took = self.all_bound("many", 1_000) - began
        note(f"1,000 pods on {NODES} nodes: {took:.1f} s, {1000 / took:.0f} pods/s (45)")

    def one_after_the_other(self) -> None:
        """Forty pods to one node that has to be locked, with an agent that takes its time."""
        ended = threading.Event()
        agent = threading.Thread(target=self._agent, args=(ended,))
        agent.start()
        selector = {"nodeSelector": {"kubernetes.io/hostname": LOCKED}}
        began = self.burst("locked", 40, **selector)
        took = self.all_bound("locked", 40) - began
        note(f"40 pods to one locked node, {HANDOVER_SECONDS} s each: {took:.1f} s (60)")
        ended.set()
        agent.join()

    def _agent(self, ended: threading.Event) -> None:
        """Of the locked node: takes over what is bound, one by one, and gives the lock back."""
        client, done = self.client(self.agent), set[str]()
        while not ended.is_set():
            items = client.call("GET", f"/api/v1/pods?fieldSelector=spec.nodeName%3D{LOCKED}")[
                "items"
            ]
            for item in items:
                metadata = item["metadata"]
                if metadata["name"] in done or metadata["namespace"] != "default":
                    continue
                time.sleep(HANDOVER_SECONDS)
                path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
                phase = {"metadata": {"annotations": {"hami.io/bind-phase": "success"}}}
                client.call("PATCH", path, phase, "merge-patch+json")
                free = {"metadata": {"annotations": {MUTEX_LOCK: None}}}
                client.call("PATCH", f"/api/v1/nodes/{LOCKED}", free, "merge-patch+json")
                done.add(metadata["name"])
            time.sleep(0.02)

    def quota(self) -> None:
        kubectl = self.lab.kubectl
        kubectl("create", "namespace", "team")
        kubectl("-n", "team", "create", "serviceaccount", "default")
        quota = {
            "apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": {"name": "gpus", "namespace": "team"},
            "spec": {"hard": {"limits.nvidia.com/gpumem": "20000"}},
        }  # fmt: skip
        kubectl("create", "-f", "-", stdin=quota)
        made = list[str]()

        def work(start: int) -> None:
            client = self.client(self.dev)
            for index in range(start, 50, 8):
                try:
                    self.make(client, f"quota-{index}", namespace="team", affinity=_not_on(LOCKED))
                    made.append("")
                except RuntimeError as error:
                    made.append(str(error))

        workers = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        until("twenty of the team are bound", lambda: self.watch.bound("quota-") >= 20)
        time.sleep(10)  # for one too many
        bound = self.watch.bound("quota-")
        refused = [text for text in made if "exceeding resource quota" in text]
        self.lab.holds(
            f"a quota for 20 of 50 pods: {bound} bound, {len(refused)} refused at once",
            bound == 20 and len(refused) + made.count("") == 50,
        )

    def leader_killed(self) -> None:
        with Load(self, "killed") as load:
            until("pods come", lambda: self.watch.bound("killed") > 20)
            leader = until("one leads", self.leader)
            leader.kill()
            at = time.monotonic()
            first = until(
                "somebody binds again",
                lambda: min(
                    (p.bound for p in self.watch.of("killed") if p.bound > at + 0.5), default=0.0
                ),
            )
            other = until("another leads", lambda: (r := self.leader()) and r is not leader and r)
            until("more pods come", lambda: load.made > 100)
        note(f"leader killed: {first - at:.1f} s to the first bind (lease of 15 s + 5)")
        self.lab.holds(f"{leader.name} is killed, {other.name} takes over", True)
        self.all_bound("killed", load.made)
        note(f"creations that failed while the Service did not know yet: {len(load.errors)}")
        leader.back()

    def rolling_restart(self) -> None:
        with Load(self, "rolled") as load:
            until("pods come", lambda: self.watch.bound("rolled") > 20)
            gaps = []
            for replica in self.replicas.values():
                before = load.made
                ended = replica.leave()
                self.lab.holds(f"{replica.name} ends at SIGTERM", ended)
                replica.back()
                until("pods come", lambda before=before: load.made > before + 20)
                gaps.append(replica.name)
        self.lab.holds(
            f"rolling restart: {load.made} pods made, {len(load.errors)} failed {load.errors[:2]}",
            not load.errors,
        )
        self.all_bound("rolled", load.made)
        times = sorted(p.bound for p in self.watch.of("rolled"))
        longest = max(b - a for a, b in itertools.pairwise(times))
        note(f"rolling restart: longest time without a bind {longest:.1f} s")

    def new_certificate(self) -> None:
        """Another authority, while pods come."""

        def serial() -> set[str]:
            return {
                ssl.get_server_certificate(("127.0.0.1", r.port)) for r in self.replicas.values()
            }

        before = serial()
        with Load(self, "rotated", pause=0.2) as load:
            until("pods come", lambda: load.made > 20)
            empty = [{"op": "remove", "path": "/data"}]
            self.lab.kubectl(
                "-n",
                NAMESPACE,
                "patch",
                "secret",
                f"{NAME}-tls",
                "--type=json",
                "-p",
                json.dumps(empty),
            )
            until("both serve another", lambda: not serial() & before and len(serial()) == 1)
            made = load.made
            until("more pods come", lambda: load.made > made + 20)
        self.lab.holds(
            f"another authority: {load.made} pods made, {len(load.errors)} failed {load.errors[:2]}",
            not load.errors,
        )
        self.all_bound("rotated", load.made)

    def recounted(self) -> None:
        twice = [p.name for p in self.watch.pods.values() if len(p.nodes) > 1]
        self.lab.holds(f"no pod was ever bound to two nodes {twice[:3]}", not twice)
        memory, cores, slots = Counter[str](), Counter[str](), Counter[str]()
        pods = self.lab.get("pods", "-A")["items"]
        for item in pods:
            text = item["metadata"].get("annotations", {}).get(DECISION)
            if not text or not item["spec"].get("nodeName"):
                continue
            for device in itertools.chain.from_iterable(poddevices.decode(text, DECISION)):
                memory[device.uuid] += device.memory
                cores[device.uuid] += device.cores
                slots[device.uuid] += 1
        over = [
            uuid for uuid in memory
            if memory[uuid] > CARD_MIB or cores[uuid] > 100 or slots[uuid] > SLOTS
        ]  # fmt: skip
        self.lab.holds(
            f"{sum(slots.values())} shares on {len(memory)} cards, the fullest with "
            f"{max(memory.values())} of {CARD_MIB} MiB and {max(slots.values())} of {SLOTS} shares; "
            f"over capacity: {over[:3]}",
            not over,
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


def _not_on(name: str) -> dict[str, Any]:
    term = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [name]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [term]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="dpl-", dir="/tmp") as place:
        with Lab(Path(sys.argv[1]), Path(place)) as lab:
            binary = os.environ.get("KUBE_SCHEDULER", str(lab.binaries / "kube-scheduler"))
            version = subprocess.run(
                [binary, "--version"], capture_output=True, text=True, check=True
            )
            server = json.loads(lab.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
            print(
                f"# kube-apiserver {server}, kube-scheduler {version.stdout.split()[-1]}",
                flush=True,
            )
            try:
                Story(lab).tell()
            except BaseException:
                for log in sorted(Path(place).glob("*scheduler-*.log")):
                    print(f"--- {log.name}", log.read_text()[-3000:], file=sys.stderr)
                raise
        sys.exit(1 if lab.failures else 0)
