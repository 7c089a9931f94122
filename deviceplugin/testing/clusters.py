"""Clusters that nobody has: nodes and pods as an API server lists them, made from a seed. Pure.

Every pod was placed by the vendors' own scheduling halves, some left again, so that what is in use
is in pieces as it is on a cluster that is alive, and no card holds more than it has.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from deviceplugin.api.hami import poddevices
from deviceplugin.api.hami.keys import BIND_PHASE, BIND_TIME, VGPU_NODE, VendorKeys
from deviceplugin.api.hami.pod import BindPhase
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.placement.fit import place
from deviceplugin.placement.objects import node_facts, pod_spec
from deviceplugin.placement.observe import Held, NodeView, cards_with, node_view
from deviceplugin.placement.request import asks
from deviceplugin.placement.write import decision
from deviceplugin.scheduled.registration import Offer, node_annotations
from deviceplugin.vendor.scheduling import Policy, Resources, SchedulingBackend, Unfit

__all__ = ["SORTS", "GeneratedCluster", "Plan", "Size", "Sort", "arrivals", "generate"]

Json = dict[str, Any]

EPOCH = 1_768_896_000
"""2026-01-20T08:00:00Z, when every such cluster begins: a seed gives the same bytes on any day."""

UNWELL = 0.01
"""The share of cards that are."""
BESIDE = 0.2
"""The share of pods with a second container, which asks for no card."""

CONDITIONS = (
    ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID"),
    ("Ready", "True", "KubeletReady"),
)

NAMESPACES = ("default", "research", "serving", "batch")


@dataclass(frozen=True, slots=True)
class Size:
    """What a pod asks for: `count` cards, `percent` of each card's memory and cores."""

    weight: int
    count: int
    percent: int


SHARED = (
    Size(30, 1, 10),
    Size(25, 1, 25),
    Size(20, 1, 50),
    Size(15, 1, 100),
    Size(7, 2, 100),
    Size(3, 4, 100),
)
WHOLE = (Size(60, 1, 100), Size(25, 2, 100), Size(15, 4, 100))


@dataclass(frozen=True, slots=True)
class Sort:
    """One sort of node: the word of its cards and their type, the MiB of each, how many containers
    share one, and the sizes in which they are asked for. `networks` of four cards each are told
    where the vendor has such.
    """

    word: str
    type: str
    memory_mib: int
    splits: int = 10
    sizes: tuple[Size, ...] = SHARED
    mode: str = ""
    networks: bool = False


SORTS: Mapping[str, Sort] = MappingProxyType(
    {
        "a100": Sort("NVIDIA", "NVIDIA-NVIDIA A100-SXM4-80GB", 81920, mode="hami-core"),
        "t4": Sort("NVIDIA", "NVIDIA-Tesla T4", 15360, mode="hami-core"),
        "910b4": Sort("Ascend910B4", "Ascend910B4", 32768, splits=4, networks=True),
        "bi-v150": Sort("BI-V150", "BI-V150", 65536),
        "k100": Sort("DCU", "DCU-K100_AI", 65520, splits=4, sizes=WHOLE),
        "p800": Sort("kunlun", "kunlun", 98304, splits=1, sizes=WHOLE),
    }
)
"""By a short name."""

MIXED: Mapping[str, float] = MappingProxyType(
    {"a100": 0.4, "t4": 0.2, "910b4": 0.16, "bi-v150": 0.08, "k100": 0.08, "p800": 0.08}
)


BOUNDS = (
    ("nodes", 1, 100_000),
    ("cards", 1, 64),
    ("pods", 0, 1_000_000),
    ("full", 0, 1),
    ("churn", 0, 0.99),
    ("deferred", 0, 1),
)
"""Of a plan's numbers. Where everybody left again nobody would ever be there."""
MOST_SHARE = 1_000_000

