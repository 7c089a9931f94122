"""When partitions that outlive their containers may be removed. Pure, but for the memory of it.

Kubelet says who holds ids, but for moments it says too little: right after its own start, and
between Allocate and the container. So nobody counts as gone before he was missing for a while, and
whoever asked for a partition of late is no leftover.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TypeAlias

from deviceplugin.kubelet.checkpoint import Entry
from deviceplugin.kubelet.podresources import Holding

__all__ = ["Tidying", "holders", "unlisted"]

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
        self._seen: dict[tuple[str, ...], tuple[Holder, float]] = {}
        self._asked: dict[str, float] = {}
        self._done: list[Holder] | None = None

    def asked(self, allocation: str, now: float) -> None:
        """Somebody asks for a partition."""
        self._asked[allocation] = now
        self._done = None

    def seen(self, found: Iterable[Holder], now: float) -> None:
        """Kubelet names these holders."""
        if self._began is None:
            self._began = now
        for holder in found:
            self._seen[tuple(holder.values())] = (holder, now)

    def due(self, now: float) -> list[Holder] | None:
        """All who may need theirs, when it is time to remove the rest; None when nothing is to do:
        too early, or the same as at the last time.
        """
        if self._began is None or now - self._began < MISSING_SECONDS:
            return None
        self._seen = {k: v for k, v in self._seen.items() if now - v[1] < MISSING_SECONDS}
        self._asked = {a: t for a, t in self._asked.items() if now - t < ASKED_SECONDS}
        held = [holder for holder, _ in self._seen.values()]
        known = {holder["allocation"] for holder in held}
        held += [_holder(allocation) for allocation in self._asked if allocation not in known]
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
    checkpoint `entries`, which PodResources lacks.
    """
    holdings, entries = tuple(holdings), tuple(entries)
    uids = {(entry.resource, entry.ids): entry.pod_uid for entry in entries}
    for item in holdings:
        if (named := names.get(item.resource)) is not None:
            allocation, devices = (name(item.ids) for name in named)
            uid = uids.get((item.resource, item.ids), "")
            where = (item.namespace, item.pod, item.container)
            yield _holder(allocation, uid, *where, devices=devices)
    for entry in unlisted(entries, holdings):
        if (named := names.get(entry.resource)) is not None:
            allocation, devices = (name(entry.ids) for name in named)
            yield _holder(allocation, entry.pod_uid, container=entry.container, devices=devices)


def unlisted(entries: Iterable[Entry], holdings: Iterable[Holding]) -> Iterator[Entry]:
    """The entries of kubelet's checkpoint whose pod has another container that kubelet lists: so
    it lives, and ordinary init containers of it, which are never listed, may start again.
    """
    listed = {(item.resource, item.ids) for item in holdings}
    entries = tuple(entries)
    living = {entry.pod_uid for entry in entries if (entry.resource, entry.ids) in listed}
    return (entry for entry in entries if entry.pod_uid in living)


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
