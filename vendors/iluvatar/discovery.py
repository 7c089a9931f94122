"""The cards of a node, by libixml: a board with two chips is one card unless it is to be split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ctypes import c_void_p
from dataclasses import dataclass, replace
from pathlib import Path

from deviceplugin.vendor import DriverError, PhysicalDevice, Snapshot
from deviceplugin.vendor.sysfs import numa_node
from deviceplugin.vendors.iluvatar.configuration import Configuration
from deviceplugin.vendors.iluvatar.library import HEALTH, Ixml

MIB = 1 << 20
CONTROL = "/dev/itrctl"
CHIPS = "chips"
"""The attribute with the uuids of a card's chips, joined by commas."""

SAME_BOARD = 60


@dataclass(frozen=True, slots=True)
class _Chip:
    handle: c_void_p
    device: PhysicalDevice
    position: int


def discover(root: str, config: Configuration) -> Snapshot:
    """The cards, one that fails left out with its reason. Raises `DriverError`."""
    library = Ixml(root)
    try:
        problems: list[str] = []
        chips = list(_chips(library, root, config, problems))
        cards = (
            [[chip] for chip in chips]
            if config.split_board or not library.has("nvmlDeviceOnSameBoard")
            else list(_boards(library, chips))
        )
        links = _links(library, cards)
        version = library.driver_version() if library.has("nvmlSystemGetDriverVersion") else ""
    finally:
        library.close()
    control = (CONTROL,) if (Path(root) / CONTROL.lstrip("/")).exists() else ()
    return Snapshot(
        tuple(_card(card, control, links) for card in cards),
        {"driverVersion": version} if version else {},
        (*config.problems, *problems),
    )


def _chips(library: Ixml, root: str, config: Configuration, problems: list[str]) -> Iterator[_Chip]:
    seen: set[str] = set()
    for index in range(library.count()):
        try:
            chip = _chip(library, library.handle(index), index, root)
        except DriverError as error:
            problems.append(f"chip {index} is left out: {error}")
            continue
        device = chip.device
        if not device.uuid or device.uuid in seen:
            what = f"its uuid {device.uuid} is another's" if device.uuid else "it has no uuid"
            problems.append(f"chip {index} is left out: {what}")
        elif config.chip_of(device.model) is None:
            known = ", ".join(sorted(chip.name for chip in config.chips))
            problems.append(
                f"chip {index} is left out: no entry of iluvatars has a chipName in its model "
                f"{device.model!r:.60} (there are {known}); add one"
            )
        else:
            seen.add(device.uuid)
            yield chip


def _chip(library: Ixml, handle: c_void_p, index: int, root: str) -> _Chip:
    minor = library.minor(handle)
    health = library.health(handle) if library.has("ixmlDeviceGetHealth") else 0
    ills = [text for bit, text in HEALTH.items() if health & bit]
    device = PhysicalDevice(
        uuid=library.uuid(handle),
        index=str(index),
        model=library.name(handle),
        memory_mib=library.memory(handle).total // MIB or None,
        numa_node=numa_node(root, library.address(handle)),
        device_nodes=(f"/dev/iluvatar{minor}",),
        healthy=not health,
        reason=f"the driver reports {', '.join(ills) or hex(health)}" if health else "",
    )
    position = library.board_position(handle) if library.has("ixmlDeviceGetBoardPosition") else 0
    return _Chip(handle, device, position)


def _boards(library: Ixml, chips: Sequence[_Chip]) -> Iterator[list[_Chip]]:
    """The chips by board, the first of each in front."""
    left = list(chips)
    while left:
        first = left.pop(0)
        same = [chip for chip in left if library.on_same_board(first.handle, chip.handle)]
        left = [chip for chip in left if chip not in same]
        yield sorted([first, *same], key=lambda chip: chip.position)


def _card(
    chips: Sequence[_Chip], control: tuple[str, ...], links: dict[tuple[str, str], int]
) -> PhysicalDevice:
    master = chips[0].device
    ill = next((chip.device for chip in chips if not chip.device.healthy), None)
    memory = sum(chip.device.memory_mib or 0 for chip in chips)
    card = replace(
        master,
        memory_mib=memory or None,
        device_nodes=(*(node for chip in chips for node in chip.device.device_nodes), *control),
        links={other: score for (one, other), score in links.items() if one == master.uuid},
        attributes={CHIPS: ",".join(chip.device.uuid for chip in chips)},
    )
    if chips[0].position != 0 and len(chips) == 1:
        reason = "the other chip of its board does not answer"
        return replace(card, healthy=False, reason=reason)
    return card if ill is None else replace(card, healthy=False, reason=ill.reason)


def _links(library: Ixml, cards: Sequence[Sequence[_Chip]]) -> dict[tuple[str, str], int]:
    """Scores between cards, higher the nearer."""
    if not library.has("nvmlDeviceGetTopologyCommonAncestor"):
        return {}
    found = {}
    for one in cards:
        for other in cards:
            if one is not other:
                level = library.common_ancestor(one[0].handle, other[0].handle)
                pair = (one[0].device.uuid, other[0].device.uuid)
                found[pair] = SAME_BOARD - level
    return found
