"""Locked: at Allocate the node's lock names the pod, the order of its annotation the container.

That is how HAMi's schedulers and plugins have always met, and the only way where the answer to
Allocate carries the devices itself. It is an inference, so it is proved before every start: the
container that kubelet names for the ids must be the one that was served with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from deviceplugin.allocation.handed import handed
from deviceplugin.allocation.modes import Ask, Granted
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.keys import BIND_PHASE, BIND_TIME, VGPU_NODE, VendorKeys
from deviceplugin.apiserver.client import JSON_PATCH, ApiError, Path
from deviceplugin.apiserver.objects import Pod
from deviceplugin.kubelet.checkpoint import Entry
from deviceplugin.kubelet.podresources import Holding
from deviceplugin.notices import Notice
from deviceplugin.refusal import Blame, RefusalError
from deviceplugin.scheduled import granting, patches
from deviceplugin.scheduled.admission import NotAdmissibleError
from deviceplugin.scheduled.identity import Asker
from deviceplugin.scheduled.ledger import Record
from deviceplugin.scheduled.matching import (
    Assignment,
    NoGrantError,
    assignments,
    remaining,
    without_next,
)
from deviceplugin.scheduled.node import ScheduledNode
from deviceplugin.vendor import Owner

__all__ = ["Locked"]

PATIENCE_SECONDS = 5.0
"""For the watch to show what the scheduler wrote before kubelet heard of the pod."""

ATTEMPTS = 5
"""Of one write, before the request is refused."""

WAITING_PHASES = ("allocating", patches.SUCCESS)
"""Bind phases of a pod that may still have containers to serve (hami-nvidia-node.md 3.1)."""

OWNER_ANNOTATION = "grant.deviceplugin.dev/"
"""Followed by the vendor: whose grant an answer to Allocate carries. Kubelet keeps it with the
answer, so the proof survives the loss of our own record."""


@dataclass(frozen=True, slots=True)
class Next:
    """The container that is served next, and the devices that it gets."""

    pod: Pod
    assignment: Assignment

    @property
    def asker(self) -> Asker:
        """The same as an asker."""
        return Asker(self.pod, self.assignment.container)


class Locked:
    """Implements `allocation.modes.Mode` for one resource; `lockless` is ``refuse`` or ``verify``:
    what to do where no lock names a pod.
    """

    deferred = False
    verifies = True

    def __init__(self, node: ScheduledNode, keys: VendorKeys, lockless: str = "refuse") -> None:
        self._node, self._keys, self._lockless = node, keys, lockless
        self._log = structlog.get_logger()

    def foreseen(self, ask: Ask) -> None:
        """Nothing: nobody is known yet."""

    async def decide(self, ask: Ask) -> Granted:
        """The grant of the container whose turn it is. Raises `RefusalError`."""
        await self._node.recall()
        found = await self._find(ask)
        if isinstance(found, Record):
            record = replace(found, ids=frozenset(ask.ids))
            await granting.remember(self._node, record)
            return self._granted(ask, record, self._asker(record))

        def attempt(asker: Asker) -> Record:
            return granting.new_record(self._node, ask, asker, self._keys)

        with self._node.explaining(found.pod):
            try:
                record, asker = await granting.settle(
                    self._node, found.asker, attempt, Blame.NODE, granting.reserve
                )
            except RefusalError:
                self._node.pod_failed(found.pod)
                raise
            return self._granted(ask, record, asker)

    async def commit(self, ask: Ask, granted: Granted) -> None:
        """Write the grant down and take the container's part out of the pod's annotation, by one
        conditional write; the one does not wait for the other.

        Raises `RefusalError` when somebody else served it, or the API server takes no writes.
        """
        owner = granted.owner
        key = (owner.pod_uid, owner.container, owner.resource)
        both = [self._take_part(ask, owner)]
        if (record := self._node.reserved.get(key)) is not None:
            both.append(granting.remember(self._node, record))
        ends = await asyncio.gather(*both, return_exceptions=True)
        self._node.reserved.pop(key, None)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        self._finish(owner)

    async def _take_part(self, ask: Ask, owner: Owner) -> None:
        """Take the container's part out of the pod's annotation. Raises `RefusalError`."""
        error: ApiError | None = None
        pod = self._node.pods.by_uid(owner.pod_uid)
        unsure = False
        for _ in range(ATTEMPTS):
            try:
                if error is not None:
                    pod = await self._node.pods.fresh(owner.pod_namespace, owner.pod_name)
                await self._serve(ask, owner, pod, unsure=unsure)
            except ApiError as failure:
                if failure.is_forbidden or failure.is_missing:
                    raise _refusal(ask, str(failure), "api-server") from None
                # Without an answer nobody knows whether it was done.
                error, unsure = failure, unsure or not failure.status
                if not failure.is_conflict:
                    await asyncio.sleep(min(failure.retry_after or 0.5, 2.0))
            else:
                return
        raise _refusal(ask, f"the change of pod {_pod(owner)} failed: {error}", "api-server")

    async def abandon(self, ask: Ask, granted: Granted, reason: str) -> None:
        """Forget the grant, tell schedulers and free the node for the next pod."""
        owner = granted.owner
        key = (owner.pod_uid, owner.container, owner.resource)
        self._node.reserved.pop(key, None)
        if (record := self._node.ledger.get(*key)) is not None:
            try:
                await asyncio.to_thread(self._node.ledger.remove, [record])
            except OSError as error:
                self._log.warning("the record of grants cannot be written", reason=str(error))
        self._log.warning("grant abandoned", pod=_pod(owner), to=owner.container, reason=reason)
        granting.tell_refused(self._node, granted, reason)
        if pod := self._node.pods.by_uid(owner.pod_uid):
            self._node.pod_failed(pod)

    async def start(self, ask: Ask) -> Granted:
        """The grant of the container that kubelet names, if that is who was served at Allocate.

        Raises `RefusalError`: the container holds what was meant for another.
        """
        resource, ids = ask.plan.resource, frozenset(ask.ids)
        await self._node.recall()
        asker = await self._node.identity.find(resource, ids, self._node.ledger)
        key = (asker.pod.uid, asker.container.name, resource)
        record = self._node.ledger.get(*key)
        with self._node.explaining(asker.pod):
            if record is None or record.ids != ids:
                record = await self._proved(ask, asker)
            return self._granted(ask, record, asker)

    async def started(self, ask: Ask, granted: Granted) -> None:
        """Count the starts of init containers: only so can a later start with the same ids be told
        from another try.

        Raises `RefusalError` for a container that was told of partitions that are gone.
        """
        await self._check_told(ask, granted)
        owner = granted.owner
        record = self._node.ledger.get(owner.pod_uid, owner.container, owner.resource)
        if record is not None and record.init:
            await granting.remember(self._node, replace(record, starts=record.starts + 1))

    def refused(self, granted: Granted, reason: str) -> None:
        """Told on the pod."""
        granting.tell_refused(self._node, granted, reason)

    async def is_new(self, ask: Ask) -> bool:
        """A pod's directories bear its uid: nobody had them before."""
        return False

    async def adopt(self, ask: Ask, holdings: Sequence[Holding]) -> bool:
        """Whether a grant was found that nobody here knew of."""

        async def proof(asker: Asker) -> bool:
            return await self._proof(ask, asker)

        return await granting.adopt(self._node, ask, self._keys, holdings, proof)

    def known(self, ask: Ask) -> Granted | None:
        """What the living container with these ids was given."""
        return granting.known(self._node, ask)

    # --- who is next ---

    async def _find(self, ask: Ask) -> Next | Record:
        """The container whose turn it is, or the record of one that kubelet forgot that it has.

        Raises `RefusalError`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_SECONDS
        while True:
            found, why = self._look(ask)
            if found is not None:
                return found
            left = deadline - loop.time()
            if left <= 0:
                break
            await self._node.news(left)
        if forgotten := await asyncio.to_thread(self._forgotten, ask):
            return forgotten
        refusal = RefusalError(
            f"{ask.plan.resource}: no binding pod found on node {self._node.name}: {why}",
            "no-binding-pod",
            Blame.NODE,
        )
        if (waiting := self._locked_for()) is not None:
            # Not failed: whether it is this pod that kubelet asks for is what nobody knows.
            self._node.tell_pod(waiting, Notice.GRANT_REFUSED, str(refusal))
        raise refusal

    def _locked_for(self) -> Pod | None:
        """The pod that the node's lock names."""
        try:
            lock = self._node.lock()
        except AnnotationError:
            return None
        return self._node.pods.get(lock.namespace, lock.name) if lock else None

    def _look(self, ask: Ask) -> tuple[Next | None, str]:
        try:
            lock = self._node.lock()
        except AnnotationError as error:
            return None, str(error)
        if lock is not None and lock.names_pod:
            pod = self._node.pods.get(lock.namespace, lock.name)
            if pod is None:
                return None, f"it is locked for pod {lock.namespace}/{lock.name}, not known here"
            return self._next(pod, ask)
        if lock is None and self._lockless != "verify":
            return None, "the node has no lock; for schedulers without one set lockless: verify"
        # Kubelet admits pods one after the other as they come; several are bound in one second, and
        # the second is written down before the pod is bound.
        waiting = [
            (self._node.pods.arrival(pod.uid), _bind_time(pod), pod.key, found)
            for pod in self._node.pods
            if pod.phase == "Pending" and pod.annotations.get(BIND_PHASE) == WAITING_PHASES[0]
            if (found := self._next(pod, ask)[0]) is not None
        ]
        if not waiting:
            return None, "no pod here waits for as many devices"
        return min(waiting, key=lambda item: item[:3])[3], ""

    def _next(self, pod: Pod, ask: Ask) -> tuple[Next | None, str]:
        """The pod's next container, or why there is none for this request."""
        if pod.ended or pod.deleting:
            return None, f"pod {pod.key} is over"
        if pod.annotations.get(VGPU_NODE) != self._node.name:
            return None, f"annotation {VGPU_NODE} of pod {pod.key} names another node"
        if pod.annotations.get(BIND_PHASE) not in WAITING_PHASES:
            return None, f"annotation {BIND_PHASE} of pod {pod.key} is not allocating"
        try:
            item = self._turn(pod, ask.plan.resource)
        except NoGrantError as error:
            return None, str(error)
        if item is None:
            return None, f"device request not found: pod {pod.key} has been served"
        if len(item.devices) != len(ask.ids):
            return None, (
                f"device number not matched: {len(item.devices)} for container "
                f"{item.container.name} of pod {pod.key}, kubelet asks for {len(ask.ids)}"
            )
        return Next(pod, item), ""

    def _turn(self, pod: Pod, resource: str) -> Assignment | None:
        """What the pod's next container gets; None when all were served. Raises `NoGrantError`."""
        if self._keys.to_allocate is None:  # nobody empties anything: who has a grant was served
            given = self._node.given
            return next(
                (
                    item
                    for item in assignments(pod, self._keys, resource)
                    if given(pod.uid, item.container.name, resource) is None
                ),
                None,
            )
        left = remaining(pod, self._keys)
        if not left:
            return None
        all_of_them = assignments(pod, self._keys, resource)
        if left > len(all_of_them):
            raise NoGrantError(
                f"pod {pod.key}: {self._keys.to_allocate} serves more containers than "
                f"{self._keys.allocated}"
            )
        return all_of_them[len(all_of_them) - left]

    def _is_next(self, pod: Pod, resource: str, container: str) -> bool:
        try:
            item = self._turn(pod, resource)
        except NoGrantError:
            return False
        return item is not None and item.container.name == container

    def _forgotten(self, ask: Ask) -> Record | None:
        """The one served container of a waiting pod of which kubelet has no memory: it asks again
        because it was restarted in between. Blocking.
        """
        entries = self._node.checkpoint.entries()
        if entries is None:
            return None
        remembered = {(entry.pod_uid, entry.container, entry.resource) for entry in entries}
        found = [
            record
            for record in self._node.living()
            if record.resource == ask.plan.resource
            and len(record.ids) == len(ask.ids)
            and record.key not in remembered
            and (pod := self._node.pods.by_uid(record.pod_uid)) is not None
            and pod.phase == "Pending"
        ]
        return found[0] if len(found) == 1 else None

    # --- evidence and writes ---

    async def _proved(self, ask: Ask, asker: Asker) -> Record:
        """The record made anew from the answer that kubelet kept. Raises `RefusalError`."""
        resource, ids = ask.plan.resource, frozenset(ask.ids)
        if await self._proof(ask, asker):
            self._log.warning("grant without a record, made anew", owner=asker.name)
            record, _ = await granting.settle(
                self._node,
                asker,
                lambda now: granting.new_record(self._node, ask, now, self._keys, held=True),
                Blame.TRY_AGAIN,
            )
            return record
        meant = ", ".join(r.owner for r in self._node.ledger.with_ids(resource, ids)) or "nobody"
        raise RefusalError(
            f"{resource}: the devices that {asker.name} holds were given to {meant}; the pod "
            "cannot start with them: delete it, so that it is scheduled again",
            "not-its-own",
            Blame.NODE,
        )

    async def _proof(self, ask: Ask, asker: Asker) -> bool:
        """Whether the answer that kubelet keeps was meant for this container: it says so, or, if
        another plugin gave it, it names just the devices of the container's grant.
        """
        mine = (asker.pod.uid, asker.container.name, ask.plan.resource, frozenset(ask.ids))
        entries = await asyncio.to_thread(self._node.checkpoint.entries)
        for entry in entries or ():
            if (entry.pod_uid, entry.container, entry.resource, entry.ids) != mine:
                continue
            owner = entry.response().annotations.get(OWNER_ANNOTATION + ask.vendor)
            if owner is not None:
                return owner == f"{asker.pod.uid}/{asker.container.name}"
            return self._names_just_its_own(entry, ask, asker)
        return False

    async def _check_told(self, ask: Ask, granted: Granted) -> None:
        """Partitions that were made anew since Allocate, as after a reboot, may bear other names
        than the answer, which cannot be changed any more. Raises `RefusalError`.
        """
        made = [g.device for g in granted.grants if g.device.uuid not in ask.table.devices]
        if not made:
            return
        owner = granted.owner
        mine = (owner.pod_uid, owner.container, owner.resource, frozenset(ask.ids))
        entries = await asyncio.to_thread(self._node.checkpoint.entries)
        for entry in entries or ():
            if (entry.pod_uid, entry.container, entry.resource, entry.ids) != mine:
                continue
            for device in made:
                if not (entry.mentions(device.uuid) or entry.mentions(device.index)):
                    raise _refusal(
                        ask,
                        f"the partition that {_pod(owner)}/{owner.container} was given is gone and "
                        f"was made again as {device.uuid}, which the container is not told: delete "
                        "the pod, so that it is scheduled again",
                        "partition-gone",
                    )

    def _names_just_its_own(self, entry: Entry, ask: Ask, asker: Asker) -> bool:
        try:
            record = granting.new_record(self._node, ask, asker, self._keys, held=True)
        except (NoGrantError, NotAdmissibleError):
            return False
        found = handed(entry.response(), tuple(ask.table.devices.values()), ask.reader)
        return found == {share.uuid for share in record.shares}

    def _granted(self, ask: Ask, record: Record, asker: Asker) -> Granted:
        owner = f"{record.pod_uid}/{record.container}"
        return replace(
            granting.granted(self._node, ask, record, asker),
            annotations={OWNER_ANNOTATION + ask.vendor: owner},
        )

    def _asker(self, record: Record) -> Asker:
        pod = self._node.pods.by_uid(record.pod_uid)
        container = pod.container(record.container) if pod else None
        if pod is None or container is None:
            raise RefusalError(f"pod {record.owner} is gone", "pod-gone", Blame.NODE)
        return Asker(pod, container)

    def _is_served(self, pod: Pod) -> bool:
        """Whether all of the pod was served before: then this is a repeated request."""
        try:
            return remaining(pod, self._keys) == 0
        except NoGrantError:
            return False

    async def _serve(self, ask: Ask, owner: Owner, pod: Pod | None, *, unsure: bool) -> None:
        """One try to take the container's part out. Raises `ApiError` and `RefusalError`."""
        if pod is None or pod.uid != owner.pod_uid:
            raise _refusal(ask, f"pod {_pod(owner)} is gone", "pod-gone")
        if self._is_next(pod, ask.plan.resource, owner.container):
            await self._pop(pod)
        elif not (unsure or self._is_served(pod)):
            raise _refusal(
                ask,
                f"container {owner.container} of pod {pod.key} was served by another plugin: "
                "only one on a node may serve a resource",
                "served-by-another",
            )

    def _finish(self, owner: Owner) -> None:
        """The node is free for the next pod once this one has all its devices."""
        self._log.info("granted", resource=owner.resource, pod=_pod(owner), to=owner.container)
        pod = self._node.pods.by_uid(owner.pod_uid)
        if pod is None:
            return
        if self._keys.to_allocate is None:
            self._node.pod_served(pod)
        if not self._node.others_left(pod):
            self._node.release(pod)

    async def _pop(self, pod: Pod) -> None:
        """Raises `ApiError`."""
        key = self._keys.to_allocate or ""
        changes = {key: without_next(pod.annotations[key], self._keys.common_word)}
        after = replace(pod, annotations={**pod.annotations, **changes})
        operations = patches.served(pod, changes, last=not self._node.others_left(after))
        answer = await self._node.api.patch(
            Path.pod(pod.namespace, pod.name), operations, JSON_PATCH
        )
        self._node.pods.learn(answer)


def _bind_time(pod: Pod) -> float:
    """Seconds since the epoch; a pod without a readable time is the last."""
    text = pod.annotations.get(BIND_TIME, "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 20 else float("inf")


def _pod(owner: Owner) -> str:
    return f"{owner.pod_namespace}/{owner.pod_name}"


def _refusal(ask: Ask, text: str, reason: str) -> RefusalError:
    return RefusalError(f"{ask.plan.resource}: {text}", reason, Blame.NODE)
