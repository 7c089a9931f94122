"""Pods as the device manager sees them, and what becomes of them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from deviceplugin import cdi
from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb


@dataclass(frozen=True, slots=True)
class Container:
    """A container; `limits` are whole devices by resource. `restartable` concerns init
    containers only: a sidecar keeps its devices, an ordinary one passes them on.
    """

    name: str
    limits: Mapping[str, int] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    init: bool = False
    restartable: bool = False


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod with its containers in order, init containers first."""

    name: str
    containers: tuple[Container, ...]
    namespace: str = "default"
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, **limits: int) -> Pod:
        """A pod with one container called ``main``; keyword ``a__b`` stands for ``a/b``."""
        return cls(name, (Container("main", {k.replace("__", "/"): v for k, v in limits.items()}),))

    def ordered(self) -> tuple[Container, ...]:
        """The containers as kubelet takes them: init containers first."""
        return tuple(sorted(self.containers, key=lambda container: not container.init))

    def container(self, name: str) -> Container:
        """A container by name. Raises `KeyError`."""
        for container in self.containers:
            if container.name == name:
                return container
        raise KeyError(f"pod {self.name} has no container {name!r}")

    def recreated(self) -> Pod:
        """Another pod of the same name, as a controller makes it."""
        return replace(self, uid=str(uuid.uuid4()))

    def request(self, resource: str) -> int:
        """What the scheduler and the node check count: the most that is held at one time."""
        most = kept = 0
        for container in self.ordered():
            count = container.limits.get(resource, 0)
            if container.init and not container.restartable:
                most = max(most, kept + count)
            else:
                kept += count
        return max(most, kept)

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Pod:
        """The pod of a Kubernetes manifest. Raises `ValueError` naming what is missing."""
        try:
            metadata, spec = manifest["metadata"], manifest["spec"]
            containers = [
                _container(item, init=init)
                for key, init in (("initContainers", True), ("containers", False))
                for item in spec.get(key) or ()
            ]
            return cls(
                metadata["name"],
                tuple(containers),
                metadata.get("namespace", "default"),
                metadata.get("uid") or str(uuid.uuid4()),
                metadata.get("annotations") or {},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a pod manifest: {error!r}") from None


def _container(item: Mapping[str, Any], *, init: bool) -> Container:
    limits = (item.get("resources") or {}).get("limits") or {}
    return Container(
        name=item["name"],
        limits={name: int(count) for name, count in limits.items() if "/" in name},
        env={entry["name"]: str(entry.get("value", "")) for entry in item.get("env") or ()},
        init=init,
        restartable=item.get("restartPolicy") == "Always",
    )


@dataclass(frozen=True, slots=True)
class Admitted:
    """The pod may start."""

    pod: Pod


@dataclass(frozen=True, slots=True)
class Failed:
    """The pod is refused for good; `message` is what its status shows."""

    pod: Pod
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PodStatus:
    """What the API shows of a pod. `health` is by container, resource and device id; it is empty
    where the version or its feature gates do not report health (2.11).
    """

    phase: Literal["Pending", "Running", "Succeeded", "Failed"]
    reason: str = ""
    message: str = ""
    health: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)


class StartError(Exception):
    """The container did not start; kubelet tries again later."""


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """What the runtime is told: `envs` in order, the plugin's before the pod's own."""

    envs: tuple[tuple[str, str], ...]
    devices: tuple[pb.DeviceSpec, ...]
    mounts: tuple[pb.Mount, ...]
    annotations: Mapping[str, str]
    cdi_devices: tuple[str, ...]

    def effective_env(self) -> dict[str, str]:
        """The environment that the process would see without CDI: the last of a name counts."""
        return dict(self.envs)

    def cdi_names(self) -> tuple[str, ...]:
        """All requested CDI devices, by field and by annotation, each once.

        Raises `deviceplugin.cdi.CDIError` for a malformed annotation, as runtimes do.
        """
        _, annotated = cdi.parse_annotations(self.annotations)
        return tuple(dict.fromkeys((*self.cdi_devices, *annotated)))

    def apply_cdi(
        self, directories: Sequence[Path], stat: Callable[[str], os.stat_result] = os.lstat
    ) -> dict[str, Any]:
        """The OCI specification after the runtime injected the CDI devices; `stat` looks at the
        host's device nodes.

        Raises `deviceplugin.cdi.CDIError`: then the container cannot be created.
        """
        oci: dict[str, Any] = {"process": {"env": [f"{k}={v}" for k, v in self.envs]}}
        oci["mounts"] = [
            {"destination": m.container_path, "source": m.host_path} for m in self.mounts
        ]
        return cdi.apply(oci, self.cdi_names(), cdi.load_directories(directories), stat)


def merge(
    responses: Sequence[pb.ContainerAllocateResponse],
    container: Container,
    *,
    cdi_devices: bool = True,
) -> tuple[ContainerConfig, list[tuple[str, str]]]:
    """One configuration out of the responses of several resources, and the kind and name of each
    contradiction between them.

    The first one wins for a variable, a path, a key; CDI names are kept once, in order
    (kubelet-deviceplugin.md 2.8). Without `cdi_devices` the field of that name is not known.
    """
    envs: dict[str, str] = {}
    devices: dict[str, pb.DeviceSpec] = {}
    mounts: dict[str, pb.Mount] = {}
    annotations: dict[str, str] = {}
    names: dict[str, None] = {}
    contradictions: list[tuple[str, str]] = []

    def put(kind: str, into: dict[str, Any], key: str, value: Any) -> None:
        if into.setdefault(key, value) != value:
            contradictions.append((kind, key))

    for response in responses:
        for key in sorted(response.envs):
            put("env", envs, key, response.envs[key])
        for device in response.devices:
            put("device", devices, device.container_path, device)
        for mount in response.mounts:
            put("mount", mounts, mount.container_path, mount)
        for key in sorted(response.annotations):
            put("annotation", annotations, key, response.annotations[key])
        if cdi_devices:
            names.update(dict.fromkeys(device.name for device in response.cdi_devices))
    return (
        ContainerConfig(
            (*envs.items(), *container.env.items()),
            tuple(devices.values()),
            tuple(mounts.values()),
            annotations,
            tuple(names),
        ),
        contradictions,
    )


def misfit(
    pod: Pod, others: Iterable[Pod], allocatable: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    """Reason and message for each resource of which the node has too little (2.6).

    A resource that the node does not show is left out of the check, as kubelet does.
    """
    others = list(others)
    for resource in sorted({name for c in pod.containers for name in c.limits} & set(allocatable)):
        asked, used = pod.request(resource), sum(other.request(resource) for other in others)
        if asked + used > allocatable[resource]:
            yield (
                f"OutOf{resource}",
                f"Node didn't have enough resource: {resource}, requested: {asked}, "
                f"used: {used}, capacity: {allocatable[resource]}",
            )
