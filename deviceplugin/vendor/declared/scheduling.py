"""The scheduling half of a declaration (metax-iluvatar-kunlunxin-hygon.md 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from deviceplugin.api.hami.keys import Registration
from deviceplugin.vendor.counted import counted
from deviceplugin.vendor.declared.declaration import Declaration, read
from deviceplugin.vendor.plain import Plain
from deviceplugin.vendor.registered import INT32
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
    Reason,
    RefusedError,
    Rule,
    SchedulingBackend,
    SchedulingSettings,
)

__all__ = ["Declared", "declared_scheduling"]


def declared_scheduling(place: str) -> Callable[[SchedulingSettings], Sequence[SchedulingBackend]]:
    """Makes the scheduling half of the declaration at ``package:file``."""

    def backends(settings: SchedulingSettings) -> Sequence[SchedulingBackend]:
        found = read(place).called(settings.section)
        kind = Counted if found.keys.registration is Registration.CAPACITY else Declared
        return [
            kind(
                found.keys,
                found.resources,
                found.default_cores,
                several_whole=found.whole,
                declaration=found,
            )
        ]

    return backends


@dataclass(frozen=True, kw_only=True)
class Declared(Plain):
    """Count, memory and cores, with the declaration's own rules."""

    declaration: Declaration

    def admit(self, container: ContainerSpec, pod: PodSpec) -> Admission:
        """Several cards are written as what they are: all memory and cores."""
        admission = super().admit(container, pod)
        count = container.asked(self.resources.count) or 0
        if not (admission.found and self.declaration.whole) or count == 0:
            return admission
        names, declared = self.resources, self.declaration
        if count == 1 and names.memory and container.written(names.memory) is not None:
            return admission
        whole = {
            names.cores: str(declared.resources.core_units * count),
            names.memory: str(declared.memory_mib // names.memory_unit_mib * count),
        }
        return replace(admission, resources={k: v for k, v in whole.items() if k})

    def demand(self, container: ContainerSpec, pod: PodSpec) -> Demand | None:
        """By the declaration's steps. Raises `RefusedError`."""
        demand = super().demand(container, pod)
        if demand is None:
            return None
        declared = self.declaration
        if declared.idle:
            return replace(demand, memory_mib=0, cores_percent=100, rules=frozenset({Rule.IDLE}))
        units = demand.memory_mib // self.resources.memory_unit_mib
        if declared.memory_steps and units and units not in declared.memory_steps:
            steps = ", ".join(map(str, declared.memory_steps))
            raise RefusedError(
                f"container {container.name}: {self.resources.memory} is {units}: write one of "
                f"{steps}"
            )
        return demand

    def eligible(
        self, card: Card, demand: Demand, pod: PodSpec, mine: Sequence[ContainerDevice]
    ) -> Reason | None:
        """All containers of a pod on one card, where the vendor has it so."""
        if self.declaration.one_card and any(device.uuid != card.uuid for device in mine):
            detail = "another container of the pod has another card"
            return Reason(Obstacle.VENDOR_RULE, card.uuid, detail)
        return None

    def annotations(
        self,
        node: NodeFacts,
        cards: Sequence[Card],
        containers: Sequence[Sequence[ContainerDevice]],
        pod: PodSpec,
        now_ns: int,
    ) -> Mapping[str, str]:
        """The declared annotations, of the first card of the first container that has one."""
        index = {card.uuid: card.device.index for card in cards}
        devices = [device for container in containers for device in container]
        if not devices:
            return {}
        first = devices[0]
        fields = {
            "indices": ",".join(str(index[device.uuid]) for device in devices),
            "uuids": ",".join(device.uuid for device in devices),
            "node": node.name,
            "now_ns": str(now_ns),
            "index": str(index[first.uuid]),
            "memory": str(first.memory // self.resources.memory_unit_mib),
            "cores": str(first.cores * self.resources.core_units // 100),
            "count": str(len(devices)),
        }
        return {k: text.format(**fields) for k, text in self.declaration.annotations.items()}


class Counted(Declared):
    """Cards that are counted off the node's capacity."""

    def devices(self, node: NodeFacts) -> Sequence[NodeDevice]:
        """As many as the capacity of cores makes, else of cards; memory is shared evenly.

        Raises `AnnotationError`.
        """
        declared, names = self.declaration, self.resources
        cores = node.capacity.get(names.cores, 0) if names.cores else 0
        count = -(-cores // declared.resources.core_units)
        count = count or node.capacity.get(names.count, 0) // declared.shares
        units = node.capacity.get(names.memory, 0) if names.memory else 0
        memory = declared.memory_mib
        if units > 0 and cores > 0:
            memory = units * names.memory_unit_mib * declared.resources.core_units // cores
        return counted(
            node,
            names.count,
            count,
            declared.names,
            count=declared.shares,
            memory=min(memory, INT32),
            type=declared.word,
        )
