"""The API server's word on this node, asked or read from a file.

Objects are raw JSON until a group of checks projects them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Protocol

from deviceplugin.apiserver.client import PODS, Api, ApiError, Path
from deviceplugin.doctor.model import NotCheckedError
from deviceplugin.userfiles import UserFileError, read_file

__all__ = ["ApiCluster", "Cluster", "Json", "SnapshotCluster", "SnapshotError"]

Json = Mapping[str, Any]

MAX_BYTES = 256 << 20


class Cluster(Protocol):
    """What the checks ask. Every method raises `NotCheckedError` when there is no answer."""

    def node(self, name: str) -> Json | None:
        """The node, None when there is none of that name."""

    def pods(self, node: str) -> tuple[Json, ...]:
        """All pods that are bound to a node."""

    def pod(self, namespace: str, name: str) -> Json | None:
        """One pod, wherever it is; None when there is none."""


@dataclass(frozen=True, slots=True)
class ApiCluster:
    """Asks the API server."""

    api: Api

    def node(self, name: str) -> Json | None:
        """One request."""
        return self._one(Path.node(name))

    def pods(self, node: str) -> tuple[Json, ...]:
        """As many requests as there are pages."""
        query = {"fieldSelector": f"spec.nodeName={node}", "limit": "200"}
        found: list[Json] = []
        while True:
            try:
                page = self.api.call("GET", PODS, query=query)
            except ApiError as error:
                raise NotCheckedError(str(error)) from None
            found += [item for item in page.get("items") or () if isinstance(item, Mapping)]
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return tuple(found)
            query["continue"] = str(token)

    def pod(self, namespace: str, name: str) -> Json | None:
        """One request."""
        return self._one(Path.pod(namespace, name))

    def _one(self, path: Path) -> Json | None:
        try:
            return self.api.call("GET", path)
        except ApiError as error:
            if error.is_missing:
                return None
            raise NotCheckedError(str(error)) from None


class SnapshotError(ValueError):
    """A file that is no snapshot; the text says what one is."""


@dataclass(frozen=True, slots=True)
class SnapshotCluster:
    """Goes by objects that somebody saved."""

    nodes: tuple[Json, ...]
    all_pods: tuple[Json, ...]

    @staticmethod
    def read(path: FilePath) -> SnapshotCluster:
        """``{"node": ..., "pods": [...]}``, or a List as ``kubectl get nodes -o json`` writes it;
        a List may hold pods and nodes. Raises `SnapshotError`.
        """
        try:
            document = json.loads(read_file(path, MAX_BYTES))
        except UserFileError as error:
            raise SnapshotError(str(error)) from None
        except (ValueError, RecursionError):
            raise SnapshotError(f"{path}: not JSON") from None
        nodes, pods = [], []
        for item in _objects(document):
            kind = str(item.get("kind") or "")
            if kind == "Node":
                nodes.append(item)
            elif kind == "Pod":
                pods.append(item)
        if not nodes and not pods:
            raise SnapshotError(
                f'{path}: no node and no pods in it; write {{"node": ..., "pods": [...]}} with '
                "what kubectl get -o json says, or a List of both"
            )
        return SnapshotCluster(tuple(nodes), tuple(pods))

    @property
    def only_node(self) -> str:
        """The name of the only node; empty where there are several, or none."""
        return _name(self.nodes[0]) if len(self.nodes) == 1 else ""

    def node(self, name: str) -> Json | None:
        """The node of that name. Without any node in the file nobody can say."""
        if not self.nodes:
            raise NotCheckedError("the saved objects have no node")
        return next((item for item in self.nodes if _name(item) == name), None)

    def pods(self, node: str) -> tuple[Json, ...]:
        """Those whose specification names the node. Without any pod in the file nobody can say."""
        self._has_pods()
        return tuple(p for p in self.all_pods if (p.get("spec") or {}).get("nodeName") == node)

    def pod(self, namespace: str, name: str) -> Json | None:
        """The pod of that name, as `pods`."""
        self._has_pods()
        wanted = (namespace, name)
        return next(
            (
                item
                for item in self.all_pods
                if ((item.get("metadata") or {}).get("namespace"), _name(item)) == wanted
            ),
            None,
        )

    def _has_pods(self) -> None:
        if not self.all_pods:
            raise NotCheckedError("the saved objects have no pods")


def _objects(document: Any) -> Iterator[Json]:
    if not isinstance(document, Mapping):
        return
    if document.get("kind") in ("Node", "Pod"):
        yield document
    if isinstance(node := document.get("node"), Mapping):
        yield {**node, "kind": "Node"}
    lists = (("pods", "Pod"), ("items", ""))
    for key, kind in lists:
        found = document.get(key)
        if isinstance(found, Mapping):
            found = found.get("items")
        # The items of a list of one kind do not name it.
        kind = kind or str(document.get("kind") or "").removesuffix("List")
        for item in found if isinstance(found, list) else ():
            if isinstance(item, Mapping):
                yield {"kind": kind, **item}


def _name(item: Json) -> str:
    return str((item.get("metadata") or {}).get("name") or "")
