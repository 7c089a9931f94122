"""Which devices an answer to Allocate hands over, read back from what kubelet keeps of it. Pure.

Ours says whose it is. Another plugin's does not, but it names devices: by uuid, by device nodes, or
by numbers that only the vendor understands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.cdi.model import DeviceNode, Mount
from deviceplugin.vendor import AnswerReader, ContainerEdits, PhysicalDevice

__all__ = ["handed"]


def handed(
    answer: pb.ContainerAllocateResponse,
    devices: Sequence[PhysicalDevice],
    reader: AnswerReader | None = None,
) -> frozenset[str]:
    """The uuids of those of `devices` that the answer hands over; none where that is not told."""
    if reader is not None:
        try:
            found = reader.handed(_edits(answer), devices)
        except ValueError:
            return frozenset()
        if found is not None:
            return frozenset(found)
    return frozenset(_by_uuid(answer, devices)) or frozenset(_by_node(answer, devices))


def _by_uuid(
    answer: pb.ContainerAllocateResponse, devices: Sequence[PhysicalDevice]
) -> Iterator[str]:
    text = answer.SerializeToString()
    # The longest first: one uuid may be the beginning of another.
    for uuid in sorted((device.uuid for device in devices), key=len, reverse=True):
        if uuid.encode() in text:
            text = text.replace(uuid.encode(), b"")
            yield uuid


def _by_node(
    answer: pb.ContainerAllocateResponse, devices: Sequence[PhysicalDevice]
) -> Iterator[str]:
    """Whoever has a node of a card has the card; a node of several cards says nothing."""
    given = {node.host_path for node in answer.devices}
    for device in devices:
        others = {node for other in devices if other != device for node in other.device_nodes}
        if given & set(device.device_nodes) - others:
            yield device.uuid


def _edits(answer: pb.ContainerAllocateResponse) -> ContainerEdits:
    return ContainerEdits(
        env=dict(answer.envs),
        device_nodes=tuple(
            DeviceNode(node.container_path, node.host_path, permissions=node.permissions)
            for node in answer.devices
        ),
        mounts=tuple(
            Mount(mount.host_path, mount.container_path, ("ro",) if mount.read_only else ())
            for mount in answer.mounts
        ),
        annotations=dict(answer.annotations),
    )
