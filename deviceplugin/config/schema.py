"""The agent's configuration as it is after all sources were merged and checked: frozen values.

How a value comes here is told by `deviceplugin.config.options` (where it may be written) and
`deviceplugin.config.parse` (what is allowed). Times are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deviceplugin.api.problems import Problem

__all__ = [
    "Config",
    "ConfigError",
    "HealthConfig",
    "Loaded",
    "MonitorConfig",
    "Paths",
    "ProbeConfig",
    "Replicas",
    "Sharing",
]


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things are. All are absolute paths; an empty one means "not used".

    `host_root` is where this process sees the host's root file system; `driver_root`, `dev_root`,
    `hook_path`, `nvidia_cdi_hook_path` and `mps_root` are paths on the host,
    `driver_root_ctr_path` is where the driver root is seen by this process. Without
    `kubelet_socket` the agent serves and does not register.
    """

    kubelet_socket: str
    plugin_dir: str
    pod_resources_socket: str
    cdi_dir: str
    run_dir: str
    host_root: str
    driver_root: str
    driver_root_ctr_path: str
    dev_root: str
    hook_path: str
    nvidia_cdi_hook_path: str
    mps_root: str


@dataclass(frozen=True, slots=True)
class Replicas:
    """One resource of ``sharing``: each device is offered `replicas` times.

    `renamed` means that the shared resource is called ``<resource>.shared``.
    Source: kubelet-deviceplugin.md 4.1.
    """

    replicas: int
    fail_requests_greater_than_one: bool
    renamed: bool


@dataclass(frozen=True, slots=True)
class Sharing:
    """Replicas by resource name. At most one of the two is not empty: MPS wins."""

    time_slicing: Mapping[str, Replicas]
    mps: Mapping[str, Replicas]


@dataclass(frozen=True, slots=True)
class ProbeConfig:
    """How often and how long the drivers are asked."""

    interval_seconds: float
    deadline_seconds: float
    backoff_first_seconds: float
    backoff_most_seconds: float


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """When a device changes state; the meaning of each field is `deviceplugin.health`'s.

    `failures` of the last `window` probes make a device unhealthy (fewer: suspect), `successes`
    good ones in a row make it healthy again, not before `hold_seconds` after its last bad sign.
    """

    failures: int
    window: int
    successes: int
    hold_seconds: float
    forget_seconds: float
    probe_failures: int
    disable_checks: tuple[str, ...]
    enable_checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MonitorConfig:
    """How the use of containers is shown and kept; see the options of the same names."""

    enabled: bool
    names: str
    legacy_labels: bool
    feedback: bool
    usage_seconds: float
    grace_seconds: float


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the agent is told. `sections` are the vendors' parts of the file, raw, by key;
    one that is a list stands below its own key (``{"vnpus": {"vnpus": (...)}}``).
    """

    node_name: str
    vendors: tuple[str, ...]
    device_list_strategy: tuple[str, ...]
    device_id_strategy: str
    pass_device_specs: bool
    cdi_annotation_prefix: str
    allocation_policy: str
    allocation: str
    lockless: str
    topology_score: bool
    secondary_resources: bool
    fail_on_init_error: bool
    isolation: str
    paths: Paths
    sharing: Sharing
    mig_strategy: str
    gdrcopy_enabled: bool
    gds_enabled: bool
    mofed_enabled: bool
    imex_channel_ids: tuple[int, ...]
    imex_required: bool
    device_discovery_strategy: str
    cdi_feature_flags: tuple[str, ...]
    cdi_disabled_hooks: tuple[str, ...]
    probe: ProbeConfig
    health: HealthConfig
    monitor: MonitorConfig
    http_listen: str
    log_level: str
    log_format: str
    sections: Mapping[str, Mapping[str, object]]

    @property
    def uses_cdi(self) -> bool:
        """Whether one of the strategies hands devices over by CDI."""
        return any(name.startswith("cdi-") for name in self.device_list_strategy)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration with its history: `provenance` says by file key where each value comes
    from, `files` are those that were looked for.
    """

    config: Config
    warnings: tuple[Problem, ...]
    provenance: Mapping[str, str]
    files: tuple[str, ...]


class ConfigError(Exception):
    """The configuration is refused; `problems` are all the reasons at once.

    `warnings` are what would have been told beside a configuration.
    """

    def __init__(self, problems: tuple[Problem, ...], warnings: tuple[Problem, ...] = ()) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems
        self.warnings = warnings
