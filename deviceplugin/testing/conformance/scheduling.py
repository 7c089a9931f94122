"""What schedulers are told, and what the scheduling half makes of pods."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from deviceplugin.api.hami import register
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.keys import Registration
from deviceplugin.placement.admit import admitted
from deviceplugin.placement.fit import Placement, place
from deviceplugin.placement.observe import (
    CORDON,
    Held,
    NodeView,
    cards_with,
    held_of,
    node_view,
)
from deviceplugin.placement.presence import bounds, scores
from deviceplugin.placement.request import asks
from deviceplugin.placement.write import decision
from deviceplugin.scheduled.registration import keys_of, node_annotations, offer
from deviceplugin.testing.conformance.model import Check, NotApplicableError, Wrong
from deviceplugin.testing.conformance.packaging import bad_resource
from deviceplugin.testing.conformance.subject import Subject
from deviceplugin.vendor import NodeAnnotator, Registrar
from deviceplugin.vendor.scheduling import (
    Card,
    ContainerSpec,
    Demand,
    Inventory,
    NodeFacts,
    PodSpec,
    Policy,
    RefusedError,
    SchedulingBackend,
    Unfit,
)

__all__ = ["CHECKS"]

NODE = "conformance"
MOST_PODS = 4096
NEEDED = {
    "register": "schedulers never see its devices",
    "handshake": "schedulers never learn that its agent is gone",
    "to_allocate": "the agent never learns which devices a pod was given",
}
NOW_NS = 1_700_000_000 * 10**9

ABSURD = (
    "0",
    "-1",
    "1",
    "3",
    "100",
    "0.5",
    "1m",
    "1k",
    "16Gi",
    "9223372036854775807",
    "99999999999999999999999",
    "1e500",
    "many",
    "",
    "\x00",
)
"""Quantities as people and fuzzers write them."""

HOSTILE = (
    "",
    "[",
    "{}",
    "[{}]",
    '[{"id":5}]',
    "a,b,c:",
    ":" * 5000,
    "\x00\x1b",
    '[{"uuid":"' + "x" * 70000 + '"}]',
    "null",
    "[" * 3000,
    "DCU-1,-1,-1,-1,x,y,z,:,",
)
"""Annotations of a node as a broken or hostile agent might write them."""


def _node_told(subject: Subject) -> Mapping[str, str]:
    """The node's annotations as our agent writes them for this vendor."""
    node = subject.node
    told: dict[str, str] = {}
    for item in subject.scheduled:
        own = None
        if isinstance(node, NodeAnnotator):
            own = node.node_annotations(item.plan, subject.snapshot)
        try:
            devices = subject.registered(item)
            made = offer(item.plan, item.table, devices, scored=False, annotations=own)
            told |= node_annotations([made] if made else [], deferred=False)
        except ValueError as error:
            raise NotApplicableError(f"the node's annotations cannot be made: {error}") from error
    return told


def _facts(subject: Subject) -> NodeFacts:
    capacity = {item.plan.resource: len(item.table.virtual) for item in subject.offered}
    return NodeFacts(NODE, _node_told(subject), {}, capacity, capacity)


def _registered(subject: Subject) -> Wrong:
    for item in subject.scheduled:
        keys = item.plan.keys
        if keys is None or keys.registration not in (Registration.JSON, Registration.LEGACY):
            continue
        if keys.register is None:
            continue  # which the check `keys` tells
        devices = subject.registered(item)
        encode = (
            register.encode if keys.registration is Registration.JSON else register.encode_legacy
        )
        try:
            again = register.decode(encode(devices, keys.register), keys.register)
        except AnnotationError as error:
            yield f"{item.plan.resource}: {error}"
            continue
        if [d.uuid for d in again] != [d.uuid for d in devices]:
            yield f"{item.plan.resource}: devices are lost on the way through {keys.register}"
        names = {item.plan.names.get(device.uuid, device.uuid) for device in devices}
        if strange := names - set(item.plan.devices):
            yield f"{item.plan.resource} registers {sorted(strange)[0]}, which it does not offer"
        for device in devices:
            if keys.common_word not in device.type:
                yield (
                    f"{item.plan.resource}: the type {device.type!r} lacks the word "
                    f"{keys.common_word}, so schedulers of HAMi 2.8 never look at the device"
                )
            if device.count < 1 or device.memory < 0 or device.cores < 0:
                yield f"{item.plan.resource}: {device.uuid} has negative figures"


