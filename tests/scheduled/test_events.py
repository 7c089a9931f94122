"""What happens on a node reaches people as events on the pod and on the Node."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deviceplugin import runtime
from deviceplugin.cli.cleanup import cleanup
from deviceplugin.leaving import Leaving
from deviceplugin.registry import Registry
from deviceplugin.registry import load as load_registry
from deviceplugin.testing.cluster import NODE, Cluster, devices, manifest
from deviceplugin.testing.kubelet import StartError
from deviceplugin.testing.libvgpu import FakeRegion
from deviceplugin.testing.scheduling import Habit
from deviceplugin.vendor import Vendor
from deviceplugin.vendors.mock.configuration import KEYS_OF_OUR_OWN as KEYS

RESOURCE = "mock.deviceplugin.dev/gpu"
SMALL = {"mock": {"profile": "small", "deviceSplitCount": 10}}
DEFERRED = {"allocation": "scheduled-deferred", "device_list_strategy": ("cdi-cri",)}
LOCKED = {"allocation": "scheduled-locked", "device_list_strategy": ("envvar",)}
MODES = pytest.mark.parametrize("mode", [DEFERRED, LOCKED], ids=["deferred", "locked"])

MOODY = """
from pathlib import Path

from deviceplugin.vendor import with_health
from deviceplugin.vendors.mock.node import MockNode

HERE = Path(__file__).parent


def text(name):
    flag = HERE / name
    return flag.read_text() if flag.exists() else ""


class Node(MockNode):
    def discover(self):
        snapshot = super().discover()
        if not text("sick"):
            return snapshot
        first, *rest = snapshot.devices
        devices = (with_health(first, False, text("sick")), *rest)
        return type(snapshot)(devices, snapshot.attributes, snapshot.problems)

    def impediment(self, plan):
        return text("impediment")
"""


class Moody:
    """The mock vendor with moods that a test sets by files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        mock = load_registry().vendors["mock"]
        vendor = Vendor("mock", "moody:Node", mock.resource, ("etc*",), scheduling=mock.scheduling)
        self.registry = Registry({"mock": vendor})

    def says(self, mood: str, text: str) -> None:
        path = self._directory / mood
        if text:
            path.write_text(text)
        else:
            path.unlink()


@pytest.fixture
def moody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Moody:
    (tmp_path / "moody.py").write_text(MOODY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.delitem(sys.modules, "moody", raising=False)
    monkeypatch.setattr(runtime, "IMPEDIMENT_POLL_SECONDS", 0.1)
    return Moody(tmp_path)


def events(cluster: Cluster, reason: str, kind: str = "Pod") -> list[dict[str, Any]]:
    return [
        event
        for event in cluster.server.objects("events")
        if (event["reason"], event["involvedObject"]["kind"]) == (reason, kind)
    ]


async def told(cluster: Cluster, reason: str, kind: str = "Pod") -> dict[str, Any]:
    """The one event of that reason, once it is there."""
    (event,) = await cluster.settled(lambda: events(cluster, reason, kind), 20.0)
    return event


async def running(cluster: Cluster, uuid: str, habit: Habit = Habit.HAMI28) -> str:
    """A pod that runs with a grant; answers its uid."""
    uid = cluster.create(manifest(RESOURCE, "p", {"c0": 1}))["metadata"]["uid"]
    await cluster.place(habit, KEYS, "p", devices(KEYS, (uuid, 100, 1)))
    assert (await cluster.run("default", "p", 10.0)).failure == ""
    return str(uid)


@MODES
async def test_a_refused_grant_is_told_on_the_pod_in_the_words_that_kubelet_hears(
    cluster: Cluster, mode: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deviceplugin.scheduled.granting.PATIENCE_SECONDS", 0.1)
    cluster.start_agent(SMALL, **mode)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    uid = cluster.create(manifest(RESOURCE, "p", {"c0": 1}))["metadata"]["uid"]
    await cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, (a, 99_999_999, 1)))
    failure = (await cluster.run("default", "p")).failure
    event = await told(cluster, "GrantRefused")
    assert event["involvedObject"]["uid"] == uid
    assert event["type"] == "Warning"
    assert "do not fit" in event["message"]
    assert event["message"] in failure
    assert event["source"] == {"component": "deviceplugin", "host": NODE}


