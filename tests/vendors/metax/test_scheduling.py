"""MetaX's rules, with the numbers of metax-iluvatar-kunlunxin-hygon.md 1 and 7.1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.placement.admit import admitted
from deviceplugin.placement.fit import place
from deviceplugin.placement.observe import NodeView
from deviceplugin.placement.request import asks
from deviceplugin.vendor.scheduling import (
    Card,
    ContainerDevice,
    ContainerSpec,
    NodeDevice,
    NodeFacts,
    Obstacle,
    PodSpec,
    Policy,
    RefusedError,
    SchedulingSettings,
    Tenant,
    Unfit,
)
from deviceplugin.vendors.metax import annotations as words
from deviceplugin.vendors.metax.choosing import (
    by_company,
    by_links,
    company_score,
    link_score,
    most_linked,
)
from deviceplugin.vendors.metax.scheduling import backends

WHOLE, SGPU = backends(SchedulingSettings())
S = "metax-tech.com/sgpu"


def spec(**limits: object) -> ContainerSpec:
    return ContainerSpec("c", {f"metax-tech.com/{k}": str(v) for k, v in limits.items()})


def card(
    index: int,
    zone: int = 0,
    qos: str = "",
    memory: int = 1280,
    tenants: Sequence[tuple[int, int, dict[str, str]]] = (),
    **more: Any,
) -> Card:
    device = NodeDevice(
        **{
            "uuid": f"GPU-{index}",
            "index": index,
            "count": 100,
            "memory": memory,
            "cores": 100,
            "type": "Metax-SGPU",
            "healthy": True,
            "custom": {"LinkZone": zone, "QosPolicy": qos},
            **more,
        }
    )
    made = Card(device)
    for mib, cores, told in tenants:
        made = made.with_tenant(Tenant("n/x", mib, cores, "", told))
    return made


def placed(
    cards: Sequence[Card],
    annotations: dict[str, str] | None = None,
    policy: Policy = Policy.SPREAD,
    **limits: object,
) -> Any:
    pod = PodSpec("n", "p", "u", annotations or {}, (spec(**limits),))
    view = NodeView(NodeFacts("n"), {"Metax-SGPU": tuple(cards)})
    found = place(view, pod, asks(pod, [SGPU]), {"Metax-SGPU": SGPU}, policy, Policy.BINPACK)
    if isinstance(found, Unfit):
        return [reason.obstacle for reason in found.reasons]
    return [device.uuid for device in found.containers["Metax-SGPU"][0]]


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ({"sgpu": 1}, (1, 0, 100, 100)),
        ({"sgpu": 2}, (2, 0, 100, 100)),
        ({"sgpu": 1, "vcore": 30}, (1, 0, 100, 30)),
        ({"sgpu": 1, "vmemory": 16}, (1, 16384, 100, 100)),
        ({"sgpu": 1, "vcore": 60, "vmemory": "1024Mi"}, (1, 1024, 100, 60)),
        ({"sgpu": 1, "vmemory": "16Gi"}, (1, 16384, 100, 100)),
        ({"sgpu": 1, "vmemory": 4}, (1, 4096, 100, 100)),
        ({"sgpu": 1, "vmemory": "8G"}, (1, 7629, 100, 100)),
    ],
)
def test_requests_are_read(limits: dict[str, object], wanted: tuple[int, ...]) -> None:
    found = SGPU.demand(spec(**limits), PodSpec())
    assert found is not None
    assert (
        found.count,
        found.memory_mib,
        found.memory_percent,
        found.cores_percent,
    ) == wanted


def test_only_limits_count() -> None:
    container = ContainerSpec("c", {}, {S: "1"})
    assert SGPU.demand(container, PodSpec()) is None


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"sgpu": 1, "vmemory": "1k"}, "write 1000Gi"),
        ({"sgpu": 1, "vmemory": "-4"}, "write GiB"),
        ({"sgpu": 1, "vmemory": "99999999"}, "of at most one card"),
        ({"sgpu": 1, "vmemory": "much"}, "is not a quantity"),
        ({"sgpu": 1, "vcore": 120}, "more than the largest card has"),
        ({"sgpu": -1}, "whole number"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_remedy(
    limits: dict[str, object], said: str
) -> None:
    with pytest.raises(RefusedError, match=said):
        SGPU.demand(spec(**limits), PodSpec())


@pytest.mark.parametrize(
    ("annotations", "count", "wanted"),
    [
        ({}, 1, {words.QOS: "best-effort"}),
        ({words.QOS: "fixed-share"}, 1, {}),
        ({words.APP_CLASS: "online"}, 1, {}),
        ({words.APP_CLASS: "offline"}, 1, {words.QOS: "best-effort"}),
        ({words.APP_CLASS: "online", words.QOS: "anything"}, 1, {}),
    ],
)
def test_a_policy_is_written_where_none_is(
    annotations: dict[str, str], count: int, wanted: dict[str, str]
) -> None:
    pod = {
        "metadata": {"name": "p", "annotations": annotations},
        "spec": {"containers": [{"name": "c", "resources": {"limits": {S: str(count)}}}]},
    }
    stored, _ = admitted(pod, [SGPU])
    assert stored["metadata"]["annotations"] == {**annotations, **wanted}


@pytest.mark.parametrize(
    ("annotations", "count", "said"),
    [
        ({words.QOS: "BestEffort"}, 1, "must be set one of .best-effort, fixed-share, burst-share"),
        ({words.APP_CLASS: "Online"}, 1, "must be set one of .online, offline"),
        ({words.APP_CLASS: "online"}, 2, "app-class pod must request single device"),
    ],
)
def test_other_words_are_refused(annotations: dict[str, str], count: int, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        SGPU.admit(spec(sgpu=count), PodSpec(annotations=annotations))


ONLINE, OFFLINE = {words.APP_CLASS: "online"}, {words.APP_CLASS: "offline"}
FIXED, BEST = {words.QOS: "fixed-share"}, {words.QOS: "best-effort"}
PART = {"sgpu": 1, "vcore": 30, "vmemory": "10Mi"}


@pytest.mark.parametrize(
    ("cards", "annotations", "limits", "wanted"),
    [
        ([card(0), card(1)], {}, {"sgpu": 1}, ["GPU-1"]),
        ([card(0, memory=128)], BEST, {"sgpu": 1, "vmemory": "512Mi"}, [Obstacle.MEMORY]),
        ([card(0, tenants=[(1, 100, BEST)])], BEST, {"sgpu": 1, "vcore": 50}, [Obstacle.MEMORY]),
        ([card(0, tenants=[(1, 90, BEST)])], BEST, PART, [Obstacle.CORES]),
        ([card(0, tenants=[(1, 10, BEST)])], ONLINE, PART, [Obstacle.APP_CLASS]),
        ([card(0, tenants=[(1, 0, ONLINE)])], BEST, PART, [Obstacle.APP_CLASS]),
        ([card(0, tenants=[(1, 10, OFFLINE)])], ONLINE, PART, ["GPU-0"]),
        ([card(0, tenants=[(1, 10, OFFLINE)])], {**OFFLINE, **BEST}, PART, ["GPU-0"]),
        ([card(0, tenants=[(1, 0, ONLINE)])], {**OFFLINE, **BEST}, PART, [Obstacle.APP_CLASS]),
        ([card(0, healthy=False)], BEST, PART, [Obstacle.HEALTH]),
        ([card(0, tenants=[(1, 10, FIXED)])], BEST, PART, [Obstacle.QOS]),
        ([card(0, tenants=[(1, 10, FIXED)])], FIXED, PART, ["GPU-0"]),
        ([card(0, qos="burst-share", tenants=[(1, 10, {})])], BEST, PART, [Obstacle.QOS]),
        ([card(0, qos="burst-share")], BEST, PART, ["GPU-0"]),
        (
            [card(0, tenants=[(1, 10, BEST)])],
            BEST,
            {"sgpu": 1, "vcore": 100, "vmemory": "10Mi"},
            [Obstacle.CORES],
        ),
        (
            [card(0)],
            BEST,
            {"sgpu": 2, **{k: v for k, v in PART.items() if k != "sgpu"}},
            [Obstacle.TOO_FEW_FIT],
        ),
        ([card(0, count=0)], BEST, PART, [Obstacle.SLOTS]),
        ([card(0)], {**BEST, "metax-tech.com/use-gpuuuid": "GPU-9"}, PART, [Obstacle.UUID]),
        ([card(0)], {**BEST, "metax-tech.com/nouse-gpuuuid": "GPU-0"}, PART, [Obstacle.UUID]),
    ],
)
def test_cards_fit_or_say_why_not(
    cards: list[Card], annotations: dict[str, str], limits: dict[str, object], wanted: list[Any]
) -> None:
    if limits.get("vcore") == 50:
        limits = {**limits, "vmemory": "2000Mi"}
    assert placed(cards, annotations, **limits) == wanted


@pytest.mark.parametrize(
    ("zones", "count", "wanted"),
    [
        ({1: [1, 2], 2: [5]}, 1, [5]),
        ({1: [1, 2], 2: [5, 6, 7]}, 2, [1, 2]),
        ({1: [1, 2], 2: [5, 6, 7, 8]}, 4, [5, 6, 7, 8]),
        ({1: [1, 2], 2: [5, 6, 7]}, 4, [1, 2, 5, 6]),
        ({0: [5, 6, 7]}, 2, [5, 6]),
        ({0: [3, 4], 1: [7, 8]}, 2, [7, 8]),
        ({0: [3, 4], 1: [6, 7, 8]}, 4, [6, 7, 8, 3]),
    ],
)
def test_whole_cards_follow_their_links(
    zones: dict[int, list[int]], count: int, wanted: list[int]
) -> None:
    cards = [card(i, zone) for zone, members in zones.items() for i in members]
    assert [c.device.index for c in by_links(cards, count)] == wanted


def eight(idle: set[int]) -> list[Card]:
    whole = [(1280, 100, BEST)]
    return [card(i, 1 if i <= 4 else 2, tenants=() if i in idle else whole) for i in range(1, 9)]


@pytest.mark.parametrize(
    ("idle", "taken", "score"),
    [
        ({1}, {1}, 0),
        ({1, 2, 3, 4}, {1}, -30),
        ({1, 2}, {1, 2}, 100),
        ({1, 5}, {1, 5}, 0),
        ({1, 2, 3, 4, 5}, {1, 2, 3, 4}, 600),
        ({2, 3, 4, 5, 6}, {2, 3, 5, 6}, 180),
        (set(range(1, 9)), set(range(1, 9)), 1200),
    ],
)
def test_connected_cards_are_better_and_torn_groups_worse(
    idle: set[int], taken: set[int], score: int
) -> None:
    assert link_score(eight(idle), {f"GPU-{i}" for i in taken}) == score


@given(st.sets(st.integers(1, 8)), st.sets(st.integers(1, 8)))
def test_no_cards_are_better_connected_than_is_said(idle: set[int], taken: set[int]) -> None:
    assert link_score(eight(idle), {f"GPU-{i}" for i in taken}) <= most_linked(len(taken))


def test_two_of_four_free_cards() -> None:
    """The contract's 60: two of a group stay connected, four connections are torn."""
    assert link_score(eight({1, 2, 3, 4}), {"GPU-1", "GPU-2"}) == 60


