"""The cards of a node, by libxpuml; files of the kernel tell what it does not."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from deviceplugin.vendor import PhysicalDevice, Snapshot
from deviceplugin.vendor.devices import answering, linked
from deviceplugin.vendor.sysfs import address, numa_node, pci_devices
from deviceplugin.vendors.kunlunxin.library import STATES, Xpuml
from deviceplugin.vendors.kunlunxin.topology import WING, connected

MIB = 1 << 20
PCI_VENDOR = 0x1D22
MODELS = {0x3684: "P800", 0x3685: "P800", 0x3688: "P800"}
ARCHITECTURES = {1: "KL1", 2: "KL2", 3: "KL3"}

SAME_WING, ACROSS = 20, 10
"""Scores of links: inside a wing everybody is connected, across it is one link."""


def discover(root: str) -> Snapshot:
    """The cards, one that fails left out with its reason. Raises `DriverError`."""
    models = {card.address: MODELS.get(card.device, "") for card in pci_devices(root, PCI_VENDOR)}
    problems: list[str] = []
    with Xpuml.session(root) as library:
        ask = partial(_card, library, root, models)
        cards = list(answering(range(library.count()), ask, problems))
        version = library.driver_version()
    facts = {"driverVersion": version} if version else {}
    return Snapshot(linked(cards, _near), facts, tuple(problems))


def _card(library: Xpuml, root: str, models: Mapping[str, str], index: int) -> PhysicalDevice:
    pci, kind, state = library.pci(index), library.attributes(index), library.state(index)
    place = address(pci.domain, pci.bus, pci.device, pci.function)
    memory = library.memory(index).total_global // MIB or kind.global_memory_mib
    architecture = ARCHITECTURES.get(kind.arch_id, "")
    return PhysicalDevice(
        uuid=f"XPU-{place.replace(':', '-')}",
        index=str(index),
        model=models.get(place) or architecture or "XPU",
        memory_mib=int(memory) or None,
        numa_node=numa_node(root, place),
        device_nodes=(f"/dev/xpu{index}",),
        healthy=state not in STATES,
        reason=f"{STATES[state]} (state {state})" if state in STATES else "",
        attributes={"busId": place} | ({"architecture": architecture} if architecture else {}),
    )


def _near(one: PhysicalDevice, other: PhysicalDevice) -> int:
    mine, its = int(one.index), int(other.index)
    if not connected(mine, its):
        return 0
    return SAME_WING if mine // WING == its // WING else ACROSS
