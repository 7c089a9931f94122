"""The cards of a node, by librocm_smi64; the kernel tells their device nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType

from deviceplugin.vendor import DriverError, PhysicalDevice, Snapshot
from deviceplugin.vendor.sysfs import drm_nodes, numa_node
from deviceplugin.vendors.hygon.configuration import Configuration
from deviceplugin.vendors.hygon.library import RocmSmi
from deviceplugin.vendors.hygon.vdev import part

MIB = 1 << 20
ADDRESS, UNITS = "busId", "computeUnits"

MODELS = MappingProxyType(
    {
        0x51B7: "Z200SM_80",
        0x52B7: "ZIFANG 8182",
        0x54B7: "Z100",
        0x55B7: "Z100L",
        0x55C7: "Z200SM_71",
        0x55D7: "Z200SM_71_S",
        0x56B7: "Z200SM_81",
        0x57B7: "ZIFANG 8185",
        0x61A7: "K500SM_B",
        0x61B7: "K500SM",
        0x61C7: "K500SM_B",
        0x61D7: "K500SM",
        0x61E7: "K500SM",
        0x1D94: "K500SM",
        0x62B7: "K100",
        0x62C7: "K100-LC",
        0x6210: "K100_AI",
        0x6211: "K100_LC_E_AI",
        0x6212: "K100_LC_AI",
        0x6213: "K100_AI_i",
        0x6214: "HG Design DCU K500",
        0x61F7: "HG Design DCU K500",
        0x62A0: "K500SM_AI",
        0x62B0: "K500SM_AI",
    }
)
"""Names by PCI device id (4.5); others are called by the id."""

LINKED = 100
NO_SERIAL = frozenset({"", "N/A", "n/a", "unknown"})


def discover(root: str, config: Configuration) -> Snapshot:
    """The cards, one that fails left out with its reason. Raises `DriverError`."""
    library = RocmSmi(root)
    try:
        problems = list(config.problems)
        found: dict[str, PhysicalDevice] = {}
        for card in range(library.count()):
            try:
                device = _device(library, card, root, config)
            except DriverError as error:
                problems.append(f"card {card} is left out: {error}")
                continue
            uuid, told = _identity(library, card, device.attributes[ADDRESS], found)
            if told:
                problems.append(f"card {card}: {told}; it is called {uuid}")
            found[uuid] = replace(device, uuid=uuid)
        devices = tuple(replace(d, links=dict(_links(library, d, found))) for d in found.values())
    finally:
        library.close()
    return Snapshot(devices, {}, tuple(problems))


def _device(library: RocmSmi, card: int, root: str, config: Configuration) -> PhysicalDevice:
    address = library.address(card)
    number = library.device_id(card)
    model = MODELS.get(number, f"{number:04x}")
    units = config.compute_units.get(model, 0)
    nodes = drm_nodes(root, address)
    reason = "" if nodes else "the kernel has no /dev/dri nodes for it"
    memory = None
    try:
        memory = library.memory_total(card) // MIB
    except DriverError as error:
        reason = str(error)
    if memory == 0:
        raise DriverError("it reports no memory: reset it, or look at dmesg")
    numa = library.numa_node(card) if library.has("rsmi_topo_get_numa_node_number") else None
    return PhysicalDevice(
        uuid="",
        index=str(card),
        model=model,
        memory_mib=memory,
        numa_node=numa if numa is not None and numa < 1024 else numa_node(root, address),
        device_nodes=nodes,
        healthy=not reason,
        reason=reason,
        attributes={ADDRESS: address, UNITS: str(units)},
    )


def _identity(
    library: RocmSmi, card: int, address: str, taken: dict[str, PhysicalDevice]
) -> tuple[str, str]:
    """A uuid that lasts, and what is wrong where it is not made of the serial number."""
    try:
        serial = library.serial(card)
    except DriverError as error:
        serial, told = "", str(error)
    else:
        told = f"its serial number is {serial!r}"
    uuid = f"DCU-{part(serial)}"
    if serial not in NO_SERIAL and uuid not in taken:
        return uuid, ""
    if uuid in taken:
        told = f"its serial number {serial} is another card's"
    if library.has("rsmi_dev_unique_id_get"):
        try:
            uuid = f"DCU-{library.unique_id(card):016x}"
        except DriverError:
            uuid = ""
    if not uuid or uuid in taken:
        uuid = f"DCU-{part(address)}"
    return uuid, told


def _links(
    library: RocmSmi, device: PhysicalDevice, found: dict[str, PhysicalDevice]
) -> Iterator[tuple[str, int]]:
    if not library.has("rsmi_topo_get_link_type"):
        return
    for uuid, other in found.items():
        if uuid == device.uuid:
            continue
        try:
            if library.linked(int(device.index), int(other.index)):
                yield uuid, LINKED
        except DriverError:
            continue
