"""Scheduled allocation from the scheduler's annotation to the container's environment: fake API
server, embedded kubelet, the agent, and schedulers with the habits of real ones.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partialmethod
from typing import Any

import pytest

from deviceplugin.api.hami import nodelock, register
from deviceplugin.api.hami.keys import BIND_PHASE, MUTEX_LOCK, VENDORS
from deviceplugin.api.hami.poddevices import ContainerDevice, MigSlot
from deviceplugin.api.node import ALLOCATION, ANNOUNCES
from deviceplugin.cdi import UnresolvableError
from deviceplugin.cleanup import api_items, check_idle, file_items
from deviceplugin.registry import Registry
from deviceplugin.registry import load as load_registry
from deviceplugin.scheduled.identity import Identity
from deviceplugin.testing.cluster import NODE, Cluster, devices, manifest
from deviceplugin.testing.kubelet import ContainerConfig, StartError
from deviceplugin.testing.scheduling import Habit, Wish
from deviceplugin.vendor import ContainerEdits, PhysicalDevice
from deviceplugin.vendors.mock.configuration import KEYS_OF_OUR_OWN as KEYS

RESOURCE = "mock.deviceplugin.dev/gpu"
SMALL = {"mock": {"profile": "small", "deviceSplitCount": 10}}
DEFERRED = {"allocation": "scheduled-deferred", "device_list_strategy": ("cdi-cri",)}
LOCKED = {"allocation": "scheduled-locked", "device_list_strategy": ("envvar",)}
MODES = pytest.mark.parametrize(
    ("mode", "habit"),
    [(DEFERRED, Habit.OURS), (DEFERRED, Habit.HAMI28), (LOCKED, Habit.HAMI28)],
    ids=["deferred-ours", "deferred-hami28", "locked-hami28"],
)


def seen(cluster: Cluster, config: ContainerConfig) -> dict[str, str]:
    """The mock's variables as the process sees them, CDI applied."""
    env = cluster.environment(config)
    return {key: value for key, value in env.items() if key.startswith("MOCK_")}


def gets(memory: int, cores: int, uuid: str) -> dict[str, str]:
    return {
        "MOCK_MEMORY_LIMIT_0": f"{memory}m",
        "MOCK_CORES_LIMIT_0": str(cores),
        "MOCK_VISIBLE_DEVICES": uuid,
    }


@MODES
async def test_every_container_gets_what_the_scheduler_gave_it(
    cluster: Cluster, mode: dict[str, Any], habit: Habit
) -> None:
    cluster.start_agent(SMALL, **mode)
    a, b = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1, "c1": 0, "c2": 2}))
    await cluster.place(
        habit, KEYS, "p", devices(KEYS, (a, 100, 1)), [], devices(KEYS, (a, 200, 2), (b, 201, 3))
    )
    outcome = await cluster.run("default", "p")
    assert outcome.failure == ""
    assert seen(cluster, outcome.containers["c0"]) == gets(100, 1, a)
    assert seen(cluster, outcome.containers["c1"]) == {}
    third = seen(cluster, outcome.containers["c2"])
    assert (third["MOCK_MEMORY_LIMIT_0"], third["MOCK_MEMORY_LIMIT_1"]) == ("200m", "201m")
    assert third["MOCK_VISIBLE_DEVICES"] == f"{a},{b}"
    await cluster.settled(lambda: cluster.pod_annotations("p")[BIND_PHASE] == "success")
    assert cluster.pod_annotations("p")[str(KEYS.to_allocate)] == ";;;"
    await cluster.settled(lambda: MUTEX_LOCK not in cluster.node_annotations())
    assert cluster.kubelet.findings == []


@MODES
async def test_init_containers_and_sidecars_get_their_own(
    cluster: Cluster, mode: dict[str, Any], habit: Habit
) -> None:
    cluster.start_agent(SMALL, **mode)
    a, b = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}, init={"i0": 1, "i1": 2}, sidecars={"s0": 1}))
    wishes = (
        devices(KEYS, (a, 100, 1)),
        devices(KEYS, (a, 110, 1), (b, 111, 1)),
        devices(KEYS, (b, 300, 3)),
        devices(KEYS, (b, 400, 4)),
    )
    await cluster.place(habit, KEYS, "p", *wishes)
    outcome = await cluster.run("default", "p", patience=5.0)
    assert outcome.failure == ""
    found = {
        name: {key: value for key, value in env.items() if key.startswith("MOCK_")}
        for name, env in outcome.environments.items()
    }
    assert found["i0"] == gets(100, 1, a)
    assert found["s0"] == gets(300, 3, b)
    assert found["c0"] == gets(400, 4, b)
    assert found["i1"]["MOCK_MEMORY_LIMIT_1"] == "111m"


