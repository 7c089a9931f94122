"""Whatever is sent to the scheduler gets an answer, is bounded, and breaks nothing."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import zlib
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin import registry
from deviceplugin.apiserver.client import Api, ApiError
from deviceplugin.scheduler import server as http
from deviceplugin.scheduler.bodies import MOST_VALUES, parsed
from deviceplugin.scheduler.leadership import Alone
from deviceplugin.scheduler.nodes import node_record
from deviceplugin.scheduler.run import Scheduler
from deviceplugin.scheduler.settings import SchedulerSettings

POSTED = ("/filter", "/bind", "/preempt", "/webhook", "/validate")


class Away(Api):
    """An API server that nobody can reach."""

    async def _off_loop(self, call: Any) -> Any:
        raise ApiError("away", sent=False)


def scheduler(make: Any) -> Scheduler:
    """One that knows a node and that writes nothing, with every vendor's backends."""
    vendors = registry.load().vendors
    backends = [
        backend
        for name, vendor in vendors.items()
        if name != "mock"
        for backend in registry.load_scheduling(vendor, {})
    ]
    account = "system:serviceaccount:x:y"
    made = Scheduler(SchedulerSettings(trusted=frozenset({account})), backends, Away(), Alone())
    made.watching.nodes.synced = made.watching.pods.synced = made.watching.limits.synced = True
    made.takeover._term = Alone.term
    made.cluster.set_node(node_record(make.node("a")))
    return made


def pod(make: Any) -> dict[str, Any]:
    found: dict[str, Any] = make.pod("p", annotations={"nvidia.com/use-gpuuuid": "GPU-a-0"})
    found["metadata"] |= {"uid": "u", "resourceVersion": "7", "labels": {"x": "y"}}
    found["spec"] |= {
        "initContainers": [{"name": "i", "restartPolicy": "Always", "env": [{"name": "A"}]}],
        "nodeName": "",
    }
    found["spec"]["containers"][0] |= {"securityContext": {"privileged": False}, "env": []}
    return found


def bodies(make: Any) -> dict[str, Any]:
    """What each path is asked, as it should be."""
    review = {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "1",
            "operation": "CREATE",
            "namespace": "default",
            "userInfo": {
                "username": "somebody",
                "groups": [],
                "extra": {"authentication.kubernetes.io/node-name": ["a"]},
            },
            "object": pod(make),
            "oldObject": pod(make),
            "dryRun": False,
        },
    }
    return {
        "/filter": {"Pod": pod(make), "NodeNames": ["a", "b"], "Nodes": None},
        "/filter whole": {
            "Pod": pod(make),
            "NodeNames": None,
            "Nodes": {"items": [make.node("a")]},
        },
        "/bind": {"PodName": "p", "PodNamespace": "default", "PodUID": "u", "Node": "a"},
        "/preempt": {
            "Pod": pod(make),
            "NodeNameToMetaVictims": {"a": {"Pods": [{"UID": "v"}], "NumPDBViolations": 0}},
        },
        "/preempt whole": {
            "Pod": pod(make),
            "NodeNameToVictims": {"a": {"Pods": [pod(make)], "NumPDBViolations": 0}},
        },
        "/webhook": review,
        "/validate": review,
    }


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    entries: Any = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = enumerate(value)
    for key, entry in entries:
        yield from places(entry, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    found = copy.deepcopy(value)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return found


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["", "Always", "10Gi", "1k", "-1", "\ud800", "a/b", "../..", "x" * 300, "CREATE"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as found:
        yield found


@pytest.fixture(scope="module")
def made(make: Any) -> Scheduler:
    return scheduler(make)


def answered(made: Scheduler, runner: asyncio.Runner, name: str, body: bytes) -> Any:
    """The answer, decoded; None for a request that was refused, which is the server's 400."""
    path = name.partition(" ")[0]

    async def asked() -> bytes | None:
        try:
            return await made.routes()[path](body)
        except (ValueError, RecursionError):
            return None

    answer = runner.run(asked())
    return None if answer is None else json.loads(answer)


NASTY: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**70, 1.5, float("nan"), "", "x", "\ud800", "10Gi", "../.."),
    *([], [None], ["x"], [[]], [{}], {}, {"x": None}, {"x": "y"}, {"items": [{}]}),
)


@pytest.mark.parametrize("name", ["filter", "filter whole", "bind", "preempt", "preempt whole"])
def test_every_nasty_value_at_every_place_is_answered_or_refused(
    name: str, make: Any, made: Scheduler, runner: asyncio.Runner
) -> None:
    check_every_place(f"/{name}", make, made, runner)


