"""The agent's view of a collection outlives whatever the server does to it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path as FilePath
from typing import Any, cast

import pytest

from deviceplugin.apiserver.client import PODS, Api, ApiError
from deviceplugin.apiserver.objects import Pod, pod
from deviceplugin.apiserver.reflector import Change, Reflector
from deviceplugin.testing.apiserver import ApiServer, server


@pytest.fixture
async def followed(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[ApiServer, Reflector[Pod], list[Change[Pod]]]]:
    changes: list[Change[Pod]] = []
    with ApiServer() as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig(tmp_path / "config")))
        reflector = Reflector(Api(), PODS, pod, changes.append)
        task = asyncio.create_task(reflector.run())
        await reflector.wait_for(lambda: reflector.synced, 10)
        yield running, reflector, changes
        task.cancel()


def made(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c"}]}}


async def known(reflector: Reflector[Pod], *names: str) -> bool:
    wanted = {f"default/{name}" for name in names}
    return await reflector.wait_for(lambda: reflector.objects.keys() == wanted, 15)


async def test_changes_arrive_and_are_told_once(followed: Any) -> None:
    running, reflector, changes = followed
    running.create("pods", made("a"))
    running.patch("pods", "a", {"metadata": {"annotations": {"x": "1"}}}, "default")
    assert await reflector.wait_for(
        lambda: [p.annotations.get("x") for p in reflector.objects.values()] == ["1"], 10
    )
    running.delete("pods", "a", "default")
    assert await known(reflector)
    assert [(change.old is None, change.new is None) for change in changes] == [
        (True, False),
        (False, False),
        (False, True),
    ]


async def test_an_event_from_before_a_write_does_not_undo_what_it_was_answered_with(
    followed: Any,
) -> None:
    running, reflector, changes = followed
    before = running.create("pods", made("a"))
    assert await known(reflector, "a")
    running.patch("pods", "a", {"metadata": {"annotations": {"x": "1"}}}, "default")
    reflector.learn(running.get("pods", "a", "default"))
    late = json.dumps({"type": "MODIFIED", "object": before}).encode()
    reflector._take(asyncio.get_running_loop(), late)
    running.create("pods", made("b"))
    assert await known(reflector, "a", "b")
    assert {change.new.annotations.get("x") for change in changes[1:-1]} == {"1"}


async def test_an_answer_that_is_read_late_does_not_undo_what_the_watch_told_since(
    followed: Any,
) -> None:
    """Writes are answered in other threads than the watch is read in."""
    running, reflector, _ = followed
    running.create("pods", made("a"))
    answer = running.patch("pods", "a", {"metadata": {"annotations": {"x": "1"}}}, "default")
    running.patch("pods", "a", {"metadata": {"annotations": {"x": None}}}, "default")
    running.create("pods", made("b"))
    assert await known(reflector, "a", "b")
    reflector.learn(answer)
    assert "x" not in reflector.objects["default/a"].annotations


async def test_who_catches_up_has_heard_all_that_was_so_before(followed: Any) -> None:
    running, reflector, _ = followed
    for number in range(20):
        running.create("pods", made(f"a{number}"))
        await reflector.catch_up(10.0)
        assert f"default/a{number}" in reflector.objects


@pytest.mark.parametrize("pods", [0, 3])
async def test_a_watch_that_tells_nothing_is_not_waited_for(followed: Any, pods: int) -> None:
    """Other collections count by the same numbers, and bookmarks are rare."""
    running, reflector, _ = followed
    running.bookmarks = False
    for number in range(pods):
        running.create("pods", made(f"a{number}"))
    running.create("nodes", {"metadata": {"name": "n"}})
    await reflector.catch_up(0.3)
    assert len(reflector.objects) == pods
    lists = [call for call in running.calls if call.verb == "list"]
    assert len(lists) == 3  # at the start, to ask how far the server is, and anew
    running.create("pods", made("b"))
    assert await reflector.wait_for(lambda: "default/b" in reflector.objects, 10)


async def test_who_cannot_catch_up_is_told(followed: Any) -> None:
    running, reflector, _ = followed
    running.stop()
    with pytest.raises(ApiError, match="no answer"):
        await reflector.catch_up(0.3)


class Hasty:
    """A server that ends every watch at once, or knows no version that it just told."""

    def __init__(self, status: int) -> None:
        self.status, self.asked = status, 0

    def call(self, *_: object, **__: object) -> dict[str, Any]:
        return {"metadata": {"resourceVersion": "1"}, "items": []}

    def stream(self, *_: object) -> Any:
        self.asked += 1
        if self.status != 200:
            raise ApiError("gone", self.status)
        return iter(())


@pytest.mark.parametrize("status", [200, 410])
async def test_a_server_that_ends_each_watch_at_once_is_not_asked_without_end(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deviceplugin.apiserver.reflector.BACKOFF_FIRST", 3600.0)
    server = Hasty(status)
    reflector = Reflector(cast(Api, server), PODS, pod, lambda _: None)
    task = asyncio.create_task(reflector.run())
    assert await reflector.wait_for(lambda: reflector.synced, 10)
    await asyncio.sleep(0.3)
    assert server.asked == 1
    task.cancel()


@pytest.mark.parametrize("rounds", range(3))
async def test_what_happened_while_the_watch_was_gone_is_seen(followed: Any, rounds: int) -> None:
    running, reflector, _ = followed
    running.create("pods", made("a"))
    assert await known(reflector, "a")
    for number in range(5):
        running.store.compact()
        running.drop_connections()
        running.create("pods", made(f"b{number}"))
        if number % 2:
            running.drop_connections()
            running.faults.errors = 2
        running.delete("pods", "a" if number == 0 else f"b{number - 1}", "default")
        assert await known(reflector, f"b{number}")


async def test_an_answer_that_breaks_off_ends_no_watch(
    followed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal whose body never comes: the thread goes on, and the server is asked again."""
    running, reflector, _ = followed
    whole = server._Handler._send
    broken = threading.Event()

    def half(self: Any, code: int, answer: Any) -> None:
        if broken.is_set() and code >= 400:
            broken.clear()
            self.send_response(code)
            self.send_header("Content-Length", "500")
            self.end_headers()
            self.close_connection = True
            return
        whole(self, code, answer)

    monkeypatch.setattr(server._Handler, "_send", half)
    broken.set()
    running.faults.errors = 1
    running.drop_connections()
    running.create("pods", made("a"))
    assert await known(reflector, "a")
    assert not broken.is_set()


async def test_an_object_that_makes_no_sense_is_left_out_alone(followed: Any) -> None:
    running, reflector, _ = followed
    running.create("pods", {"metadata": {"name": "odd"}, "spec": {"containers": [{}]}})
    running.create("pods", made("a"))
    assert await known(reflector, "a")


async def test_the_thread_ends_with_the_task(followed: Any) -> None:
    running, _, _ = followed
    reflector: Reflector[Pod] = Reflector(Api(), PODS, pod, lambda _: None)
    task = asyncio.create_task(reflector.run())
    await reflector.wait_for(lambda: reflector.synced, 10)
    before = sum("watch" in thread.name for thread in threading.enumerate())
    task.cancel()
    for _ in range(200):
        if sum("watch" in thread.name for thread in threading.enumerate()) < before:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"the thread of a cancelled watch still runs at {running.url}")
