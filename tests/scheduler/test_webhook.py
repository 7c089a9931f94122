"""New pods, and who may write what was decided (hami-scheduler.md 2, 10.2, 10.3, 11)."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin import registry
from deviceplugin.api.hami.keys import BIND_PHASE, VGPU_NODE, WEBHOOK
from deviceplugin.api.hami.poddevices import ContainerDevice
from deviceplugin.placement.observe import Held
from deviceplugin.scheduler.cluster import Holding
from deviceplugin.scheduler.quota import Quotas, quota_record
from deviceplugin.scheduler.review import json_patch
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.scheduler.webhook import Webhook
from deviceplugin.testing.apiserver import patching
from deviceplugin.testing.apiserver.status import StatusError

SCHEDULER = "system:serviceaccount:kube-system:hami-scheduler"
AGENT = "system:serviceaccount:kube-system:hami-device-plugin"
GUARDED = SchedulerSettings(trusted=frozenset({SCHEDULER, AGENT}), agents=frozenset({AGENT}))
GPU = {"nvidia.com/gpu": "1"}


@pytest.fixture(scope="module")
def backends() -> Any:
    found = registry.load()
    made = [
        backend
        for name, vendor in found.vendors.items()
        if name != "mock"
        for backend in registry.load_scheduling(vendor, {})
    ]
    return {backend.keys.common_word: backend for backend in made}


def pod(limits: Mapping[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "x", "resources": {"limits": dict(limits or {})}}
    return {
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [container], **spec},
    }


def review(item: Any, version: str = "v1", **request: Any) -> bytes:
    return json.dumps(
        {
            "apiVersion": f"admission.k8s.io/{version}",
            "kind": "AdmissionReview",
            "request": {
                "uid": "r1",
                "operation": "CREATE",
                "namespace": "default",
                "object": item,
                "userInfo": {"username": "someone"},
                **request,
            },
        }
    ).encode()


async def mutated(
    backends: Any, item: Any, chosen: SchedulerSettings | None = None, **request: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answer, and the pod with its patch applied."""
    hook = Webhook(chosen or SchedulerSettings(), backends, Quotas(backends))
    answer = json.loads(await hook.mutate(review(item, **request)))["response"]
    after = copy.deepcopy(item)
    if "patch" in answer:
        after = patching.operated(after, json.loads(base64.b64decode(answer["patch"])))
    return answer, after


async def test_a_pod_that_asks_for_a_device_is_ours_and_gets_its_defaults(backends: Any) -> None:
    answer, after = await mutated(backends, pod(GPU))
    assert answer["allowed"]
    assert after["spec"]["schedulerName"] == "hami-scheduler"
    limits = after["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpucores"] == "100"  # the whole card, exclusively


async def test_a_pod_that_asks_for_nothing_keeps_its_scheduler(backends: Any) -> None:
    answer, after = await mutated(backends, pod({"cpu": "1"}))
    assert answer["allowed"]
    assert "schedulerName" not in after["spec"]


@pytest.mark.parametrize(
    ("name", "takes_default", "ours"),
    [
        ("", True, True),
        ("default-scheduler", True, True),
        ("default-scheduler", False, False),
        ("hami-scheduler", True, True),
        ("hami-scheduler", False, True),
        ("volcano", True, False),
    ],
)
async def test_whose_pod_it_is_by_the_schedulers_name(
    backends: Any, name: str, takes_default: bool, ours: bool
) -> None:
    """2.8 left out pods that name it; 2.9 mended that (hami-scheduler.md 2.2)."""
    item = pod(GPU, schedulerName=name) if name else pod(GPU)
    _, after = await mutated(backends, item, SchedulerSettings(takes_default=takes_default))
    assert (after["spec"].get("schedulerName") == "hami-scheduler") is ours
    if not ours:
        assert after == item


async def test_a_label_keeps_a_pod_out(backends: Any) -> None:
    item = pod(GPU)
    item["metadata"]["labels"] = {WEBHOOK: "ignore"}
    _, after = await mutated(backends, item)
    assert after == item


async def test_init_containers_are_looked_at_too(backends: Any) -> None:
    item = pod()
    item["spec"]["initContainers"] = [
        {"name": "first", "image": "x", "resources": {"limits": dict(GPU)}}
    ]
    _, after = await mutated(backends, item)
    assert after["spec"]["schedulerName"] == "hami-scheduler"
    assert "nvidia.com/gpucores" in after["spec"]["initContainers"][0]["resources"]["limits"]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (pod(GPU, nodeName="a"), "pod has node assigned"),
        ({"metadata": {}, "spec": {"containers": []}}, "pod has no containers"),
    ],
)
async def test_what_can_never_be_is_refused(backends: Any, item: Any, said: str) -> None:
    answer, _ = await mutated(backends, item)
    assert not answer["allowed"]
    assert said in answer["status"]["message"]
    assert answer["status"]["code"] == 403


