"""The scheduling half: whole cards by wings, slices of one size a card
(metax-iluvatar-kunlunxin-hygon.md 3.2 to 3.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from deviceplugin.vendor.counted import Counted
from deviceplugin.vendor.plain import Plain, amount
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
from deviceplugin.vendors.kunlunxin.configuration import NAMES, SLICES, WHOLE, configuration
from deviceplugin.vendors.kunlunxin.topology import COUNTS, bubbles, most_mended, select

CARD_MIB = 98304
"""A P800; slices are a quarter, a half, or all of it, whatever the card has."""

SIZES = (CARD_MIB // 4, CARD_MIB // 2, CARD_MIB)

HANDLES = 32
"""The driver's; each physical card takes one, each possible slice another."""

INDICES = "BAIDU_COM_DEVICE_IDX"


def backends(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """Whole cards and slices. Raises `ValueError`."""
    config = configuration(settings.section)
    return [
        WholeCards(
            WHOLE,
            Resources(config.resource),
            default_cores=100,
            runtime_class=config.runtime_class,
            rules=frozenset({Rule.IDLE}),
            names=NAMES,
            memory_mib=CARD_MIB,
        ),
        Slices(
            SLICES,
            Resources(config.shared_resource, config.shared_memory),
            runtime_class=config.runtime_class,
            rules=frozenset({Rule.MEMORY}),
        ),
    ]


def slice_of(memory_mib: int) -> int:
    """The smallest slice that has so much; larger asks get the whole card."""
    return next((size for size in SIZES if memory_mib <= size), CARD_MIB)


class _Wired(Plain):
    """What both words share: counts that the wiring allows, and cards chosen by it."""

    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        """Raises `RefusedError` for other counts."""
        demand = super().demand(container, pod)
        if demand and demand.count not in COUNTS:
            raise RefusedError(
                f"container {container.name}: {self.resources.count} is {demand.count}: cards of "
                f"this vendor go together by {', '.join(map(str, COUNTS))}; ask for one of these"
            )
        return demand

    def eligible(
        self, card: Card, demand: Demand, pod: PodSpec, mine: Sequence[ContainerDevice]
    ) -> Reason | None:
        """Selectors of the other word count too, as upstream has it since 2.10."""
        for keys in (WHOLE, SLICES):
            use, avoid = pod.listed(keys.use_uuid), pod.listed(keys.avoid_uuid)
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


class WholeCards(_Wired, Counted):
    """``kunlunxin.com/xpu``: cards that nobody uses."""

    def devices(self, node: NodeFacts) -> Sequence[NodeDevice]:
        """Half of them on each wing."""
        cards = super().devices(node)
        return [replace(card, numa=int(card.index >= (len(cards) + 1) // 2)) for card in cards]

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

    def most(self, demands: Sequence[Demand], pod: PodSpec, policy: Policy) -> float:
        """On the node whose wings such a pod mends best; init containers may have the cards that
        the others get.
        """
        counts = [demand.count for demand in demands]
        return 2000.0 + 1000.0 * most_mended(max(counts), sum(counts))

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


class Slices(_Wired):
    """``kunlunxin.com/vxpu``: slices of memory, those of a card all of one size."""

    def admit(self, container: ContainerSpec, pod: PodSpec) -> Admission:
        """Memory becomes that of the slice."""
        admission, demand = super().admit(container, pod), self.demand(container, pod)
        memory = self.resources.memory
        given = admission.found and container.written(memory) is not None
        return replace(
            admission, resources={memory: str(demand.memory_mib)} if demand and given else {}
        )

    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        """Slices of one size on different cards; without memory, whole cards."""
        asked = amount(container, self.resources.memory)
        if asked is not None and asked > CARD_MIB:
            raise RefusedError(
                f"container {container.name}: {self.resources.memory} is {asked}: a card has "
                f"{CARD_MIB} MiB; ask for no more, and for more cards"
            )
        demand = super().demand(container, pod)
        if demand is None:
            return None
        memory = CARD_MIB if asked is None else slice_of(asked)
        return replace(demand, memory_mib=memory, cores_percent=memory * 100 // CARD_MIB)

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
