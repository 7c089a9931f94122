"""A captured cluster: what decisions go by, and nothing else. Pure but for files.

No value of a variable, no argument, image, volume or secret is in it; of annotations and labels
those that the scheduler, the vendors and kube-scheduler's own filters read.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deviceplugin.api.hami.keys import (
    BIND_PHASE,
    BIND_TIME,
    DEVICE_POLICY,
    NODE_POLICY,
    VGPU_NODE,
    VGPU_TIME,
    WEBHOOK,
)
from deviceplugin.api.node import ALLOCATION, ANNOUNCES
from deviceplugin.explain.keep import FLAG, NUMBER, TEXT, Entries, Only, kept
from deviceplugin.placement.fit import Backends
from deviceplugin.placement.observe import CORDON
from deviceplugin.userfiles import UserFileError, read_file

__all__ = ["FORMAT", "VERSION", "Shapes", "Snapshot", "SnapshotError", "loads", "read", "write"]

FORMAT, VERSION = "deviceplugin.dev/snapshot", 1
MOST_BYTES = 2 << 30
"""Of a file once it is unpacked; 10,000 pods on 1,000 nodes are 15 MB."""

Json = Mapping[str, Any]

WELL_KNOWN = frozenset(
    {
        "gpu",  # by which HAMi's charts choose nodes
        "kubernetes.io/arch",
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    }
)
"""Labels of nodes that are kept whether or not a pod selects by them."""

POD_POLICIES = frozenset({VGPU_NODE, VGPU_TIME, BIND_PHASE, BIND_TIME, NODE_POLICY, DEVICE_POLICY})
NODE_WORDS = frozenset({ALLOCATION, ANNOUNCES, CORDON})


class SnapshotError(ValueError):
    """A file that is no snapshot, or none that can be read here; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`taken_at` is RFC 3339; `kubernetes` the API server's version, empty where it did not say;
    `config` identifies the device configuration that it was captured by. The objects are reduced,
    in the form in which the API server has them.
    """

    nodes: tuple[Json, ...] = ()
    pods: tuple[Json, ...] = ()
    quotas: tuple[Json, ...] = ()
    taken_at: str = ""
    kubernetes: str = ""
    config: str = ""
    program: str = ""


# --- what is kept ---------------------------------------------------------------------------------


class Shapes:
    """What is kept of nodes, pods and quotas where these backends decide."""

    def __init__(self, backends: Backends) -> None:
        keys = [backend.keys for backend in backends.values()]
        resources = {n for backend in backends.values() for n in backend.resources.names()}
        domains = {name.partition("/")[0] for name in resources if "/" in name}
        of_pods = POD_POLICIES.union(
            *(k.by_people for k in keys),
            *(k.results for k in keys),
            *(backend.remembers for backend in backends.values()),
        )
        of_nodes = NODE_WORDS.union(*(k.on_nodes for k in keys))
        self._pod = _pod_shape(of_pods, resources)
        self._node_annotations, self._domains = of_nodes, domains
        self._quota = {
            "metadata": {"name": TEXT, "namespace": TEXT},
            "spec": {"hard": Entries(lambda key: key.partition(".")[2] in resources)},
        }

    def pod(self, item: Any) -> Json:
        """A pod, reduced."""
        return _object(kept(item, self._pod))

    def quota(self, item: Any) -> Json | None:
        """A quota, reduced; None for one that says nothing of devices."""
        found = _object(kept(item, self._quota))
        return found if (found.get("spec") or {}).get("hard") else None

    def node(self, item: Any, labels: Collection[str] = ()) -> Json:
        """A node, reduced; of its labels these are kept, and those that everybody knows."""
        return _object(kept(item, self._node_shape(WELL_KNOWN | set(labels))))

    def _node_shape(self, labels: Collection[str]) -> Mapping[str, Any]:
        def vendors(name: str) -> bool:
            return "/" in name and name.partition("/")[0] in self._domains

        return {
            "metadata": {
                "name": TEXT,
                "annotations": Entries(self._node_annotations.__contains__),
                "labels": Entries(labels.__contains__),
            },
            "spec": {
                "unschedulable": FLAG,
                "taints": [{"key": TEXT, "value": TEXT, "effect": TEXT}],
            },
            "status": {"capacity": Entries(vendors), "allocatable": Entries(vendors)},
        }


def _pod_shape(annotations: Collection[str], resources: Collection[str]) -> Mapping[str, Any]:
    amounts = Entries(resources.__contains__)
    container = {
        "name": TEXT,
        "restartPolicy": TEXT,
        "resources": {"limits": amounts, "requests": amounts},
        "securityContext": {"privileged": FLAG},
    }
    terms = [{"key": TEXT, "operator": TEXT, "values": [TEXT]}]
    return {
        "metadata": {
            "name": TEXT,
            "namespace": TEXT,
            "uid": TEXT,
            "creationTimestamp": TEXT,
            "deletionTimestamp": TEXT,
            "annotations": Entries(annotations.__contains__),
            "labels": Entries(WEBHOOK.__eq__),
        },
        "spec": {
            "nodeName": TEXT,
            "schedulerName": TEXT,
            "priority": NUMBER,
            "preemptionPolicy": TEXT,
            "runtimeClassName": TEXT,
            "schedulingGates": [{"name": TEXT}],
            "nodeSelector": Entries(lambda _key: True),
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": terms, "matchFields": terms}]
                    }
                }
            },
            "tolerations": [{"key": TEXT, "operator": TEXT, "value": TEXT, "effect": TEXT}],
            "initContainers": [container],
            "containers": [container],
        },
        "status": {
            "phase": TEXT,
            "reason": TEXT,
            "message": TEXT,
            "conditions": Only(
                lambda entry: entry.get("type") == "PodScheduled",
                {"type": TEXT, "status": TEXT, "reason": TEXT, "message": TEXT},
            ),
        },
    }


def _object(found: Any) -> Json:
    if not isinstance(found, dict):
        raise SnapshotError("an object that is none")
    return found


# --- files ----------------------------------------------------------------------------------------


def write(snapshot: Snapshot, path: Path) -> None:
    """Into a file, packed where its name ends with ``.gz``. Raises `OSError`."""
    data = dumps(snapshot)
    # Without the time, so that the same cluster gives the same bytes.
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def dumps(snapshot: Snapshot) -> bytes:
    """As JSON, an object a line."""
    head = {
        "format": FORMAT,
        "version": VERSION,
        "takenAt": snapshot.taken_at,
        "program": snapshot.program,
        "kubernetes": snapshot.kubernetes,
        "deviceConfig": snapshot.config,
    }
    parts = [json.dumps(head)[:-1].encode()]
    lists = (("nodes", snapshot.nodes), ("pods", snapshot.pods), ("quotas", snapshot.quotas))
    for name, items in lists:
        lines = ",\n".join(json.dumps(item, separators=(",", ":")) for item in items)
        parts.append(f',\n"{name}": [\n{lines}\n]'.encode())
    return b"".join([*parts, b"}\n"])


def read(path: Path, backends: Backends) -> Snapshot:
    """A snapshot from a file. Raises `SnapshotError`."""
    try:
        data = read_file(path, MOST_BYTES)
        if data.startswith(b"\x1f\x8b"):
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MOST_BYTES + 1)
    except UserFileError as error:
        raise SnapshotError(str(error)) from None
    except (OSError, EOFError, zlib.error) as error:
        raise SnapshotError(f"{path}: cannot be unpacked: {error}; {_MAKE}") from None
    if len(data) > MOST_BYTES:
        raise SnapshotError(f"{path}: larger than {MOST_BYTES >> 30} GiB")
    try:
        return loads(data, backends)
    except SnapshotError as error:
        raise SnapshotError(f"{path}: {error}") from None


def loads(data: bytes, backends: Backends) -> Snapshot:
    """A snapshot from its JSON, reduced again: whoever made the file is not believed to have done
    so. Raises `SnapshotError`.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"not JSON: {error}; {_MAKE}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise SnapshotError(f"no snapshot: it has no format {FORMAT!r}; {_MAKE}")
    version, program = found.get("version"), str(found.get("program") or "a newer deviceplugin")
    if not isinstance(version, int) or version < 1:
        raise SnapshotError(f"its version is {version!r:.40}, not a number from 1 on; {_MAKE}")
    if version > VERSION:
        raise SnapshotError(
            f"its version is {version} and this program reads up to {VERSION}: it was made by "
            f"{program:.80}; read it with that one or a newer one"
        )
    shapes = Shapes(backends)
    nodes = [(item, _labels(item)) for item in _listed(found, "nodes")]
    return Snapshot(
        nodes=tuple(shapes.node(item, labels) for item, labels in nodes),
        pods=tuple(map(shapes.pod, _listed(found, "pods"))),
        quotas=tuple(
            quota for item in _listed(found, "quotas") if (quota := shapes.quota(item)) is not None
        ),
        taken_at=str(found.get("takenAt") or ""),
        kubernetes=str(found.get("kubernetes") or ""),
        config=str(found.get("deviceConfig") or ""),
        program=program,
    )


_MAKE = "make one with `deviceplugin snapshot -o FILE`"


def _listed(found: Json, key: str) -> Iterator[Json]:
    items = found.get(key)
    if not isinstance(items, list):
        raise SnapshotError(f"it has no list of {key}; {_MAKE}")
    for number, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("metadata"), dict):
            raise SnapshotError(f"entry {number} of its {key} is no object of Kubernetes")
        yield item


def _labels(node: Json) -> frozenset[str]:
    labels = node["metadata"].get("labels")
    return frozenset(labels) if isinstance(labels, dict) else frozenset()


def selected_labels(pods: Iterable[Json]) -> frozenset[str]:
    """The labels of nodes by which some of these pods choose where they may go."""
    found: set[str] = set()
    for pod in pods:
        spec = pod.get("spec") or {}
        found |= (spec.get("nodeSelector") or {}).keys()
        required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
            "requiredDuringSchedulingIgnoredDuringExecution"
        ) or {}
        for term in required.get("nodeSelectorTerms") or ():
            found |= {str(e.get("key")) for e in term.get("matchExpressions") or ()}
    return frozenset(found)
