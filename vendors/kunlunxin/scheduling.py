"""The scheduling half: whole cards by wings, slices of one size a card
(metax-iluvatar-kunlunxin-hygon.md 3.2 to 3.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.keys import VENDORS, VendorKeys
from deviceplugin.vendor.plain import MOST_CARDS, amount
from deviceplugin.vendor.scheduling import (
    Admission,
    Card,
    ContainerDevice,
    ContainerSpec,
    Demand,
    NodeDevice,
    NodeFacts,
    Obstacle,
    PodSpec,
    Policy,
    Reason,
    RefusedError,
    Resources,
    Rule,
    SchedulingBackend,
    SchedulingSettings,
    taken,
)
from deviceplugin.vendors.kunlunxin.configuration import Configuration, configuration
from deviceplugin.vendors.kunlunxin.topology import COUNTS, bubbles, select

CARD_MIB = 98304
"""A P800; slices are a quarter, a half, or all of it, whatever the card has."""

SIZES = (CARD_MIB // 4, CARD_MIB // 2, CARD_MIB)

HANDLES = 32
"""The driver's; each physical card takes one, each possible slice another."""

INDICES = "BAIDU_COM_DEVICE_IDX"


def backends(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """Whole cards and slices. Raises `ValueError`."""
    config = configuration(settings.section)
    return [WholeCards(config), Slices(config)]


def slice_of(memory_mib: int) -> int:
    """The smallest slice that has so much; larger asks get the whole card."""
    return next((size for size in SIZES if memory_mib <= size), CARD_MIB)


@dataclass(frozen=True)
class _Wired:
    """What both words share: counts that the wiring allows, and cards chosen by it."""

    configuration: Configuration
    remembers: tuple[str, ...] = ()

    def _count(self, container: ContainerSpec, resource: str) -> int:
        count = amount(container, resource, most=MOST_CARDS) or 0
        if count and count not in COUNTS:
            raise RefusedError(
                f"container {container.name}: {resource} is {count}: cards of this vendor go "
                f"together by {', '.join(map(str, COUNTS))}; ask for one of these"
            )
        return count

    def eligible(
        self, card: Card, demand: Demand, pod: PodSpec, mine: Sequence[ContainerDevice]
    ) -> Reason | None:
        """Selectors of the other word count too, as upstream has it since 2.10."""
        for keys in (VENDORS["kunlun"], VENDORS["XPU"]):
            use, avoid = _listed(pod, keys.use_uuid), _listed(pod, keys.avoid_uuid)
            if (use and card.uuid not in use) or card.uuid in avoid:
                return Reason(Obstacle.UUID, card.uuid, "the pod names other cards")
        return None

    def choose(
        self,
        fitting: Sequence[Card],
        demand: Demand,
        pod: PodSpec,
        node: Sequence[Card],
        policy: Policy,
    ) -> Sequence[ContainerDevice] | Reason:
        """Cards of one wing, the tightest first; across the wings only over direct links."""
        by_index = {card.device.index: card for card in fitting}
        found = select(by_index, demand.count)
        if not found:
            detail = f"of {sorted(by_index)} no {demand.count} are wired together"
            return Reason(Obstacle.NUMA, "", detail)
        return [taken(by_index[index], demand) for index in found]


@dataclass(frozen=True)
class WholeCards(_Wired):
    """``kunlunxin.com/xpu``: cards that nobody uses."""

    @property
    def keys(self) -> VendorKeys:
        """The word ``kunlun``."""
        return VENDORS["kunlun"]

    @property
    def resources(self) -> Resources:
        """A count alone."""
        return Resources(self.configuration.resource)

    def admit(self, container: ContainerSpec, pod: PodSpec) -> Admission:
        """Refuses counts that never fit."""
        self._count(container, self.resources.count)
        found = self.resources.count in container.limits
        return Admission(found, runtime_class=self.configuration.runtime_class if found else "")

    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        """Idle cards, with all they have."""
        count = self._count(container, self.resources.count)
        rules = frozenset({Rule.IDLE})
        return Demand("kunlun", count, cores_percent=100, rules=rules) if count else None

    def devices(self, node: NodeFacts) -> Sequence[NodeDevice]:
        """As many as the node's capacity says, half of them on each wing."""
        count = node.capacity.get(self.resources.count, 0)
        if not 0 <= count <= MOST_CARDS:
            raise AnnotationError(
                self.resources.count, "an absurd capacity", "look at the node's plugin", str(count)
            )
        return [
            NodeDevice(
                uuid=f"{node.name}-kunlun-{i}",
                index=i,
                count=1,
                memory=CARD_MIB,
                cores=100,
                type="kunlun",
                numa=int(i >= (count + 1) // 2),
                healthy=True,
            )
            for i in range(count)
        ]

    def score(
        self,
        node: NodeFacts,
        before: Sequence[Card],
        containers: Sequence[Sequence[ContainerDevice]],
        pod: PodSpec,
        policy: Policy,
    ) -> float:
        """How much less broken up the wings are afterwards, a thousand a step."""
        index = {card.uuid: card.device.index for card in before}
        used = {card.device.index for card in before if card.used}
        after = used | {index[device.uuid] for devices in containers for device in devices}
        return 2000.0 - 1000.0 * (bubbles(after) - bubbles(used))

    def annotations(
        self,
        node: NodeFacts,
        cards: Sequence[Card],
        containers: Sequence[Sequence[ContainerDevice]],
        pod: PodSpec,
        now_ns: int,
    ) -> Mapping[str, str]:
        """The indices of all the pod's cards."""
        index = {card.uuid: card.device.index for card in cards}
        found = sorted(index[device.uuid] for devices in containers for device in devices)
        return {INDICES: ",".join(map(str, found))}


@dataclass(frozen=True)
class Slices(_Wired):
    """``kunlunxin.com/vxpu``: slices of memory, those of a card all of one size."""

    @property
    def keys(self) -> VendorKeys:
        """The word ``XPU``."""
        return VENDORS["XPU"]

    @property
    def resources(self) -> Resources:
        """A count, and MiB of each."""
        return Resources(self.configuration.shared_resource, self.configuration.shared_memory)

    def admit(self, container: ContainerSpec, pod: PodSpec) -> Admission:
        """Memory becomes that of the slice."""
        demand = self.demand(container, pod)
        names = self.resources
        if names.count not in container.limits:
            return Admission()
        given = demand is not None and container.written(names.memory) is not None
        resources = {names.memory: str(demand.memory_mib)} if demand and given else {}
        return Admission(True, resources, runtime_class=self.configuration.runtime_class)

    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        """Slices of one size on different cards; without memory, whole cards."""
        count = self._count(container, self.resources.count)
        asked = amount(container, self.resources.memory)
        if asked is not None and asked > CARD_MIB:
            raise RefusedError(
                f"container {container.name}: {self.resources.memory} is {asked}: a card has "
                f"{CARD_MIB} MiB; ask for no more, and for more cards"
            )
        if not count:
            return None
        memory = CARD_MIB if asked is None else slice_of(asked)
        rules = frozenset({Rule.MEMORY})
        percent = memory * 100 // CARD_MIB
        return Demand("XPU", count, memory, cores_percent=percent, rules=rules)

    def eligible(
        self, card: Card, demand: Demand, pod: PodSpec, mine: Sequence[ContainerDevice]
    ) -> Reason | None:
        """A card is divided evenly: its slices have one size."""
        if card.used and card.used_memory_mib != card.used * demand.memory_mib:
            size = card.used_memory_mib // card.used
            detail = f"its slices have {size} MiB, the pod asks for {demand.memory_mib}"
            return Reason(Obstacle.VENDOR_RULE, card.uuid, detail)
        return super().eligible(card, demand, pod, mine)

    def choose(
        self,
        fitting: Sequence[Card],
        demand: Demand,
        pod: PodSpec,
        node: Sequence[Card],
        policy: Policy,
    ) -> Sequence[ContainerDevice] | Reason:
        """As whole cards, and no more slices than the driver has handles for."""
        found = super().choose(fitting, demand, pod, node, policy)
        if isinstance(found, Reason):
            return found
        sizes = {card.uuid: card.used_memory_mib // card.used for card in node if card.used}
        sizes |= {device.uuid: demand.memory_mib for device in found}
        needed = len(node) + sum(CARD_MIB // max(size, 1) for size in sizes.values())
        if needed > HANDLES:
            detail = f"the driver has {HANDLES} handles, the node's slices would need {needed}"
            return Reason(Obstacle.VENDOR_RULE, "", detail)
        return found


def _listed(pod: PodSpec, key: str | None) -> frozenset[str]:
    parts = pod.annotations.get(key, "").split(",") if key else ()
    return frozenset(text for part in parts if (text := part.strip()))
