"""The cards of a node, by libxpuml; files of the kernel tell what it does not."""

from __future__ import annotations

from ctypes import c_void_p
from dataclasses import replace

from deviceplugin.vendor import DriverError, PhysicalDevice, Snapshot
from deviceplugin.vendor.sysfs import numa_node, pci_devices
from deviceplugin.vendors.kunlunxin.library import STATES, Xpuml
from deviceplugin.vendors.kunlunxin.topology import connected

MIB = 1 << 20
PCI_VENDOR = 0x1D22
MODELS = {0x3684: "P800", 0x3685: "P800", 0x3688: "P800"}
ARCHITECTURES = {1: "KL1", 2: "KL2", 3: "KL3"}

SAME_WING, ACROSS = 20, 10
"""Scores of links: inside a wing everybody is connected, across it is one link."""


def discover(root: str) -> Snapshot:
    """The cards, one that fails left out with its reason. Raises `DriverError`."""
    library = Xpuml(root)
    try:
        models = {d.address: MODELS.get(d.device, "") for d in pci_devices(root, PCI_VENDOR)}
        devices: dict[str, PhysicalDevice] = {}
        problems = []
        for index in range(library.count()):
            try:
                device = _device(library, library.handle(index), index, root, models)
            except DriverError as error:
                problems.append(f"card {index} is left out: {error}")
                continue
            if device.uuid in devices:
                problems.append(f"card {index} is left out: {device.uuid} is another card's place")
            else:
                devices[device.uuid] = device
        version = library.driver_version()
    finally:
        library.close()
    return Snapshot(
        tuple(_linked(device, devices) for device in devices.values()),
        {"driverVersion": version} if version else {},
        tuple(problems),
    )


def _device(
    library: Xpuml, handle: c_void_p, index: int, root: str, models: dict[str, str]
) -> PhysicalDevice:
    pci, attributes = library.pci(handle), library.attributes(handle)
    address = f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.{pci.function:x}"
    memory = library.memory(handle).total_global // MIB or attributes.global_memory_mib
    state = library.state(handle)
    architecture = ARCHITECTURES.get(attributes.arch_id, "")
    return PhysicalDevice(
        uuid=f"XPU-{address.replace(':', '-')}",
        index=str(index),
        model=models.get(address) or architecture or "XPU",
        memory_mib=int(memory) or None,
        numa_node=numa_node(root, address),
        device_nodes=(f"/dev/xpu{index}",),
        healthy=state not in STATES,
        reason=f"{STATES[state]} (state {state})" if state in STATES else "",
        attributes={"busId": address} | ({"architecture": architecture} if architecture else {}),
    )


def _linked(device: PhysicalDevice, devices: dict[str, PhysicalDevice]) -> PhysicalDevice:
    mine = int(device.index)
    links = {
        uuid: SAME_WING if mine // 4 == int(other.index) // 4 else ACROSS
        for uuid, other in devices.items()
        if uuid != device.uuid and connected(mine, int(other.index))
    }
    return replace(device, links=links)
