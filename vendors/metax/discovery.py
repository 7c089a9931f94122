"""The cards of a node, by libmxsml, or by the kernel where the library is not there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from deviceplugin.vendor import DriverError, PhysicalDevice, Snapshot
from deviceplugin.vendor.driver import text_of
from deviceplugin.vendor.sysfs import drm_nodes, numa_node, pci_devices
from deviceplugin.vendors.metax.configuration import Configuration
from deviceplugin.vendors.metax.library import Mxsml
from deviceplugin.vendors.metax.sgpufs import SgpuFiles

PCI_VENDOR = 0x9999
CONTROL = "/dev/mxcd"
OPTIONAL = ("/dev/mxgd", "/dev/mxnd")
BDF, POLICY, ZONE = "bdf", "qosPolicy", "linkZone"
LINKED = 100
KIB_IN_MIB = 1024


def discover(root: str, config: Configuration) -> Snapshot:
    """The cards, one that fails left out with its reason. Raises `DriverError`."""
    problems = list(config.problems)
    try:
        library = Mxsml(root)
    except DriverError as error:
        cards = list(_by_kernel(root))
        if not error.absent or not cards or not (Path(root) / CONTROL.lstrip("/")).exists():
            raise
        problems.append(f"{error}; memory and health are unknown")
    else:
        cards = list(_by_library(library, root, problems))
    common = tuple(p for p in (CONTROL, *OPTIONAL) if (Path(root) / p.lstrip("/")).exists())
    files = SgpuFiles(root, dry_run=True)
    found: dict[str, PhysicalDevice] = {}
    for card in cards:
        if card.uuid in found or not card.uuid:
            problems.append(f"card {card.index} is left out: its uuid {card.uuid!r:.60} is no name")
            continue
        found[card.uuid] = _finished(card, common, config, files)
    return Snapshot(tuple(_linked(d, found) for d in found.values()), {}, tuple(problems))


def _by_library(library: Mxsml, root: str, problems: list[str]) -> Iterator[PhysicalDevice]:
    for card in range(library.count()):
        try:
            info = library.info(card)
            reason = library.ailment(card)
            memory = library.memory(card).vram_total // KIB_IN_MIB
        except DriverError as error:
            problems.append(f"card {card} is left out: {error}")
            continue
        bdf = text_of(info.bdf).lower()
        nodes = drm_nodes(root, bdf)
        yield PhysicalDevice(
            uuid=text_of(info.uuid),
            index=str(card),
            model=text_of(info.name) or "MetaX",
            memory_mib=memory or None,
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
        POLICY: files.policy(card.attributes[BDF]) if config.is_shared(index) else "",
    }
    nodes = (*common, *card.device_nodes)
    return replace(card, device_nodes=nodes, attributes={k: v for k, v in facts.items() if v})


def _linked(device: PhysicalDevice, found: dict[str, PhysicalDevice]) -> PhysicalDevice:
    zone = device.attributes[ZONE]
    links = {
        uuid: LINKED
        for uuid, other in found.items()
        if uuid != device.uuid and zone != "0" and other.attributes[ZONE] == zone
    }
    return replace(device, links=links)
