"""A driver library that crashes, hangs or talks nonsense costs its vendor a probe and nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from deviceplugin.testing.kubelet import Admitted, Container, Pod


def section(*faults: dict[str, Any]) -> dict[str, Any]:
    return {"profile": "small", "deviceSplitCount": 10, "faults": list(faults)}


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ({"at": 1, "fault": "crash"}, "crash"),
        ({"at": 1, "fault": "hang"}, "deadline"),
        ({"at": 1, "fault": "garbage"}, "garbage"),
    ],
)
async def test_allocations_go_on_while_the_probe_is_in_trouble(
    node: Any, eventually: Callable[..., Any], fault: dict[str, Any], cause: str
) -> None:
    agent = node.start_agent(section(fault), probe_deadline="1s", probe_interval="300ms")
    await node.kubelet.wait_registered(node.resource)
    await eventually(
        lambda: agent.metrics.registry.get_sample_value(
            "deviceplugin_probe_failures_total", {"vendor": "mock", "cause": cause}
        )
    )
    result = await node.kubelet.admit(Pod("p", (Container("main", {node.resource: 1}),)))
    assert isinstance(result, Admitted), result


async def test_a_killed_probe_comes_back_by_itself(
    node: Any, eventually: Callable[..., Any]
) -> None:
    agent = node.start_agent(section(), probe_backoff_first="100ms")
    await node.kubelet.wait_registered(node.resource)
    probe = agent.runtimes["mock"]._probe
    first = probe.pid
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: probe.pid not in (None, first))
    await eventually(lambda: agent.readiness.blockers() == {})
    assert node.kubelet.allocatable()[node.resource] == 20


async def test_one_failing_card_takes_all_its_shares_in_one_message_and_returns_them(
    node: Any, eventually: Callable[..., Any]
) -> None:
    """3.5-20, 24 and 25."""
    node.start_agent(
        section({"at": 1, "until": 2.5, "device": 0, "fault": "unhealthy", "reason": "Xid 79"})
    )
    await node.kubelet.wait_registered(node.resource)
    seen: set[int] = set()

    def fallen() -> bool:
        seen.add(node.kubelet.allocatable()[node.resource])
        return node.kubelet.allocatable()[node.resource] == 10

    await eventually(fallen)
    assert seen <= {20, 10}
    assert node.kubelet.capacity()[node.resource] == 20
    await eventually(lambda: node.kubelet.allocatable()[node.resource] == 20)


async def test_an_empty_answer_makes_cards_unhealthy_and_not_gone(
    node: Any, eventually: Callable[..., Any]
) -> None:
    node.start_agent(section({"at": 1, "until": 2.5, "fault": "empty-list"}))
    await node.kubelet.wait_registered(node.resource)
    await eventually(lambda: node.kubelet.allocatable()[node.resource] == 0)
    assert node.kubelet.capacity()[node.resource] == 20
    await eventually(lambda: node.kubelet.allocatable()[node.resource] == 20)


async def test_too_long_a_list_is_a_clear_error(node: Any, eventually: Callable[..., Any]) -> None:
    """3.5-27."""
    devices = {"count": 128, "template": {"model": "T4", "memoryMiB": 1024}}
    inline = {"kind": "MockNode", "version": "v1", "origin": "composed", "devices": devices}
    agent = node.start_agent({"node": inline, "deviceSplitCount": 1024})
    blockers = await eventually(
        lambda: node.resource in agent.readiness.blockers() and agent.readiness.blockers()
    )
    assert "deviceSplitCount" in blockers[node.resource]
    assert node.kubelet.calls == []


async def test_an_unwritable_cdi_directory_is_told_and_refuses_nothing_silently(
    node: Any, eventually: Callable[..., Any]
) -> None:
    node.cdi_dir.write_text("a file where the directory should be")
    agent = node.start_agent(section(), device_list_strategy=("cdi-cri",))
    await eventually(lambda: str(node.cdi_dir) in str(agent.readiness.blockers()))
    node.cdi_dir.unlink()
    await node.kubelet.wait_registered(node.resource, 15)
