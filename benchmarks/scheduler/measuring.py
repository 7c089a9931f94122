"""One scheduler on one cluster, asked as kube-scheduler asks: what it took.

Filters come one after the other, each with the names of all nodes. What the pod's PATCH took is
what passed at the API server between the head of that request and its answer; a filter *without
the PATCH* is one less that time, which can be told of any scheduler from outside. So what its API
client spends on the request still counts: what that is for the official client, alone in a process
that does nothing else, is told beside it.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import local
from typing import Any

from kubernetes import client

from benchmarks.agent import cpu_seconds, tree
from benchmarks.scheduler.asking import Answer, Connection
from benchmarks.scheduler.candidates import Call, Candidate, Served
from deviceplugin.apiserver.client import MERGE_PATCH, Api
from deviceplugin.apiserver.client import Path as ApiPath

Json = Mapping[str, Any]

BINDS_AT_ONCE = 16
BACKOFF_FIRST, BACKOFF_MOST = 1.0, 10.0
"""kube-scheduler's, in seconds, for a pod that could not be bound."""


@dataclass(slots=True)
class Figures:
    """Milliseconds, seconds and MiB. `filters` are those that found a node, by round; `without` the
    same without the PATCH, `nowhere` those that found none, `patches` what the official client takes
    for a PATCH less the time that it was with the API server.
    """

    name: str
    nodes: int
    pods: int
    ready_s: float = 0.0
    memory_first: float = 0.0
    memory_last: float = 0.0
    filters: list[list[float]] = field(default_factory=list)
    without: list[list[float]] = field(default_factory=list)
    nowhere: list[float] = field(default_factory=list)
    patches: list[float] = field(default_factory=list)
    cpu_ms: float = 0.0
    binds: list[float] = field(default_factory=list)
    calls: dict[str, float] = field(default_factory=dict)
    webhooks: list[float] = field(default_factory=list)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them is; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def of_rounds(rounds: Sequence[Sequence[float]], share: float) -> float:
    """The median over rounds of a quantile, because a busy machine spoils single rounds."""
    return statistics.median([quantile(each, share) for each in rounds if each] or [0.0])


