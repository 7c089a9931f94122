"""Pods that came past the webhook: which are found, and that everything it lets through is not."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin import registry
from deviceplugin.api.hami.keys import VGPU_NODE, WEBHOOK
from deviceplugin.scheduler.pods import pod_record
from deviceplugin.scheduler.quota import Quotas
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.scheduler.slipped import Slip, Slipped, slipped
from deviceplugin.scheduler.webhook import Webhook
from deviceplugin.testing.apiserver.patching import operated

GPU, MEMORY = "nvidia.com/gpu", "nvidia.com/gpumem"
BACKENDS = {
    backend.keys.common_word: backend
    for backend in registry.load_scheduling(registry.load().vendors["nvidia"], {})
}
SETTINGS = SchedulerSettings()


def pod(
    scheduler: str = "default-scheduler",
    node: str = "",
    *,
    limits: dict[str, str] | None = None,
    privileged: bool = False,
    annotations: dict[str, str] | None = None,
    ignored: bool = False,
    phase: str = "Pending",
) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "main", "resources": {"limits": limits or {GPU: "1"}}}
    if privileged:
        container["securityContext"] = {"privileged": True}
    return {
        "metadata": {
            "namespace": "team",
            "name": "train",
            "uid": "u1",
            "annotations": annotations or {},
            "labels": {WEBHOOK: "ignore"} if ignored else {},
        },
        "spec": {"schedulerName": scheduler, "nodeName": node, "containers": [container]},
        "status": {"phase": phase},
    }


def found(
    item: dict[str, Any], settings: SchedulerSettings = SETTINGS, devices: bool = True
) -> Slipped | None:
    seen = pod_record(item)
    if seen is None:
        return None
    return slipped(seen, settings, BACKENDS, lambda _node, words: devices and words == {"NVIDIA"})


@pytest.mark.parametrize(
    ("item", "slip", "says"),
    [
        (pod(), Slip.OTHER_SCHEDULER, "names scheduler default-scheduler"),
        (pod(limits={MEMORY: "3000"}), Slip.OTHER_SCHEDULER, "asks for NVIDIA"),
        (pod(node="gpu-1"), Slip.NOT_DECIDED, "is on gpu-1 with no decision: default-scheduler"),
        (pod("hami-scheduler", "gpu-1"), Slip.NOT_DECIDED, "no decision"),
        (pod("volcano", "gpu-1"), Slip.NOT_DECIDED, "volcano placed it there"),
        (pod("", "gpu-1", ignored=True), Slip.NOT_DECIDED, "whoever set spec.nodeName"),
        (
            pod("hami-scheduler", "gpu-1", annotations={VGPU_NODE: "gpu-2"}),
            Slip.NOT_DECIDED,
            "a decision for gpu-2",
        ),
        (
            pod(annotations={VGPU_NODE: "gpu-2"}),
            Slip.OTHER_SCHEDULER,
            "names scheduler default-scheduler",
        ),
        (
            pod("hami-scheduler", "gpu-1", annotations={VGPU_NODE: "gpu-1"}, privileged=True),
            Slip.PRIVILEGED,
            "container main is privileged",
        ),
        (pod("hami-scheduler", privileged=True), Slip.PRIVILEGED, "container main is privileged"),
        (pod("hami-scheduler", limits={GPU: "half"}), Slip.REFUSED, "whole number"),
    ],
)
def test_who_slipped_past_is_found(item: dict[str, Any], slip: Slip, says: str) -> None:
    one = found(item)
    assert one is not None
    assert (one.namespace, one.name, one.uid, one.slip) == ("team", "train", "u1", slip)
    assert says in one.detail
    assert one.remedy


@pytest.mark.parametrize(
    "item",
    [
        pytest.param(pod("hami-scheduler"), id="waits for its scheduler"),
        pytest.param(
            pod("hami-scheduler", "gpu-1", annotations={VGPU_NODE: "gpu-1"}), id="was placed"
        ),
        pytest.param(
            pod("hami-scheduler", annotations={VGPU_NODE: "gpu-1"}), id="is about to be bound"
        ),
        pytest.param(
            pod("volcano", "gpu-1", annotations={VGPU_NODE: "gpu-1"}), id="a peer placed it"
        ),
        pytest.param(pod("volcano"), id="another scheduler's on purpose"),
        pytest.param(pod(ignored=True), id="left alone on purpose"),
        pytest.param(pod("volcano", limits={GPU: "half"}), id="not ours to refuse"),
        pytest.param(pod(phase="Failed", node="gpu-1"), id="has ended"),
        pytest.param(pod(limits={"cpu": "1"}, privileged=True), id="asks for no device"),
    ],
)
def test_who_did_not_is_not(item: dict[str, Any]) -> None:
    assert found(item) is None


def test_a_node_whose_devices_are_not_ours_is_nobodys_business() -> None:
    assert found(pod(node="gpu-1"), devices=False) is None


def test_who_leaves_default_schedulers_pods_alone_does_not_miss_them() -> None:
    leaves = SchedulerSettings(takes_default=False)
    assert found(pod(), leaves) is None
    assert found(pod(""), leaves) is not None
    assert found(pod(node="gpu-1"), leaves) is not None


@given(
    scheduler=st.sampled_from(["", "default-scheduler", "hami-scheduler", "volcano"]),
    limits=st.dictionaries(
        st.sampled_from([GPU, MEMORY, "nvidia.com/gpucores", "cpu"]),
        st.sampled_from(["1", "100", "0", "half", "-1"]),
    ),
    privileged=st.booleans(),
    takes_default=st.booleans(),
)
async def test_what_the_webhook_let_through_has_not_slipped_past(
    scheduler: str, limits: dict[str, str], privileged: bool, takes_default: bool
) -> None:
    settings = SchedulerSettings(takes_default=takes_default)
    item = pod(scheduler, limits=limits or {"cpu": "1"}, privileged=privileged)
    webhook = Webhook(settings, BACKENDS, Quotas(BACKENDS))
    answer = await webhook.mutate(
        json.dumps(
            {
                "apiVersion": "admission.k8s.io/v1",
                "request": {"uid": "r", "operation": "CREATE", "object": item},
            }
        ).encode()
    )
    response = json.loads(answer)["response"]
    past = found(item, settings)
    if not response["allowed"]:
        assert past is not None
        return
    stored = apply(item, response)
    assert found(stored, settings) is None
    # What it changed the scheduler of is what waits for another where it did not.
    assert (past is not None) == (stored["spec"]["schedulerName"] != scheduler)


def apply(item: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    if "patch" not in response:
        return item
    changed: dict[str, Any] = operated(item, json.loads(base64.b64decode(response["patch"])))
    return changed


def test_pods_that_ask_for_nothing_are_not_kept() -> None:
    assert pod_record(pod(limits={"cpu": "1", "memory": "1Gi", "hugepages-2Mi": "2Mi"})) is None
