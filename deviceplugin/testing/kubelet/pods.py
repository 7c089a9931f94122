"""Pods as the device manager sees them, and what becomes of them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

    def apply_cdi(self, directories: Sequence[Path]) -> dict[str, Any]:
        """The OCI specification after the runtime injected the CDI devices.

        Raises `deviceplugin.cdi.CDIError`: then the container cannot be created.
        """
        oci: dict[str, Any] = {"process": {"env": [f"{k}={v}" for k, v in self.envs]}}
        oci["mounts"] = [
            {"destination": m.container_path, "source": m.host_path} for m in self.mounts
        ]
        return cdi.apply(oci, self.cdi_names(), cdi.load_directories(directories))


def merge(
    responses: Sequence[pb.ContainerAllocateResponse], container: Container
) -> tuple[ContainerConfig, list[str]]:
    """One configuration out of the responses of several resources, and the contradictions.

    The first one wins for a variable, a path, a key; CDI names are kept once, in order
    (kubelet-deviceplugin.md 2.8).
    """
    envs: dict[str, str] = {}
    devices: dict[str, pb.DeviceSpec] = {}
    mounts: dict[str, pb.Mount] = {}
    annotations: dict[str, str] = {}
    names: dict[str, None] = {}
    contradictions: list[str] = []

    def put(kind: str, into: dict[str, Any], key: str, value: Any) -> None:
        if into.setdefault(key, value) != value:
            contradictions.append(f"two resources give different values for {kind} {key}")

    for response in responses:
        for key in sorted(response.envs):
            put("env", envs, key, response.envs[key])
        for device in response.devices:
            put("device", devices, device.container_path, device)
        for mount in response.mounts:
            put("mount", mounts, mount.container_path, mount)
        for key in sorted(response.annotations):
            put("annotation", annotations, key, response.annotations[key])
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
