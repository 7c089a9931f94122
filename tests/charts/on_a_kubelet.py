"""The plain manifests, agents and pods that really run: ``python tests/charts/on_a_kubelet.py BINARIES``.

BINARIES is a folder with kubectl and kube-scheduler. Needs root, KUBECONFIG of a cluster on this
machine with one node called node-a, its containers' output in /var/log/pods, the image
localhost/busybox:1 on it, and no device plugin of nvidia.com/gpu; environment as for replicas.py.
HAMI_PLUGIN is a shell command that runs HAMi's device plugin for that node; without it that part is
left out. Prints what holds; the exit code is 1 when something does not. What it made is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lab import DECISION, GPU, Given, Lab, commands, until
from replicas import Replicas, note, tell

from deviceplugin.api.hami import poddevices
from deviceplugin.api.hami.keys import BIND_PHASE, MUTEX_LOCK, NVIDIA_REGISTER
from deviceplugin.api.node import ALLOCATION

NODE = "node-a"
AGENT = Path(__file__).parents[2] / "images" / "scheduled.yaml"
PODS, BESIDE, NODES = 20, 180, 20
"""On the real kubelet for each way of handing over, on nodes that are made up, and how many those are."""
AT_ONCE = ("--grace-period=0", "--force")
HAMI = "hami-device-plugin"
BUSYBOX = {"image": "localhost/busybox:1", "imagePullPolicy": "Never"}
OURS = (sys.executable, "-m", "deviceplugin")
SHOWN = ("CUDA_", "NVIDIA_")
MADE_UP = {
    "nodeSelector": {"made-up": "yes"},
    # the cluster soon says that nodes without a kubelet are not ready
    "tolerations": [{"operator": "Exists"}],
}


@dataclass(frozen=True)
class Wish:
    """What a pod asks for, different from pod to pod."""

    mib: int
    percent: int

    @classmethod
    def number(cls, index: int) -> Wish:
        return cls(1000 + 37 * index, 5 + index % 4)


class Story(Replicas):
    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.agent: subprocess.Popen[bytes] | None = None

    def tell(self) -> None:
        try:
            self.installed()
            self.served("deferred", "cdi-cri")
            self.stop()
            self.served("locked", "envvar")
            self.recounted()
            self.asked()
            self.emptied()
            self.stop()
            self.cleaned()
            if plugin := os.environ.get("HAMI_PLUGIN"):
                self.served_by_hami(plugin)
        finally:
            self.removed()

    # --- what there is ----------------------------------------------------------------------------

    def installed(self) -> None:
        kubectl = self.lab.kubectl
        objects = list(yaml.safe_load_all(AGENT.read_text()))
        (daemons,) = (item for item in objects if item["kind"] == "DaemonSet")
        (written,) = (item for item in objects if item["kind"] == "ConfigMap")
        self.configuration = yaml.safe_load(written["data"]["config.yaml"])
        objects.remove(daemons)  # the agent runs here, as its account
        self.objects = {"apiVersion": "v1", "kind": "List", "items": objects}
        kubectl("apply", "-f", "-", stdin=self.objects)
        self.install()
        self.trusted_too()
        sleeps = {"command": ["sh", "-c", "sleep 100000"], **BUSYBOX}
        self.token = self.agent_token(NODE, **sleeps)
        self.their_token = self.agent_token(NODE, HAMI, **sleeps)
        admin = self.client(self.lab.admin)
        for index in range(NODES):
            self.node(admin, f"made-up-{index}", deferred=True)
            kubectl("label", "node", f"made-up-{index}", "made-up=yes")
        self.begin()
        self.lab.holds("two replicas with the rights of the manifests, one leads", True)

    def trusted_too(self) -> None:
        """HAMi's agents, with the rights of their chart, named where the page says it."""
        kubectl = self.lab.kubectl
        kubectl("-n", "kube-system", "create", "serviceaccount", HAMI)
        rights = ("--verb=get,list,watch,update,patch", "--resource=pods,nodes")
        kubectl("create", "clusterrole", HAMI, *rights)
        subject = f"--serviceaccount=kube-system:{HAMI}"
        kubectl("create", "clusterrolebinding", HAMI, f"--clusterrole={HAMI}", subject)
        user = f"system:serviceaccount:kube-system:{HAMI}"
        self.containers[0]["args"].append(f"--agent-account={user}")
        policy = self.lab.get("validatingadmissionpolicy", "deviceplugin-decisions")
        (agents,) = (v for v in policy["spec"]["variables"] if v["name"] == "agents")
        agents["expression"] = json.dumps([*json.loads(agents["expression"]), user])
        kubectl("replace", "-f", "-", stdin=policy)

    def serve(self, allocation: str, strategy: str) -> None:
        """The agent with the configuration of its manifest, over devices that are simulated."""
        file = self.lab.root / "agent" / "config.json"
        file.parent.mkdir(exist_ok=True)
        section = self.configuration.get("nvidia", {})
        mock = {"imitate": "nvidia", "section": section}
        file.write_text(json.dumps({**self.configuration, "mock": mock}))
        self.options = (
            f"--config-file={file}",
            "--vendors=mock",
            f"--allocation=scheduled-{allocation}",
            f"--device-list-strategy={strategy}",
            f"--run-dir={self.lab.root / 'run'}",
        )
        self.environment = {
            "KUBECONFIG": str(self.lab.kubeconfig("agent", self.token)),
            "NODE_NAME": NODE,
        }
        self.agent = self.lab.start(
            "agent", "serve", *self.options, "--http-listen=", command=OURS, **self.environment
        )
        until(
            f"the node announces {allocation}",
            lambda: (
                (self.annotations().get(ALLOCATION) == "deferred") == (allocation == "deferred")
                and NVIDIA_REGISTER in self.annotations()
            ),
        )
        until("kubelet offers the devices", self.offered)

    def cleaned(self) -> None:
        """What the agent left goes, as when its DaemonSet is removed."""
        done = subprocess.run(
            [*OURS, "cleanup", *self.options],
            env={**os.environ, **self.environment},
            capture_output=True,
            check=False,
        )
        left = [key for key in self.annotations() if "hami" in key or "deviceplugin" in key]
        self.lab.holds(f"cleanup leaves nothing on the node {left}", not (done.returncode or left))

    def stop(self) -> None:
        if self.agent is not None:
            self.agent.terminate()
            self.lab.holds("the agent ends at SIGTERM", self.agent.wait(60) == 0)
            self.agent = None

    def annotations(self) -> dict[str, str]:
        return dict(self.lab.get("node", NODE)["metadata"].get("annotations") or {})

    def offered(self) -> int:
        return int(self.lab.get("node", NODE)["status"]["allocatable"].get(GPU, 0))

    # --- pods ---------------------------------------------------------------------------------------

    def served(self, allocation: str, strategy: str) -> None:
        self.serve(allocation, strategy)
        self.lab.holds(f"the agent announces {self.offered()} shares, {allocation}", True)
        self.at_once(allocation, PODS)

    def served_by_hami(self, plugin: str) -> None:
        """Their device plugin in the place of our agent: the node has to be locked for each pod."""
        process = self.lab.start(
            "hami-plugin",
            command=("sh", "-c", f"exec {plugin}"),
            NODE_NAME=NODE,
            KUBECONFIG=str(self.lab.kubeconfig("hami", self.their_token)),
        )
        until("it announces the node's devices", lambda: NVIDIA_REGISTER in self.annotations())
        until("kubelet offers them", self.offered)
        self.lab.holds(f"HAMi's device plugin announces {self.offered()} shares", True)
        self.at_once("hami", PODS)
        phases = {
            item["metadata"]["annotations"].get(BIND_PHASE) for item in self.lab.get("pods")["items"]
            if item["metadata"]["name"].startswith("hami-")
        }  # fmt: skip
        self.lab.holds(
            f"it has said of every pod that it has its devices {phases}", phases == {"success"}
        )
        self.recounted()
        self.emptied()
        process.terminate()
        process.wait()
        left = [f"{key}-" for key in self.annotations() if key.startswith("hami.io/")]
        self.lab.kubectl("annotate", "node", NODE, *left)

    def at_once(self, prefix: str, count: int) -> None:
        """Pods with a wish of their own each, while others go to nodes that are made up."""
        beside = threading.Thread(
            target=self.burst, args=(f"beside-{prefix}", BESIDE // 2, 2), kwargs=MADE_UP
        )
        began = time.monotonic()
        makers = [
            threading.Thread(target=self.run, args=(f"{prefix}-{index}", Wish.number(index)))
            for index in range(count)
        ]
        for maker in (beside, *makers):
            maker.start()
        for maker in (beside, *makers):
            maker.join()
        bound = self.all_bound(f"{prefix}-", count) - began
        with contextlib.suppress(AssertionError):
            until("all run", lambda: all(each.running for each in self.watch.of(f"{prefix}-")))
        ran = max(each.running or time.monotonic() for each in self.watch.of(f"{prefix}-")) - began
        wrong = {
            name: why
            for index in range(count)
            if (why := self.differs(name := f"{prefix}-{index}", Wish.number(index)))
        }
        self.lab.holds(
            f"{count - len(wrong)} of {count} pods run and see the limits that they asked for, "
            f"on {len(self.used(prefix))} cards {wrong or ''}",
            not wrong,
        )
        until("nobody locks the node any more", lambda: MUTEX_LOCK not in self.annotations())
        note(f"{count} pods at once: all bound after {bound:.1f} s, all running after {ran:.1f} s")
        self.all_bound(f"beside-{prefix}", BESIDE // 2)

    def run(self, name: str, wish: Wish) -> None:
        prints = f"env | grep -E '^({'|'.join(SHOWN)})'; echo end; sleep 100000"
        limits = {
            GPU: "1",
            "nvidia.com/gpumem": str(wish.mib),
            "nvidia.com/gpucores": str(wish.percent),
        }
        container = {
            "name": "c", "command": ["sh", "-c", prints], "resources": {"limits": limits}, **BUSYBOX
        }  # fmt: skip
        spec = {
            "containers": [container],
            "nodeSelector": {"kubernetes.io/hostname": NODE},
            "terminationGracePeriodSeconds": 0,
        }
        item = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        self.client(self.dev).call("POST", "/api/v1/namespaces/default/pods", item)

    def used(self, prefix: str) -> set[str]:
        """The cards that pods were given."""
        return {
            device.uuid
            for item in self.lab.get("pods")["items"]
            if item["metadata"]["name"].startswith(f"{prefix}-")
            for container in poddevices.decode(
                item["metadata"].get("annotations", {}).get(DECISION, ""), DECISION
            )
            for device in container
        }

    def differs(self, name: str, wish: Wish) -> str:
        """How what the container sees differs from what was asked for and decided."""
        item = self.lab.get("pod", name)
        if item["status"].get("phase") != "Running":
            states = item["status"].get("containerStatuses") or [{}]
            return f"{item['status'].get('message', '')} {states[0].get('state')}"
        try:
            seen = until("it has printed", lambda: printed(item))
        except AssertionError:
            return "has printed nothing"
        ((device,),) = poddevices.decode(item["metadata"]["annotations"][DECISION], DECISION)
        if (device.memory, device.cores) != (wish.mib, wish.percent):
            return f"was given {device}"
        expected = {
            "CUDA_DEVICE_MEMORY_LIMIT_0": f"{wish.mib}m",
            "CUDA_DEVICE_SM_LIMIT": str(wish.percent),
        }
        if {key: seen.get(key) for key in expected} != expected:
            return f"sees {seen}"
        return ""

    # --- what people are told -------------------------------------------------------------------

    def asked(self) -> None:
        """The commands for people, on this cluster."""
        self.run("huge", Wish(90_000, 10))
        until(
            "kube-scheduler says why it waits",
            lambda: [
                e
                for e in self.lab.get("events")["items"]
                if e["reason"] == "FilteringFailed" and e["involvedObject"]["name"] == "huge"
            ],
        )
        self.says("explain huge", 1, "too little memory", "ask for at most")
        self.says("explain deferred-0", 0, "runs on node-a with 1,000 MiB")
        self.says("explain locked-0", 0, "runs on node-a with 1,000 MiB")
        self.says("doctor --cluster", 0, "pod default/huge waits")
        snapshot = self.lab.root / "snapshot.json.gz"
        self.says(f"snapshot -o {snapshot}", 0, "")
        self.says(f"explain huge --snapshot {snapshot}", 1, "too little memory")
        self.says(f"simulate {snapshot}", 1, "default/huge")
        self.says(f"doctor --cluster --snapshot {snapshot}", 0, "pod default/huge waits")

    def says(self, command: str, code: int, *words: str) -> None:
        """Whether one of our commands ends so, and says so."""
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.lab.kubeconfig("admin", self.lab.admin)),
        }
        done = subprocess.run(
            [*OURS, *command.split()], env=environment, capture_output=True, text=True, check=False
        )
        with (self.lab.root / "said.txt").open("a") as said:
            said.write(
                f"$ deviceplugin {command}\n{done.stdout}{done.stderr}=> {done.returncode}\n\n"
            )
        text = " ".join(done.stdout.split())
        self.lab.holds(
            f"deviceplugin {command} ends with {code} and says so",
            done.returncode == code and all(word in text for word in words),
        )

    def emptied(self) -> None:
        kubectl = self.lab.kubectl
        kubectl("delete", "pods", "--all", *AT_ONCE)
        until("the pods are gone", lambda: not self.lab.get("pods")["items"])

    # --- the end --------------------------------------------------------------------------------

    def removed(self) -> None:
        kubectl = self.lab.kubectl
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            self.stop()
        self.emptied()
        for arguments in (
            ("-n", "kube-system", "pod", f"agent-{NODE}-deviceplugin", *AT_ONCE),
            ("-n", "kube-system", "pod", f"agent-{NODE}-{HAMI}", *AT_ONCE),
            ("-n", "kube-system", "serviceaccount", HAMI),
            ("clusterrole,clusterrolebinding", HAMI),
            ("nodes", "-l", "made-up=yes"),
            ("clusterrole,clusterrolebinding", "pods"),
            ("serviceaccount", "dev"),
        ):
            kubectl("delete", "--ignore-not-found", *arguments)
        for command in commands("Remove"):
            kubectl(*command, "--ignore-not-found")
        kubectl("delete", "--ignore-not-found", "-f", "-", stdin=self.objects)


def printed(item: dict[str, Any]) -> dict[str, str] | None:
    """The variables that a pod's container has printed; None before it has."""
    metadata = item["metadata"]
    folder = f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"
    text = (Path("/var/log/pods") / folder / "c" / "0.log").read_text()
    lines = [line.split(" ", 3)[3] for line in text.splitlines() if line.count(" ") >= 3]
    return dict(line.split("=", 1) for line in lines if "=" in line) if "end" in lines else None


if __name__ == "__main__":
    tell(Story, Given)
