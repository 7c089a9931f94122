"""Generated clusters are such as could be there: all of it can be read, and no card is overfull."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin import registry
from deviceplugin.placement.objects import pod_spec
from deviceplugin.placement.request import asks, asks_anything
from deviceplugin.scheduler.cluster import Cluster, read
from deviceplugin.scheduler.filtering import refusal, request
from deviceplugin.scheduler.nodes import node_record
from deviceplugin.scheduler.pods import pod_record
from deviceplugin.testing.clusters import SORTS, Plan, arrivals, generate
from deviceplugin.vendor.scheduling import Policy

BACKENDS = tuple(
    backend
    for name, vendor in registry.load().vendors.items()
    if name != "mock"
    for backend in registry.load_scheduling(vendor, {})
)
BY_WORD = {backend.keys.common_word: backend for backend in BACKENDS}


def plans() -> st.SearchStrategy[Plan]:
    shares = st.floats(0.0, 1.0)
    mixes = st.dictionaries(st.sampled_from(sorted(SORTS)), st.floats(0.1, 1.0), min_size=1)
    return st.builds(
        Plan,
        nodes=st.integers(1, 5),
        cards=st.integers(1, 8),
        pods=st.integers(0, 4),
        mix=mixes,
        full=shares,
        churn=st.floats(0.0, 0.9),
        deferred=shares,
        seed=st.integers(0, 2**32),
    )


@settings(max_examples=60, deadline=None)
@given(plan=plans())
def test_every_object_can_be_read_and_no_card_holds_more_than_it_has(plan: Plan) -> None:
    try:
        made = generate(plan, BACKENDS)
    except ValueError as error:
        assert "make more nodes or fewer pods" in str(error)
        return
    assert (len(made.nodes), len(made.pods)) == (plan.nodes, plan.pods)
    cluster = Cluster(BY_WORD)
    for item in made.nodes:
        record = node_record(item)
        cluster.set_node(record)
        assert not cluster.problems(record.name)
        view = cluster.view(record.name)
        assert view is not None
        assert [len(cards) for cards in view.cards.values()] == [plan.cards]
    deferred = [name for name in cluster.names() if cluster.record(name).deferred]  # type: ignore[union-attr]
    counted = {SORTS[n].word for n in plan.mix if not BY_WORD[SORTS[n].word].keys.register}
    if not counted:  # nodes that only count their cards announce nothing
        assert len(deferred) == round(plan.deferred * plan.nodes)
    for item in made.pods:
        pod = pod_record(item)
        assert pod is not None
        assert pod.bound
        holding, problems = read(pod, BY_WORD)
        assert holding.held
        assert not problems
        wanted = request(cluster, pod.pod, Policy.BINPACK, Policy.SPREAD)
        assert refusal(cluster, wanted, holding) is None, "nothing is given twice"
        cluster.set_pod(pod)
    assert len({holding.uid for holding in cluster.holdings()}) == plan.pods


def test_a_seed_gives_the_same_cluster_and_another_seed_another() -> None:
    def made(seed: int) -> str:
        cluster = generate(Plan(nodes=4, pods=20, seed=seed), BACKENDS)
        return json.dumps([cluster.nodes, cluster.pods])

    assert made(1) == made(1)
    assert made(1) != made(2)


def test_pods_that_wait_ask_for_what_the_cluster_has_and_are_all_different() -> None:
    plan = Plan(seed=3)
    pods = [pod_spec(item) for item in itertools.islice(arrivals(plan, BACKENDS), 300)]
    assert all(asks_anything(asks(pod, BACKENDS)) for pod in pods)
    assert len({pod.uid for pod in pods}) == len({pod.name for pod in pods}) == 300
    words = {w for pod in pods for ask in asks(pod, BACKENDS) for w in ask.demands}
    assert words == {SORTS[name].word for name in plan.mix}


def test_some_nodes_are_full_and_what_is_left_on_others_is_in_pieces() -> None:
    made = generate(Plan(nodes=40, pods=400, mix={"a100": 1.0}, full=0.25, seed=5), BACKENDS)
    cluster = Cluster(BY_WORD)
    for item in made.nodes:
        cluster.set_node(node_record(item))
    for item in made.pods:
        record = pod_record(item)
        assert record is not None
        cluster.set_pod(record)
    nodes = [
        [card for card in view.cards["NVIDIA"] if card.device.healthy]
        for name in cluster.names()
        if (view := cluster.view(name)) is not None
    ]
    smallest = 81920 * 10 // 100
    has_room = [
        any(card.free_cores >= 10 and card.free_memory_mib >= smallest for card in cards)
        for cards in nodes
    ]
    assert 10 <= has_room.count(False) < 20
    in_pieces = [len({card.free_memory_mib for card in cards}) > 3 for cards in nodes]
    assert in_pieces.count(True) >= 10


@pytest.mark.parametrize(
    ("plan", "backends", "words"),
    [
        (Plan(nodes=1, pods=1000), BACKENDS, "room for"),
        (Plan(mix={"abacus": 1.0}), BACKENDS, "abacus"),
        (Plan(mix={"a100": 1.0}), BACKENDS[:0], "no installed vendor serves a100"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_with_the_reason(
    plan: Plan, backends: tuple[object, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        generate(plan, backends)  # type: ignore[arg-type]
