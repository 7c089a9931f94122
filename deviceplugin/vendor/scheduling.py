"""The scheduling half of a vendor: what pods may ask, which cards fit, what a decision looks like.

All of it is pure and needs no driver, so that a scheduler never loads one. A backend stands for one
*word* (`VendorKeys.common_word`): one sort of device with one resource to count it. It says how a
container's resources are read (`demand`) and what is wrong with them (`admit`). Which standard
rules a card must pass is declared in the `Demand`; the framework evaluates those for all cards at
once (`deviceplugin.placement`). What a vendor has beyond them is optional *by presence*: `eligible`
judges single cards that passed, `choose` picks among those that are left, `score` ranks nodes,
`annotations` adds keys of the vendor's own to the pod.

Source: hami-scheduler.md 2 to 4. Memory is in MiB, cores in percent of one card.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from deviceplugin.api.hami.keys import VendorKeys
from deviceplugin.api.hami.poddevices import ContainerDevice
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.api.quantity import NANO, Quantity, QuantityError

__all__ = [
    "STANDARD",
    "Admission",
    "Annotator",
    "Bounded",
    "Card",
    "Chooser",
    "ContainerDevice",
    "ContainerSpec",
    "Decider",
    "Demand",
    "Inventory",
    "Judge",
    "NodeDevice",
    "NodeFacts",
    "Obstacle",
    "Partition",
    "Partitioned",
    "PodSpec",
    "Policy",
    "Reason",
    "RefusedError",
    "Resources",
    "Rule",
    "SchedulingBackend",
    "SchedulingSettings",
    "Scorer",
    "Tenant",
    "Unfit",
    "listed",
    "peak",
    "taken",
    "whole",
]


def _empty() -> Mapping[str, Any]:
    return MappingProxyType({})


# --- what people ask for -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One container of a pod as its author wrote it. `limits` and `requests` are quantities as
    text, `env` the names of its variables; a `sidecar` is an init container that keeps running.
    """

    name: str
    limits: Mapping[str, str] = field(default_factory=_empty, hash=False)
    requests: Mapping[str, str] = field(default_factory=_empty, hash=False)
    env: frozenset[str] = frozenset()
    privileged: bool = False
    init: bool = False
    sidecar: bool = False

    def asked(self, resource: str) -> int | None:
        """The amount of a resource: its limit, else its request; None where neither is given.

        A fraction and what is no quantity count as not given, as with upstream
        (hami-scheduler.md 4.2); `admit` is where such a thing is refused.
        """
        return whole(self.written(resource))

    def limit(self, resource: str) -> int | None:
        """The amount that its limits say, None where they do not."""
        return whole(self.limits.get(resource)) if resource else None

    def written(self, resource: str) -> str | None:
        """The text of the limit, else of the request."""
        if not resource:
            return None
        return self.limits.get(resource, self.requests.get(resource))


def whole(text: str | None) -> int | None:
    """A quantity as a whole number; None for none, for a fraction and for what is no quantity."""
    if text is None:
        return None
    try:
        quantity = Quantity.parse(text)
    except QuantityError:
        return None
    return quantity.value() if quantity.nano % NANO == 0 else None


@dataclass(frozen=True, slots=True)
class PodSpec:
    """As much of a pod as decisions depend on. Annotations are written by strangers."""

    namespace: str = ""
    name: str = ""
    uid: str = ""
    annotations: Mapping[str, str] = field(default_factory=_empty, hash=False)
    containers: tuple[ContainerSpec, ...] = ()
    init_containers: tuple[ContainerSpec, ...] = ()
    runtime_class: str = ""

    def listed(self, key: str | None) -> frozenset[str]:
        """The parts of an annotation that names several things: see `listed`."""
        return listed(self.annotations, key)


def listed(annotations: Mapping[str, str], key: str | None) -> frozenset[str]:
    """What an annotation lists with commas between; blanks do not count."""
    parts = annotations.get(key, "").split(",") if key else ()
    return frozenset(text for part in parts if (text := part.strip()))


