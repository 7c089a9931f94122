"""The values of a CDI specification, in the shape of the file (cdi.md 1.1), frozen.

Field names are Python's; `deviceplugin.cdi.codec` knows the names in the file. Paths are
strings, because they are paths on a host that this process may not see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


def _empty() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device node to create in the container.

    `path` is the path in the container, `host_path` the one on the host where they differ.
    `file_mode` holds permission bits (0o666), `permissions` letters out of r, w, m for the
    device cgroup. What is None or empty is filled in by the runtime from the host's node.
    """

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount; `options` as for mount(8), `type` empty means a bind mount."""

    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


@dataclass(frozen=True, slots=True)
class Hook:
    """An OCI hook; `args` includes argv[0], `timeout` is in seconds."""

    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


@dataclass(frozen=True, slots=True)
class NetDevice:
    """A network interface moved into the container (CDI 1.1.0)."""

    host_interface_name: str
    name: str


@dataclass(frozen=True, slots=True)
class IntelRdt:
    """Intel resource director settings; `schemata` and `enable_monitoring` since CDI 1.1.0."""

    clos_id: str = ""
    l3_cache_schema: str = ""
    mem_bw_schema: str = ""
    schemata: tuple[str, ...] = ()
    enable_monitoring: bool = False


@dataclass(frozen=True, slots=True)
class ContainerEdits:
    """What a runtime changes in a container; `env` entries are NAME=value."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    net_devices: tuple[NetDevice, ...] = ()
    hooks: tuple[Hook, ...] = ()
    mounts: tuple[Mount, ...] = ()
    intel_rdt: IntelRdt | None = None
    additional_gids: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to edit; a device without edits makes a file invalid."""
        return self != ContainerEdits()


@dataclass(frozen=True, slots=True)
class Device:
    """A named device of a specification."""

    name: str
    container_edits: ContainerEdits
    annotations: Mapping[str, str] = field(default_factory=_empty)


@dataclass(frozen=True, slots=True)
class Spec:
    """A CDI specification; without `cdi_version` the lowest one that covers the content counts."""

    kind: str
    devices: tuple[Device, ...]
    container_edits: ContainerEdits = ContainerEdits()
    annotations: Mapping[str, str] = field(default_factory=_empty)
    cdi_version: str = ""
