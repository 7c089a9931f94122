"""Section 2.3 of hami-scheduler.md: what the webhook makes of a pod, vendor by vendor, through the
webhook itself; and that the defects of 2.8 which that section lists are none of ours.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest

from deviceplugin import registry
from deviceplugin.scheduler.quota import Quotas
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.scheduler.webhook import Webhook
from deviceplugin.testing.apiserver import patching

GPU, MEMORY, CORES = "nvidia.com/gpu", "nvidia.com/gpumem", "nvidia.com/gpucores"
PERCENT = "nvidia.com/gpumem-percentage"
A910, A910_MEMORY = "huawei.com/Ascend910A", "huawei.com/Ascend910A-memory"
MR, MR_CORES = "iluvatar.ai/MR-V100-vgpu", "iluvatar.ai/MR-V100.vCore"
VXPU, VXPU_MEMORY = "kunlunxin.com/vxpu", "kunlunxin.com/vxpu-memory"
SGPU, QOS, APP = (
    "metax-tech.com/sgpu",
    "metax-tech.com/sgpu-qos-policy",
    "metax-tech.com/sgpu-app-class",
)
VGPU, SCORES, SMEMORY = "mthreads.com/vgpu", "mthreads.com/sgpu-core", "mthreads.com/sgpu-memory"


def backends(sections: Mapping[str, Mapping[str, Any]]) -> Any:
    found = registry.load()
    made = [
        backend
        for name, vendor in found.vendors.items()
        if name != "mock"
        for backend in registry.load_scheduling(vendor, sections.get(name, {}))
    ]
    return {backend.keys.common_word: backend for backend in made}


async def through(
    item: dict[str, Any],
    sections: Mapping[str, Mapping[str, Any]] | None = None,
    settings: SchedulerSettings | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The webhook's answer, and the pod with its patch."""
    made = backends(sections or {})
    hook = Webhook(settings or SchedulerSettings(), made, Quotas(made))
    request = {"uid": "r", "operation": "CREATE", "namespace": "default", "object": item,
               "userInfo": {"username": "somebody"}}  # fmt: skip
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    answer = json.loads(await hook.mutate(json.dumps(review).encode()))["response"]
    after = copy.deepcopy(item)
    if "patch" in answer:
        after = patching.operated(after, json.loads(base64.b64decode(answer["patch"])))
    return answer, after


