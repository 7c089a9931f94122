"""What the checks are told: where things are, what the operator wants, and who can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from deviceplugin.api.hami.keys import VendorKeys
from deviceplugin.doctor.cluster import Cluster
from deviceplugin.doctor.files import HostFiles
from deviceplugin.doctor.model import NotCheckedError
from deviceplugin.hook.manifest import Manifest

__all__ = ["Answer", "Driver", "Places", "Scene"]


@dataclass(frozen=True, slots=True)
class Places:
    """Paths on the host. `library` is the directory of libvgpu."""

    plugin_dir: str = "/var/lib/kubelet/device-plugins"
    kubelet_socket: str = "/var/lib/kubelet/device-plugins/kubelet.sock"
    pod_resources_socket: str = "/var/lib/kubelet/pod-resources/kubelet.sock"
    cdi_dir: str = "/var/run/cdi"
    run_dir: str = "/run/deviceplugin"
    library: str = "/usr/local/vgpu"


@dataclass(frozen=True, slots=True)
class Driver:
    """What a vendor's driver consists of. `pci` is the vendor's number in PCI (``0x10de``), `root`
    where its files are on the host by the configuration and `other_roots` where they also may be;
    `folders` hold `libraries`. `module` is the kernel's module, whose version stands in
    `version_file`, `rivals` are modules that keep it out, `nodes` device nodes that it makes.
    `handler` is the runtime handler that containers need unless devices come by CDI, and `words`
    are found in the names of other plugins for the same devices.
    """

    vendor: str
    pci: str
    root: str
    other_roots: tuple[str, ...]
    folders: tuple[str, ...]
    libraries: tuple[str, ...]
    module: str
    version_file: str
    rivals: tuple[str, ...]
    nodes: tuple[str, ...]
    handler: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one vendor's probe said. `state` is ``ok``, ``absent``, ``failed``, ``unknown`` or
    ``broken``; `unhealthy` are devices with reasons, `problems` what was left out and why.
    """

    vendor: str
    state: str = "ok"
    reason: str = ""
    unhealthy: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """`root` is where this process sees the host's root, `machine` what ``uname -m`` says.

    `strategies` and `allocation` are the options of these names; `drivers` those of vendors that
    the node serves or could, `resources` what is offered by a scheduler's word, with its keys;
    `offered` are the ids of virtual devices by resource, where the drivers were asked.
    `limits` says that libvgpu is to limit containers, `limit_variables` how the variables begin
    that limit them and `control_variable` the one that switches libvgpu off; by `visible_variables`
    vendors' runtimes are told which devices a container sees. `cooperative` are the resources whose
    limits hold only by co-operation, each with what keeps it from being handed out, or nothing.
    `answers` is None where no driver was asked. `cluster` is None where there is no way to an API
    server, for the reason in `no_cluster`.
    """

    root: Path
    node_name: str
    machine: str = "x86_64"
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    places: Places = Places()
    strategies: tuple[str, ...] = ("envvar",)
    allocation: str = "standalone"
    offered: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    limits: bool = False
    cooperative: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    drivers: tuple[Driver, ...] = ()
    resources: Mapping[str, VendorKeys] = field(default_factory=lambda: MappingProxyType({}))
    limit_variables: tuple[str, ...] = ()
    control_variable: str = ""
    visible_variables: tuple[str, ...] = ()
    manifest: Manifest = field(default_factory=Manifest)
    answers: tuple[Answer, ...] | None = None
    config_problems: tuple[str, ...] = ()
    config_warnings: tuple[str, ...] = ()
    cluster: Cluster | None = None
    no_cluster: str = "no way to an API server"

    @property
    def host(self) -> HostFiles:
        """The host's files."""
        return HostFiles(self.root)

    @property
    def uses_cdi(self) -> bool:
        """Whether devices reach containers by CDI."""
        return any(name.startswith("cdi-") for name in self.strategies)

    @property
    def scheduled(self) -> bool:
        """Whether a scheduler decides who gets what."""
        return self.allocation.startswith("scheduled")

    @property
    def deferred(self) -> bool:
        """Whether grants are handed over when containers start."""
        return self.allocation.endswith("deferred")

    def below(self, path: str) -> Path:
        """Where this process finds a path of the host, there or not."""
        return self.host.place(path) or self.root / path.lstrip("/")

    def api(self) -> Cluster:
        """The cluster. Raises `NotCheckedError`."""
        if self.cluster is None:
            raise NotCheckedError(self.no_cluster)
        return self.cluster
