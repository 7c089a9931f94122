"""What a replica takes from around it besides the cluster: time and chance. Whoever hands in his
own has a replica that does the same each time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

__all__ = ["Surroundings"]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`monotonic` answers seconds, `wall_ns` unix time in nanoseconds, `chance` a number from 0 up
    to 1.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall_ns: Callable[[], int] = time.time_ns
    chance: Callable[[], float] = random.random

    def wall(self) -> float:
        """Unix time in seconds."""
        return self.wall_ns() / 1e9

    def now(self) -> datetime:
        """The time of day in UTC."""
        return datetime.fromtimestamp(self.wall(), UTC)
