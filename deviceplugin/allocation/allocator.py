"""Decides one resource's allocations: checks the ids, asks the vendor, renders, prepares the node.

In the standalone mode kubelet's ids *are* the allocation. Nothing is known of the pod at
Allocate, so everything follows from the ids: which devices, which share, which name. Equal ids
give equal answers at any time, so a repeated Allocate, a restart and a wiped CDI directory
end well without a file of our own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deviceplugin.allocation.deferred import GrantSource
from deviceplugin.allocation.identity import allocation_id
from deviceplugin.allocation.preferred import NotEnoughDevicesError, preferred
from deviceplugin.cdi import CDIError, Spec
from deviceplugin.injection import render
from deviceplugin.injection.render import CannotInjectError, Injection, Strategy
from deviceplugin.injection.store import SpecStore
from deviceplugin.kubelet.podresources import PodResources, PodResourcesError, holder
from deviceplugin.kubelet.resource import Resource
from deviceplugin.refusal import Blame, RefusalError
from deviceplugin.splitting import Table, grants
from deviceplugin.vendor import (
    ContainerEdits,
    Exposure,
    Grant,
    HostDirectory,
    NodeBackend,
    Owner,
    Preferrer,
    PreStarter,
    ResourcePlan,
    RuntimeExposed,
    Safeguarded,
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every allocator of an agent shares."""

    strategy: Strategy
    store: SpecStore
    pod_resources: PodResources
    policy: str = "distributed"
    host_root: Path = Path("/")
    deferred: GrantSource | None = None
    """Set where allocation is deferred: who says what a container gets."""


