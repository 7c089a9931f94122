"""What containers are told, and what is refused (ascend-and-mock.md A.8, A.9, E.1)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.splitting import grants, split
from deviceplugin.vendor import Grant, Owner, PhysicalDevice, Sharing, Snapshot, VendorSettings
from deviceplugin.vendors.ascend.chips import DEFAULT_CHIPS, Chip
from deviceplugin.vendors.ascend.configuration import configured
from deviceplugin.vendors.ascend.handover import edits
from deviceplugin.vendors.ascend.node import AscendNode

CHIPS = {chip.word: chip for chip in DEFAULT_CHIPS}
B4 = CHIPS["Ascend910B4"]
DEFAULT = configured({})


def npu(number: int, chip: Chip = B4, **attributes: str) -> PhysicalDevice:
    return PhysicalDevice(
        f"u{number}",
        str(number),
        chip.name,
        chip.memory_mib,
        attributes={
            "physicalId": str(number + 3),
            "cardId": str(number),
            "deviceId": "0",
            **attributes,
        },
    )


def grant(memory: int | None, number: int = 0, chip: Chip = B4) -> Grant:
    return Grant(npu(number, chip), of=chip.count, sharing=Sharing.LIMITED, memory_mib=memory)


def told(word: str, *entries: Mapping[str, Any]) -> dict[str, str]:
    return {f"huawei.com/{word}": json.dumps(entries)}


def scheduled(chip: Chip = B4, **more: Any) -> Owner:
    return Owner(chip.resource, "a-1", "uid", "default", "p", "c", scheduled=True, **more)


def env_of(
    *given: Grant, owner: Owner | None = None, section: Any = None, by_cdi: bool = False
) -> dict[str, str]:
    found = edits(given, owner or scheduled(), configured(section or {}), by_cdi=by_cdi)
    assert (found.mounts, found.device_nodes, found.hooks, found.annotations) == ((), (), (), {})
    return dict(found.env)


@pytest.mark.parametrize(
    ("word", "memory", "template"),
    [(c.word, t.memory_mib, t.name) for c in DEFAULT_CHIPS for t in c.templates],
)
def test_a_part_is_a_template_of_one_npu(word: str, memory: int, template: str) -> None:
    chip = CHIPS[word]
    env = env_of(grant(memory, chip=chip), owner=scheduled(chip))
    assert env == {"ASCEND_VISIBLE_DEVICES": "3", "ASCEND_VNPU_SPECS": template}


@pytest.mark.parametrize("word", CHIPS)
def test_a_whole_card_has_no_template(word: str) -> None:
    chip = CHIPS[word]
    env = env_of(grant(chip.memory_mib, chip=chip), owner=scheduled(chip))
    assert env == {"ASCEND_VISIBLE_DEVICES": "3"}


def test_several_whole_cards_are_listed() -> None:
    assert env_of(grant(32768, 1), grant(32768, 0)) == {"ASCEND_VISIBLE_DEVICES": "4,3"}


def test_a_container_has_one_part_or_whole_cards() -> None:
    for second in (8192, 32768):
        with pytest.raises(ValueError, match="cuts the one NPU that a container sees"):
            env_of(grant(8192), grant(second, 1))


@pytest.mark.parametrize("memory", [1, 4096, 8191, 8193, 16385, 32767, 40000])
def test_memory_that_is_nobodys_amount_is_refused(memory: int) -> None:
    """More would be made than the scheduler has reserved."""
    with pytest.raises(ValueError, match="one and the same section vnpus"):
        env_of(grant(memory))


# --- the scheduler's own word for a template ---------------------------------------------------


def test_the_schedulers_name_of_the_template_is_taken() -> None:
    """A 910B4-1 whose driver is newer than our table (A.2.4)."""
    chip = CHIPS["Ascend910B4-1"]
    annotations = told(chip.word, {"UUID": "u0", "temp": "vir05_1c_16g"})
    env = env_of(grant(16384, chip=chip), owner=scheduled(chip, pod_annotations=annotations))
    assert env["ASCEND_VNPU_SPECS"] == "vir05_1c_16g"


def test_two_containers_on_one_npu_each_get_their_own() -> None:
    """Where upstream keeps the last entry of a UUID only (E.1 no. 24)."""
    annotations = told(
        B4.word,
        {"UUID": "u0", "temp": "vir05_1c_8g"},
        {"UUID": "u0", "temp": "vir10_3c_16g"},
        {"UUID": "u1"},
    )
    owner = scheduled(pod_annotations=annotations)
    assert env_of(grant(8192), owner=owner)["ASCEND_VNPU_SPECS"] == "vir05_1c_8g"
    assert env_of(grant(16384), owner=owner)["ASCEND_VNPU_SPECS"] == "vir10_3c_16g"
    assert env_of(grant(32768, 1), owner=owner) == {"ASCEND_VISIBLE_DEVICES": "4"}


def test_a_larger_template_than_was_reserved_is_refused() -> None:
    """Whoever can change a pod's annotations cannot make his part larger."""
    annotations = told(B4.word, {"UUID": "u0", "temp": "vir10_3c_16g"})
    with pytest.raises(
        ValueError, match="gives 8192 MiB of Ascend910B4, vir05_1c_8g here, and names vir10_3c_16g"
    ):
        env_of(grant(8192), owner=scheduled(pod_annotations=annotations))


