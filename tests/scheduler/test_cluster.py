"""The cluster as events tell it: in any order, twice, or after the fact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin.api.hami import handshake, register
from deviceplugin.api.hami.keys import NVIDIA_REGISTER, VENDORS, VGPU_NODE
from deviceplugin.api.hami.poddevices import ContainerDevice
from deviceplugin.placement.fit import Placement, place
from deviceplugin.placement.objects import pod_spec
from deviceplugin.placement.observe import Held
from deviceplugin.scheduler.cluster import Cluster, Holding, read
from deviceplugin.scheduler.filtering import Found, Nowhere, choose, request, why
from deviceplugin.scheduler.nodes import node_record, withdrawn
from deviceplugin.scheduler.pods import pod_record
from deviceplugin.scheduler.room import Need, Order, room_of
from deviceplugin.vendor.scheduling import Policy, Unfit

NODES = ("a", "b", "c")
NVIDIA = VENDORS["NVIDIA"]


@pytest.fixture(scope="module")
def backends(request: Any) -> Any:
    from deviceplugin import registry

    found = registry.load_scheduling(registry.load().vendors["nvidia"], {})
    return {backend.keys.common_word: backend for backend in found}


def holding(uid: str, node: str, card: int, memory: int, cores: int) -> Holding:
    device = ContainerDevice(f"GPU-{node}-{card}", "NVIDIA", memory, cores)
    held = Held(uid, f"default/{uid}", (device,))
    return Holding(uid, "default", uid, node, {"NVIDIA": (held,)})


def events() -> Any:
    uid = st.sampled_from(["p", "q", "r", "s"])
    node = st.sampled_from(NODES)
    some = st.builds(
        holding, uid, node, st.integers(0, 2), st.integers(0, 9000), st.integers(0, 60)
    )
    return st.lists(
        st.one_of(
            st.tuples(st.just("assume"), some),
            st.tuples(st.just("see"), some),
            st.tuples(st.just("forget"), uid),
            st.tuples(st.just("drop"), uid),
            st.tuples(st.just("node"), st.tuples(node, st.integers(1, 3), st.integers(1, 20000))),
            st.tuples(st.just("gone"), node),
            st.tuples(st.just("look"), node),
        ),
        max_size=40,
    )


def apply(cluster: Cluster, make: Any, kind: str, value: Any) -> None:
    match kind:
        case "assume":
            cluster.assume(value)
        case "see":
            cluster._see(value.uid, value)
        case "forget":
            cluster.forget(value)
        case "drop":
            cluster.drop_pod(value)
        case "node":
            name, cards, memory = value
            cluster.set_node(node_record(make.node(name, cards, memory)))
        case "gone":
            cluster.drop_node(value)
        case "look":
            cluster.room(value)
            cluster.view(value)


@settings(max_examples=300)
@given(happened=events())
def test_what_is_kept_is_what_counting_anew_gives(
    backends: Any, make_static: Any, happened: Any
) -> None:
    cluster = Cluster(backends)
    for kind, value in happened:
        apply(cluster, make_static, kind, value)
    anew = Cluster(backends)
    for name in cluster.names():
        record = cluster.record(name)
        assert record is not None
        anew.set_node(record)
    for found in cluster.holdings():
        anew.assume(found)
    assert set(anew.names()) == set(cluster.names())
    for name in NODES:
        assert anew.view(name) == cluster.view(name)
        assert anew.room(name) == cluster.room(name)
        assert not cluster.drift(name)
    assert not any(cluster.uncounted(found.uid) for found in cluster.holdings())
    assert list(cluster.by_score(fullest_first=True)) == list(anew.by_score(fullest_first=True))


@pytest.fixture(scope="module")
def make_static() -> Any:
    from deviceplugin.api.hami import register
    from deviceplugin.api.hami.keys import NVIDIA_REGISTER
    from deviceplugin.api.hami.register import NodeDevice

    class Make:
        @staticmethod
        def node(name: str, cards: int, memory: int) -> Any:
            devices = [
                NodeDevice(
                    uuid=f"GPU-{name}-{index}",
                    index=index,
                    count=3,
                    memory=memory,
                    cores=100,
                    type="NVIDIA-T4",
                    healthy=index != 2,
                )
                for index in range(cards)
            ]
            return {
                "metadata": {
                    "name": name,
                    "annotations": {NVIDIA_REGISTER: register.encode(devices)},
                },
                "status": {"allocatable": {"nvidia.com/gpu": "9"}},
            }

    return Make


def test_a_count_that_went_wrong_is_found_and_set_right(backends: Any, make_static: Any) -> None:
    cluster = Cluster(backends)
    cluster.set_node(node_record(make_static.node("a", 2, 8000)))
    cluster.assume(holding("p", "a", 0, 1000, 10))
    right = cluster.view("a")
    cluster._nodes["a"].holdings["x"] = holding("x", "a", 0, 7000, 0)
    assert cluster.drift("a")
    assert cluster.view("a") == right
    assert not cluster.drift("a")


def test_a_pod_that_is_missing_where_it_counts_is_found(backends: Any, make_static: Any) -> None:
    cluster = Cluster(backends)
    cluster.set_node(node_record(make_static.node("a", 2, 8000)))
    cluster.assume(holding("p", "a", 0, 1000, 10))
    right = cluster.view("a")
    del cluster._nodes["a"].holdings["p"]
    cluster._touch("a")
    assert cluster.view("a") != right
    assert cluster.uncounted("p")
    assert cluster.view("a") == right
    assert not cluster.uncounted("p")
    assert not cluster.uncounted("stranger")


def test_a_kept_view_that_went_wrong_is_found(backends: Any, make_static: Any) -> None:
    cluster = Cluster(backends)
    cluster.set_node(node_record(make_static.node("a", 2, 8000)))
    right = cluster.view("a")
    assert right is not None
    cluster._nodes["a"].view = replace(right, cards={})
    assert cluster.drift("a")
    assert cluster.view("a") == right


pods = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 9000), st.integers(0, 100), st.booleans()),
    min_size=1,
    max_size=14,
)


@settings(max_examples=150)
@given(
    nodes=st.lists(st.tuples(st.integers(1, 3), st.integers(1000, 16000)), min_size=1, max_size=3),
    wanted=pods,
)
def test_no_card_is_ever_over_what_it_has_and_the_best_node_is_taken(
    backends: Any, make_static: Any, nodes: Any, wanted: Any
) -> None:
    cluster = Cluster(backends)
    for name, (cards, memory) in zip(NODES, nodes, strict=False):
        cluster.set_node(node_record(make_static.node(name, cards, memory)))
    for number, (count, memory, cores, spread) in enumerate(wanted):
        pod = pod_spec(pod_item(f"p{number}", count, memory, cores))
        policy = Policy.SPREAD if spread else Policy.BINPACK
        asked = request(cluster, pod, policy, Policy.SPREAD)
        found = choose(cluster, asked, NODES)
        each = {
            name: place(view, pod, asked.asks, backends, Policy.SPREAD, policy)
            for name in cluster.names()
            if (view := cluster.view(name)) is not None
        }
        fits = {name: p.score for name, p in each.items() if isinstance(p, Placement)}
        if isinstance(found, Nowhere):
            assert fits == {}
            assert found.reasons.keys() == set(NODES)
            continue
        best = min(fits.values()) if spread else max(fits.values())
        assert fits[found.placement.node] == best
        taken(cluster, pod.uid, found)
        for name in cluster.names():
            view = cluster.view(name)
            assert view is not None
            for card in view.cards["NVIDIA"]:
                assert card.used_memory_mib <= card.device.memory
                assert card.used_cores <= card.device.cores
                assert card.used <= card.device.count
                assert card.device.healthy or not card.used


class Ranking:
    """NVIDIA's half, and nodes differ by their names too."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)

    def score(self, node: Any, *_: object) -> float:
        return float(ord(node.name))


