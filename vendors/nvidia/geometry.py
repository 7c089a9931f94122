"""HAMi's MIG geometries: which partition a scheduler means, and what it takes to have it. Pure.

A *geometry* is one allowed partitioning of a whole card; flattened, with each profile as often as
it counts, it is the list of partitions in which schedulers count positions
(hami-nvidia-node.md 4.1, 4.2). A *layout* gives every position of that list a place on the card.
Positions are bound to profiles and places and never to the driver's order of MIG devices, which
has holes and is sorted differently (hami-nvidia-node.md 4.4).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from deviceplugin.api.hami.poddevices import MigSlot
from deviceplugin.api.hami_config import MigGeometry, MigModels, MigProfile

_SLOT = re.compile(r"(\d{1,4})-(\d{1,4})", re.ASCII)
_PROFILE = re.compile(r"((?:\d+c\.)?\d+g\.)(\d+)(gb.*)")


# --- what a scheduler means --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Match:
    """The table's row for a model: `by` is the substring that hit, `closer` a longer one of a later
    row that hits as well and is passed over, as HAMi's schedulers do.
    """

    row: MigModels
    by: str
    closer: str = ""


def match(model: str, table: Sequence[MigModels]) -> Match | None:
    """The first row of the table with a substring of the model; None for a model in no row."""
    hits = [(row, name) for row in table for name in row.models if name in model]
    if not hits:
        return None
    row, by = hits[0]
    others = (name for other, name in hits if other is not row)
    closest = max(others, key=len, default="")
    return Match(row, by, closest if len(closest) > len(by) else "")


def slot(text: str) -> MigSlot:
    """The slot ``geometry-position``. Raises `ValueError`."""
    found = _SLOT.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r:.40} names no MIG partition; it is written geometry-position")
    return MigSlot(int(found[1]), int(found[2]))


def flattened(geometry: MigGeometry) -> tuple[MigProfile, ...]:
    """The partitions of a geometry, each profile repeated by its count."""
    return tuple(profile for profile in geometry for _ in range(profile.count))


def partition(wanted: MigSlot, found: Match) -> MigProfile:
    """The profile of the partition that a slot means. Raises `ValueError` for one that the row
    does not have, which says that scheduler and node go by different tables.
    """
    geometries = found.row.geometries
    remedy = "give scheduler and node the same nvidia.knownMigGeometries"
    if wanted.geometry >= len(geometries):
        raise ValueError(
            f"geometry {wanted.geometry} of {found.by} is not known on this node, which has "
            f"{len(geometries)} of them: {remedy}"
        )
    partitions = flattened(geometries[wanted.geometry])
    if wanted.position >= len(partitions):
        raise ValueError(
            f"geometry {wanted.geometry} of {found.by} has {len(partitions)} partitions and no "
            f"position {wanted.position}: {remedy}"
        )
    return partitions[wanted.position]


def known_as(profile: str, names: Collection[str]) -> str:
    """The driver's name of a table's profile, empty when it has none such.

    Drivers have rounded memory differently over time (``7g.79gb``, ``7g.80gb``), so the one profile
    that differs by one GB and in nothing else is meant too.
    """
    if profile in names:
        return profile
    close = [name for name in names if _nearly(profile, name)]
    return close[0] if len(close) == 1 else ""


def _nearly(one: str, other: str) -> bool:
    first, second = _PROFILE.fullmatch(one), _PROFILE.fullmatch(other)
    if first is None or second is None:
        return False
    return (first[1], first[3]) == (second[1], second[3]) and abs(
        int(first[2]) - int(second[2])
    ) == 1


# --- where partitions stand --------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Placement:
    """The memory slices of a card from `start`, `size` of them."""

    start: int
    size: int

    def overlaps(self, other: Placement) -> bool:
        """Whether both have a slice in common."""
        return self.start < other.start + other.size and other.start < self.start + self.size


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A GPU instance by profile and placement, whether it exists or not."""

    profile: str
    placement: Placement

    def __str__(self) -> str:
        return f"{self.profile} at slice {self.placement.start}"


Layout: TypeAlias = tuple[Place, ...]
"""The place of each position of a flattened geometry."""


class State(StrEnum):
    """What compute instances a GPU instance has."""

    BARE = "bare"
    """None: half-made, and of no use to anybody."""
    WHOLE = "whole"
    """One that is all of it: a MIG device."""
    DIVIDED = "divided"
    """Others, which no geometry has."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A GPU instance that exists, as the driver tells. `uuids` are its MIG devices and `pids` the
    processes that use them.
    """

    place: Place
    id: int
    state: State
    uuids: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()

    def __str__(self) -> str:
        name = ", ".join(self.uuids) or f"GPU instance {self.id}"
        return f"{name} ({self.place})"