PODS_FOR_CARDS = (5, 4)
"""So many pods are usual for so many cards."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A cluster to be made: so many `nodes` with so many `cards` each, and running `pods` on them.

    Without a number of them there are as many pods as is usual, five for four cards, or as there is
    room for. `mix` gives the share of each of `SORTS`. A share `full` of the nodes has no room for
    most of what is asked; on the others a share `churn` of those that came has left again. A share
    `deferred` of the nodes hands grants over by evidence and needs no lock. Raises `ValueError` for
    numbers that no cluster has.
    """

    nodes: int = 100
    cards: int = 8
    pods: int | None = None
    mix: Mapping[str, float] = field(default_factory=lambda: MIXED)
    full: float = 0.1
    churn: float = 0.2
    deferred: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least, most in BOUNDS:
            number = getattr(self, name)
            if number is not None and not least <= number <= most:
                raise ValueError(f"{name} is {number}: it has to be from {least} to {most}")
        shares = self.mix.values()
        if not all(0 <= share <= MOST_SHARE for share in shares) or not any(shares):
            raise ValueError(
                f"mix: a share is a number from 0 to {MOST_SHARE}, and one of them is more than 0"
            )


@dataclass(frozen=True, slots=True)
class GeneratedCluster:
    """Its objects, as an API server lists them."""

    nodes: tuple[Json, ...]
    pods: tuple[Json, ...]


def generate(plan: Plan, backends: Sequence[SchedulingBackend]) -> GeneratedCluster:
    """The cluster of a plan. Raises `ValueError` for a plan that cannot be carried out, naming
    what has to change.
    """
    by_word = _backends(plan, backends)
    dice = random.Random(plan.seed)  # noqa: S311 - it makes examples, not secrets
    names = _Names(dice, "pod")
    nodes = _nodes(plan, by_word, dice)
    full = round(plan.full * len(nodes))
    for_cards, of_cards = PODS_FOR_CARDS
    usual = plan.nodes * plan.cards * for_cards // of_cards
    wanted = usual if plan.pods is None else plan.pods
    pods = _filled(nodes[:full], wanted, 0.0, names, dice)
    pods += _filled(nodes[full:], wanted - pods, plan.churn, names, dice)
    if plan.pods is not None and pods < wanted:
        raise ValueError(
            f"{plan.nodes} nodes of {plan.cards} cards have room for {pods} of {wanted} pods: "
            "make more nodes or fewer pods"
        )
    nodes.sort(key=lambda node: node.name)
    return GeneratedCluster(
        tuple(node.item for node in nodes), tuple(pod for node in nodes for pod in node.pods)
    )


def arrivals(plan: Plan, backends: Sequence[SchedulingBackend]) -> Iterator[Json]:
    """Pods that wait to be scheduled on such a cluster, without end. Raises `ValueError`."""
    by_word = _backends(plan, backends)
    dice = random.Random(f"arrivals {plan.seed}")  # noqa: S311
    names = _Names(dice, "new")
    while True:
        sort = SORTS[dice.choices(list(plan.mix), list(plan.mix.values()))[0]]
        yield _pod(names, sort, _size(sort, dice), by_word[sort.word].resources, dice)


def _filled(
    nodes: Sequence[_Node], wanted: int, churn: float, names: _Names, dice: random.Random
) -> int:
    """Let so many pods come to some nodes, more to some than to others, of which a share leaves;
    answers how many there was room for.
    """
    pods = 0
    open_ = {node: dice.betavariate(1.5, 1.5) + 0.05 for node in nodes}
    while open_:
        for node in dice.choices(list(open_), list(open_.values()), k=len(open_)):
            if pods >= wanted:
                return pods
            if node not in open_:
                continue
            if not node.arrive(names, dice):
                del open_[node]
            elif dice.random() < churn:
                node.leave(dice)
            else:
                pods += 1
    return pods


def _backends(plan: Plan, backends: Sequence[SchedulingBackend]) -> Mapping[str, SchedulingBackend]:
    """The backends that the plan needs, by word. Raises `ValueError`."""
    by_word = {backend.keys.common_word: backend for backend in backends}
    if strange := plan.mix.keys() - SORTS.keys():
        raise ValueError(f"mix: no sort of node is called {min(strange)!r:.80}: {_known()}")
    words = {SORTS[name].word for name in plan.mix}
    if missing := words - by_word.keys():
        sorts = ", ".join(name for name in plan.mix if SORTS[name].word in missing)
        raise ValueError(f"mix: no installed vendor serves {sorts}: install it, or leave them out")
    return {word: by_word[word] for word in words}


def _known() -> str:
    return f"there are {', '.join(SORTS)}"