@pytest.mark.parametrize("entry", [{"UUID": "u0"}, {"UUID": "u0", "memory": 8192, "core": 20}])
def test_software_limits_are_not_served(entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="names no template: soft slicing"):
        env_of(grant(8192), owner=scheduled(pod_annotations=told(B4.word, entry)))


def test_memory_that_was_not_rounded_is_served_where_the_template_is_named() -> None:
    """As HAMi 2.10 reserves for pods that no webhook has seen (A.4)."""
    annotations = told(B4.word, {"UUID": "u0", "temp": "vir05_1c_8g", "memory": 4096})
    env = env_of(grant(4096), owner=scheduled(pod_annotations=annotations))
    assert env["ASCEND_VNPU_SPECS"] == "vir05_1c_8g"


@pytest.mark.parametrize(
    "text", ["", "[", "{}x", "5", "null", '["u0"]', "[" * 5000, '{"UUID":"u0"}']
)
def test_an_annotation_that_no_scheduler_writes_is_refused(text: str) -> None:
    owner = scheduled(pod_annotations={f"huawei.com/{B4.word}": text})
    with pytest.raises(ValueError, match=r"huawei.com/Ascend910B4 is no list of UUID and temp"):
        env_of(grant(8192), owner=owner)


@given(
    st.text()
    | st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=9)
        | st.sampled_from(["u0", "vir05_1c_8g"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["UUID", "temp", "x"]), inner, max_size=3)
        ),
    ).map(json.dumps)
)
def test_whatever_it_says_the_part_is_no_larger_than_what_was_reserved(text: str) -> None:
    try:
        env = env_of(grant(8192), owner=scheduled(pod_annotations={f"huawei.com/{B4.word}": text}))
    except ValueError:
        return
    assert env == {"ASCEND_VISIBLE_DEVICES": "3", "ASCEND_VNPU_SPECS": "vir05_1c_8g"}


def test_two_chips_of_one_word_are_each_cut_in_their_own_way() -> None:
    """As an old test of HAMi has it: a 910B4-1 under the word of the 910B4 (A.1)."""
    entry = {"commonWord": B4.word, "resourceName": B4.resource, "aiCore": 20,
             "resourceMemoryName": B4.memory_resource}  # fmt: skip
    small = {**entry, "chipName": "910B4", "memoryAllocatable": 32768,
             "templates": [{"name": "vir05_1c_8g", "memory": 8192, "aiCore": 5}]}  # fmt: skip
    large = {**entry, "chipName": "910B4-1", "memoryAllocatable": 65536,
             "templates": [{"name": "vir10_3c_32g", "memory": 32768, "aiCore": 10}]}  # fmt: skip
    section = {"vnpus": [small, large]}
    assert "ASCEND_VNPU_SPECS" not in env_of(grant(32768), section=section)
    cut = env_of(grant(32768, chip=CHIPS["Ascend910B4-1"]), section=section)
    assert cut["ASCEND_VNPU_SPECS"] == "vir10_3c_32g"


def test_what_it_says_of_other_npus_is_not_ours() -> None:
    owner = scheduled(pod_annotations=told(B4.word, {"UUID": "u9", "temp": "vir10_3c_16g"}))
    assert env_of(grant(8192), owner=owner)["ASCEND_VNPU_SPECS"] == "vir05_1c_8g"


# --- names that the runtime does not take --------------------------------------------------------

STRANGE = {
    "vnpus": [
        {
            "chipName": "910B4", "commonWord": "Ascend910B4", "resourceName": B4.resource,
            "resourceMemoryName": B4.memory_resource, "memoryAllocatable": 32768, "aiCore": 20,
            "templates": [{"name": "vir05_2c_8g", "memory": 8192, "aiCore": 5}],
        }
    ]
}  # fmt: skip


def test_a_template_that_the_runtime_does_not_take_is_named() -> None:
    with pytest.raises(ValueError, match=r"knows no template vir05_2c_8g.*ascend.runtimeTemplates"):
        env_of(grant(8192), section=STRANGE)


def test_a_newer_runtimes_templates_can_be_added() -> None:
    section = {**STRANGE, "runtimeTemplates": ["vir05_2c_8g"]}
    assert env_of(grant(8192), section=section)["ASCEND_VNPU_SPECS"] == "vir05_2c_8g"


