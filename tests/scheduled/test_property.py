"""Whatever order things happen in, no container starts with a grant that is not its own, none is
granted twice, and nothing is left when all is over.

Every container that is ever scheduled gets its own amount of memory, so what a process sees tells
whose grant it got.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from deviceplugin.agent import Agent
from deviceplugin.scheduled.identity import Identity
from deviceplugin.scheduled.locked import Locked
from deviceplugin.testing.cluster import Cluster, devices, manifest
from deviceplugin.testing.kubelet import StartError
from deviceplugin.testing.scheduling import Habit, LockHeldError, Wish
from deviceplugin.vendors.mock.configuration import KEYS_OF_OUR_OWN as KEYS

RESOURCE = "mock.deviceplugin.dev/gpu"
SMALL = {"mock": {"profile": "small", "deviceSplitCount": 10}}
DEFERRED = {"allocation": "scheduled-deferred", "device_list_strategy": ("cdi-cri",)}
LOCKED = {
    "allocation": "scheduled-locked",
    "device_list_strategy": ("envvar",),
    "lockless": "verify",
}
NAMES = ("p", "q", "r", "s")

STEPS = (
    "create",
    "create",
    "bind",
    "bind",
    "admit",
    "admit",
    "start",
    "start",
    "start",
    "again",
    "end",
    "delete",
    "agent",
    "forget",
    "wipe",
    "closed",
    "compact",
)
steps = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 11)), min_size=25, max_size=70)


@dataclass(slots=True)
class Life:
    """One pod of the test: its grants by container, and how far it got."""

    uid: str
    grants: dict[str, tuple[str, int]]
    bound: bool = False
    admitted: bool = False
    started: list[str] = field(default_factory=list)


class Story:
    """Takes steps on a cluster and looks at every start."""

    def __init__(self, cluster: Cluster, mode: dict[str, Any]) -> None:
        self.cluster, self.mode = cluster, mode
        self.agent: Agent | None = None
        self.uuids: Sequence[str] = ()
        self.lives: dict[str, Life] = {}
        self.memory = itertools.count(100)
        self.starts = 0
        self.wrong: list[str] = []

    async def begin(self) -> None:
        self.agent = self.cluster.start_agent(SMALL, **self.mode)
        self.uuids = await self.cluster.ready(KEYS, RESOURCE)

    async def step(self, what: str, number: int) -> None:
        name = NAMES[number % len(NAMES)]
        life = self.lives.get(name)
        match what:
            case "create" if life is None:
                self.create(name, number)
            case "bind" if life and not life.bound:
                await self.bind(name, life, number)
            case "admit" if life and life.bound and not life.admitted:
                life.admitted = await self.cluster.admit("default", name) is None
                if not life.admitted:
                    self.delete(name)
            case "start" if life and life.admitted:
                waiting = [c for c in life.grants if c not in life.started]
                if waiting:
                    await self.start(name, life, waiting[0])
            case "again" if life and life.started:
                await self.start(name, life, life.started[number % len(life.started)])
            case "end" if life and life.started:
                self.cluster.end("default", name)
                self.delete(name)
            case "delete" if life:
                self.delete(name)
            case "agent" | "forget":
                await self.new_agent(forget=what == "forget")
            case "wipe":
                shutil.rmtree(self.cluster.root / "cdi", ignore_errors=True)
            case "closed":
                self.cluster.server.drop_connections()
            case "compact":
                self.cluster.server.store.compact()
                self.cluster.server.drop_connections()

    def create(self, name: str, number: int) -> None:
        containers = {f"c{position}": 1 for position in range(1 + number % 3)}
        made = self.cluster.create(manifest(RESOURCE, name, containers))
        grants = {
            container: (self.uuids[(number + i) % len(self.uuids)], next(self.memory))
            for i, container in enumerate(containers)
        }
        self.lives[name] = Life(made["metadata"]["uid"], grants)

    async def bind(self, name: str, life: Life, number: int) -> None:
        habits = (Habit.OURS, Habit.HAMI28, Habit.VOLCANO)
        habit = habits[number % 3]
        if self.mode is LOCKED and habit is Habit.OURS:
            habit = Habit.HAMI28
        wish = Wish(KEYS, [devices(KEYS, (uuid, mib, 1)) for uuid, mib in life.grants.values()])
        try:
            await asyncio.to_thread(self.cluster.scheduler(habit).place, "default", name, wish)
        except LockHeldError:
            return
        life.bound = True

    async def start(self, name: str, life: Life, container: str) -> None:
        try:
            config = await self.cluster.start("default", name, container, 0.3)
        except StartError:
            return
        env = self.cluster.environment(config)
        uuid, mib = life.grants[container]
        seen = (env.get("MOCK_VISIBLE_DEVICES"), env.get("MOCK_MEMORY_LIMIT_0"))
        if seen != (uuid, f"{mib}m"):
            self.wrong.append(f"{name}/{container} has {seen}, not {uuid} {mib}m")
        self.starts += 1
        if container not in life.started:
            life.started.append(container)
        self.cluster.phase("default", name, "Running")

    async def new_agent(self, *, forget: bool) -> None:
        assert self.agent
        await self.cluster.stop_agent(self.agent)
        if forget:
            (self.cluster.root / "run" / "grants.json").unlink(missing_ok=True)
        self.agent = self.cluster.start_agent(SMALL, **self.mode)

    def delete(self, name: str) -> None:
        del self.lives[name]
        self.cluster.delete("default", name)

    async def finish(self) -> None:
        """Everything ends; what is left is a leak."""
        for name in list(self.lives):
            self.delete(name)
        cdi = self.cluster.root / "cdi"

        def left() -> list[object]:
            node = self.agent.scheduled if self.agent else None
            records: list[object] = list(node.ledger) if node else ["no node"]
            return [*records, *cdi.glob("k8s.deviceplugin.dev-*")]

        async with asyncio.timeout(15):
            while left():
                await asyncio.sleep(0.05)


async def lived(mode: dict[str, Any], taken: Sequence[tuple[str, int]]) -> Story:
    root = Path(tempfile.mkdtemp(prefix="dp-", dir="/tmp"))
    try:
        async with Cluster(root) as cluster:
            story = Story(cluster, mode)
            await story.begin()
            for what, number in taken:
                await story.step(what, number)
            await story.finish()
            return story
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for in vain is waited for shortly."""
    for module in ("granting", "locked"):
        monkeypatch.setattr(f"deviceplugin.scheduled.{module}.PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(Identity, "__init__", partialmethod(Identity.__init__, patience=0.3))


SETTINGS = settings(
    max_examples=12,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # a story is too long to shrink
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("mode", [DEFERRED, LOCKED], ids=["deferred", "locked"])
@SETTINGS
@given(taken=steps)
def test_nobody_starts_with_anothers_grant_and_nothing_is_left(
    mode: dict[str, Any], taken: list[tuple[str, int]]
) -> None:
    story = asyncio.run(lived(mode, taken))
    assert story.wrong == []


CROSSED = [
    ("create", 0),
    ("create", 9),
    ("bind", 8),
    ("bind", 5),
    ("admit", 9),
    ("admit", 8),
    ("start", 9),
    ("start", 8),
]
"""Two pods of the same size, bound without a lock, and kubelet takes the later one first."""


def test_crossed_pods_do_not_start_with_each_others_grants() -> None:
    story = asyncio.run(lived(LOCKED, CROSSED))
    assert story.wrong == []


def test_without_the_check_before_the_start_they_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of the test: what finds nothing must be able to find something."""
    monkeypatch.setattr(Locked, "verifies", False)
    story = asyncio.run(lived(LOCKED, CROSSED))
    assert story.wrong != []


def test_an_undisturbed_story_starts_everybody() -> None:
    """Refusing everything would be safe as well."""
    for mode in (DEFERRED, LOCKED):
        calm = [(what, n) for n in (1, 4, 7, 10) for what in ("create", "bind", "admit", "start")]
        story = asyncio.run(lived(mode, calm))
        assert story.starts == 4
        assert story.wrong == []
