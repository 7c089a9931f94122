"""What a scrape says, word by word, as dashboards made for HAMi read it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.core import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from deviceplugin.libvgpu import Fault, FileFacts, Memory, Process, Region, RegionError, Utilisation
from deviceplugin.monitor import (
    ContainerUsage,
    HostDevice,
    MonitoredContainer,
    MonitoredDevice,
    Settings,
)
from deviceplugin.monitor.exposition import families
from deviceplugin.monitor.usage import collect
from deviceplugin.series import ARCHITECTURES, Names

MIB = 1 << 20
GPU = "GPU-00552014-5c87-89ac-b1a6-7b53aa24b0ec"
HOST = HostDevice(GPU, "0", "NVIDIA-NVIDIA A100-SXM4-80GB", 2048.0, 37.0, 81920.0, 12.0)
SETTINGS = Settings(version="v9", revision="abc", build_date="2026")
NOW = 1_700_000_100.7
BUILD = (
    f'build_date="2026",compiler="{sys.implementation.name}",go_version="python{platform.python_version()}",'
    f'platform="{sys.platform}/{ARCHITECTURES[platform.machine()]}",revision="abc",version="v9"'
)


def used(**fields: Any) -> ContainerUsage:
    """A container with one process on one GPU."""
    memory, use = Memory(10, 20, 30, 0, 60), Utilisation(42, 1, 2)
    process = Process(0, 7, 1007, False, (memory,), (99,), (use,))
    region = Region(
        FileFacts(1, 2, 3, 0, 0),
        initialised=True,
        uuids=(GPU,),
        memory_limits=(8000 * MIB, *[0] * 15),
        core_limits=(30, *[100] * 15),
        processes=(process,),
        last_kernel_time=1_700_000_000,
    )
    device = MonitoredDevice(0, GPU, 8000, 30, **fields)
    container = MonitoredContainer("default", "p", "uid", "main", "uid_main", (device,))
    (found,) = collect([container], {"uid_main": region})
    return found


def text(usages: Sequence[ContainerUsage], hosts: Sequence[HostDevice], chosen: Settings) -> str:
    class Once:
        def collect(self) -> Any:
            return families(usages, hosts, NOW, "n1", chosen)

    registry = CollectorRegistry()
    registry.register(Once())  # type: ignore[arg-type]
    openmetrics(registry)
    return generate_latest(registry).decode()


def hamis(scrape: str) -> str:
    """Without our own metrics."""
    kept = [line for line in scrape.splitlines() if "deviceplugin_" not in line]
    return "\n".join(kept) + "\n"


COMMON = f'ctrname="main",deviceuuid="{GPU}",podname="p",podnamespace="default",vdeviceid="0",zone="vGPU"'
HOST_LABELS = (
    f'deviceidx="0",devicetype="NVIDIA-NVIDIA A100-SXM4-80GB",deviceuuid="{GPU}",zone="vGPU"'
)
GOLDEN_2_8 = f"""\
# HELP hami_build_info hami build metadata exposed as labels with a constant value of 1.
# TYPE hami_build_info gauge
hami_build_info{{{BUILD}}} 1.0
# HELP HostGPUMemoryUsage GPU device memory usage
# TYPE HostGPUMemoryUsage gauge
HostGPUMemoryUsage{{{HOST_LABELS}}} 2.147483648e+09
# HELP HostCoreUtilization GPU core utilization
# TYPE HostCoreUtilization gauge
HostCoreUtilization{{{HOST_LABELS}}} 37.0
# HELP vGPU_device_memory_usage_in_bytes vGPU device usage
# TYPE vGPU_device_memory_usage_in_bytes gauge
vGPU_device_memory_usage_in_bytes{{{COMMON}}} 60.0
# HELP vGPU_device_memory_limit_in_bytes vGPU device limit
# TYPE vGPU_device_memory_limit_in_bytes gauge
vGPU_device_memory_limit_in_bytes{{{COMMON}}} 8.388608e+09
# HELP Device_memory_desc_of_container Container device memory description
# TYPE Device_memory_desc_of_container gauge
Device_memory_desc_of_container{{{COMMON}}} 60.0
# HELP Device_utilization_desc_of_container Container device utilization description
# TYPE Device_utilization_desc_of_container gauge
Device_utilization_desc_of_container{{{COMMON}}} 42.0
# HELP Device_last_kernel_of_container Container device last kernel description
# TYPE Device_last_kernel_of_container gauge
Device_last_kernel_of_container{{{COMMON}}} 100.0
# HELP MigInfo Mig device information for container
# TYPE MigInfo gauge
"""

NEW_LABELS = f'container="main",device_uuid="{GPU}",namespace="default",pod="p",vdevice_index="0",zone="vGPU"'
NEW_HOST = f'device_index="0",device_type="NVIDIA-NVIDIA A100-SXM4-80GB",device_uuid="{GPU}"'
NEW_SERIES = f"""\
hami_build_info{{{BUILD}}} 1.0
hami_host_gpu_memory_used_bytes{{{NEW_HOST},node="n1",zone="vGPU"}} 2.147483648e+09
hami_host_gpu_utilization_ratio{{{NEW_HOST},node="n1",zone="vGPU"}} 37.0
hami_host_gpu_memory_controller_utilization_ratio{{{NEW_HOST},zone="vGPU"}} 12.0
hami_vgpu_memory_used_bytes{{{NEW_LABELS}}} 60.0
hami_vgpu_memory_limit_bytes{{{NEW_LABELS}}} 8.388608e+09
hami_container_device_memory_bytes{{{NEW_LABELS}}} 60.0
hami_container_device_utilization_ratio{{{NEW_LABELS}}} 42.0
hami_container_last_kernel_elapsed_seconds{{{NEW_LABELS}}} 100.0
hami_vgpu_memory_context_bytes{{{NEW_LABELS}}} 10.0
hami_vgpu_memory_module_bytes{{{NEW_LABELS}}} 20.0
hami_vgpu_memory_buffer_bytes{{{NEW_LABELS}}} 30.0
"""


def series(scrape: str) -> str:
    return "".join(f"{line}\n" for line in scrape.splitlines() if not line.startswith("#"))


def test_the_scrape_is_hami_2_8s_by_default() -> None:
    assert hamis(text([used()], [HOST], SETTINGS)) == GOLDEN_2_8


def test_the_scrape_is_hami_2_9s_by_a_setting() -> None:
    chosen = Settings(Names.V2_9, version="v9", revision="abc", build_date="2026")
    assert series(hamis(text([used()], [HOST], chosen))) == NEW_SERIES


def test_both_names_stand_side_by_side() -> None:
    chosen = Settings(Names.BOTH, version="v9", revision="abc", build_date="2026")
    both = series(hamis(text([used()], [HOST], chosen))).splitlines()
    apart = (series(GOLDEN_2_8) + NEW_SERIES).splitlines()
    assert sorted(both) == sorted(set(apart))


def test_labels_that_carry_values_are_there_only_when_asked_for() -> None:
    old = text([used()], [], Settings(legacy_labels=True))
    assert (
        f'Device_memory_desc_of_container{{context="10",ctrname="main",data="30",deviceuuid="{GPU}",module="20",'
        'offset="0",podname="p",podnamespace="default",vdeviceid="0",zone="vGPU"} 60.0\n'
    ) in old
    new = text([used()], [], Settings(Names.V2_9, legacy_labels=True))
    assert (
        f'hami_container_device_memory_bytes{{buffer_size="30",container="main",context_size="10",device_uuid="{GPU}",'
        'module_size="20",namespace="default",offset="0",pod="p",vdevice_index="0",zone="vGPU"} 60.0\n'
    ) in new


def test_a_hardware_partition_is_told() -> None:
    found = text([used(instance="3")], [], Settings(Names.BOTH))
    assert f'MigInfo{{ctrname="main",deviceuuid="{GPU}",instanceid="3",podname="p"' in found
    assert f'hami_mig_device_info{{container="main",device_uuid="{GPU}",instance_id="3",' in found


def own(scrape: str) -> set[str]:
    return {line for line in scrape.splitlines() if line.startswith("deviceplugin_")}


def test_our_own_metrics_tell_isolation_and_what_is_known() -> None:
    found = own(text([used()], [HOST], SETTINGS))
    who = 'container="main",namespace="default",pod="p"'
    assert f'deviceplugin_isolation_active{{{who},reason="limits-hold"}} 1.0' in found
    assert f"deviceplugin_container_processes{{{who}}} 1.0" in found
    assert 'deviceplugin_monitor_containers{state="read"} 1.0' in found
    assert 'deviceplugin_monitor_containers{state="foreign"} 0.0' in found
    assert any(
        line.startswith("deviceplugin_host_memory_total_bytes") and "8.58993" in line
        for line in found
    )
    assert not any("isolation_unknown" in line for line in found)


@pytest.mark.parametrize("names", Names)
def test_a_granted_container_has_its_series_before_it_ever_used_a_device(
    names: Names, container: Callable[..., MonitoredContainer]
) -> None:
    (idle,) = collect([container()], {})
    scrape = text([idle], [], Settings(names))
    found = {s.name: s.value for f in text_string_to_metric_families(scrape) for s in f.samples}
    used_name = {"v2.9": "hami_vgpu_memory_used_bytes"}.get(
        names.value, "vGPU_device_memory_usage_in_bytes"
    )
    limit_name = {"v2.9": "hami_vgpu_memory_limit_bytes"}.get(
        names.value, "vGPU_device_memory_limit_in_bytes"
    )
    assert (found[used_name], found[limit_name]) == (0, 3000 * MIB)
    assert found["deviceplugin_isolation_unknown"] == 1
    assert "deviceplugin_isolation_active" not in found
    assert "Device_last_kernel_of_container" not in found


def test_a_region_that_cannot_be_read_gives_a_limit_and_no_use(
    container: Callable[..., MonitoredContainer],
) -> None:
    problem = RegionError("p", Fault.FOREIGN, "reason", "remedy")
    (found,) = collect([container()], {container().cache_dir: problem})
    scrape = text([found], [], Settings())
    assert "\nvGPU_device_memory_limit_in_bytes{" in scrape
    assert "\nvGPU_device_memory_usage_in_bytes{" not in scrape
    assert "\nDevice_utilization_desc_of_container{" not in scrape
    assert 'reason="unreadable"} 1.0' in scrape
    assert 'deviceplugin_monitor_containers{state="foreign"} 1.0' in scrape


def test_what_a_driver_does_not_say_is_left_out() -> None:
    scrape = text([], [HostDevice(GPU, "0", "t", None, 5.0)], Settings())
    assert "\nHostGPUMemoryUsage{" not in scrape
    assert "\nHostCoreUtilization{" in scrape


def test_a_partition_is_no_card_and_its_memory_is_counted_apart() -> None:
    card = HostDevice(GPU, "0", "t", 500.0, None, 40960.0)
    part = HostDevice("MIG-0", "0:0", "t MIG 1g.5gb", 90.0, None, 4864.0, partition=True)
    scrape = text([], [card, part], Settings(Names.BOTH))
    assert [line for line in scrape.splitlines() if "MIG-0" in line] == [
        'deviceplugin_partition_memory_used_bytes{device_index="0:0",device_type="t MIG 1g.5gb",'
        'device_uuid="MIG-0"} 9.437184e+07'
    ]
    assert f'device_uuid="{GPU}"' in scrape.split("deviceplugin_host_memory_total_bytes{")[1]


def test_a_kernel_in_the_future_was_just_now() -> None:
    usage = used()
    late = ContainerUsage(
        usage.container,
        usage.devices,
        usage.isolation,
        usage.state,
        last_kernel_time=int(NOW) + 500,
    )
    assert "Device_last_kernel_of_container{" in text([late], [], Settings())
    assert "} -" not in text([late], [], Settings())


def counted(
    usages: Sequence[ContainerUsage], hosts: Sequence[HostDevice], names: Names
) -> tuple[list[Any], int]:
    conflicts: list[int] = []
    found = list(families(usages, hosts, NOW, "n1", Settings(names), conflicts.append))
    return found, sum(conflicts)


def test_equal_series_are_told_once_and_counted() -> None:
    """A StatefulSet's old and new pod have one name; one bad series would fail the whole scrape."""
    found, conflicts = counted([used(), used()], [HOST, HOST], Names.V2_8)
    (usage,) = [metric for metric in found if metric.name == "vGPU_device_memory_usage_in_bytes"]
    assert len(usage.samples) == 1
    # 5 of the container, 2 of the host, and of our own isolation, processes and total memory
    assert conflicts == 10