def _annotations(subject: Subject) -> Wrong:
    node = subject.node
    if not isinstance(node, NodeAnnotator):
        raise NotApplicableError("it writes no annotations of its own form")
    for item in subject.scheduled:
        if item.plan.keys is None:
            continue
        told = node.node_annotations(item.plan, subject.snapshot)
        if told != node.node_annotations(item.plan, subject.snapshot):
            yield f"{item.plan.resource}: node_annotations() says something else the second time"
        for key in told.keys() - set(keys_of(item.plan.keys)):
            yield f"{item.plan.resource}: the annotation {key!r} is not among the resource's keys"


def _keys(subject: Subject) -> Wrong:
    """What the form of registration needs, and the same in both halves."""
    for item in subject.scheduled:
        keys = item.plan.keys
        if keys is None:
            continue
        if keys.registration in (Registration.JSON, Registration.LEGACY):
            for name, lost in NEEDED.items():
                if getattr(keys, name) is None:
                    yield f"{item.plan.resource}: its keys have no {name}: {lost}"
        half = subject.word(keys.common_word) if subject.vendor.scheduling else None
        if half is not None and half.keys != keys:
            yield (
                f"{item.plan.resource}: the node half's keys are not those of the scheduling half "
                f"of {keys.common_word}: let both name one constant"
            )


def _names(subject: Subject) -> Wrong:
    keyed = any(item.plan.keys for item in subject.offered)
    forgotten = subject.offered and not keyed and not isinstance(subject.node, Registrar)
    if forgotten and subject.scheduling:
        yield (
            "plan() gives no resource keys, so schedulers never see what the node has: "
            "ResourcePlan(..., keys=KEYS)"
        )
        return
    offered = {item.plan.keys.common_word for item in subject.scheduled if item.plan.keys}
    backends = subject.scheduling
    words = [backend.keys.common_word for backend in backends]
    for word in {word for word in words if words.count(word) > 1}:
        yield f"two scheduling backends are for the word {word}"
    for word in offered - set(words):
        yield f"the node half offers {word}, which the scheduling half does not know"
    for backend in backends:
        for name in backend.resources.names():
            if why := bad_resource(name):
                yield f"{backend.keys.common_word}: {why}"
    for item in subject.scheduled:
        half = subject.word(item.plan.keys.common_word) if item.plan.keys else None
        if half is not None and half.resources.count != item.plan.resource:
            yield (
                f"the node half offers {half.keys.common_word} as {item.plan.resource}, the "
                f"scheduling half counts {half.resources.count}"
            )


def _containers(backend: SchedulingBackend) -> Iterator[ContainerSpec]:
    names = backend.resources
    others = [name for name in names.names() if name != names.count]
    for text in ABSURD:
        yield ContainerSpec("c", {names.count: text})
        yield ContainerSpec("c", {}, {names.count: text})
        for name in others:
            yield ContainerSpec("c", {names.count: "1", name: text})
            yield ContainerSpec("c", {names.count: "2", name: text}, {name: text})
            yield ContainerSpec("c", {name: text})


