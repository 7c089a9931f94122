"""What scheduled allocation shares on a node: pods and the node itself as the API server shows
them, kubelet's word, the ledger, and the writes that follow from all of these.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path as FilePath

import structlog

from deviceplugin.api.hami import nodelock
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.keys import BIND_PHASE, MUTEX_LOCK, VENDORS, VendorKeys
from deviceplugin.api.hami.nodelock import NodeLock
from deviceplugin.apiserver.client import JSON_PATCH, NODES, Api, ApiError, Path
from deviceplugin.apiserver.events import Events, Subject
from deviceplugin.apiserver.objects import Node, Pod, node
from deviceplugin.apiserver.pods import Pods
from deviceplugin.apiserver.reflector import Change, Reflector
from deviceplugin.kubelet.checkpoint import Checkpoint
from deviceplugin.kubelet.podresources import PodResources
from deviceplugin.notices import Notice
from deviceplugin.refusal import RefusalError
from deviceplugin.scheduled import patches
from deviceplugin.scheduled.identity import Identity
from deviceplugin.scheduled.ledger import Ledger, LedgerError, Record
from deviceplugin.scheduled.matching import NoGrantError, assignments, emptied, remaining
from deviceplugin.scheduled.writer import Writer

COMPONENT = "deviceplugin"
"""Whose events ours are."""

LEDGER_FILE = "grants.json"
ALLOCATING = "allocating"

TIDY_SECONDS = 60.0
"""Between two looks for grants of pods that are gone."""


class ScheduledNode:
    """One node under a scheduler. Lives as long as the agent, whatever its configuration."""

    def __init__(
        self,
        name: str,
        api: Api,
        pod_resources: PodResources,
        plugin_dir: FilePath,
        run_dir: FilePath,
        *,
        deferred: bool,
    ) -> None:
        """`deferred`: grants are handed over at the start of containers, so no lock is needed."""
        self.name, self.api, self.pod_resources = name, api, pod_resources
        self.pods = Pods(api, name, self._pod_changed)
        self._node = Reflector(
            api, NODES, node, self._node_changed, field_selector=f"metadata.name={name}"
        )
        self.checkpoint = Checkpoint(plugin_dir)
        self.identity = Identity(self.pods, pod_resources, self.checkpoint)
        self.ledger = Ledger(run_dir / LEDGER_FILE)
        self.reserved: dict[tuple[str, str, str], Record] = {}
        """Decided on and not yet in the ledger, by `Record.key`; changed on the loop only."""
        self.writer = Writer()
        self.events = Events(api, COMPONENT, name)
        self._told: set[tuple[str, Notice, str]] = set()
        self.deciding = asyncio.Lock()
        """Held from a decision until others see it, so that two never take the same room."""
        self.served: dict[str, VendorKeys] = {}
        """The annotations of each resource that this agent serves by a scheduler's decision."""
        self.deferred = deferred
        self._log = structlog.get_logger().bind(node=name)

    async def run(self) -> None:
        """Follow the API server until cancelled."""
        try:
            await asyncio.to_thread(self.ledger.load)
        except LedgerError as error:
            self._log.warning("the record of grants is lost; rebuilding it", reason=str(error))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._node.run())
            tasks.create_task(self.pods.run())
            tasks.create_task(self._keep_tidy())

    @property
    def node(self) -> Node | None:
        """The node as the watch shows it; None before it did."""
        return self._node.objects.get(f"/{self.name}")

    @property
    def problem(self) -> str:
        """Why nothing new is heard of the API server; empty when all is well."""
        return self._node.problem or self.pods.problem

    def lock(self) -> NodeLock | None:
        """The node's lock; None when there is none. Raises `AnnotationError`."""
        current = self.node
        if current is None or MUTEX_LOCK not in current.annotations:
            return None
        return nodelock.decode(current.annotations[MUTEX_LOCK])

    async def fresh_node(self) -> Node:
        """The node as the API server has it now. Raises `ApiError`."""
        try:
            return node(await self.api.get(Path.node(self.name)))
        except ValueError as error:
            raise ApiError(f"node {self.name}: {error}") from None

    async def news(self, seconds: float) -> None:
        """Wait for any change of the node or its pods, at most so long."""
        # Counted now: what comes before the waiting has begun is news, too.
        before = (self._node.changes, self.pods.changes)

        def came() -> bool:
            return (self._node.changes, self.pods.changes) != before

        waits = [
            asyncio.ensure_future(self._node.wait_for(came, seconds)),
            asyncio.ensure_future(self.pods.wait_for(came, seconds)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def recall(self) -> None:
        """Know what an agent that ended since our start handed over until then."""
        if not self.ledger.is_current:
            await asyncio.to_thread(self.ledger.refresh)

    def given(self, pod_uid: str, container: str, resource: str) -> Record | None:
        """What a container was given, written down or not yet."""
        key = (pod_uid, container, resource)
        return self.reserved.get(key) or self.ledger.get(*key)

    def living(self) -> Iterator[Record]:
        """The grants of pods that are not over."""
        for record in {**{r.key: r for r in self.ledger}, **self.reserved}.values():
            pod = self.pods.by_uid(record.pod_uid)
            if pod is None or pod.ended:
                continue
            if record.init and record.container in pod.init_ended:
                continue
            yield record

    # --- what people are told ---

    def tell(self, notice: Notice, message: str, device: str = "") -> None:
        """Implements `notices.Tell`."""
        about = Subject.node(self.name, self.node.uid if self.node else "")
        self.events.say(about, notice, message, warning=notice.warning)
        if device:
            holders = {r.pod_uid for r in self.living() if any(s.uuid == device for s in r.shares)}
            for uid in sorted(holders):
                if (pod := self.pods.by_uid(uid)) is not None:
                    self.tell_pod(pod, notice, message)

    def tell_pod(self, pod: Pod, notice: Notice, message: str) -> None:
        """Tell something on a pod."""
        about = Subject.pod(pod.namespace, pod.name, pod.uid)
        self.events.say(about, notice, message, warning=notice.warning)

    def tell_pod_once(self, pod: Pod, notice: Notice, message: str) -> None:
        """Tell on a pod what is found again and again, and nobody mends while it runs."""
        key = (pod.uid, notice, message)
        if key not in self._told:
            self._told.add(key)
            self.tell_pod(pod, notice, message)

    def tell_isolation(self, pod_uid: str, container: str, problem: str) -> None:
        """Tell on a pod that the limits in force are not those of its grant, or, without a
        `problem`, that they are again.
        """
        if (pod := self.pods.by_uid(pod_uid)) is None:
            return
        if problem:
            self.tell_pod(pod, Notice.ISOLATION_LOST, f"container {container}: {problem}")
        else:
            message = f"container {container}: the limits that were granted are in force"
            self.tell_pod(pod, Notice.ISOLATION_RESTORED, message)

    @contextlib.contextmanager
    def explaining(self, pod: Pod) -> Iterator[None]:
        """A refusal that comes out of this is told on the pod, too."""
        try:
            yield
        except RefusalError as refusal:
            self.tell_pod(pod, Notice.GRANT_REFUSED, str(refusal))
            raise

    # --- what follows from a grant ---

    def pod_served(self, pod: Pod) -> None:
        """A container of the pod was served at its start: tell schedulers once all were."""
        if self._unserved(pod):
            return
        self.writer.submit(f"served {pod.uid}", lambda: self._tell_served(pod.uid))

    def pod_failed(self, pod: Pod) -> None:
        """The pod cannot be served: tell schedulers and free the node for the next."""
        self.writer.submit(f"failed {pod.uid}", lambda: self._tell_failed(pod))
        self.release(pod)

    def release(self, pod: Pod) -> None:
        """Remove the node's lock if it is this pod's."""
        seen = self.node.annotations.get(MUTEX_LOCK) if self.node else None
        self.writer.submit(f"unlock {pod.key}", lambda: self._unlock(pod, seen))

    def others_left(self, pod: Pod) -> bool:
        """Whether containers of the pod still wait for a plugin, ours or another's."""
        known = {**VENDORS, **{keys.common_word: keys for keys in self.served.values()}}
        return any(self._remaining(pod, keys) for keys in known.values())

    def _unserved(self, pod: Pod) -> bool:
        """Whether a container with a grant of ours has not started yet."""
        for resource, keys in self.served.items():
            try:
                found = assignments(pod, keys, resource)
            except NoGrantError:
                continue
            if any(
                self.ledger.get(pod.uid, item.container.name, resource) is None for item in found
            ):
                return True
        return False

    @staticmethod
    def _remaining(pod: Pod, keys: VendorKeys) -> int:
        try:
            return remaining(pod, keys)
        except NoGrantError:
            return 0

    async def _tell_served(self, uid: str) -> bool:
        pod = self.pods.by_uid(uid)
        if pod is None:
            return True
        changes: dict[str, str] = {}
        for keys in self.served.values():
            if keys.to_allocate and self._remaining(pod, keys):
                changes[keys.to_allocate] = emptied(
                    pod.annotations[keys.to_allocate], keys.common_word
                )
        last = not self.others_left(_with(pod, changes))
        told = pod.annotations.get(BIND_PHASE) != ALLOCATING
        if not changes and (told or not last):
            return True
        return await self._patch_pod(pod, patches.served(pod, changes, last=last))

    async def _tell_failed(self, pod: Pod) -> bool:
        return await self._patch_pod(pod, patches.failed(pod), settle=True)

    async def _patch_pod(
        self, pod: Pod, operations: patches.Operations, *, settle: bool = False
    ) -> bool:
        """True when it is done or the pod is gone; with `settle` also when it has changed."""
        try:
            await self.api.patch(Path.pod(pod.namespace, pod.name), operations, JSON_PATCH)
        except ApiError as error:
            if error.is_missing or (settle and error.is_conflict):
                return True
            if error.is_conflict:
                return False
            raise
        return True

    async def _unlock(self, pod: Pod, seen: str | None) -> bool:
        value = (await self.fresh_node()).annotations.get(MUTEX_LOCK)
        if value is None or not owns(value, pod):
            return True
        named = self.pods.get(pod.namespace, pod.name)
        if value != seen and (named is None or named.uid != pod.uid):
            return True  # a lock names no uid: it was taken since then, for the pod's namesake
        try:
            await self.api.patch(Path.node(self.name), patches.unlocked(value), JSON_PATCH)
        except ApiError as error:
            if error.is_conflict:
                return False
            raise
        self._log.debug("lock released", pod=pod.key)
        return True

    # --- what the watches bring ---

    def _pod_changed(self, change: Change[Pod]) -> None:
        if change.new is None or change.new.ended:
            self.writer.submit("forget", self._forget_gone)
        if change.new is not None:
            self._free_bound(change.new)

    def _node_changed(self, change: Change[Node]) -> None:
        if change.new is None:
            return
        for pod in self.pods:
            self._free_bound(pod)

    def _free_bound(self, pod: Pod) -> None:
        """With deferred grants a bound pod needs the lock no more: free the node for the next one
        at once, unless a plugin of another vendor still needs it to find the pod.
        """
        current = self.node
        if not self.deferred or current is None:
            return
        value = current.annotations.get(MUTEX_LOCK)
        if value is None or not owns(value, pod) or pod.node != self.name:
            return
        ours = {keys.common_word for keys in self.served.values()}
        if any(self._remaining(pod, keys) for word, keys in VENDORS.items() if word not in ours):
            return
        self.release(pod)

    async def _keep_tidy(self) -> None:
        """Pods that went while nobody watched make no event: look without one, too; and what an
        agent before us could not tell schedulers any more is told.
        """
        while True:
            if await self.pods.wait_for(lambda: self.pods.synced, TIDY_SECONDS):
                await self._forget_gone()
                self._tell_untold()
                await asyncio.sleep(TIDY_SECONDS)

    def _tell_untold(self) -> None:
        """With locked grants the write comes before the answer, and nothing is owed."""
        held: dict[str, set[str]] = {}
        for record in self.living():
            held.setdefault(record.pod_uid, set()).add(record.resource)
        for pod in self.pods if self.deferred else ():
            resources = held.get(pod.uid)
            untold = pod.annotations.get(BIND_PHASE) == ALLOCATING
            # Right after a start of ours it is not known yet which annotations are a resource's.
            if untold and resources and resources <= self.served.keys():
                self.pod_served(pod)

    async def _forget_gone(self) -> bool:
        """Grants of pods that are gone or over leave the ledger."""
        if not self.pods.synced:
            return True
        self._told = {key for key in self._told if self.pods.by_uid(key[0]) is not None}
        self.reserved = {key: r for key, r in self.reserved.items() if not self._is_gone(r)}
        gone = [record for record in self.ledger if self._is_gone(record)]
        if gone:
            try:
                await asyncio.to_thread(self.ledger.remove, gone)
            except OSError as error:
                self._log.warning("the record of grants cannot be written", reason=str(error))
        return True

    def _is_gone(self, record: Record) -> bool:
        pod = self.pods.by_uid(record.pod_uid)
        return pod is None or pod.ended


def owns(value: str, pod: Pod) -> bool:
    """Whether a lock's value names this pod. A value that cannot be read is nobody's."""
    try:
        lock = nodelock.decode(value)
    except AnnotationError:
        return False
    return lock.held_by(pod.namespace, pod.name)


def _with(pod: Pod, changes: Mapping[str, str]) -> Pod:
    return replace(pod, annotations={**pod.annotations, **changes})
