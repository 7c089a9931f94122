"""The table of chips, and how memory becomes a template (ascend-and-mock.md A.1, A.2.4, A.2.5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.vendors.ascend.chips import (
    DEFAULT_CHIPS,
    RUNTIME_TEMPLATES,
    Chip,
    Part,
    cores_in_name,
)

CHIPS = {chip.word: chip for chip in DEFAULT_CHIPS}

TABLE = {
    # word: chipName, allocatable, capacity, aiCore, aiCPU, div
    "Ascend910A": ("910A", 32768, 32768, 30, 0, 15),
    "Ascend910B2": ("910B2", 65536, 65536, 24, 6, 8),
    "Ascend910B3": ("910B3", 65536, 65536, 20, 7, 4),
    "Ascend910B4": ("910B4", 32768, 32768, 20, 7, 4),
    "Ascend910B4-1": ("910B4-1", 65536, 65536, 20, 7, 4),
    "Ascend310P": ("310P3", 21527, 24576, 8, 7, 7),
    "Ascend910C": ("Ascend910", 65536, 65536, 20, 7, 4),
    "Ascend910ProB": ("910ProB", 32768, 32768, 30, 0, 15),
}

TEMPLATES = {
    "Ascend910A": [("vir02", 2184, 2, 0), ("vir04", 4369, 4, 0), ("vir08", 8738, 8, 0), ("vir16", 17476, 16, 0)],
    "Ascend910B2": [("vir03_1c_8g", 8192, 3, 1), ("vir06_1c_16g", 16384, 6, 1), ("vir12_3c_32g", 32768, 12, 3)],
    "Ascend910B3": [("vir05_1c_16g", 16384, 5, 1), ("vir10_3c_32g", 32768, 10, 3)],
    "Ascend910B4": [("vir05_1c_8g", 8192, 5, 1), ("vir10_3c_16g", 16384, 10, 3)],
    "Ascend910B4-1": [("vir05_1c_8g", 16384, 5, 1), ("vir10_3c_16g", 32768, 10, 3)],
    "Ascend310P": [("vir01", 3072, 1, 1), ("vir02", 6144, 2, 2), ("vir04", 12288, 4, 4)],
    "Ascend910C": [("vir05_1c_16g", 16384, 5, 1), ("vir10_3c_32g", 32768, 10, 3)],
    "Ascend910ProB": [("vir02", 2184, 2, 0), ("vir04", 4369, 4, 0), ("vir08", 8738, 8, 0), ("vir16", 17476, 16, 0)],
}  # fmt: skip

WORKED = [
    # word, asked, memory, template ("" whole), None where no card has that
    *[("Ascend910A", asked, got, name) for asked, got, name in [
        (0, 2184, "vir02"), (-1, 2184, "vir02"), (1, 2184, "vir02"), (2184, 2184, "vir02"),
        (2185, 4369, "vir04"), (4369, 4369, "vir04"), (4370, 8738, "vir08"), (8738, 8738, "vir08"),
        (8739, 17476, "vir16"), (17476, 17476, "vir16"), (17477, 32768, ""), (32768, 32768, ""),
        (32769, None, ""),
    ]],
    *[("Ascend910B2", asked, got, name) for asked, got, name in [
        (8192, 8192, "vir03_1c_8g"), (8193, 16384, "vir06_1c_16g"), (16384, 16384, "vir06_1c_16g"),
        (32768, 32768, "vir12_3c_32g"), (32769, 65536, ""), (65536, 65536, ""), (65537, None, ""),
    ]],
    *[("Ascend910B3", asked, got, name) for asked, got, name in [
        (1024, 16384, "vir05_1c_16g"), (20480, 32768, "vir10_3c_32g"), (32769, 65536, ""),
    ]],
    *[("Ascend910B4-1", asked, got, name) for asked, got, name in [
        (16384, 16384, "vir05_1c_8g"), (16385, 32768, "vir10_3c_16g"), (65536, 65536, ""),
    ]],
    *[("Ascend910B4", asked, got, name) for asked, got, name in [
        (8192, 8192, "vir05_1c_8g"), (8193, 16384, "vir10_3c_16g"), (16385, 32768, ""),
    ]],
    *[("Ascend310P", asked, got, name) for asked, got, name in [
        (3072, 3072, "vir01"), (3073, 6144, "vir02"), (12288, 12288, "vir04"), (12289, 21527, ""),
        (24576, 21527, ""), (24577, None, ""),
    ]],
]  # fmt: skip


@pytest.mark.parametrize("word", TABLE)
def test_every_chip_has_the_figures_of_the_charts(word: str) -> None:
    chip = CHIPS[word]
    shown = (chip.name, chip.memory_mib, chip.capacity_mib, chip.ai_core, chip.ai_cpu, chip.count)
    assert shown == TABLE[word]
    assert [(t.name, t.memory_mib, t.ai_core, t.ai_cpu) for t in chip.templates] == TEMPLATES[word]
    assert (chip.resource, chip.memory_resource) == (
        f"huawei.com/{word}",
        f"huawei.com/{word}-memory",
    )
    assert chip.memory_factor == 1


def test_there_are_no_other_chips() -> None:
    assert CHIPS.keys() == TABLE.keys()


@pytest.mark.parametrize(("word", "asked", "got", "name"), WORKED)
def test_a_request_becomes_the_least_that_holds_it(
    word: str, asked: int, got: int | None, name: str
) -> None:
    part = CHIPS[word].part(asked)
    if got is None:
        assert part is None
    else:
        assert part is not None
        assert (part.memory_mib, part.template.name if part.template else "") == (got, name)


def test_the_reserved_memory_says_the_template_again() -> None:
    """So the name needs no place of its own in the annotation."""
    for chip in DEFAULT_CHIPS:
        for template in chip.templates:
            assert chip.part(template.memory_mib) == Part(template.memory_mib, template)
        assert chip.part(chip.memory_mib) == Part(chip.memory_mib)


@given(st.sampled_from(DEFAULT_CHIPS), st.integers(0, 70000), st.integers(0, 70000))
def test_who_asks_for_more_never_gets_less(chip: Chip, one: int, other: int) -> None:
    less, more = (chip.part(memory) for memory in sorted((one, other)))
    if more is not None:
        assert less is not None
        assert less.memory_mib <= more.memory_mib


def test_the_runtime_takes_every_template_of_the_table_and_names_say_their_cores() -> None:
    for chip in DEFAULT_CHIPS:
        for template in chip.templates:
            assert template.name in RUNTIME_TEMPLATES
            assert cores_in_name(template.name) == template.ai_core


@pytest.mark.parametrize("name", ["vir", "vir1", "vir02_x", "Vir02", "vir02 ", "vir02_3c_8", ""])
def test_what_is_no_templates_name_has_no_cores(name: str) -> None:
    assert cores_in_name(name) is None


def test_smallest_templates_of_a_910b2_need_more_ai_cpus_than_it_has() -> None:
    """Why memory alone must not decide how many fit (E.1 no. 9)."""
    chip = CHIPS["Ascend910B2"]
    assert chip.count * chip.templates[0].ai_cpu > chip.ai_cpu
