"""A request that is not served: what everybody who decides raises, and the gRPC side answers."""

from __future__ import annotations

import enum


class Blame(enum.Enum):
    """Where the obstacle is; decides the gRPC status."""

    REQUEST = "request"
    """The request itself cannot be served, now or ever."""
    NODE = "node"
    """The node is not in the state that it needs."""
    TRY_AGAIN = "try again"
    """Somebody did not answer; the same request may succeed."""


class RefusalError(Exception):
    """`reason` is one word for metrics, the text is for the person who reads the pod's status."""

    def __init__(self, text: str, reason: str, blame: Blame = Blame.REQUEST) -> None:
        super().__init__(text)
        self.reason, self.blame = reason, blame
