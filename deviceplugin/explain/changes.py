"""Changes of a pod or of the cluster that may make a pod fit: what they are, how they are said, and
what comes of them. Pure.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from deviceplugin.explain.kube import Taint
from deviceplugin.placement.observe import CORDON

__all__ = [
    "Cap",
    "Change",
    "Drop",
    "RaiseQuota",
    "Release",
    "Tolerate",
    "Uncordon",
    "Unselect",
    "applied",
]

Json = Mapping[str, Any]


class Change(Protocol):
    """One change. Those of the cluster leave a pod as it is."""

    def of_pod(self, pod: dict[str, Any]) -> None:
        """Make it, on a copy of the pod."""

    def __str__(self) -> str:
        """What somebody has to do, as an imperative."""


@dataclass(frozen=True, slots=True)
class Cap:
    """At most so much of a resource in each of these containers; who names none gets that much.
    `said` is the amount with its unit, for people.
    """

    resource: str
    amount: int
    containers: tuple[str, ...]
    said: str

    def of_pod(self, pod: dict[str, Any]) -> None:
        """In limits and requests alike, as the API server wants both."""
        spec = pod["spec"]
        for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
            if container.get("name") in self.containers:
                resources = container.setdefault("resources", {})
                for part in ("limits", "requests"):
                    resources[part] = {
                        **(resources.get(part) or {}),
                        self.resource: str(self.amount),
                    }

    def __str__(self) -> str:
        where = f" in each of {', '.join(self.containers)}" if len(self.containers) > 1 else ""
        return f"ask for at most {self.said}{where} ({self.resource}: {self.amount})"


@dataclass(frozen=True, slots=True)
class Drop:
    """An annotation of the pod less."""

    annotation: str

    def of_pod(self, pod: dict[str, Any]) -> None:
        """Take it off."""
        pod["metadata"].get("annotations", {}).pop(self.annotation, None)

    def __str__(self) -> str:
        return f"remove the annotation {self.annotation}"


@dataclass(frozen=True, slots=True)
class Tolerate:
    """A toleration more."""

    taint: Taint

    def of_pod(self, pod: dict[str, Any]) -> None:
        """Add it."""
        entry = {"key": self.taint.key, "operator": "Exists", "effect": self.taint.effect}
        pod["spec"]["tolerations"] = [*(pod["spec"].get("tolerations") or ()), entry]

    def __str__(self) -> str:
        return f"tolerate the taint {self.taint}"


@dataclass(frozen=True, slots=True)
class Unselect:
    """A node selector less."""

    label: str

    def of_pod(self, pod: dict[str, Any]) -> None:
        """Take it out."""
        pod["spec"].get("nodeSelector", {}).pop(self.label, None)

    def __str__(self) -> str:
        return f"remove {self.label} from the pod's nodeSelector"


@dataclass(frozen=True, slots=True)
class Uncordon:
    """A node that takes pods again."""

    node: str

    def of_pod(self, pod: dict[str, Any]) -> None:
        """Nothing."""

    def __str__(self) -> str:
        return f"kubectl uncordon {self.node}"


@dataclass(frozen=True, slots=True)
class Release:
    """A card that its node's people withhold no more."""

    node: str
    card: str

    def of_pod(self, pod: dict[str, Any]) -> None:
        """Nothing."""

    def __str__(self) -> str:
        return f"take {self.card} out of the annotation {CORDON} of node {self.node}"


@dataclass(frozen=True, slots=True)
class RaiseQuota:
    """A quota that allows more: `key` of its hard limits becomes `amount`."""

    namespace: str
    name: str
    key: str
    amount: int

    def of_pod(self, pod: dict[str, Any]) -> None:
        """Nothing."""

    def __str__(self) -> str:
        return (
            f"raise {self.key} of the quota {self.name} in namespace {self.namespace} to "
            f"{self.amount}"
        )


def applied(pod: Json, changes: Iterable[Change]) -> dict[str, Any]:
    """The pod as these changes make it."""
    changed: dict[str, Any] = copy.deepcopy(dict(pod))
    for change in changes:
        change.of_pod(changed)
    return changed