async def test_kubelets_tries_are_one_event_with_a_count(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deviceplugin.scheduled.granting.PATIENCE_SECONDS", 0.1)
    cluster.start_agent(SMALL, **DEFERRED)
    await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.OURS, KEYS, "p", devices(KEYS, ("GPU-elsewhere", 10, 1)))
    assert await cluster.admit("default", "p") is None
    for _ in range(3):
        with pytest.raises(StartError):
            await cluster.start("default", "p", "c0")
    await cluster.settled(lambda: [e["count"] for e in events(cluster, "GrantRefused")] == [3])


async def test_a_pod_that_the_lock_names_hears_why_it_is_not_served(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deviceplugin.scheduled.locked.PATIENCE_SECONDS", 0.1)
    cluster.start_agent(SMALL, **LOCKED)
    a, b = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, (a, 100, 1), (b, 100, 1)))
    failure = (await cluster.run("default", "p")).failure
    event = await told(cluster, "GrantRefused")
    for text in ("no binding pod found on node", "device number not matched"):
        assert text in event["message"]
        assert text in failure


@MODES
async def test_a_failure_after_the_decision_is_told_as_well(
    cluster: Cluster, mode: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(*_: object) -> None:
        raise KeyError("unforeseen")

    cluster.start_agent(SMALL, **mode)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    for name in ("render", "deferred_spec"):
        monkeypatch.setattr(f"deviceplugin.injection.render.{name}", render)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, (a, 100, 1)))
    assert "unforeseen" in (await cluster.run("default", "p")).failure
    assert "unforeseen" in (await told(cluster, "GrantRefused"))["message"]


@MODES
async def test_isolation_that_cannot_be_enforced_is_told_on_the_node_and_on_the_pod(
    cluster: Cluster, moody: Moody, mode: dict[str, Any]
) -> None:
    """Also where kubelet had given the ids out before: the pod hears it when it starts again."""
    cluster.start_agent(SMALL, moody.registry, **mode)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    await running(cluster, a)
    moody.says("impediment", "the library is not on the host; run hook install")
    on_node = await told(cluster, "IsolationImpeded", "Node")
    assert on_node["message"] == (
        f"{RESOURCE} is not handed out: the library is not on the host; run hook install"
    )
    assert on_node["involvedObject"]["uid"] == cluster.server.get("nodes", NODE)["metadata"]["uid"]
    with pytest.raises(StartError, match="not on the host"):
        await cluster.start("default", "p", "c0")
    assert "not on the host" in (await told(cluster, "GrantRefused"))["message"]
    moody.says("impediment", "")
    assert (await told(cluster, "IsolationPossible", "Node"))["type"] == "Normal"


async def test_an_impediment_at_allocate_frees_the_node_for_the_next_pod(
    cluster: Cluster, moody: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "IMPEDIMENT_POLL_SECONDS", 3600.0)
    cluster.start_agent(SMALL, moody.registry, **LOCKED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    moody.says("impediment", "no library")  # before the list shows it
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, (a, 100, 1)))
    assert "no library" in (await cluster.run("default", "p")).failure
    assert "no library" in (await told(cluster, "GrantRefused"))["message"]
    moody.says("impediment", "")
    cluster.create(manifest(RESOURCE, "q", {"c0": 1}))
    await cluster.settled(lambda: "hami.io/mutex.lock" not in cluster.node_annotations())
    await cluster.place(Habit.HAMI28, KEYS, "q", devices(KEYS, (a, 100, 1)))
    assert (await cluster.run("default", "q")).failure == ""


