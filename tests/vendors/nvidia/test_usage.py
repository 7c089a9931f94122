"""How busy GPUs and MIG instances are, by the fake NVML through the production binding."""

from __future__ import annotations

from typing import Any

from deviceplugin.vendor import Usage


def test_memory_and_utilisation_of_every_card(driver: Any, cards: Any, one_card: Any) -> None:
    scenario = cards(0, one_card(0, used=300 << 20, util="37,12"), one_card(1, util="0,0"))
    assert driver.usage(scenario) == [
        Usage("GPU-0", 300.0, 37.0, 12.0),
        Usage("GPU-1", 0.0, 0.0, 0.0),
    ]


def test_what_a_card_does_not_say_is_unknown(driver: Any, cards: Any, one_card: Any) -> None:
    """Unified memory has no figure of its own; old cards tell no utilisation."""
    scenario = cards(0, one_card(0, memory=None, util="5,6"), one_card(1, used=1 << 20))
    usages = driver.usage(scenario, section={"preConfiguredDeviceMemory": 1000})
    assert usages == [Usage("GPU-0", None, 5.0, 6.0), Usage("GPU-1", 1.0)]


def test_a_call_that_fails_costs_its_own_figure(
    driver: Any, cards: Any, one_card: Any, record: Any
) -> None:
    two = cards(0, *(one_card(i, used=1 << 20, util="1,2") for i in range(2)))
    memory = record("fault", call="nvmlDeviceGetMemoryInfo", card=0, code=999)
    assert driver.usage(two, two + memory) == [
        Usage("GPU-0", None, 1.0, 2.0),
        Usage("GPU-1", 1.0, 1.0, 2.0),
    ]
    lost = record("fault", call="nvmlDeviceGetHandleByUUID", card=0, code=15)
    assert driver.usage(two, two + lost) == [Usage("GPU-1", 1.0, 1.0, 2.0)]


def test_an_instance_tells_its_memory_and_its_card_no_utilisation(
    driver: Any, cards: Any, one_card: Any, record: Any
) -> None:
    instance = {"memory": 4864 << 20, "gi": 1, "ci": 0, "compute": 1, "slices": 1}
    scenario = cards(
        0,
        one_card(0, name="NVIDIA A100-SXM4-40GB", mig=1, used=500 << 20),
        record(
            "mig", card=0, slot=0, uuid="MIG-0", name="A100 MIG 1g.5gb", used=90 << 20, **instance
        ),
    )
    driver.tree.add(
        "host/proc/driver/nvidia-caps/mig-minors", "gpu0/gi1/access 12\ngpu0/gi1/ci0/access 13\n"
    )
    assert driver.usage(scenario) == [Usage("GPU-0", 500.0), Usage("MIG-0", 90.0)]


def test_a_driver_that_is_gone_is_an_error_of_the_reading(
    driver: Any, cards: Any, record: Any
) -> None:
    gone = record("fault", call="nvmlInitWithFlags", code=9)
    error = driver.usage(cards(1), cards(1) + gone)
    assert "kernel module" in error


def test_a_tegra_says_nothing(driver: Any) -> None:
    driver.tree.add("host/proc/device-tree/model", "NVIDIA Orin")
    assert driver.usage("", deviceDiscoveryStrategy="tegra") == []
