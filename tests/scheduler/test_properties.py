"""Anything that can happen, in any order: pods of every vendor, nodes and quotas that come, change
and go, watches that lag, repeat or start anew, answers that are refused or lost, replicas that take
over or start again. After every step nothing is given twice, what is kept is what counting anew
gives, quotas hold, and whoever is turned away is told what is really in the way.

What is on the server is counted by a few lines here that know nothing of the scheduler's own; time
and every answer of the server are this test's.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from deviceplugin import registry
from deviceplugin.api.hami import poddevices
from deviceplugin.api.hami.keys import BIND_PHASE, MUTEX_LOCK, VGPU_NODE
from deviceplugin.api.hami.poddevices import ContainerDevice
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.api.node import ANNOUNCES
from deviceplugin.placement.admit import admitted
from deviceplugin.placement.fit import Placement
from deviceplugin.placement.objects import pod_spec
from deviceplugin.scheduled.registration import Offer, node_annotations
from deviceplugin.scheduler import deciding, filtering, service
from deviceplugin.scheduler.cluster import Cluster
from deviceplugin.scheduler.decisions import Decision
from deviceplugin.scheduler.nodes import node_record
from deviceplugin.scheduler.quota import Quotas
from deviceplugin.scheduler.run import Scheduler
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.scheduler.surroundings import Surroundings
from deviceplugin.testing.apiserver import ApiServer, StatusError
from deviceplugin.testing.apiserver.stepped import Outcome, Request, SteppedApi
from deviceplugin.testing.apiserver.store import Event, Store, resource_of
from deviceplugin.testing.virtualtime import VirtualLoop
from deviceplugin.vendor.scheduling import (
    Card,
    Demand,
    Obstacle,
    RefusedError,
    Rule,
    SchedulingBackend,
)

NODES = ("a", "b", "c")
OFFERED = st.lists(st.sampled_from(NODES), min_size=1, unique=True).map(tuple)
LIMITED, FREE = "limited", "default"
QUOTA = {
    "nvidia.com/gpumem": 12_000,
    "nvidia.com/gpucores": 120,
    "hygon.com/dcumem": 20_000,
    "iluvatar.ai/MR-V100.vMem": 40,
}
"""Of the namespace `LIMITED`, always, in the vendors' own units."""

BEGAN_NS = 1_767_225_600 * 10**9
"""The first of January 2026."""

SEARCHED = "SCHEDULER_EXAMPLES" in os.environ
"""Whether other examples are made each time, for as long as somebody likes to wait; else they are
always the same.
"""
EXAMPLES = int(os.environ.get("SCHEDULER_EXAMPLES", "25"))
STEPS = int(os.environ.get("SCHEDULER_STEPS", "50"))


def backends_of_all_vendors() -> dict[str, SchedulingBackend]:
    found = [
        backend
        for name, vendor in registry.load().vendors.items()
        if name != "mock"
        for backend in registry.load_scheduling(vendor, {})
    ]
    return {backend.keys.common_word: backend for backend in found}


BACKENDS = backends_of_all_vendors()


# --- what there is --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sort:
    """Cards that a node may have: how many, their type, memory and shares."""

    cards: int
    type: str
    memory: int
    count: int
    mode: str = ""
    networks: bool = False
    capacity: Mapping[str, int] = field(default_factory=dict)


SORTS: Mapping[str, tuple[Sort, ...]] = {
    "NVIDIA": (
        Sort(2, "NVIDIA-Tesla T4", 8000, 4, "hami-core"),
        Sort(1, "NVIDIA-Tesla T4", 16000, 3, "hami-core"),
        Sort(1, "NVIDIA-A100-SXM4-40GB", 40960, 7, "mig"),
    ),
    "DCU": (Sort(2, "DCU-K100_AI", 65520, 4, "hami"),),
    "Ascend910B4": (Sort(3, "Ascend910B4", 32768, 4, networks=True),),
    "MR-V100": (Sort(2, "MR-V100", 32768, 4),),
    "XPU": (Sort(4, "XPU", 98304, 4),),
    "kunlun": (Sort(0, "", 0, 0, capacity={"kunlunxin.com/xpu": 8}),),
    "Metax-GPU": (Sort(0, "", 0, 0, capacity={"metax-tech.com/gpu": 2}),),
    "Metax-SGPU": (Sort(2, "Metax-SGPU", 65536, 3),),
    "MLU": (Sort(0, "", 0, 0, capacity={"cambricon.com/vmlu": 2}),),
}


