"""A node and what is in use of its cards, from annotations. Pure (hami-scheduler.md 3, 4.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from deviceplugin.api.hami import poddevices, register, scores
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.keys import Registration
from deviceplugin.api.hami.poddevices import ContainerDevice
from deviceplugin.placement.presence import inventories
from deviceplugin.vendor.scheduling import (
    Card,
    NodeDevice,
    NodeFacts,
    SchedulingBackend,
    Tenant,
    peak,
)

__all__ = [
    "CORDON",
    "Held",
    "NodeView",
    "cards_with",
    "devices_of",
    "held_of",
    "node_view",
    "read_devices",
]

CORDON = "hami.io/device-cordon"
"""On nodes, by people: uuids, joined by commas, that get no new container (HAMi 2.10)."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one container of a pod holds of one word. `pod` is ``namespace/name``, `init` an init
    container that runs to its end before the others start, `position` the container's place in the
    pod, init containers first. `memory_percent` is set where the container asked for a part of each
    card instead of an amount: it counts in place of the devices' memory.
    """

    uid: str
    pod: str
    devices: tuple[ContainerDevice, ...]
    init: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    position: int = 0
    memory_percent: int | None = None

    def tenant(self, device: ContainerDevice, card: Card) -> Tenant:
        """What it holds of a card by one of its devices; of a hardware partition, which its
        annotation alone tells of, not more than there is.
        """
        size, slot = card.device, ""
        memory, cores = device.memory, device.cores
        if device.slot is not None:
            slot = device.slot.name
            memory, cores = min(memory, size.memory), min(cores, size.cores)
        elif self.memory_percent is not None:
            memory = size.memory * self.memory_percent // 100
        return Tenant(self.pod, memory, cores, slot, self.annotations, self.init)


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node's cards by word, in the order of their indices. `cordoned` uuids get nobody new."""

    facts: NodeFacts
    cards: Mapping[str, tuple[Card, ...]]
    cordoned: frozenset[str] = frozenset()

    def with_cards(self, word: str, cards: Sequence[Card]) -> NodeView:
        """The same node with other cards of a word."""
        return replace(self, cards=MappingProxyType({**self.cards, word: tuple(cards)}))


def node_view(
    facts: NodeFacts, backends: Iterable[SchedulingBackend]
) -> tuple[NodeView, tuple[AnnotationError, ...]]:
    """The node with nothing in use, and the annotations that cannot be read: such a word is not on
    the node, and no other is disturbed.
    """
    found, problems = {}, []
    for backend in backends:
        try:
            devices = devices_of(facts, backend)
        except AnnotationError as error:
            problems.append(error)
            continue
        if devices:
            found[backend.keys.common_word] = tuple(map(Card, devices))
    cordoned = frozenset(
        text for part in facts.annotations.get(CORDON, "").split(",") if (text := part.strip())
    )
    return NodeView(facts, MappingProxyType(found), cordoned), tuple(problems)


def devices_of(facts: NodeFacts, backend: SchedulingBackend) -> tuple[NodeDevice, ...]:
    """A word's devices on a node, by index; none where the node says nothing of them. Of two with
    one uuid the first counts. Raises `AnnotationError`.
    """
    if inventories(backend):
        devices: Sequence[NodeDevice] = backend.devices(facts)
    else:
        devices = read_devices(facts, backend)
    unique = {device.uuid: device for device in reversed(devices)}
    return tuple(sorted(unique.values(), key=lambda device: device.index))


def read_devices(facts: NodeFacts, backend: SchedulingBackend) -> tuple[NodeDevice, ...]:
    """The devices in one of HAMi's two forms, with how well they are connected where the node says
    so. Raises `AnnotationError`.
    """
    keys = backend.keys
    if keys.register is None or keys.registration not in (Registration.JSON, Registration.LEGACY):
        return ()
    text = facts.annotations.get(keys.register, "")
    devices = register.decode(text, keys.register) if text else ()
    if keys.score and (told := facts.annotations.get(keys.score)):
        pairs = {pair.uuid: pair for pair in scores.decode(told, keys.score)}
        devices = tuple(replace(d, pair_scores=pairs.get(d.uuid)) for d in devices)
    return devices


def held_of(
    annotations: Mapping[str, str], backend: SchedulingBackend
) -> tuple[tuple[ContainerDevice, ...], ...]:
    """What a pod's annotations say that its containers hold of a word. Raises `AnnotationError`."""
    keys = backend.keys
    text = annotations.get(keys.allocated, "")
    return poddevices.of_type(poddevices.decode(text, keys.allocated), keys.common_word)


def cards_with(cards: Sequence[Card], held: Iterable[Held]) -> tuple[Card, ...]:
    """The cards with everything in use that pods hold, what is of one pod in the order in which its
    containers start: not all of them run at a time (`peak`). Devices that are not among the cards
    count nowhere; that is for the caller to notice.
    """
    by_uuid = {card.uuid: card for card in cards}
    found: dict[str, dict[str, list[Tenant]]] = {}
    for item in held:
        for device in item.devices:
            if (card := by_uuid.get(device.uuid)) is not None:
                pods = found.setdefault(device.uuid, {})
                pods.setdefault(item.uid, []).append(item.tenant(device, card))
    return tuple(
        _with_pods(card, found[card.uuid].values()) if card.uuid in found else card
        for card in cards
    )


def _with_pods(card: Card, pods: Iterable[Sequence[Tenant]]) -> Card:
    everybody: list[Tenant] = list(card.tenants)
    used, memory, cores = card.used, card.used_memory_mib, card.used_cores
    for tenants in pods:
        everybody += tenants
        if len(tenants) == 1:  # as with nearly all pods
            (one,) = tenants
            used, memory, cores = used + 1, memory + one.memory_mib, cores + one.cores_percent
            continue
        used += peak((tenant.init, 1) for tenant in tenants)
        memory += peak((tenant.init, tenant.memory_mib) for tenant in tenants)
        cores += peak((tenant.init, tenant.cores_percent) for tenant in tenants)
    return Card(card.device, tuple(everybody), used, memory, cores)
