"""Lists, health and what the node shows (kubelet-deviceplugin.md 2.5, 2.11)."""

from __future__ import annotations

from typing import Any

import pytest

from deviceplugin.testing.kubelet import Container, Pod

R = "example.com/resource"


def one() -> Pod:
    return Pod("one", (Container("main", {R: 1}),))


async def test_18_devices_change_sides_and_vanish_with_their_plugin(bench: Any) -> None:
    kubelet = await bench.kubelet()
    sick = bench.device("c", health="Unhealthy")
    plugin = await bench.plugin(["a", "b", sick])
    other = await bench.plugin(["x"], resource="example.com/other")
    assert (kubelet.capacity()[R], kubelet.allocatable()[R]) == (3, 2)
    await bench.relist(plugin, bench.device("a", health="Unhealthy"), "b", "c")
    assert (kubelet.capacity()[R], kubelet.allocatable()[R]) == (3, 2)
    await plugin.stop()
    await kubelet.wait_for(lambda: kubelet.allocatable()[R] == 0)
    assert kubelet.capacity()[R] == 3
    kubelet.advance(301)
    assert kubelet.node_patch() == {
        "capacity": {R: "0", other.resource: "1"},
        "allocatable": {R: "0", other.resource: "1"},
    }
    checkpoint = kubelet.checkpoint()
    assert checkpoint is not None
    assert list(checkpoint.registered or {}) == [other.resource]


