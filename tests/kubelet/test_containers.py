"""Container start: PreStartContainer, re-Allocate, merging, restarts (2.8, 2.9)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deviceplugin import cdi
from deviceplugin.testing.kubelet import Container, Pod, StartError

R, S = "example.com/resource", "example.com/second"


def pod(count: int = 1, **more: Any) -> Pod:
    return Pod("pod", (Container("main", {R: count}, **more),))


async def fail(request: Any) -> Any:
    raise RuntimeError("not yet")


# --- PreStartContainer ---


async def test_35_pre_start_gets_the_recorded_ids(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b", "c"], pre_start_required=True)
    found = pod(2)
    await bench.run(found)
    (ask,) = plugin.asked("start")
    assert sorted(ask.devices_ids) == list(kubelet.held(found.uid, "main")[R])


async def test_35_pre_start_is_not_called_without_the_option_or_for_quantity_0(
    bench: Any,
) -> None:
    await bench.kubelet()
    plain = await bench.plugin(["a"])
    asking = await bench.plugin(["x"], resource=S, pre_start_required=True)
    await bench.run(Pod("pod", (Container("main", {R: 1, S: 0}),)))
    assert plain.asked("start") == asking.asked("start") == []


async def test_35_a_failing_pre_start_fails_the_start_and_is_tried_again(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"], pre_start_required=True)
    plugin.on_start = fail
    found = pod()
    await kubelet.admit(found)
    with pytest.raises(
        StartError, match=r"PreStartContainer rpc failed with err: rpc error.*not yet"
    ):
        await kubelet.start_container(found.uid, "main")
    assert kubelet.pod_status(found.uid).phase == "Pending"
    plugin.on_start = None
    await kubelet.start_container(found.uid, "main")
    assert kubelet.pod_status(found.uid).phase == "Running"


async def test_35_a_hanging_pre_start_is_given_up(bench: Any) -> None:
    import asyncio

    kubelet = await bench.kubelet(prestart_timeout=0.2)
    plugin = await bench.plugin(["a"], pre_start_required=True)
    plugin.on_start = lambda request: asyncio.sleep(60)
    found = pod()
    await kubelet.admit(found)
    with pytest.raises(StartError, match="DeadlineExceeded"):
        await kubelet.start_container(found.uid, "main")
    assert [finding.rule for finding in kubelet.findings] == [11]


async def test_pre_start_of_a_plugin_that_is_gone_fails_the_start(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"], pre_start_required=True)
    found = pod()
    await bench.run(found)
    await plugin.stop()
    await kubelet.wait_for(lambda: kubelet.allocatable()[R] == 0)
    with pytest.raises(StartError, match="has been stopped"):
        await kubelet.restart_container(found.uid, "main")
    kubelet.advance(301)
    kubelet.capacity()
    with pytest.raises(StartError, match=f"endpoint not found in cache.*{R}"):
        await kubelet.restart_container(found.uid, "main")


async def test_in_the_gap_after_a_restart_pre_start_is_left_out(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"], pre_start_required=True)
    found = pod()
    await bench.run(found)
    await kubelet.restart()
    config = await kubelet.restart_container(found.uid, "main")
    assert config.effective_env()["IDS"] == "a"
    assert len(plugin.asked("start")) == 1


# --- restarts ---


async def test_41_a_restarted_container_has_the_same_ids_and_no_second_allocate(
    bench: Any,
) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"], pre_start_required=True)
    found = pod()
    before = (await bench.run(found))["main"]
    after = await kubelet.restart_container(found.uid, "main")
    assert after == before
    assert len(plugin.asked("allocate")) == 1
    assert len(plugin.asked("start")) == 2
    assert plugin.asked("start")[0] == plugin.asked("start")[1]


async def test_53_a_new_plugin_between_allocate_and_start_changes_nothing(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    found = pod()
    await kubelet.admit(found)
    await plugin.stop()
    second = await bench.plugin(["a"], pre_start_required=True)
    config = await kubelet.start_container(found.uid, "main")
    assert config.effective_env() == {"IDS": "a"}
    assert len(second.asked("start")) == 1
    assert second.asked("allocate") == []


async def test_init_containers_and_sidecars_restart_with_their_own_ids(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a", "b"])
    found = Pod(
        "pod",
        (
            Container("first", {R: 1}, init=True),
            Container("side", {R: 1}, init=True, restartable=True),
            Container("main", {R: 1}),
        ),
    )
    before = await bench.run(found)
    for container in found.ordered():
        assert await kubelet.restart_container(found.uid, container.name) == before[container.name]


# --- re-Allocate ---


async def test_a_container_without_records_is_allocated_at_its_start(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])
    found = pod()
    await kubelet.admit(found)
    await kubelet.restart(delete_checkpoint=True)
    await plugin.serve_again()
    config = await kubelet.start_container(found.uid, "main")
    assert config.effective_env()["IDS"] in {"a", "b"}
    assert len(plugin.asked("allocate")) == 2


async def test_with_pre_start_the_allocation_at_the_start_is_never_reached(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"], pre_start_required=True)
    found = pod()
    await kubelet.admit(found)
    await kubelet.restart(delete_checkpoint=True)
    await plugin.serve_again()
    with pytest.raises(StartError, match="no devices found allocated in local cache"):
        await kubelet.start_container(found.uid, "main")
    assert len(plugin.asked("allocate")) == 1


async def test_an_ended_pod_is_not_allocated_again(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    found = pod()
    await kubelet.admit(found)
    kubelet.finish_pod(found.uid)
    kubelet.listed_pods()
    config = await kubelet.start_container(found.uid, "main")
    assert config.envs == ()
    assert len(plugin.asked("allocate")) == 1
    assert kubelet.pod_status(found.uid).phase == "Succeeded"


async def test_a_failing_allocate_at_the_start_fails_the_start(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    found = pod()
    await kubelet.admit(found)
    await kubelet.restart(delete_checkpoint=True)
    plugin.on_allocate = fail
    await plugin.serve_again()
    with pytest.raises(StartError, match="not yet"):
        await kubelet.start_container(found.uid, "main")


# --- merging ---


async def test_28_what_two_resources_give_is_all_there(bench: Any) -> None:
    await bench.kubelet()
    first, second = await bench.plugin(["a"]), await bench.plugin(["x"], resource=S)
    first.on_allocate = bench.answer(
        envs={"A": "1"},
        mounts=[{"container_path": "/m1", "host_path": "/h1", "read_only": True}],
        devices=[{"container_path": "/dev/a", "host_path": "/dev/a", "permissions": "rw"}],
        annotations={"one": "1"},
        cdi_devices=[{"name": "example.com/dev=1"}],
    )
    second.on_allocate = bench.answer(
        envs={"B": "2"},
        mounts=[{"container_path": "/m2", "host_path": "/h2"}],
        devices=[{"container_path": "/dev/b", "host_path": "/dev/b", "permissions": "r"}],
        annotations={"two": "2"},
        cdi_devices=[{"name": "example.com/dev=2"}, {"name": "example.com/dev=1"}],
    )
    config = (await bench.run(Pod("pod", (Container("main", {R: 1, S: 1}),))))["main"]
    assert config.effective_env() == {"A": "1", "B": "2"}
    assert {(m.container_path, m.host_path, m.read_only) for m in config.mounts} == {
        ("/m1", "/h1", True),
        ("/m2", "/h2", False),
    }
    assert {(d.container_path, d.permissions) for d in config.devices} == {
        ("/dev/a", "rw"),
        ("/dev/b", "r"),
    }
    assert config.annotations == {"one": "1", "two": "2"}
    assert sorted(config.cdi_devices) == ["example.com/dev=1", "example.com/dev=2"]


async def test_of_two_values_the_first_wins_and_the_order_is_random(bench: Any) -> None:
    seen = set()
    for seed in range(6):
        kubelet = await bench.kubelet(seed=seed)
        first, second = await bench.plugin(["a"]), await bench.plugin(["x"], resource=S)
        first.on_allocate = bench.answer(envs={"A": "1"}, annotations={"k": "1"})
        second.on_allocate = bench.answer(envs={"A": "2"}, annotations={"k": "2"})
        config = (await bench.run(Pod("pod", (Container("main", {R: 1, S: 1}),))))["main"]
        assert config.envs == (("A", config.annotations["k"]),)
        assert [finding.rule for finding in kubelet.findings] == [10, 10]
        seen.add(config.annotations["k"])
        await bench.close()
    assert seen == {"1", "2"}


async def test_the_pods_own_variable_comes_last_and_wins(bench: Any) -> None:
    await bench.kubelet()
    plugin = await bench.plugin(["a"])
    plugin.on_allocate = bench.answer(envs={"A": "plugin", "B": "plugin"})
    config = (await bench.run(pod(env={"A": "own"})))["main"]
    assert config.envs[-1] == ("A", "own")
    assert config.effective_env() == {"A": "own", "B": "plugin"}


@pytest.mark.parametrize(
    ("version", "gates", "honoured"),
    [
        ((1, 27), {}, False),
        ((1, 28), {}, False),
        ((1, 28), {"DevicePluginCDIDevices": True}, True),
        ((1, 29), {}, True),
        ((1, 36), {}, True),
    ],
)
async def test_47_cdi_devices_reach_the_container_where_the_version_knows_them(
    bench: Any, version: tuple[int, int], gates: dict[str, bool], honoured: bool
) -> None:
    await bench.kubelet(kubelet_version=version, gates=gates)
    plugin = await bench.plugin(["a"])
    plugin.on_allocate = bench.answer(cdi_devices=[{"name": "example.com/dev=1"}])
    directory: Path = bench.root / "cdi"
    directory.mkdir()
    (directory / "example.json").write_text(
        '{"cdiVersion":"0.6.0","kind":"example.com/dev","devices":[{"name":"1","containerEdits":'
        '{"env":["CDI_DEVICE=1"]}}]}'
    )
    config = (await bench.run(pod()))["main"]
    oci = config.apply_cdi([directory])
    assert ("CDI_DEVICE=1" in oci["process"]["env"]) == honoured


async def test_47_annotations_name_cdi_devices_in_every_version(bench: Any) -> None:
    await bench.kubelet(kubelet_version=(1, 27))
    plugin = await bench.plugin(["a"])
    plugin.on_allocate = bench.answer(
        annotations={"cdi.k8s.io/example_a": "example.com/dev=1,example.com/dev=2"},
        cdi_devices=[{"name": "example.com/dev=1"}],
    )
    config = (await bench.run(pod()))["main"]
    assert config.cdi_names() == ("example.com/dev=1", "example.com/dev=2")
    with pytest.raises(cdi.CDIError):
        config.apply_cdi([bench.root / "none"])
