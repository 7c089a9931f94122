"""The table of options: every flag, alias and variable of the contracts is there and works."""

from __future__ import annotations

from typing import Any

import pytest

from deviceplugin.config import OPTIONS, Option, effective
from deviceplugin.health import HealthPolicy
from deviceplugin.probe.supervisor import Timing

# (flag and its aliases, variables, a value other than the default, what becomes of it)
CONTRACT: list[tuple[str, str, str, object]] = [
    ("--mig-strategy", "MIG_STRATEGY", "single", "single"),
    ("--fail-on-init-error", "FAIL_ON_INIT_ERROR", "false", False),
    ("--driver-root --nvidia-driver-root", "NVIDIA_DRIVER_ROOT", "/run/nvidia", "/run/nvidia"),
    ("--dev-root --nvidia-dev-root", "NVIDIA_DEV_ROOT", "/dev-root", "/dev-root"),
    ("--pass-device-specs", "PASS_DEVICE_SPECS", "true", True),
    (
        "--device-list-strategy",
        "DEVICE_LIST_STRATEGY",
        "volume-mounts,cdi-cri",
        ("volume-mounts", "cdi-cri"),
    ),
    ("--device-id-strategy", "DEVICE_ID_STRATEGY", "index", "index"),
    ("--gdrcopy-enabled", "GDRCOPY_ENABLED", "1", True),
    ("--gds-enabled", "GDS_ENABLED", "T", True),
    ("--mofed-enabled", "MOFED_ENABLED", "TRUE", True),
    ("--cdi-annotation-prefix", "CDI_ANNOTATION_PREFIX", "x.cdi.k8s.io/", "x.cdi.k8s.io/"),
    (
        "--nvidia-cdi-hook-path --nvidia-ctk-path",
        "NVIDIA_CDI_HOOK_PATH NVIDIA_CTK_PATH",
        "/x/ctk",
        "/x/ctk",
    ),
    (
        "--driver-root-ctr-path --container-driver-root",
        "DRIVER_ROOT_CTR_PATH CONTAINER_DRIVER_ROOT",
        "/ctr",
        "/ctr",
    ),
    ("--mps-root", "MPS_ROOT", "/mps", "/mps"),
    (
        "--shared-devices-allocation-policy",
        "SHARED_DEVICES_ALLOCATION_POLICY",
        "packed",
        "packed",
    ),
    ("--device-discovery-strategy", "DEVICE_DISCOVERY_STRATEGY", "nvml", "nvml"),
    ("--imex-channel-ids", "IMEX_CHANNEL_IDS", "0", (0,)),
    ("--imex-required", "IMEX_REQUIRED", "t", True),
    ("--cdi-feature-flags", "CDI_FEATURE_FLAGS", "a, b", ("a", "b")),
    ("--cdi-disable-hooks", "CDI_DISABLE_HOOKS", "all", ("all",)),
    ("--kubelet-socket", "KUBELET_SOCKET", "", ""),
    ("--hook-path", "HOOK_PATH", "/opt", "/opt"),
    ("--disable-health-checks", "DP_DISABLE_HEALTHCHECKS", "13,xids", ("13", "xids")),
    ("--enable-health-checks", "DP_ENABLE_HEALTHCHECKS", "all", ("all",)),
    ("--vendors", "DEVICEPLUGIN_VENDORS", "mock,nvidia", ("mock", "nvidia")),
    ("--allocation", "DEVICEPLUGIN_ALLOCATION", "standalone", "standalone"),
    ("--isolation", "DEVICEPLUGIN_ISOLATION", "none", "none"),
    ("--http-listen", "DEVICEPLUGIN_HTTP_LISTEN", "[::1]:0", "[::1]:0"),
    ("--log-level", "DEVICEPLUGIN_LOG_LEVEL", "error", "error"),
    ("--log-format", "DEVICEPLUGIN_LOG_FORMAT", "json", "json"),
    ("--run-dir", "DEVICEPLUGIN_RUN_DIR", "/r", "/r"),
    ("--probe-interval", "DEVICEPLUGIN_PROBE_INTERVAL", "1m30s", 90.0),
    ("--health-hold", "DEVICEPLUGIN_HEALTH_HOLD", "5", 5.0),
    ("--health-successes", "DEVICEPLUGIN_HEALTH_SUCCESSES", "7", 7),
]


def option(flag: str) -> Option:
    return next(option for option in OPTIONS if flag in option.flags)


@pytest.mark.parametrize(("flags", "variables", "text", "value"), CONTRACT)
def test_flags_aliases_and_variables_of_the_contract_take_effect(
    flags: str, variables: str, text: str, value: object, loader: Any
) -> None:
    found = option(flags.split()[0])
    assert set(flags.split()) == set(found.flags)
    assert effective(loader(argv={found.name: text}).config, found) == value
    for variable in variables.split():
        assert effective(loader(env={variable: text}).config, found) == value