def _absurd(subject: Subject) -> Wrong:
    for backend in subject.scheduling:
        for container in _containers(backend):
            pod = PodSpec("n", "p", "u", {}, (container,))
            shown = {**container.requests, **container.limits}
            try:
                demand = backend.demand(container, pod)
            except RefusedError:
                continue
            except Exception as error:
                yield f"demand() raises {type(error).__name__} for {shown!r:.120}: {error}"
                return
            if demand is None:
                continue
            if demand.word != backend.keys.common_word:
                yield f"a demand of {backend.keys.common_word} has the word {demand.word!r}"
                return
            if demand.count < 0 or demand.memory_mib < 0 or demand.cores_percent < 0:
                yield f"{shown!r:.120} becomes a negative demand"
                return
            asked = container.asked(backend.resources.count)
            if asked is not None and asked <= 0 and demand.count > 0:
                yield f"{shown!r:.120} becomes a demand for {demand.count} devices"
                return


def _manifest(container: ContainerSpec) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {
            "containers": [
                {
                    "name": container.name,
                    "resources": {
                        "limits": dict(container.limits),
                        "requests": {**container.limits, **container.requests},
                    },
                }
            ]
        },
    }


def _admission(subject: Subject) -> Wrong:
    for backend in subject.scheduling:
        for container in _containers(backend):
            item = _manifest(container)
            before = json.dumps(item)
            try:
                once, _ = admitted(item, [backend])
                twice, _ = admitted(once, [backend])
            except RefusedError as refusal:
                if len(str(refusal)) < 20:
                    yield f"the refusal {str(refusal)!r} explains nothing"
                continue
            except Exception as error:
                raised = f"{type(error).__name__}: {error}"
                yield f"admit() raises for {container.limits!r:.120}: {raised}"
                return
            if json.dumps(item) != before:
                yield "admit() changes the pod that it was given"
            if once != twice:
                yield f"{container.limits!r:.120}: a pod that is admitted twice is changed twice"
                return
            resources = once["spec"]["containers"][0]["resources"]
            strange = set(resources.get("limits") or {}) - {
                *container.limits,
                *backend.resources.names(),
            }
            if strange:
                yield f"admit() sets {sorted(strange)[0]}, which is not its own resource"


def _example(backend: SchedulingBackend, *, whole: bool) -> ContainerSpec:
    names = backend.resources
    limits = {names.count: "1"}
    if not whole:
        limits |= {name: "1" for name in (names.memory, names.cores) if name}
    return ContainerSpec("c", limits, limits)


def _views(subject: Subject) -> Iterator[tuple[SchedulingBackend, NodeView]]:
    facts = _facts(subject)
    for backend in subject.scheduling:
        view, problems = node_view(facts, [backend])
        if problems:
            raise NotApplicableError(f"the node cannot be read: {problems[0]}")
        if view.cards.get(backend.keys.common_word):
            yield backend, view


def _read(subject: Subject) -> Wrong:
    facts = _facts(subject)
    offered = {item.plan.keys.common_word for item in subject.scheduled if item.plan.keys}
    for backend in subject.scheduling:
        word = backend.keys.common_word
        view, problems = node_view(facts, [backend])
        for problem in problems:
            yield f"what the node half writes, the scheduling half cannot read: {problem}"
        if word in offered and not problems and not view.cards.get(word):
            yield f"the scheduling half finds no {word} on a node that offers it"


def _hostile(subject: Subject) -> Wrong:
    for backend in subject.scheduling:
        keys = [key for key in (*keys_of(backend.keys), backend.keys.allocated) if key]
        for key in keys:
            for text in HOSTILE:
                facts = NodeFacts(NODE, {key: text}, {}, {backend.resources.count: 4}, {})
                try:
                    node_view(facts, [backend])
                    if isinstance(backend, Inventory):
                        backend.devices(facts)
                except AnnotationError:
                    continue
                except Exception as error:
                    yield f"{key} = {text!r:.60} raises {type(error).__name__}: {error}"
                    return


def _filled(subject: Subject) -> Wrong:
    """Pods are placed until no more fit; then everything is counted again."""
    found = False
    for backend, view in _views(subject):
        for whole in (True, False):
            found = True
            yield from _brimming(backend, view, _example(backend, whole=whole))
    if not found:
        raise NotApplicableError("no word has cards on the profile's node")


