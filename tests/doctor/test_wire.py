"""Where the codecs meet the checks: what the codecs write is never found malformed, and nothing that
a stranger writes breaks a check.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin.api.hami import handshake, nodelock, poddevices, register
from deviceplugin.api.hami.handshake import Handshake, State
from deviceplugin.api.hami.keys import BIND_PHASE, BIND_TIME, MUTEX_LOCK, VENDORS
from deviceplugin.api.hami.nodelock import NodeLock
from deviceplugin.api.hami.poddevices import ContainerDevice
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.doctor.cluster import SnapshotCluster
from deviceplugin.doctor.examine import examine
from deviceplugin.doctor.model import Report
from deviceplugin.doctor.scene import Scene

NOW = datetime(2026, 1, 20, 8, 15, 30, tzinfo=UTC)
GPU, NVIDIA, DCU = "nvidia.com/gpu", VENDORS["NVIDIA"], VENDORS["DCU"]
ages = st.timedeltas(timedelta(0), timedelta(days=30)).map(lambda t: t - t % timedelta(seconds=1))
names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
uuids = st.from_regex(r"GPU-[0-9a-f]{1,12}", fullmatch=True)
amounts = st.integers(0, 100_000)
texts = st.text(st.characters(codec="utf-8"), max_size=60)


def report(
    tmp_path_factory: Any,
    node: dict[str, str],
    pod: dict[str, str] | None = None,
    allocatable: int = 1,
    containers: int = 1,
) -> Report:
    """On a node with these annotations, and with a pod of that many containers that ask for one."""
    asks = {"limits": {GPU: "1"}}
    objects = SnapshotCluster(
        (
            {
                "metadata": {"name": "n1", "uid": "u", "annotations": node},
                "status": {"allocatable": {GPU: str(allocatable)}},
            },
        ),
        (
            {
                "metadata": {"name": "p", "namespace": "d", "uid": "v", "annotations": pod or {}},
                "spec": {
                    "nodeName": "n1",
                    "containers": [{"name": f"c{n}", "resources": asks} for n in range(containers)],
                },
            },
        ),
    )
    scene = Scene(
        root=tmp_path_factory.getbasetemp(),
        node_name="n1",
        now=NOW,
        allocation="scheduled-locked",
        resources=MappingProxyType({GPU: NVIDIA}),
        limits=True,
        cluster=objects,
    )
    return examine(scene, ("node", "pods"))


def ids(found: Report) -> set[str]:
    return {finding.id for finding in found.findings}


@given(age=ages, namespace=names, name=names, named=st.booleans())
def test_a_lock_is_left_or_stale_but_never_unreadable(
    tmp_path_factory: Any, age: timedelta, namespace: str, name: str, named: bool
) -> None:
    lock = NodeLock(NOW - age, namespace, name) if named else NodeLock(NOW - age)
    found = ids(report(tmp_path_factory, {MUTEX_LOCK: nodelock.encode(lock)}))
    assert "node-lock-unreadable" not in found
    if named:  # the only pod is d/p
        assert ("node-lock-left" in found) is ((namespace, name) != ("d", "p"))
    else:
        assert ("node-lock-stale" in found) is (age > timedelta(minutes=5))


@given(state=st.sampled_from(State), age=ages)
def test_a_handshake_is_judged_by_its_word_and_its_age(
    tmp_path_factory: Any, state: State, age: timedelta
) -> None:
    text = handshake.encode(Handshake(state, NOW - age))
    found = ids(report(tmp_path_factory, {str(DCU.handshake): text}))
    assert "handshake-unreadable" not in found
    assert ("handshake-deleted" in found) is (state is State.DELETED)
    unanswered = state is State.REQUESTING and age >= timedelta(minutes=1)
    assert ("handshake-unanswered" in found) is unanswered


devices = st.lists(
    st.builds(
        NodeDevice,
        uuid=uuids,
        count=st.integers(1, 50),
        memory=amounts,
        cores=st.integers(0, 100),
        type=st.just("NVIDIA-Test"),
        healthy=st.booleans(),
    ),
    max_size=8,
)


@given(devices=devices, off=st.integers(0, 3))
def test_registered_shares_are_compared_with_those_of_kubelet(
    tmp_path_factory: Any, devices: list[NodeDevice], off: int
) -> None:
    shares = sum(device.count for device in devices if device.healthy)
    node = {str(NVIDIA.register): register.encode(devices)}
    found = ids(report(tmp_path_factory, node, allocatable=shares + off))
    assert "registration-unreadable" not in found
    assert ("registration-disagrees" in found) is (off > 0)
    assert ("registration-without-memory" in found) is any(not d.memory for d in devices)


@given(
    given_to=st.lists(
        st.lists(
            st.builds(ContainerDevice, uuids, st.just("NVIDIA"), amounts, st.integers(0, 100)),
            min_size=1,
            max_size=3,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_pod_that_a_scheduler_served_is_in_order(
    tmp_path_factory: Any, given_to: list[list[ContainerDevice]]
) -> None:
    pod = {NVIDIA.allocated: poddevices.encode(given_to, NVIDIA.allocated)}
    found = report(tmp_path_factory, {}, pod, containers=len(given_to))
    assert {finding.id for finding in found.findings if finding.group == "pods"} == set()


@given(node=st.lists(texts, min_size=3, max_size=3), pod=st.lists(texts, min_size=3, max_size=3))
@settings(max_examples=200)
def test_nothing_that_stands_in_annotations_breaks_a_check(
    tmp_path_factory: Any, node: list[str], pod: list[str]
) -> None:
    keys = (MUTEX_LOCK, str(NVIDIA.register), str(DCU.handshake))
    found = report(
        tmp_path_factory,
        dict(zip(keys, node, strict=True)),
        dict(zip((NVIDIA.allocated, BIND_PHASE, BIND_TIME), pod, strict=True)),
    )
    assert "check-failed" not in ids(found), found
