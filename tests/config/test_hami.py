"""HAMi's half: the section nvidia, HAMi's flags below it, config.json above it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.hami_config import (
    FilterDevices,
    MigProfile,
    NodeOverride,
    NvidiaSection,
    merge_overrides,
    parse_node_overrides,
    parse_nvidia_section,
    section_values,
)

CHART = {
    "resourceCountName": "nvidia.com/gpu",
    "resourceMemoryName": "nvidia.com/gpumem",
    "resourceMemoryPercentageName": "nvidia.com/gpumem-percentage",
    "resourceCoreName": "nvidia.com/gpucores",
    "resourcePriorityName": "nvidia.com/priority",
    "overwriteEnv": False,
    "defaultMemory": 0,
    "defaultCores": 0,
    "defaultGPUNum": 1,
    "memoryFactor": 1,
    "deviceSplitCount": 10,
    "deviceMemoryScaling": 1,
    "deviceCoreScaling": 1,
    "gpuCorePolicy": "default",
    "runtimeClassName": "",
    "knownMigGeometries": [],
}


def overrides(*entries: dict[str, Any]) -> str:
    return json.dumps({"nodeconfig": list(entries)})


def nvidia(loaded: Any) -> NvidiaSection:
    section, problems = parse_nvidia_section(loaded.config.sections["nvidia"])
    assert problems == ()
    return section


def test_the_charts_defaults_are_ours() -> None:
    assert parse_nvidia_section(CHART) == (NvidiaSection(), ())


def test_what_upstream_crashes_without_has_a_default() -> None:
    section, _ = parse_nvidia_section({})
    assert (section.device_split_count, section.device_memory_scaling) == (10, 1.0)
    assert (section.device_core_scaling, section.lib_cuda_log_level) == (1.0, "")


@pytest.mark.parametrize(
    ("written", "level"), [("3", "3"), (3, "3"), (0, "0"), ("", ""), (None, "")]
)
def test_the_log_level_of_libcuda_may_be_a_number(written: object, level: str) -> None:
    section, problems = parse_nvidia_section({"libCudaLogLevel": written})
    assert (section.lib_cuda_log_level, problems) == (level, ())


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("libCudaLogLevel", 7, "unknown value"),
        ("libCudaLogLevel", True, "not a text"),
        ("deviceSplitCount", 0, "out of range"),
        ("deviceSplitCount", "10", "not a whole number"),
        ("deviceSplitCount", 1.5, "not a whole number"),
        ("deviceMemoryScaling", "1.5", "not a number"),
        ("deviceMemoryScaling", 0, "out of range"),
        ("deviceCoreScaling", -1, "out of range"),
        ("disableCoreLimit", "false", "not a truth value"),
        ("gpuCorePolicy", "forced", "unknown value"),
        ("defaultCores", 101, "out of range"),
        ("resourceCountName", "gpu", "not a resource name"),
        ("resourceCountName", "nvidia.com/" + "g" * 60, "71 characters, of 63 allowed"),
        ("preConfiguredDeviceMemory", -1, "out of range"),
        ("operatingMode", "core", "unknown value"),
        ("filterDevices", {"uuids": []}, "unknown key 'uuids'"),
        ("filterDevices", {"index": ["0"]}, '"0" is not a whole number'),
        ("filterDevices", ["GPU-1"], "not a mapping"),
        ("allowDisableControl", 1, "not a truth value"),
    ],
)  # fmt: skip
def test_a_wrong_value_of_the_section_is_told_at_its_key(
    key: str, value: object, rule: str
) -> None:
    _, (problem,) = parse_nvidia_section({key: value}, "file")
    assert (problem.path, problem.value, problem.rule) == (f"nvidia.{key}", value, rule)


def profile(name: str, count: int, core: int = 14, memory: int = 5120) -> dict[str, object]:
    return {"name": name, "core": core, "memory": memory, "count": count}


def geometry(*profiles: dict[str, object]) -> dict[str, object]:
    return {"knownMigGeometries": [{"models": ["A100"], "allowedGeometries": [list(profiles)]}]}


def test_mig_geometries_keep_their_order() -> None:
    section, problems = parse_nvidia_section(
        geometry(profile("1g.5gb", 1), profile("2g.10gb", 3, 28, 10240))
    )
    assert problems == ()
    (row,) = section.known_mig_geometries
    assert row.models == ("A100",)
    assert row.geometries == (
        (MigProfile("1g.5gb", 14, 5120, 1), MigProfile("2g.10gb", 28, 10240, 3)),
    )
    assert section_values(section)["knownMigGeometries"] == [("A100",)]


def test_a_geometry_that_two_readings_place_differently_is_refused() -> None:
    _, (problem,) = parse_nvidia_section(geometry(profile("1g", 2), profile("2g", 2)))
    assert problem.path == "nvidia.knownMigGeometries[0].allowedGeometries[0]"
    assert "name different instances" in problem.rule


@pytest.mark.parametrize(
    ("table", "path", "rule"),
    [
        ([{"allowedGeometries": [[profile("a", 1)]]}], "[0].models", "missing"),
        ([{"models": ["x"]}], "[0].allowedGeometries", "not a list of partitionings"),
        ([{"models": ["x"], "allowedGeometries": [[]]}], "[0].allowedGeometries[0]",
         "an empty partitioning"),
        ([{"models": ["x"], "allowedGeometries": [{}]}], "[0].allowedGeometries[0]", "not a list"),
        ([{"models": ["x"], "allowedGeometries": [["1g"]]}], "[0].allowedGeometries[0][0]",
         "not a mapping"),
        ([{"models": ["x"], "allowedGeometries": [[{**profile("a", 1), "cores": 3}]]}],
         "[0].allowedGeometries[0][0].cores", "unknown key, ignored"),
        ([{"models": ["x"], "allowedGeometries": [[profile("a", 0)]]}],
         "[0].allowedGeometries[0][0].count", "out of range"),
        ([{"models": ["x"], "allowedGeometries": [[{"name": "a", "core": 1, "count": 1}]]}],
         "[0].allowedGeometries[0][0].memory", "missing"),
        ({}, "", "not a list"),
    ],
)  # fmt: skip
def test_a_wrong_geometry_is_told_at_its_place(table: object, path: str, rule: str) -> None:
    _, (problem,) = parse_nvidia_section({"knownMigGeometries": table})
    assert (problem.path, problem.rule) == (f"nvidia.knownMigGeometries{path}", rule)


# --- flags that HAMi ignores -------------------------------------------------------------------

IGNORED = [
    ("device_split_count", "DEVICE_SPLIT_COUNT", "3", "deviceSplitCount", 3, 5),
    ("device_memory_scaling", "DEVICE_MEMORY_SCALING", "1.5", "deviceMemoryScaling", 1.5, 2.0),
    ("device_cores_scaling", "DEVICE_CORES_SCALING", "2", "deviceCoreScaling", 2.0, 3.0),
    ("disable_core_limit", "DISABLE_CORE_LIMIT", "true", "disableCoreLimit", True, False),
    ("resource_name", None, "a.io/x", "resourceCountName", "a.io/x", "b.io/y"),
]


@pytest.mark.parametrize(("name", "variable", "text", "key", "value", "other"), IGNORED)
def test_a_flag_that_hami_ignores_fills_what_the_file_lacks_and_nothing_else(
    name: str, variable: str | None, text: str, key: str, value: object, other: object, loader: Any
) -> None:
    assert "nvidia" not in loader().config.sections
    loaded = loader("nvidia: {}", argv={name: text})
    assert loaded.config.sections["nvidia"] == {key: value}
    assert loaded.provenance[f"nvidia.{key}"].startswith("--")
    if variable:
        assert loader(env={variable: text}).config.sections["nvidia"] == {key: value}
    in_file = loader(json.dumps({"nvidia": {key: other}}), argv={name: text})
    assert in_file.config.sections["nvidia"] == {key: other}
    assert in_file.provenance[f"nvidia.{key}"] == "/etc/agent.yaml"


# --- config.json -------------------------------------------------------------------------------


def test_an_override_beats_the_file_and_every_flag_that_hami_ignores(loader: Any) -> None:
    loaded = loader(
        "nvidia: {deviceSplitCount: 4, deviceMemoryScaling: 1.5}",
        argv={"device_split_count": "3"},
        config_json=overrides(
            {
                "name": "node-a",
                "operatingmode": "mig",
                "devicesplitcount": 7,
                "devicecorescaling": 2,
                "libcudaloglevel": 3,
                "filterdevices": {"uuid": ["GPU-1"], "index": [0, 2]},
            }
        ),
    )
    section = nvidia(loaded)
    assert (section.device_split_count, section.device_memory_scaling) == (7, 1.5)
    assert (section.device_core_scaling, section.lib_cuda_log_level) == (2.0, "3")
    assert section.operating_mode == "mig"
    assert section.filter_devices == FilterDevices(("GPU-1",), (0, 2))
    assert loaded.provenance["nvidia.deviceSplitCount"] == "/etc/config.json"
    assert loaded.provenance["nvidia.deviceMemoryScaling"] == "/etc/agent.yaml"
    assert loaded.warnings == ()


def test_hidden_devices_are_hidden_by_uuid_or_index() -> None:
    hidden = FilterDevices(("GPU-1",), (2,))
    assert hidden.hides("GPU-1", 0)
    assert hidden.hides("GPU-9", 2)
    assert not hidden.hides("GPU-", 1)


def test_zero_and_empty_count_as_not_given(loader: Any) -> None:
    entry = {"name": "node-a", "operatingmode": "", "devicesplitcount": 0, "devicecorescaling": 0.0,
             "devicememoryscaling": 0, "libcudaloglevel": "", "migstrategy": ""}  # fmt: skip
    loaded = loader("nvidia: {deviceSplitCount: 4}", config_json=overrides(entry))
    assert loaded.config.sections["nvidia"] == {"deviceSplitCount": 4}


def test_a_false_flag_of_an_override_is_given(loader: Any) -> None:
    text = "nvidia: {enableNumaTopology: true}"
    entry = {"name": "node-a", "enablenumatopology": False}
    assert not nvidia(loader(text, config_json=overrides(entry))).enable_numa_topology


def test_several_entries_of_a_node_apply_in_order(loader: Any) -> None:
    loaded = loader(
        config_json=overrides(
            {"name": "node-a", "devicesplitcount": 2, "devicememoryscaling": 2},
            {"name": "node-b", "devicesplitcount": 9},
            {"name": "node-a", "devicesplitcount": 3},
        )
    )
    section = nvidia(loaded)
    assert (section.device_split_count, section.device_memory_scaling) == (3, 2.0)


def test_entries_of_other_nodes_neither_apply_nor_refuse(loader: Any) -> None:
    entry = {"name": "node-ab", "devicesplitcount": "many", "what": 1}
    loaded = loader(config_json=overrides(entry))
    assert loaded.config == loader().config
    assert loaded.warnings == ()


def test_keys_of_config_json_are_read_in_any_case(loader: Any) -> None:
    text = json.dumps({"nodeConfig": [{"Name": "node-a", "deviceSplitCount": 6}]})
    assert nvidia(loader(config_json=text)).device_split_count == 6


def test_the_mig_strategy_of_config_json_is_never_applied(loader: Any) -> None:
    entry = {"name": "node-a", "migstrategy": "mixed"}
    loaded = loader("flags: {migStrategy: single}", config_json=overrides(entry))
    assert loaded.config.mig_strategy == "single"
    (warning,) = loaded.warnings
    assert (warning.source, warning.value) == ("/etc/config.json", "mixed")
    same = {"name": "node-a", "migstrategy": "single"}
    assert loader("flags: {migStrategy: single}", config_json=overrides(same)).warnings == ()


def test_oddities_of_config_json_are_warnings(loader: Any) -> None:
    text = overrides({"name": "node-a", "devicesplitcnt": 3}, {"devicesplitcount": 3})
    found = [(warning.path, warning.remedy) for warning in loader(config_json=text).warnings]
    assert found == [
        ("nodeconfig[0].devicesplitcnt", "did you mean devicesplitcount?"),
        ("nodeconfig[1]", "add the node's name"),
    ]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"nodeconfig": {}}', "nodeconfig"),
        ('{"nodeconfig": ["node-a"]}', "nodeconfig[0]"),
        ('{"nodeconfig": [{"name": "node-a", "filterdevices": {"uid": []}}]}',
         "nodeconfig[0].filterdevices"),
        ('{"nodeconfig": [{"name": "node-a", "operatingmode": "mgi"}]}',
         "nodeconfig[0].operatingmode"),
        ("[]", ""),
        ('{"nodeconfig": [', ""),
    ],
)  # fmt: skip
def test_a_wrong_config_json_is_refused_where_upstream_would_go_on_without_it(
    text: str, path: str, loader: Any
) -> None:
    problem = loader.problem(config_json=text)
    assert (problem.source, problem.path) == ("/etc/config.json", path)


def test_without_config_json_there_are_no_overrides(loader: Any) -> None:
    loaded = loader("nvidia: {deviceSplitCount: 4}")
    assert loaded.files == ("/etc/agent.yaml", "/config/config.json")
    assert nvidia(loaded).operating_mode == "hami-core"


MODE_MPS = '{"nodeconfig": [{"name": "node-a", "operatingmode": "mps"}]}'


@pytest.mark.parametrize(
    ("text", "config_json", "source"),
    [
        ("nvidia: {deviceSplitCount: 4}", MODE_MPS, "/etc/config.json"),
        ("nvidia: {deviceSplitCount: 4, operatingMode: mps}", "", "/etc/agent.yaml"),
    ],
    ids=["for-a-node", "for-all"],
)
def test_hamis_mode_mps_is_explained_until_the_operator_says_what_is_meant(
    text: str, config_json: str, source: str, loader: Any
) -> None:
    more = {"config_json": config_json} if config_json else {}
    (warning,) = loader(text, **more).warnings
    assert (warning.source, warning.path, warning.value) == (source, "nvidia.operatingMode", "mps")
    assert "limits are kept by libvgpu" in warning.rule
    assert "hami-core" in warning.remedy
    assert "nvidia.mpsLimits: true" in warning.remedy
    meant = loader(text.replace("}", ", mpsLimits: true}"), **more)
    assert meant.warnings == ()
    assert (nvidia(meant).operating_mode, nvidia(meant).mps_limits) == ("mps", True)


@given(
    st.builds(
        NodeOverride,
        name=st.just("n"),
        operating_mode=st.none() | st.sampled_from(["hami-core", "mig", "mps"]),
        device_memory_scaling=st.none() | st.floats(0.01, 1000),
        device_split_count=st.none() | st.integers(1, 10_000),
        device_core_scaling=st.none() | st.floats(0.01, 1000),
        lib_cuda_log_level=st.none() | st.sampled_from("01234"),
        filter_devices=st.none()
        | st.builds(
            FilterDevices,
            st.lists(st.sampled_from(["GPU-1", "GPU-2"]), unique=True).map(tuple),
            st.lists(st.integers(0, 15), unique=True).map(tuple),
        ),
        enable_numa_topology=st.none() | st.booleans(),
    )
)
def test_every_override_arrives_in_the_section_and_leaves_the_rest_alone(
    override: NodeOverride,
) -> None:
    before, _ = parse_nvidia_section(CHART)
    after, problems = parse_nvidia_section(merge_overrides(CHART, [override]))
    assert problems == ()
    for name in NodeOverride.__dataclass_fields__:
        if name in ("name", "mig_strategy"):
            continue
        wanted = getattr(override, name)
        assert getattr(after, name) == (getattr(before, name) if wanted is None else wanted)
    assert after.known_mig_geometries == before.known_mig_geometries


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["nodeconfig", "name", "filterdevices"]),
                                      inner, max_size=3), max_leaves=12))  # fmt: skip
def test_the_parsers_never_raise(data: Any) -> None:
    document = data if isinstance(data, dict) else {"nodeconfig": data}
    parse_node_overrides(document, "n", "s")
    parse_nvidia_section({"knownMigGeometries": data, "filterDevices": data})
