"""When partitions that outlive their containers may be removed. Pure, but for the memory of it.

Kubelet says who holds ids, but for moments it says too little: right after its own start, and
between Allocate and the container. So nobody counts as gone before he was missing for a while, from
one look to a later one, and whoever asked for a partition of late is no leftover.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TypeAlias

from deviceplugin.kubelet.checkpoint import Entry
from deviceplugin.kubelet.podresources import Holding
from deviceplugin.vendor import Owner

__all__ = ["Named", "Tidying", "holders", "unlisted"]

MISSING_SECONDS = 60.0
"""For so long kubelet must not name a holder, before it is gone."""

ASKED_SECONDS = 300.0
"""For so long a partition may wait for its container."""

Holder: TypeAlias = Mapping[str, str]
"""``allocation``, ``pod_uid``, ``namespace``, ``pod``, ``container`` and ``devices``, empty where
unknown.
"""

Named: TypeAlias = Callable[[Collection[str]], str]
"""Makes a text of kubelet's ids."""


class Tidying:
    """Who may still need a partition, by the monotonic clock in seconds."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._seen: dict[tuple[str, ...], Holder] = {}
        self._missing: dict[tuple[str, ...], float] = {}
        self._asked: dict[tuple[str, ...], tuple[Holder, float]] = {}
        self._done: list[Holder] | None = None

    def asked(self, owner: Owner, now: float) -> None:
        """Somebody asks for a partition."""
        holder = _holder(
            owner.allocation_id,
            owner.pod_uid,
            owner.pod_namespace,
            owner.pod_name,
            owner.container,
        )
        self._asked[tuple(holder.values())] = (holder, now)
        self._done = None

    def seen(self, found: Iterable[Holder], now: float) -> None:
        """Kubelet names these holders, and nobody else. Time in which nobody looked counts for
        nobody's absence: it begins with the first look that misses him.
        """
        if self._began is None:
            self._began = now
        listed = {tuple(holder.values()): holder for holder in found}
        self._seen |= listed
        self._missing = {
            key: self._missing.get(key, now) for key in self._seen if key not in listed
        }
        gone = {key for key, since in self._missing.items() if now - since >= MISSING_SECONDS}
        self._seen = {key: holder for key, holder in self._seen.items() if key not in gone}

    def due(self, now: float) -> list[Holder] | None:
        """All who may need theirs, when it is time to remove the rest; None when nothing is to do:
        too early, or the same as at the last time.
        """
        if self._began is None or now - self._began < MISSING_SECONDS:
            return None
        self._asked = {k: v for k, v in self._asked.items() if now - v[1] < ASKED_SECONDS}
        held = list(self._seen.values())
        known = {(holder["allocation"], holder["pod_uid"]) for holder in held}
        allocations = {allocation for allocation, _ in known}
        for holder, _ in self._asked.values():
            uid, allocation = holder["pod_uid"], holder["allocation"]
            # Ids go from pod to pod, and the allocation's name with them.
            if (allocation, uid) not in known and (uid or allocation not in allocations):
                held.append(holder)
        return None if held == self._done else held

    def done(self, held: list[Holder]) -> None:
        """The rest is removed."""
        self._done = held


def holders(
    holdings: Iterable[Holding],
    entries: Iterable[Entry],
    names: Mapping[str, tuple[Named, Named]],
) -> Iterator[Holder]:
    """Whom kubelet names as holders of the resources in `names`, each of which makes an
    allocation's name of ids, and the uuids of the devices behind it. The uid is that of the
    checkpoint `entries`, which PodResources lacks; where an ended pod's entry is still there beside
    that of the pod which has its ids now, both count.
    """
    holdings, entries = tuple(holdings), tuple(entries)
    uids: dict[tuple[str, frozenset[str], str], list[str]] = {}
    for entry in entries:
        uids.setdefault((entry.resource, entry.ids, entry.container), []).append(entry.pod_uid)
    for item in holdings:
        if (named := names.get(item.resource)) is not None:
            allocation, devices = (name(item.ids) for name in named)
            where = (item.namespace, item.pod, item.container)
            for uid in uids.get((item.resource, item.ids, item.container), [""]):
                yield _holder(allocation, uid, *where, devices=devices)
    for entry in unlisted(entries, holdings):
        if (named := names.get(entry.resource)) is not None:
            allocation, devices = (name(entry.ids) for name in named)
            yield _holder(allocation, entry.pod_uid, container=entry.container, devices=devices)


def unlisted(entries: Iterable[Entry], holdings: Iterable[Holding]) -> Iterator[Entry]:
    """The entries of kubelet's checkpoint that it does not list, of pods with another container
    that it lists: so they live, and their ordinary init containers may start again.
    """
    listed = {(item.resource, item.ids, item.container) for item in holdings}
    silent, living = [], set()
    for entry in entries:
        if (entry.resource, entry.ids, entry.container) in listed:
            living.add(entry.pod_uid)
        else:
            silent.append(entry)
    return (entry for entry in silent if entry.pod_uid in living)


def _holder(
    allocation: str,
    pod_uid: str = "",
    namespace: str = "",
    pod: str = "",
    container: str = "",
    devices: str = "",
) -> Holder:
    return {
        "allocation": allocation,
        "pod_uid": pod_uid,
        "namespace": namespace,
        "pod": pod,
        "container": container,
        "devices": devices,
    }
