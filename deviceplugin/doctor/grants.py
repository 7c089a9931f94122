"""Three memories of one thing: our record of grants, kubelet's word and pods' annotations. Kubelet
says it twice: by PodResources, which leaves out ordinary init containers, and in its checkpoint.

They lag behind one another for moments; what differs for longer is drift.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deviceplugin.api.hami.keys import VendorKeys
from deviceplugin.apiserver import objects
from deviceplugin.apiserver.objects import Pod
from deviceplugin.doctor import kubelet
from deviceplugin.doctor.model import Finding, Group, NotCheckedError, Severity, Topic
from deviceplugin.doctor.scene import Scene
from deviceplugin.kubelet.checkpoint import Checkpoint
from deviceplugin.kubelet.podresources import Holding
from deviceplugin.scheduled.ledger import Ledger, LedgerError, Record
from deviceplugin.scheduled.matching import NoGrantError, assignments
from deviceplugin.scheduled.node import LEDGER_FILE

__all__ = ["GROUP", "GrantsFacts", "records"]

NAME = "grants"

UNREADABLE = Topic(
    "grants-unreadable",
    NAME,
    Severity.WARNING,
    "Our record of grants cannot be read.",
    "The agent rebuilds it from pods and kubelet; until then it does not know what former "
    "containers hold.",
    "Restart the agent. If it happens again, see to the disk below /run.",
)
HELD_TWICE = Topic(
    "device-held-twice",
    NAME,
    Severity.ERROR,
    "Two pods hold the same virtual device.",
    "Kubelet gave one id to two pods (Kubernetes issue 137534): their limits add up to more than "
    "there is.",
    "Delete one of the pods.",
)
IDS_DIFFER = Topic(
    "grant-ids-differ",
    NAME,
    Severity.ERROR,
    "A container holds other devices than the ones it was served with.",
    "Kubelet's ids for the container are not those of our record: it may run with what was meant "
    "for another.",
    "Delete the pod, whose controller makes another; report it with the evidence.",
)
SHARE_DIFFERS = Topic(
    "grant-differs",
    NAME,
    Severity.ERROR,
    "A container was served with something else than its pod's annotation says.",
    "Schedulers count what the annotation says, and the container has what our record says. "
    "Somebody changed the annotation later, or the container was served wrongly.",
    "Delete the pod, whose controller makes another; find who may write its annotations.",
)
UNRECORDED = Topic(
    "grant-unrecorded",
    NAME,
    Severity.WARNING,
    "A container holds devices that we have no record of.",
    "It was served by another plugin, or by an agent whose record is lost. The agent adopts it "
    "within half a minute where it finds proof.",
    "See the agent's log for why it was not adopted; otherwise recreate the pod.",
)
NOT_HELD = Topic(
    "grant-not-held",
    NAME,
    Severity.NOTE,
    "We keep a grant for a container that holds nothing.",
    "Kubelet lists no devices for it. Its share counts as used until its pod is over.",
    "None, if the pod is just starting; else delete the pod.",
)
OF_GONE_POD = Topic(
    "grant-of-gone-pod",
    NAME,
    Severity.NOTE,
    "We keep a grant of a pod that is gone.",
    "The agent drops such grants when it hears of a pod's end.",
    "See that the agent runs and hears from the API server (/readyz).",
)


@dataclass(frozen=True, slots=True)
class GrantsFacts:
    """`error` says why there are no `records`; `holdings` is None where kubelet does not answer,
    `remembered` are the ids in its checkpoint, by pod uid, container and resource. `pods` are those
    of this node by uid.
    """

    records: tuple[Record, ...]
    error: str
    holdings: tuple[Holding, ...] | None
    remembered: Mapping[tuple[str, str, str], frozenset[str]]
    pods: Mapping[str, Pod]
    resources: Mapping[str, VendorKeys]


def gather(scene: Scene) -> GrantsFacts:
    """Ask all three."""
    if not scene.scheduled:
        raise NotCheckedError("no scheduler decides here, so nothing is recorded")
    found = scene.api().pods(scene.node_name)
    path = scene.below(f"{scene.places.run_dir}/{LEDGER_FILE}")
    error = ""
    ours: tuple[Record, ...] = ()
    try:
        ours = records(path)
    except (LedgerError, OSError) as problem:
        error = str(problem)
    try:
        held = kubelet.holdings(scene)
    except NotCheckedError:
        held = None
    entries = Checkpoint(scene.below(scene.places.plugin_dir)).entries() or ()
    remembered = {(e.pod_uid, e.container, e.resource): e.ids for e in entries}
    return GrantsFacts(ours, error, held, remembered, _by_uid(found), scene.resources)


def records(path: Path) -> tuple[Record, ...]:
    """The grants in a file, which is left alone: an agent may be writing beside it. Raises
    `LedgerError`, and `OSError` where it cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(data)
        ledger = Ledger(copy)
        try:
            ledger.load()
        except LedgerError as error:
            raise LedgerError(str(error).replace(str(copy), str(path))) from None
        return tuple(ledger)


