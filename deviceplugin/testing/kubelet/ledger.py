"""Who holds which devices (kubelet-deviceplugin.md 2.6, 2.9, 2.10)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from deviceplugin.testing.kubelet import checkpoint

Key = tuple[str, str, str]
"""Pod uid, container, resource."""

WITHOUT_NODE = -1


@dataclass(frozen=True, slots=True)
class Record:
    """What a container holds of one resource: ids by NUMA node, -1 for none, and the serialized
    ContainerAllocateResponse.
    """

    by_node: Mapping[int, tuple[str, ...]]
    response: bytes

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids in order, each once."""
        return tuple(sorted({i for found in self.by_node.values() for i in found}))


class Ledger:
    """Records of containers, the ids in use, and those that a pod's init containers left it.

    `in_use` is kept beside the records as kubelet keeps it: what a failed call leaves in it stays
    there until `rebuild`.
    """

    def __init__(self) -> None:
        self.records: dict[Key, Record] = {}
        self.in_use: dict[str, set[str]] = {}
        self._reusable: tuple[str, dict[str, set[str]]] = ("", {})

    def ids(self, key: Key) -> set[str]:
        """The ids of a container and resource; empty when nothing is recorded."""
        record = self.records.get(key)
        return set(record.ids) if record else set()

    def of_container(self, uid: str, container: str) -> dict[str, Record]:
        """The records of a container by resource."""
        return {
            resource: record
            for (owner, name, resource), record in self.records.items()
            if (owner, name) == (uid, container)
        }

    def use(self, resource: str, identity: str) -> None:
        """Count an id as in use before it is recorded."""
        self.in_use.setdefault(resource, set()).add(identity)

    def rebuild(self) -> None:
        """Take as in use what is recorded, and nothing else."""
        self.in_use = {}
        for (_, _, resource), record in self.records.items():
            self.in_use.setdefault(resource, set()).update(record.ids)

    def release_all_but(self, active: Set[str]) -> None:
        """Drop the records of pods that are not active."""
        kept = {key: record for key, record in self.records.items() if key[0] in active}
        if len(kept) < len(self.records):
            self.records = kept
            self.rebuild()

    def reusable(self, uid: str) -> dict[str, set[str]]:
        """Ids by resource that ordinary init containers of the pod have left; only the pod that was
        served last is remembered.
        """
        if self._reusable[0] != uid:
            self._reusable = (uid, {})
        return self._reusable[1]

    def pass_on(self, uid: str, container: str) -> None:
        """Leave what an ordinary init container holds to later containers of its pod."""
        reusable = self.reusable(uid)
        for resource, record in self.of_container(uid, container).items():
            reusable.setdefault(resource, set()).update(record.ids)

    def keep(self, uid: str, container: str) -> None:
        """Keep what a container holds from later containers of its pod."""
        reusable = self.reusable(uid)
        for resource, record in self.of_container(uid, container).items():
            reusable.get(resource, set()).difference_update(record.ids)

    def entries(self) -> Sequence[checkpoint.Entry]:
        """The records as the checkpoint has them."""
        return [
            checkpoint.Entry(
                *key, {str(n): ids for n, ids in record.by_node.items()}, record.response
            )
            for key, record in self.records.items()
        ]

    def load(self, entries: Iterable[checkpoint.Entry]) -> None:
        """Take over the records of a checkpoint."""
        for entry in entries:
            by_node = {int(node): ids for node, ids in entry.ids.items()}
            key = (entry.pod_uid, entry.container, entry.resource)
            self.records[key] = Record(by_node, entry.response or b"")
        self.rebuild()
