"""What the monitor is told: every container that holds devices, by whichever way it got them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from deviceplugin.monitor import HostDevice, MonitoredContainer, MonitoredDevice
from deviceplugin.runtime import VendorRuntime
from deviceplugin.vendor import Grant, Sharing, Usage

if TYPE_CHECKING:
    from deviceplugin.scheduled.ledger import Record
    from deviceplugin.scheduled.node import ScheduledNode

PRIORITY = "CUDA_TASK_PRIORITY"
"""The variable in which HAMi's webhook puts a container's priority (hami-nvidia-node.md 3.5)."""


def containers(
    runtimes: Iterable[VendorRuntime], node: ScheduledNode | None
) -> Iterator[MonitoredContainer]:
    """Containers of standalone resources by kubelet's word, of scheduled ones by the record of
    grants. From any thread: reads values that are replaced whole.
    """
    cooperative: set[str] = set()
    for runtime in runtimes:
        cooperative |= runtime.cooperative
        for held, allocation, grants in runtime.held():
            if node is None or held.resource not in node.served:
                shared = any(grant.sharing is Sharing.LIMITED for grant in grants)
                yield MonitoredContainer(
                    held.namespace,
                    held.pod,
                    "",
                    held.container,
                    allocation if shared else "",
                    tuple(_devices(grants)),
                    cooperative=any(grant.sharing.cooperative for grant in grants),
                )
    if node is not None:  # whose memory is shared with the agents of other vendors
        mine = {runtime.name for runtime in runtimes}
        for record in node.living():
            if record.vendor in mine:
                yield _scheduled(record, node, cooperative=record.resource in cooperative)


def host_devices(runtimes: Iterable[VendorRuntime]) -> Iterator[HostDevice]:
    """The devices of every vendor, and how busy they are where their driver says so."""
    for runtime in runtimes:
        usage, word = runtime.usage, runtime.word
        for device in runtime.inventory.snapshot().devices:
            used = usage.get(device.uuid, Usage(device.uuid))
            yield HostDevice(
                device.uuid,
                device.index,
                f"{word}-{device.model}" if word else device.model,
                used.used_mib,
                used.utilisation_percent,
                device.memory_mib,
                used.memory_controller_percent,
                partition=bool(device.parent_uuid),
            )


def living_pods(node: ScheduledNode | None) -> frozenset[str] | None:
    """The uids that kubelet or the API server still knows; None while that cannot be told."""
    if node is None or not node.pods.synced:
        return None
    entries = node.checkpoint.entries()
    if entries is None:
        return None
    return frozenset({pod.uid for pod in node.pods} | {entry.pod_uid for entry in entries})


def _devices(grants: Iterable[Grant]) -> Iterator[MonitoredDevice]:
    for position, grant in enumerate(grants):
        yield MonitoredDevice(
            position, grant.device.uuid, grant.memory_mib, grant.cores_percent, grant.slot
        )


def _scheduled(record: Record, node: ScheduledNode, *, cooperative: bool) -> MonitoredContainer:
    pod = node.pods.by_uid(record.pod_uid)
    container = pod.container(record.container) if pod else None
    return MonitoredContainer(
        record.namespace,
        record.pod,
        record.pod_uid,
        record.container,
        f"{record.pod_uid}_{record.container}",
        tuple(
            MonitoredDevice(i, share.uuid, share.memory_mib, share.cores_percent, share.slot)
            for i, share in enumerate(record.shares)
        ),
        _priority(container.env if container else {}),
        cooperative,
    )


def _priority(env: Mapping[str, str]) -> int | None:
    text = env.get(PRIORITY, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None
