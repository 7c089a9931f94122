"""Configurations and agents change while containers run; what they hold stays what it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from deviceplugin import agent as agent_module
from deviceplugin.config import load
from deviceplugin.testing.kubelet import Admitted, Container, Pod


def section(split: int, **more: Any) -> dict[str, Any]:
    return {"profile": "small", "deviceSplitCount": split, **more}


def apply(node: Any, agent: Any, split: int, **given: Any) -> None:
    path = node.config_file(section(split))
    agent.apply(load(node.arguments(config_file=path, **given), {"NODE_NAME": "node-a"}).config)


async def admitted(node: Any, name: str, count: int) -> tuple[Any, set[str]]:
    result = await node.kubelet.admit(Pod(name, (Container("main", {node.resource: count}),)))
    assert isinstance(result, Admitted), result
    return result.pod, set(node.kubelet.held(result.pod.uid, "main")[node.resource])


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "RESTART_FIRST_SECONDS", 0.1)


async def test_a_card_that_is_full_of_former_shares_takes_no_new_ones_until_they_are_freed(
    node: Any, eventually: Callable[..., Any]
) -> None:
    agent = node.start_agent(section(10))
    await node.kubelet.wait_registered(node.resource)
    pod, held = await admitted(node, "all", 20)
    apply(node, agent, 2)
    await eventually(
        lambda: agent.runtimes and agent.config.sections["mock"]["deviceSplitCount"] == 2
    )
    await eventually(lambda: len(node.kubelet.devices(node.resource)) == 20)
    await eventually(lambda: node.kubelet.is_watched(node.resource))
    assert set(node.kubelet.devices(node.resource)) == held
    node.kubelet.finish_pod(pod.uid)
    await eventually(lambda: node.kubelet.capacity()[node.resource] == 4)
    await eventually(lambda: node.kubelet.allocatable()[node.resource] == 4)


async def test_two_reloads_in_a_row_forget_nothing(
    node: Any, eventually: Callable[..., Any]
) -> None:
    agent = node.start_agent(section(10))
    await node.kubelet.wait_registered(node.resource)
    _, held = await admitted(node, "some", 15)
    apply(node, agent, 5)
    await eventually(lambda: not node.kubelet.is_watched(node.resource))
    apply(node, agent, 2)
    await eventually(lambda: node.kubelet.is_watched(node.resource))
    await eventually(lambda: held <= set(node.kubelet.devices(node.resource)))


async def test_a_vendor_that_leaves_and_comes_back_keeps_what_is_held_and_leaves_no_word_behind(
    node: Any, eventually: Callable[..., Any]
) -> None:
    agent = node.start_agent(section(10))
    await node.kubelet.wait_registered(node.resource)
    _, held = await admitted(node, "some", 15)
    apply(node, agent, 2, vendors=("nobody",))
    await eventually(lambda: set(agent.readiness.blockers()) == {"nobody"})
    labels = {"resource": node.resource}
    read = agent.metrics.registry.get_sample_value
    assert read("deviceplugin_registered", labels) is None
    apply(node, agent, 2)
    await eventually(lambda: held <= set(node.kubelet.devices(node.resource)))
    await eventually(lambda: agent.readiness.blockers() == {})


async def test_another_agent_with_another_split_knows_the_shares_of_the_one_before(
    node: Any, eventually: Callable[..., Any]
) -> None:
    cdi = {"device_list_strategy": ("cdi-cri",), "allocation": "standalone-deferred"}
    first = node.start_agent(section(10), **cdi)
    await node.kubelet.wait_registered(node.resource)
    pod, held = await admitted(node, "one", 19)
    before = await node.kubelet.start_container(pod.uid, "main")
    limits = before.apply_cdi([node.cdi_dir])
    await node.stop_agent(first)
    node.start_agent(section(2), **cdi)
    await node.kubelet.wait_registered(node.resource)
    await eventually(lambda: held <= set(node.kubelet.devices(node.resource)))
    for path in node.cdi_dir.glob("*.json"):
        path.unlink()
    again = await node.kubelet.restart_container(pod.uid, "main")
    assert again.apply_cdi([node.cdi_dir]) == limits
    # A tenth of one card is free; a half is not to be had.
    await eventually(lambda: node.kubelet.allocatable()[node.resource] == 19)


@pytest.mark.parametrize("restart", [False, True], ids=["reload", "restart"])
async def test_a_renamed_resource_counts_what_is_held_by_its_old_name(
    node: Any, eventually: Callable[..., Any], restart: bool
) -> None:
    """The same cards, and the same containers on them."""
    agent = node.start_agent(section(10))
    await node.kubelet.wait_registered(node.resource)
    pod, held = await admitted(node, "some", 15)
    await eventually(lambda: agent.runtimes["mock"].tables())
    new = "mock.deviceplugin.dev/gpu.shared"
    if restart:
        await node.stop_agent(agent)
        node.start_agent(section(5, resource=new))
    else:
        path = node.config_file(section(5, resource=new))
        agent.apply(load(node.arguments(config_file=path), {"NODE_NAME": "node-a"}).config)
    await node.kubelet.wait_registered(new)
    full, half = (sum(i.startswith(uuid) for i in held) for uuid in uuids(node, new))
    # A fifth needs two free tenths of a card.
    expected = (10 - full) // 2 + (10 - half) // 2
    await eventually(lambda: node.kubelet.allocatable()[new] == expected)
    assert node.kubelet.capacity()[new] == 10
    node.kubelet.finish_pod(pod.uid)
    await eventually(lambda: node.kubelet.allocatable()[new] == 10)


def uuids(node: Any, resource: str) -> list[str]:
    return sorted({i.rpartition("-")[0] for i in node.kubelet.devices(resource)})


async def test_an_allocation_under_way_is_answered_before_a_reload_closes_its_socket(
    node: Any, eventually: Callable[..., Any]
) -> None:
    agent = node.start_agent(section(10))
    await node.kubelet.wait_registered(node.resource)
    (served,) = agent.runtimes["mock"]._served.values()
    reached, go_on = asyncio.Event(), asyncio.Event()
    decide = served.allocator.allocate

    async def slow(ids: Any) -> Any:
        reached.set()
        await go_on.wait()
        return await decide(ids)

    served.allocator.allocate = slow
    waiting = asyncio.create_task(
        node.kubelet.admit(Pod("slow", (Container("main", {node.resource: 1}),)))
    )
    await reached.wait()
    serving = served.task
    apply(node, agent, 2)
    await eventually(lambda: serving.cancelling())
    assert node.kubelet.is_watched(node.resource)
    go_on.set()
    assert isinstance(await waiting, Admitted)
    await eventually(serving.done)
    await eventually(lambda: node.kubelet.is_watched(node.resource))


async def test_two_vendors_reload_and_the_one_that_did_not_change_keeps_its_ids(
    node: Any, eventually: Callable[..., Any]
) -> None:
    agent = node.start_agent(section(10, resource="mock.deviceplugin.dev/gpu"))
    await node.kubelet.wait_registered(node.resource)
    before = set(node.kubelet.devices(node.resource))
    apply(node, agent, 10)
    await eventually(lambda: not node.kubelet.is_watched(node.resource))
    await eventually(lambda: node.kubelet.is_watched(node.resource))
    await eventually(lambda: node.kubelet.allocatable()[node.resource] == 20)
    assert set(node.kubelet.devices(node.resource)) == before
