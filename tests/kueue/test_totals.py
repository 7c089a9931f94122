"""What Kueue counts of a workload, by the examples' configuration, is what the scheduler counts.

The rule is Kueue's: the pod's requests as Kubernetes adds them up, limits where there is no request,
without what is excluded, through the transformations, times the number of pods, rounded up to whole
ones (kueue v0.19.2: pkg/workload/workload.go, pkg/resources/requests.go; k8s.io/component-helpers:
resource/helpers.go). A Job is counted as its template stands there, a Deployment by its stored pods,
which the webhook has seen (hami-scheduler.md 6).
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.quantity import NANO, Quantity
from deviceplugin.cli.backends import configured
from deviceplugin.placement.admit import admitted
from deviceplugin.placement.objects import pod_spec
from deviceplugin.placement.request import asks
from deviceplugin.scheduler.quota import Quotas

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "kueue"
PAGE = (ROOT / "docs" / "kueue.md").read_text()
CONFIGURATION = yaml.safe_load((EXAMPLES / "configuration.yaml").read_text())["resources"]
RULES = CONFIGURATION["transformations"]
BACKENDS = {b.keys.common_word: b for b in configured("").backends}
QUOTAS = Quotas(BACKENDS)
VENDORS = sorted(path.stem for path in EXAMPLES.glob("*.yaml") if path.stem != "configuration")

SIZES = {"NVIDIA": 40960, "Mthreads": 49152}
"""MiB of a card, of words whose share Kueue can know: by its configuration, by the webhook."""

Amounts = dict[str, Fraction]


# --- Kueue's rule ------------------------------------------------------------------------------


def amount(text: object) -> Fraction:
    return Fraction(Quantity.parse(str(text)).nano, NANO)


def requested(spec: Mapping[str, Any]) -> Amounts:
    """A pod's requests: those of its containers, or of its init containers where they are more."""
    running: Counter[str] = Counter()
    sidecars: Counter[str] = Counter()
    first: Amounts = {}
    for container in spec.get("containers") or ():
        running.update(_of(container))
    for container in spec.get("initContainers") or ():
        needs = Counter(_of(container))
        if container.get("restartPolicy") == "Always":
            running.update(needs)
            sidecars.update(needs)
            needs = Counter(sidecars)
        else:
            needs.update(sidecars)
        first = {name: max(first.get(name, Fraction()), needs[name]) for name in {*first, *needs}}
    return {n: max(running[n], first.get(n, Fraction())) for n in {*running, *first}}


def _of(container: Mapping[str, Any]) -> Amounts:
    resources = container.get("resources") or {}
    written = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: amount(text) for name, text in written.items()}


def transformed(
    asked: Amounts, rules: Iterable[Mapping[str, Any]], excluded: Iterable[str] = ()
) -> Amounts:
    """What a pod's requests become. What one transformation makes is nobody's input."""
    prefixes = tuple(excluded)
    asked = {name: value for name, value in asked.items() if not name.startswith(prefixes)}
    by_input = {rule["input"]: rule for rule in rules}
    kept: Counter[str] = Counter()
    made: Counter[str] = Counter()
    for name, value in asked.items():
        rule = by_input.get(name)
        if rule is None or rule.get("strategy", "Retain") == "Retain":
            kept[name] += value
        if rule is not None:
            times = asked.get(rule.get("multiplyBy", ""), Fraction(1))
            for output, factor in (rule.get("outputs") or {}).items():
                made[output] += value * times * amount(factor)
    for name, value in made.items():
        kept[name] += max(value, Fraction())
    return dict(kept)


def totals(
    spec: Mapping[str, Any],
    pods: int = 1,
    rules: Iterable[Mapping[str, Any]] = tuple(RULES),
    excluded: Iterable[str] = (),
) -> dict[str, int]:
    """What Kueue counts of so many pods; thousandths of a CPU."""
    return {
        name: math.ceil(value * (1000 if name == "cpu" else 1)) * pods
        for name, value in transformed(requested(spec), rules, excluded).items()
    }


# --- what the scheduler counts -----------------------------------------------------------------