@pytest.mark.parametrize(
    ("online", "offline", "score"), [(0, 0, 0), (2, 0, -40), (0, 2, -200), (2, 2, -44)]
)
def test_company_counts(online: int, offline: int, score: int) -> None:
    tenants = [(1, 0, ONLINE)] * online + [(1, 1, OFFLINE)] * offline
    assert company_score([card(0, tenants=tenants)]) == score


def test_online_pods_go_where_they_are_disturbed_least() -> None:
    def with_tenants(index: int, online: int, offline: int) -> Card:
        return card(index, tenants=[(1, 0, ONLINE)] * online + [(1, 1, OFFLINE)] * offline)

    cards = [
        with_tenants(5, 0, 1),
        with_tenants(4, 2, 0),
        with_tenants(3, 1, 1),
        with_tenants(2, 1, 0),
        with_tenants(1, 0, 0),
    ]
    assert [c.device.index for c in by_company(cards, 5)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("annotation", "cores", "on"),
    [("true", 100, True), ("false", 100, False), ("true", 99, False), ("maybe", 100, False)],
)
def test_the_topology_switch(annotation: str, cores: int, on: bool) -> None:
    pod = PodSpec("n", "p", "u", {words.TOPOLOGY_AWARE: annotation})
    devices = [(ContainerDevice("GPU-1", "Metax-SGPU", 1, cores),), ()]
    before = eight({1, 2, 3, 4})
    found = SGPU.score(NodeFacts("n"), before, devices, pod, Policy.BINPACK)
    assert (found != 0) is on


