"""Two replicas of the plain manifests under load: ``python tests/charts/under_load.py BINARIES``.

BINARIES as for real.py, environment and root as for replicas.py. Nodes are made up, so nothing runs on them.
Prints what holds, and how long it took; the exit code is 1 when something does not hold.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import ssl
import threading
import time
from typing import Any

from lab import NAME, NAMESPACE, until
from replicas import CARDS, Replicas, note, tell

from deviceplugin.api.hami.keys import MUTEX_LOCK

NODES = 100
LOCKED = "node-locked"
HANDOVER_SECONDS = 0.1
"""What the agent of the locked node takes for a container."""


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


class Story(Replicas):
    def tell(self) -> None:
        self.installed()
        self.a_thousand()
        self.one_after_the_other()
        self.quota()
        self.leader_killed()
        self.rolling_restart()
        self.new_certificate()
        self.recounted()

    def installed(self) -> None:
        admin = self.client(self.lab.admin)
        for index in range(NODES):
            self.node(admin, f"node-{index}", deferred=True)
        self.node(admin, LOCKED, deferred=False)
        self.lab.kubectl("-n", "kube-system", "create", "serviceaccount", "deviceplugin")
        self.install("kube-system:deviceplugin")
        self.agent = self.agent_token(LOCKED)
        self.begin()
        self.make(self.client(self.dev), "first")
        until("it is bound", lambda: self.watch.bound("first") == 1)
        self.lab.holds(f"two replicas, {NODES} nodes of {CARDS} cards, a first pod is bound", True)

    # --- what there is --------------------------------------------------------------------------

    # --- what happens -----------------------------------------------------------------------------

    def a_thousand(self) -> None:
        spread = {"nodeSelector": None, "affinity": _not_on(LOCKED)}
        before = self.lab.spent()
        began = self.burst("many", 1_000, **spread)
        took = self.all_bound("many", 1_000) - began
        note(f"1,000 pods on {NODES} nodes: {took:.1f} s, {1000 / took:.0f} pods/s (45)")
        spent = {name: seconds - before[name] for name, seconds in self.lab.spent().items()}
        told = sorted(spent.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{name} {ms:.1f}" for name, ms in told)  # seconds of 1,000 pods
        note(f"CPU a pod in ms: {sum(spent.values()):.0f}: {listed}; {os.cpu_count()} cores")

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


def _not_on(name: str) -> dict[str, Any]:
    term = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [name]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [term]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


if __name__ == "__main__":
    tell(Story)
