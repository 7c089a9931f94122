"""What is told of a pod, wherever it stands on its way, and that it is what the filter says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin.api.hami.keys import BIND_PHASE, MUTEX_LOCK, VENDORS, VGPU_NODE
from deviceplugin.api.node import ALLOCATION, ANNOUNCES
from deviceplugin.explain.account import Standing
from deviceplugin.explain.judge import cards, requested
from deviceplugin.explain.story import NoSuchPodError, explained
from deviceplugin.explain.victims import preempts_devices
from deviceplugin.placement.observe import CORDON
from deviceplugin.scheduler.deciding import decide
from deviceplugin.scheduler.filtering import Nowhere
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.vendor.scheduling import Obstacle, Unfit

NVIDIA = VENDORS["NVIDIA"]
TOO_FEW = {Obstacle.TOO_FEW_CARDS, Obstacle.TOO_FEW_FIT}
WAITING = {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]}


# --- why not: the words that users of HAMi search for, each with the right card -------------------


@pytest.mark.parametrize(
    ("word", "node", "there", "waits", "says"),
    [
        ("CardTypeMismatch", {}, [], {"annotations": {"nvidia.com/use-gputype": "H100"}},
         "their cards are NVIDIA-Tesla T4, and the pod wants h100"),
        ("CardUuidMismatch", {}, [], {"annotations": {"nvidia.com/use-gpuuuid": "other"}},
         "the pod names other cards"),
        ("CardTimeSlicingExhausted", {"memory": 1000}, [(1, 1)] * 10, {"memory": 10},
         "every share of their cards is taken"),
        ("CardComputeUnitsExhausted", {}, [(1000, 100)], {"memory": 10, "cores": 0},
         "no core of their cards is left"),
        ("CardInsufficientMemory", {}, [(10000, 10)], {"memory": 8000},
         "too little memory is left: 6,384 MiB at most on a card (n), 8,000 MiB are asked for"),
        ("CardInsufficientCore", {}, [(1000, 70)], {"cores": 40},
         "too few cores are left: 30% at most on a card (n), 40% are asked for"),
        ("CardNotHealth", {"healthy": False}, [], {}, "their cards are not healthy"),
        ("CardCordoned", {"annotations": {CORDON: "n-0"}}, [], {},
         "withheld by the node's annotation hami.io/device-cordon"),
        ("ExclusiveDeviceAllocateConflict", {}, [(1000, 0)], {"memory": 10, "cores": 100},
         "a whole card is asked for"),
        ("ModeNotFit", {}, [], {"annotations": {"nvidia.com/vgpu-mode": "mig"}},
         "its mode is hami-core, the pod wants mig"),
        ("NodeInsufficientDevice", {"cards": 0}, [], {}, "kubelet offers no nvidia.com/gpu"),
    ],
)  # fmt: skip
def test_each_obstacle_is_named_with_its_card(
    make: Any, word: str, node: Any, there: Any, waits: Any, says: str
) -> None:
    item = make.node("n", **{"cards": 1, **node})
    if node.get("cards") == 0:
        item["metadata"]["annotations"][NVIDIA.register] = "[]"
    pods = [make.pod(f"p{i}", m, c, on="n") for i, (m, c) in enumerate(there)]
    pods.append(make.pod("waits", **waits))
    told = make.account([item], pods)
    assert told.standing is Standing.UNFIT
    assert [group.word for group in told.groups] == [word]
    assert says in told.groups[0].summary
    assert says in told.answer
    if node.get("cards") != 0:
        world = make.world([item], pods)
        (card,) = cards(world, told.wanted, told.verdicts["n"])
        assert (card.card.uuid, str(card.reason.obstacle)) == ("n-0", word)  # type: ignore[union-attr]


def test_how_many_cards_serve_is_told_where_several_are_needed(make: Any) -> None:
    told = make.account(
        [make.node("a", 2), make.node("b", 3)],
        [
            make.pod("x", 16000, on="a"),
            make.pod("y", 16000, on="b", card=1),
            make.pod("z", 9000, count=3),
        ],
    )
    assert "3 cards on one node are needed, the best has 2 that serve" in told.answer


def test_cards_of_two_numa_nodes(make: Any) -> None:
    told = make.account(
        [make.node("a", 2)], [make.pod("waits", count=2, annotations={"nvidia.com/numa-bind": "1"})]
    )
    assert told.groups[0].word == "NumaNotFit"


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_the_filter_gives_the_same_reasons(make: Any, data: Any) -> None:
    nodes = [
        make.node(
            f"n{number}",
            data.draw(st.integers(0, 3)),
            data.draw(st.sampled_from([2000, 16000])),
            healthy=data.draw(st.booleans()),
        )
        for number in range(data.draw(st.integers(1, 4)))
    ]
    pods = [
        make.pod(
            f"p{number}", data.draw(st.integers(0, 3000)), data.draw(st.integers(0, 60)), on="n0"
        )
        for number in range(data.draw(st.integers(0, 3)))
    ]
    pods.append(
        make.pod(
            "waits",
            data.draw(st.integers(1, 20000)),
            data.draw(st.integers(0, 100)),
            data.draw(st.integers(1, 3)),
        )
    )
    quotas = [make.quota(gpumem=str(data.draw(st.integers(0, 40000))))]
    world = make.world(nodes, pods, quotas)
    told = explained(world, "team", "waits")
    wanted = requested(world, world.pods["team/waits"])
    found = decide(world.cluster, world.quotas, wanted, tuple(world.traits))
    assert (told.standing is Standing.UNFIT) == isinstance(found, Nowhere)
    if isinstance(found, Nowhere):
        # The filter stops at the first obstacle that it sees, here all of them are told; that cards
        # are too few is the node's reason or that of those that serve.
        for name, reason in found.reasons.items():
            said = told.verdicts[name].found
            reasons = said.reasons if isinstance(said, Unfit) else (said,)
            obstacles = {each.obstacle for each in reasons}
            assert reason.obstacle in obstacles or {reason.obstacle, *obstacles} >= TOO_FEW, name
    else:
        assert found.placement.node in [n for n, v in told.verdicts.items() if v.fits]


# --- where it stands ------------------------------------------------------------------------------


def test_a_pod_that_fits_and_waits(make: Any) -> None:
    lock = {MUTEX_LOCK: "2026-01-20T08:04:05Z,team,other"}
    told = make.account([make.node("a", annotations=lock)], [make.pod("waits", status=WAITING)])
    assert told.standing is Standing.FITS
    assert told.standing.well
    assert told.answer == "team/waits has not been placed yet, although it fits on a."
    assert told.advice[1] == (
        "node a is locked for team/other since 08:04:05 UTC: binds to it wait for that"
    )
    assert told.notes == ("kube-scheduler says: 0/1 nodes",)


def test_decisions_that_are_not_bound_yet_are_told_of(make: Any) -> None:
    other = make.pod("other", annotations={VGPU_NODE: "a"})
    told = make.account([make.node("a")], [other, make.pod("waits")])
    assert "1 pods were given devices and are not bound yet, team/other" in told.notes[0]


def test_a_pod_that_was_decided_about_waits_for_the_lock(make: Any) -> None:
    lock = {MUTEX_LOCK: "2026-01-20T08:04:05Z,team,other"}
    told = make.account(
        [make.node("a", annotations=lock)], [make.pod("waits", annotations={VGPU_NODE: "a"})]
    )
    assert told.standing is Standing.DECIDED
    assert "waits to be bound there" in told.answer
    assert "locked for team/other" in told.advice[0]


def test_a_lock_that_nobody_can_read(make: Any) -> None:
    told = make.account(
        [make.node("a", annotations={MUTEX_LOCK: "soon,a"})],
        [make.pod("waits", annotations={VGPU_NODE: "a"})],
    )
    assert f"kubectl annotate node a {MUTEX_LOCK}-" in told.advice[0]


def test_gates_hold_a_pod_back_and_whether_it_would_fit(make: Any) -> None:
    gates = [{"name": "kueue.x-k8s.io/admission"}]
    told = make.account([make.node("a")], [make.pod("waits", schedulingGates=gates)])
    assert told.standing is Standing.GATED
    assert "scheduling gates kueue.x-k8s.io/admission; 1 node would serve it" in told.answer
    told = make.account([make.node("a", 1)], [make.pod("waits", 99999, schedulingGates=gates)])
    assert "too little memory is left" in told.answer
    assert told.remedies


def test_a_pod_that_names_another_scheduler(make: Any) -> None:
    told = make.account([make.node("a")], [make.pod("waits", schedulerName="default-scheduler")])
    assert told.standing is Standing.PAST_WEBHOOK
    assert "came past the webhook: it asks for NVIDIA and names scheduler default" in told.answer
    assert "delete it" in told.advice[0]
    assert told.verdicts["a"].fits


def test_a_pod_on_a_node_where_nobody_gave_it_a_device(make: Any) -> None:
    told = make.account([make.node("a")], [make.pod("there", nodeName="a")])
    assert told.standing is Standing.PAST_WEBHOOK
    assert told.node == "a"


def test_a_pod_on_a_node_of_others(make: Any) -> None:
    told = make.account([make.node("a", 0)], [make.pod("there", nodeName="a")])
    assert told.standing is Standing.ELSEWHERE


def test_a_pod_that_can_never_be_served(make: Any) -> None:
    waits = make.pod("waits", limits={"nvidia.com/gpu": "1", "nvidia.com/gpumem": "much"})
    told = make.account([make.node("a")], [waits])
    assert not told.standing.well
    assert "write a whole number" in told.answer


def test_a_pod_that_asks_for_nothing(make: Any) -> None:
    told = make.account([make.node("a")], [make.pod("waits", limits={"cpu": "1"})])
    assert told.standing is Standing.NOTHING_ASKED


def test_a_pod_that_has_ended_and_one_that_kubelet_refused(make: Any) -> None:
    told = make.account([], [make.pod("x", status={"phase": "Succeeded"})])
    assert told.answer == "team/x has ended (Succeeded) and holds nothing any more."
    status = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no device"}
    told = make.account([], [make.pod("x", status=status)])
    assert told.answer == "team/x has failed: UnexpectedAdmissionError: no device"
    assert "delete it" in told.advice[0]


def test_a_pod_that_has_its_devices_and_why_there(make: Any) -> None:
    told = make.account(
        [make.node("a"), make.node("b")],
        [make.pod("other", 4000, 20, on="b"), make.pod("there", 2000, 10, on="a", card=1)],
    )
    assert told.standing is Standing.PLACED
    assert told.answer == "team/there runs on a with 2,000 MiB and 10% of a-1."
    (got,) = told.got
    assert (got.container, got.uuid, got.model, got.memory_mib, got.cores) == (
        "main", "a-1", "NVIDIA-Tesla T4", 2000, 10,
    )  # fmt: skip
    assert told.notes[0].startswith(
        "node policy binpack (the fullest node first), card policy spread: of 2 nodes that would "
        "serve it now, a is number 2"
    )


def test_the_pods_own_policy_is_told(make: Any) -> None:
    there = make.pod("there", on="a", annotations={"hami.io/node-scheduler-policy": "spread"})
    told = make.account([make.node("a")], [there])
    assert "node policy spread (the emptiest node first)" in told.notes[0]
    assert "a is the best" in told.notes[0]


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({}, "kubelet has not called Allocate"),
        ({ALLOCATION: "deferred", ANNOUNCES: ""}, "when a container starts"),
    ],
)
def test_a_pod_that_no_agent_has_served(make: Any, node: dict[str, str], says: str) -> None:
    told = make.account(
        [make.node("a", annotations=node)], [make.pod("there", on="a", phase="allocating")]
    )
    assert told.standing is Standing.ALLOCATING
    assert "is bound to a with 1,000 MiB and 10% of a-0 for 10 minutes, and no agent" in told.answer
    assert says in told.advice[0]


def test_a_pod_whose_agent_gave_up(make: Any) -> None:
    told = make.account([make.node("a")], [make.pod("there", on="a", phase="failed")])
    assert told.standing is Standing.FAILED
    assert "kubectl describe pod there -n team" in told.advice[0]


def test_a_decision_that_nobody_can_read(make: Any) -> None:
    there = make.pod("there", on="a")
    there["metadata"]["annotations"][NVIDIA.allocated] = "GPU,NVIDIA,x,y:;"
    told = make.account([make.node("a")], [there])
    assert told.standing is Standing.UNREADABLE
    assert NVIDIA.allocated in told.answer


def test_a_node_whose_agent_is_not_heard_of(make: Any) -> None:
    (backend,) = make.backends("hygon").values()
    item = make.node("a", 0)
    item["metadata"]["annotations"] = {
        backend.keys.register: "d,1,1,1,DCU,0,true:",
        backend.keys.handshake: "Deleted_2026-01-20 08:00:00",
    }
    waits = make.pod("waits", limits={backend.resources.count: "1"})
    told = make.account([item], [waits], who=make.backends("hygon"))
    assert "no agent answers for DCU: hami.io/node-handshake-dcu is 'Deleted_" in told.answer


def test_nodes_that_the_scheduler_does_not_look_at(make: Any) -> None:
    settings_ = SchedulerSettings(node_labels=(("gpu", "on"),))
    told = make.account([make.node("a")], [make.pod("waits")], settings=settings_)
    assert "node unregistered" in told.answer
    assert told.standing is Standing.UNFIT


def test_an_unknown_pod_and_where_there_is_one(make: Any) -> None:
    world = make.world([], [make.pod("x")])
    with pytest.raises(NoSuchPodError, match="there is team/x"):
        explained(world, "default", "x")
    with pytest.raises(NoSuchPodError, match=r"no pod y in namespace team$"):
        explained(world, "team", "y")


# --- preemption -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("v1.36.1", "kube-scheduler before 1.38 tries preemption out without extenders"),
        ("v1.38.0", "kube-scheduler preempts for devices from 1.38 on"),
        ("", "this cluster is of unknown version"),
    ],
)
def test_who_is_in_the_way_and_why_nobody_was_preempted(make: Any, version: str, says: str) -> None:
    pods = [
        make.pod("low", 9000, on="a", priority=1),
        make.pod("lower", 9000, on="a", card=1, priority=0),
        make.pod("high", 9000, on="b", priority=100),
        make.pod("waits", 9000, priority=10),
    ]
    told = make.account([make.node("a"), make.node("b", 1)], pods, kubernetes=version)
    assert told.standing is Standing.UNFIT
    assert told.notes[0] == (
        "its priority 10 is above that of team/lower on a, without which it would fit there"
    )
    assert says in told.notes[1]


def test_a_pod_that_never_preempts_is_not_told_of_victims(make: Any) -> None:
    pods = [
        make.pod("low", 9000, on="a"),
        make.pod("waits", 9000, priority=10, preemptionPolicy="Never"),
    ]
    assert make.account([make.node("a", 1)], pods).notes == ()


def test_where_nobody_is_less_important_nobody_is_named(make: Any) -> None:
    pods = [make.pod("x", 9000, on="a", priority=10), make.pod("waits", 9000, priority=10)]
    assert make.account([make.node("a", 1)], pods).notes == ()


@pytest.mark.parametrize(
    ("version", "counts"),
    [("v1.37.9", False), ("v1.38.0-alpha.1", True), ("1.40", True), ("", None), ("x", None)],
)
def test_since_when_kube_scheduler_asks(version: str, counts: bool | None) -> None:
    assert preempts_devices(version) is counts


# --- large clusters -------------------------------------------------------------------------------


def test_a_thousand_nodes_are_a_few_lines(make: Any) -> None:
    first = make.node("n0", 1)
    nodes = []
    for number in range(300):
        item = copy.deepcopy(first)
        item["metadata"]["name"] = f"n{number}"
        nodes.append(item)
    nodes += [make.node(f"c{number}", 0) for number in range(100)]
    told = make.account(nodes, [make.pod("waits", 99999)])
    assert [(group.word, len(group.nodes)) for group in told.groups] == [
        ("CardInsufficientMemory", 300),
        ("NodeInsufficientDevice", 100),
    ]
    assert told.answer == (
        "team/waits is pending: none of 400 nodes serves it: on 300, too little memory is left: "
        "16,384 MiB at most on a card (n99), 99,999 MiB are asked for."
    )


def test_phases_are_those_of_the_wire() -> None:
    assert BIND_PHASE == "hami.io/bind-phase"


def test_the_nodes_that_a_pod_may_go_to_are_spoken_of_first(make: Any) -> None:
    """However many others lack the devices too."""
    told = make.account(
        [make.node("mine", memory=2000), *(make.node(f"other-{n}", memory=1000) for n in range(3))],
        [make.pod("big", 3000, nodeSelector={"kubernetes.io/hostname": "mine"})],
    )
    assert "on 1, too little memory is left: 2,000 MiB at most on a card (mine)" in told.answer
    mine, others = told.groups
    assert (mine.nodes, len(others.nodes)) == (("mine",), 3)
    assert others.summary.endswith("; the pod may not go there anyway")
