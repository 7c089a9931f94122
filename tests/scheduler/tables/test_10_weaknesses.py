"""Weaknesses of upstream's (hami-scheduler.md 10) that no test of another table has."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from deviceplugin import registry
from deviceplugin.api.hami import poddevices, register
from deviceplugin.api.hami.keys import NVIDIA_REGISTER, VENDORS
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.placement.admit import admitted
from deviceplugin.scheduler.nodes import node_record
from deviceplugin.scheduler.registration import due
from deviceplugin.vendor.scheduling import RefusedError

NVIDIA, DCU = VENDORS["NVIDIA"], VENDORS["DCU"]
BACKENDS = {
    backend.keys.common_word: backend
    for name, vendor in registry.load().vendors.items()
    if name != "mock"
    for backend in registry.load_scheduling(vendor, {})
}


def changed(item: dict[str, Any], **more: Any) -> str:
    """The register annotation of a node whose cards are otherwise than they were."""
    devices = register.decode(item["metadata"]["annotations"][NVIDIA_REGISTER], "x")
    return register.encode([replace(device, **more) for device in devices])


async def test_a_card_that_a_pod_holds_and_no_node_tells_of_is_told(bench: Any, make: Any) -> None:
    """10.3: upstream takes such a card for a free one, and says nothing."""
    node = make.node("a", cards=1, deferred=True)
    bench.server.create("nodes", node)
    bench.server.create("pods", make.pod("p"))
    made, address = await bench.scheduler()
    assert (await bench.filter(address, "p", ["a"]))["NodeNames"] == ["a"]
    assert await bench.bind(address, "p", "a") == ""
    await made.watching.check_pods()
    assert made.moment().facts["stray_devices"] == 0
    text = changed(node, uuid="GPU-other")
    bench.server.patch("nodes", "a", {"metadata": {"annotations": {NVIDIA_REGISTER: text}}})
    await bench.until(lambda: made.cluster.view("a").cards["NVIDIA"][0].uuid == "GPU-other")
    await made.watching.check_pods()
    assert made.moment().facts["stray_devices"] == 1
    assert list(made.watching.strays.values()) == [("GPU-a-0",)]
    bench.server.delete("pods", "p", "default")
    await bench.until(lambda: not list(made.cluster.holdings()))
    await made.watching.check_pods()
    assert made.moment().facts["stray_devices"] == 0


async def test_a_card_that_changes_while_the_count_stays_is_seen_at_once(
    bench: Any, make: Any
) -> None:
    """10.3, 3.4: 2.8 reads NVIDIA's devices again only when their number changes."""
    node = make.node("a", cards=1)
    bench.server.create("nodes", node)
    bench.server.create("pods", make.pod("p", memory=1000))
    made, address = await bench.scheduler()
    for more, said in (
        ({"healthy": False}, "CardNotHealth"),
        ({"memory": 500}, "CardInsufficientMemory"),
    ):
        text = changed(node, **more)
        bench.server.patch("nodes", "a", {"metadata": {"annotations": {NVIDIA_REGISTER: text}}})
        await bench.until(lambda text=text: made.cluster.record("a").facts.annotations[NVIDIA_REGISTER] == text)  # fmt: skip
        answer = await bench.filter(address, "p", ["a"])
        assert answer["FailedNodes"] == {"a": said}


async def test_a_node_that_tells_of_no_devices_has_none(bench: Any, make: Any) -> None:
    """10.4: an empty list, and none at all, take the old ones away."""
    node = make.node("a")
    bench.server.create("nodes", node)
    bench.server.create("pods", make.pod("p"))
    made, address = await bench.scheduler()
    for text in ("[]", None):
        bench.server.patch("nodes", "a", {"metadata": {"annotations": {NVIDIA_REGISTER: text}}})
        await bench.until(lambda: made.cluster.room("a") is None)
        answer = await bench.filter(address, "p", ["a"])
        assert answer["FailedNodes"]["a"].startswith("NodeInsufficientDevice")
        told = {NVIDIA_REGISTER: node["metadata"]["annotations"][NVIDIA_REGISTER]}
        bench.server.patch("nodes", "a", {"metadata": {"annotations": told}})
        await bench.until(lambda: made.cluster.room("a") is not None)


