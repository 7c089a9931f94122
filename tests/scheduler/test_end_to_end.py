"""Pods go the whole way in one process: the API server calls the webhook over HTTP, kube-scheduler's
part asks filter and bind over HTTP, kubelet admits them, the agent hands over, and each process sees
the devices that were decided and no others. For every vendor, played by the mock vendor, which
simulates its devices and leaves everything else to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from deviceplugin import registry
from deviceplugin.api.hami import poddevices
from deviceplugin.api.hami.keys import BIND_PHASE, MUTEX_LOCK, VGPU_NODE
from deviceplugin.apiserver.client import Path as ApiPath
from deviceplugin.scheduler.run import Scheduler
from deviceplugin.scheduler.server import Server
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.testing.cluster import NODE, Cluster, Outcome
from deviceplugin.testing.placing import scheduling_backends
from deviceplugin.vendor import PhysicalDevice, VendorSettings

ROOT = Path(__file__).parents[2]
PODS = ApiPath("/api/v1/namespaces/{namespace}/pods", {"namespace": "default"})
SECONDS = 120.0
"""Of patience; nothing takes so long, and on a busy machine forty pods in line take their time."""

pytestmark = pytest.mark.timeout(400)

MODES: Mapping[str, Mapping[str, Any]] = {
    "deferred": {"allocation": "scheduled-deferred", "device_list_strategy": ("cdi-cri",)},
    "env": {"allocation": "scheduled-locked", "device_list_strategy": ("envvar",)},
    "cdi": {"allocation": "scheduled-locked", "device_list_strategy": ("cdi-cri",)},
}
LOCKLESS = {"lockless": "verify"}
"""For resources that no scheduler locks a node for."""


@dataclass(frozen=True)
class Case:
    """A vendor as it is configured on a node, and the resource of it that is offered there."""

    vendor: str
    resource: str
    section: Mapping[str, Any] = field(default_factory=dict)
    locks: bool = True
    modes: tuple[str, ...] = ("deferred", "env", "cdi")

    def __str__(self) -> str:
        return self.resource


CASES = [
    Case("nvidia", "nvidia.com/gpu", {"deviceSplitCount": 10}),
    Case("ascend", "huawei.com/Ascend910B4"),
    Case("metax", "metax-tech.com/gpu", locks=False),
    Case("hygon", "hygon.com/dcunum"),
    Case("kunlunxin", "kunlunxin.com/xpu", locks=False),
    Case("kunlunxin", "kunlunxin.com/vxpu", {"sharedDevices": "all"}),
    Case("iluvatar", "iluvatar.ai/BI-V150-vgpu", {"deviceSplitCount": 2}),
    Case("cambricon", "cambricon.com/vmlu", modes=("deferred",)),
    Case("mthreads", "mthreads.com/vgpu", locks=False),
    Case("enflame", "enflame.com/gcu", locks=False),
    Case("mock", "mock.deviceplugin.dev/gpu"),
]


def examples(case: Case) -> dict[str, dict[str, Any]]:
    """The pods of the vendor's page and of its Kueue example that ask for the resource, by name."""
    page = ROOT / "docs" / "vendors" / f"{case.vendor}.md"
    text = page.read_text() if page.exists() else ""
    texts = [t for t in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "kind: Pod" in t]
    texts.append((ROOT / "examples" / "kueue" / f"{case.vendor}.yaml").read_text())
    found = {}
    for item in (item for text in texts for item in yaml.safe_load_all(text)):
        if not isinstance(item, dict):
            continue
        if item.get("kind") in ("Job", "Deployment"):
            name, template = item["metadata"]["name"], item["spec"]["template"]
            item = {"metadata": {"name": name}, "spec": template["spec"]}
        elif item.get("kind") != "Pod":
            continue
        if case.resource in asked(item):
            found[item["metadata"]["name"]] = item
    return found


def asked(item: Mapping[str, Any]) -> set[str]:
    """The resources that a pod's containers name."""
    return {
        name
        for container in item["spec"]["containers"]
        for name in (container.get("resources") or {}).get("limits") or {}
    }


