"""Sources and their order, whole files, and all problems at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.config import OPTIONS, ConfigError, effective, load, vendor_settings
from deviceplugin.config.parse import config_files
from deviceplugin.vendor import Replicas, Sharing

NVIDIA_SAMPLE = """
version: v1
flags:
  migStrategy: none
  failOnInitError: true
  mpsRoot: ""
  nvidiaDriverRoot: /run/nvidia/driver
  nvidiaDevRoot: ""
  gdrcopyEnabled: false
  gdsEnabled: false
  mofedEnabled: false
  useNodeFeatureAPI: true
  deviceDiscoveryStrategy: auto
  plugin:
    passDeviceSpecs: true
    deviceListStrategy: [envvar, cdi-cri, envvar]
    deviceIDStrategy: index
    cdiAnnotationPrefix: cdi.k8s.io/
    nvidiaCTKPath: /usr/bin/nvidia-ctk
    containerDriverRoot: /driver-root
    sharedDevicesAllocationPolicy: packed
  gfd:
    oneshot: false
    noTimestamp: false
    sleepInterval: 60s
    outputFile: /etc/features.d/gfd
    machineTypeFile: /sys/class/dmi/id/product_name
imex:
  channelIDs: [0]
  required: false
nvidia:
  resourceCountName: nvidia.com/gpu
  deviceSplitCount: 4
  knownMigGeometries:
  - models: [A30]
    allowedGeometries:
    - [{name: 1g.6gb, core: 25, memory: 6144, count: 4}]
