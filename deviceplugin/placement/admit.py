"""A new pod with what its vendors add, from JSON to JSON. Pure (hami-scheduler.md 2.3)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from deviceplugin.placement.objects import pod_spec
from deviceplugin.vendor.scheduling import Admission, SchedulingBackend

__all__ = ["admitted"]


def admitted(
    item: Mapping[str, Any], backends: Iterable[SchedulingBackend]
) -> tuple[dict[str, Any], frozenset[str]]:
    """The pod as it is to be stored, and the words that its containers ask for. Each vendor sees
    what those before it added; resources, which only its own vendor changes, are set in limits and
    requests alike, because the API server wants both equal.

    Raises `vendor.scheduling.RefusedError`, and `ValueError` for what is no pod.
    """
    result: dict[str, Any] = copy.deepcopy(dict(item))
    found = set()
    pod = pod_spec(result)
    spec = result["spec"]
    entries = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    for backend in backends:
        for position, entry in enumerate(entries):
            container = (*pod.init_containers, *pod.containers)[position]
            admission = backend.admit(container, pod)
            if admission.found:
                found.add(backend.keys.common_word)
            if _changes(admission):
                _apply(result, entry, admission)
                pod = pod_spec(result)
    return result, frozenset(found)


def _changes(admission: Admission) -> bool:
    """Most vendors have nothing to say of a pod: it is read anew only for those that do."""
    return bool(
        admission.resources or admission.env or admission.annotations or admission.runtime_class
    )


def _apply(pod: dict[str, Any], container: dict[str, Any], admission: Admission) -> None:
    if admission.resources:
        resources = container.setdefault("resources", {})
        for part in ("limits", "requests"):
            resources[part] = {**(resources.get(part) or {}), **admission.resources}
    for name, value in admission.env.items():
        variables = container.setdefault("env", [])
        if all(variable.get("name") != name for variable in variables):
            variables.append({"name": name, "value": value})
    if admission.annotations:
        metadata = pod["metadata"]
        metadata["annotations"] = {**admission.annotations, **(metadata.get("annotations") or {})}
    if admission.runtime_class and not pod["spec"].get("runtimeClassName"):
        pod["spec"]["runtimeClassName"] = admission.runtime_class
