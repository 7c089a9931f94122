"""From the pod that its author wrote to the variables that ascend-docker-runtime reads: everything is
real but the driver's library, the runtime, kubelet and the API server.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.api.hami.keys import BIND_PHASE, MUTEX_LOCK, ascend
from deviceplugin.probe.supervisor import Probe
from deviceplugin.testing.extender import NotPlacedError
from deviceplugin.testing.placing import DoesNotFitError, place_pod
from deviceplugin.testing.scheduling import Habit

WORD = "Ascend910B4"
KEYS = ascend(WORD)
RESOURCE = f"huawei.com/{WORD}"
LIBRARY = "usr/local/Ascend/driver/lib64/driver/libdcmi.so"

LOCKED = {"allocation": "scheduled-locked", "device_list_strategy": ("envvar",)}
LOCKED_CDI = {"allocation": "scheduled-locked", "device_list_strategy": ("cdi-cri",)}
LOCKLESS = {**LOCKED, "lockless": "verify"}
DEFERRED = {"allocation": "scheduled-deferred", "device_list_strategy": ("cdi-cri",)}
STANDALONE = {"allocation": "standalone", "device_list_strategy": ("envvar",)}

WAYS = pytest.mark.parametrize(
    ("mode", "habit"),
    [
        (LOCKED, Habit.HAMI28),
        (LOCKED_CDI, Habit.HAMI28),
        (LOCKLESS, Habit.VOLCANO),
        (DEFERRED, Habit.OURS),
        (DEFERRED, Habit.HAMI28),
    ],
    ids=["hami28-locked", "hami28-locked-cdi", "volcano", "deferred", "hami28-deferred"],
)


@pytest.fixture
def node(machine: Callable[..., Any], dcmi: Path, npus: Callable[..., str]) -> Callable[..., Any]:
    """Makes a node of so many NPUs, with the runtime installed."""

    def make(count: int = 4, word: str = WORD) -> Any:
        made = machine("ascend", dcmi, LIBRARY, "FAKE_DCMI_SCENARIO", npus(count, word))
        made.put("etc/ascend-docker-runtime.d/base.list")
        return made

    return make


def env_of(machine: Any, outcome: Any, name: str) -> dict[str, str]:
    """What was handed over to a container, and nothing else was."""
    seen = machine.seen(outcome.containers[name])
    assert (seen["devices"], seen["mounts"]) == ([], {})
    return dict(seen["env"])


def annotations(machine: Any, name: str) -> dict[str, str]:
    found: dict[str, str] = machine.cluster.pod_annotations(name)
    return found


def pod(name: str, *containers: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    """A pod whose containers `c0`, `c1` have these limits."""
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "schedulerName": "scripted",
            "containers": [
                {"name": f"c{n}", "image": "x", "resources": {"limits": {k: str(v) for k, v in one.items()}}}
                for n, one in enumerate(containers)
            ],
            **spec,
        },
    }  # fmt: skip


# --- what the node says --------------------------------------------------------------------------


async def test_the_node_describes_its_npus_to_the_letter(
    node: Any, npu: Any, uuid: Callable[[int], str]
) -> None:
    machine = node()
    machine.scenario.write_text(npu(0) + npu(1, health=1) + npu(4))
    await machine.start(LOCKED, RESOURCE)
    found = machine.cluster.node_annotations()
    shown = '"count":4,"devmem":32768,"devcore":20,"type":"Ascend910B4"'
    assert found["hami.io/node-register-Ascend910B4"] == (
        f'[{{"id":"{uuid(0)}",{shown},"health":true,"custominfo":{{"NetworkID":0}},"devicepairscore":{{}}}},'
        f'{{"id":"{uuid(1)}","index":1,{shown},"custominfo":{{"NetworkID":0}},"devicepairscore":{{}}}},'
        f'{{"id":"{uuid(4)}","index":4,{shown},"health":true,"custominfo":{{"NetworkID":1}},"devicepairscore":{{}}}}]'
    )
    assert found["hami.io/node-handshake-Ascend910B4"].startswith("Reported")
    assert "hami-vnpu-core" not in found
    ids = machine.cluster.kubelet.allocatable()[RESOURCE]
    assert ids == 8  # four a healthy card


async def test_a_card_that_recovers_is_told_too(node: Any, npus: Any) -> None:
    """Both ways, which upstream does not (E.1 no. 6)."""
    machine = node(2)
    await machine.start(LOCKED, RESOURCE, health_successes=1)
    kubelet = machine.cluster.kubelet
    assert kubelet.allocatable()[RESOURCE] == 8
    machine.scenario.write_text(npus(2, health=3))
    await machine.cluster.until(lambda: kubelet.allocatable()[RESOURCE] == 0)
    await machine.cluster.settled(
        lambda: '"health"' not in machine.cluster.node_annotations()[KEYS.register]
    )
    machine.scenario.write_text(npus(2))
    await machine.cluster.until(lambda: kubelet.allocatable()[RESOURCE] == 8)
    await machine.cluster.settled(
        lambda: machine.cluster.node_annotations()[KEYS.register].count('"health":true') == 2
    )


async def test_without_the_runtime_no_npu_is_healthy(node: Any) -> None:
    machine = node()
    (machine.host / "etc/ascend-docker-runtime.d/base.list").unlink()
    (machine.host / "etc/ascend-docker-runtime.d").rmdir()
    await machine.start(LOCKED, sections={})
    await machine.cluster.kubelet.wait_registered(RESOURCE)
    assert machine.cluster.kubelet.allocatable().get(RESOURCE, 0) == 0
    (machine.host / "etc/ascend-docker-runtime.d").mkdir()
    await machine.cluster.until(lambda: machine.cluster.kubelet.allocatable()[RESOURCE] == 16)


# --- what containers get -------------------------------------------------------------------------


@WAYS
async def test_the_pods_of_the_page(
    node: Any, doc_pods: Any, uuid: Callable[[int], str], mode: dict[str, Any], habit: Habit
) -> None:
    pods, machine = doc_pods("ascend"), node()
    await machine.start(mode, RESOURCE)
    part = await machine.run(pods["ascend-part"], habit)
    assert env_of(machine, part, "main") == {
        "ASCEND_VISIBLE_DEVICES": "4",
        "ASCEND_VNPU_SPECS": "vir05_1c_8g",
    }
    told = annotations(machine, "ascend-part")
    assert told["hami.io/Ascend910B4-devices-allocated"] == f"{uuid(3)},Ascend910B4,8192,0:;"
    assert told["huawei.com/Ascend910B4"] == f'[{{"UUID":"{uuid(3)}","temp":"vir05_1c_8g"}}]'
    assert int(told["predicate-time"]) > 0
    whole = await machine.run(pods["ascend-whole"], habit)
    assert env_of(machine, whole, "main") == {"ASCEND_VISIBLE_DEVICES": "6,5"}
    for name in pods:
        if name != "ascend-mixed":
            machine.cluster.end("default", name)
    mixed = await machine.run(pods["ascend-mixed"], habit)
    seen = {name: env_of(machine, mixed, name) for name in mixed.containers}
    assert seen["sidecar"] == {}
    assert seen["preprocess"]["ASCEND_VNPU_SPECS"] == "vir10_3c_16g"
    assert set(seen["train"]) == {"ASCEND_VISIBLE_DEVICES"}
    first, others = (
        seen["preprocess"]["ASCEND_VISIBLE_DEVICES"],
        seen["train"]["ASCEND_VISIBLE_DEVICES"],
    )
    assert len({first, *others.split(",")}) == 3  # none of them twice, unlike upstream (E.1 no. 1)
    cluster = machine.cluster
    await cluster.settled(lambda: annotations(machine, "ascend-mixed")[BIND_PHASE] == "success")
    await cluster.settled(lambda: MUTEX_LOCK not in cluster.node_annotations())
    assert annotations(machine, "ascend-mixed")[str(KEYS.to_allocate)] == ";;;"
    assert cluster.kubelet.findings == []


@WAYS
async def test_two_parts_of_one_npu_in_one_pod_are_told_apart(
    node: Any, mode: dict[str, Any], habit: Habit
) -> None:
    machine = node(1)
    await machine.start(mode, RESOURCE)
    sizes = [{RESOURCE: 1, f"{RESOURCE}-memory": memory} for memory in (16384, 8192, 8192)]
    outcome = await machine.run(pod("p", *sizes), habit)
    seen = [env_of(machine, outcome, f"c{n}") for n in range(3)]
    assert [one["ASCEND_VNPU_SPECS"] for one in seen] == [
        "vir10_3c_16g",
        "vir05_1c_8g",
        "vir05_1c_8g",
    ]
    assert {one["ASCEND_VISIBLE_DEVICES"] for one in seen} == {"7"}
    full = r"CardTimeSlicingExhausted|CardInsufficientMemory"
    with pytest.raises((DoesNotFitError, NotPlacedError), match=full):
        await machine.create(pod("q", sizes[1]), habit)


async def test_volcano_without_lock_and_webhook(node: Any) -> None:
    """Pods are as their authors wrote them, and no lock names them: they are found by listing, and
    proved before they start. What Volcano locks under a key of its own disturbs nobody (A.13).
    """
    machine = node(2)
    await machine.start(LOCKLESS, RESOURCE)
    cluster, scheduler = machine.cluster, machine.cluster.scheduler(Habit.VOLCANO)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for key in (WORD, MUTEX_LOCK):
        cluster.server.patch("nodes", "node-a", {"metadata": {"annotations": {key: now}}})
        seen = []
        for kind, more in (("whole", {}), ("part", {f"{RESOURCE}-memory": 8192})):
            name = f"{kind}-{len(key)}"
            cluster.create(pod(name, {RESOURCE: 1, **more}))
            await asyncio.to_thread(place_pod, scheduler, "default", name, machine.backends)
            outcome = await cluster.run("default", name, 10.0)
            assert outcome.failure == ""
            seen.append(env_of(machine, outcome, "c0"))
        assert seen[0].keys() == {"ASCEND_VISIBLE_DEVICES"}
        assert seen[1]["ASCEND_VNPU_SPECS"] == "vir05_1c_8g"
        assert seen[0]["ASCEND_VISIBLE_DEVICES"] != seen[1]["ASCEND_VISIBLE_DEVICES"]
        assert cluster.node_annotations()[key] == now  # it is Volcano's to remove
        for kind in ("whole", "part"):
            cluster.end("default", f"{kind}-{len(key)}")
        cluster.server.patch("nodes", "node-a", {"metadata": {"annotations": {key: None}}})
    assert cluster.kubelet.findings == []


async def test_without_a_lock_nobody_is_served_unless_the_operator_wants_it(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deviceplugin.scheduled.locked.PATIENCE_SECONDS", 0.3)
    machine = node(1)
    await machine.start(LOCKED, RESOURCE)
    await machine.create(pod("p", {RESOURCE: 1}), Habit.VOLCANO)
    outcome = await machine.cluster.run("default", "p")
    assert "lockless: verify" in outcome.failure


async def test_dies_of_a_super_pod_are_handed_out_in_modules(node: Any) -> None:
    word = "Ascend910C"
    resource = f"huawei.com/{word}"
    entry = {
        "chipName": "Ascend910", "commonWord": word, "resourceName": resource,
        "resourceMemoryName": f"{resource}-memory", "memoryAllocatable": 65536, "aiCore": 20,
        "runtimeClassName": "ascend", "superPod": True,
    }  # fmt: skip
    machine = node(4, word)
    vnpus = {"vnpus": {"hamiVnpuCore": False, "configs": [entry]}}
    await machine.start(LOCKED, resource, sections=vnpus)
    outcome = await machine.run(pod("p", {resource: 1}), Habit.HAMI28)
    assert env_of(machine, outcome, "c0") == {"ASCEND_VISIBLE_DEVICES": "5,4"}
    stored = machine.cluster.server.get("pods", "p", "default")
    assert stored["spec"]["runtimeClassName"] == "ascend"
    limits = stored["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {resource: "2", f"{resource}-memory": "65536"}
    assert machine.cluster.node_annotations()["hami-vnpu-core"] == "false"
    assert json.loads(annotations(machine, "p")[f"huawei.com/{word}"])[0].keys() == {"UUID"}


@pytest.mark.parametrize("mode", [LOCKED, DEFERRED], ids=["locked", "deferred"])
async def test_the_clean_up_is_told_which_npus_living_containers_hold(
    node: Any, uuid: Callable[[int], str], mode: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the vNPUs of running pods hang on; the rest is `test_idle`."""
    asked: list[set[str]] = []
    command = Probe.command

    async def noted(self: Probe, kind: str, request: Any, seconds: float) -> Any:
        if kind == "tidy":
            asked.append({holder["devices"] for holder in request["held"]})
        return await command(self, kind, request, seconds)

    monkeypatch.setattr(Probe, "command", noted)
    monkeypatch.setattr("deviceplugin.tidying.MISSING_SECONDS", 0.3)
    machine = node(4)
    await machine.start(mode, RESOURCE, sections={"ascend": {"idleVnpuCleanup": True}})
    await machine.run(pod("p", {RESOURCE: 1, f"{RESOURCE}-memory": 8192}), Habit.HAMI28)
    await machine.cluster.settled(lambda: asked[-1:] == [{uuid(3)}])
    await machine.run(pod("q", {RESOURCE: 2}), Habit.HAMI28)
    cards = f"{uuid(1)} {uuid(2)}"
    await machine.cluster.settled(lambda: asked[-1] == {uuid(3), cards})
    machine.cluster.delete("default", "p")
    await machine.cluster.settled(lambda: asked[-1] == {cards})


