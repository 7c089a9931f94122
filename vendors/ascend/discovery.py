"""What the driver says of this node's NPUs, as the framework's devices. Runs in the probe.

Source: ascend-and-mock.md A.5.2, A.5.5, A.6.3. A chip that fails costs itself and no other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from deviceplugin.vendor import DriverError, PhysicalDevice, Snapshot, Usage, sysfs
from deviceplugin.vendors.ascend.chips import Chip
from deviceplugin.vendors.ascend.configuration import Configuration
from deviceplugin.vendors.ascend.library import AI_CORES, MEMORY_BANDWIDTH, Dcmi, Unit

__all__ = ["PHYSICAL", "snapshot_of", "unit_of", "usage_of"]

T = TypeVar("T")

PHYSICAL = "physicalId"
"""Attribute: the number of ``/dev/davinci<n>``, which ascend-docker-runtime is told."""
CARD, UNIT = "cardId", "deviceId"
"""Attributes: what ``npu-smi`` calls NPU and Chip."""

CHIP_TYPE = "Ascend"
MOST_TOLD = 8
"""Error codes in a reason."""


def snapshot_of(dcmi: Dcmi, configuration: Configuration, host_root: str) -> Snapshot:
    """All NPUs, by logic id. Raises `DriverError` where not even the cards are told."""
    devices: list[PhysicalDevice] = []
    problems = [*configuration.errors, *configuration.warnings]
    told = [str(problem) for problem in problems]
    for found in dcmi.units():
        if isinstance(found, DriverError):
            told.append(f"left out: {found}")
            continue
        try:
            device = _device(dcmi, found, configuration, host_root)
        except DriverError as error:
            told.append(f"{found} left out: {error}")
            continue
        if device is not None:
            devices.append(device)
    attributes = {}
    with contextlib.suppress(DriverError):
        attributes["dcmiVersion"] = dcmi.version()
    devices.sort(key=lambda device: int(device.index))
    return Snapshot(tuple(devices), attributes, tuple(told))


def usage_of(dcmi: Dcmi, devices: Iterable[PhysicalDevice]) -> Iterator[Usage]:
    """How busy these are, as far as the driver says."""
    for device in devices:
        unit = unit_of(device)
        memory = _told(partial(dcmi.memory_mib, unit))
        yield Usage(
            device.uuid,
            memory[1] if memory else None,
            _told(partial(dcmi.rate, unit, AI_CORES)),
            _told(partial(dcmi.rate, unit, MEMORY_BANDWIDTH)),
        )


def unit_of(device: PhysicalDevice) -> Unit:
    """Where a device is for the driver."""
    return Unit(int(device.attributes[CARD]), int(device.attributes[UNIT]))


def _told(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except DriverError:
        return None


def _device(
    dcmi: Dcmi, unit: Unit, configuration: Configuration, host_root: str
) -> PhysicalDevice | None:
    """The NPU at a place; None for what is no NPU or is hidden. Raises `DriverError`."""
    if unit.card in configuration.hidden_cards or not dcmi.is_npu(unit):
        return None
    kind, name = dcmi.chip(unit)
    chip = configuration.chip(name)
    if kind != CHIP_TYPE or chip is None:
        known = ", ".join(sorted({chip.name for chip in configuration.chips}))
        raise DriverError(
            f"no entry of vnpus has chipName {name!r} (type {kind!r}); known are {known}"
        )
    logic, physical = dcmi.ids(unit)
    # Old drivers know no die; the name is then that of the plugins before 1.1.
    uuid = dcmi.vdie(unit) or f"{chip.word}-{physical}"
    if uuid in configuration.hidden_uuids:
        return None
    reason = _ailment(dcmi, unit)
    return PhysicalDevice(
        uuid=uuid,
        index=str(logic),
        model=name,
        memory_mib=chip.memory_mib,
        numa_node=_numa_node(dcmi, unit, host_root),
        device_nodes=(f"/dev/davinci{physical}",),
        healthy=not reason,
        reason=reason,
        attributes=dict(_attributes(dcmi, unit, physical, chip)),
    )


def _ailment(dcmi: Dcmi, unit: Unit) -> str:
    """Why the NPU cannot be used; empty when it can. Only 0 is known to be good (A.5.5)."""
    try:
        state = dcmi.health(unit)
    except DriverError as error:
        return str(error)
    if not state:
        return ""
    codes: tuple[int, ...] = ()
    with contextlib.suppress(DriverError):
        codes = dcmi.error_codes(unit)
    shown = ", ".join(f"{code:#010x}" for code in codes[:MOST_TOLD])
    return f"its health is {state}, not 0" + (f"; error codes {shown}" if shown else "")


def _numa_node(dcmi: Dcmi, unit: Unit, host_root: str) -> int | None:
    bus = _told(partial(dcmi.bus, unit))
    return sysfs.numa_node(host_root, bus) if bus else None


def _attributes(dcmi: Dcmi, unit: Unit, physical: int, chip: Chip) -> Iterator[tuple[str, str]]:
    yield PHYSICAL, str(physical)
    yield CARD, str(unit.card)
    yield UNIT, str(unit.device)
    with contextlib.suppress(DriverError):
        yield "driverMemoryMiB", str(dcmi.memory_mib(unit)[0])
    if chip.paired:
        with contextlib.suppress(DriverError):
            yield "superPodId", str(dcmi.super_pod(unit))