def pod(
    limits: Mapping[str, str],
    requests: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    resources: dict[str, Any] = {"limits": dict(limits)}
    if requests is not None:
        resources["requests"] = dict(requests)
    metadata: dict[str, Any] = {"name": "p", "namespace": "default"}
    if annotations is not None:
        metadata["annotations"] = dict(annotations)
    container = {"name": "c", "image": "x", "resources": resources}
    return {"metadata": metadata, "spec": {"containers": [container], **spec}}


@pytest.mark.parametrize(
    ("limits", "requests", "added"),
    [
        pytest.param({GPU: "1"}, None, {CORES: "100"}, id="nvidia: a card is all of it"),
        pytest.param({GPU: "1", PERCENT: "100"}, None, {CORES: "100"}, id="nvidia: 100 % is all of it"),
        pytest.param({GPU: "1"}, {PERCENT: "100"}, {CORES: "100"}, id="nvidia: 100 % in requests only"),
        pytest.param({GPU: "1", PERCENT: "50"}, None, {}, id="nvidia: 50 %"),
        pytest.param({GPU: "1", CORES: "70"}, None, {}, id="nvidia: 70 cores stay"),
        pytest.param({GPU: "1"}, {CORES: "55"}, {}, id="nvidia: 55 cores in requests stay"),
        pytest.param({GPU: "1", MEMORY: "3000"}, None, {}, id="nvidia: an amount of memory"),
        pytest.param({MEMORY: "3000"}, None, {GPU: "1"}, id="nvidia: memory without a count"),
        pytest.param({CORES: "30"}, None, {GPU: "1"}, id="nvidia: cores without a count"),
        pytest.param({PERCENT: "50"}, None, {GPU: "1"}, id="nvidia: a percentage without a count"),
        pytest.param({A910: "1", A910_MEMORY: "20000"}, None, {A910_MEMORY: "32768"}, id="ascend: above all templates is a card"),
        pytest.param({A910: "1", A910_MEMORY: "128"}, None, {A910_MEMORY: "2184"}, id="ascend: up to the template"),
        pytest.param({A910: "1"}, None, {A910_MEMORY: "32768"}, id="ascend: nothing said is a card"),
        pytest.param({"hygon.com/dcunum": "1"}, None, {}, id="hygon: nothing"),
        pytest.param({"cambricon.com/vmlu": "1"}, None, {}, id="cambricon: nothing"),
        pytest.param({"kunlunxin.com/xpu": "1"}, None, {}, id="kunlunxin: nothing"),
        pytest.param({"metax-tech.com/gpu": "1"}, None, {}, id="metax: nothing"),
        pytest.param({"enflame.com/gcu": "1"}, None, {}, id="enflame: nothing"),
        pytest.param({VXPU: "1", VXPU_MEMORY: "1000"}, None, {VXPU_MEMORY: "24576"}, id="kunlunxin: up to a quarter"),
        pytest.param({VXPU: "1", VXPU_MEMORY: "24577"}, None, {VXPU_MEMORY: "49152"}, id="kunlunxin: up to a half"),
        pytest.param({VXPU: "1", VXPU_MEMORY: "49153"}, None, {VXPU_MEMORY: "98304"}, id="kunlunxin: up to a card"),
        pytest.param({MR: "2"}, None, {MR_CORES: "200"}, id="iluvatar: two cards are whole"),
        pytest.param({MR: "1"}, None, {}, id="iluvatar: one card"),
        pytest.param({VGPU: "2"}, None, {SCORES: "32", SMEMORY: "192"}, id="mthreads: two cards are whole"),
        pytest.param({VGPU: "1"}, None, {SCORES: "16", SMEMORY: "96"}, id="mthreads: one card without memory"),
        pytest.param({VGPU: "1", SMEMORY: "8"}, None, {}, id="mthreads: an amount of memory"),
    ],
)  # fmt: skip
async def test_resources(
    limits: dict[str, str], requests: dict[str, str] | None, added: dict[str, str]
) -> None:
    answer, after = await through(pod(limits, requests))
    assert answer["allowed"], answer
    resources = after["spec"]["containers"][0]["resources"]
    assert resources["limits"] == {**limits, **added}
    # What is added stands in both, as the API server wants it; 2.8 fell over a pod without requests.
    assert resources.get("requests", {}) == {**(requests or {}), **added}
    assert after["spec"]["schedulerName"] == "hami-scheduler"


@pytest.mark.parametrize(
    ("limits", "annotations", "said"),
    [
        pytest.param({A910: "2", A910_MEMORY: "8738"}, {}, "vNPU is not supported for multiple devices", id="ascend: two parts"),
        pytest.param({A910: "1", A910_MEMORY: "40000"}, {}, "huawei.com/Ascend910A-memory 40000 is invalid", id="ascend: more than a card"),
        pytest.param({SGPU: "1"}, {APP: "Online"}, "metax-tech.com/sgpu-app-class must be set one of [online, offline]", id="metax: another class"),
        pytest.param({SGPU: "2"}, {APP: "online"}, "app-class pod must request single device", id="metax: two with a class"),
        pytest.param({SGPU: "1"}, {QOS: "x"}, "metax-tech.com/sgpu-qos-policy must be set one of [best-effort, fixed-share, burst-share]", id="metax: another policy"),
        pytest.param({VGPU: "1", SMEMORY: "3"}, {}, "write one of 2, 4, 8, 16, 32, 64, 96", id="mthreads: 3 of memory"),
        pytest.param({VGPU: "1", SMEMORY: "1"}, {}, "write one of 2, 4, 8, 16, 32, 64, 96", id="mthreads: 1, which 2.8 promises and refuses"),
        pytest.param({GPU: "1", PERCENT: "101"}, {}, "nvidia.com/gpumem-percentage is 101", id="nvidia: 101 %"),
    ],
)  # fmt: skip
async def test_refusals(limits: dict[str, str], annotations: dict[str, str], said: str) -> None:
    answer, _ = await through(pod(limits, annotations=annotations))
    assert not answer["allowed"]
    assert answer["status"]["code"] == 500
    assert said in answer["status"]["message"]


@pytest.mark.parametrize(
    ("limits", "section", "env"),
    [
        pytest.param({GPU: "1", "nvidia.com/priority": "1"}, {}, {"CUDA_TASK_PRIORITY": "1"}, id="nvidia: the priority"),
        pytest.param({GPU: "1"}, {"gpuCorePolicy": "force"}, {"GPU_CORE_UTILIZATION_POLICY": "force"}, id="nvidia: the core policy"),
        pytest.param({GPU: "1"}, {"gpuCorePolicy": "default"}, {}, id="nvidia: the default core policy"),
        # 2.8 writes the policy to every container of the cluster.
        pytest.param({"cpu": "1"}, {"gpuCorePolicy": "force"}, {}, id="nvidia: nobody else's containers"),
        pytest.param({"cpu": "1"}, {"overwriteEnv": True}, {"NVIDIA_VISIBLE_DEVICES": "none"}, id="nvidia: who asks for none sees none"),
        pytest.param({MR: "1"}, {}, {"SOL_CONTINER_NAME": "c"}, id="iluvatar: the container's name"),
    ],
)  # fmt: skip
async def test_variables(
    limits: dict[str, str], section: dict[str, Any], env: dict[str, str]
) -> None:
    _, after = await through(pod(limits), {"nvidia": section})
    found = {e["name"]: e["value"] for e in after["spec"]["containers"][0].get("env", [])}
    assert found == env
    assert ("schedulerName" in after["spec"]) is ("cpu" not in limits)


async def test_a_variable_that_is_there_already_stays() -> None:
    item = pod({MR: "1"})
    item["spec"]["containers"][0]["env"] = [{"name": "SOL_CONTINER_NAME", "value": "mine"}]
    _, after = await through(item)
    assert after["spec"]["containers"][0]["env"] == [{"name": "SOL_CONTINER_NAME", "value": "mine"}]


@pytest.mark.parametrize(
    ("annotations", "added"),
    [
        pytest.param(None, {QOS: "best-effort"}, id="no annotations at all"),
        pytest.param({}, {QOS: "best-effort"}, id="no policy"),
        pytest.param({QOS: "fixed-share"}, {}, id="a policy"),
        pytest.param({APP: "online"}, {}, id="online"),
        pytest.param({APP: "offline"}, {QOS: "best-effort"}, id="offline"),
    ],
)
async def test_metaxs_policy(annotations: dict[str, str] | None, added: dict[str, str]) -> None:
    _, after = await through(pod({SGPU: "1"}, annotations=annotations))
    assert (after["metadata"].get("annotations") or {}) == {**(annotations or {}), **added}


@pytest.mark.parametrize(
    ("given", "section", "found"),
    [
        pytest.param(None, "nvidia", "nvidia", id="where the pod names none"),
        pytest.param("mine", "nvidia", "mine", id="the pod's own stays"),
        pytest.param(None, "", None, id="where none is configured"),
    ],
)
async def test_the_runtime_class(given: str | None, section: str, found: str | None) -> None:
    spec = {"runtimeClassName": given} if given else {}
    _, after = await through(pod({GPU: "1"}, **spec), {"nvidia": {"runtimeClassName": section}})
    assert after["spec"].get("runtimeClassName") == found


async def test_without_a_default_count_memory_alone_asks_for_nothing() -> None:
    _, after = await through(pod({MEMORY: "3000"}), {"nvidia": {"defaultGPUNum": 0}})
    assert after == pod({MEMORY: "3000"})


async def test_names_are_the_configurations() -> None:
    section = {"resourceCountName": "example.com/card", "resourceCoreName": "example.com/core"}
    _, after = await through(pod({"example.com/card": "1"}), {"nvidia": section})
    limits = after["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"example.com/card": "1", "example.com/core": "100"}


@pytest.mark.parametrize("word", [GPU, A910, "hygon.com/dcunum", MR, VXPU, SGPU, VGPU])
@pytest.mark.parametrize("kind", ["containers", "initContainers"])
async def test_every_container_is_looked_at(word: str, kind: str) -> None:
    """2.8 passes over init containers, and over those that are privileged."""
    item = pod({})
    asking = {"name": "a", "image": "x", "resources": {"limits": {word: "1"}}}
    item["spec"].setdefault(kind, []).append(asking)
    _, after = await through(item)
    assert after["spec"]["schedulerName"] == "hami-scheduler"
    asking["securityContext"] = {"privileged": True}  # type: ignore[assignment]
    answer, _ = await through(item)
    assert "container a is privileged" in answer["status"]["message"]


@pytest.mark.parametrize("takes_default", [True, False])
async def test_a_pod_without_a_schedulers_name_is_ours(takes_default: bool) -> None:
    """2.8 passes over it when it must not take over others' pods."""
    settings = SchedulerSettings(takes_default=takes_default)
    _, after = await through(pod({GPU: "1"}), settings=settings)
    assert after["spec"]["schedulerName"] == "hami-scheduler"