def test_no_flag_variable_field_or_key_is_used_twice() -> None:
    for words in (
        [flag for option in OPTIONS for flag in option.flags],
        [name for option in OPTIONS for name in option.env],
        [option.field for option in OPTIONS if option.field],
        [option.key for option in OPTIONS if option.key],
        [option.vendor_key for option in OPTIONS if option.vendor_key],
        [option.name for option in OPTIONS],
    ):
        assert len(words) == len(set(words))


def test_every_default_is_allowed_by_its_own_rule() -> None:
    for found in OPTIONS:
        if found.default not in ("", None):
            assert found.kind.check(found.default) == found.default


def test_every_field_of_the_configuration_has_its_option_and_default(loader: Any) -> None:
    loaded = loader()
    for found in OPTIONS:
        if found.field:
            effective(loaded.config, found)
            assert (found.key or found.field) in loaded.provenance


def test_defaults_are_those_of_the_parts_that_they_steer(loader: Any) -> None:
    config = loader().config
    probe, health = config.probe, config.health
    assert Timing() == Timing(
        interval=probe.interval_seconds,
        deadline=probe.deadline_seconds,
        backoff_first=probe.backoff_first_seconds,
        backoff_most=probe.backoff_most_seconds,
    )
    assert HealthPolicy() == HealthPolicy(
        failures=health.failures,
        window=health.window,
        successes=health.successes,
        hold=health.hold_seconds,
        forget=health.forget_seconds,
        probe_failures=health.probe_failures,
    )


def test_the_first_of_two_variables_wins(loader: Any) -> None:
    env = {"NVIDIA_CTK_PATH": "/old", "NVIDIA_CDI_HOOK_PATH": "/new"}
    assert loader(env=env).config.paths.nvidia_cdi_hook_path == "/new"


@pytest.mark.parametrize("text", ["4", "=4"])
def test_the_verbosity_that_charts_pass_changes_nothing(text: str, loader: Any) -> None:
    assert loader(argv={"v": text}).config.log_level == "info"


def test_a_high_verbosity_means_debug_unless_a_level_is_given(loader: Any) -> None:
    assert loader(argv={"v": "=5"}).config.log_level == "debug"
    assert loader(argv={"v": "9", "log_level": "error"}).config.log_level == "error"


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_truth_is_written_as_go_reads_it(text: str, loader: Any) -> None:
    assert loader(env={"GDS_ENABLED": text}).config.gds_enabled is True
    assert (
        loader(argv={"fail_on_init_error": {"1": "0"}.get(text, "F")}).config.fail_on_init_error
        is False
    )


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("mig_strategy", "signle", "unknown value"),
        ("device_id_strategy", "UUID", "unknown value"),
        ("device_list_strategy", "envvar,cdi", '"cdi" is unknown value'),
        ("shared_devices_allocation_policy", "spread", "unknown value"),
        ("device_discovery_strategy", "nvidia", "unknown value"),
        ("imex_channel_ids", "1", "other channels than 0"),
        ("imex_channel_ids", "0,1", "other channels than 0"),
        ("imex_channel_ids", "zero", '"zero" is not a whole number'),
        ("gds_enabled", "yes", "not a truth value"),
        ("nvidia_driver_root", "run/nvidia", "not an absolute path"),
        ("mps_root", "/a\n/b", "has control characters"),
        ("cdi_annotation_prefix", "cdi.k8s.io", "not the prefix of an annotation"),
        ("http_listen", "9400", "no host:port"),
        ("http_listen", "::1:9400", "no host:port"),
        ("http_listen", "host:99999", "no host:port"),
        ("probe_interval", "0", "not positive"),
        ("probe_interval", "soon", "not a time"),
        ("probe_deadline", "-1s", "not a time"),
        ("health_hold", "-1", "out of range"),
        ("health_window", "0", "out of range"),
        ("health_window", "2.5", "not a whole number"),
        ("v", "loud", "not a whole number"),
        ("node_name", "\t", "has control characters"),
        ("device_split_count", "0", "out of range"),
        ("device_memory_scaling", "nan", "not a number"),
        ("device_memory_scaling", "1e999", "out of range"),
        ("resource_name", "gpu", "not a resource name"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_refused_by_name_value_rule_and_remedy(
    name: str, text: str, rule: str, loader: Any
) -> None:
    problem = loader.problem(
        argv={name: text}, env={"NODE_NAME": ""} if name == "node_name" else {}
    )
    flag = next(option.flags[0] for option in OPTIONS if option.name == name)
    assert (problem.source, problem.path, problem.value) == ("command line", flag, text)
    assert problem.rule == rule
    assert problem.remedy
    assert flag in str(problem)


def test_a_wrong_variable_is_refused_by_its_name(loader: Any) -> None:
    problem = loader.problem(env={"CONTAINER_DRIVER_ROOT": "here"})
    assert (problem.source, problem.path) == ("environment", "CONTAINER_DRIVER_ROOT")
    assert problem.value == "here"
