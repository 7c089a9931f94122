"""What can go wrong between a client and its API server; set at any time from a test."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from deviceplugin.testing.apiserver.status import StatusError


@dataclass(slots=True)
class Faults:
    """All off by default.

    `slow` seconds are waited before each answer; `throttle` and `errors` count the requests that
    are still refused with 429 and 500; `conflicts` are ``plural/name`` whose every change
    conflicts; `deny` are pairs of verb (``get``, ``patch``, …) and plural that are forbidden,
    `hold` such pairs whose requests wait for the event before they are looked at, `held` how many
    have so far, `mute` those that are done and whose answers are lost. A Binding is a ``create`` of
    ``pods``.
    """

    slow: float = 0.0
    throttle: int = 0
    retry_after: float = 0.0
    errors: int = 0
    conflicts: set[str] = field(default_factory=set)
    deny: set[tuple[str, str]] = field(default_factory=set)
    hold: dict[tuple[str, str], threading.Event] = field(default_factory=dict)
    held: int = 0
    mute: set[tuple[str, str]] = field(default_factory=set)
    hang: threading.Event | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def meet(self, verb: str, plural: str) -> None:
        """Suffer what is due. Raises `StatusError`."""
        if self.slow:
            time.sleep(self.slow)
        if self.hang is not None:
            self.hang.wait(60.0)
        if (event := self.hold.get((verb, plural))) is not None:
            with self._lock:
                self.held += 1
            event.wait(60.0)
        with self._lock:
            if self.throttle:
                self.throttle -= 1
                raise StatusError(
                    429,
                    "TooManyRequests",
                    "too many requests, please try again later",
                    retryAfterSeconds=self.retry_after,
                )
            if self.errors:
                self.errors -= 1
                raise StatusError(500, "InternalError", "an error on the server")
        if (verb, plural) in self.deny:
            raise StatusError(403, "Forbidden", f"{plural} is forbidden: cannot {verb} resource")