class Bounding(Ranking):
    """The same, and it says how far."""

    def most(self, *_: object) -> float:
        return float(max(map(ord, NODES)))


@settings(max_examples=200)
@given(
    happened=events(),
    asked=st.lists(
        st.tuples(st.sampled_from("pqt"), st.integers(1, 3), st.sampled_from([0, 500, 4000])),
        min_size=1,
        max_size=12,
    ),
    ranked=st.sampled_from([None, Ranking, Bounding]),
    policy=st.sampled_from([Policy.BINPACK, Policy.SPREAD]),
    data=st.data(),
)
def test_who_remembers_answers_as_who_looks_again(
    backends: Any, make_static: Any, happened: Any, asked: Any, ranked: Any, policy: Any, data: Any
) -> None:
    served = {"NVIDIA": ranked(backends["NVIDIA"])} if ranked else backends
    whole = {"NVIDIA": Ranking(backends["NVIDIA"])} if ranked else backends
    cluster = Cluster(served)
    apply(cluster, make_static, "node", ("a", 2, 9000))
    apply(cluster, make_static, "node", ("b", 3, 5000))
    for kind, value in happened:
        apply(cluster, make_static, kind, value)
        uid, count, memory = data.draw(st.sampled_from(asked))
        wanted = request(cluster, pod_spec(pod_item(uid, count, memory, 10)), policy, policy)
        anew = Cluster(whole)  # where each node is asked
        for name in cluster.names():
            record = cluster.record(name)
            assert record is not None
            anew.set_node(record)
        for each in cluster.holdings():
            anew.assume(each)
        found, again = choose(cluster, wanted, NODES), choose(anew, wanted, NODES)
        if isinstance(found, Found) and isinstance(again, Found):
            assert (found.placement, found.view) == (again.placement, again.view)
        else:
            assert found == again


