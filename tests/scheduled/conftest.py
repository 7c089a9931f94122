"""Pods, annotations and tables in a line each."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.api.hami import poddevices
from deviceplugin.api.hami.keys import BIND_PHASE, VENDORS, VGPU_NODE, VendorKeys
from deviceplugin.api.hami.poddevices import ContainerDevice
from deviceplugin.apiserver.objects import Pod, pod
from deviceplugin.splitting import Table, split
from deviceplugin.testing.cluster import Cluster
from deviceplugin.vendor import PhysicalDevice, ResourcePlan, Sharing, Snapshot, Split

KEYS = VENDORS["NVIDIA"]
RESOURCE = "nvidia.com/gpu"
NODE = "n1"


def encoded(*containers: list[tuple[str, int, int]], keys: VendorKeys = KEYS) -> str:
    """The annotation's text: of each container its devices, memory and cores."""
    devices = [
        [ContainerDevice(uuid, keys.common_word, memory, cores) for uuid, memory, cores in one]
        for one in containers
    ]
    return poddevices.encode(devices, keys.allocated)


def scheduled(
    *granted: list[tuple[str, int, int]],
    asks: tuple[int, ...] = (),
    init: tuple[int, ...] = (),
    sidecars: tuple[int, ...] = (),
    name: str = "p",
    uid: str = "",
    **more: Any,
) -> dict[str, Any]:
    """A pod's JSON whose containers ``c0``, ``c1``… ask for so many devices, init containers
    ``i0``… and sidecars ``s0``… as well, and that a scheduler granted `granted`.
    """

    def containers(letter: str, counts: tuple[int, ...]) -> list[dict[str, Any]]:
        return [
            {
                "name": f"{letter}{position}",
                "image": "x",
                "resources": {"limits": {RESOURCE: str(count)} if count else {}},
            }
            for position, count in enumerate(counts)
        ]

    text = encoded(*granted)
    side = [{**item, "restartPolicy": "Always"} for item in containers("s", sidecars)]
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": uid or f"uid-{name}",
            "annotations": {
                VGPU_NODE: NODE,
                BIND_PHASE: "allocating",
                KEYS.allocated: text,
                str(KEYS.to_allocate): text,
                **more.pop("annotations", {}),
            },
        },
        "spec": {
            "nodeName": NODE,
            "initContainers": containers("i", init) + side,
            "containers": containers("c", asks or tuple(len(one) for one in granted)),
        },
        "status": {"phase": "Pending", **more},
    }


@pytest.fixture
def make_pod() -> Callable[..., Pod]:
    """Makes the frozen pod of `scheduled`."""
    return lambda *granted, **more: pod(scheduled(*granted, **more))


@pytest.fixture
def make_json() -> Callable[..., dict[str, Any]]:
    """Makes the JSON of `scheduled`."""
    return scheduled


@pytest.fixture
def encode() -> Callable[..., str]:
    """Makes the text of an annotation."""
    return encoded


@pytest.fixture
def plan() -> ResourcePlan:
    """Four cards of 1000 MiB in ten shares each."""
    how = Split(count=10, separator="-", sharing=Sharing.LIMITED)
    return ResourcePlan(RESOURCE, ("a", "b", "c", "d"), how, KEYS, "hami-core")


@pytest.fixture
def table(plan: ResourcePlan) -> Table:
    """The table of `plan`."""
    cards = tuple(PhysicalDevice(u, str(i), "M", 1000) for i, u in enumerate(plan.devices))
    return split(plan, Snapshot(cards))


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A cluster of one node, below a path that is short enough for sockets."""
    root = Path(tempfile.mkdtemp(prefix="dp-", dir="/tmp"))
    async with Cluster(root) as running:
        yield running
    shutil.rmtree(root, ignore_errors=True)
