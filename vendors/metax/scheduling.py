"""The scheduling half: whole cards, and sGPUs with policies and classes
(metax-iluvatar-kunlunxin-hygon.md 1.2, 1.3).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from deviceplugin.api.hami.keys import VendorKeys
from deviceplugin.api.quantity import Format, Quantity, QuantityError
from deviceplugin.vendor.counted import Counted
from deviceplugin.vendor.plain import MOST_CARDS, amount
from deviceplugin.vendor.registered import INT32
from deviceplugin.vendor.scheduling import (
    STANDARD,
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
    whole,
)
from deviceplugin.vendors.metax import annotations as words
from deviceplugin.vendors.metax.choosing import (
    by_company,
    by_links,
    company_score,
    link_score,
    most_linked,
    tenants,
)
from deviceplugin.vendors.metax.configuration import (
    NAMES,
    SGPU,
    WHOLE,
    Configuration,
    configuration,
)

CARD_MIB = 65536
GIB_IN_MIB = 1024
BEST = 2000
WEIGHT = 10000
TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def backends(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """Whole cards and sGPUs. Raises `ValueError`."""
    config = configuration(settings.section)
    resources = Resources(config.count)
    whole = WholeCards(WHOLE, resources, default_cores=100, names=NAMES, memory_mib=CARD_MIB)
    return [whole, Sgpus(config)]


class WholeCards(Counted):
    """``metax-tech.com/gpu``."""

    def score(
        self,
        node: NodeFacts,
        before: Sequence[Card],
        containers: Sequence[Sequence[ContainerDevice]],
        pod: PodSpec,
        policy: Policy,
    ) -> float:
        """What MetaX's plugin says of so many cards: their loss, or under spread their score."""
        count = str(sum(len(devices) for devices in containers))
        spread = policy is Policy.SPREAD
        text = node.annotations.get(words.SCORES if spread else words.LOSSES, "")
        try:
            value = json.loads(text).get(count)
        except (ValueError, AttributeError, RecursionError):
            return 0.0
        if isinstance(value, bool) or not isinstance(value, int):
            return 0.0
        return float(value - BEST if spread else BEST - value)