def pod_item(name: str, count: int, memory: int, cores: int) -> dict[str, Any]:
    limits = {"nvidia.com/gpu": str(count)}
    if memory:
        limits["nvidia.com/gpumem"] = str(memory)
    if cores:
        limits["nvidia.com/gpucores"] = str(cores)
    return {
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"containers": [{"name": "main", "resources": {"limits": limits}}]},
    }


def taken(cluster: Cluster, uid: str, found: Found) -> None:
    held = tuple(
        Held(uid, f"default/{uid}", devices)
        for devices in found.placement.containers["NVIDIA"]
        if devices
    )
    cluster.assume(Holding(uid, "default", uid, found.placement.node, {"NVIDIA": held}))


@settings(max_examples=200)
@given(
    used=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 5000), st.integers(0, 60)), max_size=6
    ),
    count=st.integers(1, 4),
    memory=st.integers(0, 9000),
    cores=st.integers(0, 100),
)
def test_who_is_turned_away_by_the_figures_has_no_place(
    backends: Any, make_static: Any, used: Any, count: int, memory: int, cores: int
) -> None:
    cluster = Cluster(backends)
    cluster.set_node(node_record(make_static.node("a", 3, 8000)))
    for number, (card, mib, percent) in enumerate(used):
        cluster.assume(holding(f"u{number}", "a", card, mib, percent))
    pod = pod_spec(pod_item("p", count, memory, cores))
    asked = request(cluster, pod, Policy.BINPACK, Policy.SPREAD)
    view, room = cluster.view("a"), cluster.room("a")
    assert view is not None
    assert room == room_of(view)
    for ask in asked.asks:
        for demand in ask.demands.values():
            if room is not None and room.lacks(Need.of(demand)) is not None:
                assert isinstance(why(cluster, asked, "a"), Unfit)


@pytest.mark.parametrize(
    ("ill", "cordoned", "count", "obstacle"),
    [
        ((), "", 3, "NodeInsufficientDevice"),
        ((1,), "", 2, "CardNotHealth"),
        ((0, 1), "", 1, "CardNotHealth"),
        ((), "GPU-a-1", 2, "CardCordoned"),
        ((), "GPU-a-0,GPU-a-1", 1, "CardCordoned"),
        ((1,), "", 3, "NodeInsufficientDevice"),
    ],
)
def test_cards_that_take_nobody_are_the_reason_where_there_would_be_enough(
    backends: Any, make: Any, ill: tuple[int, ...], cordoned: str, count: int, obstacle: str
) -> None:
    item = make.node("a")
    item["metadata"]["annotations"]["hami.io/device-cordon"] = cordoned
    devices = register.decode(item["metadata"]["annotations"][NVIDIA_REGISTER], "x")
    told = [replace(d, healthy=d.index not in ill) for d in devices]
    item["metadata"]["annotations"][NVIDIA_REGISTER] = register.encode(told)
    cluster = Cluster(backends)
    cluster.set_node(node_record(item))
    asked = request(cluster, pod_spec(pod_item("p", count, 10, 1)), Policy.BINPACK, Policy.SPREAD)
    found = choose(cluster, asked, ["a"])
    assert isinstance(found, Nowhere)
    assert found.reasons["a"].obstacle == obstacle


@pytest.mark.parametrize(
    ("memory", "cores", "obstacle"),
    [(0, 90, "CardInsufficientCore"), (8000, 0, "CardInsufficientMemory")],
)
def test_the_figure_that_is_short_on_one_of_two_cards_is_the_reason(
    backends: Any, make_static: Any, memory: int, cores: int, obstacle: str
) -> None:
    cluster = Cluster(backends)
    cluster.set_node(node_record(make_static.node("a", 2, 8000)))
    cluster.assume(holding("p", "a", 0, memory, cores))
    pod = pod_spec(pod_item("q", 2, 1000, 20))
    found = choose(cluster, request(cluster, pod, Policy.BINPACK, Policy.SPREAD), ["a"])
    assert isinstance(found, Nowhere)
    assert found.reasons["a"].obstacle == obstacle