def stored(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A pod's spec once the webhook has seen it."""
    item = {"metadata": {"name": "p", "namespace": "default"}, "spec": copy.deepcopy(dict(spec))}
    found: dict[str, Any] = admitted(item, BACKENDS.values())[0]["spec"]
    return found


def counted(spec: Mapping[str, Any], sizes: Mapping[str, int] = MappingProxyType({})) -> Amounts:
    """What a pod holds, under the names that Kueue has for it, in pods' units. Memory that is all
    of a card's, or a percentage, counts where `sizes` says how many MiB cards of its word have.
    """
    item = {"metadata": {"name": "p", "namespace": "default"}, "spec": spec}
    wanted = [
        replace(
            ask,
            demands={
                word: replace(demand, memory_mib=demand.memory_of(sizes.get(word, 0)))
                for word, demand in ask.demands.items()
            },
        )
        for ask in asks(pod_spec(item), BACKENDS.values())
    ]
    asked = QUOTAS.asked(wanted)
    return {named(resource): Fraction(value) / unit(resource) for resource, value in asked.items()}


def named(resource: str) -> str:
    """The name of the total that a resource goes into."""
    for rule in RULES:
        if rule["input"] == resource:
            (output,) = rule["outputs"]
            return str(output)
    return resource


def unit(resource: str) -> Fraction:
    """MiB or percent of a unit."""
    for backend in BACKENDS.values():
        names = backend.resources
        if resource == names.memory:
            return Fraction(names.memory_unit_mib)
        if resource == names.cores:
            return Fraction(100, names.core_units)
    raise KeyError(resource)


COUNTED = {
    named(name)
    for b in BACKENDS.values()
    for name in (b.resources.memory, b.resources.cores)
    if name
}


def workloads() -> list[Any]:
    """Each workload of each vendor's example: its pods, and their spec as Kueue sees it."""
    return [
        pytest.param(vendor, item, id=item["metadata"]["name"])
        for vendor in VENDORS
        for item in yaml.safe_load_all((EXAMPLES / f"{vendor}.yaml").read_text())
        if item["kind"] in ("Job", "Deployment")
    ]


def seen(item: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    spec, template = item["spec"], item["spec"]["template"]["spec"]
    if item["kind"] == "Job":
        return template, spec["parallelism"]
    return stored(template), spec["replicas"]


# --- the examples ------------------------------------------------------------------------------


@pytest.mark.parametrize(("vendor", "item"), workloads())
def test_kueue_counts_what_the_scheduler_counts(vendor: str, item: Mapping[str, Any]) -> None:
    spec, pods = seen(item)
    found = totals(spec, pods)
    ours = counted(stored(item["spec"]["template"]["spec"]), SIZES)
    assert {n: v for n, v in found.items() if n in COUNTED} == {
        n: v * pods for n, v in ours.items()
    }
    (row,) = [r for r in PAGE.splitlines() if r.startswith(f"| `{item['metadata']['name']}` |")]
    devices = {n.rpartition("/")[2]: v for n, v in found.items() if "/" in n}
    assert sorted(row.split(" | ")[-1].strip(" |").split(", ")) == sorted(
        f"{name} {value}" for name, value in devices.items()
    )


@pytest.mark.parametrize(("vendor", "item"), workloads())
def test_the_queue_covers_all_that_its_workloads_ask_for(
    vendor: str, item: Mapping[str, Any]
) -> None:
    objects = list(yaml.safe_load_all((EXAMPLES / f"{vendor}.yaml").read_text()))
    by_kind = {o["kind"]: o for o in objects}
    (group,) = by_kind["ClusterQueue"]["spec"]["resourceGroups"]
    (flavor,) = group["flavors"]
    assert [r["name"] for r in flavor["resources"]] == group["coveredResources"]
    assert flavor["name"] == by_kind["ResourceFlavor"]["metadata"]["name"]
    local = by_kind["LocalQueue"]
    assert local["spec"]["clusterQueue"] == by_kind["ClusterQueue"]["metadata"]["name"]
    queue = item["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert queue == local["metadata"]["name"]
    spec, pods = seen(item)
    quota = {r["name"]: amount(r["nominalQuota"]) for r in flavor["resources"]}
    for name, value in totals(spec, pods).items():
        assert value <= quota[name] * (1000 if name == "cpu" else 1), name


def test_the_configuration_names_what_the_vendors_serve() -> None:
    served = {name for b in BACKENDS.values() for name in b.resources.names()}
    for rule in RULES:
        assert rule["input"] in served
        assert rule.get("multiplyBy", rule["input"]) in served
        assert rule["strategy"] == "Replace"
        assert not set(rule.get("outputs", {})) & served
    assert len({rule["input"] for rule in RULES}) == len(RULES)


def test_every_vendor_has_an_example() -> None:
    from deviceplugin import registry

    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == {
        *registry.load().vendors,
        "configuration",
    }


# --- the rule itself, by what Kueue's own pages say ----------------------------------------------

GPU, MEMORY, CORES = "nvidia.com/gpu", "nvidia.com/gpumem", "nvidia.com/gpucores"
ALL_MEMORY, ALL_CORES = "nvidia.com/total-gpumem", "nvidia.com/total-gpucores"


def containers(*limits: Mapping[str, object], init: Iterable[Mapping[str, object]] = ()) -> Any:
    def made(each: Iterable[Mapping[str, object]]) -> list[Any]:
        return [
            {"name": f"c{n}", "resources": {"limits": {k: str(v) for k, v in one.items()}}}
            for n, one in enumerate(each)
        ]

    return {"containers": made(limits), "initContainers": made(init)}


@pytest.mark.parametrize(
    ("limits", "pods", "expected"),
    [
        ({GPU: 2, CORES: 20, MEMORY: 1024}, 1, {GPU: 2, ALL_CORES: 40, ALL_MEMORY: 2048}),
        ({GPU: 2, CORES: 30, MEMORY: 2048}, 2, {GPU: 4, ALL_CORES: 120, ALL_MEMORY: 8192}),
        ({GPU: 1, CORES: 50, MEMORY: 1024}, 2, {GPU: 2, ALL_CORES: 100, ALL_MEMORY: 2048}),
        ({"cpu": "500m", GPU: 1}, 3, {"cpu": 1500, GPU: 3}),
    ],
)
def test_kueues_own_examples(limits: Any, pods: int, expected: Any) -> None:
    assert totals(containers(limits), pods) == expected


def test_kueues_own_example_of_outputs_that_add_up() -> None:
    rules = [
        {
            "input": f"example.com/gpu-type{n}",
            "strategy": "Replace",
            "outputs": {"example.com/gpu-memory": memory, "example.com/credits": points},
        }
        for n, memory, points in ((1, "5Gi", 10), (2, "20Gi", 40))
    ]
    rules.append({"input": "cpu", "strategy": "Retain", "outputs": {"example.com/credits": 1}})
    spec = containers({"cpu": 1, "example.com/gpu-type1": 2, "example.com/gpu-type2": 1})
    assert totals(spec, 1, rules) == {
        "cpu": 1000,
        "example.com/gpu-memory": 30 << 30,
        "example.com/credits": 61,
    }


# --- what to mind: each line of the page with its figures ----------------------------------------


def pair(spec: Any) -> tuple[int, Fraction]:
    """MiB that Kueue counts of a stored pod, and the scheduler."""
    return totals(stored(spec)).get(ALL_MEMORY, 0), counted(stored(spec)).get(
        ALL_MEMORY, Fraction()
    )


def test_of_several_containers_sums_are_multiplied() -> None:
    one = {GPU: 1, MEMORY: 1000}
    assert pair(containers(one, one)) == (4000, 2000)
    assert pair(containers(one, {"cpu": 1})) == (1000, 1000)


def test_of_init_containers_the_largest_of_each_resource_counts() -> None:
    spec = containers({GPU: 2, MEMORY: 1000}, init=[{GPU: 1, MEMORY: 4000}])
    assert pair(spec) == (8000, 4000)


def test_defaults_are_counted_where_kueue_sees_stored_pods() -> None:
    whole = containers({GPU: 1})
    assert totals(whole) == {GPU: 1}
    assert totals(stored(whole)) == {GPU: 1, ALL_CORES: 100}
    memory = containers({MEMORY: 1000})
    assert totals(memory) == {ALL_MEMORY: 1000}
    assert totals(stored(memory)) == {GPU: 1, ALL_MEMORY: 1000}
    slices = containers({"kunlunxin.com/vxpu": 1, "kunlunxin.com/vxpu-memory": 20000})
    assert totals(slices)["kunlunxin.com/total-vxpu-memory"] == 20000
    assert totals(stored(slices))["kunlunxin.com/total-vxpu-memory"] == 24576


def test_a_percentage_is_of_the_size_in_the_configuration_and_rounded_up() -> None:
    percent = "nvidia.com/gpumem-percentage"
    assert totals(containers({GPU: 1, percent: 33}))[ALL_MEMORY] == 13517
    assert 40960 * 33 // 100 == 13516
    both = containers({GPU: 1, MEMORY: 1000, percent: 50})
    assert pair(both) == (21480, 1000)


def test_what_is_retained_has_to_be_covered_too() -> None:
    rules = [{k: v for k, v in rule.items() if k != "strategy"} for rule in RULES]
    found = totals(containers({GPU: 2, MEMORY: 1000}), 1, rules)
    assert found == {GPU: 2, MEMORY: 1000, ALL_MEMORY: 2000}


def test_a_prefix_takes_all_that_begins_so_and_multipliers_too() -> None:
    spec = containers({GPU: 2, MEMORY: 1000})
    assert totals(spec, 1, RULES, ["nvidia.com/gpu"]) == {}
    ascend = containers({"huawei.com/Ascend910B4": 2, "huawei.com/Ascend910B4-memory": 32768})
    rules = [rule for rule in RULES if rule["input"].endswith("910B4-memory")]
    assert totals(ascend, 1, rules, ["huawei.com/Ascend910B"]) == {}
    hygon = containers({"hygon.com/dcunum": 2, "hygon.com/dcucores": 100})
    assert totals(hygon, 1, RULES, ["hygon.com/dcunum"]) == {"hygon.com/total-dcucores": 100}


def test_units_with_a_suffix_are_bytes_to_kueue() -> None:
    sgpu, memory = "metax-tech.com/sgpu", "metax-tech.com/vmemory"
    found = [totals(stored(containers({sgpu: 1, memory: m}))) for m in ("16", "16Gi")]
    assert [f["metax-tech.com/total-vmemory"] for f in found] == [16, 17179869184]
    ours = [counted(stored(containers({sgpu: 1, memory: m}))) for m in ("16", "16Gi")]
    assert [o["metax-tech.com/total-vmemory"] for o in ours] == [16, 16]


# --- one container that says what it wants is counted the same by both, whatever it says ----------

PLAIN = {
    "NVIDIA": (8, 40960, 100),
    "DCU": (1, 16384, 100),
    "MLU": (8, 96, 100),
    "Metax-SGPU": (8, 64, 100),
    "BI-V150": (1, 128, 100),
    "Mthreads": (1, 0, 0),
}
"""By word: the most cards, units of memory and of cores that one container may ask for."""


@given(st.data())
def test_one_container_that_says_what_it_wants_is_counted_alike(data: st.DataObject) -> None:
    word = data.draw(st.sampled_from(sorted(PLAIN)))
    most_cards, most_memory, most_cores = PLAIN[word]
    names = BACKENDS[word].resources
    steps, sixteenths = st.sampled_from([2, 4, 8, 16, 32, 64, 96]), st.sampled_from([4, 8, 12, 16])
    limits = {
        names.count: data.draw(st.integers(1, most_cards)),
        names.memory: data.draw(steps if word == "Mthreads" else st.integers(1, most_memory)),
        names.cores: data.draw(sixteenths if word == "Mthreads" else st.integers(1, most_cores)),
    }
    pods = data.draw(st.integers(1, 50))
    spec = stored(containers(limits))
    assert {n: v for n, v in totals(spec, pods).items() if n in COUNTED} == {
        n: value * pods for n, value in counted(spec).items()
    }