def _filling(
    backend: SchedulingBackend, view: NodeView, container: ContainerSpec, policy: Policy
) -> Iterator[tuple[NodeView, PodSpec, Demand, Placement | Unfit]]:
    """Pods with this container, one after the other, each with the node before it and what it asks
    for, to the first that does not fit; none where it is refused or asks for another word.
    """
    word = backend.keys.common_word
    cards = view.cards[word]
    held: list[Held] = []
    for number in range(MOST_PODS):
        pod = PodSpec("n", f"p{number}", f"u{number}", {}, (container,))
        full = view.with_cards(word, cards_with(cards, held))
        try:
            wanted = asks(pod, [backend])
        except RefusedError:
            return
        if word not in wanted[0].demands:
            return  # what it counts is told by the check `words`
        placed = place(full, pod, wanted, {word: backend}, Policy.SPREAD, policy)
        yield full, pod, wanted[0].demands[word], placed
        if isinstance(placed, Unfit):
            return
        held.append(Held(pod.uid, f"n/{pod.name}", placed.containers[word][0]))


def _brimming(backend: SchedulingBackend, view: NodeView, container: ContainerSpec) -> Wrong:
    word = backend.keys.common_word
    steps = tuple(_filling(backend, view, container, Policy.BINPACK))
    if not steps:
        return
    full, _pod, _demand, last = steps[-1]
    if not isinstance(last, Unfit):
        yield f"{word}: {MOST_PODS} pods fit, and still more"
    elif not last.reasons:
        yield f"{word}: a pod does not fit and no reason is given"
    if len(steps) == 1 and isinstance(last, Unfit):
        yield f"{word}: not one pod with {dict(container.limits)} fits on an empty node"
    yield from _beyond(word, full.cards[word])


def _bounded(subject: Subject) -> Wrong:
    """The node is filled once more, and what speaks for it is held against what may."""
    found = False
    for backend, view in _views(subject):
        for policy, whole in product((Policy.BINPACK, Policy.SPREAD), (True, False)):
            container = _example(backend, whole=whole)
            for full, pod, demand, placed in _filling(backend, view, container, policy):
                said = _said(backend, full, pod, demand, placed, policy)
                if said is None:
                    break
                found = True
                score, most = said
                if score > most:
                    yield f"{demand.word}: {score:g} speaks for a node, {most:g} may"
                    break
    if not found:
        raise NotApplicableError("no word says how much may speak for a node")


def _said(
    backend: SchedulingBackend,
    view: NodeView,
    pod: PodSpec,
    demand: Demand,
    placed: Placement | Unfit,
    policy: Policy,
) -> tuple[float, float] | None:
    """What speaks for a node and what may; None where nothing is said of it."""
    if isinstance(placed, Unfit) or not bounds(backend):
        return None
    most = backend.most([demand], pod, policy)
    if not scores(backend):
        return None
    word = demand.word
    return backend.score(view.facts, view.cards[word], placed.containers[word], pod, policy), most


def _beyond(word: str, cards: Sequence[Card]) -> Wrong:
    for card in cards:
        device = card.device
        if card.used > device.count:
            yield f"{word}: {card.used} containers share {device.uuid}, {device.count} may"
        if card.used_memory_mib > device.memory:
            yield f"{word}: {card.used_memory_mib} of {device.memory} MiB are given away"
        if card.used_cores > device.cores:
            yield f"{word}: {card.used_cores} of {device.cores} % cores are given away"


