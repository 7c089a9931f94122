"""Standalone allocation: kubelet's ids *are* the allocation.

Nothing is known of the pod at Allocate, so everything follows from the ids: which devices, which
share, which name. Equal ids give equal answers at any time, so a repeated Allocate, a restart and
a wiped CDI directory end well without a record of our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deviceplugin.allocation.deferred import GrantSource
from deviceplugin.allocation.modes import Ask, Granted
from deviceplugin.kubelet.podresources import Holding, PodResources, PodResourcesError, holder
from deviceplugin.refusal import Blame, RefusalError
from deviceplugin.splitting import grants
from deviceplugin.vendor import Grant, Owner


@dataclass(frozen=True, slots=True)
class Standalone:
    """Implements `allocation.modes.Mode`. With a `source`, allocation is deferred: the source says
    at the start what the container may have of the share that its ids stand for.
    """

    pod_resources: PodResources
    source: GrantSource | None = None

    @property
    def deferred(self) -> bool:
        """Whether the grant is known only when the container starts."""
        return self.source is not None

    @property
    def verifies(self) -> bool:
        """Whether a start has to be decided on."""
        return self.source is not None

    def foreseen(self, ask: Ask) -> Granted:
        """The share of the ids, of which the source may leave less."""
        return Granted(_owner(ask), _share(ask))

    async def decide(self, ask: Ask) -> Granted:
        """The share of the ids."""
        return Granted(_owner(ask), _share(ask))

    async def commit(self, ask: Ask, granted: Granted) -> None:
        """Nothing to record."""

    async def abandon(self, ask: Ask, granted: Granted, reason: str) -> None:
        """Nothing was recorded."""

    async def start(self, ask: Ask) -> Granted:
        """The share of the ids, or what the source makes of it. Raises `RefusalError`."""
        owner, share = await self._identified(ask), _share(ask)
        return Granted(owner, await self.source.grants(owner, share) if self.source else share)

    async def started(self, ask: Ask, granted: Granted) -> None:
        """Nothing to record."""

    def refused(self, granted: Granted, reason: str) -> None:
        """Kubelet tells it on the pod."""

    async def is_new(self, ask: Ask) -> bool:
        """Whether kubelet lists no holder of these ids."""
        try:
            found = holder(await self.pod_resources.holdings(), ask.plan.resource, ask.ids)
        except PodResourcesError:
            return False
        return not found

    async def adopt(self, ask: Ask, holdings: Sequence[Holding]) -> bool:
        """Nothing is recorded, so nothing can be missing."""
        return False

    def known(self, ask: Ask) -> Granted | None:
        """The share of the ids; None where the start decides anew anyway."""
        return None if self.deferred else Granted(_owner(ask), _share(ask))

    async def _identified(self, ask: Ask) -> Owner:
        """The owner with the pod and container that kubelet names for these ids."""
        owner = _owner(ask)
        try:
            found = holder(await self.pod_resources.holdings(), owner.resource, ask.ids)
        except PodResourcesError as error:
            raise RefusalError(str(error), "pod-resources", Blame.TRY_AGAIN) from None
        if len({(item.namespace, item.pod) for item in found}) > 1:
            names = ", ".join(sorted(f"{item.namespace}/{item.pod}" for item in found))
            raise RefusalError(
                f"kubelet lists these ids of {owner.resource} for several pods: {names}",
                "ambiguous-holder",
                Blame.TRY_AGAIN,
            )
        if not found:
            return owner
        # An init container's ids go on to a later container: the app container is the one listed.
        first = found[0]
        return replace(
            owner, pod_namespace=first.namespace, pod_name=first.pod, container=first.container
        )


def _owner(ask: Ask) -> Owner:
    return Owner(ask.plan.resource, ask.allocation_id)


def _share(ask: Ask) -> Sequence[Grant]:
    return grants(ask.table, list(ask.ids))
