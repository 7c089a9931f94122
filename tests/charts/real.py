"""The plain manifests on a real API server: ``python tests/charts/real.py BINARIES``.

BINARIES is a folder with etcd, kube-apiserver, kube-scheduler and kubectl of one version. They run on
loopback with nothing but a folder of their own, RBAC as in any cluster, and no kubelet: the
scheduler and the kube-scheduler beside it run here, as the account of the manifests. The manifests are
applied by the commands of their page; only the webhooks' addresses are changed, because a Service
needs nodes. Prints what holds; the exit code is 1 when something does not.
"""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import yaml
from lab import (
    DECISION,
    NAME,
    NAMESPACE,
    PLAIN,
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

from deviceplugin.api.hami import register
from deviceplugin.api.hami.keys import NVIDIA_REGISTER
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.api.node import ALLOCATION
from deviceplugin.scheduler.certificates.keeping import found_in


@dataclass
class Replica:
    """One running scheduler."""

    process: subprocess.Popen[bytes]
    port: int
    metrics: int

    def read(self, path: str) -> str:
        with urlopen(f"http://127.0.0.1:{self.metrics}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def is_ready(self) -> bool:
        return self.read("/readyz") == "ok\n"


def node(name: str) -> dict[str, Any]:
    device = NodeDevice(
        uuid=f"GPU-{name}", index=0, count=10, memory=16384, cores=100, type="NVIDIA-T4",
        mode="hami-core", healthy=True,
    )  # fmt: skip
    # No agent is there to give a lock back.
    annotations = {NVIDIA_REGISTER: register.encode([device]), ALLOCATION: "deferred"}
    metadata = {
        "name": name,
        "annotations": annotations,
        "labels": {"kubernetes.io/hostname": name},
    }
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata}


# --- the story ------------------------------------------------------------------------------------


class Story:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.service = Service()
        self.replicas: list[Replica] = []
        self.token = ""

    def tell(self) -> None:
        self.everything_is_accepted()
        self.applied_once_more()
        self.people()
        self.scheduler_starts()
        self.pods_come_by()
        if self.lab.has_policy:
            self.decisions_are_protected("policy")
        self.pods_are_placed()
        self.certificates()
        self.rolled()
        self.without_the_policy()
        self.without_a_scheduler()
        self.removed()

    def commands(self, heading: str) -> Iterator[list[str]]:
        return commands(heading, "" if self.lab.has_policy else POLICY)

    def everything_is_accepted(self) -> None:
        for command in self.commands("Install"):
            self.lab.holds(f"kubectl {' '.join(command)}", self.lab.kubectl(*command))

    def applied_once_more(self) -> None:
        before = self.versions()
        for command in self.commands("Install"):
            self.lab.kubectl(*command)
        changed = dict(before ^ self.versions())
        self.lab.holds(f"applied again, nothing changes {list(changed)}", not changed)

    def versions(self) -> set[tuple[str, str]]:
        """Of all objects of the manifests."""
        names = [file.name for file in sorted(PLAIN.glob("*.yaml"))]
        files = [
            part for name in names if self.lab.has_policy or name != POLICY for part in ("-f", name)
        ]
        return {
            (f"{item['kind']} {item['metadata']['name']}", item["metadata"]["resourceVersion"])
            for item in self.lab.get(*files)["items"]
        }

    def people(self) -> None:
        """Nodes, accounts, and somebody who may do everything with pods."""
        kubectl = self.lab.kubectl
        for name in ("node-a", "node-b"):
            kubectl("create", "-f", "-", stdin=node(name))
            patch = json.dumps(STATUS)
            kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", patch)
            kubectl("taint", "node", name, "node.kubernetes.io/not-ready-")
        for namespace, name in (
            ("default", "default"),
            ("default", "dev"),
            ("kube-system", "deviceplugin"),
        ):
            kubectl("-n", namespace, "create", "serviceaccount", name)
        kubectl(
            "create",
            "clusterrole",
            "pods",
            "--verb=*",
            "--resource=pods,pods/status,pods/binding,bindings",
        )
        for name in ("default:dev", "kube-system:deviceplugin"):
            kubectl(
                "create",
                "clusterrolebinding",
                name.replace(":", "-"),
                "--clusterrole=pods",
                f"--serviceaccount={name}",
            )
        self.dev = kubectl("create", "token", "dev").strip()
        self.token = kubectl("-n", NAMESPACE, "create", "token", NAME).strip()

    def scheduler_starts(self) -> None:
        """As the account of the manifests, with the flags of the Deployment."""
        lab = self.lab
        webhooks_at(lab, self.service)
        deployment = lab.get("-n", NAMESPACE, "deployment", NAME)
        _, theirs = deployment["spec"]["template"]["spec"]["containers"]
        folder = lab.root / "config"
        folder.mkdir()
        for map_ in ("deviceplugin-scheduler", "deviceplugin-kube-scheduler"):
            for name, text in lab.get("-n", NAMESPACE, "configmap", map_)["data"].items():
                (folder / name).write_text(text)
        kubeconfig = lab.kubeconfig("scheduler", self.token)
        # Both at once, on an empty Secret.
        self.replicas = [self.replica(), self.replica()]
        self.service.ports = [each.port for each in self.replicas]
        configuration = yaml.safe_load((folder / "config.yaml").read_text())
        configuration["clientConnection"] = {"kubeconfig": str(kubeconfig)}
        configuration["extenders"][0]["urlPrefix"] = f"https://127.0.0.1:{self.service.port}"
        (folder / "here.yaml").write_text(json.dumps(configuration))
        lab.start(
            "kube-scheduler",
            f"--config={folder / 'here.yaml'}",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            *[arg for arg in theirs["command"][1:] if not arg.startswith("--config")],
        )
        for each in self.replicas:
            until("a replica is ready", each.is_ready)
        lab.holds("two replicas are ready with the rights of the manifests", True)
        lab.holds("and serve the same certificate", len(self.served()) == 1)
        until("its caBundle is known", lambda: self.bundles() == {self.held().bundle})
        lab.holds("which they issued, and wrote the caBundle", self.held())

    def replica(self) -> Replica:
        """Another process with the flags of the Deployment."""
        deployment = self.lab.get("-n", NAMESPACE, "deployment", NAME)
        ours, _ = deployment["spec"]["template"]["spec"]["containers"]
        port, metrics = free_port(), free_port()
        changed = {
            "--http_bind": f"127.0.0.1:{port}",
            "--metrics-bind-address": f"127.0.0.1:{metrics}",
            "--device-config-file": str(self.lab.root / "config" / "device-config.yaml"),
        }
        process = self.lab.start(
            "scheduler",
            *with_flags(ours["args"], changed),
            command=(sys.executable, "-m", "deviceplugin"),
            KUBECONFIG=str(self.lab.kubeconfig("scheduler", self.token)),
            POD_NAMESPACE=NAMESPACE,
        )
        return Replica(process, port, metrics)

    def rolled(self) -> None:
        """As the Deployment does it: one more, ready, listed; an old one off the list, then told."""
        with self.asking_all_the_time() as asked:
            for old in self.replicas[:2]:
                new = self.replica()
                self.replicas.append(new)
                until("the new one is ready", new.is_ready)
                self.service.ports = [*self.service.ports, new.port]
                self.service.ports = [port for port in self.service.ports if port != old.port]
                time.sleep(5)  # its preStop
                old.process.send_signal(signal.SIGTERM)
                self.lab.holds("an old replica ends", old.process.wait(60) == 0)
                self.replicas.remove(old)
        self.lab.holds(f"{len(asked)} pods came by during the update", _all_seen(asked))

    def pods_come_by(self) -> None:
        lab, dev = self.lab, self.dev
        until("the webhook answers", lambda: self.made(pod("asks"))["spec"]["schedulerName"])
        found = self.made(pod("asks-too"))
        lab.holds(
            "the API server calls the webhook over TLS",
            found["spec"]["schedulerName"] == "hami-scheduler",
        )
        found = self.made(pod("plain", asks=False))
        lab.holds(
            "other pods stay as they are", found["spec"]["schedulerName"] == "default-scheduler"
        )
        found = self.made(pod("forged", annotations={DECISION: "GPU-node-a,NVIDIA,1,1:;"}))
        lab.holds(
            "a forged decision is taken off a new pod",
            DECISION not in found["metadata"].get("annotations", {}),
        )
        privileged = pod("privileged")
        privileged["spec"]["containers"][0]["securityContext"] = {"privileged": True}
        lab.holds(
            "a pod that cannot be served is refused with a reason",
            lab.says(
                "is privileged",
                lambda: lab.kubectl("create", "-f", "-", token=dev, stdin=privileged),
            ),
        )

    def decisions_are_protected(self, by: str) -> None:
        """By whichever of the two rules stands."""
        lab, kubectl = self.lab, self.lab.kubectl
        words = "is written by the scheduler and the nodes' agents only"
        change = json.dumps({"metadata": {"annotations": {DECISION: "forged"}}})
        lab.holds(
            f"{by}: an update with a decision is refused",
            lab.says(
                words,
                lambda: kubectl(
                    "patch", "pod", "asks", "--type=merge", "-p", change, token=self.dev
                ),
            ),
        )
        lab.holds(
            f"{by}: the same by way of the status",
            lab.says(
                words,
                lambda: kubectl(
                    "patch",
                    "pod",
                    "asks",
                    "--subresource=status",
                    "--type=merge",
                    "-p",
                    change,
                    token=self.dev,
                ),
            ),
        )
        forged = pod("no-device", asks=False, annotations={DECISION: "forged"})
        lab.holds(
            f"{by}: a new pod that asks for nothing and carries a decision",
            lab.says(words, lambda: kubectl("create", "-f", "-", token=self.dev, stdin=forged)),
        )
        other = json.dumps({"metadata": {"annotations": {"mine": "1"}}})
        lab.holds(
            f"{by}: other annotations are free",
            kubectl("patch", "pod", "asks", "--type=merge", "-p", other, token=self.dev),
        )
        if by == "policy":
            self.bindings_are_protected(words)
        agents = self.agents()
        lab.holds(
            f"{by}: an agent writes to a pod of its node",
            kubectl(
                "patch", "pod", "on-node-a", "--type=merge", "-p", change, token=agents["node-a"]
            ),
        )
        if self.lab.has_policy:
            for agent, name, whose in (
                ("node-b", "on-node-a", "node node-a"),
                ("node-a", "nowhere", "no node yet"),
            ):
                more = (
                    "patch",
                    "pod",
                    name,
                    "--type=merge",
                    "-p",
                    change.replace("forged", "more"),
                )
                lab.holds(
                    f"{by}: and not to one of {whose}",
                    lab.says(
                        f"may not write to a pod of {whose}",
                        lambda more=more, agent=agent: kubectl(*more, token=agents[agent]),
                    ),
                )
        lab.holds(
            f"{by}: the scheduler writes anywhere",
            kubectl(
                "patch",
                "pod",
                "on-node-a",
                "--type=merge",
                "-p",
                change.replace("forged", "decided"),
                token=self.token,
            ),
        )
        gone = json.dumps({"metadata": {"annotations": {DECISION: None}}})
        lab.holds(
            f"{by}: nobody else removes one",
            lab.says(
                words,
                lambda: kubectl(
                    "patch", "pod", "on-node-a", "--type=merge", "-p", gone, token=self.dev
                ),
            ),
        )
        kubectl("patch", "pod", "on-node-a", "--type=merge", "-p", gone, token=self.token)

    def bindings_are_protected(self, words: str) -> None:
        kubectl = self.lab.kubectl
        kubectl("create", "-f", "-", stdin=pod("binds", asks=False, schedulerName="nobody"))
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": "binds", "annotations": {DECISION: "forged"}},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "node-a"},
        }
        for path in ("pods/binds/binding", "bindings"):
            raw = f"/api/v1/namespaces/default/{path}"
            self.lab.holds(
                f"policy: a decision as an annotation of a Binding, by {path}",
                self.lab.says(
                    words,
                    lambda raw=raw: kubectl(
                        "create", "--raw", raw, "-f", "-", token=self.dev, stdin=binding
                    ),
                ),
            )

    def agents(self) -> dict[str, str]:
        """Tokens as kubelet asks for them for the agents' pods, by node."""
        kubectl, found = self.lab.kubectl, {}
        for name in ("node-a", "node-b"):
            agent = pod(
                f"agent-{name}", asks=False, namespace="kube-system", nodeName=name,
                serviceAccountName="deviceplugin",
            )  # fmt: skip
            with contextlib.suppress(RuntimeError):
                kubectl("create", "-f", "-", stdin=agent)
            bound = ("--bound-object-kind=Pod", f"--bound-object-name=agent-{name}")
            token = kubectl("-n", "kube-system", "create", "token", "deviceplugin", *bound)
            found[name] = token.strip()
        for item in (
            pod("on-node-a", asks=False, nodeName="node-a"),
            pod("nowhere", asks=False, schedulerName="nobody"),
        ):
            with contextlib.suppress(RuntimeError):
                kubectl("create", "-f", "-", stdin=item)
        return found

    def pods_are_placed(self) -> None:
        """By kube-scheduler and this scheduler, as one account."""
        lab = self.lab
        found = until(
            "the pod is bound",
            lambda: (p := lab.get("pod", "asks-too"))["spec"].get("nodeName") and p,
        )
        annotations = found["metadata"]["annotations"]
        lab.holds(
            f"kube-scheduler leads, asks and binds: {found['spec']['nodeName']}",
            annotations[DECISION].startswith("GPU-node-")
            and annotations["hami.io/bind-phase"] == "allocating",
        )
        reasons = until(
            "events are written",
            lambda: (
                {
                    e["reason"]
                    for e in lab.get("events")["items"]
                    if e["involvedObject"]["name"] == "asks-too"
                }
                or None
            ),
        )
        lab.holds(f"events of both: {sorted(reasons)}", reasons)
        forbidden = [
            line
            for name in ("scheduler", "kube-scheduler")
            for line in (lab.root / f"{name}.log").read_text().splitlines()
            if "forbidden" in line.lower()
        ]
        lab.holds(f"neither was forbidden anything {forbidden[:3]}", not forbidden)

    def certificates(self) -> None:
        lab, held = self.lab, self.held()
        change = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": ""}]
        lab.kubectl(
            "patch", "validatingwebhookconfiguration", NAME, "--type=json", "-p", json.dumps(change)
        )
        until("it is restored", lambda: self.bundles() == {held.bundle})
        lab.holds("a caBundle that somebody overwrote is restored", True)
        with self.asking_all_the_time() as asked:
            self.another_authority(held)
        lab.holds(f"{len(asked)} pods came by meanwhile, and all were seen", _all_seen(asked))
        lab.holds("both replicas serve the same", len(self.served()) == 1)

    def another_authority(self, held: Any) -> None:
        lab = self.lab
        for command in self.commands("Install"):
            if "50-webhooks.yaml" not in command:  # would undo the address
                lab.kubectl(*command)
        lab.holds("applied again, the certificate stays", self.held() == held)
        lab.kubectl("-n", NAMESPACE, "delete", "secret", f"{NAME}-tls")
        until(
            "it says that it may not make one",
            lambda: "reload_failures_total 1.0" in self.replicas[0].read("/metrics"),
        )
        lab.holds("a Secret that is gone is told of", True)
        lab.kubectl("apply", "-f", "30-configuration.yaml")
        new = until(
            "both authorities are trusted",
            lambda: len(self.held().authorities) == 2 and self.held(),
        )
        until("and API servers know", lambda: self.bundles() == {new.bundle})
        lab.holds(
            "an empty Secret gets a new authority beside the old one", new.serving == held.serving
        )
        moved = until(
            "the new one serves", lambda: (h := self.held()).serving != held.serving and h
        )
        lab.holds("a minute later the new one serves", moved.issuer == moved.authorities[0])
        until("by both", lambda: len(self.served()) == 1)

    @contextlib.contextmanager
    def asking_all_the_time(self) -> Iterator[list[str]]:
        """The schedulers' names of pods that somebody makes on trial without a pause, or errors."""
        found, ended = list[str](), threading.Event()
        url = f"https://127.0.0.1:{self.lab.port}/api/v1/namespaces/default/pods?dryRun=All"
        context = ssl._create_unverified_context()
        headers = {"Authorization": f"Bearer {self.dev}", "Content-Type": "application/json"}
        body = json.dumps(pod("trial")).encode()

        def ask() -> None:
            while not ended.is_set():
                try:
                    with urlopen(
                        Request(url, body, headers), timeout=30, context=context
                    ) as answer:
                        found.append(json.load(answer)["spec"]["schedulerName"])
                except HTTPError as error:
                    found.append(error.read().decode())

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield found
        finally:
            ended.set()
            thread.join()

    def served(self) -> set[str]:
        """What the replicas serve to new connections."""
        return {ssl.get_server_certificate(("127.0.0.1", each.port)) for each in self.replicas}

    def without_the_policy(self) -> None:
        """As with Kubernetes before 1.30."""
        if self.lab.has_policy:
            self.lab.kubectl("delete", "-f", POLICY)
        until(
            "the policy is gone",
            lambda: self.lab.says(
                "denied the request",
                lambda: self.lab.kubectl(
                    "patch",
                    "pod",
                    "asks",
                    "--type=merge",
                    "-p",
                    json.dumps({"metadata": {"annotations": {DECISION: "x"}}}),
                    token=self.dev,
                ),
            ),
        )
        self.decisions_are_protected("webhook")

    def without_a_scheduler(self) -> None:
        for each in self.replicas:
            each.process.send_signal(signal.SIGTERM)
        self.lab.holds("they end", [each.process.wait(60) for each in self.replicas] == [0, 0])
        lab = self.lab
        lab.holds("while it is away other pods are made", self.made(pod("others", asks=False)))
        lab.holds(
            "and pods that ask are refused",
            lab.says("failed calling webhook", lambda: self.made(pod("asks-in-vain"))),
        )
        ignored = pod("ignored")
        ignored["metadata"]["labels"] = {"hami.io/webhook": "ignore"}
        lab.holds("but for those that ask to be left alone", self.made(ignored))

    def removed(self) -> None:
        if self.lab.has_policy:
            self.lab.kubectl("apply", "-f", POLICY)
        done = [self.lab.kubectl(*command, "--wait=false") for command in self.commands("Remove")]
        self.lab.holds("everything is removed by the page's commands", all(done))

    def made(self, item: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.lab.kubectl("create", "-o", "json", "-f", "-", token=self.dev, stdin=item)
        )
        return found

    def held(self) -> Any:
        found = found_in(self.lab.get("-n", NAMESPACE, "secret", f"{NAME}-tls").get("data") or {})
        if found.whole is None:
            raise RuntimeError(str(found.problems))
        return found.whole

    def bundles(self) -> set[bytes]:
        return {
            base64.b64decode(hook["clientConfig"].get("caBundle") or "")
            for plural in ("mutatingwebhookconfiguration", "validatingwebhookconfiguration")
            for hook in self.lab.get(plural, NAME)["webhooks"]
        }


def _all_seen(asked: list[str]) -> bool:
    for answer in {*asked} - {"hami-scheduler"}:
        print("   ", answer)
    return len(asked) > 10 and set(asked) == {"hami-scheduler"}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="dpc-", dir="/tmp") as place:
        with Lab(Path(sys.argv[1]), Path(place)) as lab:
            print("# Kubernetes", lab.version)
            try:
                Story(lab).tell()
            except BaseException:
                for name in ("scheduler", "kube-scheduler", "kube-apiserver"):
                    log = Path(place) / f"{name}.log"
                    print(
                        f"--- {name}",
                        log.read_text()[-3000:] if log.exists() else "",
                        file=sys.stderr,
                    )
                raise
        sys.exit(1 if lab.failures else 0)