@dataclass(frozen=True)
class Sgpus:
    """``metax-tech.com/sgpu``: shares with a policy for their compute."""

    configuration: Configuration
    remembers: tuple[str, ...] = (words.QOS, words.APP_CLASS)

    @property
    def keys(self) -> VendorKeys:
        """The word ``Metax-SGPU``."""
        return SGPU

    @property
    def resources(self) -> Resources:
        """A count, memory in GiB, cores in percent."""
        config = self.configuration
        return Resources(
            config.shared_count,
            config.shared_memory,
            config.shared_cores,
            memory_unit_mib=GIB_IN_MIB,
        )

    def admit(self, container: ContainerSpec, pod: PodSpec) -> Admission:
        """Classes and policies are words of a list; without one, compute is not limited."""
        demand = self.demand(container, pod)
        if self.resources.count not in container.limits or demand is None:
            return Admission(self.resources.count in container.limits)
        app_class = pod.annotations.get(words.APP_CLASS)
        if app_class is not None:
            _one_of(words.APP_CLASS, app_class, (words.ONLINE, words.OFFLINE))
            if demand.count != 1:
                raise RefusedError(
                    f"container {container.name}: app-class pod must request single device: "
                    f"{self.resources.count} is {demand.count}; write 1, or leave the annotation "
                    f"{words.APP_CLASS} out"
                )
        if app_class == words.ONLINE:
            return Admission(True)
        policy = pod.annotations.get(words.QOS)
        if policy is not None:
            _one_of(words.QOS, policy, words.POLICIES)
            return Admission(True)
        return Admission(True, annotations={words.QOS: words.POLICIES[0]})

    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        """By limits alone. Raises `RefusedError`."""
        names = self.resources
        alone = replace(container, requests={})
        count = amount(alone, names.count, most=MOST_CARDS)
        cores = amount(alone, names.cores, most=100)
        memory = self._memory(alone)
        if not count:
            return None
        online = pod.annotations.get(words.APP_CLASS) == words.ONLINE
        return Demand(
            "Metax-SGPU",
            count,
            memory,
            cores_percent=0 if online else 100 if cores is None else cores,
            rules=frozenset({Rule.SLOTS, Rule.MEMORY}) if online else STANDARD,
        )

    def _memory(self, container: ContainerSpec) -> int:
        """MiB; a number alone means GiB, one with a suffix bytes. 0 where none is given.

        The API server writes 1000 as ``1k``, which would be a thousand bytes: refused.
        """
        name = self.resources.memory
        text = container.written(name)
        if text is None:
            return 0
        try:
            quantity = Quantity.parse(text)
        except QuantityError as error:
            raise RefusedError(f"container {container.name}: {name}: {error}") from None
        number = quantity.value()
        if any(character.isalpha() for character in text):
            mib = number // (1 << 20)
            if number and not mib:
                wanted = number if quantity.format is Format.DECIMAL else 1
                raise RefusedError(
                    f"container {container.name}: {name} is {text!r:.40}, less than a MiB: a "
                    f"number with a suffix means bytes; write {wanted}Gi for so many GiB"
                )
        else:
            mib = number * GIB_IN_MIB
        if number < 0 or mib > INT32 or whole(text) is None:
            raise RefusedError(
                f"container {container.name}: {name} is {text!r:.40}: write GiB, or a number with "
                "Mi or Gi, of at most one card"
            )
        return mib

    def devices(self, node: NodeFacts) -> Sequence[NodeDevice]:
        """The cards of MetaX's own list. Raises `AnnotationError`."""
        text = node.annotations.get(words.NODE, "")
        return [
            NodeDevice(
                uuid=card.uuid,
                index=position,
                count=card.count,
                memory=card.memory_mib,
                cores=card.compute,
                type="Metax-SGPU",
                numa=card.numa,
                healthy=card.healthy,
                custom={
                    "QosPolicy": card.qos,
                    "Model": card.model,
                    "LinkZone": card.link_zone,
                },
            )
            for position, card in enumerate(words.decode(text) if text else ())
        ]

    def eligible(
        self, card: Card, demand: Demand, pod: PodSpec, mine: Sequence[ContainerDevice]
    ) -> Reason | None:
        """Company of the pod's class, and a policy that the card can have."""
        app_class = pod.annotations.get(words.APP_CLASS)
        online, offline, others = tenants(card)
        if card.used:
            alone = others if app_class else online + offline
            if alone or (app_class == words.OFFLINE and online):
                detail = f"pods of another class use it, the pod is {app_class or 'of none'}"
                return Reason(Obstacle.APP_CLASS, card.uuid, detail)
        if app_class == words.ONLINE or not card.used or demand.cores_percent >= 100:
            return None
        has, wants = _policy_of(card), pod.annotations.get(words.QOS, "")
        if has and has != wants:
            detail = f"its policy is {has}, the pod's {wants or 'none'}"
            return Reason(Obstacle.QOS, card.uuid, detail)
        return None

    def choose(
        self,
        fitting: Sequence[Card],
        demand: Demand,
        pod: PodSpec,
        node: Sequence[Card],
        policy: Policy,
    ) -> Sequence[ContainerDevice] | Reason:
        """Online pods away from others, whole cards along their links."""
        app_class = pod.annotations.get(words.APP_CLASS)
        cards = list(fitting)
        if len(cards) > demand.count:
            if app_class == words.ONLINE:
                cards = by_company(cards, demand.count)
            elif app_class is None and demand.cores_percent >= 100:
                cards = by_links(cards, demand.count)
        return [taken(card, demand) for card in cards[: demand.count]]

    def score(
        self,
        node: NodeFacts,
        before: Sequence[Card],
        containers: Sequence[Sequence[ContainerDevice]],
        pod: PodSpec,
        policy: Policy,
    ) -> float:
        """How good the company is, or how well whole cards are connected."""
        uuids = {device.uuid for devices in containers for device in devices}
        if pod.annotations.get(words.APP_CLASS) == words.ONLINE:
            chosen = [card for card in before if card.uuid in uuids]
            return float(WEIGHT * company_score(chosen))
        whole = {d.uuid for devices in containers for d in devices if d.cores >= 100}
        if not whole or not self._topology_aware(pod):
            return 0.0
        return float(WEIGHT * link_score(before, whole))

    def most(self, demands: Sequence[Demand], pod: PodSpec, policy: Policy) -> float:
        """Whole cards that are all linked with each other; no company is better than none."""
        whole = sum(demand.count for demand in demands if demand.cores_percent >= 100)
        online = pod.annotations.get(words.APP_CLASS) == words.ONLINE
        return float(WEIGHT * most_linked(whole)) if whole > 1 and not online else 0.0

    def _topology_aware(self, pod: PodSpec) -> bool:
        text = pod.annotations.get(words.TOPOLOGY_AWARE, "")
        if text in TRUE or text in FALSE:
            return text in TRUE
        return self.configuration.topology_aware

    def annotations(
        self,
        node: NodeFacts,
        cards: Sequence[Card],
        containers: Sequence[Sequence[ContainerDevice]],
        pod: PodSpec,
        now_ns: int,
    ) -> Mapping[str, str]:
        """What MetaX's plugin reads."""
        return {words.ALLOCATED: words.allocated(containers), words.PREDICATE_TIME: str(now_ns)}


def _policy_of(card: Card) -> str:
    """The policy that its tenants gave the card, else the one that the node tells."""
    for tenant in card.tenants:
        policy = tenant.annotations.get(words.QOS)
        if policy and tenant.cores_percent < 100:
            return policy
    told = card.device.custom.get("QosPolicy")
    return told if isinstance(told, str) else ""


def _one_of(key: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise RefusedError(f"{key} must be set one of [{', '.join(known)}]; it is {value!r:.40}")
