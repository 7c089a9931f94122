"""What a container with these grants needs. Pure (hami-nvidia-node.md 3.4, 3.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deviceplugin.vendor import ContainerEdits, DeviceNode, Grant, Owner, Sharing
from deviceplugin.vendors.nvidia import hami_core, mps_client, slots
from deviceplugin.vendors.nvidia.host import below
from deviceplugin.vendors.nvidia.settings import NvidiaSettings


def edits(grants: Sequence[Grant], owner: Owner, settings: NvidiaSettings) -> ContainerEdits:
    """The device nodes of the grants, each once, and the limits of their kind of sharing.

    Raises `ValueError` where a limit that must hold cannot be set, and for a card as a whole where
    cards are partitioned.
    """
    slots.check(grants, owner, settings)
    kinds = {grant.sharing for grant in grants}
    if Sharing.LIMITED in kinds and settings.enforce_isolation:
        limits = hami_core.edits(grants, owner, settings)
    elif Sharing.MPS in kinds:
        limits = mps_client.edits(grants, owner, settings)
    else:
        limits = ContainerEdits()
    return replace(limits, device_nodes=device_nodes(grants, settings))


def device_nodes(grants: Sequence[Grant], settings: NvidiaSettings) -> tuple[DeviceNode, ...]:
    """The nodes as the container sees them, with their paths on the host."""
    paths = dict.fromkeys(node for grant in grants for node in grant.device.device_nodes)
    return tuple(node_of(path, settings.dev_root, permissions="rw") for path in paths)


def node_of(host_path: str, dev_root: str, *, permissions: str) -> DeviceNode:
    """One node; the path on the host is named only where it differs (cdi.md 6.1)."""
    path = below(dev_root, host_path)
    return DeviceNode(
        path, host_path=host_path if host_path != path else "", permissions=permissions
    )
