"""The cards of a node, by libixml: a board with two chips is one card unless it is to be split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from deviceplugin.vendor import DriverError, PhysicalDevice, Snapshot
from deviceplugin.vendor.devices import answering, linked
from deviceplugin.vendor.sysfs import numa_node, on_host
from deviceplugin.vendors.iluvatar.configuration import CHIPS, Configuration
from deviceplugin.vendors.iluvatar.library import HEALTH, Ixml

MIB = 1 << 20
CONTROL = "/dev/itrctl"
POSITION = "position"
"""The attribute of a chip that says where it is on its board."""

FIRST = "0"
SAME_BOARD = 60


def discover(root: str, config: Configuration) -> Snapshot:
    """The cards, one that fails left out with its reason. Raises `DriverError`."""
    problems: list[str] = []
    with Ixml.session(root) as library:
        ask = partial(_chip, library, root, config)
        chips = list(answering(range(library.count()), ask, problems, "chip"))
        whole = not config.split_board and library.tells_boards
        boards = list(_boards(library, chips)) if whole else [[chip] for chip in chips]
        control = (CONTROL,) if on_host(root, CONTROL).exists() else ()
        cards = linked([_card(board, control) for board in boards], partial(_near, library))
        version = library.driver_version()
    facts = {"driverVersion": version} if version else {}
    return Snapshot(cards, facts, (*config.problems, *problems))


def _chip(library: Ixml, root: str, config: Configuration, index: int) -> PhysicalDevice:
    model, health = library.name(index), library.health(index)
    if config.chip_of(model) is None:
        known = ", ".join(sorted(chip.name for chip in config.chips))
        raise DriverError(
            f"no entry of iluvatars has a chipName in its model {model!r:.60} (there are {known}); "
            "add one"
        )
    ills = [text for bit, text in HEALTH.items() if health & bit]
    return PhysicalDevice(
        uuid=library.uuid(index),
        index=str(index),
        model=model,
        memory_mib=library.memory(index).total // MIB or None,
        numa_node=numa_node(root, library.address(index)),
        device_nodes=(f"/dev/iluvatar{library.minor(index)}",),
        healthy=not health,
        reason=f"the driver reports {', '.join(ills) or hex(health)}" if health else "",
        attributes={POSITION: str(library.board_position(index))},
    )


def _boards(library: Ixml, chips: Sequence[PhysicalDevice]) -> Iterator[list[PhysicalDevice]]:
    """The chips by board, the first of each in front."""
    left = list(chips)
    while left:
        first = left.pop(0)
        same = [c for c in left if library.on_same_board(int(first.index), int(c.index))]
        left = [chip for chip in left if chip not in same]
        yield sorted([first, *same], key=lambda chip: int(chip.attributes[POSITION]))


def _card(chips: Sequence[PhysicalDevice], control: tuple[str, ...]) -> PhysicalDevice:
    master = chips[0]
    reason = next((chip.reason for chip in chips if not chip.healthy), "")
    if len(chips) == 1 and master.attributes[POSITION] != FIRST:
        reason = "the other chip of its board does not answer"
    return replace(
        master,
        memory_mib=sum(chip.memory_mib or 0 for chip in chips) or None,
        device_nodes=(*(node for chip in chips for node in chip.device_nodes), *control),
        healthy=not reason,
        reason=reason,
        attributes={CHIPS: ",".join(chip.uuid for chip in chips)},
    )


def _near(library: Ixml, one: PhysicalDevice, other: PhysicalDevice) -> int:
    level = library.common_ancestor(int(one.index), int(other.index))
    return 0 if level is None else SAME_BOARD - level
