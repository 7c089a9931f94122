"""Pods and nodes as decisions see them, from the API server's JSON. Pure.

What stands there is what a stranger wrote: types are checked, nothing is believed for being there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from deviceplugin.vendor.scheduling import ContainerSpec, NodeFacts, PodSpec, whole

__all__ = ["container_spec", "node_facts", "pod_spec"]


def pod_spec(item: Mapping[str, Any]) -> PodSpec:
    """A pod from its JSON. Raises `ValueError` for what no API server would store."""
    metadata, spec = _mapping(item, "metadata"), _mapping(item, "spec")
    return PodSpec(
        namespace=str(metadata.get("namespace") or ""),
        name=str(metadata.get("name") or metadata.get("generateName") or ""),
        uid=str(metadata.get("uid") or ""),
        annotations=_texts(metadata, "annotations"),
        containers=tuple(container_spec(entry) for entry in _list(spec, "containers")),
        init_containers=tuple(
            container_spec(entry, init=True) for entry in _list(spec, "initContainers")
        ),
        runtime_class=str(spec.get("runtimeClassName") or ""),
    )


def container_spec(entry: Mapping[str, Any], *, init: bool = False) -> ContainerSpec:
    """A container from its JSON. Raises `ValueError`."""
    name = str(entry.get("name") or "")
    resources = entry.get("resources") or {}
    if not isinstance(resources, Mapping):
        raise ValueError(f"resources of container {name!r:.80} is not a mapping")
    security = entry.get("securityContext")
    return ContainerSpec(
        name=name,
        limits=_texts(resources, "limits", name),
        requests=_texts(resources, "requests", name),
        env=frozenset(str(variable.get("name")) for variable in _list(entry, "env")),
        privileged=isinstance(security, Mapping) and security.get("privileged") is True,
        init=init,
        sidecar=init and entry.get("restartPolicy") == "Always",
    )


def node_facts(item: Mapping[str, Any]) -> NodeFacts:
    """A node from its JSON. Raises `ValueError`."""
    metadata = _mapping(item, "metadata")
    status = item.get("status") or {}
    return NodeFacts(
        name=str(metadata.get("name") or ""),
        annotations=_texts(metadata, "annotations"),
        labels=_texts(metadata, "labels"),
        capacity=_extended(status, "capacity"),
        allocatable=_extended(status, "allocatable"),
    )


def _extended(status: Mapping[str, Any], key: str) -> Mapping[str, int]:
    amounts = {name: whole(text) for name, text in _texts(status, key).items() if "/" in name}
    return MappingProxyType({name: n for name, n in amounts.items() if n is not None})


def _mapping(item: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = item.get(key)
    if not isinstance(value, Mapping):
        raise ValueError(f"it has no {key}")
    return value


def _list(item: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = item.get(key) or []
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise ValueError(f"{key} is not a list of mappings")
    return value


def _texts(item: Mapping[str, Any], key: str, container: str = "") -> Mapping[str, str]:
    value = item.get(key) or {}
    if not isinstance(value, Mapping):
        whose = f" of container {container!r:.80}" if container else ""
        raise ValueError(f"{key}{whose} is not a mapping")
    return MappingProxyType({str(k): str(v) for k, v in value.items()})
