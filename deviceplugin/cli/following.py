"""A running scheduler follows its device configuration: a good file takes effect without a restart,
a bad one leaves the former in force, and either is told of.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from deviceplugin import registry
from deviceplugin.cli.backends import backends_of
from deviceplugin.config.difference import differences
from deviceplugin.config.reload import Outcome, Refused, Reloaded, Unchanged
from deviceplugin.vendor.scheduling import SchedulingBackend

__all__ = ["CHANGED", "FAILED", "Following"]

FAILED, CHANGED = "DeviceConfigurationFailed", "DeviceConfigurationChanged"
"""Reasons, as in events."""
MOST_TOLD = 20
"""Changes that a line of the log tells of."""


class Following:
    """What becomes of a file that changes while the scheduler runs: `serve` takes new backends and
    may raise what vendors raise, `say` tells people by a reason and a message.
    """

    def __init__(
        self,
        serve: Callable[[Sequence[SchedulingBackend]], Awaitable[None]],
        say: Callable[[str, str], None],
        metrics: CollectorRegistry,
    ) -> None:
        self._serve, self._say = serve, say
        self._log = structlog.get_logger()
        self._outcomes = Counter(
            "deviceplugin_scheduler_config_reloads",
            "Looks at a changed device configuration, by outcome.",
            ("outcome",),
            registry=metrics,
        )
        self._refused = Gauge(
            "deviceplugin_scheduler_config_refused",
            "1 while the device configuration is refused and a former one is in force, else 0.",
            registry=metrics,
        )

    async def handle(self, outcome: Outcome) -> None:
        """What a look at the file brought."""
        match outcome:
            case Refused():
                self._fail("; ".join(map(str, outcome.problems)))
            case Unchanged():
                self._told("unchanged", refused=False)
                self._log.info("the device configuration is as it is in force")
            case Reloaded():
                await self._take(outcome)

    async def _take(self, outcome: Reloaded) -> None:
        changes = differences(
            outcome.former.config.sections, outcome.loaded.config.sections, MOST_TOLD
        )
        if not changes:  # somebody else's part of the file
            self._told("unchanged", refused=False)
            return
        try:
            found = backends_of(outcome.loaded, registry.load())
            await self._serve(found.backends)
        except Exception as error:
            self._log.exception("a vendor failed on the new device configuration")
            self._fail(str(error))
            return
        self._told("reloaded", refused=False)
        for note in found.notes:
            self._log.warning("device configuration", note=note)
        self._log.info("the device configuration has changed", reason=CHANGED, changes=changes)
        self._say(CHANGED, "; ".join(changes))

    def _fail(self, why: str) -> None:
        self._told("refused", refused=True)
        self._log.error(
            "the device configuration is refused, the former one stays", reason=FAILED, why=why
        )
        self._say(FAILED, f"refused, the former one stays in force: {why}")

    def _told(self, outcome: str, *, refused: bool) -> None:
        self._outcomes.labels(outcome).inc()
        self._refused.set(refused)
