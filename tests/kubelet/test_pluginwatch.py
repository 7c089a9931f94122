"""Registration by the watched directory (kubelet-deviceplugin.md 1.3; 3.5: 3)."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any

import pytest

R = "example.com/resource"


async def placed(bench: Any, *devices: str, under: str = "", **info: Any) -> Any:
    """A plugin that serves both services on a socket in the watched directory."""
    plugin = bench.new_plugin()
    directory = plugin.kubelet.registry_dir / under
    directory.mkdir(parents=True, exist_ok=True)
    plugin.socket = directory / plugin.socket.name
    for name, value in info.items():
        plugin.info.ClearField(name)
        plugin.info.MergeFrom(type(plugin.info)(**{name: value}))
    await bench.list(plugin, *devices)
    await plugin.serve()
    return plugin


async def test_3_a_socket_in_the_directory_is_registered_and_told_so(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await placed(bench, "a", "b")
    await kubelet.wait_registered(R)
    await kubelet.wait_for(lambda: plugin.notified)
    assert [(s.plugin_registered, s.error) for s in plugin.notified] == [(True, "")]
    assert kubelet.allocatable() == {R: 2}
    assert kubelet.findings == []


async def test_3_one_plugin_after_another_counts_with_its_own_list(bench: Any) -> None:
    kubelet = await bench.kubelet(client_race="fixed", takeovers=True)
    for devices in (("a", "b"), ("a", "b"), ("c",)):
        plugin = await placed(bench, *devices)
        await kubelet.wait_for(lambda seen=plugin: seen.notified)
        await kubelet.wait_devices(R, lambda found, want=devices: {*found} == {*want})
        assert kubelet.capacity() == {R: len(devices)}


async def test_the_endpoint_may_be_another_socket(bench: Any) -> None:
    kubelet = await bench.kubelet()
    serving = bench.new_plugin()
    await bench.list(serving, "a")
    await serving.serve()
    announcing = await placed(bench, endpoint=str(serving.socket))
    await kubelet.wait_registered(R)
    assert (serving.streams, announcing.streams) == (1, 0)


async def test_a_removed_socket_deregisters(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await placed(bench, "a")
    await kubelet.wait_registered(R)
    plugin.socket.unlink()
    await kubelet.wait_for(lambda: kubelet.allocatable() == {R: 0})
    assert kubelet.capacity() == {R: 1}
    assert kubelet.findings == []


@pytest.mark.parametrize(
    ("info", "text"),
    [
        ({"type": "Toaster"}, "no handler registered for plugin type: Toaster"),
        ({"name": "gpu"}, 'the ResourceName "gpu" is invalid'),
        ({"supported_versions": ["v1"]}, 'requested API version "v1" is not supported'),
        ({"endpoint": "/tmp/ek-nobody.sock"}, "failed to dial device plugin"),
    ],
)
async def test_what_kubelet_cannot_register_is_told_why_and_tried_again(
    bench: Any, info: dict[str, Any], text: str
) -> None:
    kubelet = await bench.kubelet(dial_timeout=0.2)
    plugin = await placed(bench, "a", **info)
    await kubelet.wait_for(lambda: plugin.notified)
    assert not plugin.notified[0].plugin_registered
    assert text in plugin.notified[0].error
    assert kubelet.capacity() == {}
    kubelet.advance(10)
    await kubelet.wait_for(lambda: len(plugin.notified) > 1)


async def test_retries_wait_longer_each_time(bench: Any) -> None:
    now = [0.0]
    kubelet = await bench.kubelet(clock=lambda: now[0])
    plugin = await placed(bench, "a", type="Toaster")

    for at, tries in ((0.0, 1), (0.4, 1), (0.5, 2), (1.4, 2), (1.5, 3)):
        now[0] = at
        await asyncio.sleep(0.15)
        await kubelet.wait_for(lambda wanted=tries: len(plugin.notified) >= wanted)
        assert len(plugin.notified) == tries


async def test_a_plugin_that_fails_the_good_news_is_deregistered(bench: Any) -> None:
    kubelet = await bench.kubelet()

    async def fail(request: Any) -> Any:
        raise RuntimeError("I did not want to")

    plugin = await placed(bench, "a")
    plugin.on_notify = fail
    await kubelet.wait_for(lambda: plugin.notified)
    await kubelet.wait_for(lambda: not kubelet.is_watched(R))
    plugin.on_notify = None
    kubelet.advance(10)
    await kubelet.wait_registered(R)


@pytest.mark.parametrize("kind", ["CSIPlugin", "DRAPlugin"])
async def test_other_kubelet_plugins_are_left_alone(bench: Any, kind: str) -> None:
    kubelet = await bench.kubelet()
    other = await placed(bench, "a", type=kind)
    await placed(bench, "a")
    await kubelet.wait_registered(R)
    assert other.notified == []


async def test_hidden_files_and_ordinary_files_are_ignored_and_folders_searched(
    bench: Any,
) -> None:
    kubelet = await bench.kubelet()
    (kubelet.registry_dir / "file").write_text("x")
    plugin = await placed(bench, "a", under="deep")
    await kubelet.wait_registered(R)
    hidden = bench.new_plugin("example.com/hidden")
    hidden.socket = kubelet.registry_dir / ".hidden.sock"
    await hidden.serve()
    last = await placed(bench, name="example.com/last")
    await kubelet.wait_for(lambda: last.notified)
    assert plugin.notified
    await asyncio.sleep(0.2)
    assert hidden.notified == []


async def test_sockets_in_the_directory_survive_a_restart_and_are_registered_again(
    bench: Any,
) -> None:
    kubelet = await bench.kubelet()
    plugin = await placed(bench, "a")
    await kubelet.wait_registered(R)
    await kubelet.restart()
    await kubelet.wait_registered(R)
    assert plugin.streams == 2


async def test_a_vanished_directory_is_no_crash(bench: Any) -> None:
    kubelet = await bench.kubelet()
    await placed(bench, "a")
    await kubelet.wait_registered(R)
    shutil.rmtree(kubelet.registry_dir)
    await kubelet.wait_for(lambda: kubelet.allocatable() == {R: 0})
    await placed(bench, "a")
    await kubelet.wait_registered(R)
