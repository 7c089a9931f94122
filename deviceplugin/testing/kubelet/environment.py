"""What an embedded kubelet is given, what it writes down, and what a test may break in it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from deviceplugin.testing.kubelet.findings import Finding
from deviceplugin.testing.kubelet.topology import Policy
from deviceplugin.testing.kubelet.versions import Behaviour

MAX_MESSAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """One call between kubelet and a plugin; `error` is empty when it succeeded.

    `at` is the clock's time at which it began and `seconds` what it took.
    """

    method: str
    resource: str
    request: object
    response: object = None
    error: str = ""
    at: float = 0.0
    seconds: float = 0.0


@dataclass(slots=True)
class Timeouts:
    """Limits in seconds. Kubelet waits for Allocate for ever; `watchdog` lets a test end."""

    grace: float = 300.0
    dial: float = 10.0
    pre_start: float = 30.0
    watchdog: float = 30.0
    info: float = 1.0
    notify: float = 5.0
    reconcile: float = 1.0
    """How often the watched directory of plugin sockets is looked through."""
    settle: float = 5.0
    """How long after the end of a stream its plugin may still clean up or register again."""


@dataclass(slots=True)
class Faults:
    """What kubelet is told to do wrong or unkindly; all of it may change at any time."""

    refuse_registrations: int = 0
    """Answer so many Registers with an error."""
    ignore_registrations: bool = False
    """Say yes to Register and never ask for the list."""
    register_delay: float = 0.0
    """Seconds before a Register is looked at."""
    hang_registrations: bool = False
    """Leave Registers unanswered until this is false again."""
    refuse_after_allocation: int = 0
    """Refuse so many pods after their Allocate, as a node check that fails later does."""
    delays: dict[str, float] = field(default_factory=dict)
    """Seconds that kubelet waits before it sends a call, by method."""
    repeats: dict[str, int] = field(default_factory=dict)
    """How many times more each call of a method is made; the last answer counts."""


@dataclass(slots=True)
class Environment:
    """Shared by the parts of one embedded kubelet; survives its restarts."""

    plugin_dir: Path
    registry_dir: Path
    behaviour: Behaviour
    race: Literal["legacy", "fixed"]
    policy: Policy
    numa_nodes: int
    timeouts: Timeouts
    random: random.Random
    clock: Callable[[], float] = time.monotonic
    max_message: int = MAX_MESSAGE_BYTES
    takeovers: bool = False
    """A registration while an older one's stream is open is wanted, and no finding."""
    faults: Faults = field(default_factory=Faults)
    findings: list[Finding] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    in_flight: list[tuple[str, str]] = field(default_factory=list)
    """Method and resource of each call that waits for its answer."""
    changed: Callable[[], None] = lambda: None
    """Called when something that a test may wait for has changed."""
    offset: float = 0.0

    def now(self) -> float:
        """Seconds on the clock that a test may move."""
        return self.clock() + self.offset

    def shuffled(self, values: Iterable[str]) -> list[str]:
        """The values in the random order that kubelet's maps and sets have."""
        ordered = sorted(values)
        self.random.shuffle(ordered)
        return ordered

    def find(self, found: Iterable[Finding] | Sequence[Finding]) -> None:
        """Write findings down."""
        self.findings.extend(found)
        self.changed()