class Measuring:
    """One candidate, its API server, and pods that have come."""

    def __init__(
        self, candidate: Candidate, api: Served, nodes: Sequence[str], waiting: Iterator[Json]
    ) -> None:
        self.candidate, self.api, self._nodes = candidate, api, list(nodes)
        self._waiting = waiting
        self._connection = candidate.connect()

    def filter(self, pod: Json) -> Answer:
        """One filter with all nodes. Raises `RuntimeError` for an error of the scheduler's."""
        body = {"Pod": pod, "Nodes": None, "NodeNames": self._nodes}
        answer = self._connection.post("/filter", body)
        if answer.body.get("Error"):
            raise RuntimeError(answer.body["Error"])
        return answer

    def filters(self, figures: Figures, pods: int, rounds: int) -> list[dict[str, Any]]:
        """Filters alone, each pod once a round; one GPU pod in ten asks for more than any node has.
        The CPU time is all that the scheduler spent meanwhile, events and watches included. Answers
        the pods that fit.
        """
        stored = [self.api.create(pod) for pod in itertools.islice(self._waiting, pods)]
        large = [pod for pod in stored if GPU in _limits(pod)][::10]
        for pod in large:
            _limits(pod)[GPU] = "64"
        for pod in stored[: max(pods // 10, 1)]:  # warm
            self.filter(pod)
        self.api.calls()
        time.sleep(0.5)
        before, asked = cpu_seconds(self.candidate.pid), 0
        for _ in range(rounds):
            answers = [self.filter(self._now(pod)) for pod in stored]
            asked += len(answers)
            patches = self._patches()
            placed = [each for each in answers if each.body["NodeNames"]]
            figures.nowhere += [1000 * a.seconds for a in answers if not a.body["NodeNames"]]
            figures.filters.append([1000 * each.seconds for each in placed])
            figures.without.append([1000 * (a.seconds - _within(a, patches)) for a in placed])
        figures.cpu_ms = 1000 * (cpu_seconds(self.candidate.pid) - before) / asked
        return [pod for pod in stored if pod not in large]

    def binds(self, figures: Figures, pods: Sequence[Json], deferred: frozenset[str]) -> None:
        """Filter and bind, one pod after the other, with the API calls that a bind makes on nodes
        that need a lock and on those that do not.
        """
        counted: dict[str, list[int]] = {"locked": [], "deferred": []}
        for pod in pods:
            found = self.filter(self._now(pod)).body["NodeNames"]
            if not found:
                continue
            self.api.calls()
            answer = self._connection.post("/bind", _order(pod, found[0]))
            if answer.body["Error"]:
                raise RuntimeError(answer.body["Error"])
            calls = [c for c in self.api.calls() if c.verb != "watch" and "/events" not in c.path]
            sort = "deferred" if found[0] in deferred else "locked"
            counted[sort].append(sum(_concerns(call, pod, found[0]) for call in calls))
            figures.binds.append(1000 * answer.seconds)
        figures.calls = {sort: statistics.mean(n) for sort, n in counted.items() if n}

    def patches(self, figures: Figures, pod: Json, count: int) -> None:
        """What a PATCH costs its sender, by the API client that our scheduler uses."""
        configuration = client.Configuration(host=self.api.url)
        api = Api(lambda: client.ApiClient(configuration))
        path = ApiPath.pod(pod["metadata"]["namespace"], pod["metadata"]["name"])
        took = []
        self.api.calls()
        for number in range(count):
            change = {"metadata": {"annotations": {"example.com/number": str(number)}}}
            began = time.monotonic()
            api.call("PATCH", path, change, MERGE_PATCH)
            took.append(time.monotonic() - began)
        figures.patches = [
            1000 * (seconds - (call.ended - call.began))
            for seconds, call in zip(took, self._patches(), strict=True)
        ]

    def webhooks(self, figures: Figures, reviews: int) -> None:
        """Reviews of new pods."""
        for pod in itertools.islice(self._waiting, reviews):
            answer = self._connection.post("/webhook", _review(pod))
            if not answer.body["response"]["allowed"]:
                raise RuntimeError(str(answer.body["response"]))
            figures.webhooks.append(1000 * answer.seconds)

    def throughput(self, pods: int, seconds: float) -> tuple[int, float]:
        """So many pods from created to bound, filters one after the other and binds beside them, as
        fast as it goes and with kube-scheduler's patience for those that fail; how many were bound,
        and in how many seconds. One that fits nowhere is left: room does not come here.
        """
        stored = [self.api.create(pod) for pod in itertools.islice(self._waiting, pods)]
        queue: list[tuple[float, int, Json]] = [(0.0, 0, pod) for pod in stored]
        connections = local()

        def bind(pod: Json, node: str) -> bool:
            if not hasattr(connections, "one"):
                connections.one = self.candidate.connect()
            one: Connection = connections.one
            return not one.post("/bind", _order(pod, node)).body["Error"]

        binding: dict[Future[bool], tuple[int, Json]] = {}
        bound, began = 0, time.monotonic()
        with ThreadPoolExecutor(BINDS_AT_ONCE) as pool:
            while (queue or binding) and time.monotonic() - began < seconds:
                for future in [each for each in binding if each.done()]:
                    tries, pod = binding.pop(future)
                    if future.result():
                        bound += 1
                    else:
                        queue.append(_later(tries, pod))
                queue.sort(key=lambda entry: entry[0])
                if not queue or queue[0][0] > time.monotonic():
                    time.sleep(0.001)
                    continue
                _, tries, pod = queue.pop(0)
                found = self.filter(self._now(pod) if tries else pod).body["NodeNames"]
                if not found:
                    continue
                binding[pool.submit(bind, pod, found[0])] = (tries, pod)
        return bound, time.monotonic() - began

    def memory(self) -> float:
        """MiB that the scheduler's processes have resident, together."""
        kilobytes = 0
        for process in tree(self.candidate.pid):
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            kilobytes += int(rollup.split("Rss:")[1].split()[0])
        return kilobytes / 1024

    def _now(self, pod: Json) -> Json:
        """A pod as kube-scheduler knows it by its watch; what it asks for is kept as it is here."""
        now = self.api.get(pod)
        return {**now, "spec": pod["spec"]}

    def _patches(self) -> list[Call]:
        return [call for call in self.api.calls() if call.verb == "patch" and "/pods/" in call.path]


GPU = "nvidia.com/gpu"


def _limits(pod: Json) -> dict[str, str]:
    limits: dict[str, str] = pod["spec"]["containers"][0]["resources"]["limits"]
    return limits


def _within(answer: Answer, patches: Sequence[Call]) -> float:
    """Seconds that a filter's PATCH was with the API server."""
    return sum(
        call.ended - call.began
        for call in patches
        if answer.began <= call.began and call.ended <= answer.ended
    )


def _concerns(call: Call, pod: Json, node: str) -> bool:
    """Whether a call was made for this bind, and not for a handshake with some node."""
    return f"/pods/{pod['metadata']['name']}" in call.path or call.path.endswith(f"/nodes/{node}")


def _order(pod: Json, node: str) -> dict[str, str]:
    metadata = pod["metadata"]
    return {
        "PodNamespace": metadata["namespace"],
        "PodName": metadata["name"],
        "PodUID": metadata["uid"],
        "Node": node,
    }


def _later(tries: int, pod: Json) -> tuple[float, int, Json]:
    return time.monotonic() + min(BACKOFF_FIRST * 2**tries, BACKOFF_MOST), tries + 1, pod


def _review(pod: Json) -> dict[str, Any]:
    named = {"group": "", "version": "v1"}
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": pod["metadata"]["uid"],
            "kind": {**named, "kind": "Pod"},
            "resource": {**named, "resource": "pods"},
            "name": pod["metadata"]["name"],
            "namespace": pod["metadata"]["namespace"],
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:research:author"},
            "object": pod,
            "oldObject": None,
            "dryRun": False,
        },
    }