@dataclass(frozen=True, slots=True)
class Resources:
    """The extended resources of one word. `count` counts devices; the others are empty where the
    vendor has none. A unit of `memory` is `memory_unit_mib` MiB, a card's `cores` are `core_units`
    units. `others` are names that only belong to the same request (a priority, a percentage).
    """

    count: str
    memory: str = ""
    cores: str = ""
    memory_percent: str = ""
    memory_unit_mib: int = 1
    others: tuple[str, ...] = ()
    core_units: int = 100

    def names(self) -> tuple[str, ...]:
        """All of them, none twice, in the order in which people read them."""
        named = (self.count, self.memory, self.cores, self.memory_percent, *self.others)
        return tuple(dict.fromkeys(name for name in named if name))


class RefusedError(ValueError):
    """A pod that can never be served as it is written. The text is shown to its author: it names
    container and resource, says why, and what to write instead.
    """


@dataclass(frozen=True, slots=True)
class Admission:
    """What a container's pod is changed to before it is stored.

    `found` says that the container asks for this vendor. `resources` are set in limits and requests
    alike; `env` is appended where the container has no such variable, `annotations` to the pod
    where it has no such key, `runtime_class` where the pod has none.
    """

    found: bool = False
    resources: Mapping[str, str] = field(default_factory=_empty)
    env: Mapping[str, str] = field(default_factory=_empty)
    annotations: Mapping[str, str] = field(default_factory=_empty)
    runtime_class: str = ""


class Rule(enum.Enum):
    """What is checked of every card, in this order (metax-iluvatar-kunlunxin-hygon.md 0.3)."""

    IDLE = enum.auto()
    """Nobody uses the card."""
    SLOTS = enum.auto()
    """Fewer share it than may."""
    MEMORY = enum.auto()
    """It has that much memory left."""
    CORES = enum.auto()
    """It has that many cores left."""
    EXCLUSIVE = enum.auto()
    """Who asks for all cores shares the card with nobody."""
    EXHAUSTED = enum.auto()
    """A card without a core left takes nobody, not even who asks for none."""


STANDARD = frozenset({Rule.SLOTS, Rule.MEMORY, Rule.CORES, Rule.EXCLUSIVE, Rule.EXHAUSTED})


@dataclass(frozen=True, slots=True)
class Demand:
    """What one container asks of one word: `count` different cards, and of each

    `memory_mib`, or where that is 0, `memory_percent` of what the card has (None: no memory at
    all); and `cores_percent`, above 100 taken as 100. `rules` are those a card must pass;
    `same_numa` wants all cards on one NUMA node. `facts` are the vendor's own: what `eligible` and
    `choose` need to know of the request.
    """

    word: str
    count: int
    memory_mib: int = 0
    memory_percent: int | None = 100
    cores_percent: int = 0
    rules: frozenset[Rule] = STANDARD
    same_numa: bool = False
    facts: Mapping[str, str] = field(default_factory=_empty, hash=False)

    @property
    def part(self) -> int | None:
        """Percent of a card's memory that it takes; None where it takes an amount."""
        return None if self.memory_mib else self.memory_percent or 0

    def memory_of(self, total_mib: int) -> int:
        """MiB that it takes of a card with so much memory."""
        if self.memory_mib:
            return self.memory_mib
        return total_mib * (self.part or 0) // 100


# --- what there is -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node. `capacity` and `allocatable` are whole numbers of extended resources."""

    name: str
    annotations: Mapping[str, str] = field(default_factory=_empty, hash=False)
    labels: Mapping[str, str] = field(default_factory=_empty, hash=False)
    capacity: Mapping[str, int] = field(default_factory=_empty, hash=False)
    allocatable: Mapping[str, int] = field(default_factory=_empty, hash=False)


