"""Our agent as a plugin of kubelet: registration and life cycle (kubelet-deviceplugin.md 3.5)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deviceplugin.testing.kubelet import Admitted, Container, EmbeddedKubelet, Failed, Pod

Any_ = Any
SMALL = {"profile": "small", "deviceSplitCount": 10}


def pod(node: Any, name: str, count: int = 1, **env: str) -> Pod:
    return Pod(name, (Container("main", {node.resource: count}, env),))


async def test_capacity_appears_and_a_pod_gets_its_share(node: Any) -> None:
    """3.5-28 and the whole path: split, register, Allocate, start."""
    node.start_agent(SMALL)
    await node.kubelet.wait_registered(node.resource)
    assert node.kubelet.capacity()[node.resource] == 20
    result = await node.kubelet.admit(pod(node, "one"))
    assert isinstance(result, Admitted), result
    config = await node.kubelet.start_container(result.pod.uid, "main")
    env = config.effective_env()
    assert env["MOCK_MEMORY_LIMIT_0"] == "1638m"
    assert node.kubelet.findings == []


async def test_two_shares_come_from_two_cards(node: Any) -> None:
    node.start_agent(SMALL)
    await node.kubelet.wait_registered(node.resource)
    result = await node.kubelet.admit(pod(node, "two", 2))
    held = node.kubelet.held(result.pod.uid, "main")[node.resource]
    assert len({identity.rpartition("-")[0] for identity in held}) == 2


async def test_kubelet_restart_brings_the_agent_back_with_the_same_ids(
    node: Any, eventually: Callable[..., Any]
) -> None:
    """3.5-4."""
    node.start_agent(SMALL)
    await node.kubelet.wait_registered(node.resource)
    before = set(node.kubelet.devices(node.resource))
    await node.kubelet.restart()
    await node.kubelet.wait_registered(node.resource)
    assert set(node.kubelet.devices(node.resource)) == before


async def test_kubelet_restarting_twice_ends_registered_once(node: Any) -> None:
    """3.5-5."""
    node.start_agent(SMALL)
    await node.kubelet.wait_registered(node.resource)
    await node.kubelet.restart()
    await node.kubelet.restart()
    await node.kubelet.wait_registered(node.resource)
    assert node.kubelet.allocatable()[node.resource] == 20


async def test_kubelet_absent_at_start_is_waited_for(
    node: Any, eventually: Callable[..., Any]
) -> None:
    """3.5-6."""
    await node.kubelet.stop()
    node.kubelet.kubelet_socket.unlink(missing_ok=True)
    agent = node.start_agent(SMALL)
    await node.kubelet.start()
    await node.kubelet.wait_registered(node.resource)
    await eventually(lambda: agent.readiness.blockers() == {})


async def test_refused_registrations_are_retried(node: Any) -> None:
    """3.5-7."""
    node.kubelet.refuse_registrations = 3
    node.start_agent(SMALL)
    await node.kubelet.wait_registered(node.resource)
    refused = [c for c in node.kubelet.calls if c.method == "Register" and c.error]
    assert len(refused) == 0 or len(refused) == 3


async def test_own_socket_deleted_by_hand_is_made_anew(
    node: Any, eventually: Callable[..., Any]
) -> None:
    """3.5-8."""
    node.start_agent(SMALL)
    await node.kubelet.wait_registered(node.resource)
    (old,) = node.kubelet.plugin_dir.glob("deviceplugin-*.sock")
    old.unlink()
    await eventually(
        lambda: [
            p
            for p in node.kubelet.plugin_dir.glob("*.sock")
            if p.name.startswith("deviceplugin-") and p != old
        ]
    )
    await eventually(
        lambda: (
            node.kubelet.is_watched(node.resource)
            and node.kubelet.allocatable()[node.resource] == 20
        )
    )


async def test_the_whole_directory_replaced_is_noticed(
    node: Any, eventually: Callable[..., Any]
) -> None:
    """3.5-9."""
    node.start_agent(SMALL)
    await node.kubelet.wait_registered(node.resource)
    await node.kubelet.stop()
    shutil.rmtree(node.kubelet.plugin_dir)
    await node.kubelet.start()
    await eventually(lambda: node.kubelet.allocatable().get(node.resource) == 20, 20)


async def test_agent_restart_keeps_allocations(node: Any, eventually: Callable[..., Any]) -> None:
    """3.5-10 and 3.5-43."""
    first = node.start_agent(SMALL)
    await node.kubelet.wait_registered(node.resource)
    result = await node.kubelet.admit(pod(node, "one"))
    before = await node.kubelet.start_container(result.pod.uid, "main")
    await node.stop_agent(first)
    await eventually(lambda: node.kubelet.allocatable()[node.resource] == 0)
    node.start_agent(SMALL)
    await node.kubelet.wait_registered(node.resource)
    assert await node.kubelet.start_container(result.pod.uid, "main") == before
    assert len(node.kubelet.held(result.pod.uid, "main")[node.resource]) == 1


async def test_the_end_of_an_old_stream_that_takes_us_down_is_repaired(
    root: Path, node: Any, eventually: Callable[..., Any]
) -> None:
    """3.5-11: kubelet up to 1.36 disconnects the new instance when the old stream ends."""
    await node.kubelet.stop()
    racing = node.kubelet = EmbeddedKubelet(root, client_race=True)
    await racing.start()
    first = node.start_agent(SMALL)
    await racing.wait_registered(node.resource)
    second = node.start_agent({**SMALL}, run_dir=str(root / "run2"))
    await eventually(lambda: len([c for c in racing.calls if c.method == "Register"]) >= 2)
    await node.stop_agent(first)
    await eventually(
        lambda: racing.is_watched(node.resource) and racing.allocatable()[node.resource] == 20
    )
    await eventually(lambda: second.readiness.blockers() == {})


async def test_yes_without_a_list_is_not_believed(
    node: Any, eventually: Callable[..., Any], monkeypatch: Any
) -> None:
    """3.5-12."""
    from deviceplugin.kubelet import server

    monkeypatch.setattr(
        server.ResourceServer.__init__, "__defaults__", (server.Timing(first_stream=0.3),)
    )
    node.kubelet.ignore_registrations = True
    agent = node.start_agent(SMALL)
    await eventually(lambda: "never asked" in str(agent.readiness.blockers()))
    node.kubelet.ignore_registrations = False
    await node.kubelet.wait_registered(node.resource)


async def test_a_name_that_kubelet_refuses_is_told_and_not_hammered(
    node: Any, eventually: Callable[..., Any]
) -> None:
    """3.5-15."""
    agent = node.start_agent({"profile": "small", "resource": "kubernetes.io/gpu"})
    await eventually(lambda: "is invalid" in str(agent.readiness.blockers()))
    assert "kubernetes.io/gpu" in str(agent.readiness.blockers())
    assert len([c for c in node.kubelet.calls if c.method == "Register"]) <= 1


async def test_stopping_closes_the_stream_and_removes_the_socket(node: Any) -> None:
    """3.5-16."""
    agent = node.start_agent(SMALL)
    await node.kubelet.wait_registered(node.resource)
    await node.stop_agent(agent)
    assert list(node.kubelet.plugin_dir.glob("deviceplugin-*.sock")) == []
    assert node.kubelet.capacity()[node.resource] == 20
    assert node.kubelet.allocatable()[node.resource] == 0
    node.kubelet.advance(301)
    assert node.kubelet.capacity()[node.resource] == 0


async def test_a_new_configuration_registers_anew(
    node: Any, eventually: Callable[..., Any]
) -> None:
    """3.5-17, and a smaller split keeps what is held."""
    from deviceplugin.config import load

    agent = node.start_agent(SMALL)
    await node.kubelet.wait_registered(node.resource)
    result = await node.kubelet.admit(pod(node, "all", 15))
    path = node.config_file({"profile": "small", "deviceSplitCount": 2})
    agent.apply(load(node.arguments(config_file=path), {"NODE_NAME": "node-a"}).config)
    held = set(node.kubelet.held(result.pod.uid, "main")[node.resource])
    await eventually(
        lambda: (
            node.kubelet.is_watched(node.resource)
            and held <= set(node.kubelet.devices(node.resource))
        )
    )
    node.kubelet.finish_pod(result.pod.uid)
    await eventually(lambda: node.kubelet.capacity()[node.resource] == 4)


async def test_two_agents_do_not_serve_one_vendor(
    node: Any, eventually: Callable[..., Any]
) -> None:
    first = node.start_agent(SMALL)
    await node.kubelet.wait_registered(node.resource)
    second = node.start_agent(SMALL)
    await eventually(lambda: "another agent" in str(second.readiness.blockers()))
    await node.stop_agent(first)
    await eventually(lambda: node.kubelet.allocatable()[node.resource] == 20)


async def test_unknown_and_foreign_ids_are_refused_by_name(node: Any) -> None:
    """3.5-56."""
    from deviceplugin.refusal import RefusalError

    agent = node.start_agent(SMALL)
    await node.kubelet.wait_registered(node.resource)
    (served,) = agent.runtimes["mock"]._served.values()
    try:
        await served.allocator.allocate(["GPU-nobody-3"])
    except RefusalError as refusal:
        assert "unknown device" in str(refusal)
        assert "GPU-nobody-3" in str(refusal)
    else:
        raise AssertionError("an unknown id was served")


async def test_too_many_are_refused_in_kubelets_words(node: Any) -> None:
    """3.5-29."""
    node.start_agent(SMALL)
    await node.kubelet.wait_registered(node.resource)
    result = await node.kubelet.admit(pod(node, "many", 21))
    assert isinstance(result, Failed)
    assert "Requested: 21, Available: 20" in result.message
