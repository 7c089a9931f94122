"""Pods and nodes, as much of them as the agent goes by. Pure.

What stands here is what a stranger wrote: types are checked, nothing is believed for being there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from deviceplugin.api.quantity import NANO, Quantity, QuantityError

__all__ = ["Container", "Node", "Pod", "container", "node", "pod"]

NOBODY_READS = frozenset({"kubectl.kubernetes.io/last-applied-configuration"})
"""Annotations as large as the object itself."""

ENDED = frozenset({"Succeeded", "Failed"})


def _empty() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod.

    `requests` are whole numbers of extended resources (names with a ``/``), as the pod's limits say
    them, else its requests. `env` are the variables with a literal value; `derived_env` names those
    whose value comes from elsewhere. `sidecar` is an init container that keeps running.
    """

    name: str
    requests: Mapping[str, int] = field(default_factory=_empty)
    env: Mapping[str, str] = field(default_factory=_empty)
    derived_env: frozenset[str] = frozenset()
    init: bool = False
    sidecar: bool = False

    @property
    def is_ordinary_init(self) -> bool:
        """Runs to its end before the pod's other containers start; PodResources never lists it."""
        return self.init and not self.sidecar


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod. `init_ended` names the init containers that have run to their end, `init_failures`
    counts how often each has ended badly so far, `started` names the containers that have run.
    `init_waiting` says why init containers wait that cannot be started, in kubelet's words.
    """

    namespace: str
    name: str
    uid: str
    node: str = ""
    phase: str = "Pending"
    deleting: bool = False
    annotations: Mapping[str, str] = field(default_factory=_empty)
    init_containers: tuple[Container, ...] = ()
    containers: tuple[Container, ...] = ()
    init_ended: frozenset[str] = frozenset()
    init_failures: Mapping[str, int] = field(default_factory=_empty)
    started: frozenset[str] = frozenset()
    init_waiting: Mapping[str, str] = field(default_factory=_empty)
    version: str = ""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def ended(self) -> bool:
        """None of its containers runs or will run again."""
        return self.phase in ENDED

    def all_containers(self) -> Iterator[Container]:
        """Init containers first, as kubelet starts them."""
        yield from self.init_containers
        yield from self.containers

    def apart(self, name: str) -> tuple[str, ...]:
        """The containers that never run while the one of that name does: of such two, at least one
        is an ordinary init container and neither a sidecar.
        """
        found = self.container(name)
        if found is None or found.sidecar:
            return ()
        return tuple(
            other.name
            for other in self.all_containers()
            if other != found
            and not other.sidecar
            and (found.is_ordinary_init or other.is_ordinary_init)
        )

    def container(self, name: str) -> Container | None:
        """The container of that name; names are unique in a pod."""
        return next((item for item in self.all_containers() if item.name == name), None)


@dataclass(frozen=True, slots=True)
class Node:
    """One node."""

    name: str
    uid: str
    annotations: Mapping[str, str] = field(default_factory=_empty)
    labels: Mapping[str, str] = field(default_factory=_empty)
    allocatable: Mapping[str, int] = field(default_factory=_empty)
    version: str = ""


def pod(item: Mapping[str, Any]) -> Pod:
    """A pod from its JSON. Raises `ValueError` for what no API server would store."""
    metadata, spec = _mapping(item, "metadata"), _mapping(item, "spec")
    status = item.get("status") or {}
    init_statuses = status.get("initContainerStatuses") or ()
    return Pod(
        namespace=_text(metadata, "namespace"),
        name=_text(metadata, "name"),
        uid=_text(metadata, "uid"),
        node=str(spec.get("nodeName") or ""),
        phase=str(status.get("phase") or "Pending"),
        deleting=bool(metadata.get("deletionTimestamp")),
        annotations=_texts(metadata.get("annotations")),
        init_containers=tuple(
            container(entry, init=True) for entry in spec.get("initContainers") or ()
        ),
        containers=tuple(container(entry) for entry in spec.get("containers") or ()),
        init_ended=frozenset(_ended(init_statuses)),
        init_failures=MappingProxyType({str(s.get("name")): _failures(s) for s in init_statuses}),
        started=frozenset(_started([*init_statuses, *(status.get("containerStatuses") or ())])),
        init_waiting=MappingProxyType(dict(_waiting(init_statuses))),
        version=str(metadata.get("resourceVersion") or ""),
    )


def container(entry: Mapping[str, Any], *, init: bool = False) -> Container:
    """A container from its JSON. Raises `ValueError`."""
    literal, derived = {}, set()
    for variable in entry.get("env") or ():
        if variable.get("valueFrom"):
            derived.add(str(variable["name"]))
        else:
            literal[str(variable["name"])] = str(variable.get("value") or "")
    resources = entry.get("resources") or {}
    return Container(
        name=_text(entry, "name"),
        requests=MappingProxyType(
            {
                **_extended(resources.get("requests")),
                **_extended(resources.get("limits")),
            }
        ),
        env=MappingProxyType(literal),
        derived_env=frozenset(derived),
        init=init,
        sidecar=init and entry.get("restartPolicy") == "Always",
    )


def node(item: Mapping[str, Any]) -> Node:
    """A node from its JSON. Raises `ValueError`."""
    metadata = _mapping(item, "metadata")
    status = item.get("status") or {}
    return Node(
        name=_text(metadata, "name"),
        uid=_text(metadata, "uid"),
        annotations=_texts(metadata.get("annotations")),
        labels=_texts(metadata.get("labels")),
        allocatable=MappingProxyType(_extended(status.get("allocatable"))),
        version=str(metadata.get("resourceVersion") or ""),
    )


def _ended(statuses: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for status in statuses:
        terminated = (status.get("state") or {}).get("terminated")
        if terminated and terminated.get("exitCode") == 0:
            yield str(status.get("name"))


def _started(statuses: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for status in statuses:
        states = (status.get("state") or {}, status.get("lastState") or {})
        if any(state.get("running") or state.get("terminated") for state in states):
            yield str(status.get("name"))


def _waiting(statuses: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for status in statuses:
        waiting = (status.get("state") or {}).get("waiting")
        if waiting and waiting.get("message"):
            yield str(status.get("name")), str(waiting["message"])


def _failures(status: Mapping[str, Any]) -> int:
    """`restartCount` rises only when the next try runs: one that has ended counts beside it."""
    state, last = status.get("state") or {}, status.get("lastState") or {}
    over = "terminated" in state or ("waiting" in state and "terminated" in last)
    return int(status.get("restartCount") or 0) + over


def _extended(resources: Mapping[str, Any] | None) -> dict[str, int]:
    """The extended resources; a quantity that is no whole number counts as absent, because no API
    server lets one through.
    """
    found = {}
    for name, quantity in (resources or {}).items():
        if "/" not in name:
            continue
        try:
            nano = Quantity.parse(str(quantity)).nano
        except QuantityError:
            continue
        if nano % NANO == 0:
            found[name] = nano // NANO
    return found


def _mapping(item: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = item.get(key)
    if not isinstance(value, Mapping):
        raise ValueError(f"it has no {key}")
    return value


def _text(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"it has no {key}")
    return value


def _texts(entries: Mapping[str, Any] | None) -> Mapping[str, str]:
    return MappingProxyType(
        {str(k): str(v) for k, v in (entries or {}).items() if k not in NOBODY_READS}
    )