def _written(subject: Subject) -> Wrong:
    for backend, view in _views(subject):
        word = backend.keys.common_word
        pod = PodSpec("n", "p", "u", {}, (ContainerSpec("idle"), _example(backend, whole=True)))
        wanted = asks(pod, [backend])
        by_word = {word: backend}
        placed = place(view, pod, wanted, by_word, Policy.SPREAD, Policy.BINPACK)
        if isinstance(placed, Unfit) or word not in placed.containers:
            continue
        told = decision(placed, view, pod, wanted, by_word, NOW_NS, init_listed=False)
        if held_of(told, backend) != placed.containers[word]:
            yield f"{word}: what is read back is not what was decided: {told}"
        allowed = {backend.keys.allocated, backend.keys.to_allocate, *backend.keys.others}
        for key in told.keys() - allowed:
            if not key.startswith("hami.io/vgpu-"):
                yield f"{word}: it writes {key!r}, which is not among its keys"


class _Heard(dict[str, str]):
    """Annotations that remember which of them somebody asked for."""

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        super().__init__(given or {})
        self.keys_read: set[str] = set()

    def __getitem__(self, key: str) -> str:
        self.keys_read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.keys_read.add(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """As a mapping's."""
        self.keys_read.add(key)
        return super().get(key, default)


def _named(subject: Subject) -> Wrong:
    """Whoever looks at a cluster keeps of its objects what keys name, and nothing else."""
    facts = _facts(subject)
    for backend in subject.scheduling:
        keys = backend.keys
        node, pod = _Heard(facts.annotations), _Heard()
        told = NodeFacts(NODE, node, {}, facts.capacity, facts.allocatable)
        container = _example(backend, whole=False)
        spec = PodSpec("n", "p", "u", pod, (container,))
        try:
            backend.admit(container, spec)
            view, _ = node_view(told, [backend])
            by_word = {keys.common_word: backend}
            place(view, spec, asks(spec, [backend]), by_word, Policy.SPREAD, Policy.BINPACK)
        except RefusedError:
            continue
        for kind, heard, known in (
            ("pod", pod, {*keys.by_people, *keys.results, *backend.remembers}),
            ("node", node, {*keys.on_nodes, CORDON}),
        ):
            for key in sorted(heard.keys_read - known):
                yield f"{keys.common_word}: it goes by the {kind}'s {key!r}, not among its keys"


CHECKS = (
    Check(
        "registered",
        "registered devices survive their annotation and are the offered ones",
        "schedulers see no card, or give out one that the node does not know",
        _registered,
    ),
    Check(
        "node-annotations",
        "annotations of its own form are its own, and steady",
        "two vendors overwrite each other, or the node is patched for ever",
        _annotations,
    ),
    Check(
        "keys",
        "both halves have the same keys, and all that their form needs",
        "schedulers and agent look for each other's words where nobody writes them",
        _keys,
    ),
    Check(
        "words",
        "both halves speak of the same words and resources",
        "pods wait for a resource that no node has",
        _names,
    ),
    Check(
        "readable",
        "the scheduling half reads what the node half writes",
        "the node's cards are invisible",
        _read,
    ),
    Check(
        "absurd-requests",
        "any quantity becomes a sensible demand or a refusal",
        "a typing error crashes the scheduler or takes a whole card",
        _absurd,
    ),
    Check(
        "admission",
        "admission is idempotent, its own, and explains what it refuses",
        "pods are changed at each pass of a webhook, or refused without a word",
        _admission,
    ),
    Check(
        "hostile-node",
        "malformed annotations of a node are an error with a name",
        "one broken node stops the scheduler for all",
        _hostile,
    ),
    Check(
        "named-annotations",
        "the scheduling half goes by annotations that its keys name",
        "a captured cluster decides otherwise than the cluster itself",
        _named,
    ),
    Check(
        "never-over",
        "a node is filled to the brim and never beyond",
        "pods are placed where they cannot run",
        _filled,
    ),
    Check(
        "score-bound",
        "no node's score is more than the most that the scheduling half says",
        "the best node of a large cluster is passed over",
        _bounded,
    ),
    Check(
        "decision",
        "a decision is read back as it was made",
        "the agent hands over another container's devices",
        _written,
    ),
)
