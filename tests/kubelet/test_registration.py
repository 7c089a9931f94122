"""Registration, re-registration and the ends of plugins (kubelet-deviceplugin.md 2.2, 2.4, 2.12)."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from deviceplugin.testing.kubelet import Container, Pod

R = "example.com/resource"


async def refusal(plugin: Any, **changes: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await plugin.register(**changes)
    assert raised.value.code() is grpc.StatusCode.UNKNOWN
    return str(raised.value.details())


def ended(kubelet: Any) -> int:
    return sum(call.method == "ListAndWatch" and bool(call.error) for call in kubelet.calls)


async def fail(request: Any) -> Any:
    raise RuntimeError("no options today")


# --- what is checked, in order ---


async def test_a_wrong_version_is_named_before_a_wrong_name(bench: Any) -> None:
    await bench.kubelet()
    plugin = bench.new_plugin()
    text = await refusal(plugin, version="v1alpha", resource_name="gpu")
    assert text == (
        'requested API version "v1alpha" is not supported by kubelet. '
        'Supported version is ["v1beta1"]'
    )


async def test_an_illegal_resource_name_is_refused(bench: Any) -> None:
    await bench.kubelet()
    text = await refusal(bench.new_plugin(), resource_name="gpu")
    assert text == 'the ResourceName "gpu" is invalid'


async def test_a_plugin_that_does_not_listen_is_refused_after_the_dial(bench: Any) -> None:
    kubelet = await bench.kubelet(dial_timeout=0.2)
    text = await refusal(bench.new_plugin())
    assert text == "failed to dial device plugin: context deadline exceeded"
    assert kubelet.capacity() == {}


async def test_13_without_options_there_is_no_stream_and_no_resource(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = bench.new_plugin()
    plugin.on_options = fail
    await plugin.serve()
    text = await refusal(plugin)
    assert text.startswith("failed to get device plugin options: rpc error: code = Unknown")
    assert "no options today" in text
    assert plugin.streams == 0
    assert kubelet.capacity() == {}


async def test_options_are_asked_for_while_register_is_pending(bench: Any) -> None:
    await bench.kubelet()
    plugin = bench.new_plugin()
    asked = asyncio.Event()
    answer = asyncio.Event()

    async def wait(request: Any) -> Any:
        asked.set()
        await answer.wait()
        return plugin.options

    plugin.on_options = wait
    await plugin.serve()
    registering = asyncio.create_task(plugin.register())
    await asyncio.wait_for(asked.wait(), 5)
    assert not registering.done()
    assert plugin.streams == 0
    answer.set()
    await registering


async def test_only_the_options_of_the_plugin_count(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = bench.new_plugin()
    await plugin.serve()
    await bench.list(plugin, "a")
    plugin.options.pre_start_required = True
    given = type(plugin.options)()
    plugin.on_options = lambda request: given
    await plugin.register()
    await bench.listed(plugin)
    await bench.run(one())
    assert plugin.asked("start") == []
    assert [finding.rule for finding in kubelet.findings] == [1]


@pytest.mark.parametrize(("version", "bounded"), [((1, 34), False), ((1, 35), True)])
async def test_the_limit_of_register_bounds_the_options_since_1_35(
    bench: Any, version: tuple[int, int], bounded: bool
) -> None:
    kubelet = await bench.kubelet(kubelet_version=version)
    plugin = bench.new_plugin()
    answer = asyncio.Event()

    async def wait(request: Any) -> Any:
        await answer.wait()
        return plugin.options

    plugin.on_options = wait
    await plugin.serve()
    await bench.list(plugin, "a")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await plugin.register(timeout=0.3)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    if bounded:
        await kubelet.wait_for(lambda: kubelet.in_flight("GetDevicePluginOptions") == 0)
        answer.set()
        assert not kubelet.is_watched(R)
    else:
        answer.set()
        await bench.listed(plugin)


# --- one registration after another ---


async def test_2_after_each_registration_exactly_the_new_list_counts(bench: Any) -> None:
    kubelet = await bench.kubelet(takeovers=True, client_race="fixed")
    await bench.plugin(["d1", "d2"])
    assert kubelet.capacity() == {R: 2}
    await bench.plugin(["d1", "d2"])
    assert kubelet.capacity() == {R: 2}
    await bench.plugin(["d3"])
    assert kubelet.capacity() == {R: 1}
    assert set(kubelet.devices(R)) == {"d3"}
    assert kubelet.findings == []


async def test_one_registration_brings_one_options_and_one_stream(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = await bench.plugin(["a"])
    await plugin.end_stream()
    await kubelet.wait_for(lambda: kubelet.allocatable() == {R: 0})
    assert plugin.streams == 1
    assert [name for name, _ in plugin.seen] == ["options"]
    methods = [call.method for call in kubelet.calls if not call.error]
    assert sorted(methods) == ["GetDevicePluginOptions", "ListAndWatch", "Register"]


async def test_14_a_stream_that_fails_at_once_leaves_nothing_and_is_not_retried(
    bench: Any,
) -> None:
    kubelet = await bench.kubelet()
    plugin = bench.new_plugin()

    async def broken() -> Any:
        raise RuntimeError("no list today")
        yield

    plugin.on_list = broken
    await plugin.serve()
    await plugin.register()
    await kubelet.wait_for(lambda: kubelet.capacity() == {R: 0})
    assert kubelet.allocatable() == {R: 0}
    assert plugin.streams == 1
    assert any("no list today" in call.error for call in kubelet.calls)


async def test_a_registered_plugin_without_a_list_has_no_key_and_with_an_empty_one_zero(
    bench: Any,
) -> None:
    kubelet = await bench.kubelet()
    plugin = bench.new_plugin()
    await plugin.serve()
    await plugin.register()
    await kubelet.wait_for(lambda: plugin.streams == 1)
    assert kubelet.capacity() == {}
    await bench.relist(plugin)
    assert kubelet.capacity() == {R: 0}


async def test_11_in_old_versions_the_end_of_the_old_stream_disconnects_the_new_plugin(
    bench: Any,
) -> None:
    kubelet = await bench.kubelet(takeovers=True, settle=0.05)
    old = await bench.plugin(["a", "b"])
    new = await bench.plugin(["a", "b"])
    await old.stop()
    await kubelet.wait_for(lambda: kubelet.allocatable() == {R: 0})
    assert not kubelet.is_watched(R)
    await new.register()
    await bench.listed(new)
    assert kubelet.allocatable() == {R: 2}


async def test_11_since_1_37_the_end_of_the_old_stream_leaves_the_new_plugin_alone(
    bench: Any,
) -> None:
    kubelet = await bench.kubelet(kubelet_version=(1, 37), takeovers=True)
    old = await bench.plugin(["a", "b"])
    await bench.plugin(["a", "b"])
    await old.stop()
    await kubelet.wait_for(lambda: ended(kubelet) == 1)
    await asyncio.sleep(0.1)
    assert kubelet.is_watched(R)
    assert kubelet.allocatable() == {R: 2}


async def test_in_old_versions_an_open_old_stream_goes_on_feeding_the_table(bench: Any) -> None:
    kubelet = await bench.kubelet(takeovers=True)
    old = await bench.plugin(["a", "b"])
    await bench.plugin(["c"])
    await bench.list(old, "a")
    await kubelet.wait_for(lambda: set(kubelet.devices(R)) == {"a"})


async def test_in_old_versions_a_failed_register_hides_the_death_of_the_plugin_that_serves(
    bench: Any,
) -> None:
    kubelet = await bench.kubelet(settle=0.05)
    served = await bench.plugin(["a"])
    kubelet.timeouts.dial = 0.2
    await refusal(bench.new_plugin())
    await served.stop()
    await kubelet.wait_for(lambda: ended(kubelet) == 1)
    await asyncio.sleep(0.1)
    assert kubelet.allocatable() == {R: 1}
    assert "code = " in await bench.refused(one())


async def test_since_1_37_a_failed_register_hides_nothing(bench: Any) -> None:
    kubelet = await bench.kubelet(kubelet_version=(1, 37))
    served = await bench.plugin(["a"])
    kubelet.timeouts.dial = 0.2
    await refusal(bench.new_plugin())
    await served.stop()
    await kubelet.wait_for(lambda: kubelet.allocatable() == {R: 0})


async def test_since_1_37_the_same_path_is_refused_while_its_stream_is_open(bench: Any) -> None:
    kubelet = await bench.kubelet(kubelet_version=(1, 37))
    plugin = await bench.plugin(["a"])
    assert "already registered" in await refusal(plugin)
    assert kubelet.is_watched(R)
    assert plugin.streams == 1


async def test_since_1_37_a_failed_register_leaves_its_path_free(bench: Any) -> None:
    await bench.kubelet(kubelet_version=(1, 37))
    plugin = bench.new_plugin()
    plugin.on_options = fail
    await plugin.serve()
    await bench.list(plugin, "a")
    assert "no options today" in await refusal(plugin)
    plugin.on_options = None
    await plugin.register()
    await bench.listed(plugin)


async def test_before_1_37_the_same_path_replaces_the_registration(bench: Any) -> None:
    kubelet = await bench.kubelet(takeovers=True)
    plugin = await bench.plugin(["a"])
    await plugin.register()
    await kubelet.wait_for(lambda: plugin.streams == 2)
    await kubelet.wait_for(lambda: kubelet.is_watched(R))  # the second list is on its way


async def test_several_registers_are_served_at_once(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugins = []
    for resource in ("example.com/a", "example.com/b", "example.com/c"):
        plugin = bench.new_plugin(resource)
        await plugin.serve()
        await bench.list(plugin, "x")
        plugins.append(plugin)
    await asyncio.gather(*(plugin.register() for plugin in plugins))
    for plugin in plugins:
        await bench.listed(plugin)
    assert kubelet.capacity() == {plugin.resource: 1 for plugin in plugins}


# --- what a test can break ---


async def test_7_registers_are_refused_as_often_as_asked(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = bench.new_plugin()
    await plugin.serve()
    kubelet.faults.refuse_registrations = 2
    assert await refusal(plugin) == "refused for the test"
    assert await refusal(plugin) == "refused for the test"
    await plugin.register()
    registers = [call for call in kubelet.calls if call.method == "Register"]
    assert [bool(call.error) for call in registers] == [True, True, False]


async def test_12_a_register_may_be_accepted_and_forgotten(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = bench.new_plugin()
    await plugin.serve()
    kubelet.faults.ignore_registrations = True
    await plugin.register()
    await asyncio.sleep(0.05)
    assert plugin.streams == 0


async def test_a_register_may_hang_until_released(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = bench.new_plugin()
    await plugin.serve()
    kubelet.faults.hang_registrations = True
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await plugin.register(timeout=0.2)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    pending = asyncio.create_task(plugin.register())
    await asyncio.sleep(0.1)
    assert not pending.done()
    kubelet.faults.hang_registrations = False
    await pending


async def test_a_register_may_be_slow(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = bench.new_plugin()
    await plugin.serve()
    kubelet.faults.register_delay = 0.3
    with pytest.raises(grpc.aio.AioRpcError):
        await plugin.register(timeout=0.1)
    await plugin.register(timeout=5)
    assert plugin.asked("options") != []


async def test_a_dropped_stream_is_seen_by_the_plugin_and_takes_its_devices(bench: Any) -> None:
    kubelet = await bench.kubelet()
    plugin = bench.new_plugin()
    cancelled = asyncio.Event()

    async def lists() -> Any:
        try:
            yield type(plugin._message)(devices=[bench.device("a")])
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    plugin.on_list = lists
    await plugin.serve()
    await plugin.register()
    await kubelet.wait_registered(R)
    await kubelet.drop_stream(R)
    await asyncio.wait_for(cancelled.wait(), 5)
    assert kubelet.capacity() == {R: 1}
    assert kubelet.allocatable() == {R: 0}
    await plugin.register()
    await kubelet.wait_for(lambda: kubelet.allocatable() == {R: 1})
    assert kubelet.findings == []


def one() -> Pod:
    return Pod("one", (Container("main", {R: 1}),))