# --- what pods set themselves --------------------------------------------------------------------


@pytest.mark.parametrize(
    "own",
    [
        {"ASCEND_VISIBLE_DEVICES": "0-7"},
        {"ASCEND_VISIBLE_DEVICES": ""},
        {"ASCEND_VNPU_SPECS": "vir10_3c_16g"},
        {"ASCEND_RUNTIME_OPTIONS": "VIRTUAL"},
        {"ASCEND_RUNTIME_OPTIONS": "NODRV,VIRTUAL"},
        {"ASCEND_RUNTIME_OPTIONS": ""},
    ],
)
def test_variables_that_would_undo_the_grant_are_refused(own: dict[str, str]) -> None:
    (name,) = own
    with pytest.raises(ValueError, match=f"container c of pod default/p sets {name}"):
        env_of(grant(8192), owner=scheduled(environment=own))


def test_by_cdi_the_grant_wins_over_the_pods_own_list() -> None:
    own = {"ASCEND_VISIBLE_DEVICES": "0-7", "ASCEND_VNPU_SPECS": "vir10_3c_16g"}
    env = env_of(grant(8192), owner=scheduled(environment=own), by_cdi=True)
    assert env == {"ASCEND_VISIBLE_DEVICES": "3", "ASCEND_VNPU_SPECS": "vir05_1c_8g"}
    with pytest.raises(ValueError, match="ASCEND_RUNTIME_OPTIONS"):
        env_of(
            grant(8192),
            owner=scheduled(environment={"ASCEND_RUNTIME_OPTIONS": "VIRTUAL"}),
            by_cdi=True,
        )


def test_other_variables_are_the_pods_own() -> None:
    own = {"ASCEND_RUNTIME_OPTIONS": "NODRV", "ASCEND_RUNTIME_MOUNTS": "base"}
    assert env_of(grant(8192), owner=scheduled(environment=own))["ASCEND_VISIBLE_DEVICES"] == "3"


def test_an_npu_without_a_physical_id_is_no_npu() -> None:
    lost = replace(grant(8192), device=npu(0, physicalId="seven"))
    with pytest.raises(ValueError, match="physical id of NPU u0"):
        env_of(lost)


# --- shares that kubelet hands out ---------------------------------------------------------------


def node(**section: Any) -> AscendNode:
    return AscendNode(VendorSettings(section=section))


def shared(chip: Chip, count: int, cards: int = 1, **section: Any) -> dict[str, str]:
    """What a container gets with the first `count` ids of a node."""
    one = node(**section)
    snapshot = Snapshot(tuple(npu(n, chip) for n in range(cards)))
    (plan,) = one.plan(snapshot)
    table = split(plan, snapshot)
    held = grants(table, list(table.virtual)[:count])
    return dict(one.edits(held, Owner(chip.resource, "a-1")).env)


@pytest.mark.parametrize(
    ("word", "sizes"),
    [
        ("Ascend910A", {1: "vir02", 2: "vir04", 4: "vir08", 8: "vir16", 15: ""}),
        ("Ascend910B2", {1: "vir03_1c_8g", 2: "vir06_1c_16g", 4: "vir12_3c_32g", 8: ""}),
        ("Ascend910B3", {1: "vir05_1c_16g", 2: "vir10_3c_32g", 4: ""}),
        ("Ascend910B4", {1: "vir05_1c_8g", 2: "vir10_3c_16g", 4: ""}),
        ("Ascend310P", {1: "vir01", 2: "vir02", 4: "vir04", 7: ""}),
    ],
)
def test_shares_make_a_template_when_it_takes_just_as_many(
    word: str, sizes: dict[int, str]
) -> None:
    chip = CHIPS[word]
    for count in range(1, chip.count + 1):
        if count not in sizes:
            with pytest.raises(
                ValueError,
                match=f"{count} of {chip.count} shares of {word} are no template; ask for one of 1, 2",
            ):
                shared(chip, count)
            continue
        env = shared(chip, count)
        assert env["ASCEND_VISIBLE_DEVICES"] == "3"
        assert env.get("ASCEND_VNPU_SPECS", "") == sizes[count]


def test_all_shares_of_two_npus_are_two_whole_npus() -> None:
    assert shared(B4, 8, cards=2) == {"ASCEND_VISIBLE_DEVICES": "3,4"}
    with pytest.raises(ValueError, match="cuts the one NPU"):
        shared(B4, 5, cards=2)


def test_one_id_a_card_hands_out_whole_cards() -> None:
    assert shared(B4, 2, cards=2, vDeviceCount=1) == {"ASCEND_VISIBLE_DEVICES": "3,4"}


