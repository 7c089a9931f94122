"""A captured cluster: nothing but what decisions go by, the same decisions, and no other's file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.explain.keep import FLAG, NUMBER, TEXT, Entries, Only, kept
from deviceplugin.explain.snapshot import (
    WELL_KNOWN,
    Shapes,
    Snapshot,
    SnapshotError,
    dumps,
    loads,
    read,
    selected_labels,
    write,
)

SECRET = "hunter2"
"""Written everywhere that nobody reads."""

# What may be in a file, * for a place in a list, ? for a name that is not known beforehand.
PODS = """
metadata.name metadata.namespace metadata.uid metadata.creationTimestamp metadata.deletionTimestamp
metadata.annotations.? metadata.labels.hami.io/webhook
spec.nodeName spec.schedulerName spec.priority spec.preemptionPolicy spec.runtimeClassName
spec.schedulingGates.*.name spec.nodeSelector.?
spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.*.matchExpressions.*.key
spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.*.matchExpressions.*.operator
spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.*.matchExpressions.*.values.*
spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.*.matchFields.*.key
spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.*.matchFields.*.operator
spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.*.matchFields.*.values.*
spec.tolerations.*.key spec.tolerations.*.operator spec.tolerations.*.value spec.tolerations.*.effect
spec.containers.*.name spec.containers.*.restartPolicy spec.containers.*.securityContext.privileged
spec.containers.*.resources.limits.? spec.containers.*.resources.requests.?
spec.initContainers.*.name spec.initContainers.*.restartPolicy
spec.initContainers.*.securityContext.privileged
spec.initContainers.*.resources.limits.? spec.initContainers.*.resources.requests.?
status.phase status.reason status.message
status.conditions.*.type status.conditions.*.status status.conditions.*.reason
status.conditions.*.message
"""
NODES = """
metadata.name metadata.annotations.? metadata.labels.? spec.unschedulable
spec.taints.*.key spec.taints.*.value spec.taints.*.effect status.capacity.? status.allocatable.?
"""
QUOTAS = "metadata.name metadata.namespace spec.hard.?"
POD, NODE, QUOTA = (listed.split() for listed in (PODS, NODES, QUOTAS))

POD_ANNOTATIONS = {
    "hami.io/vgpu-node", "hami.io/vgpu-time", "hami.io/bind-phase", "hami.io/bind-time",
    "hami.io/node-scheduler-policy", "hami.io/gpu-scheduler-policy",
    "hami.io/vgpu-devices-allocated", "hami.io/vgpu-devices-to-allocate",
    "nvidia.com/use-gputype", "nvidia.com/nouse-gputype",
    "nvidia.com/use-gpuuuid", "nvidia.com/nouse-gpuuuid",
    "nvidia.com/numa-bind", "nvidia.com/vgpu-mode",
}  # fmt: skip
NODE_ANNOTATIONS = {
    "hami.io/node-nvidia-register", "hami.io/node-nvidia-score", "hami.io/node-handshake",
    "hami.io/mutex.lock", "hami.io/device-cordon",
    "node.deviceplugin.dev/allocation", "node.deviceplugin.dev/announces",
}  # fmt: skip
RESOURCES = {
    "nvidia.com/gpu", "nvidia.com/gpumem", "nvidia.com/gpucores", "nvidia.com/gpumem-percentage",
    "nvidia.com/priority",
}  # fmt: skip


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every value with where it is, names that vary last."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, f"{path}.*")
    else:
        yield path, str(value)


def allowed(path: str, patterns: list[str]) -> bool:
    return any(
        path == pattern or (pattern.endswith(".?") and path.startswith(pattern[:-1]))
        for pattern in patterns
    )


def wide(patterns: list[str], extra: Any) -> Any:
    """An object that has something at every allowed place, and `extra` beside it everywhere."""
    root: dict[str, Any] = {}
    for pattern in patterns:
        parts, here = pattern.replace("hami.io/webhook", "hami~io/webhook").split("."), root
        for position, part in enumerate(parts):
            name, last = part.replace("~", "."), position == len(parts) - 1
            following = parts[position + 1] if not last else ""
            if name == "*":
                continue
            if following == "*":
                rest = position + 2 == len(parts)
                item = here.setdefault(name, [] if rest else [{}])
                if rest:
                    item.append("text")
                    break
                here = item[0]
            elif last:
                here[name if name != "?" else "nvidia.com/gpu"] = _value(pattern)
            else:
                here = here.setdefault(name, {})
    _spread(root, extra)
    return root


def _value(pattern: str) -> Any:
    if pattern.endswith("priority"):
        return 5
    return True if pattern.endswith(("privileged", "unschedulable")) else "text"


def _spread(value: Any, extra: Any) -> None:
    if isinstance(value, dict):
        for inner in list(value.values()):
            _spread(inner, extra)
        value.update(extra)
    elif isinstance(value, list):
        for inner in value:
            _spread(inner, extra)


json_values = st.recursive(
    st.just(SECRET) | st.integers() | st.booleans() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "value", "env", "spec", "key", "x"]), inner)
    ),
    max_leaves=8,
)
extras = st.dictionaries(
    st.sampled_from(["env", "args", "image", "volumes", "managedFields", "data", "password"]),
    json_values,
    min_size=1,
)


@pytest.mark.parametrize(("kind", "patterns"), [("pod", POD), ("node", NODE), ("quota", QUOTA)])
@given(extra=extras)
def test_nothing_but_the_list_survives(
    make: Any, kind: str, patterns: list[str], extra: Any
) -> None:
    item = wide(patterns, extra)
    if kind == "pod":
        item["status"]["conditions"][0]["type"] = "PodScheduled"
    found = getattr(Shapes(make.nvidia), kind)(item)
    assert found or kind == "quota"
    for path, value in leaves(found or {}):
        assert allowed(path, patterns), path
        assert value != SECRET or path.startswith("spec.nodeSelector"), path


@pytest.mark.parametrize("patterns", [POD, NODE])
def test_all_of_the_list_survives_where_it_is_named(make: Any, patterns: list[str]) -> None:
    """The list above says no more than what is kept."""
    item = wide(patterns, {})
    annotations = {"nvidia.com/use-gputype": "x", "hami.io/mutex.lock": "x"}
    item["metadata"]["annotations"] = annotations
    if patterns is POD:
        item["status"]["conditions"][0]["type"] = "PodScheduled"
        found = Shapes(make.nvidia).pod(item)
    else:
        found = Shapes(make.nvidia).node(item, {"nvidia.com/gpu"})
    paths = {path for path, _ in leaves(found)}
    for pattern in patterns:
        stem = pattern.removesuffix("?")
        assert any(path == pattern or path.startswith(stem) for path in paths), pattern


@given(
    st.dictionaries(
        st.text(min_size=1)
        | st.sampled_from(sorted(POD_ANNOTATIONS | NODE_ANNOTATIONS | RESOURCES | {"team/cost"})),
        st.text(),
    )
)
def test_annotations_and_resources_are_those_that_somebody_reads(
    make: Any, entries: dict[str, str]
) -> None:
    shapes = Shapes(make.nvidia)
    pod = shapes.pod(
        {
            "metadata": {"annotations": entries, "labels": entries},
            "spec": {"containers": [{"resources": {"limits": entries, "requests": entries}}]},
        }
    )
    metadata = pod.get("metadata", {})
    assert set(metadata.get("annotations", {})) == POD_ANNOTATIONS & entries.keys()
    assert metadata.get("labels", {}) == {}
    containers = pod.get("spec", {}).get("containers", [])
    kept_limits = containers[0].get("resources", {}).get("limits", {}) if containers else {}
    assert set(kept_limits) == RESOURCES & entries.keys()
    node = shapes.node({"metadata": {"annotations": entries, "labels": entries}})
    assert set(node.get("metadata", {}).get("annotations", {})) == NODE_ANNOTATIONS & entries.keys()
    assert set(node.get("metadata", {}).get("labels", {})) == WELL_KNOWN & entries.keys()


@given(value=json_values)
def test_a_value_of_another_kind_is_left_out(value: Any) -> None:
    shape = {"t": TEXT, "n": NUMBER, "f": FLAG, "l": [TEXT], "o": {"t": TEXT},
             "e": Entries(lambda _: True), "c": Only(lambda _: True, {"t": TEXT})}  # fmt: skip
    found = kept(dict.fromkeys(shape, value), shape)
    kinds = {"t": str, "n": int, "f": bool, "l": list, "o": dict, "e": dict, "c": list}
    assert all(type(found[key]) is kinds[key] for key in found)


# --- files ----------------------------------------------------------------------------------------


def whole(make: Any) -> Snapshot:
    found: Snapshot = make.snapshot(
        [make.node("a", labels={"disk": "fast"}), make.node("b", cordoned=True)],
        [make.pod("x", on="a"), make.pod("waits", nodeSelector={"disk": "fast"})],
        [make.quota(gpumem="5000")],
    )
    return replace(found, config="c", program="deviceplugin 0.1.0")


@pytest.mark.parametrize("name", ["s.json", "s.json.gz"])
def test_a_file_is_read_as_it_was_written(make: Any, tmp_path: Path, name: str) -> None:
    snapshot, path = whole(make), tmp_path / name
    write(snapshot, path)
    assert read(path, make.nvidia) == snapshot
    before = path.read_bytes()
    write(snapshot, path)
    assert path.read_bytes() == before, "the same cluster, the same bytes"
    assert (before[:2] == b"\x1f\x8b") == name.endswith(".gz")


def test_every_line_is_an_object_so_that_people_can_compare(make: Any) -> None:
    lines = dumps(whole(make)).decode().splitlines()
    assert sum(line.startswith('{"metadata"') for line in lines) == 5


def test_what_a_stranger_put_into_a_file_is_left_out(make: Any) -> None:
    document = json.loads(dumps(whole(make)))
    document["pods"][0]["spec"]["containers"][0]["env"] = [{"name": "K", "value": SECRET}]
    found = loads(json.dumps(document).encode(), make.nvidia)
    assert SECRET not in dumps(found).decode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x00", "not JSON"),
        (b"[]", "no snapshot"),
        (b'{"kind":"List","items":[]}', "make one with `deviceplugin snapshot -o FILE`"),
        (b'{"format":"deviceplugin.dev/snapshot","version":"1"}', "its version is '1'"),
        (b'{"format":"deviceplugin.dev/snapshot","version":0}', "its version is 0"),
        (
            b'{"format":"deviceplugin.dev/snapshot","version":2,"program":"deviceplugin 9"}',
            "this program reads up to 1: it was made by deviceplugin 9",
        ),
        (b'{"format":"deviceplugin.dev/snapshot","version":1}', "no list of nodes"),
        (
            b'{"format":"deviceplugin.dev/snapshot","version":1,"nodes":[1],"pods":[],"quotas":[]}',
            "entry 0 of its nodes",
        ),
    ],
)
def test_what_is_no_snapshot_is_refused_with_the_reason(
    make: Any, tmp_path: Path, data: bytes, says: str
) -> None:
    path = tmp_path / "s.json"
    path.write_bytes(data)
    with pytest.raises(SnapshotError) as refused:
        read(path, make.nvidia)
    assert says in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_file_that_ends_too_early_or_is_not_there(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.json.gz"
    with pytest.raises(SnapshotError, match="No such file"):
        read(path, make.nvidia)
    path.write_bytes(gzip.compress(dumps(whole(make)))[:-20])
    with pytest.raises(SnapshotError, match="cannot be unpacked"):
        read(path, make.nvidia)


@given(st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_read_or_refused(make: Any, data: bytes) -> None:
    with pytest.raises(SnapshotError):
        loads(data, make.nvidia)


@given(value=json_values, kind=st.sampled_from(["nodes", "pods", "quotas"]))
def test_any_object_is_taken_in_or_refused_by_name(make: Any, value: Any, kind: str) -> None:
    from deviceplugin.explain.world import rebuilt
    from deviceplugin.scheduler.settings import SchedulerSettings

    item = {"metadata": {"name": "odd", "annotations": value}, "spec": value, "status": value}
    lists = {"nodes": [], "pods": [], "quotas": [], kind: [item]}
    head = {"format": "deviceplugin.dev/snapshot", "version": 1}
    found = loads(json.dumps({**head, **lists}).encode(), make.nvidia)
    try:
        rebuilt(found, make.nvidia, SchedulerSettings())
    except SnapshotError as error:
        assert "odd" in str(error)


def test_labels_are_kept_that_pods_select_by(make: Any) -> None:
    terms = [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]
    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
        }
    }
    pods = [make.pod("a", nodeSelector={"disk": "fast"}), make.pod("b", affinity=affinity)]
    assert selected_labels(pods) == {"disk", "zone"}
    item = make.node("a", labels={"disk": "slow", "zone": "1", "cost-centre": "12"})
    labels = Shapes(make.nvidia).node(item, selected_labels(pods))["metadata"]["labels"]
    assert labels == {"disk": "slow", "zone": "1", "kubernetes.io/hostname": "a"}