async def test_init_containers_are_told_apart_at_the_start(cluster: Cluster) -> None:
    """The same ids, one after the other: what is applied is what each may have."""
    cluster.start_agent(SMALL, **DEFERRED)
    a, b = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}, init={"i0": 1}))
    await cluster.place(
        Habit.OURS, KEYS, "p", devices(KEYS, (a, 100, 1)), devices(KEYS, (b, 200, 2))
    )
    assert await cluster.admit("default", "p") is None
    first = seen(cluster, await cluster.start("default", "p", "i0", 5.0))
    assert first == gets(100, 1, a)
    with pytest.raises(StartError, match="which of"):
        # Nobody said yet that i0 ended, so this may as well be i0 again.
        await asyncio.wait_for(cluster.start("default", "p", "c0"), 20)
    cluster.init_ended("default", "p", "i0")
    assert seen(cluster, await cluster.start("default", "p", "c0", 5.0)) == gets(200, 2, b)


async def test_an_init_container_starts_although_its_first_start_came_to_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubelet announced it, and could not create it: nothing of it is ever counted."""
    monkeypatch.setattr(Identity, "__init__", partialmethod(Identity.__init__, patience=0.3))
    cluster.start_agent(SMALL, **DEFERRED)
    a, b = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}, init={"i0": 1}))
    grants = (devices(KEYS, (a, 100, 1)), devices(KEYS, (b, 200, 2)))
    await cluster.place(Habit.OURS, KEYS, "p", *grants)
    assert await cluster.admit("default", "p") is None
    await cluster.start("default", "p", "i0", 5.0)
    with pytest.raises(StartError) as refused:
        await cluster.start("default", "p", "i0")
    cluster.init_waits("default", "p", "i0", str(refused.value))
    config = await cluster.start("default", "p", "i0", 5.0)
    assert seen(cluster, config) == gets(100, 1, a)
    with pytest.raises(StartError, match="which of"):
        await cluster.start("default", "p", "c0")


@pytest.mark.parametrize("mode", [DEFERRED, LOCKED], ids=["deferred", "locked"])
@pytest.mark.parametrize(
    ("uuid", "memory", "why"),
    [
        ("GPU-elsewhere", 10, "does not offer"),
        ("", 99_999_999, "do not fit"),
        ("", 0, "would be no limit"),
    ],
)
async def test_a_hostile_annotation_starts_nothing_and_frees_the_node(
    cluster: Cluster, mode: dict[str, Any], uuid: str, memory: int, why: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("deviceplugin.scheduled.granting.PATIENCE_SECONDS", 0.2)
    cluster.start_agent(SMALL, **mode)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, (uuid or a, memory, 1)))
    outcome = await cluster.run("default", "p")
    assert why in outcome.failure
    assert "default/p/c0" in outcome.failure
    await cluster.settled(lambda: MUTEX_LOCK not in cluster.node_annotations())
    if mode is LOCKED:
        await cluster.settled(lambda: cluster.pod_annotations("p")[BIND_PHASE] == "failed")


@pytest.mark.parametrize("mode", [DEFERRED, LOCKED], ids=["deferred", "locked"])
async def test_a_partition_of_a_card_that_has_none_is_no_way_past_the_room(
    cluster: Cluster, mode: dict[str, Any]
) -> None:
    cluster.start_agent(SMALL, **mode)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    forged = [replace(one, slot=MigSlot(0, 0)) for one in devices(KEYS, (a, 99_999_999, 1))]
    await cluster.place(Habit.HAMI28, KEYS, "p", forged)
    assert "has no partitions on this node" in (await cluster.run("default", "p")).failure


async def test_an_error_of_ours_after_the_decision_frees_the_node_as_well(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = cluster.start_agent(SMALL, **LOCKED)
    a, _ = await cluster.ready(KEYS, RESOURCE)

    def render(*_: object) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setattr("deviceplugin.injection.render.render", render)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, (a, 100, 1)))
    assert "unforeseen" in (await cluster.run("default", "p")).failure
    await cluster.settled(lambda: MUTEX_LOCK not in cluster.node_annotations())
    assert cluster.pod_annotations("p")[BIND_PHASE] == "failed"
    assert agent.scheduled is not None
    assert list(agent.scheduled.ledger) == []


async def test_a_grant_that_comes_after_kubelets_question_is_waited_for(cluster: Cluster) -> None:
    """Also where the container that asks was found before."""
    agent = cluster.start_agent(SMALL, **DEFERRED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await asyncio.to_thread(cluster.scheduler().bind, "default", "p")
    assert await cluster.admit("default", "p") is None
    uid = cluster.server.get("pods", "p", "default")["metadata"]["uid"]
    start = asyncio.create_task(cluster.kubelet.start_container(uid, "c0"))
    await cluster.until(lambda: cluster.kubelet.in_flight("PreStartContainer"))
    node = agent.scheduled
    assert node is not None
    await cluster.until(lambda: node.pods.by_uid(uid))
    await asyncio.sleep(0.3)  # the asker is found, and there is no grant
    wish = Wish(KEYS, [devices(KEYS, (a, 100, 1))])
    await asyncio.to_thread(cluster.scheduler().filter, "default", "p", wish)
    assert seen(cluster, await start) == gets(100, 1, a)


async def test_news_that_come_before_the_waiting_began_are_news(cluster: Cluster) -> None:
    agent = cluster.start_agent(SMALL, **DEFERRED)
    await cluster.ready(KEYS, RESOURCE)
    node = agent.scheduled
    assert node is not None
    await cluster.until(lambda: node.pods.synced)
    waiting = node.news(3600.0)
    asyncio.get_running_loop().call_soon(node.pods._reflector._tell)
    async with asyncio.timeout(10):
        await waiting


async def test_what_one_pod_holds_no_other_gets(cluster: Cluster, monkeypatch: Any) -> None:
    monkeypatch.setattr("deviceplugin.scheduled.granting.PATIENCE_SECONDS", 0.2)
    cluster.start_agent(SMALL, **DEFERRED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    for name in ("one", "two"):
        cluster.create(manifest(RESOURCE, name, {"c0": 1}))
        await cluster.place(Habit.OURS, KEYS, name, devices(KEYS, (a, 10_000, 1)))
    assert (await cluster.run("default", "one")).failure == ""
    assert (
        "other containers on this node hold 10000" in (await cluster.run("default", "two")).failure
    )
    cluster.end("default", "one")
    assert seen(cluster, await cluster.start("default", "two", "c0", 5.0)) == gets(10_000, 1, a)


@pytest.mark.parametrize("mode", [DEFERRED, LOCKED], ids=["deferred", "locked"])
async def test_a_new_agent_goes_on_where_the_old_one_was(
    cluster: Cluster, mode: dict[str, Any]
) -> None:
    first = cluster.start_agent(SMALL, **mode)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, (a, 100, 1)))
    assert await cluster.admit("default", "p") is None
    await cluster.stop_agent(first)
    second = cluster.start_agent(SMALL, **mode)
    await cluster.kubelet.wait_registered(RESOURCE)
    config = await cluster.start("default", "p", "c0", 10.0)
    assert seen(cluster, config) == gets(100, 1, a)
    await cluster.stop_agent(second)


@pytest.mark.parametrize("mode", [DEFERRED, LOCKED], ids=["deferred", "locked"])
async def test_a_reboot_that_takes_records_and_specifications_costs_nothing(
    cluster: Cluster, mode: dict[str, Any]
) -> None:
    first = cluster.start_agent(SMALL, **mode)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, (a, 100, 1)))
    assert (await cluster.run("default", "p")).failure == ""
    await cluster.stop_agent(first)
    for name in ("run", "cdi"):
        shutil.rmtree(cluster.root / name, ignore_errors=True)
    agent = cluster.start_agent(SMALL, **mode)
    await cluster.kubelet.wait_registered(RESOURCE)
    config = await cluster.start("default", "p", "c0", 10.0)
    assert seen(cluster, config) == gets(100, 1, a)
    node = agent.scheduled
    assert node is not None
    assert [record.owner for record in node.ledger] == ["default/p/c0"]


async def test_another_plugins_grant_is_adopted_with_proof(cluster: Cluster) -> None:
    """A pod that runs by the grant of an agent before ours keeps running and restarting."""
    first = cluster.start_agent(SMALL, **LOCKED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, (a, 100, 1)))
    assert (await cluster.run("default", "p")).failure == ""
    await cluster.stop_agent(first)
    (cluster.root / "run" / "grants.json").unlink()
    agent = cluster.start_agent(SMALL, **LOCKED)
    async with asyncio.timeout(10):
        while agent.scheduled is None or not list(agent.scheduled.ledger):
            await asyncio.sleep(0.02)
    assert [share.uuid for record in agent.scheduled.ledger for share in record.shares] == [a]


@pytest.mark.parametrize("own", [True, False])
async def test_what_another_plugin_handed_over_is_read_as_its_vendor_does(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    """The answer that kubelet keeps does not say whose it is."""
    first = cluster.start_agent(SMALL, **LOCKED)
    a, b = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, (a, 100, 1)))
    assert (await cluster.run("default", "p")).failure == ""
    await cluster.stop_agent(first)
    (cluster.root / "run" / "grants.json").unlink()

    def read(_: object, answer: ContainerEdits, cards: Sequence[PhysicalDevice]) -> list[str]:
        assert answer.env["MOCK_VISIBLE_DEVICES"] == a
        assert [card.uuid for card in cards] == [a, b]
        return [a if own else b]

    monkeypatch.setattr("deviceplugin.scheduled.locked.OWNER_ANNOTATION", "other.dev/")
    monkeypatch.setattr("deviceplugin.vendors.mock.node.MockNode.handed", read, raising=False)
    cluster.start_agent(SMALL, **LOCKED)
    await cluster.kubelet.wait_registered(RESOURCE)
    if own:
        assert seen(cluster, await cluster.start("default", "p", "c0", 10.0)) == gets(100, 1, a)
    else:
        with pytest.raises(StartError, match=r"were given to nobody.*delete it"):
            await cluster.start("default", "p", "c0", 2.0)


async def test_ids_that_were_given_to_another_pod_start_nothing(cluster: Cluster) -> None:
    """Two pods of equal counts: kubelet asks for the one, the lock names the other."""
    cluster.start_agent(SMALL, **LOCKED)
    a, b = await cluster.ready(KEYS, RESOURCE)
    for name in ("locked", "asking"):
        cluster.create(manifest(RESOURCE, name, {"c0": 1}))
    await cluster.place(Habit.HAMI28, KEYS, "locked", devices(KEYS, (a, 100, 1)))
    await asyncio.to_thread(
        cluster.scheduler(Habit.VOLCANO).place,
        "default",
        "asking",
        Wish(KEYS, [devices(KEYS, (b, 200, 2))]),
    )
    assert await cluster.admit("default", "asking") is None
    with pytest.raises(StartError, match=r"were given to default/locked/c0.*delete it"):
        await cluster.start("default", "asking", "c0")


async def test_a_scheduler_without_a_lock_is_refused_or_verified(cluster: Cluster) -> None:
    agent = cluster.start_agent(SMALL, **LOCKED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.VOLCANO, KEYS, "p", devices(KEYS, (a, 100, 1)))
    assert "lockless: verify" in (await cluster.run("default", "p")).failure
    cluster.delete("default", "p")
    await cluster.stop_agent(agent)
    cluster.start_agent(SMALL, **LOCKED, lockless="verify")
    await cluster.kubelet.wait_registered(RESOURCE)
    cluster.create(manifest(RESOURCE, "q", {"c0": 1}))
    await cluster.place(Habit.VOLCANO, KEYS, "q", devices(KEYS, (a, 100, 1)))
    outcome = await cluster.run("default", "q", 5.0)
    assert outcome.failure == ""
    assert seen(cluster, outcome.containers["c0"]) == gets(100, 1, a)


async def test_pods_bound_in_one_second_are_served_in_the_order_in_which_kubelet_hears_of_them(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the pods of a job under Volcano; what a scheduler writes down of the time may even say
    the contrary, because the pods are bound after it.
    """
    cluster.start_agent(SMALL, **LOCKED, lockless="verify")
    a, b = await cluster.ready(KEYS, RESOURCE)
    clock = iter([1000, 1000, 1000, 1000, 1000, 999])  # of the decision and of the bind, by pod
    monkeypatch.setattr("deviceplugin.testing.scheduling.now", lambda: next(clock))
    grants = {"z": (a, 100, 1), "m": (b, 200, 2), "a": (a, 300, 3)}
    for name, grant in grants.items():
        cluster.create(manifest(RESOURCE, name, {"c0": 1}))
        await cluster.place(Habit.VOLCANO, KEYS, name, devices(KEYS, grant))
    for name in grants:
        assert await cluster.admit("default", name) is None
    for name, (uuid, memory, cores) in grants.items():
        config = await cluster.start("default", name, "c0", 5.0)
        assert seen(cluster, config) == gets(memory, cores, uuid)