def test_what_the_pod_itself_holds_is_not_in_its_way(backends: Any, make_static: Any) -> None:
    cluster = Cluster(backends)
    cluster.set_node(node_record(make_static.node("a", 1, 1000)))
    cluster.assume(holding("p", "a", 0, 900, 50))
    pod = pod_spec(pod_item("p", 1, 900, 50))
    asked = request(cluster, pod, Policy.BINPACK, Policy.SPREAD)
    assert isinstance(choose(cluster, asked, ["a"]), Found)


def test_a_node_that_kubelet_offers_nothing_of_is_not_used(backends: Any, make_static: Any) -> None:
    item = make_static.node("a", 1, 1000)
    item["status"]["allocatable"] = {}
    record = node_record(item)
    assert withdrawn(record, backends["NVIDIA"])
    cluster = Cluster(backends)
    cluster.set_node(record)
    assert cluster.view("a").cards == {}  # type: ignore[union-attr]
    pod = pod_spec(pod_item("p", 1, 900, 50))
    asked = request(cluster, pod, Policy.BINPACK, Policy.SPREAD)
    found = choose(cluster, asked, ["a"])
    assert isinstance(found, Nowhere)
    assert found.reasons["a"].detail == (
        "the node tells of its cards, and kubelet offers no nvidia.com/gpu"
    )
    assert why(cluster, asked, "a") == found.reasons["a"]


@pytest.mark.parametrize(
    ("state", "out"),
    [("Deleted_2026-01-01 00:00:00", True), ("Requesting_2026-01-01 00:00:00", False),
     ("Reported 2026-01-01 00:00:00", False), (None, False)],
)  # fmt: skip
def test_a_node_whose_agent_does_not_answer_is_not_used(state: str | None, out: bool) -> None:
    from deviceplugin import registry

    (backend,) = registry.load_scheduling(registry.load().vendors["hygon"], {})
    key = backend.keys.handshake
    assert key is not None
    annotations = {} if state is None else {key: state}
    item = {"metadata": {"name": "a", "annotations": annotations}, "status": {}}
    assert withdrawn(node_record(item), backend) is out
    assert handshake.decode(state) is None or state


def test_an_annotation_that_nobody_can_read_counts_for_nothing_and_is_told(backends: Any) -> None:
    item = pod_item("p", 1, 100, 1)
    item["metadata"]["annotations"] = {VGPU_NODE: "a", NVIDIA.allocated: "GPU-0,NVIDIA,x,y:;"}
    item["spec"]["nodeName"] = "a"
    record = pod_record(item)
    assert record is not None
    found, problems = read(record, backends)
    assert found.held == {}
    assert NVIDIA.allocated in problems[0]
    assert Cluster(backends).set_pod(record) == problems


def test_a_sidecar_counts_beside_the_others_and_an_init_container_before_them(
    backends: Any,
) -> None:
    item = pod_item("p", 1, 100, 1)
    main = item["spec"]["containers"][0]
    item["spec"]["initContainers"] = [
        {**main, "name": "first"},
        {**main, "name": "side", "restartPolicy": "Always"},
    ]
    item["metadata"]["annotations"] = {
        VGPU_NODE: "a",
        NVIDIA.allocated: "GPU-1,NVIDIA,100,1:;GPU-2,NVIDIA,100,1:;GPU-3,NVIDIA,100,1:;",
    }
    item["spec"]["nodeName"] = "a"
    record = pod_record(item)
    assert record is not None
    found, _ = read(record, backends)
    assert [(h.devices[0].uuid, h.init) for h in found.held["NVIDIA"]] == [
        ("GPU-1", True),
        ("GPU-2", False),
        ("GPU-3", False),
    ]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 30) | st.none()), max_size=30))
def test_the_order_is_that_of_the_numbers(changes: list[tuple[str, float | None]]) -> None:
    order, numbers = Order(), {}
    for name, number in changes:
        if number is None:
            order.remove(name)
            numbers.pop(name, None)
        else:
            order.put(name, number)
            numbers[name] = number
    assert list(order) == sorted(numbers, key=lambda name: (numbers[name], name))
    assert list(reversed(order)) == list(order)[::-1]