@dataclass(frozen=True, slots=True)
class Tenant:
    """What one container holds of a card. `pod` is ``namespace/name``. `slot` is the hardware
    partition, ``geometry-position``; `init` an init container that runs to its end before the pod's
    others start. Of the pod's annotations only those are kept that the backend `remembers`.
    """

    pod: str
    memory_mib: int
    cores_percent: int
    slot: str = ""
    annotations: Mapping[str, str] = field(default_factory=_empty, hash=False)
    init: bool = False


@dataclass(frozen=True, slots=True)
class Card:
    """A device and what is in use of it."""

    device: NodeDevice
    tenants: tuple[Tenant, ...] = ()
    used: int = 0
    used_memory_mib: int = 0
    used_cores: int = 0

    @property
    def uuid(self) -> str:
        """The device's uuid."""
        return self.device.uuid

    @property
    def free_memory_mib(self) -> int:
        """MiB that nobody has."""
        return self.device.memory - self.used_memory_mib

    @property
    def free_cores(self) -> int:
        """Percent that nobody has."""
        return self.device.cores - self.used_cores

    def with_tenant(self, tenant: Tenant) -> Card:
        """The card once this tenant is on it too."""
        return Card(
            self.device,
            (*self.tenants, tenant),
            self.used + 1,
            self.used_memory_mib + tenant.memory_mib,
            self.used_cores + tenant.cores_percent,
        )


def peak(amounts: Iterable[tuple[bool, int]]) -> int:
    """The most that a pod's containers use at a time, of their amounts in the order in which they
    start. Those marked are init containers that end before the next begins: each has only sidecars
    beside it, which were started before it; in the end all others run together.
    """
    most = lasting = 0
    for ends, amount in amounts:
        if ends:
            most = max(most, lasting + amount)
        else:
            lasting += amount
    return max(most, lasting)


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of a card that its hardware makes; `name` is no other's on the card."""

    name: str
    in_use: bool


class Policy(enum.StrEnum):
    """How nodes and cards are ranked; a pod may choose (hami-scheduler.md 4.4, 4.5)."""

    BINPACK = "binpack"
    SPREAD = "spread"
    TOPOLOGY_AWARE = "topology-aware"


# --- why not -----------------------------------------------------------------------------------


class Obstacle(enum.StrEnum):
    """Why a card or a node does not serve, in the words that users of HAMi search for."""

    TYPE = "CardTypeMismatch"
    UUID = "CardUuidMismatch"
    SLOTS = "CardTimeSlicingExhausted"
    EXHAUSTED = "CardComputeUnitsExhausted"
    MEMORY = "CardInsufficientMemory"
    CORES = "CardInsufficientCore"
    HEALTH = "CardNotHealth"
    CORDONED = "CardCordoned"
    NUMA = "NumaNotFit"
    EXCLUSIVE = "ExclusiveDeviceAllocateConflict"
    VENDOR_RULE = "CardNotFoundCustomFilterRule"
    MODE = "ModeNotFit"
    TOO_FEW_CARDS = "NodeInsufficientDevice"
    TOO_FEW_FIT = "AllocatedCardsInsufficientRequest"
    QUOTA = "ResourceQuotaNotFit"
    QOS = "CardQosPolicyMismatch"
    APP_CLASS = "CardAppClassMismatch"
    INIT_CONTAINERS = "NodeServesNoInitContainers"


@dataclass(frozen=True, slots=True)
class Reason:
    """One obstacle: what, on which card (empty: the node), and in figures why."""

    obstacle: Obstacle
    card: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why a container finds no place on a node; `cards` is how many were looked at."""

    container: str
    word: str
    cards: int
    reasons: tuple[Reason, ...]


# --- who decides -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SchedulingSettings:
    """What a scheduling half may know: the vendor's `section` of the configuration file, as the
    node half gets it.
    """

    section: Mapping[str, Any] = field(default_factory=_empty)


@runtime_checkable
class SchedulingBackend(Protocol):
    """One word of a vendor: what every vendor must say. Everything is pure."""

    @property
    def keys(self) -> VendorKeys:
        """The annotations of node and pod."""

    @property
    def resources(self) -> Resources:
        """The names of its extended resources."""

    @property
    def remembers(self) -> tuple[str, ...]:
        """The annotations of pods on a card (`Tenant.annotations`) that later decisions need."""

    def admit(self, container: ContainerSpec, pod: PodSpec) -> Admission:
        """What a new pod is changed to for this container's sake. Raises `RefusedError`."""

    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        """What a container asks for; None when nothing of this word.

        What `admit` refuses may still come here, on pods that passed no webhook: it must not turn
        into more than was asked. Raises `RefusedError`.
        """


