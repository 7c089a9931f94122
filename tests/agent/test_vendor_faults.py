"""Whatever a vendor's code does in the agent, only that vendor suffers, and everybody hears why."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deviceplugin import agent as agent_module
from deviceplugin import runtime
from deviceplugin.agent import Agent
from deviceplugin.registry import Registry
from deviceplugin.testing.kubelet import Admitted, Container, Failed, Pod, StartError
from deviceplugin.vendor import Vendor

NODE = """
from pathlib import Path

from deviceplugin.vendor import (
    ContainerEdits, Exposure, PhysicalDevice, ResourcePlan, Snapshot, with_health
)

HERE, NAME = Path(__file__).parent, __name__


def trouble(call):
    flag = HERE / f"{NAME}-{call}"
    if not flag.exists():
        return None
    if flag.read_text():
        return eval(flag.read_text())
    raise KeyError(f"{call} is broken")


class Node:
    def __init__(self, settings):
        trouble("load")

    def discover(self):
        devices = [PhysicalDevice(f"{NAME}-{i}", str(i), "M") for i in range(2)]
        if trouble("sick"):
            devices[0] = with_health(devices[0], False, "too hot")
        return Snapshot(tuple(devices))

    def edits(self, grants, owner):
        return trouble("edits") or ContainerEdits(env={"GRANTED": grants[0].device.uuid})

    def plan(self, snapshot):
        uuids = tuple(device.uuid for device in snapshot.devices)
        return trouble("plan") or [ResourcePlan(f"{NAME}.example.com/gpu", uuids)]

    def prefer(self, available, must_include, size):
        return trouble("prefer") or [device.uuid for device in available][:size]

    def exposure(self):
        return trouble("exposure") or Exposure("ACME", "/var/run/acme", "acme.com/gpu", "acme")

    def impediment(self, plan):
        return trouble("impediment") or ""

    def pre_start(self, grants, owner):
        trouble("pre_start")
