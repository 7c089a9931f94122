"""The configuration changes while the agent runs.

Directories are watched, not files: Kubernetes swaps a mounted ConfigMap by renaming the link
``..data`` beside it, and editors replace files too. A file mounted by ``subPath`` is never
updated by kubelet; mount the directory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from deviceplugin.api.problems import Problem
from deviceplugin.config.schema import ConfigError, Loaded
from deviceplugin.directorywatch import POLL_SECONDS, DirectoryWatch, identity

__all__ = ["Outcome", "Refused", "Reloaded", "Reloader", "Unchanged"]

DEBOUNCE_SECONDS = 0.2
"""A swap of ``..data`` and an editor's save are several events."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """There is a new configuration in the place of the `former` one."""

    loaded: Loaded
    former: Loaded


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The files say what is in force already: somebody asked, or a refused file was set right."""

    loaded: Loaded


@dataclass(frozen=True, slots=True)
class Refused:
    """The files are wrong, and these are the reasons; `kept` stays in force."""

    problems: tuple[Problem, ...]
    kept: Loaded


Outcome = Reloaded | Unchanged | Refused


class Reloader:
    """Loads again when a file changes or somebody asks; tells `handle` what came of it.

    The same refusal is told once, unless somebody asked. `load` raises `ConfigError` and nothing
    else; `handle` may take its time: changes in between are taken up after it.
    """

    def __init__(
        self,
        current: Loaded,
        load: Callable[[], Loaded],
        handle: Callable[[Outcome], Awaitable[None]],
        *,
        debounce: float = DEBOUNCE_SECONDS,
        poll: float = POLL_SECONDS,
    ) -> None:
        self.current = current
        self._load, self._handle = load, handle
        self._debounce, self._poll = debounce, poll
        self._files = tuple(Path(path) for path in current.files)
        self._seen: object = None
        self._problems: tuple[Problem, ...] = ()
        self._asked = False
        self._wake = asyncio.Event()

    def reload(self) -> None:
        """Load again even if no file changed. Meant for SIGHUP; call it on the event loop."""
        self._asked = True
        self._wake.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        watch = DirectoryWatch(self._wake.set, *(path.parent for path in self._files))
        watching = asyncio.create_task(watch.run(self._poll))
        try:
            while True:
                await self._wake.wait()
                await asyncio.sleep(self._debounce)
                self._wake.clear()
                if (outcome := self._look()) is not None:
                    await self._handle(outcome)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    def _look(self) -> Outcome | None:
        """What a look at the files brings; None when there is nothing to tell."""
        asked, self._asked = self._asked, False
        # Before the files are read: a change in between is then seen by the next look.
        state = tuple(identity(path) for path in self._files)
        if state == self._seen and not asked:
            return None
        self._seen = state
        try:
            loaded = self._load()
        except ConfigError as error:
            repeated, self._problems = error.problems == self._problems, error.problems
            return None if repeated and not asked else Refused(error.problems, self.current)
        healed, self._problems = bool(self._problems), ()
        if loaded != self.current:
            former, self.current = self.current, loaded
            return Reloaded(loaded, former)
        return Unchanged(loaded) if asked or healed else None
