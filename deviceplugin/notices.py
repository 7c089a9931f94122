"""What the agent tells people by Kubernetes events; written where there is an API server, see
`scheduled.node`.
"""

from __future__ import annotations

import enum
from typing import Protocol

__all__ = ["Notice", "Tell", "nobody"]


class Notice(enum.StrEnum):
    """The reason of an event. Reasons are for machines and filters: they never change."""

    GRANT_REFUSED = "GrantRefused"
    """On the pod: a container does not get what it asks for."""
    GRANT_ADOPTED = "GrantAdopted"
    """On the pod: another plugin's, or a lost record's, grant goes on under this agent."""
    GRANT_UNPROVED = "GrantUnproved"
    """On the pod: a running container holds devices that nothing shows to be its own."""
    ISOLATION_LOST = "IsolationLost"
    """On the pod: the limits in force are not those that were granted."""
    ISOLATION_RESTORED = "IsolationRestored"
    """On the pod: they are again."""
    ISOLATION_IMPEDED = "IsolationImpeded"
    """On the node: a resource is not handed out, because its limits could not be enforced."""
    ISOLATION_POSSIBLE = "IsolationPossible"
    """On the node: it is again."""
    DEVICE_UNHEALTHY = "DeviceUnhealthy"
    """On the node and on the pods that hold the device."""
    DEVICE_RECOVERED = "DeviceRecovered"
    """On the node and on the pods that hold the device."""
    DEVICE_FORGOTTEN = "DeviceForgotten"
    """On the node: the driver has not listed it for so long that it left kubelet's list."""
    DEVICE_LEFT_OUT = "DeviceLeftOut"
    """On the node: the driver shows something that cannot be offered."""
    PARTITIONS_REMOVED = "PartitionsRemoved"
    """On the node: hard partitions whose containers are gone."""
    CLEANED_UP = "CleanedUp"
    """On the node: ``deviceplugin cleanup`` took everything back."""
    CLEANUP_FAILED = "CleanupFailed"
    """On the node: it could not take everything back."""

    @property
    def warning(self) -> bool:
        """Whether somebody should look."""
        return self in _WARNINGS


_WARNINGS = frozenset(
    {
        Notice.GRANT_REFUSED,
        Notice.GRANT_UNPROVED,
        Notice.ISOLATION_LOST,
        Notice.ISOLATION_IMPEDED,
        Notice.DEVICE_UNHEALTHY,
        Notice.DEVICE_FORGOTTEN,
        Notice.DEVICE_LEFT_OUT,
        Notice.CLEANUP_FAILED,
    }
)


class Tell(Protocol):
    """Who carries to people what concerns the whole node."""

    def __call__(self, notice: Notice, message: str, device: str = "") -> None:
        """Tell it on the Node and, where the uuid of a `device` is given, on the pods that hold it.
        Never blocks and never raises.
        """


def nobody(notice: Notice, message: str, device: str = "") -> None:
    """Where no API server is known, logs and metrics tell it alone."""