hygon: {resourceCountName: hygon.com/dcunum}
vnpus:
- {chipName: 910A, commonWord: Ascend910A}
"""


def test_one_file_carries_both_halves(loader: Any) -> None:
    loaded = loader(NVIDIA_SAMPLE)
    config = loaded.config
    assert loaded.warnings == ()
    assert config.device_list_strategy == ("envvar", "cdi-cri")
    assert (config.device_id_strategy, config.pass_device_specs) == ("index", True)
    assert (config.allocation_policy, config.imex_channel_ids) == ("packed", (0,))
    assert config.paths.driver_root == config.paths.dev_root == "/run/nvidia/driver"
    assert config.paths.mps_root == ""
    assert config.sections["nvidia"]["deviceSplitCount"] == 4
    assert config.sections["hygon"] == {"resourceCountName": "hygon.com/dcunum"}
    assert config.sections["vnpus"]["vnpus"][0]["chipName"] == "910A"
    assert config.uses_cdi


def test_json_is_as_good_as_yaml(loader: Any) -> None:
    text = json.dumps({"version": "v1", "flags": {"migStrategy": "single"}, "nvidia": {}}, indent=1)
    assert loader(text).config.mig_strategy == "single"


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "version:", "version: ''", "flags:\nnvidia:\n"]
)
def test_an_empty_file_means_the_defaults(text: str, loader: Any) -> None:
    assert loader(text).config == loader().config


def test_every_key_of_the_file_takes_effect(loader: Any) -> None:
    for option in OPTIONS:
        if not option.key:
            continue
        value: Any = option.default
        if value is True or value is False:
            value = not value
        elif isinstance(value, int | float):
            value = value + 1
        elif option.kind.form == "path":
            value = "/elsewhere"
        elif "|" in option.kind.form:
            value = option.kind.form.split("|")[-1]
        elif option.field == "imex_channel_ids":
            value = [0]
        elif option.kind.form == "host:port":
            value = "[::]:1"
        elif option.kind.several:
            value = ["x"]
        else:
            value = "x/"
        document: Any = value
        for part in reversed(option.key.split(".")):
            document = {part: document}
        extra: dict[str, str] = {}
        if option.field == "allocation":
            extra = {"DEVICE_LIST_STRATEGY": "cdi-cri"}
        if option.field == "health.failures":
            extra = {"DEVICEPLUGIN_HEALTH_WINDOW": "9"}
        loaded = loader(json.dumps(document), env=extra)
        assert loaded.warnings == ()
        assert effective(loaded.config, option) == option.kind.check(value) != option.default
        assert loaded.provenance[option.key] == "/etc/agent.yaml"


SOURCES = ("argv", "env", "file")
choices = st.sampled_from(["none", "single", "mixed"])


@given(st.dictionaries(st.sampled_from(SOURCES), choices))
def test_command_line_beats_environment_beats_file_beats_default(
    shared_loader: Any, given_by: dict[str, str]
) -> None:
    loaded = shared_loader(
        json.dumps({"flags": {"migStrategy": given_by["file"]}}) if "file" in given_by else "",
        argv={"mig_strategy": given_by.get("argv")},
        env={"MIG_STRATEGY": given_by["env"]} if "env" in given_by else {},
    )
    first = next((source for source in SOURCES if source in given_by), None)
    assert loaded.config.mig_strategy == (given_by[first] if first else "none")
    assert (
        loaded.provenance["flags.migStrategy"]
        == {
            "argv": "--mig-strategy",
            "env": "MIG_STRATEGY (environment)",
            "file": "/etc/agent.yaml",
            None: "default",
        }[first]
    )


def test_flags_that_were_not_given_hide_nothing(loader: Any) -> None:
    argv = {option.name: () if option.kind.several else None for option in OPTIONS}
    assert loader(NVIDIA_SAMPLE, argv=argv) == loader(NVIDIA_SAMPLE)


def test_an_empty_variable_counts_as_not_given(loader: Any) -> None:
    env = dict.fromkeys(("MIG_STRATEGY", "GDS_ENABLED", "DEVICE_LIST_STRATEGY", "MPS_ROOT"), "")
    assert loader(env=env).config == loader().config


def test_empty_is_a_value_where_it_switches_something_off(loader: Any) -> None:
    config = loader(env={"KUBELET_SOCKET": "", "DEVICEPLUGIN_HTTP_LISTEN": ""}).config
    assert (config.paths.kubelet_socket, config.http_listen) == ("", "")
    assert config.paths.plugin_dir == "/var/lib/kubelet/device-plugins"
    assert loader("agent: {http: {listen: ''}}").config.http_listen == ""


def test_typed_values_of_a_caller_are_taken_as_they_are(loader: Any) -> None:
    config = loader(argv={"gds_enabled": True, "health_hold": 5, "vendors": ("a", "b,c")}).config
    assert (config.gds_enabled, config.health.hold_seconds) == (True, 5.0)
    assert config.vendors == ("a", "b", "c")


def test_the_plugin_directory_follows_the_kubelet_socket(loader: Any) -> None:
    assert loader(env={"KUBELET_SOCKET": "/k/kubelet.sock"}).config.paths.plugin_dir == "/k"


@pytest.mark.parametrize(
    ("env", "argv", "name"),
    [
        ({"NODE_NAME": "a", "NodeName": "b"}, {"node_name": "c"}, "a"),
        ({"NODE_NAME": "", "NodeName": "b"}, {"node_name": "c"}, "c"),
        ({"NODE_NAME": "", "NodeName": "b"}, {}, "b"),
        ({"NODE_NAME": ""}, {}, "host-name"),
    ],
)
def test_the_node_is_named_by_NODE_NAME_then_the_flag_that_hami_ignores_then_the_host(
    env: dict[str, str], argv: dict[str, object], name: str, loader: Any
) -> None:
    assert loader(env=env, argv=argv).config.node_name == name


def test_a_node_name_that_is_not_used_is_a_warning(loader: Any) -> None:
    (warning,) = loader(argv={"node_name": "other"}).warnings
    assert (warning.path, warning.value) == ("--node-name", "other")
    assert "node-a" in warning.rule


def test_all_problems_are_told_at_once(loader: Any) -> None:
    problems = loader.problems(
        """
        version: v2
        flags: {failOnInitError: "true", migStrategy: 3, gfd: {oneshot: 1}, plugin: []}
        sharing: {mps: {resources: []}}
        nvidia: {deviceSplitCount: "10"}
        kunlun: 5
        agent: {probe: {interval: []}}
        """,
        argv={"log_level": "loud"},
        env={"IMEX_REQUIRED": "perhaps"},
        config_json='{"nodeconfig": [{"name": "node-a", "devicesplitcount": -1}]}',
    )
    assert {problem.path for problem in problems} == {
        "version",
        "flags.failOnInitError",
        "flags.migStrategy",
        "flags.gfd.oneshot",
        "flags.plugin",
        "sharing.mps.resources",
        "nvidia.deviceSplitCount",
        "kunlun",
        "agent.probe.interval",
        "--log-level",
        "IMEX_REQUIRED",
        "nodeconfig[0].devicesplitcount",
    }
    assert all(problem.rule and problem.remedy for problem in problems)
    assert len({str(problem) for problem in problems}) == len(problems)


def test_a_problem_says_file_key_value_rule_and_remedy(loader: Any) -> None:
    text = str(loader.problem("flags: {plugin: {passDeviceSpecs: 'true'}}"))
    assert text == (
        '/etc/agent.yaml: flags.plugin.passDeviceSpecs = "true": not a truth value; '
        "write true or false, without quotes"
    )


@pytest.mark.parametrize(
    ("text", "path", "remedy"),
    [
        ("flags: {migStratgy: none}", "flags.migStratgy", "did you mean migStrategy?"),
        ("flags: {plugin: {deviceIdStrategy: uuid}}", "flags.plugin.deviceIdStrategy",
         "did you mean deviceIDStrategy?"),
        ("agent: {loging: {}}", "agent.loging", "did you mean log?"),
        ("imex: {channels: []}", "imex.channels", "did you mean channelIDs?"),
        ("nvidia: {deviceSplitcount: 3}", "nvidia.deviceSplitcount",
         "did you mean deviceSplitCount?"),
        ("shraing: {}", "shraing", "did you mean sharing?"),
        ("loglevel: debug", "loglevel", "known are version"),
        ("sharing: {timeslicing: {}}", "sharing.timeslicing", "did you mean timeSlicing?"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_a_warning_with_the_nearest_name(
    text: str, path: str, remedy: str, loader: Any
) -> None:
    (warning,) = loader(text).warnings
    assert warning.path == path
    assert warning.remedy.startswith(remedy)


def test_the_section_of_a_strangers_vendor_is_kept_without_a_word(loader: Any) -> None:
    loaded = loader("acme: {speed: 11}")
    assert loaded.warnings == ()
    assert loaded.config.sections["acme"] == {"speed": 11}


def test_an_installed_vendor_is_no_typing_mistake_of_another() -> None:
    texts = {"f": "nvidiax: {a: 1}"}
    argv = {"config_file": "f", "config_json": ""}
    assert len(load(argv, {}, read=texts.__getitem__).warnings) == 1
    assert load(argv, {}, read=texts.__getitem__, vendor_names=["nvidiax"]).warnings == ()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a: [", "neither YAML nor JSON"),
        ("{'a': ", "neither YAML nor JSON"),
        ("- a\n- b", "not a mapping at the top"),
        ("just words", "not a mapping at the top"),
        ("flags: {migStrategy: none, migStrategy: single}", "stands twice"),
        ("version: v1\nflags: {}\nversion: v1", "line 3: the key"),
        ('{"flags": {}, "flags": {}}', "stands twice"),
        ("nvidia: {a: .inf}", "not a finite number"),
        ("nvidia: {a: !!binary aGk=}", "a value that JSON does not have"),
        ("nvidia: {[1, 2]: 3}", "a key that is no text"),
        ("nvidia: {1.5: 3}", "a key that is no text"),
        ('{"nvidia": {"a": "\\ud800"}}', "not Unicode"),
        ("nvidia: {a: 99999999999999999999}", "a number beyond 64 bits"),
        ("nvidia: &a {b: *a}", "nested deeper"),
        ("nvidia: " + "[" * 5000 + "]" * 5000, "nested deeper"),
        ("a: !!python/object:os.system {}", "neither YAML nor JSON"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_plain_mapping_is_refused(text: str, rule: str, loader: Any) -> None:
    problems = loader.problems(text)
    assert any(rule in problem.rule for problem in problems)
    assert all(problem.source == "/etc/agent.yaml" for problem in problems)


def test_an_anchor_used_often_costs_nothing(loader: Any) -> None:
    lines = ["nvidia:", "  a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 15)]
    section = loader("\n".join(lines)).config.sections["nvidia"]
    assert section["a14"][0] is section["a14"][8]


def test_dates_and_merge_keys_are_read_as_kubernetes_reads_them(loader: Any) -> None:
    text = "base: &b {day: 2024-01-01}\nacme: {<<: *b, 1: x, true: y}"
    assert loader(text).config.sections["acme"] == {"day": "2024-01-01", "1": "x", "true": "y"}


def test_a_named_file_that_is_missing_is_a_problem(loader: Any) -> None:
    for variable in ("CONFIG_FILE", "CONFIG_JSON"):
        problem = loader.problem(env={variable: "/nowhere"})
        assert (problem.source, problem.rule) == ("/nowhere", "no such file")


def test_files_are_read_from_disk(write: Any, tmp_path: Any) -> None:
    path = write("agent.yaml", "flags: {migStrategy: mixed}")
    loaded = load({"config_file": str(path), "config_json": ""}, {})
    assert loaded.config.mig_strategy == "mixed"
    assert loaded.files == (str(path),)
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory"):
        load({"config_file": str(tmp_path), "config_json": ""}, {})
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"not UTF-8"):
        load({"config_file": str(path), "config_json": ""}, {})


def test_the_files_to_watch_are_known_before_loading() -> None:
    assert config_files({"config_file": "a"}, {"CONFIG_JSON": "b"}) == ("a", "b")
    assert config_files({}, {}) == ("/config/config.json",)


def test_a_vendor_gets_its_section_the_options_and_the_sharing(loader: Any) -> None:
    config = loader(
        """
        nvidia: {deviceSplitCount: 3}
        flags: {migStrategy: single, nvidiaDriverRoot: /d}
        sharing: {timeSlicing: {renameByDefault: true, resources: [{name: gpu, replicas: 4}]}}
        agent: {isolation: none, paths: {hostRoot: /host}}
        """
    ).config
    settings = vendor_settings(config, "nvidia")
    assert settings.section == {"deviceSplitCount": 3}
    assert settings.options["migStrategy"] == "single"
    assert settings.options["nvidiaDriverRoot"] == settings.options["nvidiaDevRoot"] == "/d"
    assert (settings.host_root, settings.enforce_isolation) == ("/host", False)
    assert settings.sharing == {
        "nvidia.com/gpu": Replicas(4, Sharing.TIME_SLICING, "nvidia.com/gpu.shared", False)
    }
    assert vendor_settings(config, "acme").section == {}


# --- nothing but ConfigError -------------------------------------------------------------------

keys = st.one_of(
    st.sampled_from(
        ["version", "flags", "plugin", "gfd", "resources", "gpus", "sharing", "timeSlicing", "mps",
         "imex", "agent", "nvidia", "vnpus", "knownMigGeometries", "allowedGeometries", "models",
         "name", "replicas", "devices", "rename", "nodeconfig", "filterdevices", "uuid",
         *(part for option in OPTIONS for part in option.key.split(".")),
         "deviceSplitCount", "deviceMemoryScaling", "devicesplitcount", "libCudaLogLevel"]
    ),
    st.text(max_size=4),
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(["node-a", "cdi-cri", "envvar", "nvidia.com/gpu", "/x", "v1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=25,
)  # fmt: skip
documents = st.dictionaries(keys, values, max_size=6)


@given(documents, documents, st.dictionaries(st.sampled_from([o.name for o in OPTIONS]), values))
def test_whatever_is_written_the_answer_is_a_configuration_or_its_problems(
    shared_loader: Any, file: Any, overrides: Any, argv: dict[str, Any]
) -> None:
    argv.pop("config_file", None)
    argv.pop("config_json", None)
    entries = [{"name": "node-a", **overrides}]
    try:
        loaded = shared_loader(
            json.dumps(file), argv=argv, config_json=json.dumps({"nodeconfig": entries})
        )
    except ConfigError as error:
        assert all(problem.rule and problem.remedy for problem in error.problems)
        assert str(error)
    else:
        assert loaded.config.node_name


@given(st.text(max_size=60))
def test_whatever_text_is_in_the_file(shared_loader: Any, text: str) -> None:
    try:
        shared_loader(text)
    except ConfigError as error:
        assert error.problems