@runtime_checkable
class Inventory(Protocol):
    """The node's devices are not written in one of HAMi's two forms."""

    def devices(self, node: NodeFacts) -> Sequence[NodeDevice]:
        """The devices by what the node says, none where it has none. Raises
        `api.hami.errors.AnnotationError`.
        """


@runtime_checkable
class Judge(Protocol):
    """Cards must pass more than the standard rules."""

    def eligible(
        self, card: Card, demand: Demand, pod: PodSpec, mine: Sequence[ContainerDevice]
    ) -> Reason | None:
        """Why this card does not serve, None when it does. Asked of cards that passed all rules but
        not in which order. `mine` is what the pod's containers before this one were given.
        """


@runtime_checkable
class Chooser(Protocol):
    """It matters which of the fitting cards are taken together."""

    def choose(
        self,
        fitting: Sequence[Card],
        demand: Demand,
        pod: PodSpec,
        node: Sequence[Card],
        policy: Policy,
    ) -> Sequence[ContainerDevice] | Reason:
        """The devices of a container, several of one card only where its mode is ``mig``. `fitting`
        are the cards that serve, best ranked first, not empty but perhaps fewer than asked; `node`
        are all the word's cards of the node by index.
        `taken` makes the usual device of a card.
        """


@runtime_checkable
class Scorer(Protocol):
    """Nodes differ by more than how full they are."""

    def score(
        self,
        node: NodeFacts,
        before: Sequence[Card],
        containers: Sequence[Sequence[ContainerDevice]],
        pod: PodSpec,
        policy: Policy,
    ) -> float:
        """What speaks for the node, beside how full it is: under every policy the larger is the
        better node. `before` are the word's cards as they were before this pod.
        """


@runtime_checkable
class Bounded(Protocol):
    """A `Scorer` that knows how much it can say for a node: nodes that would not be the best with
    as much as that are not looked at, of which a large cluster has many.
    """

    def most(self, demands: Sequence[Demand], pod: PodSpec, policy: Policy) -> float:
        """At least what `score` gives for any node, whatever is in use there, where the pod's
        containers ask for this much of the word; ``math.inf`` where there is no limit.
        """


@runtime_checkable
class Annotator(Protocol):
    """The vendor's agents read more than the device lists."""

    def annotations(
        self,
        node: NodeFacts,
        cards: Sequence[Card],
        containers: Sequence[Sequence[ContainerDevice]],
        pod: PodSpec,
        now_ns: int,
    ) -> Mapping[str, str]:
        """The keys `VendorKeys.others` of a pod that was placed on this node; `containers` has
        every container's devices, empty ones too.
        """


@runtime_checkable
class Partitioned(Protocol):
    """Cards may be divided by their hardware."""

    def partitions(self, card: Card) -> Sequence[Partition]:
        """What a card is divided into now, by position; nothing where it is not."""


class Decider(Protocol):
    """What ``module:attribute`` of `Vendor.scheduling` is: makes the backends of a vendor."""

    def __call__(self, settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
        """One backend a word. Raises `ValueError` for a section that cannot be used."""


def taken(card: Card, demand: Demand) -> ContainerDevice:
    """What a container with this demand gets of a card."""
    return ContainerDevice(
        card.uuid,
        demand.word,
        demand.memory_of(card.device.memory),
        min(demand.cores_percent, 100),
    )
