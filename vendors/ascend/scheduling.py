"""The scheduling half: memory becomes templates, and a card takes no more than its driver makes.

Source: ascend-and-mock.md A.2.5, A.3, A.4; hami-scheduler.md 4.7.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from deviceplugin.api.hami.keys import VendorKeys, ascend
from deviceplugin.vendor.plain import amount
from deviceplugin.vendor.scheduling import (
    Admission,
    Card,
    ContainerDevice,
    ContainerSpec,
    Demand,
    NodeFacts,
    Obstacle,
    PodSpec,
    Policy,
    Reason,
    RefusedError,
    Resources,
    SchedulingBackend,
    SchedulingSettings,
    peak,
    taken,
)
from deviceplugin.vendor.section import refuse
from deviceplugin.vendors.ascend import topology
from deviceplugin.vendors.ascend.chips import Chip, Part, Template
from deviceplugin.vendors.ascend.configuration import configured

__all__ = ["AscendBackend", "backends"]

MODE = "huawei.com/vnpu-mode"
SOFT = "hami-core"
VISIBLE = "ASCEND_VISIBLE_DEVICES"
WEIGHT = 10.0
"""Of network affinity beside how full a node is (A.3.7)."""
NANOSECONDS = 10**9
ANY = 2**80
"""More than any quantity: what a card has decides."""


def backends(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """One backend a word of the table. Raises `ValueError` naming every entry that is wrong."""
    configuration = configured(settings.section)
    refuse(configuration.errors)
    chips = configuration.words().values()
    counted = frozenset(chip.resource for chip in chips)
    return tuple(AscendBackend(chip, counted) for chip in chips)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a container asks for: so many cards, `part` of each. `given` says that memory was."""

    count: int
    part: Part
    given: bool