def _by_uid(items: Iterable[Mapping[str, object]]) -> Mapping[str, Pod]:
    found = {}
    for item in items:
        try:
            pod = objects.pod(item)
        except (ValueError, TypeError, AttributeError, KeyError):
            continue  # no API server stores such a pod
        found[pod.uid] = pod
    return found


def _readable(facts: GrantsFacts) -> Iterator[Finding]:
    if facts.error:
        yield UNREADABLE.found("the record of grants is not readable", facts.error)


def _twice(facts: GrantsFacts) -> Iterator[Finding]:
    holders: dict[tuple[str, str], set[str]] = defaultdict(set)
    for held in facts.holdings or ():
        for identity in held.ids:
            holders[held.resource, identity].add(f"{held.namespace}/{held.pod}")
    for (resource, identity), pods in sorted(holders.items()):
        # Within one pod, an init container's ids go on to the others.
        if resource in facts.resources and len(pods) > 1:
            yield HELD_TWICE.found(
                f"{identity} of {resource} is held by {len(pods)} pods", *sorted(pods)
            )


def _held(facts: GrantsFacts) -> Iterator[Finding]:
    holdings = _by_container(facts.holdings or ())
    for record in facts.records:
        pod = facts.pods.get(record.pod_uid)
        if pod is None or pod.ended or record.init or facts.holdings is None:
            continue
        held = holdings.get((record.namespace, record.pod, record.container, record.resource))
        if held is None:
            yield NOT_HELD.found(
                f"{record.owner} has a grant of {record.resource} and holds no device",
                f"our record: {_ids(record.ids)}",
            )
        elif held != record.ids:
            yield IDS_DIFFER.found(
                f"{record.owner} holds other devices of {record.resource} than it was served with",
                f"our record: {_ids(record.ids)}",
                f"kubelet: {_ids(held)}",
            )


def _remembered(facts: GrantsFacts) -> Iterator[Finding]:
    """Of those about whom PodResources says nothing."""
    for record in facts.records:
        pod = facts.pods.get(record.pod_uid)
        if pod is None or pod.ended or not (record.init or facts.holdings is None):
            continue
        held = facts.remembered.get(record.key)
        if held is not None and held != record.ids:
            yield IDS_DIFFER.found(
                f"{record.owner} has other devices of {record.resource} than it was served with",
                f"our record: {_ids(record.ids)}",
                f"kubelet's checkpoint: {_ids(held)}",
            )


def _unrecorded(facts: GrantsFacts) -> Iterator[Finding]:
    known = {(r.namespace, r.pod, r.container, r.resource) for r in facts.records}
    for key, ids in _by_container(facts.holdings or ()).items():
        namespace, pod, container, resource = key
        if resource in facts.resources and key not in known:
            yield UNRECORDED.found(
                f"{namespace}/{pod}/{container} holds {resource} that we have no record of",
                f"kubelet: {_ids(ids)}",
            )


def _gone(facts: GrantsFacts) -> Iterator[Finding]:
    gone = sorted(record.owner for record in facts.records if record.pod_uid not in facts.pods)
    if gone:
        yield OF_GONE_POD.found(f"{len(gone)} grants are of pods that are gone", *gone[:5])


def _shares(facts: GrantsFacts) -> Iterator[Finding]:
    for record in facts.records:
        pod, keys = facts.pods.get(record.pod_uid), facts.resources.get(record.resource)
        if pod is None or pod.ended or keys is None:
            continue
        try:
            found = assignments(pod, keys, record.resource)
        except NoGrantError as error:
            yield SHARE_DIFFERS.found(
                f"{record.owner} was served and its pod's annotation gives it nothing", str(error)
            )
            continue
        wanted = {
            f"{d.uuid} {d.memory} MiB {d.cores} %{f' slot {d.slot}' if d.slot else ''}"
            for item in found
            if item.container.name == record.container
            for d in item.devices
        }
        given = {
            f"{s.uuid} {s.memory_mib} MiB {s.cores_percent} %"
            f"{f' slot [{s.slot}]' if s.slot else ''}"
            for s in record.shares
        }
        if wanted != given:
            yield SHARE_DIFFERS.found(
                f"{record.owner} has another share of {record.resource} than its annotation says",
                f"our record: {', '.join(sorted(given)) or 'nothing'}",
                f"annotation: {', '.join(sorted(wanted)) or 'nothing'}",
            )


def _by_container(
    holdings: Iterable[Holding],
) -> dict[tuple[str, str, str, str], frozenset[str]]:
    return {(h.namespace, h.pod, h.container, h.resource): h.ids for h in holdings if h.ids}


def _ids(ids: Collection[str]) -> str:
    return ", ".join(sorted(ids)[:6]) + (", ..." if len(ids) > 6 else "")


GROUP = Group(
    NAME,
    (HELD_TWICE, IDS_DIFFER, SHARE_DIFFERS, UNREADABLE, UNRECORDED, NOT_HELD, OF_GONE_POD),
    gather,
    (_readable, _twice, _held, _remembered, _unrecorded, _gone, _shares),
)
