"""The scheduling half: defaults of requests, MIG by geometries, cards that are well connected
(hami-scheduler.md 2.3, 4.2, 4.6, 4.7).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

from deviceplugin.api.hami.keys import NUMA_BIND, VENDORS, VGPU_MODE, VendorKeys
from deviceplugin.api.hami.poddevices import MigSlot
from deviceplugin.api.hami_config import (
    MigGeometry,
    MigProfile,
    NvidiaSection,
    parse_nvidia_section,
)
from deviceplugin.vendor.plain import MOST_CARDS, amount
from deviceplugin.vendor.scheduling import (
    Admission,
    Card,
    ContainerDevice,
    ContainerSpec,
    Demand,
    Obstacle,
    Partition,
    PodSpec,
    Policy,
    Reason,
    RefusedError,
    Resources,
    SchedulingBackend,
    SchedulingSettings,
    taken,
)
from deviceplugin.vendor.section import refuse
from deviceplugin.vendors.nvidia.geometry import flattened, match, slot

WORD = "NVIDIA"
MIG = "mig"
ALL = 100
TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})

MOST_SETS = 20_000
"""So many sets of cards are compared one by one; of more the best is built card by card."""


def backends(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """One word. Raises `ValueError`."""
    section, problems = parse_nvidia_section(settings.section)
    refuse(problems)
    return [Gpus(section)]


@dataclass(frozen=True)
class Gpus:
    """NVIDIA's GPUs by HAMi's resources."""

    section: NvidiaSection
    remembers: tuple[str, ...] = ()

    @property
    def keys(self) -> VendorKeys:
        """The word ``NVIDIA``."""
        return VENDORS[WORD]

    @property
    def resources(self) -> Resources:
        """Count, memory in MiB times the factor, percent of memory, cores in percent, priority."""
        section = self.section
        return Resources(
            section.resource_count_name,
            section.resource_memory_name,
            section.resource_core_name,
            section.resource_memory_percentage_name,
            max(section.memory_factor, 1),
            (section.resource_priority_name,),
        )

    # --- requests ---

    def admit(self, container: ContainerSpec, pod: PodSpec) -> Admission:
        """A count for who names memory or cores alone, all cores for who asks for all memory, and
        what the container's library reads.
        """
        section, names = self.section, self.resources
        resources: dict[str, str] = {}
        parts = (names.memory, names.cores, names.memory_percent)
        count = container.asked(names.count)
        if count is None and section.default_gpu_num and any(p in container.limits for p in parts):
            count = section.default_gpu_num
            resources[names.count] = str(count)
        self._demand(container, pod, count)
        if count is None:
            hidden = {"NVIDIA_VISIBLE_DEVICES": "none"} if section.overwrite_env else {}
            return Admission(env=hidden)
        if count and container.written(names.cores) is None and self._wants_all(container):
            resources[names.cores] = str(ALL)
        if names.count not in container.limits and not resources:
            return Admission()
        env = {}
        if (priority := container.limit(section.resource_priority_name)) is not None:
            env["CUDA_TASK_PRIORITY"] = str(priority)
        if section.gpu_core_policy not in ("", "default"):
            env["GPU_CORE_UTILIZATION_POLICY"] = section.gpu_core_policy
        return Admission(True, resources, env, runtime_class=section.runtime_class_name)

    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        """Cards with memory and cores of each. Raises `RefusedError`."""
        return self._demand(container, pod, None)

    def _demand(self, container: ContainerSpec, pod: PodSpec, default: int | None) -> Demand | None:
        section, names = self.section, self.resources
        count = amount(container, names.count, most=MOST_CARDS)
        memory = amount(container, names.memory, names.memory_unit_mib)
        cores = amount(container, names.cores)
        percent = amount(container, names.memory_percent)
        if percent is not None and percent > ALL:
            raise RefusedError(
                f"container {container.name}: {names.memory_percent} is {percent}: write 1 to 100"
            )
        count = default if count is None else count
        if not count:
            return None
        if not percent and not memory and section.default_memory:
            memory = section.default_memory
        return Demand(
            WORD,
            count,
            memory or 0,
            percent or ALL,
            section.default_cores if cores is None else cores,
            same_numa=pod.annotations.get(NUMA_BIND) in TRUE,
        )

    def _wants_all(self, container: ContainerSpec) -> bool:
        """Whether a container asks for all of a card's memory."""
        names = self.resources
        if (percent := container.asked(names.memory_percent)) is not None:
            return percent in (0, ALL)
        return container.written(names.memory) is None

    # --- cards ---

    def eligible(
        self, card: Card, demand: Demand, pod: PodSpec, mine: Sequence[ContainerDevice]
    ) -> Reason | None:
        """A mode that the pod allows, and in mode mig a partition that is large enough."""
        allowed, mode = pod.annotations.get(VGPU_MODE), card.device.mode
        if allowed is not None and mode and mode not in allowed:
            return Reason(Obstacle.MODE, card.uuid, f"its mode is {mode}, the pod wants {allowed}")
        if mode == MIG and next(iter(self._partitions(card, demand)), None) is None:
            return Reason(Obstacle.VENDOR_RULE, card.uuid, self._why_none(card, demand))
        return None

    def choose(
        self,
        fitting: Sequence[Card],
        demand: Demand,
        pod: PodSpec,
        node: Sequence[Card],
        policy: Policy,
    ) -> Sequence[ContainerDevice] | Reason:
        """In the order of rank, several partitions of a card too; or what is connected best."""
        if policy is Policy.TOPOLOGY_AWARE and all(c.device.mode != MIG for c in fitting):
            return [taken(card, demand) for card in connected(fitting, demand.count)]
        found: list[ContainerDevice] = []
        for card in fitting:
            if len(found) == demand.count:
                break
            if card.device.mode != MIG:
                found.append(taken(card, demand))
                continue
            room = min(demand.count - len(found), card.device.count - card.used)
            found += self._partitions(card, demand)[:room]
        return found

    def partitions(self, card: Card) -> Sequence[Partition]:
        """Those of the geometry that is in use, by profile and position, as HAMi names them."""
        used = [slot(tenant.slot) for tenant in card.tenants if tenant.slot]
        if not used:
            return ()
        number = used[0].geometry
        positions = {place.position for place in used if place.geometry == number}
        return [
            Partition(f"{profile.name}-{position}", position in positions)
            for geometry in self._geometries(card)[number : number + 1]
            for position, profile in enumerate(flattened(geometry))
        ]

    def _partitions(self, card: Card, demand: Demand) -> list[ContainerDevice]:
        """The free partitions of a card that are large enough, in the order of their positions.

        While a card has none in use, the first geometry with one that is large enough will be made.
        One that an init container has in another geometry than the rest of its pod takes nobody
        else: it is divided anew in between.
        """
        geometries = self._geometries(card)
        used = [slot(tenant.slot) for tenant in card.tenants if tenant.slot]
        taken_ = {place.position for place in used}
        need = self._need(card, demand)
        if used:
            number = used[0].geometry
            same = all(place.geometry == number for place in used)
            chosen = geometries[number : number + 1] if same else ()
        else:
            fits = (n for n, one in enumerate(geometries) if any(p.memory >= need for p in one))
            number = next(fits, 0)
            chosen = geometries[number : number + 1]
        return [
            ContainerDevice(
                card.uuid, WORD, profile.memory, profile.core, MigSlot(number, position)
            )
            for geometry in chosen
            for position, profile in enumerate(flattened(geometry))
            if profile.memory >= need and position not in taken_
        ]

    def _need(self, card: Card, demand: Demand) -> int:
        """MiB; a percentage is one of the largest partition, which is less than the card."""
        if demand.memory_mib:
            return demand.memory_mib
        largest = max((p.memory for p in self._profiles(card)), default=0)
        return largest * (demand.memory_percent or 0) // 100

    def _geometries(self, card: Card) -> tuple[MigGeometry, ...]:
        found = match(card.device.type, self.section.known_mig_geometries)
        return found.row.geometries if found else ()

    def _profiles(self, card: Card) -> tuple[MigProfile, ...]:
        return tuple(profile for geometry in self._geometries(card) for profile in geometry)

    def _why_none(self, card: Card, demand: Demand) -> str:
        if not self._geometries(card):
            return f"no row of knownMigGeometries is for {card.device.type!r:.60}"
        return f"no free partition has {self._need(card, demand)} MiB"


def connected(cards: Sequence[Card], count: int) -> list[Card]:
    """The cards that are connected best with each other; a single one so, that the others lose
    least. Cards without any link go by their rank.
    """
    if len(cards) <= count:
        return list(cards)

    def pair(one: Card, other: Card) -> int:
        scores = one.device.pair_scores
        return scores.scores.get(other.uuid, 0) if scores else 0

    if count == 1:
        return [min(cards, key=lambda one: sum(pair(one, o) for o in cards if o is not one))]
    if comb(len(cards), count) <= MOST_SETS:

        def together(some: Iterable[Card]) -> int:
            return sum(pair(one, other) for one, other in combinations(some, 2))

        return list(max(combinations(cards, count), key=together))
    chosen = [cards[0]]
    while len(chosen) < count:
        left = [card for card in cards if card not in chosen]
        chosen.append(max(left, key=lambda c: sum(pair(a, c) + pair(c, a) for a in chosen)))
    return chosen