@given(st.sampled_from(DEFAULT_CHIPS), st.data())
def test_shares_of_a_card_never_make_more_than_the_card(chip: Chip, data: st.DataObject) -> None:
    """However kubelet divides a card's ids among containers."""
    left, memory, cores = chip.count, 0, 0
    templates = {t.name: t for t in chip.templates}
    while left:
        count = data.draw(st.integers(1, left))
        left -= count
        try:
            env = shared(chip, count)
        except ValueError:
            continue
        template = templates.get(env.get("ASCEND_VNPU_SPECS", ""))
        memory += template.memory_mib if template else chip.memory_mib
        cores += template.ai_core if template else chip.ai_core
    assert memory <= chip.memory_mib
    assert cores <= chip.ai_core


# --- the node half around it ---------------------------------------------------------------------


def test_one_resource_for_each_sort_of_chip() -> None:
    snapshot = Snapshot(
        (
            npu(0),
            npu(1, CHIPS["Ascend310P"]),
            npu(10),
            npu(9),
            PhysicalDevice("x", "2", "unknown", 1),
        )
    )
    plans = {plan.resource: plan for plan in node().plan(snapshot)}
    assert plans.keys() == {"huawei.com/Ascend910B4", "huawei.com/Ascend310P"}
    b4 = plans["huawei.com/Ascend910B4"]
    assert b4.devices == ("u0", "u9", "u10")
    assert (b4.split.count, b4.split.separator, b4.split.together) == (4, "-", True)
    assert b4.keys is not None
    assert b4.keys.common_word == "Ascend910B4"
    assert list(split(b4, snapshot).virtual)[:2] == ["u0-0", "u0-1"]


def test_turns_are_refused() -> None:
    from deviceplugin.vendor import Replicas

    settings = VendorSettings(sharing={B4.resource: Replicas(4, Sharing.TIME_SLICING)})
    with pytest.raises(ValueError, match=r"huawei.com/Ascend910B4 cannot be shared in turns"):
        AscendNode(settings).plan(Snapshot((npu(0),)))


@pytest.mark.parametrize(
    ("word", "networks"),
    [
        ("Ascend910B4", [0, 0, 0, 0, 1, 1, 1, 1]),
        ("Ascend910C", [0] * 8),
        ("Ascend310P", [None] * 8),
    ],
)
def test_registered_devices_say_their_network(word: str, networks: list[int | None]) -> None:
    chip = CHIPS[word]
    snapshot = Snapshot(tuple(npu(n, chip) for n in range(8)))
    one = node()
    (plan,) = one.plan(snapshot)
    found = one.registered(plan, snapshot)
    assert [device.custom.get("NetworkID") for device in found] == networks
    assert [device.index for device in found] == list(range(8))
    assert {(d.count, d.memory, d.cores, d.type, d.numa) for d in found} == {
        (chip.count, chip.memory_mib, chip.ai_core, word, 0)
    }


def test_a_card_that_is_gone_does_not_move_the_others_to_another_network() -> None:
    snapshot = Snapshot(tuple(npu(n) for n in (0, 2, 3, 4, 5)))
    one = node()
    (plan,) = one.plan(snapshot)
    assert [d.custom["NetworkID"] for d in one.registered(plan, snapshot)] == [0, 0, 0, 1, 1]


def test_where_the_cluster_speaks_of_soft_slicing_the_node_says_no() -> None:
    entry = {"chipName": "910B4", "commonWord": "Ascend910B4", "resourceName": B4.resource,
             "resourceMemoryName": B4.memory_resource, "memoryAllocatable": 32768, "aiCore": 20}  # fmt: skip
    for section, told_there in (
        ({}, {}),
        ({"vnpus": [entry]}, {}),
        ({"vnpus": {"hamiVnpuCore": True, "configs": [entry]}}, {"hami-vnpu-core": "false"}),
    ):
        one = node(**section)
        (plan,) = one.plan(Snapshot((npu(0),)))
        assert one.node_annotations(plan, Snapshot((npu(0),))) == told_there


def test_without_the_runtime_nothing_is_handed_out(tmp_path: Any) -> None:
    plan = node().plan(Snapshot((npu(0),)))[0]
    one = AscendNode(VendorSettings(host_root=str(tmp_path)))
    assert "ascend-docker-runtime" in one.impediment(plan)
    (tmp_path / "etc/ascend-docker-runtime.d").mkdir(parents=True)
    assert one.impediment(plan) == ""
    elsewhere = AscendNode(
        VendorSettings(host_root=str(tmp_path), section={"runtimeConfig": "/opt/x"})
    )
    assert elsewhere.impediment(plan).startswith("/opt/x is not on the node")
    unchecked = AscendNode(VendorSettings(host_root="/nowhere", section={"runtimeConfig": ""}))
    assert unchecked.impediment(plan) == ""
