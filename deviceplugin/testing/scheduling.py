"""A scheduler that does as it is told: decides nothing, but writes what real ones write, in their
order, with their habits. It works on any API server, fake or real.

*ours* announces grants and binds; *hami28* takes the node's lock first, as HAMi v2.8 does
(hami-scheduler.md 3.3, 3.6, 3.7); *volcano* takes none and still expects to be served.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from deviceplugin.api.hami import nodelock, poddevices
from deviceplugin.api.hami.keys import (
    BIND_PHASE,
    BIND_TIME,
    MUTEX_LOCK,
    VGPU_NODE,
    VGPU_TIME,
    VendorKeys,
)
from deviceplugin.api.hami.poddevices import ContainerDevice
from deviceplugin.apiserver.client import MERGE_PATCH, Api, ApiError, Path

__all__ = ["Habit", "LockHeldError", "ScriptedScheduler", "Wish"]


class Habit(enum.Enum):
    """Whose ways the scheduler has."""

    OURS = "ours"
    HAMI28 = "hami28"
    VOLCANO = "volcano"


def now() -> int:
    """Seconds since the epoch."""
    return int(time.time())


class LockHeldError(Exception):
    """The node is locked for another pod; a real scheduler tries again later."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Devices of one vendor for each container, in the order of the annotation."""

    keys: VendorKeys
    containers: Sequence[Sequence[ContainerDevice]]


@dataclass(frozen=True, slots=True)
class ScriptedScheduler:
    """Binds pods to one node. Blocking. Raises `ApiError`."""

    api: Api
    node: str
    habit: Habit = Habit.OURS

    def place(self, namespace: str, name: str, *wishes: Wish) -> None:
        """Filter and bind in one go. Raises `LockHeldError`."""
        self.filter(namespace, name, *wishes)
        self.bind(namespace, name)

    def filter(self, namespace: str, name: str, *wishes: Wish) -> None:
        """Write the decision to the pod."""
        annotations: dict[str, str] = {VGPU_NODE: self.node, VGPU_TIME: str(now())}
        for wish in wishes:
            text = poddevices.encode(wish.containers, wish.keys.allocated)
            annotations[wish.keys.allocated] = text
            if wish.keys.to_allocate:
                annotations[wish.keys.to_allocate] = text
        self.annotate(namespace, name, annotations)

    def annotate(self, namespace: str, name: str, annotations: Mapping[str, str]) -> None:
        """Write a decision for this node to the pod."""
        self._patch(namespace, name, annotations, labels={VGPU_NODE: self.node})

    def bind(self, namespace: str, name: str) -> None:
        """Lock where the habit has it so, say so, and bind. Raises `LockHeldError`."""
        if self.habit is Habit.HAMI28:
            self.lock(namespace, name)
        self._patch(namespace, name, {BIND_PHASE: "allocating", BIND_TIME: str(now())})
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self.node},
        }
        path = Path(
            "/api/v1/namespaces/{namespace}/pods/{name}/binding",
            {"namespace": namespace, "name": name},
        )
        self.api.call("POST", path, binding, "application/json")

    def lock(self, namespace: str, name: str) -> None:
        """Take the node's lock for the pod. Raises `LockHeldError` when it is another's."""
        node = self.api.call("GET", Path.node(self.node))
        metadata = node["metadata"]
        if MUTEX_LOCK in (metadata.get("annotations") or {}):
            raise LockHeldError(metadata["annotations"][MUTEX_LOCK])
        value = nodelock.encode(nodelock.NodeLock(datetime.now(UTC), namespace, name))
        patch = {
            "metadata": {
                "annotations": {MUTEX_LOCK: value},
                "resourceVersion": metadata["resourceVersion"],
            }
        }
        try:
            self.api.call("PATCH", Path.node(self.node), patch, MERGE_PATCH)
        except ApiError as error:
            if error.is_conflict:
                raise LockHeldError("taken meanwhile") from None
            raise

    def _patch(
        self,
        namespace: str,
        name: str,
        annotations: Mapping[str, str],
        labels: Mapping[str, str] | None = None,
    ) -> None:
        metadata: dict[str, Any] = {"annotations": annotations}
        if labels:
            metadata["labels"] = labels
        self.api.call("PATCH", Path.pod(namespace, name), {"metadata": metadata}, MERGE_PATCH)