# --- what is refused -----------------------------------------------------------------------------


async def test_a_container_that_names_its_npus_itself_is_refused(node: Any) -> None:
    machine = node(1)
    await machine.start(LOCKED, RESOURCE)
    manifest = pod("p", {RESOURCE: 1, f"{RESOURCE}-memory": 8192})
    manifest["spec"]["containers"][0]["env"] = [{"name": "ASCEND_VISIBLE_DEVICES", "value": "0-7"}]
    await machine.create(manifest, Habit.HAMI28)
    outcome = await machine.cluster.run("default", "p")
    assert "sets ASCEND_VISIBLE_DEVICES" in outcome.failure
    await machine.cluster.settled(lambda: MUTEX_LOCK not in machine.cluster.node_annotations())
    await machine.cluster.settled(lambda: annotations(machine, "p")[BIND_PHASE] == "failed")


async def test_by_cdi_its_own_list_is_overridden(node: Any) -> None:
    machine = node(1)
    await machine.start(DEFERRED, RESOURCE)
    manifest = pod("p", {RESOURCE: 1, f"{RESOURCE}-memory": 8192})
    manifest["spec"]["containers"][0]["env"] = [{"name": "ASCEND_VISIBLE_DEVICES", "value": "0-7"}]
    outcome = await machine.run(manifest)
    assert env_of(machine, outcome, "c0") == {
        "ASCEND_VISIBLE_DEVICES": "7",
        "ASCEND_VNPU_SPECS": "vir05_1c_8g",
    }