def test_names_that_are_no_text_do_not_spoil_the_scrape(
    container: Callable[..., MonitoredContainer],
) -> None:
    usages = list(collect([container(namespace="\ud800"), container(namespace="gr\u00fcn")], {}))
    scrape = text(usages, [], Settings())
    assert 'podnamespace="?"' in scrape
    assert 'podnamespace="gr\u00fcn"' in scrape


words = st.sampled_from(["\ud800", "\udcff", "?", "\n", '"']) | st.text(
    st.characters(exclude_categories=()), max_size=6
)
small = st.sampled_from(["a", "b", ""])
containers = st.lists(
    st.builds(
        MonitoredContainer,
        small | words,
        small,
        st.just("uid"),
        small,
        st.sampled_from(["d1", "d2", "d3", ""]),
        st.lists(
            st.builds(MonitoredDevice, st.integers(0, 2), small | words, st.none() | st.integers(0, 9), st.none() | st.integers(0, 200), small),
            max_size=3,
        ).map(tuple),
    ),
    max_size=6,
)  # fmt: skip
hosts = st.lists(
    st.builds(HostDevice, small | words, small, small, st.floats(0, 1e6), st.floats(0, 100)),
    max_size=4,
)
REGIONS = {
    "d1": None,
    "d2": RegionError("p", Fault.LENGTH, "r", "m"),
    "d3": Region(FileFacts(1, 2, 3, 0, 0), initialised=True, processes=(), last_kernel_time=5, doubts=frozenset({"used"})),
}  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(containers, hosts, st.sampled_from(Names), st.booleans())
def test_no_two_series_are_ever_equal_and_any_scrape_can_be_read(
    found: list[MonitoredContainer], cards: list[HostDevice], names: Names, legacy: bool
) -> None:
    usages = list(collect(found, REGIONS))
    scrape = text(usages, cards, Settings(names, legacy))
    parsed = list(text_string_to_metric_families(scrape))
    keys = [(s.name, tuple(sorted(s.labels.items()))) for f in parsed for s in f.samples]
    assert len(keys) == len(set(keys))
    assert len({f.name for f in parsed}) == len(parsed)
    scrape.encode()
