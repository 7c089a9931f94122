"""What differs between versions of kubelet (kubelet-deviceplugin.md 3.3, 1.2, 2.11). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Version = tuple[int, int]
"""Major and minor."""

OLDEST, NEWEST = (1, 27), (1, 37)


@dataclass(frozen=True, slots=True)
class _Gate:
    """A feature gate: known since `alpha`, on unless told otherwise since `default`, and not to be
    turned off since `locked`.
    """

    alpha: Version
    default: Version
    locked: Version | None = None

    def is_on(self, version: Version, asked: bool | None) -> bool:
        if self.locked is not None and version >= self.locked:
            return True
        on = version >= self.default if asked is None else asked
        return on and version >= self.alpha


_GATES = {
    "DevicePluginCDIDevices": _Gate((1, 28), (1, 29), (1, 31)),
    "KubeletPodResourcesGet": _Gate((1, 27), (1, 34), (1, 36)),
    "KubeletPodResourcesListUseActivePods": _Gate((1, 34), (1, 34)),
    "ResourceHealthStatus": _Gate((1, 31), (1, 36)),
}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One version's choice wherever versions differ."""

    cdi_devices: bool
    """`cdi_devices` of an Allocate response reach the runtime."""
    pod_resources_get: bool
    lists_active_only: bool
    """PodResources List leaves finished pods out."""
    resource_health: bool
    """A pod's status shows the health of its devices."""
    wipes_sockets_only: bool
    """At its start kubelet removes sockets only, and not every file but the checkpoint."""
    register_bounds_dial: bool
    """The caller's time limit of Register bounds the dial-back and GetDevicePluginOptions."""
    clients_by_path: bool
    """Clients are known by resource and socket path, and not by resource alone."""
    hints_by_device_nodes: bool
    """Hints range over the known nodes that have devices, and not over every node."""

    @classmethod
    def of(cls, version: Version, gates: Mapping[str, bool] | None = None) -> Behaviour:
        """The behaviour of a version with feature gates set by name.

        Raises `ValueError` for a version or a gate that is not modelled.
        """
        if not OLDEST <= version <= NEWEST:
            raise ValueError(f"kubelet {version} is not modelled; take one of {OLDEST} to {NEWEST}")
        asked = dict(gates or {})
        if unknown := sorted(asked.keys() - _GATES.keys()):
            raise ValueError(f"feature gates {unknown} are not modelled; known are {[*_GATES]}")
        on = {name: gate.is_on(version, asked.get(name)) for name, gate in _GATES.items()}
        return cls(
            cdi_devices=on["DevicePluginCDIDevices"],
            pod_resources_get=on["KubeletPodResourcesGet"],
            lists_active_only=on["KubeletPodResourcesListUseActivePods"],
            resource_health=on["ResourceHealthStatus"],
            wipes_sockets_only=version >= (1, 33),
            register_bounds_dial=version >= (1, 35),
            clients_by_path=version >= (1, 37),
            hints_by_device_nodes=version >= (1, 35),
        )
