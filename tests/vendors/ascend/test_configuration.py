"""The shared section in both shapes, our own, and what is wrong with them (A.2.2, A.2.3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.config import load, settings_of
from deviceplugin.registry import load as load_vendors
from deviceplugin.vendor.scheduling import SchedulingSettings
from deviceplugin.vendors.ascend.chips import DEFAULT_CHIPS, Template
from deviceplugin.vendors.ascend.configuration import configured
from deviceplugin.vendors.ascend.scheduling import backends

ENTRY = yaml.safe_load("""
chipName: 910B3
commonWord: Ascend910B3
resourceName: huawei.com/Ascend910B3
resourceMemoryName: huawei.com/Ascend910B3-memory
memoryAllocatable: 65536
memoryCapacity: 65536
memoryFactor: 1
aiCore: 20
aiCPU: 7
templates:
  - {name: vir10_3c_32g, memory: 32768, aiCore: 10, aiCPU: 3}
  - {name: vir05_1c_16g, memory: 16384, aiCore: 5, aiCPU: 1}
""")
NEWER = {
    **ENTRY,
    "resourceCoreName": "huawei.com/Ascend910B3-core",
    "runtimeClassName": "ascend",
    "overwriteEnv": True,
    "superPod": False,
}


def changed(**fields: Any) -> dict[str, Any]:
    return {"vnpus": [{**ENTRY, **fields}]}


def test_without_a_section_the_table_is_that_of_the_charts() -> None:
    assert configured({}).chips == DEFAULT_CHIPS


def test_both_shapes_say_the_same() -> None:
    as_list = configured({"vnpus": [ENTRY]})
    as_mapping = configured({"vnpus": {"hamiVnpuCore": False, "configs": [ENTRY]}})
    assert as_list.chips == as_mapping.chips
    assert (as_list.soft_slicing, as_mapping.soft_slicing) == (None, False)
    assert not (as_list.warnings + as_list.errors + as_mapping.warnings + as_mapping.errors)


def test_templates_are_sorted_by_memory() -> None:
    (chip,) = configured({"vnpus": [ENTRY]}).chips
    assert chip.templates == (
        Template("vir05_1c_16g", 16384, 5, 1),
        Template("vir10_3c_32g", 32768, 10, 3),
    )


def test_what_newer_versions_added_is_read() -> None:
    (chip,) = configured({"vnpus": [NEWER]}).chips
    assert (chip.core_resource, chip.runtime_class) == ("huawei.com/Ascend910B3-core", "ascend")
    assert (chip.overwrite_env, chip.super_pod) == (True, False)


def test_a_former_key_means_nothing_and_is_no_mistake() -> None:
    found = configured(changed(topologyPairs=["1,2,3,4,5,6,7", "0,2,3,4,5,6,7"]))
    assert found.chips == configured({"vnpus": [ENTRY]}).chips
    assert found.warnings == ()


def test_an_unknown_key_is_ignored_with_a_word() -> None:
    found = configured(changed(memoryFaktor=2))
    assert len(found.chips) == 1
    assert [str(w) for w in found.warnings] == [
        "configuration: vnpus[0].memoryFaktor: unknown key, ignored; did you mean memoryFactor?"
    ]


@pytest.mark.parametrize("factor", [0, 1])
def test_a_factor_of_nothing_is_one(factor: int) -> None:
    (chip,) = configured(changed(memoryFactor=factor)).chips
    assert chip.memory_factor == 1


@pytest.mark.parametrize(
    ("fields", "key", "rule"),
    [
        ({"memoryAllocatable": "64Gi"}, "vnpus[0].memoryAllocatable", "not a whole number"),
        ({"memoryAllocatable": 2**40}, "vnpus[0].memoryAllocatable", "out of range"),
        ({"memoryCapacity": 1}, "vnpus[0].memoryCapacity", "less than memoryAllocatable"),
        ({"resourceName": "Ascend910B3"}, "vnpus[0].resourceName", "not a resource name"),
        ({"commonWord": "Ascend 910"}, "vnpus[0].commonWord", "no name that fits"),
        ({"commonWord": "A" * 41}, "vnpus[0].commonWord", "no name that fits"),
        ({"chipName": None}, "vnpus[0].chipName", "is missing"),
        ({"templates": "vir02"}, "vnpus[0].templates", "not a list"),
        ({"templates": [{"name": "vir02", "memory": 1}]}, "vnpus[0].templates[0].aiCore", "is missing"),
        (
            {"templates": [{"name": "big", "memory": 1, "aiCore": 1}]},
            "vnpus[0].templates[0].name",
            "no template's name",
        ),
        (
            {"templates": [{"name": "vir02", "memory": 70000, "aiCore": 1}]},
            "vnpus[0].memoryAllocatable",
            "template vir02 has more memory than the card",
        ),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_and_costs_its_entry_only(
    fields: dict[str, Any], key: str, rule: str
) -> None:
    other = {**ENTRY, "chipName": "910B4", "commonWord": "X", "resourceName": "huawei.com/X"}
    found = configured({"vnpus": [{**ENTRY, **fields}, other]})
    assert [chip.word for chip in found.chips] == ["X"]
    assert [error.path for error in found.errors] == [key]
    assert rule in found.errors[0].rule
    assert found.errors[0].remedy
    with pytest.raises(ValueError, match=r"vnpus\[0\]"):
        backends(SchedulingSettings(changed(**fields)))


def test_of_two_entries_with_one_word_schedulers_go_by_the_last() -> None:
    second = {**ENTRY, "chipName": "910B3-1", "memoryAllocatable": 32768, "memoryCapacity": 32768}
    found = configured({"vnpus": [ENTRY, second]})
    assert found.words()["Ascend910B3"].memory_mib == 32768
    assert [found.chip(name).memory_mib for name in ("910B3", "910B3-1")] == [65536, 32768]  # type: ignore[union-attr]


def test_two_words_cannot_share_a_resource() -> None:
    found = configured({"vnpus": [ENTRY, {**ENTRY, "commonWord": "Other"}]})
    assert [chip.word for chip in found.chips] == ["Ascend910B3"]
    assert "of Ascend910B3 and of Other" in found.errors[0].rule


@pytest.mark.parametrize("given", [[], {}, {"configs": []}, "x", 5, {"configs": {"a": 1}}])
def test_a_section_without_a_usable_chip_is_an_error(given: Any) -> None:
    assert configured({"vnpus": given}).errors
    with pytest.raises(ValueError, match="vnpus"):
        backends(SchedulingSettings({"vnpus": given}))


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=9)
        | st.just(ENTRY),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*ENTRY, "configs", "hamiVnpuCore", "x"]), inner, max_size=4
            )
        ),
    )
)
def test_whatever_stands_there_ends_in_chips_or_in_errors(given_there: Any) -> None:
    found = configured({"vnpus": given_there, "ascend": given_there, "filterDevices": given_there})
    assert found.chips or found.errors
    assert all(str(problem) for problem in (*found.errors, *found.warnings))


def test_our_own_section() -> None:
    found = configured(
        {
            "vDeviceCount": 2,
            "idleVnpuCleanup": True,
            "runtimeConfig": "",
            "runtimeTemplates": ["vir99"],
            "filterDevices": {"uuid": ["a"], "index": [3]},
        }
    )
    assert (found.count, found.cleans_up, found.runtime_config) == (2, True, "")
    assert (found.hidden_uuids, found.hidden_cards) == (("a",), (3,))
    assert found.accepts("vir99")
    assert not configured({}).accepts("vir99")
    assert configured({}).cleans_up is False


@pytest.mark.parametrize("shape", ["list", "mapping"])
def test_the_section_arrives_from_the_file_as_it_is_in_the_config_map_of_hami(
    tmp_path: Path, shape: str
) -> None:
    vnpus: Any = [ENTRY] if shape == "list" else {"hamiVnpuCore": True, "configs": [ENTRY]}
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump({"version": "v1", "vnpus": vnpus, "ascend": {"vDeviceCount": 2}})
    )
    config = load({"config_file": str(path)}, {"NODE_NAME": "n"}).config
    found = configured(settings_of(config, load_vendors().vendors["ascend"]).section)
    assert (len(found.chips), found.count, found.errors) == (1, 2, ())
    assert found.soft_slicing is (True if shape == "mapping" else None)