class ResourceAllocator:
    """Implements `kubelet.service.Allocator` for one resource of one vendor."""

    def __init__(
        self,
        vendor: str,
        backend: NodeBackend,
        plan: ResourcePlan,
        resource: Resource,
        around: Surroundings,
    ) -> None:
        self._vendor, self._backend, self._around = vendor, backend, around
        self._resource = resource
        self.plan = plan
        self.inventory: Sequence[Spec] = ()
        deferred = around.deferred is not None
        self.pre_start_required = deferred or isinstance(backend, PreStarter)

    def prefer(
        self, available: Sequence[str], must_include: Sequence[str], size: int
    ) -> Sequence[str]:
        """The vendor's advice where it has any, else by links, NUMA nodes and policy."""
        table = self._resource.table
        try:
            if isinstance(self._backend, Preferrer) and not self.plan.split.separator:
                known = [i for i in available if i in table.virtual]
                return self._backend.prefer(
                    [table.device(i) for i in known],
                    [table.device(i) for i in must_include if i in table.virtual],
                    size,
                )
            return preferred(table, available, must_include, size, self._around.policy)
        except NotEnoughDevicesError as error:
            raise RefusalError(str(error), "not-enough", Blame.NODE) from None

    async def allocate(self, ids: Sequence[str]) -> Injection:
        """What the container with these ids gets; the node is ready for it when this returns."""
        table = self._resource.table
        ids = self.checked(ids, table)
        if isinstance(self._backend, Safeguarded):
            impediment = await asyncio.to_thread(self._backend.impediment, self.plan)
            if impediment:
                raise RefusalError(f"{self._resource.name}: {impediment}", "impediment", Blame.NODE)
        owner = self._owner(ids)
        if self._around.deferred is not None:
            return render.deferred(self._vendor, owner.allocation_id, self._around.strategy)
        injection = self.injection(table, ids, owner)
        await self._prepare(injection, owner.allocation_id)
        return injection

    async def pre_start(self, ids: Sequence[str]) -> None:
        """Write what a deferred allocation named, and run the vendor's own preparation."""
        table = self._resource.table
        known = self.checked(ids, table, health=False)
        owner = await self._identified(known)
        granted: Sequence[Grant] = grants(table, known)
        if self._around.deferred is not None:
            granted = await self._around.deferred.grants(owner, granted)
            edits, exposure = self._edits(granted, owner), self._exposure()
            try:
                spec = render.deferred_spec(
                    self._vendor,
                    owner.allocation_id,
                    granted,
                    edits,
                    exposure,
                    self.inventory,
                    self._around.strategy,
                )
            except CannotInjectError as error:
                raise RefusalError(str(error), "cannot-inject", Blame.NODE) from None
            prepared = Injection(spec=spec, host_directories=edits.host_directories)
            await self._prepare(prepared, owner.allocation_id)
        if isinstance(self._backend, PreStarter):
            try:
                await asyncio.to_thread(self._backend.pre_start, granted, owner)
            except ValueError as error:
                raise RefusalError(str(error), "pre-start", Blame.NODE) from None

    def checked(self, ids: Sequence[str], table: Table, *, health: bool = True) -> list[str]:
        """The ids, each once, in the table's order. Raises `RefusalError` for what is not ours."""
        name = self._resource.name
        if not ids:
            raise RefusalError(f"the request for {name} names no device id", "empty-request")
        if unknown := sorted(set(ids) - table.virtual.keys()):
            shown = ", ".join(f"{i!r:.80}" for i in unknown[:3])
            raise RefusalError(f"invalid request: unknown device: {shown} of {name}", "unknown-id")
        chosen = set(ids)
        # Devices may also be shared by ids of a former split: its own limit of requests counts.
        most = max((table.virtual[i].split.max_request for i in chosen), default=0)
        if most and len(chosen) > most:
            raise RefusalError(
                f"maximum request size for shared resources is {most}; found {len(chosen)} "
                f"of {name}",
                "request-too-large",
            )
        if health:
            for identity in sorted(chosen):
                device = table.device(identity)
                if not device.healthy:
                    raise RefusalError(
                        f"device {identity} of {name} is unhealthy: {device.reason}",
                        "unhealthy-id",
                        Blame.NODE,
                    )
        return [identity for identity in table.virtual if identity in chosen]

    def injection(self, table: Table, ids: Sequence[str], owner: Owner) -> Injection:
        """The injection of these ids, a pure function of ids, table and plan.

        Raises `RefusalError`.
        """
        granted = grants(table, list(ids))
        try:
            return render.render(
                self._vendor,
                owner.allocation_id,
                granted,
                self._edits(granted, owner),
                self._exposure(),
                self._around.strategy,
            )
        except CannotInjectError as error:
            raise RefusalError(str(error), "cannot-inject", Blame.NODE) from None

    def name_of(self, ids: Collection[str]) -> str:
        """The allocation's name, under which its specification is kept."""
        return allocation_id(self._resource.name, ids)

    async def restore(self, ids: Sequence[str]) -> bool:
        """Write the specification of an allocation again that a wiped directory lost; False where
        the ids are not ours to explain any more or nothing was missing.
        """
        table, owner = self._resource.table, self._owner(ids)
        store = self._around.store
        if not set(ids) <= table.virtual.keys() or store.holds(self._vendor, owner.allocation_id):
            return False
        if self._around.deferred is not None:
            return False  # PreStartContainer writes it at every start
        injection = self.injection(table, self.checked(ids, table, health=False), owner)
        await self._prepare(injection, owner.allocation_id)
        return injection.spec is not None

    def _owner(self, ids: Sequence[str]) -> Owner:
        return Owner(self._resource.name, allocation_id(self._resource.name, ids))

    async def _identified(self, ids: Sequence[str]) -> Owner:
        """The owner with the pod and container that kubelet names for these ids."""
        owner = self._owner(ids)
        try:
            found = holder(await self._around.pod_resources.holdings(), owner.resource, ids)
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

    def _edits(self, granted: Sequence[Grant], owner: Owner) -> ContainerEdits:
        try:
            return self._backend.edits(granted, owner)
        except ValueError as error:
            raise RefusalError(f"{owner.resource}: {error}", "vendor-refused", Blame.NODE) from None
        except Exception as error:
            raise RefusalError(
                f"{owner.resource}: the vendor {self._vendor} failed to describe the container: "
                f"{type(error).__name__}: {error}",
                "vendor-error",
                Blame.NODE,
            ) from error

    def _exposure(self) -> Exposure | None:
        return self._backend.exposure() if isinstance(self._backend, RuntimeExposed) else None

    async def _prepare(self, injection: Injection, allocation: str) -> None:
        """Directories and the specification are there before anybody is told to use them."""
        if injection.spec is None and not injection.host_directories:
            return
        try:
            await asyncio.to_thread(self._write, injection, allocation)
        except (OSError, CDIError) as error:
            raise RefusalError(
                f"{self._resource.name}: the node cannot be prepared for the container: {error}",
                "node-not-prepared",
                Blame.NODE,
            ) from None

    def _write(self, injection: Injection, allocation: str) -> None:
        for directory in injection.host_directories:
            make_directory(self._around.host_root, directory)
        if injection.spec is not None:
            self._around.store.put(self._vendor, allocation, injection.spec)


def make_directory(root: Path, wanted: HostDirectory) -> None:
    """Create a directory of the host with exactly this mode, whatever the umask.

    Raises `OSError`; a symbolic link in the directory's place is refused, because tenants may
    write beside it.
    """
    path = root / wanted.path.lstrip("/")
    path.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise NotADirectoryError(f"{wanted.path} is a symbolic link and not a directory")
    if path.stat().st_mode & 0o7777 != wanted.mode:
        path.chmod(wanted.mode)