def test_only_vendors_that_tell_of_devices_are_asked(make: Any) -> None:
    """10.4: 2.8 stamps a deletion for vendors that a node never had."""
    now = datetime(2026, 3, 1, tzinfo=UTC)
    node = make.node("a")
    assert due(node_record(node), BACKENDS, now) == {}
    device = NodeDevice(uuid="d", count=1, memory=1, cores=100, type="DCU-x", healthy=True)
    node["metadata"]["annotations"][DCU.register] = register.encode_legacy([device])
    assert list(due(node_record(node), BACKENDS, now)) == [DCU.handshake]


@pytest.mark.parametrize(
    ("containers", "nvidia", "dcu"),
    [
        pytest.param([("gpu",), ("dcu",)], [1, 0], [0, 1], id="one each"),
        pytest.param([("dcu",), ("gpu",)], [0, 1], [1, 0], id="one each, the other way"),
        pytest.param([("gpu", "dcu")], [1], [1], id="both in one container"),
        pytest.param([(), ("dcu", "gpu"), ("gpu",)], [0, 1, 1], [0, 1, 0], id="none, both, one"),
    ],
)
async def test_two_vendors_in_one_pod_each_keep_their_places(
    every_vendor: Any, make: Any, containers: list[Any], nvidia: list[int], dcu: list[int]
) -> None:
    """10.6: 2.8 shifts one vendor's devices to a later container, and lists those of both."""
    bench = every_vendor
    node = make.node("a", deferred=True)
    device = NodeDevice(
        uuid="DCU-0", count=4, memory=9000, cores=100, type="DCU-K100_AI", healthy=True
    )
    node["metadata"]["annotations"][DCU.register] = register.encode_legacy([device])
    bench.server.create("nodes", node)
    asks = {
        "gpu": {"nvidia.com/gpu": "1", "nvidia.com/gpumem": "100"},
        "dcu": {"hygon.com/dcunum": "1", "hygon.com/dcumem": "100", "hygon.com/dcucores": "10"},
    }
    bench.server.create("pods", {
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [
            {"name": f"c{n}", "image": "x", "resources": {
                "limits": {k: v for word in words for k, v in asks[word].items()}}}
            for n, words in enumerate(containers)
        ]},
    })  # fmt: skip
    _, address = await bench.scheduler()
    assert (await bench.filter(address, "p", ["a"]))["NodeNames"] == ["a"]
    assert await bench.bind(address, "p", "a") == ""
    told = bench.server.get("pods", "p", "default")["metadata"]["annotations"]
    for keys, counts in ((NVIDIA, nvidia), (DCU, dcu)):
        found = poddevices.decode(told[keys.allocated], keys.allocated)
        assert [len(devices) for devices in found] == counts
        assert {d.type for devices in found for d in devices} == {keys.common_word}


@pytest.mark.parametrize("word", BACKENDS)
async def test_a_pod_of_nothing_but_zeros_breaks_nothing(
    every_vendor: Any, make: Any, word: str
) -> None:
    """10.6: divisions by a count of zero, first containers that ask for nothing, nil maps."""
    bench = every_vendor
    bench.server.create("nodes", make.node("a"))
    zeros = dict.fromkeys(BACKENDS[word].resources.names(), "0")
    pod = {
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {
            "containers": [
                {"name": "none", "image": "x"},
                {"name": "zero", "image": "x", "resources": {"limits": zeros}},
            ]
        },
    }
    admitted(pod, [BACKENDS[word]])
    bench.server.create("pods", pod)
    _, address = await bench.scheduler()
    answer = await bench.filter(address, "p", ["a", "b"])
    assert (answer["Error"], answer["NodeNames"]) == ("", ["a", "b"])


@pytest.mark.parametrize("amount", ["2147483648", "9999999999999", "9Ei", "-1", "1.5", "many"])
@pytest.mark.parametrize("word", [w for w, b in BACKENDS.items() if b.resources.memory])
def test_gigantic_amounts_are_refused(word: str, amount: str) -> None:
    """10.6: they overflow, and become a whole card or a part of nothing."""
    names = BACKENDS[word].resources
    limits = {names.count: "1", names.memory: amount}
    pod = {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "resources": {"limits": limits}}]},
    }
    with pytest.raises(RefusedError, match=names.memory):
        admitted(pod, [BACKENDS[word]])
