"""One story under schedulers, told to the doubles or to a real cluster, with the same agent process.

The story knows its cluster only through the `World` protocol; schedulers are scripted, because what they
write is the point and not what they choose. `docs/testing.md` says how to repeat it on a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Protocol

from deviceplugin.api.hami import register
from deviceplugin.api.hami.keys import BIND_PHASE, MUTEX_LOCK
from deviceplugin.apiserver.client import Api, ApiError
from deviceplugin.apiserver.client import Path as ApiPath
from deviceplugin.testing.cluster import devices, manifest
from deviceplugin.testing.scheduling import Habit, LockHeldError, ScriptedScheduler, Wish
from deviceplugin.vendors.mock.configuration import KEYS_OF_OUR_OWN as KEYS

RESOURCE = "mock.deviceplugin.dev/gpu"
NODE = "node-a"
PODS = ApiPath("/api/v1/namespaces/{namespace}/pods", {"namespace": "default"})

Seen = dict[str, dict[str, str]]
"""The mock's variables by container; a container that did not start has one called ``refused``."""


class World(Protocol):
    """What the story needs of a cluster of one node."""

    root: Path
    flags: dict[str, str]
    kubeconfig: Path
    checkpoint: Path
    """Kubelet's own record of devices."""

    def api(self) -> Api:
        """A client that may do everything."""

    def decorate(self, pod: dict[str, Any], *, gated: bool) -> dict[str, Any]:
        """The pod with what containers here need; `gated`: none starts before `open_gate`."""

    async def outcome(self, name: str, seconds: float) -> Seen:
        """What the containers of a bound pod see once all have started or were refused."""

    async def open_gate(self, name: str) -> None:
        """Let the containers of a gated pod start."""

    async def restart_container(self, name: str, container: str) -> dict[str, str]:
        """End the container's process; what its next one sees."""

    async def delete(self, name: str) -> None:
        """Delete the pod and wait until it is gone."""


