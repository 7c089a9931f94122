"""A simulation decides as the scheduler does, and says where everybody goes and why others wait."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin.cli.main import cli
from deviceplugin.explain.coming import Comer, comers, waiting, without
from deviceplugin.explain.simulate import left, simulate
from deviceplugin.explain.snapshot import write
from deviceplugin.explain.world import rebuilt
from deviceplugin.placement.objects import pod_spec
from deviceplugin.scheduler.deciding import decide, holding_of
from deviceplugin.scheduler.filtering import request
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.testing.clusters import SORTS
from deviceplugin.vendor.scheduling import Policy

GPU, MEMORY, CORES = "nvidia.com/gpu", "nvidia.com/gpumem", "nvidia.com/gpucores"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["simulate", *arguments], catch_exceptions=False)


def coming(*pods: Any) -> list[Comer]:
    return [Comer(pod, pod["metadata"]["name"]) for pod in pods]


def test_pods_go_where_the_policy_sends_them_until_nothing_is_left(make: Any) -> None:
    world = make.world([make.node("a", 1), make.node("b", 1)])
    found = simulate(world, coming(*(make.pod(f"p{i}", 8000, 10) for i in range(5))))
    assert [outcome.node for outcome in found.outcomes] in (
        ["a", "a", "b", "b", ""], ["b", "b", "a", "a", ""],
    )  # fmt: skip
    last = found.outcomes[-1]
    assert "too little memory is left: 384 MiB at most" in last.reason
    assert last.account is not None
    assert (
        str(last.account.remedies[0]) == "ask for at most 384 MiB per card (nvidia.com/gpumem: 384)"
    )
    before, after = found.before[0], found.after[0]
    assert (before.cards, before.idle, before.mib, before.largest_mib) == (2, 2, 32768, 16384)
    assert (after.idle, after.mib, after.largest_mib, after.shares) == (0, 768, 384, 16)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_it_decides_as_the_scheduler_does_pod_after_pod(make: Any, data: Any) -> None:
    nodes = [
        make.node(f"n{i}", data.draw(st.integers(0, 2)), data.draw(st.sampled_from([4000, 16000])))
        for i in range(3)
    ]
    pods = [
        make.pod(
            f"p{i}",
            data.draw(st.integers(1, 9000)),
            data.draw(st.integers(0, 100)),
            data.draw(st.integers(1, 2)),
        )
        for i in range(data.draw(st.integers(1, 6)))
    ]
    quotas = [make.quota(gpumem=str(data.draw(st.integers(0, 60000))))]
    found = simulate(make.world(nodes, quotas=quotas), coming(*pods))
    asked = make.world(nodes, quotas=quotas)
    for pod, outcome in zip(pods, found.outcomes, strict=True):
        wanted = request(asked.cluster, pod_spec(pod), Policy.BINPACK, Policy.SPREAD)
        decided = decide(asked.cluster, asked.quotas, wanted, tuple(asked.traits))
        place = getattr(decided, "placement", None)
        assert outcome.node == (place.node if place else "")
        if place:
            asked.cluster.assume(holding_of(wanted, decided, asked.cluster))


def test_what_the_webhook_adds_counts_and_what_it_refuses_is_said(make: Any) -> None:
    world = make.world([make.node("a", 1)])
    only_memory = make.pod("memory", limits={MEMORY: "1000"}, schedulerName="default-scheduler")
    free = make.pod("free")
    free["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    found = simulate(
        world,
        coming(
            only_memory,
            free,
            make.pod("other", schedulerName="volcano"),
            make.pod("odd", limits={GPU: "some"}),
            make.pod("none", limits={"cpu": "1"}),
            make.pod("gated", schedulingGates=[{"name": "queue"}]),
        ),
    )
    nodes, reasons = zip(*((o.node, o.reason) for o in found.outcomes), strict=True)
    assert nodes == ("a", "", "", "", "", "")
    for reason, says in zip(
        reasons[1:],
        ("is privileged", "names scheduler volcano", "whole number", "no device", "gates queue"),
        strict=True,
    ):
        assert says in reason


def test_kube_schedulers_own_filters_count(make: Any) -> None:
    world = make.world([make.node("a", cordoned=True), make.node("b")])
    (found,) = simulate(world, coming(make.pod("p"))).outcomes
    assert found.node == "b"


def test_who_waits_comes_in_the_order_of_importance(make: Any) -> None:
    pods = [make.pod("old"), make.pod("new"), make.pod("high", priority=5), make.pod("x", on="a")]
    pods[0]["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    pods[1]["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    pods.append(make.pod("past", schedulerName="default-scheduler"))
    pods.append(make.pod("gone", status={"phase": "Failed"}))
    world = make.world([make.node("a")], pods)
    assert [comer.key for comer in waiting(world)] == ["team/high", "team/old", "team/new"]


def test_the_pods_of_a_node_that_is_taken_away_come_anew(make: Any) -> None:
    snapshot = make.snapshot(
        [make.node("a", 1), make.node("b", 1)],
        [make.pod("x", 9000, on="a"), make.pod("y", 9000, on="b")],
    )
    rest = without(snapshot, ["a"], make.nvidia)
    world = rebuilt(rest, make.nvidia, SchedulerSettings())
    assert left(world)[0].cards == 1
    (outcome,) = simulate(world, waiting(world)).outcomes
    assert (outcome.pod, outcome.node) == ("team/x", "")
    assert "too little memory" in outcome.reason


DEPLOYMENT = {
    "kind": "Deployment",
    "metadata": {"name": "serve", "namespace": "prod"},
    "spec": {
        "replicas": 3,
        "template": {
            "metadata": {"annotations": {"nvidia.com/use-gputype": "T4"}},
            "spec": {"containers": [{"name": "m", "resources": {"limits": {GPU: 1}}}]},
        },
    },
}


def test_what_makes_pods_makes_as_many_as_it_says() -> None:
    found = list(comers([DEPLOYMENT, None], "f.yaml"))
    assert [comer.key for comer in found] == ["prod/serve-0", "prod/serve-1", "prod/serve-2"]
    assert {comer.kind for comer in found} == {"prod/serve"}
    assert found[0].item["metadata"]["annotations"] == {"nvidia.com/use-gputype": "T4"}
    assert len({comer.item["metadata"]["uid"] for comer in found}) == 3
    job = {**DEPLOYMENT, "kind": "Job", "spec": {**DEPLOYMENT["spec"], "parallelism": 2}}
    del job["spec"]["replicas"]  # type: ignore[attr-defined]
    assert len(list(comers([job], "f"))) == 2
    assert len(list(comers([{"kind": "List", "items": [DEPLOYMENT, job]}], "f"))) == 5
    assert len(list(comers([DEPLOYMENT], "f", 7))) == 7


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (1, "f: 1 is not an object of Kubernetes; give a Pod"),
        ({"kind": "Service"}, "f: Service without metadata or spec"),
        ({"kind": "Service", "spec": {}}, "f: Service has no containers"),
        (
            {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": ["x"]}},
            "f: Pod p: containers is not a list of mappings; correct it",
        ),
        (
            {"kind": "Pod", "spec": {"containers": [{"name": "main", "resources": "many"}]}},
            "resources of container 'main' is not a mapping",
        ),
        ({"kind": "Pod", "metadata": {}, "spec": {"template": {"spec": 1}}}, "has no containers"),
        ({"kind": "PodList", "items": None}, "f: a PodList without a list of items"),
        ({"kind": "List", "items": []}, "f: nothing is in it; give a Pod"),
        (None, "f: nothing is in it; give a Pod"),
    ],
)
def test_what_makes_no_pod_is_refused(document: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        list(comers([document], "f"))


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def files(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "100")
    snapshot = make.snapshot(
        [make.node("gpu-1", 2), make.node("gpu-2", 1)],
        [make.pod("there", 9000, 20, on="gpu-1"), make.pod("waits", 1000, 10)],
    )
    write(snapshot, tmp_path / "cluster.json.gz")
    (tmp_path / "pod.yaml").write_text(json.dumps(make.pod("train", 12000, 10)))
    return str(tmp_path / "cluster.json.gz"), str(tmp_path / "pod.yaml"), tmp_path


def test_the_answer_first_then_where_and_why_and_what_is_left(files: Any) -> None:
    cluster, pod, _ = files
    found = run(cluster, "--add", pod, "--replicas", "4")
    assert found.exit_code == 1
    assert found.output == (
        "3 of 5 pods find a place, on 2 nodes; 2 wait.\n"
        "\n"
        "Where they go\n"
        "      1  team/waits: gpu-1 (1)\n"
        "      2  team/train: gpu-1 (1), gpu-2 (1)\n"
        "\n"
        "Who waits, and why\n"
        "      2  team/train: on all 2 nodes, too little memory is left: 7,384 MiB at most on a card (gpu-1),\n"
        "         12,000 MiB are asked for\n"
        "         → ask for at most 7,384 MiB per card (nvidia.com/gpumem: 7384)\n"
        "\n"
        "What is left\n"
        "  DEVICES   CARDS  IDLE  FREE SHARES  FREE MiB          ON IDLE CARDS  MOST ON A CARD\n"
        "  NVIDIA    3      0     26 of 30     15,152 of 49,152  0              7,384\n"
        "    before  3      2     29 of 30     40,152 of 49,152  32,768         16,384\n"
    )


def test_a_simulation_changes_nothing(files: Any) -> None:
    cluster, pod, _ = files
    before = Path(cluster).read_bytes()
    assert run(cluster, "--add", pod).output == run(cluster, "--add", pod).output
    assert Path(cluster).read_bytes() == before


def test_json_and_the_list_name_every_card(files: Any) -> None:
    cluster, pod, _ = files
    found = run(cluster, "--add", pod, "--only-added", "-o", "json")
    assert found.exit_code == 0
    document = json.loads(found.output)
    assert (document["placed"], document["waiting"]) == (1, 0)
    (one,) = document["pods"]
    assert one["got"][0]["memory_mib"] == 12000
    assert document["before"][0]["cards"] == 3
    listed = run(cluster, "--add", pod, "--list").output
    assert f"team/train: {one['node']}, main {one['got'][0]['uuid']} 12,000 MiB 10%" in listed


def test_a_node_less(files: Any) -> None:
    cluster, _, _ = files
    found = run(cluster, "--remove-node", "gpu-1")
    assert "2 of 2 pods find a place, on 1 node." in found.output
    found = run(cluster, "--remove-node", "gpu-9")
    assert found.exit_code == 2
    assert "no node gpu-9" in found.output


def test_a_generated_cluster(files: Any) -> None:
    plan = "nodes=4,cards=2,pods=6,mix=t4:1,seed=3"
    first = run("--generate", plan, "--add", files[1])
    assert first.exit_code == 0
    assert run("--generate", plan, "--add", files[1]).output == first.output
    file = files[2] / "plan.yaml"
    file.write_text("nodes: 4\ncards: 2\npods: 6\nmix: {t4: 1}\nseed: 3\n")
    assert run("--generate", str(file), "--add", files[1]).output == first.output


def test_without_a_number_of_pods_there_are_as_many_as_fit() -> None:
    for plan, words in (("nodes=3", "DEVICES"), ("nodes=1,cards=1,mix=p800", "0 of 1 ")):
        found = run("--generate", plan)
        assert found.exit_code == 0, plan
        assert words in found.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give either a SNAPSHOT or --generate PLAN"),
        (("--generate", "nodes"), "'nodes' is not key=value"),
        (("--generate", "nods=3"), "no 'nods'; there are nodes, cards"),
        (("--generate", "nodes=many"), 'nodes cannot be "many": write a whole number'),
        (("--generate", "nodes=3,nodes=4"), "nodes stands twice"),
        (("--generate", "mix=abacus:1"), f"'abacus': there are {', '.join(SORTS)}"),
        (("--generate", "mix=t4:most"), 'mix cannot be "t4:most": write shares'),
        (("--generate", "nodes=1,pods=1000"), "room for"),
        (("--generate", "/nowhere/plan.yaml"), "/nowhere/plan.yaml: cannot be read: No such file"),
        (
            ("/nowhere/cluster.json",),
            "for SNAPSHOT: /nowhere/cluster.json: cannot be read: No such",
        ),
        (("--generate", "nodes=1", "--add", "/nowhere.yaml"), "/nowhere.yaml: cannot be read: No"),
        (("--generate", "nodes=1", "--add", "/dev/null"), "/dev/null: nothing is in it"),
        (("--generate", "nodes=1", "--add", "/dev/zero"), "/dev/zero: larger than"),
        (("--generate", "nodes=1", "--add", "/"), "for --add: /: cannot be read: Is a directory"),
        (("--generate", "nodes=1", "--replicas", "2"), "give --add"),
        (("--generate", "nodes=1", "--only-added"), "give --add"),
    ],
)
def test_what_cannot_be_simulated_is_wrong_usage(arguments: Any, says: str) -> None:
    found = run(*arguments)
    assert found.exit_code == 2
    assert says in found.output
    assert "Errno" not in found.output


@pytest.mark.parametrize(
    ("text", "says"), [("{", "not YAML"), ("\0", "not YAML"), ("[" * 9999, "nested too deeply")]
)
def test_a_file_that_is_no_yaml_is_named(files: Any, text: str, says: str) -> None:
    file = files[2] / "bad.yaml"
    file.write_text(text)
    found = run(files[0], "--add", str(file))
    assert found.exit_code == 2
    assert f"{file}: {says}" in found.output


@pytest.mark.parametrize("replicas", [-4, "x", 100_000_000, 2.5, True])
def test_replicas_that_no_object_has_are_refused_by_name(replicas: object) -> None:
    document = {**DEPLOYMENT, "spec": {**DEPLOYMENT["spec"], "replicas": replicas}}
    with pytest.raises(
        ValueError, match=r"f\.yaml: Deployment serve has .* replicas: .*--replicas"
    ):
        list(comers([document], "f.yaml"))


@pytest.mark.parametrize(
    "plan",
    [
        "nodes=99999999999",
        "nodes=-1",
        "nodes=1,cards=100000000",
        "pods=-1",
        "mix=a100:0",
        "mix=a100:nan",
        "churn=1",
        "full=2",
        "deferred=-1",
    ],
)
def test_numbers_that_no_cluster_has_are_refused_at_once(plan: str) -> None:
    found = run("--generate", plan)
    assert found.exit_code == 2
    assert plan.rpartition(",")[2].partition("=")[0] in found.output


@pytest.mark.parametrize(
    ("replicas", "says"), [("1", "The pod finds no place."), ("3", "None of 3 pods finds a place.")]
)
def test_where_nobody_finds_a_place_the_answer_says_that(
    make: Any, files: Any, replicas: str, says: str
) -> None:
    cluster, _, folder = files
    (folder / "huge.yaml").write_text(json.dumps(make.pod("huge", 99_999, 10)))
    asked = ("--add", str(folder / "huge.yaml"), "--replicas", replicas, "--only-added")
    found = run(cluster, *asked)
    assert found.exit_code == 1
    assert found.output.startswith(says)