async def test_a_foreign_uuid_is_refused(node: Any) -> None:
    machine = node(1)
    await machine.start(LOCKED, RESOURCE)
    machine.cluster.create(pod("p", {RESOURCE: 1}))
    from deviceplugin.testing.cluster import devices

    await machine.cluster.place(Habit.HAMI28, KEYS, "p", devices(KEYS, ("Ascend910B4-9", 8192, 0)))
    outcome = await machine.cluster.run("default", "p")
    assert "'Ascend910B4-9', which this node does not offer" in outcome.failure


# --- without a scheduler -------------------------------------------------------------------------


async def test_kubelet_alone_hands_out_parts_and_whole_npus(node: Any) -> None:
    machine = node(2)
    await machine.start(STANDALONE, RESOURCE)
    cluster = machine.cluster
    seen = {}
    for name, count in (("part", 1), ("more", 2), ("whole", 4)):
        cluster.create(pod(name, {RESOURCE: count}))
        outcome = await cluster.run("default", name)
        assert outcome.failure == ""
        seen[name] = env_of(machine, outcome, "c0")
    assert seen["whole"].keys() == {"ASCEND_VISIBLE_DEVICES"}
    assert seen["part"]["ASCEND_VNPU_SPECS"] == "vir05_1c_8g"
    assert seen["more"]["ASCEND_VNPU_SPECS"] == "vir10_3c_16g"
    # Kubelet takes the ids that are preferred: what is together on one NPU leaves the other whole.
    assert seen["part"]["ASCEND_VISIBLE_DEVICES"] == seen["more"]["ASCEND_VISIBLE_DEVICES"]
    assert seen["whole"]["ASCEND_VISIBLE_DEVICES"] != seen["part"]["ASCEND_VISIBLE_DEVICES"]
    assert KEYS.register not in cluster.node_annotations()


async def test_shares_that_are_no_template_are_refused(node: Any) -> None:
    machine = node(1)
    await machine.start(STANDALONE, RESOURCE)
    machine.cluster.create(pod("p", {RESOURCE: 3}))
    outcome = await machine.cluster.run("default", "p")
    assert "3 of 4 shares of Ascend910B4 are no template; ask for one of 1, 2, 4" in outcome.failure