async def test_nobody_starts_with_what_the_last_holder_of_the_same_ids_was_given(
    cluster: Cluster,
) -> None:
    """Kubelet restarts between Allocate and the start, and asks no plugin that is away."""
    agent = cluster.start_agent(SMALL, **DEFERRED)
    a, b = await cluster.ready(KEYS, RESOURCE)
    held = []
    for name, uuid in (("first", a), ("second", b)):
        uid = cluster.create(manifest(RESOURCE, name, {"c0": 1}))["metadata"]["uid"]
        await cluster.place(Habit.OURS, KEYS, name, devices(KEYS, (uuid, 100, 1)))
        assert await cluster.admit("default", name) is None
        held.append(set(cluster.kubelet.held(uid, "c0")[RESOURCE]))
        if name == "first":
            await cluster.start("default", name, "c0", 5.0)
            cluster.end("default", name)
    assert held[0] == held[1]
    await cluster.stop_agent(agent)
    await cluster.kubelet.restart()
    config = await cluster.start("default", "second", "c0")
    with pytest.raises(UnresolvableError):
        cluster.environment(config)


async def test_kubelet_asks_again_after_it_forgot(cluster: Cluster) -> None:
    """It was restarted between Allocate and its checkpoint: the pod was served and the lock is
    gone.
    """
    cluster.start_agent(SMALL, **LOCKED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, (a, 100, 1)))
    assert await cluster.admit("default", "p") is None
    await cluster.kubelet.restart(delete_checkpoint=True, readmit=False)
    await cluster.kubelet.wait_registered(RESOURCE)
    outcome = await cluster.run("default", "p", 5.0)
    assert outcome.failure == ""
    assert seen(cluster, outcome.containers["c0"]) == gets(100, 1, a)