"""
RESOURCES = {name: f"{name}.example.com/gpu" for name in ("acme", "other")}


class Two:
    """A node with the vendors *acme* and *other*; calls of acme can be broken."""

    def __init__(self, node: Any, directory: Path) -> None:
        self.node, self._directory = node, directory
        self.found = Registry(
            {
                name: Vendor(name, f"{name}:Node", resource, ("etc*",))
                for name, resource in RESOURCES.items()
            }
        )

    def start(self, **given: object) -> Agent:
        agent: Agent = self.node.start_agent(
            found=self.found, vendors=("acme", "other"), probe_interval="200ms", **given
        )
        return agent

    def broken(self, call: str, gives: str = "") -> None:
        (self._directory / f"acme-{call}").write_text(gives)

    def repaired(self, call: str) -> None:
        (self._directory / f"acme-{call}").unlink()

    async def serving(self, *names: str) -> None:
        for name in names:
            await self.node.kubelet.wait_registered(RESOURCES[name])

    async def admit(self, pod: str, vendor: str, count: int = 1) -> Any:
        return await self.node.kubelet.admit(
            Pod(pod, (Container("main", {RESOURCES[vendor]: count}),))
        )


def errors(agent: Agent, call: str) -> float:
    labels = {"vendor": "acme", "call": call}
    return agent.metrics.registry.get_sample_value("deviceplugin_vendor_errors_total", labels) or 0


@pytest.fixture
def two(node: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Two:
    for name in RESOURCES:
        (tmp_path / f"{name}.py").write_text(NODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(runtime, "IMPEDIMENT_POLL_SECONDS", 0.1)
    monkeypatch.setattr(agent_module, "RESTART_FIRST_SECONDS", 0.1)
    for name in RESOURCES:
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    return Two(node, tmp_path)


@pytest.mark.parametrize(
    ("call", "gives", "text"),
    [
        ("edits", "", "edits of the vendor acme failed: KeyError: 'edits is broken'"),
        ("edits", "'an env'", "edits of the vendor acme failed: TypeError: it gave a str"),
        ("exposure", "", "exposure of the vendor acme failed: KeyError"),
        ("exposure", "'text'", "Allocate failed in the agent: AttributeError"),
    ],
)
async def test_an_allocation_that_the_vendor_breaks_is_refused_with_the_reason(
    two: Two, call: str, gives: str, text: str
) -> None:
    agent = two.start()
    await two.serving("acme", "other")
    two.broken(call, gives)
    refused = await two.admit("one", "acme")
    assert isinstance(refused, Failed)
    assert text in refused.message
    assert errors(agent, call) == (0 if gives == "'text'" else 1)
    assert isinstance(await two.admit("two", "other"), Admitted)
    two.repaired(call)
    assert isinstance(await two.admit("three", "acme"), Admitted)


async def test_a_preparation_that_raises_is_tried_again_by_kubelet(two: Two) -> None:
    agent = two.start()
    await two.serving("acme")
    admitted = await two.admit("one", "acme")
    two.broken("pre_start")
    with pytest.raises(StartError, match="pre_start of the vendor acme failed"):
        await two.node.kubelet.start_container(admitted.pod.uid, "main")
    assert errors(agent, "pre_start") == 1
    two.repaired("pre_start")
    await two.node.kubelet.start_container(admitted.pod.uid, "main")


@pytest.mark.parametrize(
    "gives", ["", "7", "['nobody', 'knows']", "['acme-0']", "['acme-0', 'acme-0']", "[None, 1]"]
)
async def test_advice_of_no_use_costs_no_pod(two: Two, gives: str) -> None:
    agent = two.start()
    await two.serving("acme")
    two.broken("prefer", gives)
    assert isinstance(await two.admit("both", "acme", 2), Admitted)
    assert errors(agent, "prefer") >= 1


@pytest.mark.parametrize(
    ("gives", "words"),
    [
        ("", "plan failed: KeyError"),
        ("(_ for _ in ()).throw(ValueError('cards contradict'))", "cards contradict"),
        ("[None]", "plan() gave a NoneType"),
        (
            "[ResourcePlan('acme.example.com/gpu', ()), ResourcePlan('acme.example.com/gpu', ())]",
            "twice",
        ),
        ("7", "plan failed: TypeError"),
    ],
)
async def test_a_plan_that_breaks_leaves_what_is_served_with_the_health_of_now(
    two: Two, eventually: Callable[..., Any], gives: str, words: str
) -> None:
    agent = two.start(health_hold="0s")
    await two.serving("acme", "other")
    two.broken("plan", gives)
    two.broken("sick", "True")
    await eventually(lambda: two.node.kubelet.allocatable()[RESOURCES["acme"]] == 1)
    assert words in agent.readiness.blockers()["acme devices"]
    assert errors(agent, "plan") >= 1
    assert two.node.kubelet.allocatable()[RESOURCES["other"]] == 2
    two.repaired("plan")
    two.repaired("sick")
    await eventually(lambda: two.node.kubelet.allocatable()[RESOURCES["acme"]] == 2)
    assert agent.readiness.blockers() == {}


async def test_a_plan_that_breaks_at_first_is_tried_again_although_no_device_changes(
    two: Two, eventually: Callable[..., Any]
) -> None:
    two.broken("plan")
    agent = two.start()
    await two.serving("other")
    await eventually(lambda: errors(agent, "plan") >= 5)
    assert "acme devices" in agent.readiness.blockers()
    two.repaired("plan")
    await two.serving("acme")
    await eventually(lambda: agent.readiness.blockers() == {})


async def test_a_safeguard_that_cannot_be_checked_keeps_devices_back(
    two: Two, eventually: Callable[..., Any]
) -> None:
    agent = two.start()
    await two.serving("acme", "other")
    two.broken("impediment")
    await eventually(lambda: two.node.kubelet.allocatable()[RESOURCES["acme"]] == 0)
    assert "cannot be checked" in str(agent.readiness.blockers())
    assert two.node.kubelet.allocatable()[RESOURCES["other"]] == 2
    two.repaired("impediment")
    await eventually(lambda: two.node.kubelet.allocatable()[RESOURCES["acme"]] == 2)


async def test_a_vendor_that_cannot_be_loaded_is_told_and_served_once_it_can(
    two: Two, eventually: Callable[..., Any]
) -> None:
    two.broken("load")
    agent = two.start()
    await two.serving("other")
    await eventually(lambda: "cannot be loaded" in agent.readiness.blockers().get("acme", ""))
    two.repaired("load")
    await two.serving("acme")


async def test_traces_that_cannot_be_looked_for_leave_one_vendor_out(
    two: Two, eventually: Callable[..., Any]
) -> None:
    wrong = Vendor("acme", "acme:Node", "acme.example.com/gpu", ("",))
    two.found = Registry({**two.found.vendors, "acme": wrong})
    agent = two.node.start_agent(found=two.found, vendors=())
    await two.serving("other")
    await eventually(lambda: "cannot be looked for" in agent.readiness.blockers()["acme"])


async def test_a_runtime_that_fails_as_a_whole_serves_again(
    two: Two, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = two.start()
    await two.serving("acme", "other")
    before = agent.runtimes["acme"]

    def bug(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(before, "_tell_changes", bug)
    two.broken("sick", "True")
    await eventually(lambda: agent.runtimes["acme"] is not before)
    await eventually(lambda: two.node.kubelet.allocatable()[RESOURCES["acme"]] == 1)
    assert two.node.kubelet.is_watched(RESOURCES["other"])