async def test_a_privileged_container_that_asks_is_refused_with_a_remedy(backends: Any) -> None:
    item = pod(GPU)
    item["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    answer, _ = await mutated(backends, item)
    message = answer["status"]["message"]
    assert "container main is privileged" in message
    assert "remove securityContext.privileged" in message
    item["spec"]["containers"][0]["resources"] = {}
    answer, _ = await mutated(backends, item)
    assert answer["allowed"]


async def test_a_vendors_refusal_names_container_and_resource(backends: Any) -> None:
    limits = {"metax-tech.com/sgpu": "1", "metax-tech.com/vcore": "10"}
    item = pod(limits)
    item["metadata"]["annotations"] = {"metax-tech.com/sgpu-qos-policy": "nonsense"}
    answer, _ = await mutated(backends, item)
    assert not answer["allowed"]
    assert answer["status"]["code"] == 500
    assert "metax-tech.com/sgpu-qos-policy" in answer["status"]["message"]


async def test_a_quota_is_said_at_once(backends: Any) -> None:
    quotas = Quotas(backends)
    hard = {"limits.nvidia.com/gpumem": "1000"}
    item = {"metadata": {"namespace": "default", "name": "q"}, "spec": {"hard": hard}}
    record = quota_record(item)
    assert record is not None
    quotas.set_quota(record)
    hook = Webhook(SchedulerSettings(), backends, quotas)
    large = pod({**GPU, "nvidia.com/gpumem": "2000"})
    answer = json.loads(await hook.mutate(review(large)))["response"]
    assert "exceeding resource quota" in answer["status"]["message"]
    elsewhere = copy.deepcopy(large)
    del elsewhere["metadata"]["namespace"]
    answer = json.loads(await hook.mutate(review(elsewhere, namespace="other")))["response"]
    assert answer["allowed"]


@pytest.mark.parametrize("how", ["gate", "queue"])
async def test_a_pod_that_is_to_wait_is_refused_only_what_it_can_never_have(
    backends: Any, how: str
) -> None:
    quotas = Quotas(backends)
    hard = {"limits.nvidia.com/gpumem": "1000"}
    item = {"metadata": {"namespace": "default", "name": "q"}, "spec": {"hard": hard}}
    record = quota_record(item)
    assert record is not None
    quotas.set_quota(record)
    device = ContainerDevice("GPU-0", "NVIDIA", 900, 0)
    held = {"NVIDIA": (Held("u", "default/other", (device,)),)}
    quotas.moved(None, Holding("u", "default", "other", "a", held))
    hook = Webhook(SchedulerSettings(), backends, quotas)

    async def message(memory: int, *, waits: bool) -> str:
        asked = pod({**GPU, "nvidia.com/gpumem": str(memory)})
        if waits and how == "gate":
            asked["spec"]["schedulingGates"] = [{"name": "example.com/later"}]
        elif waits:
            asked["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "q"}
        answer = json.loads(await hook.mutate(review(asked)))["response"]
        return str(answer.get("status", {}).get("message", ""))

    assert "900 are used" in await message(500, waits=False)
    assert await message(500, waits=True) == ""
    assert "0 are used" in await message(1500, waits=True)


async def test_results_that_come_with_a_new_pod_are_taken_off_and_told(backends: Any) -> None:
    item = pod(GPU)
    item["metadata"]["annotations"] = {VGPU_NODE: "a", "mine": "stays"}
    answer, after = await mutated(backends, item)
    assert after["metadata"]["annotations"] == {"mine": "stays"}
    assert VGPU_NODE in answer["warnings"][0]


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
async def test_the_answer_is_in_the_version_of_the_question(backends: Any, version: str) -> None:
    hook = Webhook(SchedulerSettings(), backends, Quotas(backends))
    found = json.loads(await hook.mutate(review(pod(GPU), version)))
    assert found["apiVersion"] == f"admission.k8s.io/{version}"
    assert found["response"]["uid"] == "r1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        review(pod(), "v7"),
        review(None),
        review({"spec": 3}),
        review({"spec": {}, "metadata": {"annotations": 7}}),
    ],
)
async def test_what_is_no_review_is_refused_in_words(backends: Any, body: bytes) -> None:
    hook = Webhook(SchedulerSettings(), backends, Quotas(backends))
    for ask in (hook.mutate, hook.validate):
        with pytest.raises(ValueError, match=r"\w"):
            await ask(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab/~", max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=200)
@given(spec=st.dictionaries(st.sampled_from(["containers", "initContainers", "nodeName",
       "schedulerName"]), json_values, max_size=4), metadata=json_values)  # fmt: skip
async def test_whatever_a_stranger_sends_is_answered(
    backends: Any, spec: Any, metadata: Any
) -> None:
    hook = Webhook(GUARDED, backends, Quotas(backends))
    body = review({"metadata": metadata, "spec": spec})
    for ask in (hook.mutate, hook.validate):
        try:
            answer = json.loads(await ask(body))["response"]
        except ValueError:
            continue
        assert answer["allowed"] or answer["status"]["message"]


@settings(max_examples=300)
@given(before=st.dictionaries(st.text("ab/~", max_size=3), json_values, max_size=4),
       after=st.dictionaries(st.text("ab/~", max_size=3), json_values, max_size=4))  # fmt: skip
def test_a_patch_makes_the_one_of_the_other(before: Any, after: Any) -> None:
    operations = list(json_patch(before, after))
    assert (operations == []) is (before == after)
    try:
        found = patching.operated(copy.deepcopy(before), [dict(op) for op in operations])
    except StatusError as error:  # pragma: no cover - the message is what one wants to see
        raise AssertionError(str(error)) from None
    assert found == after


amounts = st.sampled_from(["0", "1", "2", "3", "50", "100", "1000", "24576", "-1", "1.5", "x"])


@settings(max_examples=200)
@given(data=st.data())
async def test_what_is_mutated_is_not_changed_again(backends: Any, data: Any) -> None:
    names = [name for backend in backends.values() for name in backend.resources.names()]
    limits = data.draw(st.dictionaries(st.sampled_from(names), amounts, max_size=3))
    answer, once = await mutated(backends, pod(limits))
    if not answer["allowed"]:
        return
    answer, twice = await mutated(backends, once)
    assert answer["allowed"]
    assert twice == once


async def verdict_of(
    backends: Any,
    new: Mapping[str, str],
    old: Mapping[str, str] | None,
    user: Mapping[str, Any],
    chosen: SchedulerSettings = GUARDED,
    bound: str = "a",
) -> dict[str, Any]:
    item = pod(GPU, **({"nodeName": bound} if bound else {}))
    item["metadata"]["annotations"] = dict(new)
    request: dict[str, Any] = {"operation": "CREATE", "userInfo": user}
    if old is not None:
        before = copy.deepcopy(item)
        before["metadata"]["annotations"] = dict(old)
        request = {"operation": "UPDATE", "oldObject": before, "userInfo": user}
    hook = Webhook(chosen, backends, Quotas(backends))
    found: dict[str, Any] = json.loads(await hook.validate(review(item, **request)))["response"]
    return found


DECIDED = {"hami.io/vgpu-devices-allocated": "GPU-0,NVIDIA,1000,10:;"}


@pytest.mark.parametrize(
    ("new", "old", "user", "allowed"),
    [
        ({}, {}, "someone", True),
        ({"mine": "x"}, {}, "someone", True),
        (DECIDED, None, "someone", False),
        (DECIDED, {}, "someone", False),
        ({}, DECIDED, "someone", False),
        ({**DECIDED, "mine": "x"}, DECIDED, "someone", True),
        ({BIND_PHASE: "success"}, {BIND_PHASE: "allocating"}, "someone", False),
        (DECIDED, {}, SCHEDULER, True),
        ({BIND_PHASE: "success"}, {}, AGENT, True),
    ],
)
async def test_results_are_written_by_those_who_decide(
    backends: Any,
    new: Mapping[str, str],
    old: Mapping[str, str] | None,
    user: str,
    allowed: bool,
) -> None:
    answer = await verdict_of(backends, new, old, {"username": user})
    assert answer["allowed"] is allowed
    if not allowed:
        assert "remove it" in answer["status"]["message"]


@pytest.mark.parametrize(
    ("node", "bound", "allowed"), [("a", "a", True), ("b", "a", False), ("a", "", False)]
)
async def test_an_agent_writes_to_pods_of_its_own_node(
    backends: Any, node: str, bound: str, allowed: bool
) -> None:
    extra = {"authentication.kubernetes.io/node-name": [node]}
    user = {"username": AGENT, "extra": extra}
    answer = await verdict_of(backends, {BIND_PHASE: "success"}, {}, user, bound=bound)
    assert answer["allowed"] is allowed


async def test_without_accounts_nothing_is_protected(backends: Any) -> None:
    answer = await verdict_of(backends, DECIDED, {}, {"username": "someone"}, SchedulerSettings())
    assert answer["allowed"]


async def test_through_an_api_server_to_a_stored_pod(bench: Any, make: Any) -> None:
    """A pod as its author writes it is stored as it is served."""
    _, address = await bench.scheduler()
    bench.server.create(
        "mutatingwebhookconfigurations",
        {
            "metadata": {"name": "ours"},
            "webhooks": [
                {
                    "name": "vgpu.hami.io",
                    "clientConfig": {"url": f"{address}/webhook"},
                    "rules": [
                        {
                            "operations": ["CREATE"],
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "resources": ["pods"],
                        }
                    ],
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                }
            ],
        },
    )
    from deviceplugin.apiserver.client import Path

    path = Path("/api/v1/namespaces/{namespace}/pods", {"namespace": "default"})
    item = {"apiVersion": "v1", "kind": "Pod", **pod(GPU)}
    stored = await bench.api().create(path, item)
    assert stored["spec"]["schedulerName"] == "hami-scheduler"
    assert stored["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpucores"] == "100"