class Chain:
    """A node with an agent, a scheduler that is asked over HTTP, and the webhook registered."""

    def __init__(self, cluster: Cluster, scheduler: Scheduler, address: str) -> None:
        self.cluster, self.scheduler, self._address = cluster, scheduler, address
        self._api = cluster.api()
        self.physical: dict[str, PhysicalDevice] = {}
        """The node's cards by what schedulers call them."""

    async def submit(self, manifest: Mapping[str, Any]) -> str:
        """A user creates a pod, for whichever scheduler there is."""
        item = {**manifest, "spec": {**manifest["spec"], "schedulerName": "default-scheduler"}}
        stored = await self._api.create(PODS, item)
        assert stored["spec"]["schedulerName"] == "hami-scheduler"
        return str(stored["metadata"]["name"])

    async def _post(self, verb: str, body: Mapping[str, Any]) -> dict[str, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self._address}/{verb}", json=body) as response,
        ):
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer

    async def filter(self, name: str) -> None:
        pod = self.cluster.server.get("pods", name, "default")
        answer = await self._post("filter", {"Pod": pod, "Nodes": None, "NodeNames": [NODE]})
        assert answer["NodeNames"] == [NODE], answer

    async def bind(self, name: str) -> None:
        uid = self.cluster.server.get("pods", name, "default")["metadata"]["uid"]
        names = {"PodName": name, "PodNamespace": "default", "PodUID": uid, "Node": NODE}
        assert (await self._post("bind", names))["Error"] == ""

    async def run(self, name: str) -> Outcome:
        """Bound, admitted and started."""
        await self.bind(name)
        outcome = await self.cluster.run("default", name, SECONDS)
        assert outcome.failure == ""
        return outcome

    def check(self, name: str, outcome: Outcome) -> None:
        """Each container sees the cards that were decided for it, and nothing of the others."""
        annotations = self.cluster.pod_annotations(name)
        assert annotations[VGPU_NODE] == NODE
        containers = self.cluster.server.get("pods", name, "default")["spec"]["containers"]
        granted: dict[str, list[str]] = {container["name"]: [] for container in containers}
        for backend in self.scheduler.cluster.backends.values():
            if (text := annotations.get(backend.keys.allocated)) is None:
                continue
            devices = poddevices.decode(text, backend.keys.allocated)
            wants = [backend.resources.count in container_limits(c) for c in containers]
            owners = poddevices.owners(devices, [], wants, backend.keys.allocated)
            for position, owner in zip(poddevices.segments(devices), owners, strict=True):
                for device in devices[position]:
                    granted[containers[owner]["name"]].append(device.uuid)
        assert any(granted.values())
        for container, uuids in granted.items():
            shown = set(self.shown(outcome, container))
            assert shown == {self.physical[uuid].uuid for uuid in uuids}, (container, shown)

    def shown(self, outcome: Outcome, container: str) -> Iterator[str]:
        """The cards that a container's process sees: by a device node that is no other card's, or
        by the uuid in a variable, or by the index.
        """
        config = outcome.containers[container]
        oci = self.cluster.oci(config)
        nodes = {device.container_path for device in config.devices}
        nodes |= {device["path"] for device in oci.get("linux", {}).get("devices", ())}
        words = {
            word
            for key, text in outcome.environments[container].items()
            if "VISIBLE" in key
            for word in text.split(",")
        }
        cards = {card.uuid: card for card in self.physical.values()}
        every = [node for card in cards.values() for node in card.device_nodes]
        for uuid, card in cards.items():
            own = {node for node in card.device_nodes if every.count(node) == 1}
            if own & nodes or {uuid, card.index} & words:
                yield uuid


def container_limits(container: Mapping[str, Any]) -> Mapping[str, str]:
    found: Mapping[str, str] = (container.get("resources") or {}).get("limits") or {}
    return found


@pytest.fixture
async def chain() -> AsyncIterator[Any]:
    """Makes the chain of a case in a mode."""
    root = Path(tempfile.mkdtemp(prefix="dp-", dir="/tmp"))
    async with contextlib.AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(Cluster(root, numa_nodes=4))
        null = os.lstat("/dev/null")
        cluster.stat = lambda _path: null

        async def make(case: Case, mode: Mapping[str, Any]) -> Chain:
            section: dict[str, Any] = {"imitate": case.vendor, "harmless": False}
            section["section"] = dict(case.section)
            if case.vendor == "mock":
                section = {"profile": "small", "deviceSplitCount": 40, **case.section}
            more = {} if case.locks else LOCKLESS
            cluster.start_agent({"mock": section}, **mode, **more)
            backends = scheduling_backends("mock", section)
            scheduler = Scheduler(
                SchedulerSettings(bind_patience=SECONDS), backends, cluster.api(), alone()
            )
            server = Server(scheduler.routes(), scheduler.blockers)
            await server.start("127.0.0.1:0")
            stack.push_async_callback(server.close)
            task = asyncio.create_task(scheduler.run())
            stack.push_async_callback(ended, task)
            address = f"http://127.0.0.1:{server.address[1]}"
            register_webhook(cluster, f"{address}/webhook")
            made = Chain(cluster, scheduler, address)
            await offered(cluster, scheduler, case)
            made.physical = physical(case, section)
            return made

        yield make
    shutil.rmtree(root, ignore_errors=True)


