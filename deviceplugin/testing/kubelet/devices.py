"""The lists that plugins sent, and what a node has of them (kubelet-deviceplugin.md 2.5)."""

from __future__ import annotations

from collections.abc import Mapping

from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.testing.kubelet.topology import Nodes

HEALTHY = "Healthy"


class DeviceTable:
    """The last list of every resource, and its ids by health."""

    def __init__(self) -> None:
        self.listed: dict[str, dict[str, pb.Device]] = {}
        self.healthy: dict[str, set[str]] = {}
        self.unhealthy: dict[str, set[str]] = {}

    def know(self, resource: str) -> None:
        """A resource that is remembered, without devices."""
        self.healthy[resource], self.unhealthy[resource] = set(), set()

    def take(self, resource: str, message: pb.ListAndWatchResponse) -> None:
        """Replace the list. An id that is sent with both healths counts twice, as in kubelet."""
        self.listed[resource] = {device.ID: device for device in message.devices}
        self.healthy[resource] = {d.ID for d in message.devices if d.health == HEALTHY}
        self.unhealthy[resource] = {d.ID for d in message.devices if d.health != HEALTHY}

    def lose(self, resource: str) -> None:
        """All devices turn unhealthy: their plugin is gone. The list itself is kept."""
        ids = self.healthy.get(resource, set())
        self.healthy[resource] = set()
        self.unhealthy[resource] = self.unhealthy.get(resource, set()) | ids

    def forget(self, resource: str) -> None:
        """Drop a resource whose plugin stayed away."""
        self.healthy.pop(resource, None)
        self.unhealthy.pop(resource, None)

    def nodes(self, resource: str) -> Nodes:
        """The NUMA nodes of each listed device."""
        return {i: nodes_of(device) for i, device in self.listed.get(resource, {}).items()}

    def amounts(self) -> Mapping[str, tuple[int, int]]:
        """Capacity and allocatable by resource."""
        return {
            resource: (len(healthy) + len(self.unhealthy[resource]), len(healthy))
            for resource, healthy in self.healthy.items()
        }


def nodes_of(device: pb.Device) -> tuple[int, ...]:
    """The NUMA nodes of a device; none when it has no topology."""
    return tuple(node.ID for node in device.topology.nodes)