async def test_19_capacity_is_constant_while_health_changes(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(list("abcd"))
    for healthy in (3, 4, 2, 3, 4):
        listed = [
            bench.device(name, health="Healthy" if at < healthy else "Unhealthy")
            for at, name in enumerate("abcd")
        ]
        await bench.relist(plugin, *listed)
        assert (kubelet.capacity()[R], kubelet.allocatable()[R]) == (4, healthy)


async def test_20_the_grace_concerns_ended_streams_only(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    await bench.relist(plugin, bench.device("a", health="Unhealthy"))
    kubelet.advance(1000)
    assert (kubelet.capacity()[R], kubelet.allocatable()[R]) == (1, 0)
    await bench.relist(plugin, "a")
    assert (kubelet.capacity()[R], kubelet.allocatable()[R]) == (1, 1)


async def test_20_a_device_that_leaves_the_list_leaves_both_amounts(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])
    await bench.relist(plugin, "a")
    assert (kubelet.capacity()[R], kubelet.allocatable()[R]) == (1, 1)


@pytest.mark.parametrize(("away", "left"), [(300, 2), (301, 0)])
async def test_21_a_plugin_gone_counts_nothing_at_once_and_is_dropped_after_the_grace(
    bench: Any, away: float, left: int
) -> None:
    now = [0.0]
    kubelet = await bench.kubelet(clock=lambda: now[0])
    plugin = await bench.plugin(["a", "b"])
    await plugin.stop()
    await kubelet.wait_for(lambda: kubelet.allocatable()[R] == 0)
    assert kubelet.capacity()[R] == 2
    now[0] = away
    assert kubelet.capacity()[R] == left
    await bench.plugin(["a", "b"])
    assert (kubelet.capacity()[R], kubelet.allocatable()[R]) == (2, 2)


async def test_21_a_dropped_resource_is_skipped_silently_by_admission(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    await plugin.stop()
    await kubelet.wait_for(lambda: kubelet.allocatable()[R] == 0)
    assert "no healthy devices present" in await bench.refused(one())
    kubelet.advance(301)
    assert kubelet.capacity() == {R: 0}
    result = await kubelet.admit(one())
    assert result.reason == f"OutOf{R}"
    assert plugin.asked("allocate") == []


@pytest.mark.parametrize("health", ["healthy", "", "Unknown"])
async def test_any_other_health_is_unhealthy(bench: Any, health: str) -> None:
    kubelet = await bench.kubelet()
    await bench.plugin([bench.device("a", health=health)])
    assert (kubelet.capacity()[R], kubelet.allocatable()[R]) == (1, 0)


async def test_an_id_sent_twice_counts_once_and_with_two_healths_twice(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "a"])
    assert kubelet.capacity()[R] == 1
    await bench.list(plugin, "a", bench.device("a", health="Unhealthy"))
    await kubelet.wait_for(lambda: kubelet.capacity()[R] == 2)
    assert kubelet.allocatable()[R] == 1
    assert kubelet.device(R, "a").health == "Unhealthy"


async def test_each_list_rewrites_the_checkpoint_with_the_healthy_ids(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a", "b"])
    await bench.relist(plugin, "b", bench.device("a", health="Unhealthy"), "c")
    checkpoint = kubelet.checkpoint()
    assert checkpoint is not None
    assert checkpoint.registered == {R: ["b", "c"]}


async def test_a_list_above_the_message_limit_ends_the_stream(bench: Any) -> None:
    kubelet = await bench.kubelet(max_message=2000)
    plugin = await bench.plugin(["a"])
    await bench.list(plugin, *(f"device-{n}" for n in range(200)))
    await kubelet.wait_for(lambda: kubelet.allocatable()[R] == 0)
    assert kubelet.capacity()[R] == 1
    errors = [call.error for call in kubelet.calls if call.method == "ListAndWatch"]
    assert any("ResourceExhausted" in error for error in errors)


async def test_27_a_thousand_devices_fit_and_sixty_thousand_do_not(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin([f"GPU-{n:036d}-slice" for n in range(1000)])
    assert kubelet.capacity()[R] == 1000
    await bench.list(plugin, *(f"GPU-{n:053d}-slice" for n in range(60_000)))
    await kubelet.wait_for(lambda: kubelet.allocatable()[R] == 0)


@pytest.mark.parametrize(
    ("version", "gates", "shown"),
    [
        ((1, 34), {}, False),
        ((1, 34), {"ResourceHealthStatus": True}, True),
        ((1, 36), {}, True),
        ((1, 36), {"ResourceHealthStatus": False}, False),
    ],
)
async def test_23_a_pods_status_shows_the_health_of_its_devices(
    bench: Any, version: tuple[int, int], gates: dict[str, bool], shown: bool
) -> None:
    kubelet = await bench.kubelet(kubelet_version=version, gates=gates)
    plugin = await bench.plugin(["a"])
    pod = one()
    await kubelet.admit(pod)

    def health() -> str | None:
        found = kubelet.pod_status(pod.uid).health
        return found["main"][R]["a"] if found else None

    # Not started yet: so it is with a pod whose image cannot be pulled.
    assert health() == ("Healthy" if shown else None)
    await bench.relist(plugin, bench.device("a", health="Unhealthy"))
    assert health() == ("Unhealthy" if shown else None)
    await bench.relist(plugin, "a")
    assert health() == ("Healthy" if shown else None)


async def test_23_health_stays_as_last_listed_and_absent_devices_read_healthy(bench: Any) -> None:
    kubelet = await bench.kubelet(kubelet_version=(1, 36))
    plugin = await bench.plugin(["a", "b"])
    pod = one()
    await kubelet.admit(pod)
    ((held,),) = kubelet.held(pod.uid, "main").values()
    await bench.relist(plugin, bench.device(held, health="Unhealthy"))
    await plugin.stop()
    await kubelet.wait_for(lambda: kubelet.allocatable()[R] == 0)
    assert kubelet.pod_status(pod.uid).health == {"main": {R: {held: "Unhealthy"}}}
    other = await bench.plugin(["z"])
    assert other.streams == 1
    assert kubelet.pod_status(pod.uid).health == {"main": {R: {held: "Healthy"}}}


async def test_23_only_app_containers_have_a_health(bench: Any) -> None:
    kubelet = await bench.kubelet(kubelet_version=(1, 36))
    await bench.plugin(["a", "b"])
    sidecar = Container("side", {R: 1}, init=True, restartable=True)
    pod = Pod("pod", (sidecar, Container("main", {R: 1})))
    await bench.run(pod)
    assert list(kubelet.pod_status(pod.uid).health) == ["main"]