def layout(
    names: Sequence[str],
    possible: Mapping[str, Sequence[Placement]],
    kept: Collection[Place],
    remembered: Layout = (),
) -> Layout | None:
    """A place for each of these profiles such that those in `kept` keep theirs; None when there is
    no such layout.

    A profile's positions follow its places from the lowest slice up, so that equal cards always
    get the equal answer. A layout that was in force before wins where it still can be.
    """
    same_profiles = [place.profile for place in remembered] == list(names)
    if same_profiles and set(kept) <= set(remembered):
        return remembered
    missing = Counter(names)
    missing.subtract(place.profile for place in kept)
    if any(count < 0 for count in missing.values()):
        return None
    ordered = sorted(missing.elements(), key=lambda name: (-_size(name, possible), name))
    chosen = next(_placed(ordered, possible, tuple(kept)), None)
    if chosen is None:
        return None
    by_profile = {name: iter(sorted(p for p in chosen if p.profile == name)) for name in names}
    return tuple(next(by_profile[name]) for name in names)


def _placed(
    names: Sequence[str], possible: Mapping[str, Sequence[Placement]], taken: Layout
) -> Iterator[Layout]:
    """All ways to add these profiles to what is taken, large ones first, from low slices up."""
    if not names:
        yield taken
        return
    name, rest = names[0], names[1:]
    for placement in sorted(possible.get(name, ())):
        if any(placement.overlaps(place.placement) for place in taken):
            continue
        # Instances of one profile are alike: only their ascending order is looked at.
        left = {**possible, name: [other for other in possible[name] if other > placement]}
        yield from _placed(rest, left, (*taken, Place(name, placement)))


def _size(name: str, possible: Mapping[str, Sequence[Placement]]) -> int:
    return max((placement.size for placement in possible.get(name, ())), default=0)


# --- what has to be done -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Work:
    """The way from what stands on a card to a layout. `destroy` is everything that stands, or
    nothing: a card is partitioned anew as a whole.
    """

    layout: Layout
    destroy: tuple[Standing, ...] = ()
    complete: tuple[Standing, ...] = ()
    """Half-made ones at places of the layout."""
    create: tuple[Place, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.destroy or self.complete or self.create)


def work(
    names: Sequence[str],
    possible: Mapping[str, Sequence[Placement]],
    standing: Sequence[Standing],
    remembered: Layout = (),
) -> Work:
    """What makes a card have these profiles, by the driver's names, with as little as can be.

    Raises `ValueError` for profiles that the card cannot have side by side.
    """
    found = None
    if all(each.state is not State.DIVIDED for each in standing):
        found = layout(names, possible, [each.place for each in standing], remembered)
    if found is not None:
        places = {each.place for each in standing}
        return Work(
            found,
            complete=tuple(each for each in standing if each.state is State.BARE),
            create=tuple(place for place in found if place not in places),
        )
    found = layout(names, possible, (), remembered)
    if found is None:
        shown = ", ".join(f"{count} x {name}" for name, count in Counter(names).items())
        raise ValueError(f"the card cannot hold {shown} side by side")
    return Work(found, destroy=tuple(standing), create=found)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who else has a partition of the card, by its slot, and by its uuid where that is known."""

    slot: str
    owner: str
    uuid: str = ""


def rivalry(wanted: MigSlot, holders: Sequence[Holder]) -> str:
    """Why a slot cannot be given beside what others hold of the card; empty when it can."""
    for holder in holders:
        try:
            held = slot(holder.slot)
        except ValueError:
            return f"{holder.owner} holds it as a whole"
        if held == wanted:
            return f"{holder.owner} holds this very partition, {holder.slot}"
        if held.geometry != wanted.geometry:
            return f"{holder.owner} holds partition {holder.slot}, which is of another geometry"
    return ""


def refusal(todo: Work, standing: Sequence[Standing], holders: Sequence[Holder] | None) -> str:
    """Why the work must not be done, naming who is in the way; empty when nobody is.

    `holders` passed `rivalry`, or are None when nobody said who they are: nothing is destroyed
    then.
    """
    for holder in holders or ():
        for each in standing:
            if holder.uuid in each.uuids and each.place not in _belonging(holder, todo.layout):
                return (
                    f"{holder.owner} uses {each}, which is not where partition {holder.slot} "
                    "belongs: somebody else changed the GPU"
                )
    if not todo.destroy:
        return ""
    if holders is None:
        return "it has another geometry, and the request does not say who holds partitions of it"
    busy = [f"partition {holder.slot} is held by {holder.owner}" for holder in holders]
    for each in todo.destroy:
        busy += [f"{each} is used by process {', '.join(map(str, each.pids))}"] if each.pids else []
    return f"it has another geometry, and {'; '.join(busy)}" if busy else ""


def _belonging(holder: Holder, found: Layout) -> Layout:
    """Where a holder's partition is in a layout: one place, or none."""
    position = slot(holder.slot).position
    return found[position : position + 1]
