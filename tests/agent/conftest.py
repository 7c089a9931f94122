"""A whole node in one process: embedded kubelet and agent, with the mock vendor behind."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deviceplugin import registry
from deviceplugin.agent import Agent
from deviceplugin.config import load
from deviceplugin.testing.kubelet import EmbeddedKubelet

RESOURCE = "mock.deviceplugin.dev/gpu"


class Node:
    """A node's directory with a kubelet and the agents that tests start."""

    resource = RESOURCE

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kubelet = EmbeddedKubelet(root)
        self.cdi_dir = root / "cdi"
        self.agents: list[tuple[Agent, asyncio.Task[None]]] = []

    def arguments(self, **given: object) -> dict[str, object]:
        defaults: dict[str, object] = {
            "vendors": ("mock",),
            "kubelet_socket": str(self.kubelet.kubelet_socket),
            "pod_resources_socket": str(self.kubelet.pod_resources_socket),
            "cdi_dir": str(self.cdi_dir),
            "run_dir": str(self.root / "run"),
            "probe_interval": "1s",
            "health_hold": "0s",
        }
        return {**defaults, **given}

    def config_file(self, section: dict[str, Any], **top: Any) -> str:
        import json

        path = self.root / "config" / "config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"mock": section, **top}))
        return str(path)

    def start_agent(
        self,
        section: dict[str, Any] | None = None,
        reconcile: float = 0.2,
        found: registry.Registry | None = None,
        **given: object,
    ) -> Agent:
        arguments = self.arguments(**given)
        if section is not None:
            arguments["config_file"] = self.config_file(section)
        loaded = load(arguments, {"NODE_NAME": "node-a"})
        agent = Agent(loaded.config, found or registry.load(), reconcile=reconcile)
        self.agents.append((agent, asyncio.create_task(agent.run())))
        return agent

    async def stop_agent(self, agent: Agent) -> None:
        for position, (running, task) in enumerate(self.agents):
            if running is agent:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                del self.agents[position]
                await self.kubelet.wait_departed()
                return

    async def close(self) -> None:
        for agent, _ in list(self.agents):
            await self.stop_agent(agent)
        await self.kubelet.stop()


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory with a path short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="dp-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def node(root: Path) -> AsyncIterator[Node]:
    """A node whose kubelet runs; agents are started by the test."""
    node = Node(root)
    await node.kubelet.start()
    yield node
    await node.close()


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Wait until a condition holds; a test fails with a time-out and not with a race."""

    async def wait(condition: Callable[[], Any], timeout: float = 10.0) -> Any:
        async with asyncio.timeout(timeout):
            while not (value := condition()):
                await asyncio.sleep(0.02)
        return value

    return wait
