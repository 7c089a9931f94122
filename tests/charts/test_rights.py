"""The roles allow what the scheduler asks of the API server, and nothing else.

A scheduler does everything that it ever does, on a fake API server; each request is held against the
rules, and each rule against the requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from deviceplugin.api.hami import nodelock, register
from deviceplugin.api.hami.keys import MUTEX_LOCK, NVIDIA_REGISTER
from deviceplugin.api.hami.nodelock import NodeLock
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.apiserver.client import Api, official_client
from deviceplugin.scheduler.certificates.issued import SECRET_TYPE, IssuedCertificate, Pace
from deviceplugin.scheduler.certificates.publishing import MUTATING, VALIDATING, Configuration
from deviceplugin.scheduler.certificates.serving import Serving
from deviceplugin.scheduler.leadership import Alone, Elected, Followed, Timing
from deviceplugin.scheduler.role import RoleLabel
from deviceplugin.scheduler.run import Scheduler
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.testing.apiserver import ApiServer

NAMESPACE = "deviceplugin-system"
GPU = "nvidia.com/gpu"
Asked = tuple[str, str, str, str, str]
"""Verb, API group, resource with subresource, name, namespace."""

VERBS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v1/(?:namespaces/(?P<namespace>[^/]+)/)?"
    r"(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?"
)


def asked(method: str, url: str) -> Asked:
    """What RBAC looks at, as the API server reads it off a request."""
    parts = urlsplit(url)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    found = PATH.fullmatch(parts.path)
    assert found is not None, url
    name = found["name"] or query.get("fieldSelector", "").partition("metadata.name=")[2]
    verb = VERBS.get(method) or ("get" if found["name"] else "list")
    if query.get("watch") == "true":
        verb = "watch"
    resource = f"{found['resource']}/{found['sub']}" if found["sub"] else found["resource"]
    return verb, found["group"] or "", resource, name, found["namespace"] or ""


class World:
    """The API server, and a client that writes down what it is asked."""

    def __init__(self, server: ApiServer, kubeconfig: Path, monkeypatch: Any) -> None:
        self.server = server
        self.asked: set[Asked] = set()
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))

    def api(self) -> Api:
        client = official_client(16)
        call = client.call_api

        def recorded(method: str, url: str, *args: Any, **more: Any) -> Any:
            self.asked.add(asked(method, url))
            return call(method, url, *args, **more)

        client.call_api = recorded
        return Api(lambda: client, 16)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.01)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with ApiServer() as server:
        yield World(server, server.kubeconfig(tmp_path / "kubeconfig"), monkeypatch)


@contextlib.asynccontextmanager
async def running(part: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(part.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def gpu_node(name: str, lock: str) -> dict[str, Any]:
    device = NodeDevice(
        uuid="GPU-0", index=0, count=10, memory=1000, cores=100, type="NVIDIA-T4",
        mode="hami-core", healthy=True,
    )  # fmt: skip
    annotations = {NVIDIA_REGISTER: register.encode([device]), MUTEX_LOCK: lock}
    return {
        "metadata": {"name": name, "annotations": annotations},
        "status": {"allocatable": {GPU: "10"}, "capacity": {GPU: "10"}},
    }


def pod(name: str, count: int = 1) -> dict[str, Any]:
    limits = {GPU: str(count)}
    container = {"name": "c", "image": "x", "resources": {"limits": limits}}
    return {
        "metadata": {"name": name, "namespace": "team"},
        "spec": {"schedulerName": "hami-scheduler", "containers": [container]},
    }


async def everything(world: World, plain: Any, backends: tuple[Any, ...]) -> None:
    """All that a scheduler ever asks of an API server."""
    server = world.server
    (secret,) = plain.of("Secret")
    server.create("secrets", {**secret, "type": SECRET_TYPE})
    for kind, plural in (
        ("MutatingWebhookConfiguration", MUTATING),
        ("ValidatingWebhookConfiguration", VALIDATING),
    ):
        (item,) = plain.of(kind)
        hooks = [{**hook, "rules": []} for hook in item["webhooks"]]  # nobody is behind them
        server.create(plural, {**item, "webhooks": hooks})
    api = world.api()
    certificate = IssuedCertificate(
        api,
        NAMESPACE,
        secret["metadata"]["name"],
        ("localhost",),
        (
            Configuration(MUTATING, *plain.flag("mutating-webhook")),
            Configuration(VALIDATING, *plain.flag("validating-webhook")),
        ),
        Serving(),
        pace=Pace(pause=0.01),
    )
    # A lock that was left behind: whose it is, is asked for.
    old = nodelock.encode(NodeLock(datetime.now(UTC) - timedelta(hours=1), "team", "gone"))
    server.create("nodes", gpu_node("gpus", old))
    hygon = next(b for b in backends if b.keys.common_word == "DCU")
    other = {"metadata": {"name": "dcus", "annotations": {hygon.keys.register: "[]"}}}
    server.create("nodes", {**other, "status": {}})
    server.create("pods", pod("fits"))
    server.create("pods", pod("never", 100))
    await Followed(api, NAMESPACE, *plain.flag("leader-elect-resource-name"), "host").look()
    made = Scheduler(SchedulerSettings(bind_patience=30), backends, api, Alone())
    async with running(made), running(certificate):
        await world.until(lambda: made.watching.synced)
        await world.until(lambda: all(certificate.publishing.published.values()))
        for _ in range(2):  # the second time the event is counted up
            await ask(made.service.filter, server, "never")
            await world.until(lambda: server.objects("events"))
        await world.until(lambda: any(e["count"] == 2 for e in server.objects("events")))
        answer = await ask(made.service.filter, server, "fits")
        assert answer["NodeNames"] == ["gpus"], answer
        server.faults.conflicts = {"nodes/gpus"}
        binding = asyncio.create_task(bind(made, server))
        await world.until(lambda: any(v == "get" and r == "nodes" for v, _, r, *_ in world.asked))
        server.faults.conflicts = set()
        assert (await binding)["Error"] == ""
        await preempt(made, server)
        await world.until(
            lambda: server.get("nodes", "dcus")["metadata"]["annotations"].get(hygon.keys.handshake)
        )


async def ask(verb: Callable[[bytes], Any], server: ApiServer, name: str) -> dict[str, Any]:
    body = {"Pod": server.get("pods", name, "team"), "Nodes": None, "NodeNames": ["gpus", "dcus"]}
    return dict(json.loads(await verb(json.dumps(body).encode())))


async def bind(made: Scheduler, server: ApiServer) -> dict[str, Any]:
    uid = server.get("pods", "fits", "team")["metadata"]["uid"]
    body = {"PodName": "fits", "PodNamespace": "team", "PodUID": uid, "Node": "gpus"}
    return dict(json.loads(await made.service.bind(json.dumps(body).encode())))


async def preempt(made: Scheduler, server: ApiServer) -> None:
    wanted = {
        **server.get("pods", "never", "team"),
        "spec": {**pod("never")["spec"], "priority": 9},
    }
    wanted["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpumem"] = "1"
    body = {"Pod": wanted, "NodeNameToMetaVictims": {"gpus": {"Pods": []}}}
    await made.service.preempt(json.dumps(body).encode())


async def test_the_roles_allow_what_is_asked_and_nothing_else(
    world: World, plain: Any, backends: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deviceplugin.scheduler.registration.INTERVAL_SECONDS", 0.1)
    await everything(world, plain, backends)
    rights = [
        *plain.rights("ClusterRole", "deviceplugin-scheduler"),
        *plain.rights("Role", "deviceplugin-scheduler"),
    ]
    refused = [each for each in world.asked if not any(right.allows(*each) for right in rights)]
    assert refused == []
    unused = [r for r in rights if not any(r.allows(*each) for each in world.asked)]
    assert unused == []


async def test_replicas_behind_a_service_need_what_the_page_adds(world: World, plain: Any) -> None:
    api, name = world.api(), "deviceplugin-scheduler"
    item = {**pod("replica"), "metadata": {"name": "replica", "namespace": NAMESPACE}}
    world.server.create("pods", item)
    elected = Elected(api, NAMESPACE, name, "me", Timing(15.0, 10.0, 0.05))
    label = RoleLabel(api, elected, NAMESPACE, "replica", 0.01)
    async with running(elected), running(label):
        path = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{name}"
        await world.until(
            lambda: [c for c in world.server.calls if (c.verb, c.path) == ("patch", path)]
        )
        await world.until(
            lambda: world.server.get("pods", "replica", NAMESPACE)["metadata"].get("labels") or {}
        )
        await world.until(lambda: ("list", "", "pods", "", NAMESPACE) in world.asked)
    leases = {each for each in world.asked if each[2] == "leases"}
    group = "coordination.k8s.io"
    assert leases == {
        ("create", group, "leases", "", NAMESPACE),
        ("get", group, "leases", name, NAMESPACE),
        ("patch", group, "leases", name, NAMESPACE),
    }
    rights = plain.rights("ClusterRole", "deviceplugin-scheduler")
    others = world.asked - leases
    assert [each for each in others if not any(right.allows(*each) for right in rights)] == []


def test_requests_are_read_as_api_servers_read_them() -> None:
    server = "http://127.0.0.1:1"
    for method, url, found in (
        ("GET", "/api/v1/nodes?limit=200", ("list", "", "nodes", "", "")),
        ("GET", "/api/v1/nodes?watch=true", ("watch", "", "nodes", "", "")),
        ("PATCH", "/api/v1/namespaces/a/pods/b", ("patch", "", "pods", "b", "a")),
        ("POST", "/api/v1/namespaces/a/pods/b/binding", ("create", "", "pods/binding", "b", "a")),
        (
            "GET",
            "/apis/x.y/v1/things?fieldSelector=metadata.name%3Done&watch=true",
            ("watch", "x.y", "things", "one", ""),
        ),
    ):
        assert asked(method, server + url) == found


def test_kube_scheduler_may_hold_its_own_lease_and_no_other(plain: Any) -> None:
    (name,) = plain.flag("leader-elect-resource-name")
    rights = plain.rights("Role", "deviceplugin-kube-scheduler")
    assert {right.resource for right in rights} == {"leases"}
    assert {(r.verb, r.names) for r in rights} == {
        ("create", frozenset()),
        ("get", frozenset({name})),
        ("update", frozenset({name})),
    }
