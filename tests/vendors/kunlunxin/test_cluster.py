"""The pods of Kunlunxin's page, from their author to what their processes get."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.testing.scheduling import Habit

MODES = {"locked": "LOCKED", "deferred": "DEFERRED"}
LOCKED = {"allocation": "scheduled-locked", "device_list_strategy": ("envvar",)}
LOCKLESS = {**LOCKED, "lockless": "verify"}
DEFERRED = {"allocation": "scheduled-deferred", "device_list_strategy": ("cdi-cri",)}
STANDALONE = {"allocation": "standalone", "device_list_strategy": ("envvar",)}
XPU, VXPU = "kunlunxin.com/xpu", "kunlunxin.com/vxpu"


@pytest.fixture
def kunlunxin(machine: Callable[..., Any], built: Callable[..., Path], lines: Any) -> Any:
    """Eight cards; slices can be held apart."""
    scenario = "".join(lines.card(bus=3 + i) for i in range(8))
    made = machine(
        "kunlunxin",
        built("xpuml", "libxpuml.so.1"),
        "/usr/local/xpu/lib64/libxpuml.so.1",
        "FAKE_XPUML",
        scenario,
    )
    made.put("/usr/bin/xpu-container-runtime")
    return made


@pytest.mark.parametrize(
    ("mode", "habit"),
    [(LOCKED, Habit.HAMI28), (DEFERRED, Habit.OURS), (DEFERRED, Habit.HAMI28)],
    ids=["locked", "deferred", "deferred-hami28"],
)
async def test_slices_reach_their_container_with_the_limit(
    kunlunxin: Any, doc_pods: Any, mode: dict[str, Any], habit: Habit
) -> None:
    await kunlunxin.start(mode, VXPU, sections={"kunlun": {"sharedDevices": "all"}})
    annotation = kunlunxin.cluster.node_annotations()["hami.io/node-register-xpu"]
    assert annotation.startswith(
        '[{"id":"XPU-0000-03-00.0","count":4,"devmem":98304,"devcore":100,"type":"XPU",'
        '"health":true,"devicepairscore":{}},{"id":"XPU-0000-04-00.0","index":1,'
    )
    outcome = await kunlunxin.run(doc_pods("kunlunxin")["two-quarters"], habit)
    told = kunlunxin.cluster.pod_annotations("two-quarters")
    assert told["hami.io/xpu-devices-allocated"] == (
        "XPU-0000-03-00.0,XPU,24576,25:XPU-0000-04-00.0,XPU,24576,25:;"
    )
    seen = kunlunxin.seen(outcome.containers["main"])
    assert seen["env"]["CXPU_VISIBLE_DEVICES"] == "0,1"
    assert seen["env"]["XPU_VISIBLE_DEVICES"] == "0,1"
    assert seen["env"]["CXPU_CONTAINER_MEMORY_LIMIT"] == str(2 * 24576 << 20)
    assert seen["devices"] == ["/dev/xpu0", "/dev/xpu1", "/dev/xpuctrl"]


@pytest.mark.parametrize("mode", [LOCKLESS, DEFERRED], ids=["locked", "deferred"])
async def test_whole_cards_are_those_that_the_scheduler_names(
    kunlunxin: Any, doc_pods: Any, mode: dict[str, Any]
) -> None:
    """This word has neither a lock nor an annotation that agents empty."""
    await kunlunxin.start(mode, XPU, sections={"kunlun": {"sharedDevices": [0, 1]}})
    outcome = await kunlunxin.run(doc_pods("kunlunxin")["two-cards"], Habit.VOLCANO)
    told = kunlunxin.cluster.pod_annotations("two-cards")
    assert told["BAIDU_COM_DEVICE_IDX"] == "4,5"
    assert told["hami.io/kunlun-allocated"] == (
        "node-a-kunlun-4,kunlun,98304,100:node-a-kunlun-5,kunlun,98304,100:;"
    )
    seen = kunlunxin.seen(outcome.containers["main"])
    assert seen["env"]["CXPU_VISIBLE_DEVICES"] == "6,7"  # the first two are shared
    assert seen["devices"] == ["/dev/xpu6", "/dev/xpu7", "/dev/xpuctrl"]
    await kunlunxin.cluster.settled(
        lambda: kunlunxin.cluster.pod_annotations("two-cards")["hami.io/bind-phase"] == "success"
    )


async def test_alone_kubelets_ids_are_the_allocation(kunlunxin: Any) -> None:
    await kunlunxin.start(STANDALONE, VXPU, sections={"kunlun": {"sharedDevices": [0]}})
    pod = {
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "x", "resources": {"limits": {VXPU: "2"}}}]},
    }
    kunlunxin.cluster.create(pod)
    outcome = await kunlunxin.cluster.run("default", "p")
    assert outcome.failure == ""
    env = outcome.environments["c"]
    assert env["CXPU_CONTAINER_MEMORY_LIMIT"] == str(49152 << 20)
    assert env["CXPU_VISIBLE_DEVICES"] == "0"


async def test_without_the_vendors_runtime_no_slice_is_given(kunlunxin: Any) -> None:
    (kunlunxin.host / "usr/bin/xpu-container-runtime").unlink()
    cluster = kunlunxin.cluster
    cluster.start_agent({"kunlun": {"sharedDevices": "all"}}, vendors=("kunlunxin",), **STANDALONE)
    await cluster.kubelet.wait_registered(VXPU)
    await cluster.until(lambda: cluster.kubelet.capacity().get(VXPU) == 32)
    assert cluster.kubelet.allocatable()[VXPU] == 0
