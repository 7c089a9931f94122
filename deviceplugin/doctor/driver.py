"""The vendor's driver: its cards, module, libraries and device nodes, found and not loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deviceplugin.doctor.files import HostFiles
from deviceplugin.doctor.model import Finding, Group, NotCheckedError, Severity, Topic
from deviceplugin.doctor.scene import Driver, Scene

__all__ = ["GROUP", "DriverFacts", "cards"]

NAME = "driver"

MODULE_MISSING = Topic(
    "driver-module-missing",
    NAME,
    Severity.ERROR,
    "There are cards, and the driver's kernel module is not loaded.",
    "Nothing of the card can be used; the agent waits and offers no device.",
    "Install the driver, or load it (modprobe); see dmesg for why it does not load.",
)
MODULE_RIVAL = Topic(
    "driver-module-rival",
    NAME,
    Severity.ERROR,
    "Another kernel module has taken the cards.",
    "The driver's own module cannot bind to cards that another one holds.",
    "Blacklist the other module, make the initial ramdisk anew, and reboot.",
)
LIBRARY_MISSING = Topic(
    "driver-library-missing",
    NAME,
    Severity.ERROR,
    "A library of the driver is not below the driver's root.",
    "Without libnvidia-ml the agent cannot ask for devices, without libcuda containers cannot use "
    "them.",
    "Install the driver's libraries on the host, or name the root they are below "
    "(--nvidia-driver-root; /run/nvidia/driver under the GPU operator).",
)
ROOT_WRONG = Topic(
    "driver-root-wrong",
    NAME,
    Severity.ERROR,
    "The driver is below another root than the one configured.",
    "A driver container keeps its files below a root of its own; CDI specifications and the search "
    "for libraries go by the configured one and find nothing.",
    "Set --nvidia-driver-root (and mount that directory at --driver-root-ctr-path).",
)
VERSION_MISMATCH = Topic(
    "driver-version-mismatch",
    NAME,
    Severity.ERROR,
    "Library and kernel module of the driver have different versions.",
    "Every call ends with a version mismatch. The driver was updated, and its module is still the "
    "old one.",
    "Reboot the node, or unload and load the module.",
)
NODES_MISSING = Topic(
    "driver-nodes-missing",
    NAME,
    Severity.ERROR,
    "The driver's device nodes are missing.",
    "The module is loaded, but nobody has made the nodes in /dev that containers are given.",
    "Run nvidia-smi or nvidia-modprobe -u -c 0 on the host, best at every boot.",
)


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """`cards` are PCI addresses; `loaded` is the module's version, empty when it is not loaded.
    `libraries` maps names to where they are on the host, `elsewhere` roots to the names found
    there.
    """

    driver: Driver
    cards: tuple[str, ...]
    loaded: str
    rivals: tuple[str, ...]
    libraries: Mapping[str, str]
    elsewhere: Mapping[str, tuple[str, ...]]
    missing_nodes: tuple[str, ...]

    @property
    def expected(self) -> bool:
        """Whether a driver should be here."""
        return bool(self.cards or self.loaded)


def gather(scene: Scene) -> tuple[DriverFacts, ...]:
    """Look for every driver that the node could need."""
    if not scene.drivers:
        raise NotCheckedError("no vendor with a driver is served here")
    return tuple(_facts(scene.host, driver) for driver in scene.drivers)


def _facts(host: HostFiles, driver: Driver) -> DriverFacts:
    modules = {line.split(" ", 1)[0] for line in (host.read("/proc/modules") or "").splitlines()}
    found = {name: _find(host, driver, driver.root, name) for name in driver.libraries}
    elsewhere = {
        root: tuple(name for name in driver.libraries if _find(host, driver, root, name))
        for root in driver.other_roots
        if root != driver.root
    }
    return DriverFacts(
        driver,
        cards(host, driver.pci),
        _loaded(host, driver),
        tuple(sorted(modules & set(driver.rivals))),
        {name: path for name, path in found.items() if path},
        {root: names for root, names in elsewhere.items() if names},
        tuple(node for node in driver.nodes if not _has_node(host, driver.root, node)),
    )


def cards(host: HostFiles, vendor: str) -> tuple[str, ...]:
    """The display controllers and accelerators of a PCI vendor."""
    place = "/sys/bus/pci/devices"
    return tuple(
        address
        for address in host.names(place)
        if (host.read(f"{place}/{address}/vendor") or "").strip() == vendor
        and (host.read(f"{place}/{address}/class") or "").strip()[:4] in ("0x03", "0x12")
    )


def _loaded(host: HostFiles, driver: Driver) -> str:
    text = host.read(driver.version_file) or ""
    match = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", text)
    return match[1] if match else "unknown" if text else ""


def _find(host: HostFiles, driver: Driver, root: str, name: str) -> str:
    """Where a library really is below a root of the host; empty when it is not there."""
    for folder in driver.folders:
        place = HostFiles(host.root / root.strip("/")).place(f"/{folder}/{name}")
        if place is not None:
            return "/" + str(place.relative_to(host.root))
    return ""


def _has_node(host: HostFiles, root: str, node: str) -> bool:
    """Below the driver's root if it has a ``/dev``, else on the host."""
    own = root.rstrip("/")
    return host.exists(own + node if host.exists(f"{own}/dev") else node)


