"""Namespaces' quotas of memory and cores (hami-scheduler.md 4.8, 9.5, 11.3)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin import registry
from deviceplugin.api.hami.poddevices import ContainerDevice
from deviceplugin.placement.objects import pod_spec
from deviceplugin.placement.observe import Held
from deviceplugin.placement.request import asks
from deviceplugin.scheduler.cluster import Holding
from deviceplugin.scheduler.quota import Quotas, limits, quota_record
from deviceplugin.vendor.scheduling import Obstacle

MEMORY, CORES = "nvidia.com/gpumem", "nvidia.com/gpucores"


def quota(
    memory: object = None, cores: object = None, name: str = "q", namespace: str = "default"
) -> dict[str, Any]:
    hard = {}
    if memory is not None:
        hard[f"limits.{MEMORY}"] = str(memory)
    if cores is not None:
        hard[f"limits.{CORES}"] = str(cores)
    return {"metadata": {"namespace": namespace, "name": name}, "spec": {"hard": hard}}


@pytest.fixture(scope="module")
def backends() -> Any:
    found = registry.load()
    made = [
        backend
        for name in ("nvidia", "iluvatar", "hygon")
        for backend in registry.load_scheduling(found.vendors[name], {})
    ]
    return {backend.keys.common_word: backend for backend in made}


def holding(uid: str, *held: tuple[int, int, bool], namespace: str = "default") -> Holding:
    items = tuple(
        Held(uid, f"{namespace}/{uid}", (ContainerDevice("GPU-0", "NVIDIA", m, c),), init)
        for m, c, init in held
    )
    return Holding(uid, namespace, uid, "a", {"NVIDIA": items})


@pytest.mark.parametrize(
    ("limit", "used", "asked", "fits"),
    [(1000, 500, 500, True), (1000, 500, 501, False), (0, 0, 1, False), (1000, 2000, 0, True)],
    ids=["just enough", "one more", "zero is zero", "nothing asked"],
)
def test_a_limit_holds_to_the_last_mebibyte(
    backends: Any, limit: int, used: int, asked: int, fits: bool
) -> None:
    quotas = Quotas(backends)
    record = quota_record(quota(limit))
    assert record is not None
    quotas.set_quota(record)
    quotas.moved(None, holding("p", (used, 0, False)))
    reason = quotas.refusal("default", {MEMORY: asked})
    assert (reason is None) is fits
    if reason is not None:
        assert reason.obstacle is Obstacle.QUOTA
        assert f"{used} are used, {asked} more are asked for" in reason.detail
    assert quotas.refusal("elsewhere", {MEMORY: asked}) is None


def test_of_several_quotas_each_holds(backends: Any) -> None:
    quotas = Quotas(backends)
    for name, memory in (("large", 5000), ("small", 1000)):
        record = quota_record(quota(memory, name=name))
        assert record is not None
        quotas.set_quota(record)
    reason = quotas.refusal("default", {MEMORY: 2000})
    assert reason is not None
    assert "quota small" in reason.detail
    quotas.drop_quota("default", "small")
    assert quotas.refusal("default", {MEMORY: 2000}) is None


def test_init_containers_count_where_they_are_more_than_those_that_follow(backends: Any) -> None:
    quotas = Quotas(backends)
    held = holding("p", (700, 10, True), (300, 30, False), (300, 30, False))
    quotas.moved(None, held)
    assert quotas.used("default") == {MEMORY: 700, CORES: 60}
    quotas.moved(held, None)
    assert quotas.used("default") == {}


def test_a_unit_is_the_vendors(backends: Any) -> None:
    """Iluvatar's memory is counted in 256 MiB."""
    word, backend = next((w, b) for w, b in backends.items() if b.resources.memory_unit_mib == 256)
    item = {
        "metadata": {"namespace": "default", "name": "q"},
        "spec": {"hard": {f"limits.{backend.resources.memory}": "4"}},
    }
    record = quota_record(item)
    assert record is not None
    assert limits(record, backends) == ({backend.resources.memory: 1024}, ())
    assert word


@pytest.mark.parametrize("text", ["x", "1.5", "-3", ""])
def test_a_limit_that_is_none_does_not_hold_and_is_named(backends: Any, text: str) -> None:
    record = quota_record(quota(text))
    assert record is not None
    quotas = Quotas(backends)
    (problem,) = quotas.set_quota(record)
    assert f"limits.{MEMORY}" in problem
    assert list(quotas.limits()) == []


def test_of_several_limits_every_process_names_the_same_one_first(backends: Any) -> None:
    """The order of a set of texts is another in each."""
    resources = [
        resource
        for backend in backends.values()
        for resource in (backend.resources.memory, backend.resources.cores)
    ]
    hard = {f"limits.{resource}": "1" for resource in reversed(resources)}
    record = quota_record(
        {"metadata": {"namespace": "default", "name": "q"}, "spec": {"hard": hard}}
    )
    assert record is not None
    assert list(limits(record, backends)[0]) == sorted(resources)