class ScheduledStory:
    """Runs the agent as a process and tells the story; `lines` is the transcript."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.lines: list[str] = []
        self.cards: dict[str, str] = {}
        self._agent: asyncio.subprocess.Process | None = None
        self._api = world.api()

    async def tell(self) -> list[str]:
        """The whole story."""
        try:
            await self._deferred()
            await self._faults()
            await self._locked()
            await self._leave()
        finally:
            if self._agent is not None and self._agent.returncode is None:
                self._agent.kill()
                await self._agent.wait()
        return self.lines

    async def _deferred(self) -> None:
        await self._start("scheduled-deferred", "cdi-cri")
        a, b = self.cards
        self._say(f"the node announces {len(self.cards)} cards, allocation deferred")
        pod = manifest(RESOURCE, "two", {"c0": 1, "c1": 0, "c2": 2})
        await self._run(
            "two containers", pod, Habit.OURS, [(a, 100, 1)], [], [(a, 200, 2), (b, 201, 3)]
        )
        pod = manifest(RESOURCE, "init", {"c0": 1}, {"i0": 1}, {"s0": 1})
        await self._run(
            "init and sidecar", pod, Habit.OURS, [(a, 110, 1)], [(b, 120, 2)], [(a, 130, 3)]
        )
        pod = manifest(RESOURCE, "old", {"c0": 1})
        await self._run("a scheduler that locks", pod, Habit.HAMI28, [(b, 140, 4)])
        await self._phase("old")
        pod = manifest(RESOURCE, "own", {"c0": 1}, env={"MOCK_MEMORY_LIMIT_0": "999999m"})
        await self._run("a pod's own limit loses", pod, Habit.OURS, [(a, 150, 5)])
        pod = manifest(RESOURCE, "forged", {"c0": 1})
        await self._run("a card of another node", pod, Habit.OURS, [("GPU-elsewhere", 1, 1)])
        pod = manifest(RESOURCE, "huge", {"c0": 1})
        await self._run("more than there is", pod, Habit.OURS, [(a, 99_999_999, 1)])
        await self._many(20)

    async def _faults(self) -> None:
        a, b = self.cards
        pod = manifest(RESOURCE, "killed", {"c0": 1})
        await self._place(pod, Habit.OURS, [(a, 160, 6)], gated=True)
        uid = self._api.call("GET", ApiPath.pod("default", "killed"))["metadata"]["uid"]
        await self._until(lambda: uid in self.world.checkpoint.read_text(), "Allocate")
        await self._kill()
        await self.world.open_gate("killed")
        await asyncio.sleep(1)
        await self._start("scheduled-deferred", "cdi-cri", announce=False)
        self._tell(
            "agent killed between Allocate and start", await self.world.outcome("killed", 60)
        )
        await self._kill()
        for folder in ("run-dir", "cdi-dir"):
            for path in Path(self.world.flags[folder]).glob("*"):
                path.unlink()
        await self._start("scheduled-deferred", "cdi-cri", announce=False)
        seen = {"c0": await self.world.restart_container("killed", "c0")}
        self._tell("restarted after records and CDI files were lost", seen)
        await self.world.delete("killed")
        pod = manifest(RESOURCE, "killed", {"c0": 1})
        await self._run("a namesake", pod, Habit.OURS, [(b, 170, 7)])

    async def _locked(self) -> None:
        await self._stop()
        await self._start("scheduled-locked", "envvar")
        a, b = self.cards
        self._say("allocation locked")
        pod = manifest(RESOURCE, "two", {"c0": 1, "c1": 0, "c2": 2}, {"i0": 1})
        grants = ([(b, 90, 9)], [(a, 100, 1)], [], [(a, 200, 2), (b, 201, 3)])
        await self._run("three containers", pod, Habit.HAMI28, *grants)
        await self._phase("two")
        pod = manifest(RESOURCE, "none", {"c0": 1})
        await self._run("a scheduler without a lock", pod, Habit.VOLCANO, [(a, 100, 1)])

    async def _leave(self) -> None:
        await self._stop()
        done = await asyncio.create_subprocess_exec(
            *self._command("cleanup", "scheduled-locked", "envvar"),
            env=self._environment(),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await done.communicate()
        known = ("CDI inventory", "CDI specification", "node annotation", "record", "socket")
        kinds = [kind for kind in known if f"removed {kind} " in out.decode()]
        self._say(f"cleanup ends with {done.returncode}: removed {', '.join(kinds)}")
        left = [p.name for p in Path(self.world.flags["cdi-dir"]).glob("*deviceplugin*")]
        ours = [key for key in self._annotations() if "deviceplugin" in key or "hami" in key]
        self._say(f"left behind: {left + ours or 'nothing'}")

    # --- parts ---

    async def _run(self, what: str, pod: dict[str, Any], habit: Habit, *grants: Any) -> None:
        name = pod["metadata"]["name"]
        await self._place(pod, habit, *grants)
        self._tell(what, await self.world.outcome(name, 60))
        if not (what.startswith("a scheduler that") or what == "three containers"):
            await self.world.delete(name)

    async def _place(
        self, pod: dict[str, Any], habit: Habit, *grants: Any, gated: bool = False
    ) -> None:
        pod = self.world.decorate(pod, gated=gated)
        await asyncio.to_thread(self._api.call, "POST", PODS, pod, "application/json")
        wish = Wish(KEYS, [devices(KEYS, *each) for each in grants])
        scheduler = ScriptedScheduler(self._api, NODE, habit)
        name = pod["metadata"]["name"]
        await asyncio.to_thread(scheduler.filter, "default", name, wish)
        for _ in range(100):
            with contextlib.suppress(LockHeldError):
                await asyncio.to_thread(scheduler.bind, "default", name)
                return
            await asyncio.sleep(0.1)
        raise TimeoutError(f"the node stayed locked for {name}")

    async def _many(self, count: int) -> None:
        names = [f"many-{number}" for number in range(count)]
        cards = list(self.cards)
        placing = [
            self._place(
                manifest(RESOURCE, name, {"c0": 1}),
                Habit.OURS,
                [(cards[number % 2], 300 + number, 1)],
            )
            for number, name in enumerate(names)
        ]
        await asyncio.gather(*placing)
        seen = await asyncio.gather(*(self.world.outcome(name, 90) for name in names))
        right = sum(
            each["c0"].get("MOCK_MEMORY_LIMIT_0") == f"{300 + number}m"
            for number, each in enumerate(seen)
        )
        self._say(f"{count} pods at once: {right} see their own limits")
        await asyncio.gather(*(self.world.delete(name) for name in names))

    def _tell(self, what: str, seen: Seen) -> None:
        self._say(what)
        for container, variables in sorted(seen.items()):
            shown = " ".join(f"{k}={self._masked(v)}" for k, v in sorted(variables.items()))
            self.lines.append(f"    {container}: {shown or 'nothing'}")

    def _masked(self, text: str) -> str:
        for uuid, card in self.cards.items():
            text = text.replace(uuid, card)
        return text

    async def _phase(self, name: str) -> None:
        def settled() -> bool:
            pod = self._api.call("GET", ApiPath.pod("default", name))
            phase = pod["metadata"]["annotations"].get(BIND_PHASE)
            return phase == "success" and MUTEX_LOCK not in self._annotations()

        await self._until(settled, "bind-phase success and no lock")
        self._say("bind-phase success, the lock is gone")
        await self.world.delete(name)

    def _say(self, line: str) -> None:
        self.lines.append(line)
        print(line, file=sys.stderr, flush=True)

    def _annotations(self) -> dict[str, str]:
        node = self._api.call("GET", ApiPath.node(NODE))
        return dict(node["metadata"].get("annotations") or {})

    async def _until(self, found: Any, what: str, seconds: float = 30.0) -> None:
        async with asyncio.timeout(seconds):
            while True:
                with contextlib.suppress(ApiError, OSError):
                    if await asyncio.to_thread(found):
                        return
                await asyncio.sleep(0.1)
        raise TimeoutError(what)

    # --- the agent's process ---

    def _command(self, verb: str, allocation: str, strategy: str) -> list[str]:
        config = self.world.root / "scenario-config" / "config.json"
        config.parent.mkdir(exist_ok=True)
        config.write_text(json.dumps({"mock": {"profile": "small", "deviceSplitCount": 20}}))
        flags = {
            "config-file": str(config),
            "vendors": "mock",
            "allocation": allocation,
            "device-list-strategy": strategy,
            "http-listen": "",
            **self.world.flags,
        }
        given = [f"--{name}={value}" for name, value in flags.items()]
        return [sys.executable, "-m", "deviceplugin", verb, *given]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "NODE_NAME": NODE, "KUBECONFIG": str(self.world.kubeconfig)}

    async def _start(self, allocation: str, strategy: str, *, announce: bool = True) -> None:
        log = (self.world.root / "agent.log").open("a")
        self._agent = await asyncio.create_subprocess_exec(
            *self._command("serve", allocation, strategy),
            env=self._environment(),
            stdout=log,
            stderr=log,
        )

        def announced() -> bool:
            text = self._annotations().get(str(KEYS.register), "")
            if text:
                self.cards = {
                    device.uuid: f"card{number}"
                    for number, device in enumerate(register.decode(text))
                }
            node = self._api.call("GET", ApiPath.node(NODE))
            amount = (node.get("status", {}).get("allocatable") or {}).get(RESOURCE, "0")
            return bool(text) and amount == "40"

        await self._until(announced, "announced and allocatable", 60)
        await asyncio.sleep(2 if announce else 3)

    async def _stop(self) -> None:
        assert self._agent
        self._agent.terminate()
        await self._agent.wait()

    async def _kill(self) -> None:
        assert self._agent
        self._agent.send_signal(signal.SIGKILL)
        await self._agent.wait()
