"""The page for people shows profiles that are read, and names everything that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from deviceplugin import registry
from deviceplugin.vendor import VendorSettings
from deviceplugin.vendors.mock import VENDOR
from deviceplugin.vendors.mock.configuration import KEYS, configured, shipped
from deviceplugin.vendors.mock.profile import FaultKind
from deviceplugin.vendors.mock.reading import _DEVICE_KEYS, _PROFILE_KEYS, parse, read

PAGE = (Path(__file__).parents[3] / "docs/vendors/mock.md").read_text()
SECTION, IMITATION, NODE, USAGE, FAULTS, RECORDING = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)


def test_the_section_shown_is_understood() -> None:
    data = parse(SECTION, "page")
    assert isinstance(data, dict)
    assert configured(VendorSettings(section=data["mock"])).problems == ()


def test_the_profiles_shown_are_read() -> None:
    composed = read(parse(NODE + USAGE + FAULTS, "page"), "page", VENDOR.resource)
    recorded = read(parse(RECORDING.replace("  ...\n", ""), "page"), "page", VENDOR.resource)
    assert len(composed.snapshot.devices) == 8
    assert len(composed.faults) == 4
    assert [busy.at for busy in composed.usage] == [0, 60, 120]
    assert recorded.resource == "nvidia.com/gpu"


@pytest.mark.parametrize(
    "word", [*KEYS, *_PROFILE_KEYS, *_DEVICE_KEYS, *(kind.value for kind in FaultKind), *shipped()]
)
def test_everything_that_can_be_written_is_on_the_page(word: str) -> None:
    assert f"`{word}`" in PAGE or f"  {word}:" in SECTION or f"`{word}:`" in PAGE


def test_the_example_of_an_imitation_is_one() -> None:
    section = yaml.safe_load(IMITATION)["mock"]
    backend = registry.load_backend(
        registry.load().vendors["mock"], VendorSettings(node_name="n", section=section)
    )
    assert {device.model for device in backend.discover().devices} == {"910B4"}