async def test_a_device_that_falls_ill_is_told_on_the_node_and_on_who_holds_it(
    cluster: Cluster, moody: Moody
) -> None:
    cluster.start_agent(SMALL, moody.registry, probe_interval="200ms", **DEFERRED)
    a, b = await cluster.ready(KEYS, RESOURCE)
    uid = await running(cluster, a, Habit.OURS)
    cluster.create(manifest(RESOURCE, "other", {"c0": 1}))
    await cluster.place(Habit.OURS, KEYS, "other", devices(KEYS, (b, 100, 1)))
    assert (await cluster.run("default", "other", 10.0)).failure == ""
    moody.says("sick", "Xid 79")
    on_node = await told(cluster, "DeviceUnhealthy", "Node")
    assert a in on_node["message"]
    assert "Xid 79" in on_node["message"]
    assert (await told(cluster, "DeviceUnhealthy"))["involvedObject"]["uid"] == uid
    moody.says("sick", "")
    assert (await told(cluster, "DeviceRecovered", "Node"))["type"] == "Normal"
    assert (await told(cluster, "DeviceRecovered"))["involvedObject"]["uid"] == uid
    assert [e["count"] for e in events(cluster, "DeviceUnhealthy", "Node")] == [1]


@MODES
async def test_an_adopted_grant_is_told_once(cluster: Cluster, mode: dict[str, Any]) -> None:
    first = cluster.start_agent(SMALL, **mode)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    await running(cluster, a)
    await cluster.stop_agent(first)
    (cluster.root / "run" / "grants.json").unlink()
    cluster.start_agent(SMALL, **mode)
    event = await told(cluster, "GrantAdopted")
    assert (event["type"], event["count"]) == ("Normal", 1)
    assert a in event["message"]


