"""What discoveries and node halves have in common: cards that answer, their links, their shares and
what containers get of them. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from deviceplugin.vendor import (
    DeviceNode,
    DriverError,
    Grant,
    PhysicalDevice,
    Sharing,
    Snapshot,
    Split,
    VendorSettings,
)

__all__ = [
    "READ_ONLY",
    "READ_WRITE",
    "answering",
    "apart",
    "linked",
    "nodes_of",
    "shares_of",
    "told",
]

T = TypeVar("T")
U = TypeVar("U")

READ_ONLY = ("ro", "nosuid", "nodev", "bind")
READ_WRITE = ("rw", "nosuid", "nodev", "bind")
"""Options of a mount that brings a file or directory of the host and nothing else."""


# --- finding them ------------------------------------------------------------------------------


def answering(
    items: Iterable[T], ask: Callable[[T], U], problems: list[str], what: str = "card"
) -> Iterator[U]:
    """What the driver says of each; one that fails is left out, with its reason in `problems`."""
    for item in items:
        try:
            found = ask(item)
        except DriverError as error:
            problems.append(f"{what} {item} is left out: {error}")
        else:
            yield found


def told(ask: Callable[[], T]) -> T | None:
    """What the driver says; None where it fails, for what devices can do without."""
    try:
        return ask()
    except DriverError:
        return None


def linked(
    devices: Sequence[PhysicalDevice], score: Callable[[PhysicalDevice, PhysicalDevice], int]
) -> tuple[PhysicalDevice, ...]:
    """The devices with their links: how near another is, 0 where they have none."""
    return tuple(
        replace(
            one,
            links={
                other.uuid: near
                for other in devices
                if other is not one and (near := score(one, other))
            },
        )
        for one in devices
    )


# --- offering them -----------------------------------------------------------------------------


def apart(snapshot: Snapshot, chosen: Container[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The uuids of the cards whose index is not chosen, and of those whose is, in order."""
    found = snapshot.by_index
    return (
        tuple(device.uuid for device in found if int(device.index) not in chosen),
        tuple(device.uuid for device in found if int(device.index) in chosen),
    )


def shares_of(
    count: int,
    settings: VendorSettings,
    *,
    separator: str = "-",
    limited: bool = False,
    together: bool = False,
) -> Split:
    """A device in so many shares, whole with 1. By the operator's word (``isolation: none``) shares
    are turns on all of it, unless they are `limited` in any case.
    """
    if count == 1:
        return Split()
    limits = limited or settings.enforce_isolation
    sharing = Sharing.LIMITED if limits else Sharing.TIME_SLICING
    return Split(count, separator, sharing, together=together)


# --- handing them over -------------------------------------------------------------------------


def nodes_of(grants: Iterable[Grant], *common: str) -> tuple[DeviceNode, ...]:
    """The nodes of the granted devices and those that all containers get, each once."""
    paths = [path for grant in grants for path in grant.device.device_nodes]
    return tuple(DeviceNode(path, permissions="rw") for path in dict.fromkeys((*paths, *common)))
