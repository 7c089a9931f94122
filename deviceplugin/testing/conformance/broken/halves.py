"""The sound scheduling half, and those that break a promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from deviceplugin.testing.conformance.broken.keys import KEYS, RESOURCE
from deviceplugin.vendor.scheduling import (
    STANDARD,
    Admission,
    Card,
    ContainerDevice,
    ContainerSpec,
    Demand,
    NodeDevice,
    NodeFacts,
    PodSpec,
    Policy,
    RefusedError,
    Resources,
    Rule,
    SchedulingBackend,
    SchedulingSettings,
)

MEMORY = "sound.example.com/memory"
CORES = "sound.example.com/cores"


class Sound:
    """Count and memory in MiB, all of it where none is given; idle cards are the better ones."""

    keys = KEYS
    resources = Resources(count=RESOURCE, memory=MEMORY)
    remembers: tuple[str, ...] = ()

    def admit(self, container: ContainerSpec, pod: PodSpec) -> Admission:
        """Memory that no card has is refused."""
        memory = container.asked(MEMORY)
        if memory is not None and memory < 0:
            raise RefusedError(
                f"container {container.name}: {MEMORY} is {memory}: write a positive number of MiB"
            )
        return Admission(found=container.limit(RESOURCE) is not None)

    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        """Nothing for less than one card."""
        count = container.asked(RESOURCE) or 0
        if count <= 0:
            return None
        return Demand(KEYS.common_word, count, max(container.asked(MEMORY) or 0, 0))

    def score(
        self,
        node: NodeFacts,
        before: Sequence[Card],
        containers: Sequence[Sequence[ContainerDevice]],
        pod: PodSpec,
        policy: Policy,
    ) -> float:
        """One for each card that nobody used."""
        idle = {card.uuid for card in before if not card.used}
        return float(sum(device.uuid in idle for devices in containers for device in devices))

    def most(self, demands: Sequence[Demand], pod: PodSpec, policy: Policy) -> float:
        """All of them idle."""
        return float(sum(demand.count for demand in demands))


def sound(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """Keeps every promise."""
    return [Sound()]


class _Cored(Sound):
    """Cores may be asked for, too; no node half limits them."""

    resources = Resources(count=RESOURCE, memory=MEMORY, cores=CORES)

    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        found = super().demand(container, pod)
        return found and replace(found, cores_percent=max(container.asked(CORES) or 0, 0))


class _OtherResource(Sound):
    resources = Resources(count="sound.example.com/cards", memory=MEMORY)

    def admit(self, container: ContainerSpec, pod: PodSpec) -> Admission:
        return Admission()


class _Blind(Sound):
    def devices(self, node: NodeFacts) -> Sequence[NodeDevice]:
        return ()


class _Crashing(Sound):
    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        count = int(container.limits.get(RESOURCE, "0"))
        return Demand(KEYS.common_word, count) if count > 0 else None


class _Growing(Sound):
    def admit(self, container: ContainerSpec, pod: PodSpec) -> Admission:
        if (count := container.limit(RESOURCE)) is None:
            return Admission()
        memory = container.asked(MEMORY) or 0
        return Admission(found=True, resources={MEMORY: str(memory + count)})


class _Trusting(Sound):
    def devices(self, node: NodeFacts) -> Sequence[NodeDevice]:
        text = node.annotations.get(KEYS.register or "", "")
        if not text:
            return ()
        import json

        return [
            NodeDevice(
                uuid=entry["id"],
                count=entry["count"],
                memory=entry["devmem"],
                cores=entry["devcore"],
                type=entry["type"],
                healthy=True,
                index=entry.get("index", 0),
            )
            for entry in json.loads(text)
        ]


class _Overbooking(Sound):
    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        found = super().demand(container, pod)
        rules = STANDARD - {Rule.MEMORY}
        return found and Demand(found.word, found.count, found.memory_mib, rules=rules)


class _Excited(Sound):
    def most(self, demands: Sequence[Demand], pod: PodSpec, policy: Policy) -> float:
        return 0.0


class _Renaming(Sound):
    def choose(
        self,
        fitting: Sequence[Card],
        demand: Demand,
        pod: PodSpec,
        node: Sequence[Card],
        policy: Policy,
    ) -> Sequence[ContainerDevice]:
        found = []
        for card in fitting[: demand.count]:
            memory = demand.memory_of(card.device.memory)
            found.append(ContainerDevice(card.uuid, "sound", memory, 0))
        return found


class _Loud(Sound):
    def annotations(
        self,
        node: NodeFacts,
        cards: Sequence[Card],
        containers: Sequence[Sequence[ContainerDevice]],
        pod: PodSpec,
        now_ns: int,
    ) -> Mapping[str, str]:
        return {"everybody.example.com/look": "here"}


class _Nosy(Sound):
    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        if pod.annotations.get("everybody.example.com/mood") == "bad":
            return None
        return super().demand(container, pod)


def cored(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """Sells cores that the node half limits nowhere."""
    return [_Cored()]


def other_resource(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """Counts a resource that the node does not offer."""
    return [_OtherResource()]


def blind(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """Finds nothing on any node."""
    return [_Blind()]


def crashing(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """Takes every quantity for a number."""
    return [_Crashing()]


def growing(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """Adds to what it added before."""
    return [_Growing()]


def trusting(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """Believes what nodes write."""
    return [_Trusting()]


def overbooking(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """Forgets that memory is finite."""
    return [_Overbooking()]


def excited(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """Says more for some nodes than it says that it will."""
    return [_Excited()]


def renaming(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """Writes devices of a type that it does not read."""
    return [_Renaming()]


def loud(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """Writes annotations that nobody gave it."""
    return [_Loud()]


def nosy(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
    """Goes by an annotation that its keys do not name."""
    return [_Nosy()]


def alone(settings: SchedulingSettings) -> SchedulingBackend:
    """A backend where a list of them belongs."""
    return Sound()
