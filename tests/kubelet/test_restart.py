"""Restarts of kubelet and of the node, and what becomes of pods (2.1, 2.6, 2.9, 2.10)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deviceplugin.testing.kubelet import Admitted, Container, Failed, Pod

R = "example.com/resource"


def pod(count: int = 1, name: str = "pod") -> Pod:
    return Pod(name, (Container("main", {R: count}),))


# --- the directory ---


async def test_1_a_kubelet_starts_twice_in_one_directory_and_finds_its_checkpoint(
    bench: Any,
) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a"])
    await kubelet.stop()
    await kubelet.start()
    assert kubelet.kubelet_socket.is_socket()
    assert kubelet.capacity() == {R: 0}
    assert kubelet.findings == []


@pytest.mark.parametrize(
    ("version", "asked", "left"),
    [
        ((1, 32), None, False),
        ((1, 33), None, True),
        ((1, 32), False, True),
        ((1, 33), True, False),
    ],
)
async def test_4_a_start_removes_sockets_and_in_old_versions_every_file(
    bench: Any, version: tuple[int, int], asked: bool | None, left: bool
) -> None:
    kubelet = await bench.kubelet(kubelet_version=version)
    plugin = await bench.plugin(["a"])
    file, folder = kubelet.plugin_dir / "file", kubelet.plugin_dir / "folder"
    file.write_text("x")
    folder.mkdir()
    await kubelet.restart(wipe_all_files=asked)
    assert not plugin.socket.exists()
    assert file.exists() == left
    assert folder.exists()
    assert kubelet.checkpoint() is not None


async def test_4_a_restart_ends_streams_and_shows_nothing_until_the_plugin_is_back(
    bench: Any,
) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])
    await kubelet.restart()
    assert not kubelet.is_watched(R)
    assert kubelet.node_patch() == {"capacity": {R: "0"}, "allocatable": {R: "0"}}
    await plugin.serve_again()
    assert kubelet.allocatable() == {R: 2}


async def test_2_1_a_remembered_resource_is_dropped_after_the_grace(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a"])
    await kubelet.restart()
    assert "no healthy devices present" in await bench.refused(pod())
    kubelet.advance(301)
    assert kubelet.capacity() == {R: 0}
    assert kubelet.checkpoint().registered == {}


# --- pods over a restart of kubelet ---


async def test_39_the_state_after_a_reload_equals_the_state_before(bench: Any) -> None:
    kubelet = await bench.kubelet(numa_nodes=2)
    plugin = await bench.plugin([bench.device("a", 0, 1), bench.device("b"), "c"])
    plugin.on_allocate = bench.answer(
        envs={"A": "1"}, cdi_devices=[{"name": "example.com/dev=1"}], annotations={"k": "v"}
    )
    found = pod(2)
    before = await bench.run(found)
    records = dict(kubelet.records)
    await kubelet.restart()
    assert kubelet.records == records
    assert await kubelet.start_pod(found.uid) == before


async def test_42_a_restart_leaves_running_pods_alone(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])
    found = pod()
    await bench.run(found)
    held = kubelet.held(found.uid, "main")
    results = await kubelet.restart()
    assert results == {found.uid: Admitted(found)}
    assert kubelet.held(found.uid, "main") == held
    assert kubelet.pod_status(found.uid).phase == "Running"
    await plugin.serve_again()
    other = pod()
    await bench.run(other)
    assert kubelet.held(other.uid, "main") != held
    assert len(plugin.asked("allocate")) == 2


async def test_42_once_all_pods_are_known_a_running_container_is_checked_like_others(
    bench: Any,
) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])
    found = pod(2)
    await bench.run(found)
    await kubelet.restart()
    await bench.list(plugin, "b", bench.device("a", health="Unhealthy"))
    await plugin.serve_again()
    assert "previously allocated devices are no longer healthy" in await bench.refused(found)


async def test_43_kubelet_and_plugin_may_both_restart(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])
    found = pod()
    await bench.run(found)
    held = kubelet.held(found.uid, "main")
    await plugin.stop()
    await kubelet.restart()
    second = await bench.plugin(["a", "b"])
    assert kubelet.held(found.uid, "main") == held
    await kubelet.restart_container(found.uid, "main")
    assert second.asked("allocate") == []


async def test_10_a_new_plugin_finds_the_records_and_the_same_configuration(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])
    found = pod()
    before = (await bench.run(found))["main"]
    await plugin.stop()
    await bench.plugin(["a", "b"])
    assert kubelet.findings == []
    assert await kubelet.restart_container(found.uid, "main") == before


async def test_a_pod_admitted_but_not_running_is_refused_at_a_restart(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a"])
    found = pod()
    await kubelet.admit(found)
    result = (await kubelet.restart())[found.uid]
    assert isinstance(result, Failed)
    assert result.reason == "UnexpectedAdmissionError"
    assert "no healthy devices present" in result.message


async def test_a_pod_whose_init_container_had_devices_is_refused_at_a_restart(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a"])
    first = Container("first", {R: 1}, init=True)
    found = Pod("pod", (first, Container("main", {R: 1})))
    await bench.run(found)
    assert isinstance((await kubelet.restart())[found.uid], Failed)
    assert kubelet.pod_status(found.uid).phase == "Failed"
    await bench.plugin(["a"])
    await kubelet.admit(found)
    assert kubelet.pod_status(found.uid).phase == "Pending"


async def test_a_running_sidecar_survives_a_restart(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a", "b"])
    side = Container("side", {R: 1}, init=True, restartable=True)
    found = Pod("pod", (side, Container("main", {R: 1})))
    await bench.run(found)
    assert isinstance((await kubelet.restart())[found.uid], Admitted)


async def test_pods_are_admitted_again_when_the_test_says_so(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    found = pod()
    await kubelet.admit(found)
    assert await kubelet.restart(readmit=False) == {}
    await plugin.serve_again()
    assert await kubelet.readmit() == {found.uid: Admitted(found)}
    assert len(plugin.asked("allocate")) == 1


async def test_until_all_pods_are_known_nothing_is_released(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    found = pod()
    await bench.run(found)
    await kubelet.stop()
    kubelet.delete_pod(found.uid)
    await kubelet.start(readmit=False)
    await plugin.serve_again()
    assert "Available: 0" in await bench.refused(pod())
    await kubelet.readmit()
    assert isinstance(await kubelet.admit(pod()), Admitted)


async def test_44_a_pod_that_had_ended_is_not_admitted_again(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    found = pod()
    await bench.run(found)
    kubelet.finish_pod(found.uid)
    await plugin.stop()
    assert await kubelet.restart() == {}
    assert kubelet.pod_status(found.uid).phase == "Succeeded"


async def test_45_a_pod_deleted_while_kubelet_was_down_frees_its_ids(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    found = pod()
    await bench.run(found)
    await kubelet.stop()
    kubelet.delete_pod(found.uid)
    await kubelet.start()
    await plugin.serve_again()
    second = found.recreated()
    assert (second.name, second.containers) == (found.name, found.containers)
    await bench.run(second)
    assert kubelet.held(second.uid, "main") == {R: ("a",)}
    assert kubelet.held(found.uid, "main") == {}


# --- the checkpoint ---


async def test_a_lost_checkpoint_lets_running_pods_be_and_forgets_their_ids(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    found = pod()
    await bench.run(found)
    assert await kubelet.restart(delete_checkpoint=True) == {found.uid: Admitted(found)}
    assert kubelet.records == {}
    assert kubelet.capacity() == {}
    await plugin.serve_again()
    # The id counts as free, so the plugin is asked for it again; only the node check sees the pod.
    result = await kubelet.admit(pod())
    assert isinstance(result, Failed)
    assert result.reason == f"OutOf{R}"
    assert [[*ask.container_requests[0].devices_ids] for ask in plugin.asked("allocate")] == [
        ["a"],
        ["a"],
    ]


async def test_a_corrupt_checkpoint_is_a_finding_and_kubelet_starts_without(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a"])
    await bench.run(pod())
    await kubelet.restart(corrupt_checkpoint=True)
    assert kubelet.records == {}
    assert [finding.rule for finding in kubelet.findings] == [0]
    assert "corrupt checkpoint" in str(kubelet.findings[0])


async def test_entries_of_deleted_pods_stay_until_the_next_write(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])
    found = pod()
    await bench.run(found)
    kubelet.delete_pod(found.uid)
    kubelet.listed_pods()
    assert [entry.pod_uid for entry in kubelet.checkpoint().entries] == [found.uid]
    await bench.relist(plugin, "b", "a", "c")
    assert kubelet.checkpoint().entries == ()


# --- the node ---


async def test_46_after_a_reboot_pods_are_refused_before_the_plugin_is_back(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    found = pod()
    await bench.run(found)
    await plugin.stop()
    result = (await kubelet.reboot())[found.uid]
    assert isinstance(result, Failed)
    assert result.reason == "UnexpectedAdmissionError"
    await bench.plugin(["a"])
    assert await bench.run(found.recreated())


async def test_46_pods_without_devices_come_back_after_a_reboot(bench: Any) -> None:
    kubelet = await bench.kubelet()
    found = Pod("plain", (Container("main"),))
    await bench.run(found)
    assert isinstance((await kubelet.reboot())[found.uid], Admitted)
    assert kubelet.pod_status(found.uid).phase == "Pending"


async def test_46_a_plugin_that_is_faster_than_the_pods_keeps_their_ids(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"], pre_start_required=True)
    found = pod()
    before = await bench.run(found)
    await plugin.stop()
    await kubelet.reboot(readmit=False)
    second = await bench.plugin(["a", "b"], pre_start_required=True)
    assert isinstance((await kubelet.readmit())[found.uid], Admitted)
    assert await kubelet.start_pod(found.uid) == before
    assert second.asked("allocate") == []
    assert len(second.asked("start")) == 1


async def test_a_reboot_without_a_checkpoint_starts_pods_without_their_devices(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    found = pod()
    await bench.run(found)
    await plugin.stop()
    result = (await kubelet.reboot(delete_checkpoint=True))[found.uid]
    assert isinstance(result, Admitted)
    config = await kubelet.start_container(found.uid, "main")
    assert config.envs == ()


async def test_a_reboot_empties_what_lies_in_memory_only(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a"])
    run: Path = bench.root / "run"
    (run / "deep").mkdir(parents=True)
    (run / "deep" / "file").write_text("x")
    (run / "file").write_text("x")
    await kubelet.reboot(volatile=[run, bench.root / "absent"])
    assert list(run.iterdir()) == []
    assert kubelet.checkpoint().registered == {R: ["a"]}


# --- pods of one name ---


async def test_a_pod_recreated_under_its_name_is_another_pod(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin(["a", "b"])
    found = Pod("pod", (Container("main", {R: 1}),), annotations={"example.com/k": "v"})
    await bench.run(found)
    second = found.recreated()
    await bench.run(second)
    assert second.uid != found.uid
    assert kubelet.pods[second.uid].annotations == {"example.com/k": "v"}
    assert kubelet.held(second.uid, "main") != kubelet.held(found.uid, "main")
    kubelet.delete_pod(found.uid)
    assert list(kubelet.pods) == [second.uid]
