"""Small clusters, as an API server has them, and who decides about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from deviceplugin import registry
from deviceplugin.api.hami import poddevices, register
from deviceplugin.api.hami.keys import BIND_PHASE, BIND_TIME, VENDORS, VGPU_NODE
from deviceplugin.api.hami.poddevices import ContainerDevice
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.explain.snapshot import Shapes, Snapshot, selected_labels
from deviceplugin.explain.story import explained
from deviceplugin.explain.world import World, rebuilt
from deviceplugin.scheduler.settings import SchedulerSettings

GPU, MEMORY, CORES = "nvidia.com/gpu", "nvidia.com/gpumem", "nvidia.com/gpucores"
KEYS = VENDORS["NVIDIA"]
Json = dict[str, Any]


def backends(*vendors: str) -> dict[str, Any]:
    found = registry.load().vendors
    made = [b for name in vendors for b in registry.load_scheduling(found[name], {})]
    return {backend.keys.common_word: backend for backend in made}


NVIDIA = backends("nvidia")


def node(
    name: str,
    cards: int = 2,
    memory: int = 16384,
    kind: str = "Tesla T4",
    *,
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    taints: Iterable[Mapping[str, str]] = (),
    cordoned: bool = False,
    healthy: bool = True,
) -> Json:
    devices = [
        NodeDevice(
            uuid=f"{name}-{index}",
            index=index,
            count=10,
            memory=memory,
            cores=100,
            type=f"NVIDIA-{kind}",
            mode="hami-core",
            numa=index % 2,
            healthy=healthy,
        )
        for index in range(cards)
    ]
    amounts = {GPU: str(cards * 10)}
    return {
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, **(labels or {})},
            "annotations": {
                **({KEYS.register: register.encode(devices)} if cards else {}),
                **(annotations or {}),
            },
        },
        "spec": {"taints": list(taints), **({"unschedulable": True} if cordoned else {})},
        "status": {"allocatable": amounts, "capacity": amounts},
    }


def pod(
    name: str = "train",
    memory: int | None = 1000,
    cores: int | None = 10,
    count: int = 1,
    *,
    on: str = "",
    card: int = 0,
    phase: str = "success",
    annotations: Mapping[str, str] | None = None,
    limits: Mapping[str, str] | None = None,
    status: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Json:
    """A pod that waits, or one that holds a share of a card of the node that it is `on`."""
    asked = {GPU: str(count)}
    asked |= {MEMORY: str(memory)} if memory is not None else {}
    asked |= {CORES: str(cores)} if cores is not None else {}
    said = dict(annotations or {})
    if on:
        device = ContainerDevice(f"{on}-{card}", "NVIDIA", memory or 0, cores or 0)
        text = poddevices.encode([[device]], KEYS.allocated)
        said |= {VGPU_NODE: on, KEYS.allocated: text, BIND_PHASE: phase, BIND_TIME: "1768896000"}
        spec["nodeName"] = on
    return {
        "metadata": {"namespace": "team", "name": name, "uid": f"u-{name}", "annotations": said},
        "spec": {
            "schedulerName": "hami-scheduler",
            "containers": [{"name": "main", "resources": {"limits": dict(limits or asked)}}],
            **spec,
        },
        "status": {"phase": "Running" if on else "Pending", **(status or {})},
    }


def quota(name: str = "gpus", namespace: str = "team", **hard: str) -> Json:
    limits = {f"limits.nvidia.com/{key}": value for key, value in hard.items()}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"hard": limits}}


def snapshot(
    nodes: Iterable[Json] = (),
    pods: Iterable[Json] = (),
    quotas: Iterable[Json] = (),
    who: Mapping[str, Any] = NVIDIA,
    **more: str,
) -> Snapshot:
    """As it would be captured."""
    shapes = Shapes(who)
    pods = [shapes.pod(item) for item in pods]
    labels = selected_labels(pods)
    given = {"taken_at": "2026-01-20T08:10:00Z", "kubernetes": "v1.36.1", **more}
    return Snapshot(
        tuple(shapes.node(item, labels) for item in nodes),
        tuple(pods),
        tuple(found for item in quotas if (found := shapes.quota(item)) is not None),
        **given,
    )


def world(
    nodes: Iterable[Json] = (),
    pods: Iterable[Json] = (),
    quotas: Iterable[Json] = (),
    who: Mapping[str, Any] = NVIDIA,
    settings: SchedulerSettings | None = None,
    **more: str,
) -> World:
    found = snapshot(nodes, pods, quotas, who, **more)
    return rebuilt(found, who, settings or SchedulerSettings())


def account(
    nodes: Iterable[Json], pods: Iterable[Json], quotas: Iterable[Json] = (), **more: Any
) -> Any:
    """What is told of the last of these pods."""
    pods = list(pods)
    metadata = pods[-1]["metadata"]
    return explained(world(nodes, pods, quotas, **more), metadata["namespace"], metadata["name"])


@pytest.fixture(scope="session")
def make() -> Any:
    """All makers, as attributes."""
    return SimpleNamespace(
        account=account,
        backends=backends,
        node=node,
        nvidia=NVIDIA,
        pod=pod,
        quota=quota,
        snapshot=snapshot,
        world=world,
    )