def test_quotas_of_other_things_are_none_of_ours(backends: Any) -> None:
    item: dict[str, Any] = {
        "metadata": {"namespace": "default", "name": "q"},
        "spec": {"hard": {"limits.cpu": "4", "requests.nvidia.com/gpu": "3"}},
    }
    assert quota_record(item) is None
    item["spec"]["hard"]["limits.example.com/other"] = "1"
    record = quota_record(item)
    assert record is not None
    assert limits(record, backends) == ({}, ())


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("pqr"),
            st.lists(st.tuples(st.integers(0, 900), st.integers(0, 100), st.booleans()), max_size=3)
            | st.none(),
            st.sampled_from(["default", "other"]),
        ),
        max_size=20,
    )
)
def test_what_is_kept_of_use_is_the_sum_and_never_negative(backends: Any, changes: Any) -> None:
    quotas, now = Quotas(backends), {}
    for uid, held, namespace in changes:
        after = None if held is None else holding(uid, *held, namespace=namespace)
        quotas.moved(now.get(uid), after)
        now[uid] = after
    for namespace in ("default", "other"):
        total: Counter[str] = Counter()
        for found in now.values():
            if found is not None and found.namespace == namespace:
                total.update(quotas.held(found))
        assert quotas.used(namespace) == +total
        assert all(amount > 0 for amount in quotas.used(namespace).values())


def test_what_a_pod_will_hold_at_least(backends: Any) -> None:
    limits = {"nvidia.com/gpu": "2", MEMORY: "300", CORES: "10"}
    pod = pod_spec(
        {
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {
                "containers": [{"name": "a", "resources": {"limits": limits}}] * 2,
                "initContainers": [{"name": "i", "resources": {"limits": limits}}],
            },
        }
    )
    asked = Quotas(backends).asked(asks(pod, backends.values()))
    assert asked == {MEMORY: 1200, CORES: 40}


async def test_pods_that_come_at_once_do_not_pass_a_quota_together(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a", cards=4, deferred=True))
    bench.server.create("resourcequotas", quota(2500))
    names = [f"p{i}" for i in range(6)]
    for name in names:
        bench.server.create("pods", make.pod(name, memory=1000))
    made, address = await bench.scheduler()
    answers = await asyncio.gather(*(bench.filter(address, n, ["a"]) for n in names))
    assert sum(bool(answer["NodeNames"]) for answer in answers) == 2
    refused = [a["FailedNodes"]["a"] for a in answers if a["FailedNodes"]]
    assert all(text.startswith("ResourceQuotaNotFit: quota q:") for text in refused)
    assert made.quotas.used("default") == {MEMORY: 2000, CORES: 20}


async def test_who_is_filtered_again_is_not_counted_twice(bench: Any, make: Any) -> None:
    bench.server.create("nodes", make.node("a", deferred=True))
    bench.server.create("resourcequotas", quota(1500))
    bench.server.create("pods", make.pod("p", memory=1000))
    made, address = await bench.scheduler()
    for _ in range(3):
        assert (await bench.filter(address, "p", ["a"]))["NodeNames"] == ["a"]
    assert made.quotas.used("default") == {MEMORY: 1000, CORES: 10}
    bench.server.delete("pods", "p", "default")
    await bench.until(lambda: made.quotas.used("default") == {})


async def test_a_pod_without_a_size_goes_where_the_quota_allows_the_whole_card(
    bench: Any, make: Any
) -> None:
    """What takes a whole card fits only on the small ones (hami-scheduler.md 4.8)."""
    bench.server.create("nodes", make.node("large", cards=1, memory=40000, deferred=True))
    bench.server.create("nodes", make.node("small", cards=1, memory=8000, deferred=True))
    bench.server.create("resourcequotas", quota(10000))
    pod = make.pod("p")
    pod["spec"]["containers"][0]["resources"]["limits"] = {"nvidia.com/gpu": "1"}
    bench.server.create("pods", pod)
    _, address = await bench.scheduler()
    assert (await bench.filter(address, "p", ["large", "small"]))["NodeNames"] == ["small"]


@pytest.mark.parametrize(
    ("parts", "memory"),
    [
        ([(100, False), (900, True), (200, False)], 1000),
        ([(900, True), (100, False), (200, False)], 900),
        ([(100, False), (100, True), (500, False)], 600),
    ],
    ids=["beside a sidecar", "before a sidecar", "less than the others"],
)
def test_an_init_container_counts_with_the_sidecars_that_are_there_already(
    backends: Any, parts: list[tuple[int, bool]], memory: int
) -> None:
    quotas = Quotas(backends)
    quotas.moved(None, holding("p", *((mib, 0, ends) for mib, ends in parts)))
    assert quotas.used("default") == {MEMORY: memory}


def test_a_quota_of_cores_is_in_the_vendors_units() -> None:
    """Moore Threads counts sixteen to a card."""
    (backend,) = registry.load_scheduling(registry.load().vendors["mthreads"], {})
    backends = {backend.keys.common_word: backend}
    resource = backend.resources.cores
    item = {
        "metadata": {"namespace": "default", "name": "q"},
        "spec": {"hard": {f"limits.{resource}": "24"}},
    }
    record = quota_record(item)
    assert record is not None
    assert limits(record, backends)[0] == {resource: 150}


@pytest.mark.parametrize("text", ["4Gi", "99999999999"])
def test_a_limit_in_bytes_is_named_and_does_not_hold(backends: Any, text: str) -> None:
    record = quota_record(quota(text))
    assert record is not None
    amounts, (problem,) = limits(record, backends)
    assert amounts == {}
    assert "in the units in which pods ask for it" in problem