class _Names:
    """Names and identities of pods, none twice."""

    def __init__(self, dice: random.Random, prefix: str) -> None:
        self._dice, self._prefix, self._count = dice, prefix, 0

    def next(self) -> tuple[str, str, str]:
        """Namespace, name and uid."""
        self._count += 1
        identity = uuid.UUID(int=self._dice.getrandbits(128), version=4)
        name = f"{self._prefix}-{self._count}-{self._dice.getrandbits(20):05x}"
        return self._dice.choice(NAMESPACES), name, str(identity)


class _Node:
    """A node while pods come and go."""

    def __init__(self, item: Json, sort: Sort, backend: SchedulingBackend) -> None:
        self.item, self._sort = item, sort
        self._backends = {sort.word: backend}
        self._bare, _ = node_view(node_facts(item), (backend,))
        self._view = self._bare
        self._there: dict[str, tuple[Json, tuple[Held, ...]]] = {}

    @property
    def name(self) -> str:
        return str(self.item["metadata"]["name"])

    @property
    def pods(self) -> Iterator[Json]:
        return (pod for pod, _ in self._there.values())

    def arrive(self, names: _Names, dice: random.Random) -> bool:
        """A pod of any size that still fits; False when none does."""
        sizes = self._sort.sizes
        first = sizes.index(_size(self._sort, dice))
        backend = self._backends[self._sort.word]
        return any(
            self._placed(_pod(names, self._sort, size, backend.resources, dice))
            for size in (*reversed(sizes[: first + 1]), *sizes[first + 1 :])
        )

    def leave(self, dice: random.Random) -> None:
        """One of the pods ends and is gone."""
        del self._there[dice.choice(list(self._there))]
        self._view = self._with(self._bare, [h for _, held in self._there.values() for h in held])

    def _placed(self, item: Json) -> bool:
        pod = pod_spec(item)
        wanted = asks(pod, self._backends.values())
        found = place(self._view, pod, wanted, self._backends, Policy.SPREAD, Policy.BINPACK)
        if isinstance(found, Unfit):
            return False
        said = decision(
            found, self._view, pod, wanted, self._backends, EPOCH * 10**9, init_listed=False
        )
        _bound(item, said, self._backends[self._sort.word].keys)
        held = tuple(
            Held(pod.uid, f"{pod.namespace}/{pod.name}", devices, position=position)
            for position, devices in enumerate(found.containers[self._sort.word])
            if devices
        )
        self._there[pod.uid] = (item, held)
        self._view = self._with(self._view, held)
        return True

    def _with(self, view: NodeView, held: Iterable[Held]) -> NodeView:
        word = self._sort.word
        return view.with_cards(word, cards_with(view.cards[word], held))


def _size(sort: Sort, dice: random.Random) -> Size:
    return dice.choices(sort.sizes, [size.weight for size in sort.sizes])[0]


def _nodes(
    plan: Plan, by_word: Mapping[str, SchedulingBackend], dice: random.Random
) -> list[_Node]:
    """In no order."""
    found = []
    width = len(str(plan.nodes))
    sorts = dice.choices(list(plan.mix), list(plan.mix.values()), k=plan.nodes)
    deferred = frozenset(dice.sample(range(plan.nodes), round(plan.deferred * plan.nodes)))
    for number, name in enumerate(sorts):
        sort = SORTS[name]
        backend = by_word[sort.word]
        item = _node(
            f"node-{number + 1:0{width}}", name, plan.cards, backend, dice, number in deferred
        )
        found.append(_Node(item, sort, backend))
    dice.shuffle(found)
    return found