@pytest.mark.parametrize("name", ["webhook", "validate"])
def test_every_nasty_review_is_answered_or_refused(
    name: str, make: Any, made: Scheduler, runner: asyncio.Runner
) -> None:
    check_every_place(f"/{name}", make, made, runner)


def check_every_place(name: str, make: Any, made: Scheduler, runner: asyncio.Runner) -> None:
    body = bodies(make)[name]
    for path in places(body):
        for value in NASTY:
            try:
                answered(made, runner, name, json.dumps(changed(body, path, value)).encode())
            except Exception as error:
                raise AssertionError(f"{value!r} at {path} of {name}") from error


@settings(max_examples=300)
@given(data=st.data())
def test_wrong_values_at_any_places_are_answered_or_refused(
    data: st.DataObject, make: Any, made: Scheduler, runner: asyncio.Runner
) -> None:
    name, body = data.draw(st.sampled_from(sorted(bodies(make).items())))
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(list(places(body))))
        body = changed(body, path, data.draw(ANYTHING))
        if not isinstance(body, dict):
            break
    answer = answered(made, runner, name, json.dumps(body).encode())
    assert answer is None or isinstance(answer, dict)
    assert list(made.cluster.holdings()) == [], "nothing was written, so nothing counts"


@settings(max_examples=300)
@given(body=st.binary(max_size=200), path=st.sampled_from(POSTED))
def test_bytes_of_any_sort_are_answered_or_refused(
    body: bytes, path: str, made: Scheduler, runner: asyncio.Runner
) -> None:
    answered(made, runner, path, body)


@pytest.mark.parametrize("path", POSTED)
@pytest.mark.parametrize("depth", [50, 200, 900, 100_000])
@pytest.mark.parametrize("brackets", [(b'{"a":', b"}"), (b"[", b"]")], ids=["objects", "lists"])
def test_depth_is_no_mistake_of_ours(
    path: str,
    depth: int,
    brackets: tuple[bytes, bytes],
    make: Any,
    made: Scheduler,
    runner: asyncio.Runner,
) -> None:
    """Wherever it is: in the pod, too."""
    opening, closing = brackets
    deep = opening * depth + b"1" + closing * depth
    answered(made, runner, path, deep)
    whole = json.dumps(bodies(make)[path]).encode()
    for place in (b'"nodeName": ""', b'"x": "y"'):
        key = place.partition(b":")[0]
        answered(made, runner, path, whole.replace(place, key + b":" + deep))


def test_what_becomes_large_in_memory_is_not_made() -> None:
    small = b"[" + b"[]," * MOST_VALUES + b"[]]"
    with pytest.raises(ValueError, match="more than 1000000 values"):
        parsed(small)
    assert parsed(b"[" + b"1," * (MOST_VALUES - 2) + b"1]")


async def refused(address: str, path: str, **how: Any) -> int:
    async with aiohttp.ClientSession() as session, session.post(address + path, **how) as answer:
        return answer.status


@pytest.mark.parametrize("path", POSTED)
async def test_requests_that_are_none_are_refused_by_their_code(bench: Any, path: str) -> None:
    _, address = await bench.scheduler()
    assert await refused(address, path) == 400
    assert await refused(address, path, data=io.BytesIO(b"x" * (http.MOST_BODY + 1))) == 413
    deep = b'{"Pod": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert await refused(address, path, data=deep) in (200, 400)
    bomb = {"data": zlib.compress(b" " * 10**6), "headers": {"Content-Encoding": "deflate"}}
    # Not looked into: it is no JSON.
    assert await refused(address, path, **bomb) in (200, 400)
    async with aiohttp.ClientSession() as session:
        async with session.get(address + path) as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "POST")
            assert await answer.text() == f"only POST to {path}\n"
        async with session.get(address + "/nowhere") as answer:
            assert answer.status == 404
            assert path in await answer.text()


async def test_much_at_once_is_refused_until_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "MOST_BODIES", 1000)
    there, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_body: bytes) -> bytes:
        there.set()
        await go_on.wait()
        return b"{}"

    server = http.Server({"/slow": slow}, dict)
    await server.start("127.0.0.1:0")
    address = f"http://127.0.0.1:{server.address[1]}"
    first = asyncio.create_task(refused(address, "/slow", data=b"x" * 600))
    await there.wait()
    assert await refused(address, "/slow", data=b"x" * 600) == 503
    go_on.set()
    assert await first == 200
    assert await refused(address, "/slow", data=b"x" * 600) == 200
    await server.close()


async def test_a_request_that_never_ends_is_given_up(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "READ_SECONDS", 0.2)
    _, address = await bench.scheduler()
    host, _, port = address.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /filter HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
    assert b"408" in await reader.readline()
    writer.close()
