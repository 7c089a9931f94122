"""Whether this agent does its work, resource by resource, with the reasons: one story for
``/readyz``, the log and people.
"""

from __future__ import annotations

from deviceplugin.metrics import Metrics


class Readiness:
    """What stands between the agent and its work; implements `kubelet.server.Status`.

    A *blocker* is a sentence under a name (a resource, a vendor, the configuration). Without
    blockers the agent is ready.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._blockers: dict[str, str] = {}

    def block(self, name: str, reason: str) -> None:
        """Say why `name` does not work."""
        self._blockers[name] = reason

    def clear(self, name: str) -> None:
        """`name` works, or is no longer expected to."""
        self._blockers.pop(name, None)

    def registered(self, resource: str) -> None:
        """Kubelet accepted the registration and watches."""
        self._metrics.registered.labels(resource).set(1)
        self.clear(resource)

    def unregistered(self, resource: str, reason: str) -> None:
        """Not (or no longer) registered, and why."""
        self._metrics.registered.labels(resource).set(0)
        self.block(resource, reason)

    def attempt(self, resource: str, outcome: str) -> None:
        """A Register call ended."""
        self._metrics.registrations.labels(resource, outcome).inc()

    def blockers(self) -> dict[str, str]:
        """A copy of all blockers, by name; may be asked from any thread."""
        return dict(sorted(self._blockers.copy().items()))
