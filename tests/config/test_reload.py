"""Hot reload on a real directory, with the swap that kubelet does for a ConfigMap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deviceplugin.config import load
from deviceplugin.config.reload import Outcome, Refused, Reloaded, Reloader, Unchanged

NEVER = 3600.0


class ConfigMap:
    """A directory as kubelet keeps it: ``name -> ..data/name``, ``..data -> ..<generation>``."""

    def __init__(self, directory: Path) -> None:
        self.directory, self._generation = directory, 0
        directory.mkdir(exist_ok=True)

    def publish(self, **texts: str) -> None:
        self._generation += 1
        content = self.directory / f"..{self._generation}"
        content.mkdir()
        for name, text in texts.items():
            (content / name).write_text(text)
            link = self.directory / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        fresh = self.directory / "..data_tmp"
        fresh.symlink_to(content.name)
        fresh.rename(self.directory / "..data")


class Running:
    def __init__(self, reloader: Reloader, outcomes: asyncio.Queue[Outcome]) -> None:
        self.reloader, self.outcomes = reloader, outcomes

    async def next(self) -> Outcome:
        return await asyncio.wait_for(self.outcomes.get(), 30)


@asynccontextmanager
async def running(file: Path, *, poll: float = NEVER) -> AsyncIterator[Running]:
    argv = {"config_file": str(file), "config_json": ""}
    outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
    first = load(argv, {"NODE_NAME": "n"})
    reloader = Reloader(
        first, lambda: load(argv, {"NODE_NAME": "n"}), outcomes.put, debounce=0.01, poll=poll
    )
    task = asyncio.create_task(reloader.run())
    reloader.reload()  # its answer says that the directories are watched
    found = Running(reloader, outcomes)
    assert isinstance(await found.next(), Unchanged)
    try:
        yield found
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.fixture
def config_map(tmp_path: Path) -> ConfigMap:
    made = ConfigMap(tmp_path / "cm")
    made.publish(agent="flags: {migStrategy: none}")
    return made


async def test_a_swapped_config_map_is_taken_up(config_map: ConfigMap) -> None:
    async with running(config_map.directory / "agent") as agent:
        for strategy in ("single", "mixed"):
            config_map.publish(agent=f"flags: {{migStrategy: {strategy}}}")
            outcome = await agent.next()
            assert isinstance(outcome, Reloaded)
            assert outcome.loaded.config.mig_strategy == strategy
            assert agent.reloader.current is outcome.loaded


async def test_a_bad_file_keeps_the_old_configuration_and_says_why(config_map: ConfigMap) -> None:
    async with running(config_map.directory / "agent") as agent:
        before = agent.reloader.current
        config_map.publish(agent="flags: {migStrategy: sometimes}")
        outcome = await agent.next()
        assert isinstance(outcome, Refused)
        assert [problem.path for problem in outcome.problems] == ["flags.migStrategy"]
        assert outcome.kept is agent.reloader.current is before

        config_map.publish(agent="flags: {migStrategy: mixed}")
        assert isinstance(await agent.next(), Reloaded)


async def test_going_back_from_a_bad_file_is_told_although_nothing_changes(
    config_map: ConfigMap,
) -> None:
    async with running(config_map.directory / "agent") as agent:
        config_map.publish(agent="flags: [")
        assert isinstance(await agent.next(), Refused)
        config_map.publish(agent="flags: {migStrategy: none}")
        assert isinstance(await agent.next(), Unchanged)


async def test_the_same_refusal_is_told_once_unless_somebody_asks(config_map: ConfigMap) -> None:
    async with running(config_map.directory / "agent") as agent:
        config_map.publish(agent="flags: []")
        assert isinstance(await agent.next(), Refused)
        config_map.publish(agent="flags: []  # still")
        await asyncio.sleep(0.2)
        assert agent.outcomes.empty()
        agent.reloader.reload()
        assert isinstance(await agent.next(), Refused)


async def test_a_file_that_is_edited_in_place_is_taken_up(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("flags: {migStrategy: none}")
    async with running(file) as agent:
        file.write_text("flags: {migStrategy: single}")
        # Truncation and writing are two events; either the first is debounced away or it shows
        # as the defaults, which are no change here.
        outcome = await agent.next()
        assert isinstance(outcome, Reloaded)
        assert outcome.loaded.config.mig_strategy == "single"


async def test_a_file_that_vanishes_is_a_refusal_and_its_return_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("flags: {migStrategy: single}")
    async with running(file) as agent:
        file.unlink()
        outcome = await agent.next()
        assert isinstance(outcome, Refused)
        assert outcome.problems[0].rule == "no such file"
        file.write_text("flags: {migStrategy: single}")
        assert isinstance(await agent.next(), Unchanged)


async def test_the_poll_notices_a_directory_that_was_replaced(tmp_path: Path) -> None:
    config_map = ConfigMap(tmp_path / "cm")
    config_map.publish(agent="flags: {migStrategy: none}")
    async with running(config_map.directory / "agent", poll=0.05) as agent:
        config_map.directory.rename(tmp_path / "old")
        other = ConfigMap(tmp_path / "new")
        other.publish(agent="flags: {migStrategy: mixed}")
        other.directory.rename(tmp_path / "cm")
        outcome = await agent.next()
        while isinstance(outcome, Refused):  # the moment without a directory
            outcome = await agent.next()
        assert isinstance(outcome, Reloaded)
        assert outcome.loaded.config.mig_strategy == "mixed"


async def test_a_change_that_changes_no_value_is_no_news(config_map: ConfigMap) -> None:
    async with running(config_map.directory / "agent") as agent:
        config_map.publish(agent="flags: {migStrategy: none}  # as before")
        await asyncio.sleep(0.2)
        assert agent.outcomes.empty()
        agent.reloader.reload()
        assert isinstance(await agent.next(), Unchanged)
