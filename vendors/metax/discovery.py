"""The cards of a node, by libmxsml, or by the kernel where the library is not there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from deviceplugin.vendor import DriverError, PhysicalDevice, Snapshot
from deviceplugin.vendor.devices import answering, linked
from deviceplugin.vendor.driver import text_of
from deviceplugin.vendor.sysfs import drm_nodes, numa_node, on_host, pci_devices
from deviceplugin.vendors.metax.configuration import Configuration
from deviceplugin.vendors.metax.library import Mxsml
from deviceplugin.vendors.metax.sgpufs import SgpuFiles

PCI_VENDOR = 0x9999
CONTROL = "/dev/mxcd"
OPTIONAL = ("/dev/mxgd", "/dev/mxnd")
BDF, POLICY, ZONE = "bdf", "qosPolicy", "linkZone"
"""Attributes: a card's place on the bus, the policy of its sGPUs, its group of links."""

LINKED = 100
KIB_IN_MIB = 1024


def discover(root: str, config: Configuration) -> Snapshot:
    """The cards, one that fails left out with its reason. Raises `DriverError`."""
    problems = list(config.problems)
    try:
        library = Mxsml.opened(root)
    except DriverError as error:
        found = list(_by_kernel(root))
        if not error.absent or not found or not on_host(root, CONTROL).exists():
            raise
        problems.append(f"{error}; memory and health are unknown")
    else:
        ask = partial(_by_library, library, root)
        found = list(answering(range(library.count()), ask, problems))
    common = tuple(path for path in (CONTROL, *OPTIONAL) if on_host(root, path).exists())
    files = SgpuFiles(root, dry_run=True)
    cards = [_finished(card, common, config, files) for card in found]
    return Snapshot(linked(cards, _near), {}, tuple(problems))


def _by_library(library: Mxsml, root: str, card: int) -> PhysicalDevice:
    info, reason = library.info(card), library.ailment(card)
    bdf = text_of(info.bdf).lower()
    nodes = drm_nodes(root, bdf)
    return PhysicalDevice(
        uuid=text_of(info.uuid),
        index=str(card),
        model=text_of(info.name) or "MetaX",
        memory_mib=library.memory(card).vram_total // KIB_IN_MIB or None,
        numa_node=numa_node(root, bdf),
        device_nodes=nodes,
        healthy=not reason and bool(nodes),
        reason=reason or ("" if nodes else f"the kernel has no /dev/dri nodes for {bdf}"),
        attributes={BDF: bdf},
    )


def _by_kernel(root: str) -> Iterator[PhysicalDevice]:
    for number, device in enumerate(pci_devices(root, PCI_VENDOR)):
        nodes = drm_nodes(root, device.address)
        if nodes:
            yield PhysicalDevice(
                uuid=f"MX-{device.address.replace(':', '-')}",
                index=str(number),
                model="MetaX",
                numa_node=device.numa_node,
                device_nodes=nodes,
                attributes={BDF: device.address},
            )


def _finished(
    card: PhysicalDevice, common: tuple[str, ...], config: Configuration, files: SgpuFiles
) -> PhysicalDevice:
    index = int(card.index)
    facts = {
        **card.attributes,
        ZONE: str(config.link_zone(index)),
        POLICY: files.policy(card.attributes[BDF]) if index in config.shared else "",
    }
    nodes = (*common, *card.device_nodes)
    return replace(card, device_nodes=nodes, attributes={k: v for k, v in facts.items() if v})


def _near(one: PhysicalDevice, other: PhysicalDevice) -> int:
    zone = one.attributes[ZONE]
    return LINKED if zone == other.attributes[ZONE] != "0" else 0
