"""What the driver says of this node's NPUs, as the framework's devices. Runs in the probe.

Source: ascend-and-mock.md A.5.2, A.5.5, A.6.3. A chip that fails costs itself and no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from deviceplugin.vendor import DriverError, PhysicalDevice, Snapshot, Usage, sysfs
from deviceplugin.vendor.devices import answering, told
from deviceplugin.vendors.ascend.chips import Chip
from deviceplugin.vendors.ascend.configuration import Configuration
from deviceplugin.vendors.ascend.library import AI_CORES, MEMORY_BANDWIDTH, Dcmi, Unit

__all__ = ["PHYSICAL", "snapshot_of", "unit_of", "usage_of"]

PHYSICAL = "physicalId"
"""Attribute: the number of ``/dev/davinci<n>``, which ascend-docker-runtime is told."""
CARD, UNIT = "cardId", "deviceId"
"""Attributes: what ``npu-smi`` calls NPU and Chip."""

CHIP_TYPE = "Ascend"
MOST_TOLD = 8
"""Error codes in a reason."""


def snapshot_of(dcmi: Dcmi, configuration: Configuration, host_root: str) -> Snapshot:
    """All NPUs, by logic id. Raises `DriverError` where not even the cards are told."""
    problems = [str(problem) for problem in (*configuration.errors, *configuration.warnings)]
    ask = partial(_device, dcmi, configuration, host_root)
    found = answering(dcmi.units(problems), ask, problems, "NPU of")
    devices = [device for device in found if device is not None]
    by_index = tuple(sorted(devices, key=lambda device: int(device.index)))
    version = told(dcmi.version)
    return Snapshot(by_index, {"dcmiVersion": version} if version else {}, tuple(problems))


def usage_of(dcmi: Dcmi, devices: Iterable[PhysicalDevice]) -> Iterator[Usage]:
    """How busy these are, as far as the driver says."""
    for device in devices:
        unit = unit_of(device)
        memory = told(partial(dcmi.memory_mib, unit))
        yield Usage(
            device.uuid,
            memory[1] if memory else None,
            told(partial(dcmi.rate, unit, AI_CORES)),
            told(partial(dcmi.rate, unit, MEMORY_BANDWIDTH)),
        )


def unit_of(device: PhysicalDevice) -> Unit:
    """Where a device is for the driver."""
    return Unit(int(device.attributes[CARD]), int(device.attributes[UNIT]))


def _device(
    dcmi: Dcmi, configuration: Configuration, host_root: str, unit: Unit
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
    codes = told(partial(dcmi.error_codes, unit)) or ()
    shown = ", ".join(f"{code:#010x}" for code in codes[:MOST_TOLD])
    return f"its health is {state}, not 0" + (f"; error codes {shown}" if shown else "")


def _numa_node(dcmi: Dcmi, unit: Unit, host_root: str) -> int | None:
    bus = told(partial(dcmi.bus, unit))
    return sysfs.numa_node(host_root, bus) if bus else None


def _attributes(dcmi: Dcmi, unit: Unit, physical: int, chip: Chip) -> Iterator[tuple[str, str]]:
    yield PHYSICAL, str(physical)
    yield CARD, str(unit.card)
    yield UNIT, str(unit.device)
    if memory := told(partial(dcmi.memory_mib, unit)):
        yield "driverMemoryMiB", str(memory[0])
    if chip.paired and (pod := told(partial(dcmi.super_pod, unit))) is not None:
        yield "superPodId", str(pod)
