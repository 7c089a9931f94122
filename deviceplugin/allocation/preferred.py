"""Which of the free ids go together best: the answer to GetPreferredAllocation. Pure.

*Aligned*, for exclusive devices: the ids whose devices are connected best (kubelet-deviceplugin.md
4.8). *Distributed* and *packed*, for shared ones: each further id comes from the device that is
least, or most, in use; links and NUMA nodes break ties. *Together*, where the split says so: all of
them from one device, the fullest that has so many, else from as few as can be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations

from deviceplugin.splitting import Table
from deviceplugin.vendor import PhysicalDevice, Sharing

SAME_NUMA_SCORE = 15
"""What sharing a NUMA node counts where the driver reports no link: between NVIDIA's scores for
the same machine (10) and the same CPU (20)."""

EXACT_UP_TO = 8
"""With at most this many free devices every partition is looked at; above, greedily."""


class NotEnoughDevicesError(ValueError):
    """Fewer ids are on offer than asked for; no advice can be right."""


def preferred(
    table: Table,
    available: Sequence[str],
    must_include: Sequence[str],
    size: int,
    policy: str = "distributed",
) -> tuple[str, ...]:
    """`size` ids out of `available`, all of `must_include` among them.

    Ids that the table does not know are not chosen unless they must be. `policy` is
    ``distributed`` or ``packed`` and concerns shared devices only. The answer depends on the sets
    of ids and not on their order. Raises `NotEnoughDevicesError`.
    """
    required = tuple(dict.fromkeys(must_include))
    taken = set(required)
    order = {identity: position for position, identity in enumerate(table.virtual)}
    free = sorted({i for i in available if i in order and i not in taken}, key=order.__getitem__)
    missing = size - len(required)
    if missing <= 0:
        return required
    if missing > len(free):
        raise NotEnoughDevicesError("not enough available devices to satisfy allocation")
    known = [identity for identity in required if identity in order]
    if all(table.virtual[i].split.sharing is Sharing.EXCLUSIVE for i in (*free, *known)):
        return required + _aligned(table, free, known, missing)
    if any(table.virtual[i].split.together for i in free):
        return required + _together(table, free, known, missing)
    return required + _greedy(table, free, known, missing, packed=policy == "packed")


def pair_score(one: PhysicalDevice, other: PhysicalDevice) -> int:
    """How well two devices are connected; the higher the better."""
    link = max(one.links.get(other.uuid, 0), other.links.get(one.uuid, 0))
    if link:
        return link
    return SAME_NUMA_SCORE if one.numa_node is not None and one.numa_node == other.numa_node else 0


def _aligned(table: Table, free: list[str], required: list[str], missing: int) -> tuple[str, ...]:
    """The best set of free devices beside the required ones."""
    if missing == len(free):
        return tuple(free)
    pool = [*required, *free]
    devices = [table.device(identity) for identity in pool]
    scores = tuple(tuple(pair_score(one, other) for other in devices) for one in devices)
    if not any(any(row) for row in scores):
        return tuple(free[:missing])
    fixed, size = tuple(range(len(required))), len(required) + missing
    if len(pool) <= EXACT_UP_TO:
        chosen = _exact(scores, len(pool), fixed, size)
    else:
        chosen = _grown(scores, len(pool), fixed, size)
    return tuple(pool[position] for position in chosen if position not in fixed)


def _exact(
    scores: tuple[tuple[int, ...], ...], count: int, fixed: tuple[int, ...], size: int
) -> tuple[int, ...]:
    """The set in the best partition of all devices into sets of `size`.

    Looking at the whole partition keeps well connected sets for the containers that come next.
    """

    def inner(group: tuple[int, ...]) -> int:
        return sum(scores[a][b] for a, b in combinations(group, 2))

    @cache
    def rest(left: tuple[int, ...]) -> int:
        """The best total that the devices left over can still reach."""
        if len(left) < size:
            return 0
        if len(left) % size:  # some device stays alone: try each in that place
            return max(rest(left[:i] + left[i + 1 :]) for i in range(len(left)))
        first = left[0]
        return max(
            inner((first, *others)) + rest(tuple(i for i in left[1:] if i not in others))
            for others in combinations(left[1:], size - 1)
        )

    others = [position for position in range(count) if position not in fixed]
    best: tuple[int, ...] = ()
    best_score = (-1, -1)
    for picked in combinations(others, size - len(fixed)):
        group = (*fixed, *picked)
        left = tuple(position for position in range(count) if position not in group)
        own = inner(group)
        score = (own + rest(left), own)
        if score > best_score:
            best, best_score = group, score
    return best


def _grown(
    scores: tuple[tuple[int, ...], ...], count: int, fixed: tuple[int, ...], size: int
) -> tuple[int, ...]:
    """Grow a set from each possible seed by its best neighbour; take the best set."""
    seeds: list[tuple[int, ...]] = [fixed] if fixed else [(seed,) for seed in range(count)]
    best: tuple[int, ...] = ()
    best_score = -1
    for seed in seeds:
        group = list(seed)
        gain = [sum(scores[i][member] for member in group) for i in range(count)]
        total = sum(scores[a][b] for a, b in combinations(group, 2))
        while len(group) < size:
            nearest = max((i for i in range(count) if i not in group), key=lambda i: (gain[i], -i))
            total += gain[nearest]
            group.append(nearest)
            gain = [gain[i] + scores[i][nearest] for i in range(count)]
        if total > best_score:
            best, best_score = tuple(group), total
    return best


def _greedy(
    table: Table, free: list[str], required: list[str], missing: int, *, packed: bool
) -> tuple[str, ...]:
    """One id after the other from the least (or most) used device; then least picked in this
    call, best connected to what is picked, first in order.
    """
    by_device: dict[str, list[str]] = {}
    for identity in free:
        by_device.setdefault(table.virtual[identity].uuid, []).append(identity)
    total = Counter(item.uuid for item in table.virtual.values())
    used = {uuid: total[uuid] - len(ids) for uuid, ids in by_device.items()}
    near = _Nearness(table.devices, by_device)
    for identity in required:
        near.add(table.virtual[identity].uuid)
    picks: Counter[str] = Counter()
    chosen: list[str] = []
    position = {uuid: place for place, uuid in enumerate(table.devices)}
    for _ in range(missing):
        uuid = min(
            (uuid for uuid, ids in by_device.items() if ids),
            key=lambda uuid: (
                -used[uuid] if packed else used[uuid],
                picks[uuid],
                -near.score[uuid],
                position[uuid],
            ),
        )
        chosen.append(by_device[uuid].pop(0))
        used[uuid] += 1
        if not picks[uuid]:
            near.add(uuid)
        picks[uuid] += 1
    return tuple(chosen)


def _together(table: Table, free: list[str], required: list[str], missing: int) -> tuple[str, ...]:
    """From devices that are in the set already, then from the one that `missing` fit best."""
    by_device: dict[str, list[str]] = {}
    for identity in free:
        by_device.setdefault(table.virtual[identity].uuid, []).append(identity)
    begun = {table.virtual[identity].uuid for identity in required}
    position = {uuid: place for place, uuid in enumerate(table.devices)}
    chosen: list[str] = []
    while (left := missing - len(chosen)) > 0:
        uuid = min(
            by_device,
            key=lambda uuid: (
                uuid not in begun,
                len(by_device[uuid]) < left,
                abs(len(by_device[uuid]) - left),
                position[uuid],
            ),
        )
        chosen += by_device.pop(uuid)[:left]
    return tuple(chosen)


class _Nearness:
    """For every candidate the sum of its scores to the devices picked so far."""

    def __init__(
        self, devices: Mapping[str, PhysicalDevice], candidates: Mapping[str, object]
    ) -> None:
        self._devices = devices
        self.score = dict.fromkeys(candidates, 0)

    def add(self, uuid: str) -> None:
        picked = self._devices[uuid]
        for candidate in self.score:
            if candidate != uuid:
                self.score[candidate] += pair_score(self._devices[candidate], picked)