@dataclass(frozen=True)
class AscendBackend:
    """One sort of chip; `counted` are the resources that count cards of any sort."""

    chip: Chip
    counted: frozenset[str]

    @property
    def keys(self) -> VendorKeys:
        """The annotations of HAMi's Ascend plugin."""
        return ascend(self.chip.word)

    @property
    def resources(self) -> Resources:
        """Cards, and memory of each; cores are only known to soft slicing."""
        chip = self.chip
        others = (chip.core_resource,) if chip.core_resource else ()
        return Resources(
            chip.resource, chip.memory_resource, memory_unit_mib=chip.memory_factor, others=others
        )

    @property
    def remembers(self) -> tuple[str, ...]:
        """Nothing: memory says which template a container holds."""
        return ()

    # --- what people ask for ---

    def admit(self, container: ContainerSpec, pod: PodSpec) -> Admission:
        """Memory becomes that of a template, or the card's; dies of a super pod come in pairs."""
        chip = self.chip
        asked = self._asked(container, pod, admitting=True)
        if asked is None:
            if chip.overwrite_env and not any(map(container.written, self.counted)):
                return Admission(env={VISIBLE: ""})
            return Admission()
        resources = {chip.memory_resource: str(self._units(container, asked.part))}
        if asked.count != amount(container, chip.resource):
            resources[chip.resource] = str(asked.count)
        return Admission(True, resources, runtime_class=chip.runtime_class)

    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        """Cards, and as much memory of each as the template has that is made for the container."""
        asked = self._asked(container, pod)
        if asked is None:
            return None
        if not asked.given:
            return Demand(self.chip.word, asked.count)
        return Demand(self.chip.word, asked.count, asked.part.memory_mib, None)

    def _asked(
        self, container: ContainerSpec, pod: PodSpec, *, admitting: bool = False
    ) -> _Asked | None:
        """Raises `RefusedError`."""
        chip, name = self.chip, container.name
        count = amount(container, chip.resource)
        memory = amount(container, chip.memory_resource, chip.memory_factor, ANY)
        cores = amount(container, chip.core_resource) if chip.core_resource else None
        if not count:
            if memory and count is None:
                raise RefusedError(
                    f"container {name} asks for {chip.memory_resource} of no card: add "
                    f"{chip.resource}: 1"
                )
            return None
        if cores or pod.annotations.get(MODE) == SOFT:
            what = chip.core_resource if cores else f"annotation {MODE}: {SOFT}"
            raise RefusedError(
                f"container {name}: {what} is only supported in hami-core (soft split) mode, which "
                f"is not served here: remove it, and ask for {chip.memory_resource}"
            )
        part = Part(chip.memory_mib) if memory is None else chip.part(memory)
        if part is None:
            raise RefusedError(
                f"container {name}: {chip.memory_resource} "
                f"{container.written(chip.memory_resource)} is invalid: a card has "
                f"{chip.capacity_mib // chip.memory_factor}; its unit is {chip.memory_factor} MiB, "
                "and no suffix is needed"
            )
        if chip.paired and chip.super_pod:
            count = self._in_pairs(count, name, admitting=admitting)
        if count > 1 and part.template is not None:
            raise RefusedError(
                f"container {name}: vNPU is not supported for multiple devices: {count} of "
                f"{chip.resource} are whole cards, so leave {chip.memory_resource} out, or ask for "
                "one card"
            )
        return _Asked(count, part, memory is not None)

    def _in_pairs(self, count: int, name: str, *, admitting: bool) -> int:
        """One die is taken for a slip and becomes two, while that can still be written (A.4)."""
        if count == 1 and admitting:
            return 2
        if count % 2:
            raise RefusedError(
                f"container {name}: {self.chip.word} device request must be 1 or 2*n, got {count}: "
                "the dies of a super pod's module go together"
            )
        return count

    def _units(self, container: ContainerSpec, part: Part) -> int:
        """The memory resource's amount that says this part, and nothing else, to all who multiply
        it by the factor and round it up: so the factor counts once (E.1 no. 14).
        """
        chip, factor = self.chip, self.chip.memory_factor
        units = part.memory_mib // factor
        asked = amount(container, chip.memory_resource)
        return units if asked is None or chip.part(units * factor) == part else asked

    # --- which cards fit ---

    def eligible(
        self, card: Card, demand: Demand, pod: PodSpec, mine: Sequence[ContainerDevice]
    ) -> Reason | None:
        """Whether the driver can make the template beside those that are there: each takes AI cores
        and AI CPUs, of which memory says nothing (E.1 no. 9).
        """
        part = self.chip.part(demand.memory_of(card.device.memory))
        if part is None or part.template is None:
            return None
        wanted = part.template
        for what, total, attribute in (
            ("AI cores", self.chip.ai_core, "ai_core"),
            ("AI CPUs", self.chip.ai_cpu, "ai_cpu"),
        ):
            used = self._used(card, attribute)
            if total and used + getattr(wanted, attribute) > total:
                return Reason(
                    Obstacle.CORES,
                    card.uuid,
                    f"template {wanted.name} takes {getattr(wanted, attribute)} {what}, {used} of "
                    f"{total} are taken",
                )
        return None

    def _used(self, card: Card, attribute: str) -> int:
        """AI cores or AI CPUs in use."""
        pods: dict[str, list[tuple[bool, int]]] = {}
        for tenant in card.tenants:
            template = self._template(tenant.memory_mib)
            units = getattr(template, attribute) if template else 0
            pods.setdefault(tenant.pod, []).append((tenant.init, units))
        return sum(map(peak, pods.values()))

    def _template(self, memory_mib: int) -> Template | None:
        part = self.chip.part(memory_mib)
        return part.template if part else None

    def choose(
        self,
        fitting: Sequence[Card],
        demand: Demand,
        pod: PodSpec,
        node: Sequence[Card],
        policy: Policy,
    ) -> Sequence[ContainerDevice] | Reason:
        """Modules of two dies, or cards of one network, where several are asked for."""
        count = demand.count
        chosen = list(fitting[:count])
        if count > 1 and self.chip.paired:
            chosen = topology.paired(fitting, count)
            if len(chosen) < count:
                detail = f"asks {count} dies in whole modules, {len(chosen)} serve"
                return Reason(Obstacle.TOO_FEW_FIT, "", detail)
        elif count > 1 and self.chip.networked and None not in map(topology.network, node):
            chosen = topology.grouped(fitting, count)
        return [taken(card, demand) for card in chosen]

    def score(
        self,
        node: NodeFacts,
        before: Sequence[Card],
        containers: Sequence[Sequence[ContainerDevice]],
        pod: PodSpec,
        policy: Policy,
    ) -> float:
        """Ten for each container whose cards share a network, and less for one that is spread."""
        if not self.chip.networked:
            return 0.0
        networks = {card.uuid: topology.network(card) for card in before}
        found = [[networks.get(d.uuid) for d in devices] for devices in containers if devices]
        if any(None in each for each in found):
            return 0.0
        return WEIGHT * sum(map(topology.affinity, found))

    def most(self, demands: Sequence[Demand], pod: PodSpec, policy: Policy) -> float:
        """Each container in one network."""
        return WEIGHT * len(demands) if self.chip.networked else 0.0

    def annotations(
        self,
        node: NodeFacts,
        cards: Sequence[Card],
        containers: Sequence[Sequence[ContainerDevice]],
        pod: PodSpec,
        now_ns: int,
    ) -> Mapping[str, str]:
        """The templates by NPU, for HAMi's own plugin, and when that was decided (A.3.6)."""
        told = list(self._told(containers))
        return {
            f"huawei.com/{self.chip.word}": json.dumps(told, separators=(",", ":")),
            "predicate-time": str(now_ns // NANOSECONDS),
        }

    def _told(self, containers: Sequence[Sequence[ContainerDevice]]) -> Iterator[dict[str, str]]:
        for device in (device for devices in containers for device in devices):
            template = self._template(device.memory)
            yield {"UUID": device.uuid, **({"temp": template.name} if template else {})}