def cards_of(node: str, word: str, sort: Sort, healthy: bool = True) -> tuple[NodeDevice, ...]:
    return tuple(
        NodeDevice(
            uuid=f"{word}-{node}-{index}",
            index=index,
            count=sort.count,
            memory=sort.memory,
            cores=100,
            type=sort.type,
            mode=sort.mode,
            numa=index % 2,
            healthy=healthy or index > 0,
            custom={"NetworkID": index // 2} if sort.networks else {},
        )
        for index in range(sort.cards)
    )


def metax_list(cards: tuple[NodeDevice, ...]) -> str:
    return json.dumps(
        [
            {
                "uuid": card.uuid,
                "totalDevCount": card.count,
                "totalCompute": 100,
                "totalVRam": card.memory,
                "healthy": card.healthy,
                "linkZone": 1,
            }
            for card in cards
        ]
    )


def node_item(
    name: str,
    sorts: Mapping[str, Sort],
    *,
    ours: bool,
    deferred: bool,
    healthy: bool = True,
    cordoned: str = "",
) -> dict[str, Any]:
    """A node as its agents describe it."""
    amounts: dict[str, str] = {}
    offers, told = [], {}
    for word, sort in sorts.items():
        resources = BACKENDS[word].resources
        cards = cards_of(name, word, sort, healthy)
        amounts |= {key: str(n) for key, n in sort.capacity.items()}
        if word == "Metax-SGPU":
            told["metax-tech.com/node-gpu-devices"] = metax_list(cards)
        elif cards:
            offers.append(Offer(BACKENDS[word].keys, cards))
        if cards:
            amounts[resources.count] = str(len(cards) * sort.count)
    annotations = node_annotations(offers, deferred=deferred)
    if ours:
        annotations[ANNOUNCES] = ",".join(sorted(annotations))
    if cordoned:
        annotations["hami.io/device-cordon"] = cordoned
    return {
        "metadata": {"name": name, "annotations": {**annotations, **told}},
        "status": {"allocatable": amounts, "capacity": amounts},
    }


def described(
    *words: str, kind: int = 0, ours: bool = True, deferred: bool = False
) -> dict[str, Any]:
    """What a node may be, by the words of its cards; `kind` counts through `SORTS`."""
    sorts = {word: SORTS[word][kind % len(SORTS[word])] for word in words}
    return {"sorts": sorts, "ours": ours, "deferred": deferred}


OTHERS = ("DCU", "Ascend910B4", "MR-V100", "XPU", "Metax-SGPU", "MLU")
DESCRIBED: Mapping[str, dict[str, Any]] = {
    "rich": described("NVIDIA", *OTHERS, deferred=True),
    "rich, with a lock": described("NVIDIA", "kunlun", "Metax-GPU", *OTHERS, kind=1),
    "rich, in partitions": described("NVIDIA", *OTHERS, kind=2, deferred=True),
    "rich, of others": described("NVIDIA", "DCU", "XPU", ours=False),
    "one large card": described("NVIDIA", kind=1, deferred=True),
    "two vendors of others": described("NVIDIA", "MR-V100", ours=False),
    "counted": described("kunlun", "MLU", deferred=True),
    "bare": described(),
}
RICH = [name for name in DESCRIBED if name.startswith("rich")]
FIRST = ["rich"] * 3 + RICH
LATER = RICH * 3 + list(DESCRIBED)
"""Mostly rich too: where nothing has room nothing is given twice."""

NVIDIA_ASKS = [
    {"nvidia.com/gpu": count, **more}
    for count, more in (
        (1, {"nvidia.com/gpumem": 1000}),
        (1, {"nvidia.com/gpumem": 4000}),
        (1, {"nvidia.com/gpumem": 5000, "nvidia.com/gpucores": 0}),
        (1, {"nvidia.com/gpumem": 3000, "nvidia.com/gpucores": 60}),
        (1, {"nvidia.com/gpumem": 100, "nvidia.com/gpucores": 100}),
        (1, {"nvidia.com/gpumem-percentage": 50, "nvidia.com/gpucores": 50}),
        (1, {"nvidia.com/gpumem-percentage": 30}),
        (1, {}),
        (2, {"nvidia.com/gpumem": 3000}),
        (2, {"nvidia.com/gpumem": 4000, "nvidia.com/gpucores": 30}),
    )
]
OTHER_ASKS = [
    {"hygon.com/dcunum": 1, "hygon.com/dcumem": 16000, "hygon.com/dcucores": 60},
    {"hygon.com/dcunum": 1, "hygon.com/dcumem": 2000, "hygon.com/dcucores": 10},
    {"hygon.com/dcunum": 2},
    {"huawei.com/Ascend910B4": 1, "huawei.com/Ascend910B4-memory": 8000},
    {"huawei.com/Ascend910B4": 1, "huawei.com/Ascend910B4-memory": 16000},
    {"huawei.com/Ascend910B4": 2},
    {"iluvatar.ai/MR-V100-vgpu": 1, "iluvatar.ai/MR-V100.vMem": 64},
    {
        "iluvatar.ai/MR-V100-vgpu": 1,
        "iluvatar.ai/MR-V100.vMem": 16,
        "iluvatar.ai/MR-V100.vCore": 60,
    },
    {"iluvatar.ai/MR-V100-vgpu": 2},
    {"kunlunxin.com/vxpu": 1, "kunlunxin.com/vxpu-memory": 24576},
    {"kunlunxin.com/vxpu": 2, "kunlunxin.com/vxpu-memory": 49152},
    {"kunlunxin.com/xpu": 1},
    {"kunlunxin.com/xpu": 4},
    {"metax-tech.com/gpu": 1},
    {"metax-tech.com/sgpu": 1, "metax-tech.com/vmemory": 16, "metax-tech.com/vcore": 60},
    {"metax-tech.com/sgpu": 1, "metax-tech.com/vmemory": "20480Mi", "metax-tech.com/vcore": 20},
    {"metax-tech.com/sgpu": 2},
    {"cambricon.com/vmlu": 1},
]
ONE_ASK: list[dict[str, object]] = [{}, *NVIDIA_ASKS * 3, *OTHER_ASKS]
TWO_ASKS = [{**one, **other} for one in NVIDIA_ASKS[:4] for other in OTHER_ASKS[::3]]

WISHES: list[dict[str, str]] = [
    *[{}] * 12,
    {"hami.io/node-scheduler-policy": "spread"},
    {"hami.io/gpu-scheduler-policy": "binpack"},
    {"hami.io/gpu-scheduler-policy": "topology-aware"},
    {"hami.io/gpu-scheduler-policy": "nonsense"},
    {"nvidia.com/use-gputype": "A100"},
    {"nvidia.com/nouse-gpuuuid": "NVIDIA-a-0,NVIDIA-b-0"},
    {"nvidia.com/numa-bind": "true"},
    {"metax-tech.com/sgpu-app-class": "online"},
    {"metax-tech.com/sgpu-app-class": "offline"},
]
WISHED = frozenset(key for wish in WISHES for key in wish)
KINDS: list[tuple[str, ...]] = [
    *[("regular",)] * 5,
    ("regular", "regular"),
    ("init", "regular"),
    ("sidecar", "init", "regular"),
    ("init", "sidecar", "regular"),
    ("init", "init", "regular", "regular"),
]


def shares(*mebibytes: int) -> list[dict[str, object]]:
    return [{"nvidia.com/gpu": 1, "nvidia.com/gpumem": mib, "nvidia.com/gpucores": 10} for mib in mebibytes]  # fmt: skip


HEAVY_AT_FIRST: list[tuple[tuple[str, ...], list[dict[str, object]]]] = [
    (("init", "regular"), shares(5000, 1000)),
    (("init", "regular"), shares(9000, 2000)),
    (("sidecar", "init", "regular"), shares(2000, 4000, 1000)),
    (("init", "sidecar", "regular"), shares(5000, 1000, 1000)),
]
"""What needs more of a card before its last containers start than afterwards."""


LARGE = [*HEAVY_AT_FIRST, *((("regular",), [ask]) for ask in NVIDIA_ASKS[1:4])]
"""Of which a few fill a card, or a quota."""
CROWD = 6
"""So many of them fill the cards of two nodes, or nearly."""


@st.composite
def pods(draw: st.DrawFn, large: bool = False) -> dict[str, Any]:
    """A pod without a name. Most ask for one vendor's cards in one container."""
    ask = st.sampled_from(ONE_ASK * 3 + TWO_ASKS)
    if large:
        kinds, asks = draw(st.sampled_from(LARGE))
    elif draw(st.integers(0, 5)) == 5:
        kinds, asks = draw(st.sampled_from(HEAVY_AT_FIRST))
    else:
        kinds = draw(st.sampled_from(KINDS))
        asks = [draw(ask) for _ in kinds]
    found: dict[str, Any] = {
        "metadata": {
            "namespace": draw(st.sampled_from([FREE] * (1 if large else 4) + [LIMITED])),
            "annotations": dict(draw(st.sampled_from(WISHES))),
        },
        "spec": {"schedulerName": "hami-scheduler"},
    }
    for number, (kind, asked) in enumerate(zip(kinds, asks, strict=True)):
        limits = {resource: str(amount) for resource, amount in asked.items()}
        container = {"name": f"c{number}", "image": "x", "resources": {"limits": limits}}
        if kind == "sidecar":
            container["restartPolicy"] = "Always"
        part = "containers" if kind == "regular" else "initContainers"
        found["spec"].setdefault(part, []).append(container)
    return found


# --- what pods hold, counted here -------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """What one container of a pod has of one card."""

    word: str
    container: int
    device: ContainerDevice


def kinds_of(pod: Mapping[str, Any]) -> list[str]:
    """Of every container, in the order in which they start: init, sidecar or regular."""
    initial = [
        "sidecar" if c.get("restartPolicy") == "Always" else "init"
        for c in pod["spec"].get("initContainers") or ()
    ]
    return [*initial, *("regular" for _ in pod["spec"]["containers"])]


def parts_of(pod: Mapping[str, Any]) -> Iterator[Part]:
    """By its annotations, whose writer lists all containers, or only the regular ones."""
    annotations = pod["metadata"].get("annotations") or {}
    kinds = kinds_of(pod)
    for word, backend in BACKENDS.items():
        text = annotations.get(backend.keys.allocated)
        if text is None:
            continue
        listed = poddevices.decode(text, backend.keys.allocated)
        first = 0 if len(listed) == len(kinds) else len(kinds) - len(pod["spec"]["containers"])
        for position, devices in enumerate(listed):
            for device in devices:
                yield Part(word, first + position, device)


def peak(kinds: list[str], amounts: Mapping[int, int]) -> int:
    """The most that containers use at a time: an init container alone with the sidecars that are
    there already, in the end all others together.
    """
    most = lasting = 0
    for position, kind in enumerate(kinds):
        amount = amounts.get(position, 0)
        if kind == "init":
            most = max(most, lasting + amount)
        else:
            lasting += amount
    return max(most, lasting)


def peaks(pod: Mapping[str, Any]) -> dict[str, tuple[int, int, int]]:
    """Slots, memory and cores that a pod takes, by card."""
    kinds = kinds_of(pod)
    cards: dict[str, list[Counter[int]]] = defaultdict(lambda: [Counter(), Counter(), Counter()])
    for part in parts_of(pod):
        slots, memory, cores = cards[part.device.uuid]
        slots[part.container] += 1
        memory[part.container] += part.device.memory
        cores[part.container] += part.device.cores
    return {
        uuid: (peak(kinds, found[0]), peak(kinds, found[1]), peak(kinds, found[2]))
        for uuid, found in cards.items()
    }


def counted_quota(pod: Mapping[str, Any]) -> Counter[str]:
    """MiB and percent that a pod takes of its namespace, by resource."""
    kinds = kinds_of(pod)
    found: dict[str, Counter[int]] = defaultdict(Counter)
    for part in parts_of(pod):
        resources = BACKENDS[part.word].resources
        if resources.memory:
            found[resources.memory][part.container] += part.device.memory
        if resources.cores:
            found[resources.cores][part.container] += part.device.cores
    return Counter({resource: peak(kinds, amounts) for resource, amounts in found.items()})


def unit(resource: str) -> int:
    return next(
        b.resources.memory_unit_mib if resource == b.resources.memory else 1
        for b in BACKENDS.values()
        if resource in (b.resources.memory, b.resources.cores)
    )


def has_ended(pod: Mapping[str, Any]) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def wall_ns(loop: VirtualLoop) -> int:
    """The time of day on a loop, in nanoseconds of unix time."""
    return BEGAN_NS + int(loop.now * 1e9)


# --- a replica --------------------------------------------------------------------------------------


class Leadership:
    """As the test says."""

    holder = "another"

    def __init__(self) -> None:
        self.leads, self.term = False, 0

    def left(self) -> float:
        return math.inf if self.leads else 0.0

    def is_leader(self) -> bool:
        return self.leads

    async def run(self) -> None:
        """Nothing runs here."""


class Replica:
    """A scheduler whose watches hear of what the test lets them hear."""

    def __init__(self, loop: VirtualLoop, server: ApiServer) -> None:
        self.loop, self.server = loop, server
        self.api = SteppedApi(server)
        self.leading = Leadership()
        self.problems: list[Exception] = []
        ticks = itertools.count()  # no two moments are one, as on any real clock
        self.made = made = Scheduler(
            SchedulerSettings(bind_patience=25.0),
            BACKENDS.values(),
            self.api,
            self.leading,
            surroundings=Surroundings(loop.time, lambda: wall_ns(loop) + next(ticks), lambda: 0.5),
        )
        watching = made.watching
        self.reflectors = {
            "nodes": watching.nodes,
            "pods": watching.pods,
            "resourcequotas": watching.limits,
        }
        for reflector in self.reflectors.values():
            reflector._changed = self._checked(reflector._changed)
        self.heard = dict.fromkeys(self.reflectors, 0)
        self.pending: dict[str, list[Event]] = {}
        self.last: dict[str, dict[str, Event]] = {}
        for plural in self.reflectors:
            self.relist(plural)

    def _checked(self, changed: Callable[[Any], None]) -> Callable[[Any], None]:
        def check(change: Any) -> None:
            try:
                changed(change)
            except Exception as error:
                self.problems.append(error)
                raise

        return check

    def relist(self, plural: str) -> None:
        """What happened meanwhile is not heard of one by one."""
        reflector = self.reflectors[plural]
        found = {}
        for item in self.server.store.shown(resource_of(plural))[0]:
            if (projected := reflector._projected(item)) is not None:
                found[key_of(item)] = projected
        reflector._replace(found, str(self.server.store.version))
        self.heard[plural] = self.server.store.version
        self.pending[plural], self.last[plural] = [], {}

    def news(self, plural: str) -> list[Event]:
        """What has happened and was not heard yet."""
        fresh = [
            event
            for event in self.server.store._events
            if event.plural == plural and event.version > self.heard[plural]
        ]
        self.pending[plural] += fresh
        self.heard[plural] = max([self.heard[plural], *(event.version for event in fresh)])
        return self.pending[plural]

    def hear(self, plural: str, event: Event) -> None:
        reflector = self.reflectors[plural]
        new = None if event.type == "DELETED" else reflector._projected(event.after)
        reflector._hear(key_of(event.after), str(event.version), new)
        self.last[plural][key_of(event.after)] = event

    def hear_all(self) -> None:
        for plural in self.reflectors:
            for event in list(self.news(plural)):
                self.hear(plural, event)
            self.pending[plural] = []

    def catch_up(self) -> bool:
        """Where it begins to lead its watches tell all, as it asks of them; whether it did."""
        if not self.made.takeover._turn.locked() or self.api.waiting:
            return False
        for plural, reflector in self.reflectors.items():
            if reflector._relist.is_set():
                reflector._relist.clear()
                self.relist(plural)
        self.hear_all()
        self.loop.settle()
        return bool(self.api.waiting)

    @property
    def decides(self) -> bool:
        """Whether it leads, and has heard all that was bound before."""
        return self.leading.leads and self.made.takeover._term == self.leading.term


def key_of(item: Mapping[str, Any]) -> str:
    metadata = item["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


# --- kube-scheduler ---------------------------------------------------------------------------------


@dataclass
class Attempt:
    """What is under way for a pod."""

    verb: str
    replica: Replica
    task: asyncio.Task[bytes]
    offered: tuple[str, ...] = ()
    pod: Any = None
    before: Decision | None = None
    """What was decided about the pod already."""


class SchedulerMachine(RuleBasedStateMachine):
    """Everything around two replicas of the scheduler."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        made = itertools.count(1)
        self.server = ApiServer(
            store=Store(
                lambda: datetime.fromtimestamp(wall_ns(self.loop) / 1e9, UTC),
                lambda: UUID(int=next(made)),
            )
        )
        self.number = 0
        self.term = 0
        self.largest: dict[str, tuple[int, int, int]] = {}
        self.under_way: dict[str, Attempt] = {}
        self.chosen: dict[str, str] = {}
        self.bindings: Counter[str] = Counter()
        self.replicas: list[Replica] = []
        self.answers: dict[str, Any] = {}
        self.decided_by: dict[str, Any] = {}
        """What a pod was last decided about by."""
        service.decide = self.decide
        self.apis: list[SteppedApi] = []

    # --- the world ---

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        hard = {f"limits.{resource}": str(amount) for resource, amount in QUOTA.items()}
        self.server.create(
            "resourcequotas",
            {"metadata": {"namespace": LIMITED, "name": "always"}, "spec": {"hard": hard}},
        )
        for name in NODES[:2]:
            self.put_node(name, DESCRIBED[data.draw(st.sampled_from(FIRST))])
        self.replicas = [self.new_replica() for _ in range(2)]
        self.replicas[0].leading.leads = True

    def decide(self, cluster: Cluster, quotas: Quotas, wanted: Any, *more: Any) -> Any:
        self.decided_by[wanted.pod.uid] = snapshot(cluster, quotas)
        return deciding.decide(cluster, quotas, wanted, *more)

    def teardown(self) -> None:
        service.decide = deciding.decide
        for attempt in self.under_way.values():
            attempt.task.cancel()
        self.loop.settle()
        self.loop.close()

    @property
    def leader(self) -> Replica:
        return next(r for r in self.replicas if r.leading.leads)

    def put_node(self, name: str, described: dict[str, Any], **more: Any) -> None:
        item = node_item(name, **described, **more)
        try:
            held = self.server.get("nodes", name)["metadata"].get("annotations") or {}
        except StatusError:
            self.server.create("nodes", item)
        else:
            gone = dict.fromkeys(key for key in held if key != MUTEX_LOCK)
            annotations = {**gone, **item["metadata"]["annotations"]}
            self.server.patch("nodes", name, {"metadata": {"annotations": annotations}})
            for part in ("capacity", "allocatable"):
                old = self.server.get("nodes", name)["status"].get(part) or {}
                amounts = {**dict.fromkeys(old), **item["status"][part]}
                self.server.patch("nodes", name, {"status": {part: amounts}})
        stored = node_record(self.server.get("nodes", name))
        alone = Cluster(BACKENDS)
        alone.set_node(stored)
        view = alone.view(name)
        assert view is not None
        for cards in view.cards.values():
            for card in cards:
                size = (card.device.count, card.device.memory, card.device.cores)
                known = self.largest.get(card.uuid, (0, 0, 0))
                self.largest[card.uuid] = tuple(map(max, size, known))  # type: ignore[assignment]

    def stored(self, plural: str) -> list[dict[str, Any]]:
        """What there is, to be looked at and not to be changed."""
        return self.server.store.shown(resource_of(plural))[0]

    def waiting_pods(self) -> list[str]:
        return [
            key_of(pod)
            for pod in self.stored("pods")
            if not pod["spec"].get("nodeName") and not has_ended(pod)
        ]

    def pod(self, key: str) -> dict[str, Any]:
        namespace, name = key.split("/")
        return self.server.get("pods", name, namespace)

    def new_pod(self, item: dict[str, Any]) -> str | None:
        item["metadata"]["name"] = f"p{self.number}"
        self.number += 1
        try:
            stored, _ = admitted(item, BACKENDS.values())
        except RefusedError:
            return None
        return key_of(self.server.create("pods", stored))

    @rule(item=pods())
    def a_pod_comes(self, item: dict[str, Any]) -> None:
        """And is filtered; what the server says of it is for later."""
        if (key := self.new_pod(item)) is not None:
            self.filter(key, NODES)

    @rule(
        items=st.lists(pods(), min_size=1, max_size=4),
        outcomes=st.lists(st.sampled_from([Outcome.ANSWERED] * 3 + list(Outcome)), max_size=6),
    )
    def pods_are_placed(self, items: list[dict[str, Any]], outcomes: list[Outcome]) -> None:
        """One after the other; of the server's answers the first are as they are, others well."""
        for item in items:
            self.place(item, outcomes)

    @rule(item=pods() | pods(large=True), going=st.booleans())
    def pods_that_are_alike_are_placed(self, item: dict[str, Any], going: bool) -> None:
        """Until there is no room, where they are not small; also when those that have it were asked
        to go, and have not gone.
        """
        if (key := self.place(item, [])) is None:
            return
        self.crowd(self.pod(key))
        if going:
            for pod in self.stored("pods"):
                if pod["spec"].get("nodeName"):
                    self.server.delete(
                        "pods", pod["metadata"]["name"], pod["metadata"]["namespace"], grace=30
                    )
            self.crowd(self.pod(key))

    def place(self, item: dict[str, Any], outcomes: list[Outcome]) -> str | None:
        if (key := self.new_pod(item)) is None:
            return None
        uid = self.pod(key)["metadata"]["uid"]
        self.filter(key, NODES)
        self.answer_all(outcomes)
        if uid in self.chosen:
            self.bind(uid)
            self.answer_all(outcomes)
        return key

    def crowd(self, pod: dict[str, Any], heard: bool = True) -> None:
        """Others like this one come, until there is no room; to whoever has heard everything, or to
        whoever has heard only what it asked for.
        """
        told, where = pod["metadata"].get("annotations") or {}, pod["metadata"]["namespace"]
        wishes = {key: text for key, text in told.items() if key in WISHED}
        for _ in range(CROWD):
            for name in NODES:
                self.serve(name)
            for replica in self.replicas if heard else ():
                replica.hear_all()
            spec = {key: copy.deepcopy(v) for key, v in pod["spec"].items() if key != "nodeName"}
            key = self.place(
                {"metadata": {"namespace": where, "annotations": wishes}, "spec": spec}, []
            )
            if key is None:
                return
            if key in self.waiting_pods():
                namespace, name = key.split("/")
                self.server.delete("pods", name, namespace)
                return

    @rule(items=st.lists(pods(), min_size=1, max_size=4))
    def pods_are_placed_where_all_is_well(self, items: list[dict[str, Any]]) -> None:
        """Everything was heard and answered: then there is an answer, and it is no error."""
        self.answer_all([])
        self.loop.pass_time(30.0)
        self.answer_all([])
        for item in items:
            for replica in self.replicas:
                replica.hear_all()
            key = self.new_pod(item)
            if key is None:
                continue
            uid = self.pod(key)["metadata"]["uid"]
            self.filter(key, NODES)
            self.answer_all([])
            assert self.answers[uid]["Error"] == ""
            if uid in self.chosen:
                del self.answers[uid]
                self.bind(uid)
                self.answer_all([])
                error = self.answers.get(uid, {"Error": ""})["Error"]
                assert error == "" or "has been locked" in error

    @rule(data=st.data())
    def the_world_changes(self, data: st.DataObject) -> None:
        waiting, there = self.waiting_pods(), self.stored("pods")
        changes: list[Callable[[st.DataObject], None]] = [
            self.a_node_changes,
            self.a_quota_changes,
            *([self.a_pod_goes] * 2 if there else []),
            *([self.somebody_writes_a_decision_of_his_own] if waiting else []),
            *([self.somebody_asks_about_nodes_of_his_own] if waiting else []),
            self.an_agent_serves,
            self.an_agent_serves,
        ]
        data.draw(st.sampled_from(changes))(data)

    def a_pod_goes(self, data: st.DataObject) -> None:
        """By any way: ended, asked to go, gone, or gone and made anew under its name."""
        pod = data.draw(st.sampled_from(self.stored("pods")))
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        match data.draw(st.sampled_from(["ends", "is asked to go", "is gone", "is made anew"])):
            case "ends":
                self.server.patch("pods", name, {"status": {"phase": "Succeeded"}}, namespace)
            case "is asked to go":
                self.server.delete("pods", name, namespace, grace=30)
            case "is gone":
                self.server.delete("pods", name, namespace)
            case _:
                self.server.delete("pods", name, namespace)
                kept = {k: v for k, v in pod["metadata"].items() if k in ("name", "namespace")}
                spec = {k: v for k, v in pod["spec"].items() if k != "nodeName"}
                self.server.create("pods", {"metadata": kept, "spec": spec})
        if data.draw(st.booleans()):
            self.crowd(pod)

    def a_node_changes(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(NODES))
        match data.draw(
            st.sampled_from(["is other", "is other", "is ill", "is cordoned", "is gone"])
        ):
            case "is gone":
                with contextlib.suppress(StatusError):
                    self.server.delete("nodes", name)
            case "is other":
                self.put_node(name, DESCRIBED[data.draw(st.sampled_from(LATER))])
            case what:
                more: dict[str, Any] = (
                    {"healthy": False} if what == "is ill" else {"cordoned": f"NVIDIA-{name}-0"}
                )
                self.put_node(name, DESCRIBED[data.draw(st.sampled_from(LATER))], **more)

    def a_quota_changes(self, data: st.DataObject) -> None:
        """Of the free namespace, whose pods may already be more than it allows."""
        amount = data.draw(st.sampled_from([None, None, 0, 9000, 30000]))
        with contextlib.suppress(StatusError):
            self.server.delete("resourcequotas", "sometimes", FREE)
        if amount is not None:
            hard = {"limits.nvidia.com/gpumem": str(amount)}
            item = {"metadata": {"namespace": FREE, "name": "sometimes"}, "spec": {"hard": hard}}
            self.server.create("resourcequotas", item)

    def somebody_writes_a_decision_of_his_own(self, data: st.DataObject) -> None:
        pod = self.pod(data.draw(st.sampled_from(self.waiting_pods())))
        node = data.draw(st.sampled_from(NODES))
        forged = {
            VGPU_NODE: node,
            BACKENDS["NVIDIA"].keys.allocated: f"NVIDIA-{node}-0,NVIDIA,8000,100:;",
        }
        self.server.patch(
            "pods",
            pod["metadata"]["name"],
            {"metadata": {"annotations": forged}},
            pod["metadata"]["namespace"],
        )

    def an_agent_serves(self, data: st.DataObject) -> None:
        self.serve(data.draw(st.sampled_from(NODES)))

    def serve(self, name: str) -> None:
        """Whoever was bound with the lock is running, and the lock is free."""
        with contextlib.suppress(StatusError):
            text = self.server.get("nodes", name)["metadata"]["annotations"].get(MUTEX_LOCK)
            if text is None:
                return
            _, namespace, pod = text.split(",")
            with contextlib.suppress(StatusError):
                if self.server.get("pods", pod, namespace)["spec"].get("nodeName") != name:
                    return
                phase = {"metadata": {"annotations": {BIND_PHASE: "success"}}}
                self.server.patch("pods", pod, phase, namespace)
            self.server.patch("nodes", name, {"metadata": {"annotations": {MUTEX_LOCK: None}}})

    # --- what replicas hear -------------------------------------------------------------------------

    @rule(
        data=st.data(),
        which=st.integers(0, 1),
        what=st.sampled_from(["all", "some", "some", "again", "anew"]),
        plural=st.sampled_from(["nodes", "pods", "pods", "resourcequotas"]),
    )
    def watches_tell(self, data: st.DataObject, which: int, what: str, plural: str) -> None:
        """Some of what happened, of one object in order, of different ones in any; the last of one
        once more; or a list of all.
        """
        replica = self.replicas[which]
        if what == "all":
            replica.hear_all()
        elif what == "anew":
            replica.relist(plural)
        elif what == "again" and replica.last[plural]:
            replica.hear(plural, data.draw(st.sampled_from(list(replica.last[plural].values()))))
        for _ in range(data.draw(st.integers(1, 4)) if what == "some" else 0):
            if not (pending := replica.news(plural)):
                break
            picked = data.draw(st.sampled_from(pending))
            event = next(e for e in pending if key_of(e.after) == key_of(picked.after))
            pending.remove(event)
            replica.hear(plural, event)
        self.loop.settle()

    # --- kube-scheduler's part ------------------------------------------------------------------------

    @rule(data=st.data())
    @precondition(lambda self: self.waiting_pods())
    def a_pod_is_filtered(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.waiting_pods()))
        uid = self.pod(key)["metadata"]["uid"]
        if uid in self.under_way:
            return
        self.filter(key, data.draw(OFFERED))

    def filter(self, key: str, offered: tuple[str, ...]) -> None:
        pod = self.pod(key)
        uid = pod["metadata"]["uid"]
        replica = self.leader
        body = {"Pod": pod, "Nodes": None, "NodeNames": list(offered)}
        self.chosen.pop(uid, None)
        before = replica.made.decisions.get(uid)
        task = self.loop.create_task(replica.made.service.filter(json.dumps(body).encode()))
        self.under_way[uid] = Attempt("filter", replica, task, offered, pod, before)
        self.loop.settle()
        self.take_in()

    @rule(data=st.data())
    @precondition(lambda self: set(self.chosen) - set(self.under_way))
    def a_pod_is_bound(self, data: st.DataObject) -> None:
        self.bind(
            data.draw(st.sampled_from([uid for uid in self.chosen if uid not in self.under_way]))
        )

    def bind(self, uid: str) -> None:
        pod = next((p for p in self.stored("pods") if p["metadata"]["uid"] == uid), None)
        node = self.chosen.pop(uid)
        if pod is None or pod["spec"].get("nodeName"):
            return
        body = {
            "PodName": pod["metadata"]["name"],
            "PodNamespace": pod["metadata"]["namespace"],
            "PodUID": uid,
            "Node": node,
        }
        replica = self.leader
        task = self.loop.create_task(replica.made.service.bind(json.dumps(body).encode()))
        self.under_way[uid] = Attempt("bind", replica, task)
        self.loop.settle()
        self.take_in()

    def somebody_asks_about_nodes_of_his_own(self, data: st.DataObject) -> None:
        """Autoscalers do; it leaves no trace."""
        pod = self.pod(data.draw(st.sampled_from(self.waiting_pods())))
        items = [
            node_item("a", **DESCRIBED[data.draw(st.sampled_from(list(DESCRIBED)))]),
            node_item("new", **DESCRIBED[data.draw(st.sampled_from(list(DESCRIBED)))]),
        ]
        body = {"Pod": pod, "Nodes": {"items": items}, "NodeNames": None}
        made, calls = self.leader.made, self.leader.api.calls
        if not self.leader.decides:
            return
        before = snapshot(made.cluster, made.quotas)
        task = self.loop.create_task(made.service.filter(json.dumps(body).encode()))
        self.loop.settle()
        assert json.loads(task.result())["NodeNames"] is None
        assert snapshot(made.cluster, made.quotas) == before
        assert self.leader.api.calls == calls

    def waiting(self) -> list[Request]:
        return [request for replica in self.replicas for request in replica.api.waiting]

    @rule(data=st.data(), outcome=st.sampled_from([Outcome.ANSWERED] * 5 + list(Outcome)))
    @precondition(lambda self: self.waiting())
    def the_server_answers(self, data: st.DataObject, outcome: Outcome) -> None:
        data.draw(st.sampled_from(self.waiting())).answer(outcome)
        self.loop.settle()
        self.take_in()

    @rule()
    @precondition(lambda self: self.waiting())
    def the_server_answers_all(self) -> None:
        self.answer_all([])

    def answer_all(self, outcomes: list[Outcome]) -> None:
        for _ in range(200):
            waiting = self.waiting()
            if not waiting and not any(replica.catch_up() for replica in self.replicas):
                break
            for request in waiting[:1]:
                request.answer(outcomes.pop(0) if outcomes else Outcome.ANSWERED)
                self.loop.settle()
        self.take_in()

    @rule(data=st.data())
    @precondition(lambda self: any(api.adrift for api in self.apis))
    def what_nobody_waits_for_any_more_arrives(self, data: st.DataObject) -> None:
        """However late, whoever sent it, and whether that one still leads or lives."""
        api = data.draw(st.sampled_from([api for api in self.apis if api.adrift]))
        api.adrift.pop(data.draw(st.integers(0, len(api.adrift) - 1))).answer()
        self.loop.settle()

    @rule(item=pods() | pods(large=True), leads=st.booleans(), again=st.booleans())
    def a_binding_arrives_when_all_is_decided_anew(
        self, item: dict[str, Any], leads: bool, again: bool
    ) -> None:
        """By the same replica or the other one: for others the pod's room, and for the pod, if it
        comes again, another node.
        """
        if (key := self.new_pod(item)) is None:
            return
        for name in NODES:
            self.serve(name)
        pod, before = self.pod(key), self.leader
        uid = pod["metadata"]["uid"]
        before.hear_all()
        self.filter(key, NODES)
        self.answer_all([])
        if (left := self.chosen.get(uid)) is None:
            return
        self.bind(uid)
        while before.api.waiting and not (sent := before.api.waiting[-1]).path.endswith("/binding"):
            sent.answer()
            self.loop.settle()
        if uid not in self.under_way or not before.api.waiting:
            return
        if leads:
            self.another_leads()
        sent.answer(Outcome.LATE)
        self.loop.settle()
        self.answer_all([])
        self.loop.pass_time(5.0)
        self.crowd(pod)
        if again and uid not in self.under_way and key in self.waiting_pods():
            self.filter(key, tuple(name for name in NODES if name != left))
            self.answer_all([])
        before.api.adrift.remove(sent)
        sent.answer()
        self.loop.settle()

    @rule(item=pods(large=True))
    def who_leads_next_has_heard_little(self, item: dict[str, Any]) -> None:
        """Of what the one before has bound."""
        if (key := self.place(item, [])) is None:
            return
        self.crowd(self.pod(key), heard=False)
        self.another_leads()
        self.crowd(self.pod(key), heard=False)

    # --- replicas come and go -------------------------------------------------------------------------

    @rule(data=st.data(), what=st.sampled_from(["leads", "starts again", "time", "time"]))
    def replicas_change(self, data: st.DataObject, what: str) -> None:
        if what == "leads":
            self.another_leads()
        elif what == "starts again":
            self.a_replica_starts_again(data.draw(st.integers(0, 1)))
        else:
            self.loop.pass_time(data.draw(st.sampled_from([0.5, 5.0, 30.0, 400.0])))
            for replica in self.replicas:
                replica.made.decisions.lapse()
            self.take_in()

    def another_leads(self) -> None:
        """What the one before has under way goes on, and may arrive at any time."""
        old = self.leader
        old.leading.leads = False
        self.term += 1
        for replica in self.replicas:
            replica.leading.term = self.term
        next(replica for replica in self.replicas if replica is not old).leading.leads = True
        self.loop.settle()

    def a_replica_starts_again(self, which: int) -> None:
        old = self.replicas[which]
        for uid, attempt in list(self.under_way.items()):
            if attempt.replica is old:
                attempt.task.cancel()
                del self.under_way[uid]
        self.loop.settle()
        made = self.new_replica()
        made.leading.term, made.leading.leads = self.term, old.leading.leads
        self.replicas[which] = made

    def new_replica(self) -> Replica:
        made = Replica(self.loop, self.server)
        self.apis.append(made.api)
        return made

    # --- what was answered ----------------------------------------------------------------------------

    def take_in(self) -> None:
        for uid, attempt in list(self.under_way.items()):
            if not attempt.task.done():
                continue
            del self.under_way[uid]
            answer = self.answers[uid] = json.loads(attempt.task.result())
            if attempt.verb == "filter":
                self.check_filter(uid, attempt, answer)
            if answer["Error"] == "" and attempt.verb == "bind":
                self.bindings[uid] += 1
                assert self.bindings[uid] == 1, "bound twice"

    def check_filter(self, uid: str, attempt: Attempt, answer: dict[str, Any]) -> None:
        if answer["Error"]:
            left = attempt.replica.made.decisions.get(uid)
            assert left is None or left is attempt.before, "kept though nobody was told of it"
            return
        names = answer["NodeNames"]
        if names is not None:
            if len(names) == 1:
                self.chosen[uid] = names[0]
            assert set(names) <= set(attempt.offered)
            return
        assert set(answer["FailedNodes"]) == set(attempt.offered)
        before = as_it_was(self.decided_by[uid], uid)
        for name, text in answer["FailedNodes"].items():
            obstacle, _, detail = text.partition(": ")
            check_reason(attempt.pod, name, Obstacle(obstacle), detail, *before)

    # --- what holds after every step --------------------------------------------------------------------

    @invariant()
    def no_change_was_lost(self) -> None:
        for replica in self.replicas:
            assert replica.problems == []

    @invariant()
    def nothing_is_given_twice(self) -> None:
        """By what is bound on the server, whoever did it and whatever it thinks."""
        used: dict[str, Counter[str]] = defaultdict(Counter)
        slots: dict[str, dict[tuple[int, int], set[str]]] = defaultdict(lambda: defaultdict(set))
        for pod in self.stored("pods"):
            node = pod["spec"].get("nodeName")
            if not node or has_ended(pod):
                continue
            assert pod["metadata"]["annotations"].get(VGPU_NODE) == node
            for uuid, (count, memory, cores) in peaks(pod).items():
                used[uuid].update({"count": count, "memory": memory, "cores": cores})
            for part in parts_of(pod):
                if part.device.slot:
                    place = (part.device.slot.geometry, part.device.slot.position)
                    slots[part.device.uuid][place].add(pod["metadata"]["uid"])
        for uuid, amounts in used.items():
            count, memory, cores = self.largest[uuid]
            assert amounts["count"] <= count, uuid
            assert amounts["memory"] <= memory, uuid
            assert amounts["cores"] <= cores, uuid
        for uuid, places in slots.items():
            assert all(len(owners) == 1 for owners in places.values()), uuid
            owners = set().union(*places.values())
            assert len(owners) == 1 or len({geometry for geometry, _ in places}) == 1, uuid

    @invariant()
    def the_quota_that_was_always_there_holds(self) -> None:
        used: Counter[str] = Counter()
        for pod in self.stored("pods"):
            where = pod["metadata"]["namespace"]
            if where == LIMITED and pod["spec"].get("nodeName") and not has_ended(pod):
                used.update(counted_quota(pod))
        for resource, amount in QUOTA.items():
            assert used[resource] <= amount * unit(resource), resource

    @invariant()
    def what_is_kept_is_what_counting_anew_gives(self) -> None:
        for replica in self.replicas:
            cluster, quotas = replica.made.cluster, replica.made.quotas
            fresh = Quotas(BACKENDS)
            for holding in cluster.holdings():
                fresh.moved(None, holding)
            for namespace in (FREE, LIMITED):
                assert quotas.used(namespace) == fresh.used(namespace)
            for name in NODES:
                assert not cluster.drift(name), name

    @invariant()
    def who_decides_gives_no_card_more_than_it_has(self) -> None:
        for replica in self.replicas:
            for name in NODES if replica.decides else ():
                view = replica.made.cluster.view(name)
                for cards in view.cards.values() if view else ():
                    for card in cards:
                        count, memory, cores = self.largest[card.uuid]
                        assert card.used <= count
                        assert card.used_memory_mib <= memory
                        assert card.used_cores <= cores


# --- reasons ------------------------------------------------------------------------------------------


def snapshot(cluster: Cluster, quotas: Quotas) -> Any:
    """All that decisions depend on, as it is now."""
    return (
        {name: cluster.view(name) for name in (*NODES, "new")},
        {name: cluster.record(name) for name in (*NODES, "new")},
        sorted(cluster.holdings(), key=lambda h: h.uid),
        {namespace: dict(quotas.used(namespace)) for namespace in (FREE, LIMITED)},
        sorted(quotas.limits()),
    )


def as_it_was(before: Any, uid: str) -> tuple[Cluster, frozenset[str]]:
    """The cluster without this pod, counted anew, and the namespaces with quotas."""
    _, records, holdings, _used, quotas = before
    cluster = Cluster(BACKENDS)
    for record in records.values():
        if record is not None:
            cluster.set_node(record)
    for holding in holdings:
        if holding.uid != uid:
            cluster.assume(holding)
    return cluster, frozenset(namespace for namespace, *_ in quotas)


def check_reason(
    item: Mapping[str, Any],
    name: str,
    obstacle: Obstacle,
    detail: str,
    cluster: Cluster,
    limited: frozenset[str],
) -> None:
    """Whether the node really does not serve, and for this reason."""
    pod = pod_spec(item)
    settings = SchedulerSettings()
    wanted = filtering.request(cluster, pod, settings.node_policy, settings.card_policy)
    if obstacle is Obstacle.QUOTA:
        assert pod.namespace in limited
        return
    found = filtering.why(cluster, wanted, name)
    assert not isinstance(found, Placement), (name, obstacle, detail)
    view = cluster.view(name)
    if obstacle is Obstacle.INIT_CONTAINERS:
        assert any(ask.container.init and ask.demands for ask in wanted.asks)
        assert view is None or ANNOUNCES not in view.facts.annotations
        return
    demands = [(ask, demand) for ask in wanted.asks for demand in ask.demands.values()]
    assert any(
        is_real(obstacle, view.cards.get(demand.word, ()) if view else (), demand, demands, view)
        for _, demand in demands
    ), (name, obstacle, detail)


def is_real(
    obstacle: Obstacle,
    cards: tuple[Card, ...],
    demand: Demand,
    demands: list[tuple[Any, Demand]],
    view: Any,
) -> bool:
    """By plain arithmetic, with all that the pod's other containers may take of a card."""
    others = [d for _, d in demands if d is not demand and d.word == demand.word]
    cores = min(demand.cores_percent, 100)
    taken_cores = sum(min(d.cores_percent, 100) for d in others)

    def free(card: Card) -> int:
        return card.free_memory_mib - sum(d.memory_of(card.device.memory) for d in others)

    match obstacle:
        case Obstacle.TOO_FEW_CARDS:
            return len(cards) < demand.count
        case Obstacle.HEALTH:
            return any(not card.device.healthy for card in cards) or any(
                card.uuid in view.cordoned for card in cards
            )
        case Obstacle.CORDONED:
            return any(card.uuid in view.cordoned for card in cards)
        case Obstacle.MEMORY:
            return any(free(c) < demand.memory_of(c.device.memory) for c in cards) and (
                Rule.MEMORY in demand.rules
            )
        case Obstacle.CORES:
            return any(c.free_cores - taken_cores < cores for c in cards) or (
                demand.word in ("DCU", "Ascend910B4")  # compute units, AI cores
            )
        case Obstacle.SLOTS:
            return any(card.used + len(others) >= card.device.count for card in cards)
        case Obstacle.EXCLUSIVE:
            return any(card.used or others for card in cards) and (
                cores == 100 or Rule.IDLE in demand.rules
            )
        case Obstacle.EXHAUSTED:
            return cores == 0 and any(c.free_cores - taken_cores <= 0 for c in cards)
        case Obstacle.TOO_FEW_FIT:
            return demand.count > 1 or not cards
        case Obstacle.NUMA:
            return demand.same_numa or demand.word in ("kunlun", "XPU")
        case Obstacle.UUID | Obstacle.TYPE:
            return demand.word == "NVIDIA"
        case Obstacle.VENDOR_RULE:
            return demand.word in ("NVIDIA", "XPU", "DCU")
        case Obstacle.QOS | Obstacle.APP_CLASS:
            return demand.word == "Metax-SGPU"
    return False


@pytest.mark.slow
@pytest.mark.timeout(1200)  # hypothesis would call a test that is cut short a flaky one
def test_whatever_happens() -> None:
    run_state_machine_as_test(
        SchedulerMachine,
        settings=hypothesis.settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize=not SEARCHED,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
