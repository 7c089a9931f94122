"""Usage as metrics: HAMi's names and labels, and our own beside them. Pure.

Source: hami-nvidia-node.md 7.4 and 7.6, deploy-observe-webui.md 2.3 and 2.4. Every label of a
container's series comes from its grant. Nothing is left out silently: of two equal series the first
one stays, and the others are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric

from deviceplugin.libvgpu import Memory
from deviceplugin.monitor.usage import MIB, STATES, ContainerUsage, DeviceUsage
from deviceplugin.monitor.values import HostDevice, Settings
from deviceplugin.series import ZONE, Labels, Series, build_info


@dataclass(frozen=True, slots=True)
class _Host:
    """A metric of a physical device under both names; None where a version has none."""

    old: str | None
    new: str | None
    old_help: str
    new_help: str
    value: Callable[[HostDevice], float | None]
    node: bool = True
    """Whether the new one says the node."""


@dataclass(frozen=True, slots=True)
class _Container:
    """A metric of a device in a container. `used` ones say how much is in use, which nobody knows
    of a container whose region cannot be read. `extra` are labels beyond the common five, under
    the old and under the new name.
    """

    old: str | None
    new: str | None
    old_help: str
    new_help: str
    value: Callable[[ContainerUsage, DeviceUsage, float], float | None]
    used: bool = True
    extra: tuple[Labels, Labels] = ((), ())
    extra_values: Callable[[DeviceUsage], Labels] = lambda _: ()
    legacy_extra: bool = False
    """Whether the labels carry values that change, and are there only when asked for."""


def _mib(amount: float | None) -> float | None:
    return None if amount is None else amount * MIB


def _kinds(memory: Memory) -> Labels:
    return str(memory.context), str(memory.module), str(memory.data), str(memory.offset)


def _since_last_kernel(usage: ContainerUsage, _: DeviceUsage, now: float) -> float | None:
    if usage.last_kernel_time is None:
        return None
    return max(int(now) - usage.last_kernel_time, 0)


_HOSTS = (
    _Host(
        "HostGPUMemoryUsage",
        "hami_host_gpu_memory_used_bytes",
        "GPU device memory usage",
        "Memory in use on a physical device, in bytes.",
        lambda device: _mib(device.used_mib),
    ),
    _Host(
        "HostCoreUtilization",
        "hami_host_gpu_utilization_ratio",
        "GPU core utilization",
        "Utilisation of a physical device's cores, in percent from 0 to 100.",
        lambda device: device.utilisation_percent,
    ),
    _Host(
        None,
        "hami_host_gpu_memory_controller_utilization_ratio",
        "",
        "Utilisation of a physical device's memory controller, in percent from 0 to 100.",
        lambda device: device.memory_controller_percent,
        node=False,
    ),
)
_CONTAINERS = (
    _Container(
        "vGPU_device_memory_usage_in_bytes",
        "hami_vgpu_memory_used_bytes",
        "vGPU device usage",
        "Device memory that a container uses, in bytes.",
        lambda _, device, __: device.memory.total,
    ),
    _Container(
        "vGPU_device_memory_limit_in_bytes",
        "hami_vgpu_memory_limit_bytes",
        "vGPU device limit",
        "Device memory that a container may use, in bytes; 0 without a limit.",
        lambda _, device, __: device.limit_bytes,
        used=False,
    ),
    _Container(
        "Device_memory_desc_of_container",
        "hami_container_device_memory_bytes",
        "Container device memory description",
        "Device memory that a container uses, in bytes, all kinds together.",
        lambda _, device, __: device.memory.total,
        extra=(
            ("context", "module", "data", "offset"),
            ("context_size", "module_size", "buffer_size", "offset"),
        ),
        extra_values=lambda device: _kinds(device.memory),
        legacy_extra=True,
    ),
    _Container(
        "Device_utilization_desc_of_container",
        "hami_container_device_utilization_ratio",
        "Container device utilization description",
        "Share of a device's cores that a container's processes use, in percent.",
        lambda _, device, __: device.utilisation.sm,
    ),
    _Container(
        "Device_last_kernel_of_container",
        "hami_container_last_kernel_elapsed_seconds",
        "Container device last kernel description",
        "Seconds since a container last started a kernel.",
        _since_last_kernel,
    ),
    _Container(
        "MigInfo",
        "hami_mig_device_info",
        "Mig device information for container",
        "Always 1: the hardware partition that a container holds.",
        lambda _, device, __: 1 if device.device.instance else None,
        used=False,
        extra=(("instanceid",), ("instance_id",)),
        extra_values=lambda device: (device.device.instance,),
    ),
    _Container(
        None,
        "hami_vgpu_memory_context_bytes",
        "",
        "Device memory of a container's contexts, in bytes.",
        lambda _, device, __: device.memory.context,
    ),
    _Container(
        None,
        "hami_vgpu_memory_module_bytes",
        "",
        "Device memory of a container's modules, in bytes.",
        lambda _, device, __: device.memory.module,
    ),
    _Container(
        None,
        "hami_vgpu_memory_buffer_bytes",
        "",
        "Device memory that a container has allocated, in bytes.",
        lambda _, device, __: device.memory.data,
    ),
)


def families(
    usages: Sequence[ContainerUsage],
    hosts: Sequence[HostDevice],
    now: float,
    node: str,
    settings: Settings,
    conflicts: Callable[[int], None] = lambda _: None,
) -> Iterator[Metric]:
    """The metrics of one scrape, one at a time. `now` is in Unix seconds; `conflicts` is told how
    many series were left out because an equal one was there before.
    """
    for series in _all(usages, hosts, now, node, settings):
        if series.conflicts:
            conflicts(series.conflicts)
        yield series.metric


def _all(
    usages: Sequence[ContainerUsage],
    hosts: Sequence[HostDevice],
    now: float,
    node: str,
    settings: Settings,
) -> Iterator[Series]:
    old, new = settings.names.old, settings.names.new
    yield build_info(settings.version, settings.revision, settings.build_date)
    cards = [device for device in hosts if not device.partition]
    for host in _HOSTS:
        if old and host.old:
            yield _old_host(host, host.old, cards)
        if new and host.new:
            yield _new_host(host, host.new, cards, node)
    for row in _CONTAINERS:
        if old and row.old:
            labels = ("podnamespace", "podname", "ctrname", "vdeviceid", "deviceuuid")
            yield _container(
                row, row.old, row.old_help, labels, row.extra[0], usages, now, settings
            )
        if new and row.new:
            labels = ("namespace", "pod", "container", "vdevice_index", "device_uuid")
            yield _container(
                row, row.new, row.new_help, labels, row.extra[1], usages, now, settings
            )
    yield from _own(usages, hosts)


def _old_host(row: _Host, name: str, hosts: Iterable[HostDevice]) -> Series:
    series = Series(name, row.old_help, ("deviceidx", "deviceuuid", "devicetype", "zone"))
    for device in hosts:
        series.add((device.index, device.uuid, device.type, ZONE), row.value(device))
    return series


def _new_host(row: _Host, name: str, hosts: Iterable[HostDevice], node: str) -> Series:
    leading = {"node": node} if row.node else {}
    labels = (*leading, "device_index", "device_uuid", "device_type", "zone")
    series = Series(name, row.new_help, labels)
    for device in hosts:
        place = (*leading.values(), device.index, device.uuid, device.type, ZONE)
        series.add(place, row.value(device))
    return series


def _container(
    row: _Container,
    name: str,
    text: str,
    labels: Labels,
    extra: Labels,
    usages: Iterable[ContainerUsage],
    now: float,
    settings: Settings,
) -> Series:
    extended = bool(extra) and (settings.legacy_labels or not row.legacy_extra)
    series = Series(name, text, (*labels, *(extra if extended else ()), "zone"))
    for usage in usages:
        if row.used and usage.problem is not None:
            continue
        owner = usage.container
        for device in usage.devices:
            series.add(
                (
                    owner.namespace,
                    owner.pod,
                    owner.container,
                    str(device.device.index),
                    device.device.uuid,
                    *(row.extra_values(device) if extended else ()),
                    ZONE,
                ),
                row.value(usage, device, now),
            )
    return series


def _own(usages: Sequence[ContainerUsage], hosts: Iterable[HostDevice]) -> Iterator[Series]:
    owner = ("namespace", "pod", "container")
    active = Series(
        "deviceplugin_isolation_active",
        "1 while a container's limits are those granted, 0 while they are not and why.",
        (*owner, "reason"),
    )
    unknown = Series(
        "deviceplugin_isolation_unknown",
        "1 while nobody can tell whether a container's limits are in force, and why.",
        (*owner, "reason"),
    )
    processes = Series(
        "deviceplugin_container_processes",
        "Live processes of a container that libvgpu knows.",
        owner,
    )
    doubts = Series(
        "deviceplugin_region_doubtful",
        "1 for a field of a container's region whose value cannot be true and is not believed.",
        (*owner, "field"),
    )
    for usage in usages:
        who = (usage.container.namespace, usage.container.pod, usage.container.container)
        verdict = usage.isolation
        series = unknown if verdict.active is None else active
        series.add((*who, verdict.reason.value), float(verdict.active is not False))
        if usage.problem is None:
            processes.add(who, len(usage.processes))
        for field in sorted(usage.doubts):
            doubts.add((*who, field), 1)
    yield from (active, unknown, processes, doubts)
    counted = Counter(usage.state for usage in usages)
    states = Series(
        "deviceplugin_monitor_containers", "Containers by what is known of their use.", ("state",)
    )
    for state in STATES:
        states.add((state,), counted[state])
    yield states
    total = Series(
        "deviceplugin_host_memory_total_bytes",
        "Memory of a physical device, in bytes.",
        ("device_index", "device_uuid", "device_type"),
    )
    partitions = Series(
        "deviceplugin_partition_memory_used_bytes",
        "Memory in use on a hardware partition of a device, in bytes; its device counts it too.",
        ("device_index", "device_uuid", "device_type"),
    )
    for device in hosts:
        labels = (device.index, device.uuid, device.type)
        if device.partition:
            partitions.add(labels, _mib(device.used_mib))
        else:
            total.add(labels, _mib(device.memory_total_mib))
    yield from (total, partitions)
