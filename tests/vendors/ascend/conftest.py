"""A node's NPUs as the fake driver's records, and the library built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deviceplugin.vendors.ascend.chips import DEFAULT_CHIPS, Chip

CHIPS = {chip.word: chip for chip in DEFAULT_CHIPS}


def uuid_of(number: int) -> str:
    """The VDie id of the NPU of that number."""
    return f"{0xA0 + number:08X}-00000012-0BADF00D-00FF00FF-12345678"


def record(number: int, chip: Chip = CHIPS["Ascend910B4"], **fields: object) -> str:
    """An NPU, one to a card, whose driver makes the templates of the table. Physical ids are not
    logic ids: they go the other way.
    """
    templates = ",".join(f"{t.name}:{t.ai_core}:{t.ai_cpu}:{t.memory_mib}" for t in chip.templates)
    values: dict[str, object] = {
        "id": number,
        "name": chip.name,
        "logic": number,
        "phy": 7 - number,
        "die": uuid_of(number),
        "hbm": chip.memory_mib,
        "bus": f"0000:{0xC0 + number:02X}:00.0",
        "cores": chip.ai_core,
        "cpus": chip.ai_cpu,
        "memory": chip.memory_mib,
        "templates": templates,
        **fields,
    }
    return "|".join(["card", *(f"{key}={value}" for key, value in values.items())]) + "\n"


def records(count: int, word: str = "Ascend910B4", **fields: object) -> str:
    """So many of one chip; the 910C has two dies a card."""
    chip = CHIPS[word]
    dies = 2 if chip.paired else 1
    return "".join(
        record(n, chip, **{"id": n // dies, "device": n % dies, **fields}) for n in range(count)
    )


@pytest.fixture
def npu() -> Callable[..., str]:
    """`record`."""
    return record


@pytest.fixture
def npus() -> Callable[..., str]:
    """`records`."""
    return records


@pytest.fixture
def uuid() -> Callable[[int], str]:
    """`uuid_of`."""
    return uuid_of


@pytest.fixture
def dcmi(built: Callable[..., Path]) -> Path:
    """The fake driver's library."""
    return built("ascend", "libdcmi.so")
