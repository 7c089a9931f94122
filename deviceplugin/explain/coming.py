"""Pods that come to a cluster: those that wait in it, those of manifests, and those of nodes that
are taken away. Pure.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from deviceplugin.api.problems import shown
from deviceplugin.explain.snapshot import Snapshot
from deviceplugin.explain.world import World
from deviceplugin.placement.fit import Backends
from deviceplugin.placement.objects import pod_spec
from deviceplugin.scheduler.pods import ENDED, pod_record, priority_of, result_annotations

__all__ = ["Comer", "comers", "waiting", "without"]

Json = Mapping[str, Any]

GIVE = "give a Pod, or what makes pods: a Deployment, a Job, a List of such"

MOST_REPLICAS = 100_000
"""Of one object; more is a slip of the pen, and would be tried one by one."""


@dataclass(frozen=True, slots=True)
class Comer:
    """A pod that comes. Those of one `kind` differ in nothing but their names."""

    item: Json
    kind: str

    @property
    def key(self) -> str:
        """``namespace/name``."""
        metadata = self.item["metadata"]
        return f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"


def waiting(world: World) -> list[Comer]:
    """The pods that wait in the captured cluster, the most important first, then the oldest."""
    found = []
    for key, item in world.pods.items():
        record = pod_record(item)
        ended = (item.get("status") or {}).get("phase") in ENDED
        ours = record is not None and not record.bound and record.scheduler == world.settings.name
        if ours and not ended:
            found.append(Comer(item, key))
    found.sort(
        key=lambda c: (
            -priority_of(c.item),
            str(c.item["metadata"].get("creationTimestamp") or ""),
            c.key,
        )
    )
    return found


def comers(documents: Iterable[Any], source: str, replicas: int | None = None) -> Iterator[Comer]:
    """The pods of manifests, or of what makes pods: Deployments and the like. `replicas` is how
    many of each, else what the object says. Raises `ValueError`, naming the `source`.
    """
    found = [document for document in documents if document is not None]
    if not found:
        raise ValueError(f"{source}: nothing is in it; {GIVE}")
    for document in found:
        if not isinstance(document, Mapping):
            raise ValueError(f"{source}: {shown(document)} is not an object of Kubernetes; {GIVE}")
        if str(document.get("kind", "")).endswith("List"):
            items = document.get("items")
            if not isinstance(items, list):
                raise ValueError(f"{source}: a {document['kind']} without a list of items; {GIVE}")
            yield from comers(items, source, replicas)
            continue
        item, count = _template(document, source)
        kind = f"{item['metadata']['namespace']}/{item['metadata']['name']}"
        many = replicas if replicas is not None else count
        for number in range(many):
            name = item["metadata"]["name"] if many == 1 else f"{kind.partition('/')[2]}-{number}"
            metadata = {**item["metadata"], "name": name, "uid": f"simulated {source} {name}"}
            yield Comer({**item, "metadata": metadata}, kind)


def _template(document: Mapping[str, Any], source: str) -> tuple[dict[str, Any], int]:
    """A pod, and how many there are of it. Raises `ValueError`."""
    spec, metadata = document.get("spec"), document.get("metadata") or {}
    what = f"{source}: {document.get('kind') or 'a document'!s:.80}"
    if not isinstance(spec, Mapping) or not isinstance(metadata, Mapping):
        raise ValueError(f"{what} without metadata or spec; {GIVE}")
    if name := metadata.get("name"):
        what += f" {name!s:.80}"
    count, template = 1, spec.get("template")
    pod: Mapping[str, Any] = document
    if isinstance(template, Mapping):
        asked = spec.get("replicas", spec.get("parallelism"))
        asked = 1 if asked is None else asked
        if isinstance(asked, bool) or not isinstance(asked, int) or not 0 <= asked <= MOST_REPLICAS:
            raise ValueError(
                f"{what} has {shown(asked)} replicas: write a number from 0 to {MOST_REPLICAS}, or "
                "give --replicas"
            )
        count, pod = asked, template
    inner, within = pod.get("metadata") or {}, pod.get("spec")
    if not isinstance(within, Mapping) or not within.get("containers"):
        raise ValueError(f"{what} has no containers; {GIVE}")
    if not isinstance(inner, Mapping):
        raise ValueError(f"{what}: metadata is not a mapping; correct it")
    found = copy.deepcopy(dict(pod))
    found["metadata"] = {
        **inner,
        "namespace": str(metadata.get("namespace") or inner.get("namespace") or "default"),
        "name": str(
            metadata.get("name") or inner.get("name") or inner.get("generateName") or "pod"
        ),
    }
    try:
        pod_spec(found)
    except ValueError as error:
        raise ValueError(f"{what}: {error}; correct it") from None
    return found, count


def without(snapshot: Snapshot, nodes: Collection[str], backends: Backends) -> Snapshot:
    """The cluster without these nodes; the pods that were there come anew."""
    results = result_annotations(backends.values())
    pods = []
    for item in snapshot.pods:
        if item["spec"].get("nodeName") in nodes:
            annotations = item["metadata"].get("annotations") or {}
            kept = {key: text for key, text in annotations.items() if key not in results}
            spec = {key: value for key, value in item["spec"].items() if key != "nodeName"}
            pods.append(
                {**item, "metadata": {**item["metadata"], "annotations": kept}, "spec": spec}
            )
        else:
            pods.append(dict(item))
    return replace(
        snapshot,
        nodes=tuple(node for node in snapshot.nodes if node["metadata"].get("name") not in nodes),
        pods=tuple(pods),
    )
