"""Quotas of device memory and cores that do not do what their authors think.

Sources: hami-scheduler.md 4.8; users-and-competitors.md 22.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deviceplugin.doctor.fleet.scene import FleetScene
from deviceplugin.doctor.model import Finding, Group, Severity, Topic
from deviceplugin.explain.world import World
from deviceplugin.scheduler.quota import PREFIX, limits

__all__ = ["GROUP"]

NAME = "quotas"

NOT_HELD = Topic(
    "quota-not-held",
    NAME,
    Severity.ERROR,
    "A limit of a quota does not hold.",
    "It is no whole number, or more than there is anywhere: nobody goes by it.",
    "Write a whole number in the units in which pods ask for it, without a suffix.",
)
UNREAD = Topic(
    "quota-unread",
    NAME,
    Severity.WARNING,
    "A limit of a quota is read by nobody.",
    "The scheduler limits memory and cores of devices by limits.RESOURCE; Kubernetes itself limits "
    "other extended resources, and those only by requests.RESOURCE.",
    "Write requests.RESOURCE instead.",
)
EXCEEDED = Topic(
    "quota-exceeded",
    NAME,
    Severity.WARNING,
    "A namespace has more than its quota.",
    "The quota came later than the pods, or was lowered: nothing new is placed until enough has "
    "ended.",
    "Raise the quota, or end pods.",
)


@dataclass(frozen=True, slots=True)
class QuotaFacts:
    """The quotas as the scheduler reads them."""

    world: World


def gather(scene: FleetScene) -> QuotaFacts:
    """Nothing else has to be asked."""
    return QuotaFacts(scene.world)


def _not_held(facts: QuotaFacts) -> Iterator[Finding]:
    for record in facts.world.limits:
        for problem in limits(record, facts.world.backends)[1]:
            yield NOT_HELD.found(f"quota {record.namespace}/{record.name}: {problem}")


def _unread(facts: QuotaFacts) -> Iterator[Finding]:
    backends = facts.world.backends.values()
    counted = {name for b in backends for name in (b.resources.memory, b.resources.cores) if name}
    known = {name for backend in backends for name in backend.resources.names()}
    for record in facts.world.limits:
        for resource in sorted(record.hard.keys() & (known - counted)):
            yield UNREAD.found(
                f"quota {record.namespace}/{record.name}: nobody reads {PREFIX}{resource}",
                remedy=f"Write requests.{resource} instead.",
            )


def _exceeded(facts: QuotaFacts) -> Iterator[Finding]:
    quotas = facts.world.quotas
    for namespace, name, resource, limit in quotas.limits():
        used = quotas.used(namespace).get(resource, 0)
        if used > limit:
            yield EXCEEDED.found(
                f"namespace {namespace} holds {used} of {resource}, its quota {name} allows {limit}"
            )


GROUP = Group(NAME, (NOT_HELD, UNREAD, EXCEEDED), gather, (_not_held, _unread, _exceeded))
