"""Hard partitions of a vendor that makes them on demand: made whole or not at all, found again, and
removed once nobody can need them.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deviceplugin import tidying
from deviceplugin.registry import Registry
from deviceplugin.testing.kubelet import Admitted, Container, Failed, Pod
from deviceplugin.vendor import Vendor

RESOURCE = "parts.example.com/gpu"

# A partition is a file that bears its holder's name.
NODE = """
from dataclasses import replace
from pathlib import Path

from deviceplugin.vendor import (
    ContainerEdits, PhysicalDevice, ResourcePlan, Sharing, Snapshot, Split
)

HERE = Path(__file__).parent
MADE = HERE / "made"


class Node:
    def __init__(self, settings):
        MADE.mkdir(exist_ok=True)

    def discover(self):
        if (HERE / "driver-away").exists():
            return Snapshot()
        return Snapshot(tuple(PhysicalDevice(f"card-{i}", str(i), "M", 1000) for i in range(2)))

    def plan(self, snapshot):
        uuids = tuple(device.uuid for device in snapshot.devices)
        split = Split(2, "::", Sharing.LIMITED)
        return [ResourcePlan("parts.example.com/gpu", uuids, split)] if uuids else []

    def examine(self, grants, owner):
        if len(grants) > 1 and (HERE / "one-card-only").exists():
            raise ValueError("parts of one card only")

    def slot_request(self, grant, owner):
        if grant.device.uuid == "card-1" and (HERE / "card-1-not").exists():
            raise ValueError("no part of card-1")
        return {"name": f"{owner.pod_uid or owner.allocation_id} {grant.device.uuid}"}

    def partition(self, request):
        (MADE / request["name"]).touch()
        return {"name": request["name"]}

    def release(self, request):
        pass

    def slot_granted(self, grant, answer):
        return replace(grant, device=replace(grant.device, attributes={"part": answer["name"]}))

    def tidy(self, held):
        keep = {holder[key] for holder in held for key in ("pod_uid", "allocation")}
        gone = [path for path in MADE.iterdir() if path.name.split()[0] not in keep]
        for path in gone:
            path.unlink()
        return [path.name for path in gone]

    def edits(self, grants, owner):
        return ContainerEdits({"PARTS": ",".join(g.device.attributes["part"] for g in grants)})
"""


class Parts:
    """A node with the vendor *parts*."""

    def __init__(self, node: Any, directory: Path) -> None:
        self.node, self._directory = node, directory

    async def start(self) -> None:
        found = Registry({"parts": Vendor("parts", "parts:Node", RESOURCE)})
        self.node.start_agent(
            found=found,
            vendors=("parts",),
            probe_interval="100ms",
            health_forget="1s",
            allocation="standalone",
            device_list_strategy=("envvar",),
        )
        await self.node.kubelet.wait_registered(RESOURCE)
        await self.until(lambda: self.node.kubelet.allocatable().get(RESOURCE))

    async def admit(self, pod: str, count: int = 1) -> Any:
        return await self.node.kubelet.admit(Pod(pod, (Container("main", {RESOURCE: count}),)))

    def flag(self, name: str) -> Path:
        return self._directory / name

    def made(self) -> list[str]:
        return sorted(path.name for path in (self._directory / "made").iterdir())

    async def until(self, found: Callable[[], object]) -> None:
        async with asyncio.timeout(15):
            while not found():
                await asyncio.sleep(0.02)


@pytest.fixture
def parts(node: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    (tmp_path / "parts.py").write_text(NODE)
    monkeypatch.delitem(sys.modules, "parts", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(tidying, "MISSING_SECONDS", 0.6)
    monkeypatch.setattr(tidying, "ASKED_SECONDS", 0.6)
    return Parts(node, tmp_path)


async def test_a_partition_goes_after_its_container_and_no_other_does(parts: Parts) -> None:
    await parts.start()
    stays, goes = [await parts.admit(name) for name in ("stays", "goes")]
    config = await parts.node.kubelet.start_container(stays.pod.uid, "main")
    assert len(parts.made()) == 2
    parts.node.kubelet.finish_pod(goes.pod.uid)
    await parts.until(lambda: parts.made() == [dict(config.envs)["PARTS"]])


async def test_a_driver_that_is_away_takes_nobodys_partition(parts: Parts) -> None:
    """Its devices are forgotten and the resource is withdrawn, but the container runs on."""
    await parts.start()
    lives = await parts.admit("lives")
    assert isinstance(lives, Admitted)
    (name,) = parts.made()
    await parts.until(lambda: _tidied(parts))
    parts.flag("driver-away").touch()
    (agent, _task), *_ = parts.node.agents
    runtime = agent.runtimes["parts"]
    await parts.until(lambda: RESOURCE not in runtime._served)
    looks: list[object] = [runtime._holdings]
    while len(looks) < 7:  # together longer than anybody may be missing
        await parts.until(lambda: runtime._holdings is not looks[-1])
        looks.append(runtime._holdings)
    assert parts.made() == [name]
    parts.flag("driver-away").unlink()
    await parts.until(lambda: RESOURCE in runtime._served)
    parts.node.kubelet.finish_pod(lives.pod.uid)
    await parts.until(lambda: parts.made() == [])


def _tidied(parts: Parts) -> bool:
    (agent, _task), *_ = parts.node.agents
    return agent.runtimes["parts"]._tidying._done is not None


@pytest.mark.parametrize(
    ("flag", "said"),
    [("one-card-only", "parts of one card only"), ("card-1-not", "no part of card-1")],
)
async def test_what_cannot_all_be_made_is_refused_before_any_of_it_is(
    parts: Parts, flag: str, said: str
) -> None:
    parts.flag(flag).touch()
    await parts.start()
    failed = await parts.admit("p", 3)
    assert isinstance(failed, Failed)
    assert said in failed.message
    assert parts.made() == []
