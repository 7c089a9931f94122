"""The page for people: its configurations load, and it names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deviceplugin.config import load, vendor_settings
from deviceplugin.vendors.nvidia import geometry
from deviceplugin.vendors.nvidia.exposure import IMEX_CLASS
from deviceplugin.vendors.nvidia.health import APPLICATION_XIDS
from deviceplugin.vendors.nvidia.settings import read

PAGE = (Path(__file__).parents[3] / "docs/vendors/nvidia.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_configurations_shown_are_accepted_without_a_word(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    loaded = load({"config_file": str(file)}, {})
    assert loaded.warnings == ()
    settings = read(vendor_settings(loaded.config, "nvidia"))
    assert settings.split or settings.sharing
    if settings.section.operating_mode == "mps":
        assert settings.mps
    if settings.dynamic_mig:
        assert geometry.match("NVIDIA A100-SXM4-40GB", settings.geometries)


def test_there_are_examples_of_all_ways_to_share() -> None:
    assert len(EXAMPLES) == 5


def test_the_page_names_every_class_and_every_ignored_error() -> None:
    for name in ("gpu", "management", IMEX_CLASS, "gdrcopy", "gds", "mofed"):
        assert f"`{name}`" in PAGE
    (listed,) = re.findall(r"Xids ([\d, and]+) are the application's fault", PAGE)
    assert set(map(int, re.findall(r"\d+", listed))) == APPLICATION_XIDS
