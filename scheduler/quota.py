"""Namespaces' quotas of device memory and cores, which Kubernetes itself does not count.

A ResourceQuota's hard keys ``limits.<resource>`` count, where the resource is a vendor's memory or
cores; of several quotas of a namespace each has to hold, and zero is zero. What is used is what
pods hold at most at a time (`vendor.scheduling.peak`). Source: hami-scheduler.md 4.8, with what
later versions mended (11.3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from deviceplugin.placement.fit import Backends, Placement
from deviceplugin.placement.request import Ask
from deviceplugin.scheduler.cluster import Holding
from deviceplugin.scheduler.filtering import Request
from deviceplugin.vendor.scheduling import ContainerDevice, Obstacle, Reason, peak, whole

__all__ = ["PREFIX", "QuotaRecord", "Quotas", "limits", "quota_record", "units"]

PREFIX = "limits."
LARGEST = 2**31 - 1
"""MiB or percent; who writes more means bytes."""

Amounts = Mapping[str, int]
"""By resource: MiB of memory, percent of cores."""


@dataclass(frozen=True, slots=True)
class QuotaRecord:
    """One ResourceQuota: what it writes of limits, by resource, whoever reads it."""

    namespace: str
    name: str
    hard: Mapping[str, str]


def quota_record(item: Mapping[str, Any]) -> QuotaRecord | None:
    """A quota from its JSON; None for one that limits no extended resource. Raises `ValueError`."""
    metadata = item["metadata"]
    written = (item.get("spec") or {}).get("hard") or {}
    hard = {
        str(key).removeprefix(PREFIX): str(text)
        for key, text in written.items()
        if str(key).startswith(PREFIX) and "/" in str(key)
    }
    if not hard:
        return None
    return QuotaRecord(
        str(metadata.get("namespace") or ""),
        str(metadata.get("name") or ""),
        MappingProxyType(hard),
    )


def limits(record: QuotaRecord, backends: Backends) -> tuple[Amounts, tuple[str, ...]]:
    """What a quota limits of devices' memory and cores, and the limits that are no whole numbers,
    or more than there is anywhere: they do not hold. Pure.
    """
    by_resource = units(backends)
    found, problems = {}, []
    for resource in sorted(record.hard.keys() & by_resource.keys()):
        text = record.hard[resource]
        amount = whole(text)
        key = f"{PREFIX}{resource}"
        if amount is None or amount < 0:
            problems.append(f"{key} is {text!r:.80}: write a whole number; it does not hold")
        elif amount * by_resource[resource] > LARGEST:
            problems.append(
                f"{key} is {text!r:.80}, more than there is anywhere, so that it does not hold: "
                "write it in the units in which pods ask for it, without a suffix"
            )
        else:
            found[resource] = int(amount * by_resource[resource])
    return MappingProxyType(found), tuple(problems)


class Quotas:
    """Limits and use of all namespaces. Belongs to the loop on which pods are decided about, one at
    a time: what is asked for here cannot be given away between the question and the decision.
    """

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._limits: dict[str, dict[str, Amounts]] = {}
        self._used: dict[str, Counter[str]] = {}

    def set_quota(self, record: QuotaRecord) -> tuple[str, ...]:
        """A quota is there, or is another than it was. Answers why limits of it do not hold."""
        amounts, problems = limits(record, self._backends)
        self._limits.setdefault(record.namespace, {})[record.name] = amounts
        return problems

    def drop_quota(self, namespace: str, name: str) -> None:
        """A quota is gone."""
        self._limits.get(namespace, {}).pop(name, None)

    def serve(
        self, backends: Backends, records: Iterable[QuotaRecord], holdings: Iterable[Holding]
    ) -> None:
        """Be the same quotas as other backends read them, with what pods hold now. Raises what a
        backend raises; then nothing has changed.
        """
        fresh = Quotas(backends)
        for record in records:
            fresh.set_quota(record)
        for holding in holdings:
            fresh.moved(None, holding)
        vars(self).update(vars(fresh))

    def moved(self, before: Holding | None, after: Holding | None) -> None:
        """What a pod holds has changed."""
        for holding, sign in ((before, -1), (after, 1)):
            if holding is not None:
                used = self._used.setdefault(holding.namespace, Counter())
                for resource, amount in self.held(holding).items():
                    used[resource] += sign * amount
                    if not used[resource]:
                        del used[resource]

    def used(self, namespace: str) -> Amounts:
        """What a namespace's pods hold."""
        return MappingProxyType(self._used.get(namespace, Counter()))

    def uses(self) -> Iterable[tuple[str, str, int]]:
        """What namespaces' pods hold: namespace, resource and amount."""
        for namespace, amounts in self._used.items():
            for resource, amount in amounts.items():
                yield namespace, resource, amount

    def limits(self) -> Iterable[tuple[str, str, str, int]]:
        """Every limit: namespace, quota, resource and amount."""
        for namespace, found in self._limits.items():
            for name, amounts in found.items():
                for resource, limit in amounts.items():
                    yield namespace, name, resource, limit

    def allows(
        self, wanted: Request, placement: Placement, gone: Iterable[Holding] = ()
    ) -> Reason | None:
        """Why a placement is more than its namespace has left once these are gone, what the pod
        holds already among them; None when it is not.
        """
        given = {
            word: [
                (ask.container.init and not ask.container.sidecar, devices)
                for ask, devices in zip(wanted.asks, containers, strict=True)
            ]
            for word, containers in placement.containers.items()
        }
        return self.refusal(wanted.pod.namespace, self._amounts(given), gone)

    def refusal(
        self, namespace: str, asked: Amounts, gone: Iterable[Holding] = ()
    ) -> Reason | None:
        """Why a namespace cannot have so much more once these are gone; None when it can."""
        used = Counter(self._used.get(namespace, Counter()))
        for holding in gone:
            if holding.namespace == namespace:
                used.subtract(self.held(holding))
        return self._refusal(namespace, asked, used)

    def never(self, namespace: str, asked: Amounts) -> Reason | None:
        """Why a namespace cannot have so much with nothing else in it; None when it can."""
        return self._refusal(namespace, asked, Counter())

    def _refusal(self, namespace: str, asked: Amounts, used: Counter[str]) -> Reason | None:
        for name, amounts in self._limits.get(namespace, {}).items():
            for resource, limit in amounts.items():
                more = asked.get(resource, 0)
                if more and used[resource] + more > limit:
                    detail = (
                        f"quota {name}: {PREFIX}{resource} is {limit}, "
                        f"{used[resource]} are used, {more} more are asked for"
                    )
                    return Reason(Obstacle.QUOTA, "", detail)
        return None

    def asked(self, wanted: Iterable[Ask]) -> Amounts:
        """What a pod will hold at least, wherever it goes: a share in percent of a card that is not
        known yet does not count.
        """
        given: dict[str, list[tuple[bool, list[ContainerDevice]]]] = {}
        for ask in wanted:
            first = ask.container.init and not ask.container.sidecar
            for word, demand in ask.demands.items():
                cores = min(demand.cores_percent, 100)
                device = ContainerDevice("", word, demand.memory_mib, cores)
                given.setdefault(word, []).append((first, [device] * demand.count))
        return self._amounts(given)

    def held(self, holding: Holding) -> Amounts:
        """What one pod holds."""
        return self._amounts(
            {
                word: [(held.init, held.devices) for held in items]
                for word, items in holding.held.items()
            }
        )

    def _amounts(
        self, given: Mapping[str, Sequence[tuple[bool, Sequence[ContainerDevice]]]]
    ) -> Amounts:
        found: Counter[str] = Counter()
        for word, containers in given.items():
            resources = self._backends[word].resources
            memory = [(ends, sum(d.memory for d in devices)) for ends, devices in containers]
            cores = [(ends, sum(d.cores for d in devices)) for ends, devices in containers]
            for resource, amounts in ((resources.memory, memory), (resources.cores, cores)):
                if resource:
                    found[resource] += peak(amounts)
        return MappingProxyType(+found)


def units(backends: Backends) -> dict[str, Fraction]:
    """MiB or percent of a unit, by resource."""
    found = {}
    for backend in backends.values():
        if backend.resources.memory:
            found[backend.resources.memory] = Fraction(backend.resources.memory_unit_mib)
        if backend.resources.cores:
            found[backend.resources.cores] = Fraction(100, backend.resources.core_units)
    return found