@pytest.mark.parametrize(
    ("policy", "key", "count", "score"),
    [
        (Policy.BINPACK, words.LOSSES, 2, 1800),
        (Policy.SPREAD, words.SCORES, 1, -1900),
        (Policy.BINPACK, words.SCORES, 1, 0),
        (Policy.BINPACK, words.LOSSES, 3, 0),
    ],
)
def test_what_the_vendors_plugin_says_of_whole_cards_counts(
    policy: Policy, key: str, count: int, score: float
) -> None:
    facts = NodeFacts("n", {key: '{"1":100,"2":200}'})
    devices = [tuple(ContainerDevice(f"{i}", "Metax-GPU", 1, 100) for i in range(count))]
    assert WHOLE.score(facts, (), devices, PodSpec(), policy) == score


@given(st.text() | st.just('{"1": 1e999}') | st.just("[1]") | st.just("null"))
def test_no_topology_annotation_stops_anything(text: str) -> None:
    facts = NodeFacts("n", {words.LOSSES: text})
    devices = [(ContainerDevice("0", "Metax-GPU", 1, 100),)]
    assert isinstance(WHOLE.score(facts, (), devices, PodSpec(), Policy.BINPACK), float)


def test_each_container_of_a_pod_may_have_whole_cards() -> None:
    facts = NodeFacts("n", {}, {}, {"metax-tech.com/gpu": 4})
    cards = tuple(Card(device) for device in WHOLE.devices(facts))
    pod = PodSpec("n", "p", "u", {}, (spec(gpu=1), spec(gpu=2)))
    view = NodeView(facts, {"Metax-GPU": cards})
    found = place(
        view, pod, asks(pod, [WHOLE]), {"Metax-GPU": WHOLE}, Policy.SPREAD, Policy.BINPACK
    )
    assert not isinstance(found, Unfit)
    given_cards = [device.uuid for devices in found.containers["Metax-GPU"] for device in devices]
    assert len(set(given_cards)) == 3