async def test_a_namesake_gets_its_own_grant(cluster: Cluster) -> None:
    cluster.start_agent(SMALL, **DEFERRED)
    a, b = await cluster.ready(KEYS, RESOURCE)
    for uuid, memory in ((a, 100), (b, 200), (a, 300)):
        cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
        await cluster.place(Habit.OURS, KEYS, "p", devices(KEYS, (uuid, memory, 1)))
        outcome = await cluster.run("default", "p", 5.0)
        assert outcome.failure == ""
        assert seen(cluster, outcome.containers["c0"]) == gets(memory, 1, uuid)
        cluster.delete("default", "p")


async def test_two_vendors_in_one_pod(cluster: Cluster) -> None:
    found = load_registry()
    second = replace(found.vendors["mock"], name="second")
    registry = Registry({**found.vendors, "second": second}, ())
    sections = {**SMALL, "second": {**SMALL["mock"], "resource": "b.c/d", "word": "DCU"}}
    cluster.start_agent(sections, registry, vendors=("mock", "second"), **DEFERRED)
    a, b = await cluster.ready(KEYS, RESOURCE)
    await cluster.kubelet.wait_registered("b.c/d")
    pod = manifest(RESOURCE, "p", {"c0": 1})
    pod["spec"]["containers"][0]["resources"]["limits"]["b.c/d"] = "1"
    cluster.create(pod)
    other = [ContainerDevice(b, "DCU", 222, 2)]
    await asyncio.to_thread(
        cluster.scheduler(Habit.HAMI28).place,
        "default",
        "p",
        Wish(KEYS, [devices(KEYS, (a, 111, 1))]),
        Wish(VENDORS["DCU"], [other]),
    )
    outcome = await cluster.run("default", "p", 5.0)
    assert outcome.failure == ""
    assert len(outcome.containers["c0"].cdi_names()) == 2
    await cluster.settled(lambda: cluster.pod_annotations("p")[BIND_PHASE] == "success")
    assert cluster.pod_annotations("p")["hami.io/dcu-devices-to-allocate"] == ";"
    await cluster.settled(lambda: MUTEX_LOCK not in cluster.node_annotations())