def _node(
    name: str,
    kind: str,
    cards: int,
    backend: SchedulingBackend,
    dice: random.Random,
    deferred: bool,
) -> Json:
    """A node as the API server has it; one card in a hundred is not well."""
    sort, keys = SORTS[kind], backend.keys
    devices = tuple(
        NodeDevice(
            uuid=f"{sort.word}-{uuid.UUID(int=dice.getrandbits(128), version=4)}",
            index=index,
            count=sort.splits,
            memory=sort.memory_mib,
            cores=100,
            type=sort.type,
            mode=sort.mode,
            numa=index * 2 // cards,
            healthy=dice.random() >= UNWELL,
            custom={"NetworkID": index // 4} if sort.networks else {},
        )
        for index in range(cards)
    )
    offered = str(cards * sort.splits)
    amounts = {"cpu": "128", "memory": "1056288Mi", "pods": "250", backend.resources.count: offered}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "uid": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
            "creationTimestamp": _stamp(EPOCH),
            "labels": {
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/os": "linux",
                "kubernetes.io/hostname": name,
                "node.kubernetes.io/instance-type": kind,
                "gpu": "on",
            },
            "annotations": {
                "node.alpha.kubernetes.io/ttl": "0",
                **node_annotations([Offer(keys, devices)], deferred=deferred),
            },
        },
        "spec": {"podCIDR": "10.244.0.0/24"},
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "addresses": [{"type": "Hostname", "address": name}],
            "conditions": [
                {
                    "type": kind_,
                    "status": status,
                    "reason": reason,
                    "message": "as kubelet says",
                    "lastHeartbeatTime": _stamp(EPOCH),
                    "lastTransitionTime": _stamp(EPOCH),
                }
                for kind_, status, reason in CONDITIONS
            ],
            "nodeInfo": {
                "architecture": "amd64",
                "containerRuntimeVersion": "containerd://2.1.4",
                "kernelVersion": "6.8.0-60-generic",
                "kubeletVersion": "v1.34.1",
                "operatingSystem": "linux",
                "osImage": "Ubuntu 24.04.2 LTS",
            },
        },
    }


def _pod(names: _Names, sort: Sort, size: Size, resources: Resources, dice: random.Random) -> Json:
    """A pod that waits, as its author and the API server's defaults make it."""
    namespace, name, uid = names.next()
    asked = {"cpu": "4", "memory": "16Gi", resources.count: str(size.count)}
    if size.percent < 100 and resources.memory:
        mib = sort.memory_mib * size.percent // 100 * dice.randint(60, 100) // 100
        asked[resources.memory] = str(max(mib // resources.memory_unit_mib, 1))
    if resources.cores and (size.percent == 100 or size.count == 1):
        asked[resources.cores] = str(size.percent)
    token = {
        "name": "kube-api-access",
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    }
    main: Json = {
        "name": "main",
        "image": "registry.example.com/research/train:2026.1",
        "command": ["python", "-m", "train"],
        "env": [{"name": "RUN", "value": name}, {"name": "NCCL_DEBUG", "value": "WARN"}],
        "resources": {"limits": asked, "requests": dict(asked)},
        "volumeMounts": [token, {"name": "data", "mountPath": "/data"}],
        "imagePullPolicy": "IfNotPresent",
        "terminationMessagePath": "/dev/termination-log",
    }
    beside: Json = {
        "name": "logs",
        "image": "registry.example.com/tools/logs:1.4",
        "resources": {},
        "volumeMounts": [token],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": uid,
            "creationTimestamp": _stamp(EPOCH),
            "labels": {"app": "train", "team": namespace},
            "annotations": {},
        },
        "spec": {
            "schedulerName": "hami-scheduler",
            "restartPolicy": "Never",
            "serviceAccountName": "default",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "priority": 0,
            "containers": [main, beside] if dice.random() < BESIDE else [main],
            "tolerations": [
                {
                    "key": f"node.kubernetes.io/{what}",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": 300,
                }
                for what in ("not-ready", "unreachable")
            ],
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": []}},
            ],
        },
        "status": {"phase": "Pending", "qosClass": "Burstable"},
    }


def _bound(item: Json, said: Mapping[str, str], keys: VendorKeys) -> None:
    """Make a waiting pod one that was placed, bound and started."""
    metadata, node = item["metadata"], said[VGPU_NODE]
    metadata["labels"][VGPU_NODE] = node
    metadata["annotations"] |= said
    metadata["annotations"] |= {BIND_PHASE: str(BindPhase.SUCCESS), BIND_TIME: str(EPOCH)}
    if keys.to_allocate:  # the node's agent has handed it all over
        none = [()] * len(item["spec"]["containers"])
        metadata["annotations"][keys.to_allocate] = poddevices.encode(none, keys.to_allocate)
    item["spec"]["nodeName"] = node
    item["status"] |= {
        "phase": "Running",
        "conditions": [
            {"type": what, "status": "True", "lastTransitionTime": _stamp(EPOCH)}
            for what in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        ],
    }


def _stamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
