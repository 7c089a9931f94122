"""What would make a pod fit: once it is done, the pod fits, whatever the cluster looks like."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from deviceplugin.explain.account import Standing
from deviceplugin.explain.changes import Cap, Drop, RaiseQuota, Release, Uncordon, applied
from deviceplugin.placement.observe import CORDON

MEMORY = "nvidia.com/gpumem"


def done(
    changes: Any, nodes: list[Any], pod: Any, quotas: list[Any]
) -> tuple[list[Any], Any, list[Any]]:
    """The cluster once somebody has done all that."""
    nodes, quotas = copy.deepcopy(nodes), copy.deepcopy(quotas)
    for change in changes:
        match change:
            case Uncordon(name):
                next(n for n in nodes if n["metadata"]["name"] == name)["spec"].pop("unschedulable")
            case Release(name, card):
                node = next(n for n in nodes if n["metadata"]["name"] == name)
                said = node["metadata"]["annotations"]
                said[CORDON] = ",".join(c for c in said[CORDON].split(",") if c != card)
            case RaiseQuota(namespace, name, key, amount):
                quota = next(q for q in quotas if q["metadata"]["name"] == name)
                assert quota["metadata"]["namespace"] == namespace
                assert int(quota["spec"]["hard"][key]) < amount
                quota["spec"]["hard"][key] = str(amount)
    return nodes, applied(pod, changes), quotas


@st.composite
def clusters(draw: Any, make: Any) -> tuple[list[Any], list[Any], Any, list[Any]]:
    """Nodes, pods on them, one that waits, and quotas."""
    nodes, pods = [], []
    for number in range(draw(st.integers(1, 3))):
        name, cards = f"n{number}", draw(st.integers(0, 3))
        withheld = draw(st.sets(st.sampled_from([f"{name}-0", f"{name}-1"])))
        taints = [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]
        nodes.append(
            make.node(
                name,
                cards,
                draw(st.sampled_from([4000, 16000])),
                draw(st.sampled_from(["T4", "A100"])),
                cordoned=draw(st.integers(0, 4)) == 0,
                taints=taints if draw(st.integers(0, 4)) == 0 else (),
                healthy=draw(st.integers(0, 6)) > 0,
                annotations={CORDON: ",".join(sorted(withheld))} if withheld else {},
            )
        )
        pods += [
            make.pod(
                f"p{number}-{tenant}",
                draw(st.sampled_from([500, 1500, 4000])),
                draw(st.sampled_from([0, 25, 60, 100])),
                on=name,
                card=draw(st.integers(0, cards - 1)),
            )
            for tenant in range(draw(st.integers(0, 4)) if cards else 0)
        ]
    annotations = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "nvidia.com/use-gputype": st.sampled_from(["T4", "A100", "H100"]),
                "nvidia.com/use-gpuuuid": st.sampled_from(["n0-0", "n1-1,n1-2", "nobody"]),
                "nvidia.com/nouse-gpuuuid": st.just("n0-0,n0-1"),
                "nvidia.com/numa-bind": st.just("true"),
                "nvidia.com/vgpu-mode": st.sampled_from(["mig", "hami-core"]),
            },
        )
    )
    waits = make.pod(
        "waits",
        draw(st.none() | st.sampled_from([400, 3000, 12000, 30000])),
        draw(st.none() | st.sampled_from([10, 50, 100])),
        draw(st.integers(1, 3)),
        annotations=annotations,
        **({"nodeSelector": {"disk": "fast"}} if draw(st.integers(0, 5)) == 0 else {}),
    )
    quotas = [
        make.quota(f"q{number}", gpumem=draw(st.sampled_from(["500", "4000", "50000"])))
        for number in range(draw(st.integers(0, 2)))
    ]
    return nodes, pods, waits, quotas


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_who_does_what_is_suggested_finds_that_the_pod_fits(make: Any, data: Any) -> None:
    nodes, pods, waits, quotas = data.draw(clusters(make))
    told = make.account(nodes, [*pods, waits], quotas)
    assert told.standing in (Standing.UNFIT, Standing.FITS)
    assert (told.standing is Standing.FITS) == any(v.fits for v in told.verdicts.values())
    assert told.standing is Standing.UNFIT or not told.remedies
    event(f"{told.standing}, {len(told.remedies)} suggestions")
    for remedy in told.remedies:
        then = done(remedy.changes, nodes, waits, quotas)
        after = make.account(then[0], [*pods, then[1]], then[2])
        assert after.standing is Standing.FITS, str(remedy)
        assert {v.name for v in after.verdicts.values() if v.fits} >= set(remedy.nodes), str(remedy)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_where_less_would_do_something_is_suggested(make: Any, data: Any) -> None:
    """On a card with a MiB and a percent left there is always an amount that fits."""
    nodes = [make.node("n0", 2, 8000), make.node("n1", 1, 16000)]
    pods = [
        make.pod(
            f"p{i}",
            data.draw(st.integers(1, 7999)),
            data.draw(st.integers(1, 99)),
            on=on,
            card=card,
        )
        for i, (on, card) in enumerate([("n0", 0), ("n0", 1), ("n1", 0)])
    ]
    waits = make.pod(
        "waits",
        data.draw(st.none() | st.integers(1, 40000)),
        data.draw(st.none() | st.integers(0, 100)),
        data.draw(st.integers(1, 4)),
        annotations=data.draw(
            st.sampled_from([{}, {"nvidia.com/use-gputype": "H100"}, {"nvidia.com/numa-bind": "1"}])
        ),
    )
    told = make.account(nodes, [*pods, waits])
    assert told.standing is Standing.FITS or told.remedies


@pytest.mark.parametrize(
    ("nodes", "pods", "waits", "says"),
    [
        (
            [("a", 1, 8000)], [("x", 3000, 10, "a")], {"memory": 6000},
            "ask for at most 5,000 MiB per card (nvidia.com/gpumem: 5000)",
        ),
        (
            [("a", 1, 8000)], [("x", 1000, 70, "a")], {"cores": 50},
            "ask for at most 30% of a card's cores (nvidia.com/gpucores: 30)",
        ),
        (
            [("a", 1, 8000), ("b", 2, 8000)], [], {"count": 3},
            "ask for at most 2 cards (nvidia.com/gpu: 2)",
        ),
        (
            [("a", 1, 8000)], [], {"annotations": {"nvidia.com/use-gpuuuid": "b-0"}},
            "remove the annotation nvidia.com/use-gpuuuid",
        ),
        (
            [("a", 1, 8000)], [("x", 3000, 70, "a")], {"memory": 6000, "cores": 50},
            "ask for at most 5,000 MiB per card (nvidia.com/gpumem: 5000), and "
            "ask for at most 30% of a card's cores (nvidia.com/gpucores: 30)",
        ),
        (
            [("a", 1, 8000)], [("x", 3000, 70, "a")], {"memory": None, "cores": 100},
            "ask for at most 5,000 MiB per card (nvidia.com/gpumem: 5000), and "
            "ask for at most 30% of a card's cores (nvidia.com/gpucores: 30)",
        ),
        (
            [("a", 1, 8000)], [("x", 3000, 10, "a")],
            {"limits": {"nvidia.com/gpu": "1", "nvidia.com/gpumem-percentage": "80"}},
            "ask for at most 62% of a card's memory (nvidia.com/gpumem-percentage: 62)",
        ),
    ],
)  # fmt: skip
def test_the_most_that_fits_is_named(
    make: Any, nodes: Any, pods: Any, waits: Any, says: str
) -> None:
    told = make.account(
        [make.node(name, cards, memory) for name, cards, memory in nodes],
        [*(make.pod(n, m, c, on=on) for n, m, c, on in pods), make.pod("waits", **waits)],
    )
    assert [str(remedy) for remedy in told.remedies] == [says]


def test_the_quota_is_raised_to_what_the_namespace_would_hold(make: Any) -> None:
    told = make.account(
        [make.node("a", 2, 16000)],
        [make.pod("x", 3000, 10, on="a"), make.pod("waits", 6000, 30)],
        [make.quota("small", gpumem="5000", gpucores="35"), make.quota("wide", gpumem="100000")],
    )
    assert [str(remedy) for remedy in told.remedies] == [
        "raise limits.nvidia.com/gpucores of the quota small in namespace team to 40, and raise "
        "limits.nvidia.com/gpumem of the quota small in namespace team to 9000"
    ] or [str(remedy) for remedy in told.remedies] == [
        "raise limits.nvidia.com/gpumem of the quota small in namespace team to 9000, and raise "
        "limits.nvidia.com/gpucores of the quota small in namespace team to 40"
    ]


def test_what_the_quota_leaves_is_the_most_that_may_be_asked_for(make: Any) -> None:
    told = make.account(
        [make.node("a", 2, 16000)],
        [make.pod("x", 3000, 10, on="a"), make.pod("waits", 6000, 30)],
        [make.quota("small", gpumem="5000")],
    )
    assert [str(remedy) for remedy in told.remedies] == [
        "ask for at most 2,000 MiB per card (nvidia.com/gpumem: 2000)",
        "raise limits.nvidia.com/gpumem of the quota small in namespace team to 9000",
    ]
    assert told.answer == (
        "team/waits is pending: on the only node, quota small: limits.nvidia.com/gpumem is 5000, "
        "3000 are used, 6000 more are asked for."
    )


def test_nodes_that_kube_scheduler_leaves_out_and_what_would_let_it_in(make: Any) -> None:
    taint = {"key": "team", "value": "ml", "effect": "NoSchedule"}
    told = make.account(
        [
            make.node("a", cordoned=True),
            make.node("b", cordoned=True),
            make.node("c", taints=[taint]),
            make.node("d", taints=[taint], cordoned=True),
            make.node("e", labels={"disk": "slow"}),
        ],
        [make.pod("waits", nodeSelector={"disk": "fast"}), make.pod("waits")],
    )
    assert told.standing is Standing.FITS  # on e
    told = make.account(
        [
            make.node("a", cordoned=True),
            make.node("b", cordoned=True),
            make.node("c", taints=[taint]),
            make.node("d", taints=[taint], cordoned=True),
            make.node("e", cards=0),
        ],
        [make.pod("waits")],
    )
    assert [(str(r), r.nodes) for r in told.remedies] == [
        ("tolerate the taint team=ml:NoSchedule", ("c",)),
        ("kubectl uncordon b", ("b",)),
    ]


def test_what_it_takes_together_is_said_together(make: Any) -> None:
    taint = {"key": "team", "value": "", "effect": "NoExecute"}
    told = make.account(
        [make.node("a", 1, 8000, cordoned=True, taints=[taint]), make.node("b", 1, 4000)],
        [make.pod("waits", 9000, count=2)],
    )
    assert [str(r) for r in told.remedies] == [
        "ask for at most 4,000 MiB per card (nvidia.com/gpumem: 4000), and ask for at most 1 card "
        "(nvidia.com/gpu: 1)"
    ]
    told = make.account(
        [make.node("a", 1, 8000, cordoned=True, taints=[taint])], [make.pod("waits", 9000)]
    )
    (remedy,) = told.remedies
    assert str(remedy) == (
        "ask for at most 8,000 MiB per card (nvidia.com/gpumem: 8000), and tolerate the taint "
        "team:NoExecute, and kubectl uncordon a"
    )
    assert remedy.nodes == ("a",)


def test_a_selector_in_the_way_is_named(make: Any) -> None:
    told = make.account(
        [make.node("a", labels={"disk": "slow"})],
        [make.pod("waits", nodeSelector={"disk": "fast"})],
    )
    assert [str(r) for r in told.remedies] == ["remove disk from the pod's nodeSelector"]


def test_several_containers_are_capped_together(make: Any) -> None:
    waits = make.pod("waits", 6000, 10)
    second = copy.deepcopy(waits["spec"]["containers"][0])
    second["name"], second["resources"]["limits"][MEMORY] = "side", "1000"
    waits["spec"]["containers"].append(second)
    told = make.account([make.node("a", 1, 6500)], [waits])
    (remedy,) = told.remedies
    assert remedy.changes == (Cap(MEMORY, 5500, ("main",), "5,500 MiB per card"),)


def test_where_nothing_helps_nothing_is_said(make: Any) -> None:
    told = make.account([make.node("a", healthy=False)], [make.pod("waits")])
    assert told.remedies == ()
    assert told.answer == "team/waits is pending: on the only node, their cards are not healthy."


def test_an_annotation_that_is_not_in_the_way_stays(make: Any) -> None:
    told = make.account(
        [make.node("a", 1, 8000)],
        [make.pod("waits", 9000, annotations={"nvidia.com/use-gputype": "T4"})],
    )
    assert not any(isinstance(c, Drop) for r in told.remedies for c in r.changes)


@pytest.mark.parametrize(
    ("vendor", "word", "limits", "says"),
    [
        ("ascend", "Ascend910B4", {"huawei.com/Ascend910B4": "1", "huawei.com/Ascend910B4-memory": "32768"}, "16,384 MiB"),
        ("kunlunxin", "XPU", {"kunlunxin.com/vxpu": "1", "kunlunxin.com/vxpu-memory": "98304"}, "49,152 MiB"),
    ],
)  # fmt: skip
def test_vendors_that_round_amounts_are_asked_what_fits(
    make: Any, vendor: str, word: str, limits: Any, says: str
) -> None:
    """A card of which half is taken by one template."""
    from deviceplugin.api.hami import poddevices, register
    from deviceplugin.api.hami.keys import VENDORS, VGPU_NODE
    from deviceplugin.api.hami.poddevices import ContainerDevice
    from deviceplugin.api.hami.register import NodeDevice

    keys, (count, memory) = VENDORS[word], limits
    total = int(limits[memory])
    device = NodeDevice(
        uuid="c0", index=0, count=4, memory=total, cores=100, type=word, healthy=True
    )
    node = make.node("a", 0)
    node["metadata"]["annotations"] = {keys.register: register.encode([device])}
    node["status"] = {"allocatable": {count: "4"}, "capacity": {count: "4"}}
    half = {count: "1", memory: str(total // 2)}
    there = make.pod("x", limits=half, nodeName="a")
    held = [[ContainerDevice("c0", word, total // 2, 0)]]
    there["metadata"]["annotations"] = {
        VGPU_NODE: "a",
        keys.allocated: poddevices.encode(held, keys.allocated),
    }
    told = make.account(
        [node], [there, make.pod("waits", limits=limits)], who=make.backends(vendor)
    )
    assert any(says in str(remedy) for remedy in told.remedies), told
