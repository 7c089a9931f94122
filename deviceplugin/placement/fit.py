"""Whether a pod fits on a node, and on which cards. Pure (hami-scheduler.md 4.3, 4.5, 4.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from deviceplugin.placement.observe import NodeView
from deviceplugin.placement.presence import chooses, judges, scores
from deviceplugin.placement.rank import node_score, ranked
from deviceplugin.placement.request import Ask
from deviceplugin.placement.rules import Selectors, check, selectors
from deviceplugin.vendor.scheduling import (
    Card,
    ContainerDevice,
    Demand,
    Obstacle,
    PodSpec,
    Policy,
    Reason,
    SchedulingBackend,
    Tenant,
    Unfit,
    taken,
)

__all__ = ["Placement", "place"]

Backends = Mapping[str, SchedulingBackend]
"""By common word."""

Devices = tuple[ContainerDevice, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a pod fits: every container's devices by word, in the order of the pod's `asks`, empty
    ones too. The node of the highest `score` is the best under binpack, of the lowest under spread.
    """

    node: str
    containers: Mapping[str, tuple[Devices, ...]]
    score: float


def place(
    view: NodeView,
    pod: PodSpec,
    wanted: Sequence[Ask],
    backends: Backends,
    card_policy: Policy,
    node_policy: Policy,
    *,
    smallest: bool = False,
) -> Placement | Unfit:
    """The pod on this node, or why not: the first container that finds no place. Of cards that
    serve, the `smallest` come first where that is asked, before any policy.

    An ordinary init container runs while the pod's other containers do not, so it may use what they
    get; a sidecar runs beside all that come after it.
    """
    given: dict[str, list[Devices]] = {}
    lasting = view
    for position, ask in enumerate(wanted):
        now = lasting
        for word, demand in ask.demands.items():
            backend = backends[word]
            before = tuple(d for devices in given.get(word, ()) for d in devices)
            order = ranked(now.cards.get(word, ()), demand, card_policy)
            if smallest:
                order.sort(key=lambda card: card.device.memory)
            found = _container(now, order, ask, demand, pod, before, backend, card_policy)
            if isinstance(found, Unfit):
                return found
            given.setdefault(word, [()] * len(wanted))[position] = found
            now = _with(now, word, found, pod, backend)
        if not ask.container.init or ask.container.sidecar:
            lasting = now
    containers = MappingProxyType({word: tuple(devices) for word, devices in given.items()})
    score = node_score(card for cards in view.cards.values() for card in cards)
    speaks = _vendor_score(view, pod, containers, backends, node_policy)
    return Placement(
        view.facts.name,
        containers,
        score - speaks if node_policy is Policy.SPREAD else score + speaks,
    )


def _container(
    view: NodeView,
    order: Sequence[Card],
    ask: Ask,
    demand: Demand,
    pod: PodSpec,
    mine: Devices,
    backend: SchedulingBackend,
    policy: Policy,
) -> Devices | Unfit:
    cards = view.cards.get(demand.word, ())

    def unfit(*reasons: Reason) -> Unfit:
        return Unfit(ask.container.name, demand.word, len(cards), reasons)

    if demand.count > len(cards) and not (cards and chooses(backend)):
        detail = f"asks {demand.count} cards, the node has {len(cards)}"
        return unfit(Reason(Obstacle.TOO_FEW_CARDS, "", detail))
    fitting, reasons = _fitting(order, view, demand, pod, mine, backend)
    if demand.same_numa:
        fitting, more = _on_one_numa_node(fitting, demand.count)
        reasons += more
    if fitting and chooses(backend):
        chosen = backend.choose(fitting, demand, pod, cards, policy)
        if isinstance(chosen, Reason):
            return unfit(*reasons, chosen)
        devices = tuple(chosen)
    else:
        devices = tuple(taken(card, demand) for card in fitting[: demand.count])
    if len(devices) < demand.count:
        if fitting:
            detail = f"asks {demand.count} cards, {len(devices)} serve"
            reasons.append(Reason(Obstacle.TOO_FEW_FIT, "", detail))
        return unfit(*reasons)
    return devices


def _fitting(
    order: Sequence[Card],
    view: NodeView,
    demand: Demand,
    pod: PodSpec,
    mine: Devices,
    backend: SchedulingBackend,
) -> tuple[list[Card], list[Reason]]:
    wanted: Selectors = selectors(pod.annotations, backend.keys)
    fitting: list[Card] = []
    reasons: list[Reason] = []
    for card in order:
        reason = check(card, demand, wanted, cordoned=card.uuid in view.cordoned)
        if reason is None and judges(backend):
            reason = backend.eligible(card, demand, pod, mine)
        if reason is None:
            fitting.append(card)
        else:
            reasons.append(reason)
    return fitting, reasons


def _on_one_numa_node(fitting: Sequence[Card], count: int) -> tuple[list[Card], list[Reason]]:
    """The cards of the first NUMA node, by rank, that has enough."""
    nodes: dict[int, list[Card]] = {}
    for card in fitting:
        nodes.setdefault(card.device.numa, []).append(card)
    for cards in nodes.values():
        if len(cards) >= count:
            return cards, []
    detail = f"no NUMA node has {count} of them"
    return [], [Reason(Obstacle.NUMA, card.uuid, detail) for card in fitting]


def _with(
    view: NodeView, word: str, devices: Devices, pod: PodSpec, backend: SchedulingBackend
) -> NodeView:
    """The node with these devices in use."""
    name = f"{pod.namespace}/{pod.name}"
    remembered = {k: pod.annotations[k] for k in backend.remembers if k in pod.annotations}
    cards = {card.uuid: card for card in view.cards[word]}
    for device in devices:
        slot = device.slot.name if device.slot else ""
        tenant = Tenant(name, device.memory, device.cores, slot, remembered)
        cards[device.uuid] = cards[device.uuid].with_tenant(tenant)
    return view.with_cards(word, tuple(cards.values()))


def _vendor_score(
    view: NodeView,
    pod: PodSpec,
    containers: Mapping[str, tuple[Devices, ...]],
    backends: Backends,
    policy: Policy,
) -> float:
    total = 0.0
    for word, devices in containers.items():
        backend = backends[word]
        if scores(backend):
            total += backend.score(view.facts, view.cards[word], devices, pod, policy)
    return total
