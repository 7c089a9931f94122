"""The cards of a node, by librocm_smi64; the kernel tells their device nodes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from deviceplugin.vendor import DriverError, PhysicalDevice, Snapshot
from deviceplugin.vendor.devices import answering, linked, told
from deviceplugin.vendor.sysfs import drm_nodes, numa_node, on_host, pci_devices
from deviceplugin.vendors.hygon.configuration import ADDRESS, UNITS, Configuration
from deviceplugin.vendors.hygon.library import RocmSmi

MIB = 1 << 20
PCI_VENDOR = 0x1D94
MOST_NUMA_NODES = 1024

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
_SERIAL = re.compile(r"(?!0+$)[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_NO_SERIAL = frozenset({"na", "none", "null", "unknown"})


@dataclass(frozen=True, slots=True)
class _Card:
    """A card before it has a name; `names` are those that it could have, the best first."""

    device: PhysicalDevice
    serial: str
    names: tuple[str, ...]


class Discovery:
    """Looks at a node's cards. What a card said of itself while it answered is remembered, so that
    one that fails stays the same card.
    """

    def __init__(self, root: str, config: Configuration) -> None:
        self._root, self._config = root, config
        self._memory_mib: dict[str, int] = {}
        self._shared_names: set[str] = set()

    def look(self) -> Snapshot:
        """The cards, one that cannot be told apart from no card left out with its reason.

        Raises `DriverError`.
        """
        problems = [*self._config.problems, *self._missing_directories()]
        places: set[str] = set()
        with RocmSmi.session(self._root) as library:
            ask = partial(self._card, library, places, _control(self._root))
            found = list(answering(range(library.count()), ask, problems))
            devices = linked(list(self._named(found, problems)), partial(_near, library))
        problems += [*self._undivided(devices), *self._unlisted(places)]
        return Snapshot(devices, {}, tuple(problems))

    def _card(self, library: RocmSmi, places: set[str], control: str, index: int) -> _Card:
        address = library.address(index)
        places.add(address)
        number = library.device_id(index)
        model = MODELS.get(number, f"{number:04x}")
        nodes = drm_nodes(self._root, address)
        reason = control or ("" if nodes else "the kernel has no /dev/dri nodes for it")
        try:
            memory = library.memory_total(index) // MIB
        except DriverError as error:
            reason = reason or str(error)
        else:
            if not memory:
                raise DriverError("it reports no memory: reset it, or look at dmesg")
            self._memory_mib[address] = memory
        device = PhysicalDevice(
            uuid="",
            index=str(index),
            model=model,
            memory_mib=self._memory_mib.get(address),
            numa_node=_numa_node(library, self._root, address, index),
            device_nodes=nodes,
            healthy=not reason,
            reason=reason,
            attributes={ADDRESS: address, UNITS: str(self._config.compute_units.get(model, 0))},
        )
        serial = told(partial(library.serial, index)) or ""
        names = (
            [f"DCU-{serial}"]
            if _SERIAL.fullmatch(serial) and serial.lower() not in _NO_SERIAL
            else []
        )
        if unique := told(partial(library.unique_id, index)):
            names.append(f"DCU-{unique:016x}")
        return _Card(device, serial, (*names, f"DCU-{address.replace(':', '-')}"))

    def _named(self, cards: Sequence[_Card], problems: list[str]) -> Iterator[PhysicalDevice]:
        """Every card by the best of its names that no other card has, or had of late: else cards
        would swap their names when one of them drops.
        """
        owners = Counter(name for card in cards for name in card.names)
        self._shared_names |= {name for name, count in owners.items() if count > 1}
        for card in cards:
            uuid = next(n for n in (*card.names, "") if n not in self._shared_names)
            if not uuid:
                problems.append(
                    f"card {card.device.index} is left out: another has its place on the bus, "
                    f"{card.device.attributes[ADDRESS]}"
                )
                continue
            if uuid != f"DCU-{card.serial}":
                shared = f"DCU-{card.serial}" in self._shared_names
                why = "is another card's too" if shared else "is none"
                problems.append(
                    f"card {card.device.index}: its serial number {card.serial!r:.60} {why}; it is "
                    f"called {uuid}"
                )
            yield replace(card.device, uuid=uuid)

    def _undivided(self, devices: Sequence[PhysicalDevice]) -> Iterator[str]:
        for model in sorted({d.model for d in devices if d.attributes[UNITS] == "0"}):
            if self._config.splits > 1:
                yield (
                    f"cards {model!r} are handed out whole only: how many compute units they have "
                    f"is not known; write it down (hygon.computeUnits, {model!r})"
                )

    def _unlisted(self, places: set[str]) -> Iterator[str]:
        """Cards that the kernel has and the library does not. A processor of the same maker has
        functions on the bus too, which are no cards.
        """
        for function in pci_devices(self._root, PCI_VENDOR):
            is_card = function.device in MODELS or drm_nodes(self._root, function.address)
            if is_card and function.address not in places:
                yield (
                    f"the driver does not list the card at {function.address}: look for it with "
                    "hy-smi and in dmesg"
                )

    def _missing_directories(self) -> Iterator[str]:
        for path, what in (
            (self._config.toolkit, "hygon.toolkitRoot"),
            (self._config.hyhal, "hygon.hyhalRoot"),
        ):
            if path and not on_host(self._root, path).is_dir():
                yield (
                    f"{path}, which containers get, is not on this node: install it, or name its "
                    f"directory ({what})"
                )


def _control(root: str) -> str:
    """Why no container could use any card; empty when nothing is in the way."""
    if not on_host(root, "/dev/mkfd").exists():
        return "/dev/mkfd is not there: load the driver"
    try:
        os.close(os.open(on_host(root, "/dev/kfd"), os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/kfd cannot be opened ({error.strerror}): see dmesg"
    return ""


def _numa_node(library: RocmSmi, root: str, address: str, index: int) -> int | None:
    number = told(partial(library.numa_node, index))
    known = number is not None and number < MOST_NUMA_NODES
    return number if known else numa_node(root, address)


def _near(library: RocmSmi, one: PhysicalDevice, other: PhysicalDevice) -> int:
    return LINKED if told(partial(library.linked, int(one.index), int(other.index))) else 0