def _modules(facts: tuple[DriverFacts, ...]) -> Iterator[Finding]:
    for one in facts:
        name, cards = one.driver.module, len(one.cards)
        if not one.cards or one.loaded:
            continue
        seen = (f"cards of {one.driver.vendor} in PCI: {', '.join(one.cards[:4])}",)
        if one.rivals:
            yield MODULE_RIVAL.found(
                f"module {one.rivals[0]} is loaded and {name} is not",
                *seen,
                f"/proc/modules lists {', '.join(one.rivals)}",
            )
        else:
            yield MODULE_MISSING.found(
                f"module {name} is not loaded, and there are {cards} cards",
                *seen,
                f"{one.driver.version_file} does not exist",
            )


def _libraries(facts: tuple[DriverFacts, ...]) -> Iterator[Finding]:
    for one in facts:
        absent = [name for name in one.driver.libraries if name not in one.libraries]
        if not one.expected or not absent:
            continue
        root = one.driver.root
        whole = [r for r, names in one.elsewhere.items() if set(absent) <= set(names)]
        if whole:
            yield ROOT_WRONG.found(
                f"the driver's libraries are below {whole[0]}, not below {root}",
                f"not below {root}: {', '.join(absent)}",
                remedy=f"Set --nvidia-driver-root {whole[0]}, and mount that directory at "
                "--driver-root-ctr-path.",
            )
            continue
        for name in absent:
            folders = ", ".join(f"/{folder}" for folder in one.driver.folders)
            yield LIBRARY_MISSING.found(
                f"{name} is not below the driver root {root}", f"looked in {folders}"
            )


def _versions(facts: tuple[DriverFacts, ...]) -> Iterator[Finding]:
    for one in facts:
        for name, path in one.libraries.items():
            match = re.search(r"\.so\.(\d+(?:\.\d+)+)$", path)
            known = one.loaded not in ("", "unknown")
            if match and known and match[1] != one.loaded:
                yield VERSION_MISMATCH.found(
                    f"the kernel module is {one.loaded}, {name} is {match[1]}",
                    path,
                    one.driver.version_file,
                )


def _nodes(facts: tuple[DriverFacts, ...]) -> Iterator[Finding]:
    for one in facts:
        if one.loaded and one.missing_nodes:
            yield NODES_MISSING.found(
                f"device nodes of {one.driver.vendor} are missing", ", ".join(one.missing_nodes)
            )


GROUP = Group(
    NAME,
    (
        MODULE_MISSING,
        MODULE_RIVAL,
        LIBRARY_MISSING,
        ROOT_WRONG,
        VERSION_MISMATCH,
        NODES_MISSING,
    ),
    gather,
    (_modules, _libraries, _versions, _nodes),
)
