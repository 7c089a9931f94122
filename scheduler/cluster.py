"""The cluster as it is now: nodes, and what pods hold of their devices.

Values come in by events in any order, twice or never; a view of a node is made of them when it is
asked for and kept until something of that node changes. Everything here belongs to one event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from deviceplugin.placement.fit import Backends
from deviceplugin.placement.observe import Held, NodeView, cards_with, node_view
from deviceplugin.scheduler.nodes import NodeRecord, inventory, moving, withdrawal, withdrawn
from deviceplugin.scheduler.pods import Decided, PodRecord, decided, result_annotations
from deviceplugin.scheduler.remembered import Remembered
from deviceplugin.scheduler.room import Order, Room, room_of
from deviceplugin.vendor.scheduling import NodeFacts

__all__ = ["Cluster", "Holding", "read"]


@dataclass(frozen=True, slots=True)
class Holding:
    """What one pod holds on one node."""

    uid: str
    namespace: str
    name: str
    node: str
    held: Decided

    def of(self, words: Container[str]) -> Holding:
        """The part of it that is of these words."""
        if all(word in words for word in self.held):
            return self
        kept = {word: items for word, items in self.held.items() if word in words}
        return replace(self, held=MappingProxyType(kept))


def read(record: PodRecord, backends: Backends) -> tuple[Holding, tuple[str, ...]]:
    """What a pod holds by its annotations, on the node that it is bound to or else would be; and
    what of them cannot be believed. Pure.
    """
    held, problems = decided(record.pod, backends)
    holding = Holding(record.uid, record.namespace, record.name, record.bound or record.node, held)
    return holding, tuple(map(str, problems))


@dataclass(slots=True)
class _Node:
    """A node and what was made of it; `told` is what its devices were read from, `bare` has nothing
    in use, `view` is None until it is asked for.
    """

    record: NodeRecord | None = None
    told: NodeFacts | None = None
    bare: NodeView | None = None
    problems: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()
    holdings: dict[str, Holding] = field(default_factory=dict)
    view: NodeView | None = None


class Cluster:
    """Nodes by name, holdings by the pod's uid.

    What a pod holds is what was *assumed* of it by a decision of this process, else what the watch
    saw. `changed` hears of each uid whose holding changed, with what it was and is.
    """

    def __init__(
        self,
        backends: Backends,
        changed: Callable[[Holding | None, Holding | None], None] = lambda _old, _new: None,
    ) -> None:
        self.backends = backends
        self._moving = moving(backends.values())
        self.wishes = frozenset(key for b in backends.values() for key in b.keys.by_people)
        """The annotations of pods by which people say what they want."""
        self.results = result_annotations(backends.values())
        """Those that say what was decided."""
        self._changed = changed
        self._nodes: dict[str, _Node] = {}
        self._seen: dict[str, Holding] = {}
        self._assumed: dict[str, Holding] = {}
        self._stale: set[str] = set()
        self._order = Order()
        self._rooms: dict[str, Room] = {}
        self.remembered: Remembered[Any] = Remembered()
        """Forgets a node whenever something of it changes; filled by who chooses among nodes."""

    # --- what is heard --------------------------------------------------------------------------

    def set_node(self, record: NodeRecord) -> None:
        """A node is there, or is another than it was. What is told of its devices is decoded only
        when that changed.
        """
        node = self._nodes.setdefault(record.name, _Node())
        out = frozenset(w for w, b in self.backends.items() if withdrawn(record, b))
        words = self.backends.keys() - out
        told = inventory(record.facts, self._moving)
        if node.told != told or node.words != words:
            served = [self.backends[word] for word in self.backends if word in words]
            node.bare, problems = node_view(told, served)
            node.problems, node.words = tuple(map(str, problems)), frozenset(words)
            node.told = told
            self._touch(record.name)
        node.record = record

    def drop_node(self, name: str) -> None:
        """A node is gone; what pods hold there counts again if it comes back."""
        node = self._nodes.get(name)
        if node is None:
            return
        node.record = node.told = node.bare = None
        self._touch(name)
        if not node.holdings:
            del self._nodes[name]

    def set_pod(self, record: PodRecord) -> tuple[str, ...]:
        """The watch saw a pod. Answers what cannot be read of one that counts.

        A bound pod is decided for good, and what is known of it stays known: its own decision where
        this process made it, else what its annotations said when it was seen first. Whoever changes
        them later changes nothing of what its containers were given.
        """
        uid = record.uid
        if not record.bound:
            return ()
        known = self._seen.get(uid)
        assumed = self._assumed.get(uid)
        if known is None and assumed is not None and assumed.node == record.bound:
            self._see(uid, assumed)
            return ()
        holding, problems = read(record, self.backends)
        if known is not None:
            held = {**holding.held, **known.held}
            holding = replace(known, held=MappingProxyType(held)) if held != known.held else known
        self._see(uid, holding if holding.held else None)
        return problems

    def confirm(self, uid: str) -> None:
        """What was assumed of a pod is so: it is bound, whatever older news the watch has yet."""
        if (assumed := self._assumed.get(uid)) is not None:
            self._see(uid, assumed)

    def drop_pod(self, uid: str) -> None:
        """A pod is gone or has ended."""
        before = self.holding(uid)
        self._seen.pop(uid, None)
        self._assumed.pop(uid, None)
        self._moved(uid, before)

    # --- who reads it ----------------------------------------------------------------------------

    @classmethod
    def of(
        cls, backends: Backends, nodes: Iterable[NodeRecord], pods: Iterable[PodRecord]
    ) -> Cluster:
        """What these backends read of nodes and pods, worked out to the end. It may take seconds,
        and any thread. Raises what a backend raises.
        """
        found = cls(backends)
        for node in nodes:
            found.set_node(node)
        for pod in pods:
            found.set_pod(pod)
        found._settle()
        return found

    def become(self, fresh: Cluster) -> None:
        """Be the same cluster as other backends read it: `fresh`, with what is known here of pods
        and with what is assumed, of words that are still there. Who counts what `changed` told has
        to begin anew.
        """
        words = fresh.backends
        for uid, known in self._seen.items():
            kept = known.of(words)
            told = fresh._seen.get(uid)
            held = {**told.held, **kept.held} if told is not None else kept.held
            if held and (told is None or told != kept):
                fresh._see(uid, replace(kept, held=MappingProxyType(dict(held))))
        for holding in self._assumed.values():
            if (kept := holding.of(words)).held:
                fresh.assume(kept)
        fresh._changed = self._changed
        vars(self).update(vars(fresh))

    # --- what is decided -------------------------------------------------------------------------

    def assume(self, holding: Holding) -> None:
        """A pod counts with this from now on, whatever the watch has seen of it so far."""
        before = self.holding(holding.uid)
        self._assumed[holding.uid] = holding
        self._moved(holding.uid, before)

    def forget(self, uid: str) -> None:
        """What was assumed of a pod is void; what the watch sees of it counts."""
        before = self.holding(uid)
        self._assumed.pop(uid, None)
        self._moved(uid, before)

    def forget_assumed(self) -> None:
        """Only what the watch saw counts."""
        for uid in tuple(self._assumed):
            self.forget(uid)

    def bound(self, uid: str) -> str:
        """The node that a pod which holds devices is bound to; empty where it is to none yet."""
        seen = self._seen.get(uid)
        return seen.node if seen else ""

    def assumed(self, uid: str) -> Holding | None:
        """What was assumed of a pod and the watch has not shown yet."""
        return self._assumed.get(uid)

    # --- what there is ---------------------------------------------------------------------------

    def holding(self, uid: str) -> Holding | None:
        """What a pod holds."""
        return self._assumed.get(uid) or self._seen.get(uid)

    def holdings(self) -> Iterator[Holding]:
        """What all pods hold."""
        for uid in dict.fromkeys((*self._seen, *self._assumed)):
            found = self.holding(uid)
            if found is not None:
                yield found

    def names(self) -> tuple[str, ...]:
        """The nodes that are there."""
        return tuple(name for name, node in self._nodes.items() if node.record is not None)

    def record(self, name: str) -> NodeRecord | None:
        """A node as it was last heard of."""
        node = self._nodes.get(name)
        return node.record if node else None

    def problems(self, name: str) -> tuple[str, ...]:
        """The annotations of a node that cannot be read."""
        node = self._nodes.get(name)
        return node.problems if node else ()

    def withdrawn(self, name: str, words: Iterable[str]) -> str:
        """Why a node's devices of one of these words are not to be used although it tells of them;
        empty where they are.
        """
        record = self.record(name)
        if record is None:
            return ""
        told = record.facts.annotations
        found = [self.backends[w] for w in words if self.backends[w].keys.register in told]
        return next(filter(None, (withdrawal(record, backend) for backend in found)), "")

    def strays(self, uid: str) -> tuple[str, ...]:
        """The devices that a pod holds and that its node does not tell of, although it tells of
        others of their word: they were given new uuids, or are gone, and count nowhere.
        """
        holding = self.holding(uid)
        node = self._nodes.get(holding.node) if holding is not None else None
        if holding is None or node is None or node.bare is None:
            return ()
        found: list[str] = []
        for word, items in holding.held.items():
            if known := {card.uuid for card in node.bare.cards.get(word, ())}:
                found += (d.uuid for item in items for d in item.devices if d.uuid not in known)
        return tuple(found)

    def view(self, name: str, without: Iterable[str] = ()) -> NodeView | None:
        """A node with everything in use but what the pods with these uids hold; None for a node
        that is not there.
        """
        node = self._nodes.get(name)
        if node is None or node.bare is None:
            return None
        left_out = node.holdings.keys() & set(without)
        if left_out:
            return _in_use(node.bare, (h for u, h in node.holdings.items() if u not in left_out))
        if node.view is None:
            node.view = _in_use(node.bare, node.holdings.values())
        return node.view

    def room(self, name: str) -> Room | None:
        """What is left on a node; None for a node that has no devices."""
        self._settle()
        return self._rooms.get(name)

    def rooms(self) -> Mapping[str, Room]:
        """What is left on each node that has devices."""
        self._settle()
        return self._rooms

    def by_score(self, *, fullest_first: bool) -> Iterator[str]:
        """The nodes that have devices, by how full they are."""
        self._settle()
        return reversed(self._order) if fullest_first else iter(self._order)

    def drift(self, name: str) -> bool:
        """Whether what is kept of a node differs from what it says and its pods hold when that is
        counted anew; if so it is set right. It costs with the node's pods: those that should be
        among them and are not are found by `uncounted`.
        """
        node = self._nodes.get(name)
        if node is None:
            return False
        held = map(self.holding, node.holdings)
        found = {h.uid: h for h in held if h is not None and h.node == name}
        same = found == node.holdings
        if node.bare is not None and node.told is not None and same:
            served = [b for w, b in self.backends.items() if w in node.words]
            bare, _ = node_view(node.told, served)
            fresh = _in_use(bare, found.values())
            room = room_of(fresh) if fresh.cards else None
            same = (node.view is None or _same(node.view, fresh)) and (
                name in self._stale or self._rooms.get(name) == room
            )
        if not same:
            node.holdings = found
            self._touch(name)
        return not same

    def uncounted(self, uid: str) -> bool:
        """Whether what a pod holds is missing on its node; if so it counts from now on."""
        found = self.holding(uid)
        if found is None:
            return False
        node = self._nodes.setdefault(found.node, _Node())
        if node.holdings.get(uid) == found:
            return False
        node.holdings[uid] = found
        self._touch(found.node)
        return True

    # --- how it is kept --------------------------------------------------------------------------

    def _see(self, uid: str, holding: Holding | None) -> None:
        """A pod is bound, and holds this or nothing; what was assumed of it is over."""
        before = self.holding(uid)
        self._assumed.pop(uid, None)
        if holding is None:
            self._seen.pop(uid, None)
        else:
            self._seen[uid] = holding
        self._moved(uid, before)

    def _moved(self, uid: str, before: Holding | None) -> None:
        after = self.holding(uid)
        if after == before:
            return
        if before is not None and (node := self._nodes.get(before.node)) is not None:
            node.holdings.pop(uid, None)
            self._touch(before.node)
            if not node.holdings and node.record is None:
                del self._nodes[before.node]
        if after is not None:
            self._nodes.setdefault(after.node, _Node()).holdings[uid] = after
            self._touch(after.node)
        self._changed(before, after)

    def _touch(self, name: str) -> None:
        self._nodes[name].view = None
        self._stale.add(name)
        self.remembered.forget(name)

    def _settle(self) -> None:
        for name in self._stale:
            view = self.view(name)
            if view is None or not view.cards:
                self._order.remove(name)
                self._rooms.pop(name, None)
            else:
                room = self._rooms[name] = room_of(view)
                self._order.put(name, room.score)
        self._stale.clear()


def _in_use(bare: NodeView, holdings: Iterable[Holding]) -> NodeView:
    held: dict[str, list[Held]] = {}
    for holding in sorted(holdings, key=lambda h: (h.namespace, h.name, h.uid)):
        for word, items in holding.held.items():
            held.setdefault(word, []).extend(items)
    cards = {w: cards_with(c, held[w]) if w in held else c for w, c in bare.cards.items()}
    return replace(bare, cards=MappingProxyType(cards))


def _same(one: NodeView, other: NodeView) -> bool:
    def plain(view: NodeView) -> Mapping[str, object]:
        return {word: tuple(cards) for word, cards in view.cards.items()}

    return plain(one) == plain(other) and one.cordoned == other.cordoned