def alone() -> Any:
    from deviceplugin.scheduler.leadership import Alone

    return Alone()


async def served(cluster: Cluster, name: str) -> None:
    """Until the agent has told that the pod has what it was given."""
    await cluster.settled(
        lambda: cluster.pod_annotations(name).get(BIND_PHASE) == "success", SECONDS
    )


async def unlocked(cluster: Cluster) -> None:
    await cluster.settled(lambda: MUTEX_LOCK not in cluster.node_annotations(), SECONDS)


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def register_webhook(cluster: Cluster, url: str) -> None:
    rule = {
        "operations": ["CREATE"],
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "resources": ["pods"],
    }
    hook = {
        "name": "pods.deviceplugin.dev",
        "clientConfig": {"url": url},
        "rules": [rule],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    cluster.server.create(
        "mutatingwebhookconfigurations", {"metadata": {"name": "hook"}, "webhooks": [hook]}
    )


async def offered(cluster: Cluster, scheduler: Scheduler, case: Case) -> None:
    """Until kubelet offers the resource and the scheduler sees the cards."""
    await cluster.kubelet.wait_registered(case.resource)
    await cluster.until(lambda: cluster.kubelet.allocatable().get(case.resource, 0) > 0, SECONDS)
    counts = {name: str(count) for name, count in cluster.kubelet.allocatable().items()}
    cluster.server.patch("nodes", NODE, {"status": {"capacity": counts, "allocatable": counts}})
    (word,) = [
        w for w, b in scheduler.cluster.backends.items() if b.resources.count == case.resource
    ]
    await cluster.until(
        lambda: (
            scheduler.watching.synced
            and (view := scheduler.cluster.view(NODE)) is not None
            and any(card.device.healthy for card in view.cards.get(word, ()))
        ),
        SECONDS,
    )


def physical(case: Case, section: Mapping[str, Any]) -> dict[str, PhysicalDevice]:
    """The node's cards by what schedulers call them."""
    settings = VendorSettings(node_name=NODE, section=section)
    backend = registry.load_backend(registry.load().vendors["mock"], settings)
    snapshot = backend.discover()
    found = {device.uuid: device for device in snapshot.devices}
    for plan in backend.plan(snapshot):  # type: ignore[attr-defined]
        if plan.resource == case.resource:
            found |= {name: found[uuid] for name, uuid in plan.names.items()}
    return found


@pytest.mark.parametrize(
    ("case", "mode"), [pytest.param(c, m, id=f"{c}-{m}") for c in CASES for m in c.modes]
)
async def test_a_vendors_example_pods_run_with_what_was_decided(
    chain: Any, case: Case, mode: str
) -> None:
    made = await chain(case, MODES[mode])
    pods = examples(case)
    assert pods
    for manifest in pods.values():
        name = await made.submit(manifest)
        await made.filter(name)
        outcome = await made.run(name)
        await served(made.cluster, name)
        await unlocked(made.cluster)
        made.check(name, outcome)
        made.cluster.end("default", name)
        await made.cluster.until(lambda: not list(made.scheduler.cluster.holdings()), SECONDS)
    assert made.cluster.kubelet.findings == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["deferred", "env"])
async def test_forty_pods_of_a_user_all_run_on_one_node(chain: Any, mode: str) -> None:
    """Submitted, placed one after the other, bound in one moment; their memory tells them apart."""
    made = await chain(CASES[0], MODES[mode])
    names = []
    for number in range(40):
        limits = {"nvidia.com/gpumem": str(1000 + number), "nvidia.com/gpucores": "1"}
        container = {"name": "main", "image": "x", "resources": {"limits": limits}}
        item = {"metadata": {"name": f"p{number}"}, "spec": {"containers": [container]}}
        names.append(await made.submit(item))
    for name in names:
        await made.filter(name)
    outcomes = await asyncio.gather(*(made.run(name) for name in names))
    for number, (name, outcome) in enumerate(zip(names, outcomes, strict=True)):
        await served(made.cluster, name)
        made.check(name, outcome)
        assert outcome.environments["main"]["CUDA_DEVICE_MEMORY_LIMIT_0"] == f"{1000 + number}m"
    await unlocked(made.cluster)
    for name in names:
        made.cluster.end("default", name)
    await made.cluster.until(lambda: not list(made.scheduler.cluster.holdings()), SECONDS)
    assert made.cluster.kubelet.findings == []