# --- the API server's moods ----------------------------------------------------------------------


async def test_an_api_server_that_is_away_delays_reports_and_not_containers(
    cluster: Cluster,
) -> None:
    cluster.start_agent(SMALL, **DEFERRED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.OURS, KEYS, "p", devices(KEYS, (a, 100, 1)))
    assert await cluster.admit("default", "p") is None
    await asyncio.sleep(0.3)
    cluster.server.stop()
    config = await cluster.start("default", "p", "c0")
    assert seen(cluster, config) == gets(100, 1, a)
    cluster.server.start()
    await cluster.settled(lambda: cluster.pod_annotations("p")[BIND_PHASE] == "success", 20)


async def test_an_api_server_that_is_slow_to_answer_keeps_no_container_waiting(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports to it wait in threads, of which there are few."""
    monkeypatch.setattr("deviceplugin.apiserver.client.READ_SECONDS", 60.0)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(3))
    cluster.start_agent(SMALL, **DEFERRED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    names = [f"p{number}" for number in range(5)]
    for name in names:
        cluster.create(manifest(RESOURCE, name, {"c0": 1}))
        await cluster.place(Habit.OURS, KEYS, name, devices(KEYS, (a, 100, 1)))
        assert await cluster.admit("default", name) is None
    node = cluster.agents[0][0].scheduled
    assert node is not None
    await cluster.until(lambda: all(node.pods.get("default", name) for name in names))
    cluster.server.faults.hang = answering = threading.Event()
    try:
        async with asyncio.timeout(20):
            for name in names:
                uid = node.pods.get("default", name).uid  # type: ignore[union-attr]
                config = await cluster.kubelet.start_container(uid, "c0")
                assert seen(cluster, config) == gets(100, 1, a)
    finally:
        answering.set()


async def test_a_write_that_conflicts_or_is_throttled_is_made_again(cluster: Cluster) -> None:
    cluster.start_agent(SMALL, **LOCKED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, (a, 100, 1)))
    await asyncio.sleep(0.3)
    cluster.server.faults.throttle = 1
    outcome = await cluster.run("default", "p", 5.0)
    assert outcome.failure == ""


async def test_a_conflict_for_ever_refuses_the_pod_and_says_so(cluster: Cluster) -> None:
    cluster.start_agent(SMALL, **LOCKED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, (a, 100, 1)))
    await asyncio.sleep(0.3)
    cluster.server.faults.conflicts.add("pods/p")
    assert "the change of pod default/p failed" in (await cluster.run("default", "p")).failure
    await cluster.settled(lambda: MUTEX_LOCK not in cluster.node_annotations())


async def test_what_an_agent_could_not_report_any_more_the_next_one_does(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deviceplugin.scheduled.node.TIDY_SECONDS", 0.2)
    first = cluster.start_agent(SMALL, **DEFERRED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.OURS, KEYS, "p", devices(KEYS, (a, 100, 1)))
    cluster.server.faults.deny.add(("patch", "pods"))
    assert await cluster.admit("default", "p") is None
    await cluster.start("default", "p", "c0", 5.0)
    await cluster.stop_agent(first)
    assert first.scheduled is not None
    await first.scheduled.writer.drain(0.0)
    cluster.server.faults.deny.clear()
    assert cluster.pod_annotations("p")[BIND_PHASE] == "allocating"
    cluster.start_agent(SMALL, **DEFERRED)
    await cluster.settled(lambda: cluster.pod_annotations("p")[BIND_PHASE] == "success")
    assert cluster.pod_annotations("p")[str(KEYS.to_allocate)] == ";"


async def test_closed_and_expired_watches_are_taken_up_again(cluster: Cluster) -> None:
    cluster.start_agent(SMALL, **DEFERRED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    for number in range(3):
        cluster.server.store.compact()
        cluster.server.drop_connections()
        name = f"p{number}"
        cluster.create(manifest(RESOURCE, name, {"c0": 1}))
        await cluster.place(Habit.OURS, KEYS, name, devices(KEYS, (a, 100 + number, 1)))
        outcome = await cluster.run("default", name, 10.0)
        assert outcome.failure == ""
        assert seen(cluster, outcome.containers["c0"]) == gets(100 + number, 1, a)


# --- the lock ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["nonsense", "2026-01-20T08:15:30Z,default"])
async def test_a_malformed_lock_is_named(cluster: Cluster, value: str) -> None:
    cluster.start_agent(SMALL, **LOCKED)
    await cluster.ready(KEYS, RESOURCE)
    cluster.server.patch("nodes", NODE, {"metadata": {"annotations": {MUTEX_LOCK: value}}})
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    cluster.server.patch("pods", "p", {"metadata": {"labels": {"x": "y"}}}, "default")
    outcome = await cluster.run("default", "p")
    assert MUTEX_LOCK in outcome.failure


async def test_the_lock_of_a_namesake_outlives_a_late_release(cluster: Cluster) -> None:
    """The API server took no writes while the pod failed and was made anew."""
    agent = cluster.start_agent(SMALL, **LOCKED)
    await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, ("GPU-elsewhere", 100, 1)))
    node = agent.scheduled
    assert node is not None
    await cluster.until(lambda: node.node and MUTEX_LOCK in node.node.annotations)
    cluster.server.faults.conflicts.add(f"nodes/{NODE}")
    assert "does not offer" in (await cluster.run("default", "p")).failure
    cluster.delete("default", "p")
    await cluster.until(lambda: node.pods.get("default", "p") is None)
    cluster.server.faults.conflicts.clear()
    later = datetime.now(UTC) + timedelta(minutes=1)
    taken = nodelock.encode(nodelock.NodeLock(later, "default", "p"))
    cluster.server.patch("nodes", NODE, {"metadata": {"annotations": {MUTEX_LOCK: taken}}})
    assert await node.writer.drain(15.0)
    assert cluster.node_annotations()[MUTEX_LOCK] == taken


async def test_a_lock_of_another_pod_is_never_touched(cluster: Cluster) -> None:
    cluster.start_agent(SMALL, **DEFERRED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    foreign = nodelock.encode(nodelock.NodeLock(datetime.now(UTC), "default", "elsewhere"))
    cluster.server.patch("nodes", NODE, {"metadata": {"annotations": {MUTEX_LOCK: foreign}}})
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.OURS, KEYS, "p", devices(KEYS, (a, 100, 1)))
    assert (await cluster.run("default", "p")).failure == ""
    await cluster.settled(lambda: cluster.pod_annotations("p")[BIND_PHASE] == "success")
    assert cluster.node_annotations()[MUTEX_LOCK] == foreign


# --- the node ------------------------------------------------------------------------------------


async def test_the_node_says_what_it_has_and_restores_what_is_removed(cluster: Cluster) -> None:
    agent = cluster.start_agent(SMALL, **DEFERRED)
    await cluster.ready(KEYS, RESOURCE)
    annotations = cluster.node_annotations()
    assert annotations[ALLOCATION] == "deferred"
    assert str(KEYS.register) in annotations[ANNOUNCES].split(",")
    cluster.server.patch("nodes", NODE, {"metadata": {"annotations": {str(KEYS.register): None}}})
    assert agent.announcer is not None
    await asyncio.sleep(0.3)
    assert await agent.announcer.announce()
    assert str(KEYS.register) in cluster.node_annotations()
    await asyncio.sleep(0.3)
    assert not await agent.announcer.announce()


async def test_agents_that_divide_a_node_leave_each_others_things_alone(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deviceplugin.scheduled.announcer.SETTLE_SECONDS", 0.0)
    found = load_registry()
    second = replace(found.vendors["mock"], name="second")
    registry = Registry({**found.vendors, "second": second}, ())
    sections = {**SMALL, "second": {**SMALL["mock"], "resource": "b.c/d", "word": "DCU"}}
    one = cluster.start_agent(sections, registry, vendors=("mock",), **DEFERRED)
    await cluster.ready(KEYS, RESOURCE)
    other = cluster.start_agent(sections, registry, vendors=("second",), **DEFERRED)
    await cluster.kubelet.wait_registered("b.c/d")
    theirs = str(VENDORS["DCU"].register)
    await cluster.settled(lambda: theirs in cluster.node_annotations())
    for agent in (one, other):
        node, announcer = agent.scheduled, agent.announcer
        assert node is not None
        assert announcer is not None
        await cluster.until(lambda node=node: node.node and theirs in node.node.annotations)
        await announcer.announce()
        assert {theirs, str(KEYS.register)} <= cluster.node_annotations().keys()
    await cluster.stop_agent(other)
    assert one.announcer is not None
    await one.announcer.announce()
    assert theirs not in cluster.node_annotations(), "nobody serves it any more"


async def test_cleanup_leaves_nothing(cluster: Cluster) -> None:
    agent = cluster.start_agent(SMALL, **DEFERRED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, (a, 100, 1)))
    assert (await cluster.run("default", "p")).failure == ""
    await cluster.settled(lambda: MUTEX_LOCK not in cluster.node_annotations())
    await cluster.stop_agent(agent)
    plugin_dir = cluster.kubelet.kubelet_socket.parent
    run_dir, cdi_dir = cluster.root / "run", cluster.root / "cdi"
    check_idle(run_dir)
    would = list(file_items(plugin_dir, cdi_dir, run_dir, dry_run=True))
    assert {item.kind for item in would} == {"CDI inventory", "CDI specification", "record"}
    items = list(file_items(plugin_dir, cdi_dir, run_dir, dry_run=False))
    items += await asyncio.to_thread(lambda: list(api_items(cluster.api(), NODE, dry_run=False)))
    assert not [item for item in items if item.problem]
    assert cluster.node_annotations() == {}
    assert not list(cdi_dir.iterdir())
    assert not list(run_dir.iterdir())


async def test_grants_of_pods_that_went_while_no_agent_ran_are_forgotten(cluster: Cluster) -> None:
    first = cluster.start_agent(SMALL, **LOCKED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, (a, 100, 1)))
    assert (await cluster.run("default", "p")).failure == ""
    await cluster.stop_agent(first)
    cluster.delete("default", "p")
    second = cluster.start_agent(SMALL, **LOCKED)
    async with asyncio.timeout(10):
        while second.scheduled is None or not second.scheduled.pods.synced:
            await asyncio.sleep(0.02)
        while list(second.scheduled.ledger):
            await asyncio.sleep(0.02)


# --- the record is written while the API server answers -------------------------------------------


async def test_a_record_that_cannot_be_written_fails_the_pod_and_frees_the_node(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = cluster.start_agent(SMALL, **LOCKED)
    a, _ = await cluster.ready(KEYS, RESOURCE)
    node = agent.scheduled
    assert node is not None

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(node.ledger, "put", full)
    cluster.create(manifest(RESOURCE, "p", {"c0": 1}))
    await cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, (a, 100, 1)))
    failure = (await cluster.run("default", "p")).failure
    assert "the grant of default/p/c0 cannot be recorded" in failure
    await cluster.settled(lambda: MUTEX_LOCK not in cluster.node_annotations())
    assert cluster.pod_annotations("p")[BIND_PHASE] == "failed"
    assert list(node.living()) == []


async def test_what_is_decided_and_not_written_yet_takes_its_room(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deviceplugin.scheduled.granting.PATIENCE_SECONDS", 0.1)
    agent = cluster.start_agent(SMALL, **LOCKED, lockless="verify")
    a, _ = await cluster.ready(KEYS, RESOURCE)
    node = agent.scheduled
    assert node is not None
    put, held = node.ledger.put, threading.Event()

    def late(*records: Any) -> None:
        held.wait(20)
        put(*records)

    monkeypatch.setattr(node.ledger, "put", late)
    most = register.decode(cluster.node_annotations()[str(KEYS.register)])[0].memory
    for name in ("first", "second"):
        cluster.create(manifest(RESOURCE, name, {"c0": 1}))
        wish = Wish(KEYS, [devices(KEYS, (a, most, 1))])
        await asyncio.to_thread(cluster.scheduler(Habit.VOLCANO).place, "default", name, wish)
        if name == "first":
            first = asyncio.create_task(cluster.run("default", name, 5.0))
            await cluster.until(lambda: node.reserved)
    second = asyncio.create_task(cluster.run("default", "second", 5.0))
    assert "do not fit" in (await second).failure
    held.set()
    assert (await first).failure == ""
    assert [record.pod for record in node.ledger] == ["first"]
    assert node.reserved == {}