# --- annotations -------------------------------------------------------------------------------

EXAMPLE = (
    '[{"uuid":"GPU-123","bdf":"0000:0e:00.0","model":"sgpu","totalDevCount":16,"totalCompute":100,'
    '"totalVRam":65536,"availableDevCount":16,"availableCompute":100,"availableVRam":65536,'
    '"healthy":true,"qosPolicy":"best-effort","linkZone":1}]'
)


def test_the_nodes_list_is_the_contracts_to_the_letter() -> None:
    (found,) = words.decode(EXAMPLE)
    assert words.encode([found]) == EXAMPLE
    (device,) = SGPU.devices(NodeFacts("n", {words.NODE: EXAMPLE}))
    assert (device.uuid, device.count, device.memory, device.cores) == ("GPU-123", 16, 65536, 100)
    assert device.custom == {"QosPolicy": "best-effort", "Model": "sgpu", "LinkZone": 1}
    (bare,) = words.decode('[{"uuid":"x"}]')
    assert (bare.healthy, words.encode([bare])) == (False, '[{"uuid":"x","healthy":false}]')


@given(st.builds(
    words.SgpuCard,
    uuid=st.text(min_size=1),
    bdf=st.text(),
    count=st.integers(0, 100),
    memory_mib=st.integers(0, 2**31 - 1),
    numa=st.integers(-1, 8),
    healthy=st.booleans(),
    qos=st.sampled_from(["", *words.POLICIES]),
    link_zone=st.integers(0, 9),
))  # fmt: skip
def test_the_nodes_list_survives(found: words.SgpuCard) -> None:
    assert words.decode(words.encode([found])) == (found,)


@given(st.text() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["uuid", "healthy", "numa"]), inner),
).map(json.dumps))  # fmt: skip
def test_a_malformed_list_is_an_error_with_its_name(text: str) -> None:
    try:
        words.decode(text)
    except AnnotationError as error:
        assert words.NODE in str(error)


def test_the_vendors_plugin_is_told_per_container() -> None:
    device = ContainerDevice("GPU-1", "Metax-SGPU", 4096, 60)
    online = ContainerDevice("GPU-2", "Metax-SGPU", 4096, 0)
    assert words.allocated([(device,), (), (online,)]) == (
        '[[{"uuid":"GPU-1","compute":60,"vRam":4096}],[],[{"uuid":"GPU-2","vRam":4096}]]'
    )
