"""The node as the configuration describes it, in the doctor's words.

What only a vendor's backend knows of its driver is told here, because the doctor knows no vendor.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deviceplugin import registry
from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.api.problems import Problem
from deviceplugin.cli import probing
from deviceplugin.config import Config, ConfigError, load, vendor_settings
from deviceplugin.doctor.cluster import Cluster, SnapshotCluster
from deviceplugin.doctor.driver import cards
from deviceplugin.doctor.files import HostFiles
from deviceplugin.doctor.scene import Answer, Driver, Places, Scene
from deviceplugin.hook.manifest import Manifest
from deviceplugin.splitting import split
from deviceplugin.vendors.nvidia import VENDOR as NVIDIA
from deviceplugin.vendors.nvidia import (
    driverfiles,
    hami_core,
    host,
    library,
    mps_client,
    settings,
)

__all__ = ["NO_CLUSTER", "scene_of"]

NO_CLUSTER = (
    "no way to an API server: set KUBECONFIG, run in a pod with a service account, or give saved "
    "objects with --snapshot"
)

_NVIDIA_PCI = "0x10de"
_OTHER_ROOTS = ("/", "/run/nvidia/driver", "/home/kubernetes/bin/nvidia", "/usr/local/nvidia")
"""Where driver containers and clouds keep the driver."""


@dataclass(frozen=True, slots=True)
class _Configured:
    """A configuration, or its defaults and why it is refused."""

    config: Config
    warnings: tuple[Problem, ...]
    refused: tuple[Problem, ...] = ()


def scene_of(
    values: Mapping[str, object],
    environ: Mapping[str, str],
    manifest: Manifest,
    cluster: Cluster | None,
    *,
    probe: bool,
) -> Scene:
    """The scene of this node. With `probe` its drivers are asked, which takes seconds at most."""
    configured = _load(values, environ)
    config, paths = configured.config, configured.config.paths
    wanted = NVIDIA.name in config.vendors if config.vendors else True
    driver = _driver(config)
    root = Path(paths.host_root)
    served = wanted and bool(
        NVIDIA.name in config.vendors
        or registry.is_present(NVIDIA, root)
        or cards(HostFiles(root), driver.pci)
    )
    answers = probing.ask(config) if probe else None
    nvidia = settings.read(vendor_settings(config, NVIDIA.name))
    offers = tuple(probing.offered(config, answers or ()))
    resources = {o.plan.resource: o.plan.keys for o in offers if o.plan.keys is not None}
    if served and VENDORS["NVIDIA"] not in resources.values():
        # A driver that cannot be asked would offer this.
        resources[nvidia.section.resource_count_name] = VENDORS["NVIDIA"]
    return Scene(
        root=root,
        node_name=_node_name(config, values, environ, cluster),
        machine=platform.machine(),
        places=Places(
            plugin_dir=paths.plugin_dir,
            kubelet_socket=paths.kubelet_socket,
            pod_resources_socket=paths.pod_resources_socket,
            cdi_dir=paths.cdi_dir,
            run_dir=paths.run_dir,
            library=hami_core.directory(nvidia),
        ),
        strategies=config.device_list_strategy,
        allocation=config.allocation,
        offered={o.plan.resource: frozenset(split(o.plan, o.snapshot).virtual) for o in offers},
        limits=served and nvidia.limited,
        cooperative={
            o.plan.resource: o.impediment for o in offers if o.plan.split.sharing.cooperative
        },
        drivers=(driver,) if wanted else (),
        resources=resources,
        limit_variables=_limit_variables(nvidia) if served else (),
        control_variable=hami_core.DISABLE_CONTROL if served and nvidia.limited else "",
        visible_variables=("NVIDIA_VISIBLE_DEVICES",) if served else (),
        manifest=manifest,
        answers=None if answers is None else tuple(map(_answer, answers)),
        config_problems=tuple(map(str, configured.refused)),
        config_warnings=tuple(map(str, configured.warnings)),
        cluster=cluster,
        no_cluster=NO_CLUSTER,
    )


def _node_name(
    config: Config,
    values: Mapping[str, object],
    environ: Mapping[str, str],
    cluster: Cluster | None,
) -> str:
    """Where nobody says which node this is, saved objects with one node are about that one: they
    are often looked at on another machine.
    """
    said = values.get("node_name") or environ.get("NODE_NAME")
    if not said and isinstance(cluster, SnapshotCluster):
        return cluster.only_node or config.node_name
    return config.node_name


def _load(values: Mapping[str, object], environ: Mapping[str, str]) -> _Configured:
    try:
        loaded = load(values, environ)
    except ConfigError as error:
        return _Configured(_defaults(values, environ), error.warnings, error.problems)
    return _Configured(loaded.config, loaded.warnings)


def _defaults(values: Mapping[str, object], environ: Mapping[str, str]) -> Config:
    """Defaults, with what is said of where and which node this is, where that can be used."""
    place = {name: value for name, value in values.items() if name in ("host_root", "node_name")}
    names = {name: value for name, value in environ.items() if name == "NODE_NAME"}
    try:
        return load(place, names).config
    except ConfigError:
        return load({}, {}).config


def _driver(config: Config) -> Driver:
    """NVIDIA's driver."""
    return Driver(
        vendor=NVIDIA.name,
        pci=_NVIDIA_PCI,
        root=config.paths.driver_root,
        other_roots=_OTHER_ROOTS,
        folders=tuple(dict.fromkeys((*library.DIRECTORIES, *driverfiles.LIBRARY_DIRECTORIES))),
        libraries=(library.NAME, "libcuda.so.1"),
        module=NVIDIA.name,
        version_file="/proc/driver/nvidia/version",
        rivals=("nouveau", "nova_core"),
        nodes=(*host.CONTROL_NODES[:2], "/dev/nvidia0"),
        handler=NVIDIA.name,
        words=("nvidia", "hami", "vgpu"),
    )


def _limit_variables(nvidia: settings.NvidiaSettings) -> tuple[str, ...]:
    if nvidia.mps:
        return mps_client.LIMIT_VARIABLES
    return hami_core.LIMIT_VARIABLES if nvidia.limited else ()


def _answer(probed: probing.Answer) -> Answer:
    return Answer(
        probed.vendor,
        probed.state,
        probed.reason,
        tuple((d.uuid, d.reason) for d in probed.snapshot.devices if not d.healthy),
        probed.snapshot.problems,
    )
