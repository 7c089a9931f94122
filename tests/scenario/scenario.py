"""One story, told to a kubelet: the embedded one or a real one, with the same agent.

The story knows kubelet only through the `Cluster` protocol and writes a transcript of what it saw.
Names that differ from run to run are not in it, so transcripts of two kubelets can be compared line
by line. `docs/testing.md` says how to repeat it on a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

RESOURCE = "mock.deviceplugin.dev/gpu"
VARIABLES = ("MOCK_MEMORY_LIMIT_0", "MOCK_CORES_LIMIT_0", "MOCK_VISIBLE_DEVICES")


class Cluster(Protocol):
    """What the story needs of a node."""

    root: Path
    flags: dict[str, str]
    fault_seconds: float
    """How long a card fails: longer than the node's status takes to be seen."""

    async def amounts(self) -> tuple[int, int]:
        """Capacity and allocatable of the resource, 0 while unknown."""

    async def run_pod(self, name: str, count: int, env: dict[str, str]) -> dict[str, str]:
        """Create a pod that goes on running; the environment and nodes its container sees."""

    async def is_running(self, name: str) -> bool:
        """Whether that pod still runs, with the container that was started first."""

    async def delete_pod(self, name: str) -> None:
        """Remove the pod and wait until it is gone."""

    async def restart_kubelet(self) -> None:
        """Stop and start kubelet; containers go on."""

    def traces(self) -> list[str]:
        """Files of the agent that are left on the node."""


class Story:
    """Runs the agent as a process and tells the story; `lines` is the transcript."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.lines: list[str] = []
        self._agent: asyncio.subprocess.Process | None = None
        self._config = cluster.root / "scenario-config" / "config.json"

    async def tell(self) -> list[str]:
        """The whole story. Raises `TimeoutError` naming the step that did not happen."""
        try:
            await self._story()
        finally:
            if self._agent is not None and self._agent.returncode is None:
                self._agent.kill()
                await self._agent.wait()
        return self.lines

    async def _story(self) -> None:
        cluster = self.cluster
        await self._start({}, "envvar", "standalone")
        await self._amounts("capacity appears", 20, 20)

        await self._pod("by environment", "by-env", 1, {})
        await self._pod("own variable beats environment", "by-env-own", 1, {VARIABLES[0]: "9m"})

        await self._restart_agent("cdi-cri", "standalone")
        await self._amounts("agent restarted with CDI", 20, 20)
        self._note("pod survived", by_env=await cluster.is_running("by-env"))
        await self._pod("by CDI, own variable loses", "by-cdi", 1, {VARIABLES[0]: "9m"})

        await self._restart_agent("cdi-cri", "standalone-deferred")
        await self._amounts("agent restarted with deferred allocation", 20, 20)
        await self._pod("deferred, own variable loses", "deferred", 2, {VARIABLES[0]: "9m"})

        fault = {"at": 0, "device": 0, "fault": "unhealthy", "reason": "test"}
        fault["until"] = cluster.fault_seconds
        await self._restart_agent("cdi-cri", "standalone-deferred", faults=[fault])
        await self._amounts("a card is unhealthy", 20, 10)
        await self._amounts("and back", 20, 20)

        await cluster.restart_kubelet()
        await self._amounts("kubelet restarted", 20, 20)
        for name in ("by-env", "by-cdi", "deferred"):
            self._note(
                "pod survived kubelet and agent", pod=name, runs=await cluster.is_running(name)
            )

        for name in ("by-env", "by-env-own", "by-cdi", "deferred"):
            await cluster.delete_pod(name)
        await self._until("CDI files of ended pods are gone", self._no_allocations, 60)
        self._note("CDI files of ended pods are gone")
        await self._stop()
        await self._amounts("agent stopped", 20, 0)
        self._note("sockets left", found=[t for t in cluster.traces() if t.endswith(".sock")])

    async def _start(self, section: dict[str, Any], strategy: str, allocation: str) -> None:
        self._config.parent.mkdir(parents=True, exist_ok=True)
        self._config.write_text(json.dumps({"mock": {"profile": "small", **section}}))
        flags = {
            **self.cluster.flags,
            "config-file": str(self._config),
            "node-name": "node-a",
            "vendors": "mock",
            "http-listen": "",
            "probe-interval": "500ms",
            "health-hold": "0s",
            "device-list-strategy": strategy,
            "allocation": allocation,
        }
        path = self.cluster.root / "agent.log"
        before = path.stat().st_size if path.exists() else 0
        log = path.open("ab")
        self._agent = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "deviceplugin",
            "serve",
            *(f"--{name}={value}" for name, value in flags.items()),
            stderr=log,
            env={**os.environ, "NODE_NAME": "node-a", "DEVICEPLUGIN_RECONCILE_SECONDS": "2"},
        )
        log.close()

        async def registered() -> bool:
            # The Node object is up to ten seconds behind, so it cannot tell.
            return b'"registered"' in path.read_bytes()[before:]

        await self._until("the agent registers", registered, 30)

    async def _stop(self) -> None:
        assert self._agent is not None
        self._agent.send_signal(signal.SIGTERM)
        self._note("agent ends on SIGTERM", code=await self._agent.wait())

    async def _restart_agent(self, strategy: str, allocation: str, **section: Any) -> None:
        await self._stop()
        await self._start(section, strategy, allocation)

    async def _pod(self, what: str, name: str, count: int, env: dict[str, str]) -> None:
        seen = await self.cluster.run_pod(name, count, env)
        shown = {key: seen[key] for key in VARIABLES if key in seen}
        visible = shown.pop(VARIABLES[2], "")
        cards = len(set(filter(None, visible.split(","))))
        self._note(f"pod {what}", **shown, cards=cards, nodes=len(seen["nodes"].split()))

    async def _amounts(self, what: str, capacity: int, allocatable: int) -> None:
        async def there() -> bool:
            return await self.cluster.amounts() == (capacity, allocatable)

        await self._until(f"{what}: {capacity}/{allocatable}", there, 60)
        self._note(what, capacity=capacity, allocatable=allocatable)

    async def _no_allocations(self) -> bool:
        return not [t for t in self.cluster.traces() if "k8s.deviceplugin.dev-mock_" in t]

    async def _until(
        self, what: str, condition: Callable[[], Awaitable[bool]], seconds: float
    ) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not await condition():
                    await asyncio.sleep(0.1)
                return
        raise TimeoutError(f"did not happen within {seconds:g} s: {what}; so far: {self.lines}")

    def _note(self, what: str, **seen: object) -> None:
        self.lines.append(" ".join([what, *(f"{key}={value}" for key, value in seen.items())]))