@MODES
async def test_a_running_container_that_nothing_accounts_for_is_told_once(
    cluster: Cluster, mode: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of another plugin, whose scheduler meant a card that is not on this node."""
    first = cluster.start_agent(SMALL, **mode)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    await running(cluster, a)
    await cluster.stop_agent(first)
    (cluster.root / "run" / "grants.json").unlink()
    text = cluster.pod_annotations("p")[KEYS.allocated].replace(a, "GPU-elsewhere")
    change = {"metadata": {"annotations": {KEYS.allocated: text}}}
    cluster.server.patch("pods", "p", change, "default")
    monkeypatch.setattr("deviceplugin.scheduled.locked.OWNER_ANNOTATION", "other.dev/")
    agent = cluster.start_agent(SMALL, **mode)
    event = await told(cluster, "GrantUnproved")
    assert "delete the pod" in event["message"]
    looks = 0

    async def counted(*_: object) -> bool:
        nonlocal looks
        looks += 1
        return await adopt(*_)

    from deviceplugin.scheduled import granting

    adopt = granting.adopt
    monkeypatch.setattr(granting, "adopt", counted)
    await cluster.until(lambda: looks >= 3)
    assert agent.scheduled is not None
    agent.scheduled.tell(runtime.Notice.CLEANED_UP, "the last event of all")
    await told(cluster, "CleanedUp", "Node")
    assert [e["count"] for e in events(cluster, "GrantUnproved")] == [1]


async def test_limits_that_are_not_in_force_are_told_without_a_scrape(cluster: Cluster) -> None:
    cluster.start_agent(SMALL, **DEFERRED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    uid = await running(cluster, a, Habit.OURS)
    folder = cluster.root / "host/usr/local/vgpu/containers" / f"{uid}_c0"
    folder.mkdir(parents=True, exist_ok=True)
    FakeRegion(uuids=(a,), memory=(999 << 20,), cores=(1,)).write(folder / "x.cache")
    event = await told(cluster, "IsolationLost")
    assert "granted 100 MiB" in event["message"]
    FakeRegion(uuids=(a,), memory=(100 << 20,), cores=(1,)).write(folder / "x.cache")
    assert (await told(cluster, "IsolationRestored"))["type"] == "Normal"


async def test_pods_start_while_no_event_can_be_written(cluster: Cluster) -> None:
    agent = cluster.start_agent(SMALL, **DEFERRED)
    cluster.server.faults.deny |= {("create", "events"), ("patch", "events")}
    a, _ = await cluster.ready(KEYS, RESOURCE)
    await running(cluster, a)
    assert agent.scheduled is not None
    agent.scheduled.tell(runtime.Notice.DEVICE_UNHEALTHY, "anything", a)
    registry = agent.metrics.registry
    await cluster.until(lambda: registry.get_sample_value("deviceplugin_events_dropped") == 2)
    assert cluster.server.objects("events") == []


@pytest.mark.parametrize("dry", [False, True])
async def test_what_cleanup_did_is_told_on_the_node(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, dry: bool
) -> None:
    agent = cluster.start_agent(SMALL, **DEFERRED)
    await cluster.ready(KEYS, RESOURCE)
    await cluster.stop_agent(agent)
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.setenv("NODE_NAME", NODE)
    paths = {"kubelet-socket": cluster.kubelet.kubelet_socket, "cdi-dir": cluster.root / "cdi"}
    paths["run-dir"] = cluster.root / "run"
    options = [f"--{name}={path}" for name, path in paths.items()] + ["--dry-run"] * dry
    done = await asyncio.to_thread(CliRunner().invoke, cleanup, options)
    assert done.exit_code == 0, done.output
    if dry:
        assert events(cluster, "CleanedUp", "Node") == []
    else:
        message = (await told(cluster, "CleanedUp", "Node"))["message"]
        assert "node annotation" in message
        assert "record" in message


def of_a_pod(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, *, stays: bool) -> list[str]:
    """The agent to come, and the hook, are those of a DaemonSet's pod; the hook's options."""
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "d"}
    item = {
        "metadata": {"name": "agent-x", "namespace": "default", "ownerReferences": [owner]},
        "spec": {"containers": [{"name": "agent"}]},
    }
    cluster.server.create("pods", item)
    if stays:
        stored = cluster.server.create(
            "daemonsets", {"metadata": {"name": "agent", "namespace": "default"}, "spec": {}}
        )
        owner["uid"] = stored["metadata"]["uid"]
        change = {"metadata": {"ownerReferences": [owner]}}
        cluster.server.patch("pods", "agent-x", change, "default")
    for name, value in (
        ("KUBECONFIG", str(cluster.kubeconfig)),
        ("NODE_NAME", NODE),
        ("POD_NAMESPACE", "default"),
        ("POD_NAME", "agent-x"),
    ):
        monkeypatch.setenv(name, value)
    return [
        "--pre-stop",
        f"--kubelet-socket={cluster.kubelet.kubelet_socket}",
        f"--cdi-dir={cluster.root / 'cdi'}",
        f"--run-dir={cluster.root / 'run'}",
    ]


async def test_an_agent_puts_nothing_back_once_its_hook_has_run(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs on until the hook has ended."""
    looked: list[bool] = []
    announced = Leaving.announced

    def look(leaving: Leaving) -> bool:
        looked.append(announced(leaving))
        return looked[-1]

    monkeypatch.setattr(Leaving, "announced", look)
    options = of_a_pod(cluster, monkeypatch, stays=False)
    agent = cluster.start_agent(SMALL, **DEFERRED)
    await cluster.ready(KEYS, RESOURCE)
    files = cluster.root / "cdi"
    before = set(files.iterdir())
    (removed := next(iter(before))).unlink()
    await cluster.settled(removed.exists)  # as long as it stays, it does
    done = await asyncio.to_thread(CliRunner().invoke, cleanup, options)
    assert done.exit_code == 0, done.output
    assert f"removed CDI inventory {removed}" in done.output
    await cluster.settled(lambda: looked[-1])  # it saw that its files are gone
    assert agent.announcer is not None
    assert not await agent.announcer.announce()
    assert not list(files.iterdir())
    assert cluster.node_annotations() == {}
    await cluster.stop_agent(agent)
    assert not list((cluster.root / "run").glob("leaving-*"))
    again = cluster.start_agent(SMALL, **DEFERRED)
    await cluster.ready(KEYS, RESOURCE)
    assert set(files.iterdir()) == before
    await cluster.stop_agent(again)


async def test_the_hook_of_a_daemonset_that_stays_removes_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = of_a_pod(cluster, monkeypatch, stays=True)
    cluster.start_agent(SMALL, **DEFERRED)
    await cluster.ready(KEYS, RESOURCE)
    before = set((cluster.root / "cdi").iterdir())
    done = await asyncio.to_thread(CliRunner().invoke, cleanup, options)
    assert done.output == "the DaemonSet stays: nothing is removed\n"
    assert set((cluster.root / "cdi").iterdir()) == before
    assert not list((cluster.root / "run").glob("leaving-*"))
