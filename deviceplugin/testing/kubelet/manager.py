"""One run of kubelet's device manager: what it remembers, and its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Set

from deviceplugin.testing.kubelet import checkpoint
from deviceplugin.testing.kubelet.devices import DeviceTable
from deviceplugin.testing.kubelet.environment import Environment
from deviceplugin.testing.kubelet.findings import CHECKPOINT, Finding
from deviceplugin.testing.kubelet.ledger import Ledger
from deviceplugin.testing.kubelet.registration import Registry


class DeviceManager:
    """Dies with the kubelet process; only the checkpoint carries over to the next one.

    `active` names the pods that have not ended. `already_running` are the containers that the
    runtime reported when kubelet started; they count until all sources of pods are ready.
    """

    def __init__(
        self,
        environment: Environment,
        active: Callable[[], Set[str]],
        already_running: Set[tuple[str, str]] = frozenset(),
    ) -> None:
        self.environment = environment
        self.table, self.ledger = DeviceTable(), Ledger()
        self.registry = Registry(environment, self.table, self.save)
        self.sources_ready = False
        self._active, self._running = active, frozenset(already_running)

    def is_known(self, resource: str) -> bool:
        """Whether kubelet takes a resource for one of plugins; others it skips silently."""
        return resource in self.table.healthy or resource in self.ledger.in_use

    def is_already_running(self, uid: str, container: str) -> bool:
        """Whether a container ran before kubelet did, so that it has its devices."""
        return not self.sources_ready and (uid, container) in self._running

    def collect(self) -> None:
        """Free what ended pods held, once all pods are known (2.10)."""
        if self.sources_ready:
            self.ledger.release_all_but(self._active())

    def is_active(self, uid: str) -> bool:
        """Whether a pod has not ended."""
        return uid in self._active()

    def drop_expired(self) -> set[str]:
        """Forget resources whose plugin stayed away, and name them (2.5)."""
        expired = {name for name in self.table.healthy if self.registry.has_expired(name)}
        for resource in expired:
            self.table.forget(resource)
            del self.registry.endpoints[resource]
        if expired:
            self.save()
        return expired

    def save(self) -> None:
        """Write the checkpoint. Raises `OSError`."""
        registered = {name: sorted(ids) for name, ids in self.table.healthy.items()}
        content = checkpoint.Checkpoint(self.ledger.entries(), registered)
        checkpoint.write(self.environment.plugin_dir, content)

    def load(self) -> None:
        """Read the checkpoint; a corrupt one is a finding, and kubelet goes on without (2.1)."""
        try:
            loaded = checkpoint.read(self.environment.plugin_dir)
        except checkpoint.CorruptCheckpointError as error:
            self.environment.find([Finding(CHECKPOINT, f"corrupt checkpoint: {error}")])
            return
        if loaded is None:
            return
        self.ledger.load(loaded.entries or ())
        for resource in loaded.registered or {}:
            self.registry.remember(resource)
