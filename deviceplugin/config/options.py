"""Every setting once: its flags, environment variables, file key, default and meaning.

The command line, the reader of the sources, ``config check`` and the documentation are made from
this table. Flags and variables are those of kubelet-deviceplugin.md 4.2 and hami-nvidia-node.md
1.1; what is only ours has the prefix ``DEVICEPLUGIN_`` and stands below ``agent`` in the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deviceplugin.api.fields import (
    FLAG,
    LISTEN,
    NAME,
    PATH,
    RESOURCE,
    SECONDS,
    TEXT,
    Kind,
    choice,
    fewer,
    many,
    number,
    optional,
    whole,
)

__all__ = ["CONFIG_FILE", "CONFIG_JSON", "NODE_NAME", "OPTIONS", "VERBOSITY", "Option"]

STRATEGIES = ("envvar", "volume-mounts", "cdi-annotations", "cdi-cri")
FILE: Kind[str] = optional(Kind("path", NAME.check))
POSITIVE_SECONDS = fewer(SECONDS, "not positive", "write more than 0 seconds", bool)


@dataclass(frozen=True, slots=True)
class Option:
    """One setting.

    `field` is its place in `Config` (``paths.mps_root``), empty for what only steers the reading;
    `key` its place in the file, empty where a file cannot say it. `fallback` names the key of
    NVIDIA's section that is filled from this option when the file lacks it. `vendor_key` is its
    name in `VendorSettings.options`, empty where it is no vendor's business.
    """

    flags: tuple[str, ...]
    env: tuple[str, ...]
    field: str
    key: str
    kind: Kind[Any]
    default: object
    help: str
    vendor_key: str = ""
    fallback: str = ""

    @property
    def name(self) -> str:
        """The key of this option in `argv_values`: its first flag as a Python name."""
        return self.flags[0].lstrip("-").replace("-", "_")


CONFIG_FILE = Option(
    ("--config-file",),
    ("CONFIG_FILE",),
    "",
    "",
    FILE,
    "",
    "The configuration file, YAML or JSON.",
)
CONFIG_JSON = Option(
    ("--config-json",),
    ("CONFIG_JSON",),
    "",
    "",
    FILE,
    "/config/config.json",
    "HAMi's overrides a node. Without the file there are none.",
)
NODE_NAME = Option(
    ("--node-name",),
    ("NODE_NAME", "NodeName"),
    "node_name",
    "",
    NAME,
    "",
    "Name of this node, used where NODE_NAME is not set; else the host's name.",
)
VERBOSITY = Option(
    ("--v", "-v"),
    (),
    "",
    "",
    whole(0, 100),
    0,
    "klog's verbosity, as existing charts pass it: from 5 on the log level is debug.",
)


def _agent(
    name: str,
    field: str,
    key: str,
    kind: Kind[Any],
    default: object,
    meaning: str,
    vendor_key: str = "",
) -> Option:
    """A setting of ours."""
    env = f"DEVICEPLUGIN_{name.upper().replace('-', '_')}"
    return Option((f"--{name}",), (env,), field, f"agent.{key}", kind, default, meaning, vendor_key)


def _hami(name: str, env: tuple[str, ...], kind: Kind[Any], section_key: str) -> Option:
    """A flag that HAMi v2.8 parses and ignores."""
    return Option(
        (f"--{name}",),
        env,
        "",
        "",
        kind,
        None,
        f"HAMi's flag: the value of nvidia.{section_key} where the file has none.",
        fallback=section_key,
    )


OPTIONS: tuple[Option, ...] = (
    CONFIG_FILE,
    CONFIG_JSON,
    NODE_NAME,
    _agent(
        "vendors",
        "vendors",
        "vendors",
        many(NAME),
        (),
        "Vendors to serve; none named means all that are present on the node.",
    ),
    Option(
        ("--device-list-strategy",),
        ("DEVICE_LIST_STRATEGY",),
        "device_list_strategy",
        "flags.plugin.deviceListStrategy",
        many(choice(*STRATEGIES), least=1),
        ("envvar",),
        "How devices reach a container; may be several.",
        "deviceListStrategy",
    ),
    Option(
        ("--device-id-strategy",),
        ("DEVICE_ID_STRATEGY",),
        "device_id_strategy",
        "flags.plugin.deviceIDStrategy",
        choice("uuid", "index"),
        "uuid",
        "By what a container names a device.",
        "deviceIDStrategy",
    ),
    Option(
        ("--pass-device-specs",),
        ("PASS_DEVICE_SPECS",),
        "pass_device_specs",
        "flags.plugin.passDeviceSpecs",
        FLAG,
        False,
        "Hand over device nodes beside the list of ids.",
        "passDeviceSpecs",
    ),
    Option(
        ("--cdi-annotation-prefix",),
        ("CDI_ANNOTATION_PREFIX",),
        "cdi_annotation_prefix",
        "flags.plugin.cdiAnnotationPrefix",
        fewer(
            NAME,
            "not the prefix of an annotation",
            "write one that ends in /, for example cdi.k8s.io/",
            lambda text: text.endswith("/") and len(text) > 1,
        ),
        "cdi.k8s.io/",
        "Prefix of the annotations of the strategy cdi-annotations.",
        "cdiAnnotationPrefix",
    ),
    Option(
        ("--shared-devices-allocation-policy",),
        ("SHARED_DEVICES_ALLOCATION_POLICY",),
        "allocation_policy",
        "flags.plugin.sharedDevicesAllocationPolicy",
        choice("distributed", "packed"),
        "distributed",
        "Whether shares go to the emptiest or to the fullest device.",
        "sharedDevicesAllocationPolicy",
    ),
    _agent(
        "allocation",
        "allocation",
        "allocation",
        choice("standalone", "standalone-deferred", "scheduled-deferred", "scheduled-locked"),
        "standalone",
        "Who decides what a container gets, and when. standalone: kubelet, by the devices it "
        "picks. scheduled-*: a scheduler that speaks HAMi's annotations. *-deferred: handed over "
        "right before the container starts (needs a CDI strategy). scheduled-locked: at once, "
        "to the pod that the node's lock names.",
    ),
    _agent(
        "lockless",
        "lockless",
        "lockless",
        choice("refuse", "verify"),
        "refuse",
        "With scheduled-locked, where no lock names a pod (Volcano): refuse, or take the pod that "
        "came first and verify it before it starts.",
    ),
    Option(
        ("--enable-topology-score",),
        ("ENABLE_TOPOLOGY_SCORE",),
        "topology_score",
        "agent.topologyScore",
        FLAG,
        False,
        "Tell schedulers how well each two devices are connected.",
    ),
    _agent(
        "secondary-resources",
        "secondary_resources",
        "secondaryResources",
        FLAG,
        False,
        "Register memory and cores with kubelet too, as amounts that it only counts: for quotas, "
        "autoscalers and dashboards.",
    ),
    _agent(
        "isolation",
        "isolation",
        "isolation",
        choice("enforced", "none"),
        "enforced",
        "enforced: a limit that cannot be kept is an error. none: shares without limits.",
    ),
    Option(
        ("--fail-on-init-error",),
        ("FAIL_ON_INIT_ERROR",),
        "fail_on_init_error",
        "flags.failOnInitError",
        FLAG,
        True,
        "End when a vendor's driver cannot be initialised; otherwise wait for it.",
        "failOnInitError",
    ),
    Option(
        ("--mig-strategy",),
        ("MIG_STRATEGY",),
        "mig_strategy",
        "flags.migStrategy",
        choice("none", "single", "mixed"),
        "none",
        "How MIG instances are offered.",
        "migStrategy",
    ),
    Option(
        ("--device-discovery-strategy",),
        ("DEVICE_DISCOVERY_STRATEGY",),
        "device_discovery_strategy",
        "flags.deviceDiscoveryStrategy",
        choice("auto", "nvml", "tegra"),
        "auto",
        "How GPUs are found.",
        "deviceDiscoveryStrategy",
    ),
    *(
        Option(
            (f"--{word}-enabled",),
            (f"{word.upper()}_ENABLED",),
            f"{word}_enabled",
            f"flags.{word}Enabled",
            FLAG,
            False,
            f"Give containers {product} as well.",
            f"{word}Enabled",
        )
        for word, product in (("gdrcopy", "GDRCopy"), ("gds", "GPUDirect Storage"))
    ),
    Option(
        ("--mofed-enabled",),
        ("MOFED_ENABLED",),
        "mofed_enabled",
        "flags.mofedEnabled",
        FLAG,
        False,
        "Give containers the devices of Mellanox OFED as well.",
        "mofedEnabled",
    ),
    Option(
        ("--imex-channel-ids",),
        ("IMEX_CHANNEL_IDS",),
        "imex_channel_ids",
        "imex.channelIDs",
        fewer(
            many(whole()),
            "other channels than 0",
            "write [] or [0]",
            lambda channels: channels in ((), (0,)),
        ),
        (),
        "IMEX channels for every container: none, or 0.",
        "imexChannelIDs",
    ),
    Option(
        ("--imex-required",),
        ("IMEX_REQUIRED",),
        "imex_required",
        "imex.required",
        FLAG,
        False,
        "Whether a container without its IMEX channel is an error.",
        "imexRequired",
    ),
    Option(
        ("--cdi-feature-flags",),
        ("CDI_FEATURE_FLAGS",),
        "cdi_feature_flags",
        "agent.cdi.featureFlags",
        many(NAME),
        (),
        "Switches of the generator of NVIDIA's CDI inventory.",
        "cdiFeatureFlags",
    ),
    Option(
        ("--cdi-disable-hooks",),
        ("CDI_DISABLE_HOOKS",),
        "cdi_disabled_hooks",
        "agent.cdi.disableHooks",
        many(NAME),
        (),
        "Hooks to leave out of NVIDIA's CDI inventory.",
        "cdiDisableHooks",
    ),
    Option(
        ("--kubelet-socket",),
        ("KUBELET_SOCKET",),
        "paths.kubelet_socket",
        "agent.paths.kubeletSocket",
        optional(PATH),
        "/var/lib/kubelet/device-plugins/kubelet.sock",
        "Kubelet's registration socket; empty: serve without registering.",
    ),
    _agent(
        "plugin-dir",
        "paths.plugin_dir",
        "paths.pluginDir",
        PATH,
        "",
        "Where our sockets stand; by default beside kubelet's.",
    ),
    _agent(
        "pod-resources-socket",
        "paths.pod_resources_socket",
        "paths.podResourcesSocket",
        PATH,
        "/var/lib/kubelet/pod-resources/kubelet.sock",
        "Kubelet's PodResources socket.",
    ),
    _agent(
        "cdi-dir",
        "paths.cdi_dir",
        "paths.cdiDir",
        PATH,
        "/var/run/cdi",
        "Where CDI specifications are written.",
    ),
    _agent(
        "run-dir",
        "paths.run_dir",
        "paths.runDir",
        PATH,
        "/run/deviceplugin",
        "Locks, records and journals of the agent.",
        "runDir",
    ),
    _agent(
        "host-root",
        "paths.host_root",
        "paths.hostRoot",
        PATH,
        "/",
        "Where this process sees the host's root file system.",
    ),
    Option(
        ("--nvidia-driver-root", "--driver-root"),
        ("NVIDIA_DRIVER_ROOT",),
        "paths.driver_root",
        "flags.nvidiaDriverRoot",
        PATH,
        "/",
        "Root of NVIDIA's driver on the host.",
        "nvidiaDriverRoot",
    ),
    Option(
        ("--driver-root-ctr-path", "--container-driver-root"),
        ("DRIVER_ROOT_CTR_PATH", "CONTAINER_DRIVER_ROOT"),
        "paths.driver_root_ctr_path",
        "flags.plugin.containerDriverRoot",
        PATH,
        "/driver-root",
        "Where this process sees the driver root.",
        "containerDriverRoot",
    ),
    Option(
        ("--nvidia-dev-root", "--dev-root"),
        ("NVIDIA_DEV_ROOT",),
        "paths.dev_root",
        "flags.nvidiaDevRoot",
        PATH,
        "",
        "Root of NVIDIA's device nodes on the host; by default the driver root.",
        "nvidiaDevRoot",
    ),
    Option(
        ("--hook-path",),
        ("HOOK_PATH",),
        "paths.hook_path",
        "agent.paths.hookPath",
        PATH,
        "/usr/local",
        "Directory on the host whose vgpu/ holds libvgpu.so and its caches.",
        "hookPath",
    ),
    Option(
        ("--nvidia-cdi-hook-path", "--nvidia-ctk-path"),
        ("NVIDIA_CDI_HOOK_PATH", "NVIDIA_CTK_PATH"),
        "paths.nvidia_cdi_hook_path",
        "flags.plugin.nvidiaCTKPath",
        PATH,
        "/usr/bin/nvidia-ctk",
        "The program on the host that NVIDIA's CDI hooks call.",
        "nvidiaCTKPath",
    ),
    Option(
        ("--mps-root",),
        ("MPS_ROOT",),
        "paths.mps_root",
        "flags.mpsRoot",
        PATH,
        "",
        "Directory on the host that is shared with the MPS daemon; needed for sharing.mps and "
        "nvidia.mpsLimits.",
        "mpsRoot",
    ),
    _agent(
        "probe-interval",
        "probe.interval_seconds",
        "probe.interval",
        POSITIVE_SECONDS,
        30.0,
        "Time between two discoveries of a vendor's devices.",
    ),
    _agent(
        "probe-deadline",
        "probe.deadline_seconds",
        "probe.deadline",
        POSITIVE_SECONDS,
        15.0,
        "Time for one discovery before its process is killed.",
    ),
    _agent(
        "probe-backoff-first",
        "probe.backoff_first_seconds",
        "probe.backoffFirst",
        POSITIVE_SECONDS,
        1.0,
        "Wait after the first failed probe; doubles with each further one.",
    ),
    _agent(
        "probe-backoff-most",
        "probe.backoff_most_seconds",
        "probe.backoffMost",
        POSITIVE_SECONDS,
        60.0,
        "Longest wait between failed probes.",
    ),
    _agent(
        "health-failures",
        "health.failures",
        "health.failures",
        whole(1, 100),
        1,
        "Bad probes among the last health.window that make a device unhealthy.",
    ),
    _agent(
        "health-window",
        "health.window",
        "health.window",
        whole(1, 100),
        1,
        "How many probes are looked back on.",
    ),
    _agent(
        "health-successes",
        "health.successes",
        "health.successes",
        whole(1, 100),
        2,
        "Good probes in a row that make an unhealthy device healthy again.",
    ),
    _agent(
        "health-hold",
        "health.hold_seconds",
        "health.hold",
        SECONDS,
        60.0,
        "An unhealthy device stays so at least this long after its last bad sign.",
    ),
    _agent(
        "health-forget",
        "health.forget_seconds",
        "health.forget",
        SECONDS,
        300.0,
        "A device that the driver no longer lists is dropped after this long.",
    ),
    _agent(
        "health-probe-failures",
        "health.probe_failures",
        "health.probeFailures",
        whole(1, 100),
        3,
        "Failed probes in a row that make all devices of a vendor unhealthy.",
    ),
    Option(
        ("--disable-health-checks",),
        ("DP_DISABLE_HEALTHCHECKS",),
        "health.disable_checks",
        "agent.health.disableChecks",
        many(TEXT),
        (),
        "Xid numbers that do not count as failures; all or xids: none does.",
        "disableHealthChecks",
    ),
    Option(
        ("--enable-health-checks",),
        ("DP_ENABLE_HEALTHCHECKS",),
        "health.enable_checks",
        "agent.health.enableChecks",
        many(TEXT),
        (),
        "Xid numbers that count although another list excludes them; all: every one.",
        "enableHealthChecks",
    ),
    _agent(
        "http-listen",
        "http_listen",
        "http.listen",
        LISTEN,
        "127.0.0.1:9400",
        "Address of /metrics, /healthz and /readyz; empty: off.",
    ),
    _agent(
        "monitor",
        "monitor.enabled",
        "monitor.enabled",
        FLAG,
        True,
        "Show what containers use of their shares, and keep priorities between them.",
    ),
    _agent(
        "monitor-names",
        "monitor.names",
        "monitor.names",
        choice("v2.8", "v2.9", "both"),
        "v2.8",
        "Under whose metric names: HAMi's of 2.8, of 2.9 and later, or both.",
    ),
    _agent(
        "monitor-legacy-labels",
        "monitor.legacy_labels",
        "monitor.legacyLabels",
        FLAG,
        False,
        "Labels that carry values, as HAMi 2.8 has them; every change makes a new series.",
    ),
    _agent(
        "monitor-feedback",
        "monitor.feedback",
        "monitor.feedback",
        FLAG,
        True,
        "Hold containers of low priority back while one of high priority works.",
    ),
    _agent(
        "monitor-usage-interval",
        "monitor.usage_seconds",
        "monitor.usageInterval",
        SECONDS,
        10.0,
        "Between two questions to the drivers how busy whole devices are; 0: never ask.",
    ),
    _agent(
        "monitor-grace",
        "monitor.grace_seconds",
        "monitor.grace",
        SECONDS,
        300.0,
        "How long a directory of a container that is gone is kept.",
    ),
    _agent(
        "log-level",
        "log_level",
        "log.level",
        choice("debug", "info", "warning", "error"),
        "info",
        "The least important messages that are written.",
    ),
    _agent(
        "log-format",
        "log_format",
        "log.format",
        choice("auto", "console", "json"),
        "auto",
        "console for people, json for programs; auto looks for a terminal.",
    ),
    VERBOSITY,
    _hami("device-split-count", ("DEVICE_SPLIT_COUNT",), whole(1, 10_000), "deviceSplitCount"),
    _hami(
        "device-memory-scaling",
        ("DEVICE_MEMORY_SCALING",),
        number(0.01, 1000),
        "deviceMemoryScaling",
    ),
    _hami(
        "device-cores-scaling", ("DEVICE_CORES_SCALING",), number(0.01, 1000), "deviceCoreScaling"
    ),
    _hami("disable-core-limit", ("DISABLE_CORE_LIMIT",), FLAG, "disableCoreLimit"),
    _hami("resource-name", (), RESOURCE, "resourceCountName"),
)
