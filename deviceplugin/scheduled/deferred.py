"""Deferred: the container that starts is known from kubelet, its grant from the scheduler.

Nothing is inferred: kubelet names the container that holds the ids, the pod's annotation says what
that container was given, and only then the CDI specification is written. A refusal is repeated by
kubelet and costs the pod nothing but time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from deviceplugin.allocation.modes import Ask, Granted
from deviceplugin.api.hami.keys import VendorKeys
from deviceplugin.kubelet.podresources import Holding
from deviceplugin.refusal import Blame, RefusalError
from deviceplugin.scheduled import granting
from deviceplugin.scheduled.identity import Asker
from deviceplugin.scheduled.ledger import Record
from deviceplugin.scheduled.node import ScheduledNode

__all__ = ["Deferred"]


class Deferred:
    """Implements `allocation.modes.Mode` for one resource."""

    deferred = True
    verifies = True

    def __init__(self, node: ScheduledNode, keys: VendorKeys) -> None:
        self._node, self._keys = node, keys
        self._log = structlog.get_logger()

    def foreseen(self, ask: Ask) -> None:
        """Nothing: nobody is known yet."""

    async def decide(self, ask: Ask) -> Granted:
        """Never called: the answer to Allocate only names what `start` decides."""
        raise RefusalError(f"{ask.plan.resource}: grants are decided at the start", "deferred")

    async def commit(self, ask: Ask, granted: Granted) -> None:
        """Nothing was decided yet."""

    async def abandon(self, ask: Ask, granted: Granted, reason: str) -> None:
        """Nothing was decided yet."""

    async def start(self, ask: Ask) -> Granted:
        """The grant of the container that kubelet names. Raises `RefusalError`."""
        await self._node.recall()
        asker = await self._node.identity.find(ask.plan.resource, ask.ids, self._node.ledger)
        with self._node.explaining(asker.pod):
            record, asker = await granting.settle(
                self._node, asker, lambda now: self._record(ask, now), Blame.TRY_AGAIN
            )
            return granting.granted(self._node, ask, record, asker)

    async def started(self, ask: Ask, granted: Granted) -> None:
        """Tell schedulers when all of the pod were served, and count the starts of init containers:
        only so can a later start with the same ids be told from another try.
        """
        owner = granted.owner
        record = self._node.ledger.get(owner.pod_uid, owner.container, owner.resource)
        pod = self._node.pods.by_uid(owner.pod_uid)
        if record is not None and record.init:
            await granting.remember(self._node, replace(record, starts=record.starts + 1))
        if pod is not None:
            self._node.pod_served(pod)

    def refused(self, granted: Granted, reason: str) -> None:
        """Told on the pod."""
        granting.tell_refused(self._node, granted, reason)

    async def is_new(self, ask: Ask) -> bool:
        """A pod's directories bear its uid: nobody had them before."""
        return False

    async def adopt(self, ask: Ask, holdings: Sequence[Holding]) -> bool:
        """Whether a grant was found that nobody here knew of: one of a container that has run. One
        that has not is decided on when it starts.
        """

        async def proof(asker: Asker) -> bool:
            return asker.container.name in asker.pod.started

        return await granting.adopt(self._node, ask, self._keys, holdings, proof)

    def known(self, ask: Ask) -> Granted | None:
        """What the living container with these ids was given."""
        return granting.known(self._node, ask)

    def _record(self, ask: Ask, asker: Asker) -> Record:
        """What the container was given before, else what the scheduler gave it.

        A grant stands once it was made: a pod's annotations may be written by others later.
        """
        before = self._node.ledger.get(asker.pod.uid, asker.container.name, ask.plan.resource)
        if before is not None and before.ids == frozenset(ask.ids):
            return before
        return granting.new_record(self._node, ask, asker, self._keys)
