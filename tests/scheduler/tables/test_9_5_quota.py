"""Table 9.5 of hami-scheduler.md: quotas, with its numbers."""

from __future__ import annotations

from typing import Any

import pytest

from deviceplugin.api.hami import poddevices, register
from deviceplugin.api.hami.keys import NVIDIA_REGISTER, VENDORS
from deviceplugin.api.hami.poddevices import ContainerDevice
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.placement.objects import pod_spec
from deviceplugin.placement.observe import Held
from deviceplugin.placement.request import asks
from deviceplugin.scheduler.cluster import Holding
from deviceplugin.scheduler.quota import Quotas, quota_record
from deviceplugin.testing.placing import scheduling_backends

NVIDIA = VENDORS["NVIDIA"]
GPU, MEMORY, CORES = "nvidia.com/gpu", "nvidia.com/gpumem", "nvidia.com/gpucores"
SIZES = (2000, 8000, 4000, 6000)


def backends(**section: Any) -> Any:
    return {b.keys.common_word: b for b in scheduling_backends("nvidia", section)}


def quota(name: str = "q", namespace: str = "default", **limits: int) -> dict[str, Any]:
    hard = {f"limits.nvidia.com/gpu{key}": str(amount) for key, amount in limits.items()}
    return {"metadata": {"namespace": namespace, "name": name}, "spec": {"hard": hard}}


def quotas(
    used: tuple[int, int] = (0, 0), section: dict[str, Any] | None = None, **limits: int
) -> Quotas:
    """Of the namespace ``default``, with a pod that holds so much memory and so many cores."""
    made = Quotas(backends(**(section or {})))
    record = quota_record(quota(**limits))
    assert record is not None
    made.set_quota(record)
    made.moved(None, holding(*used))
    return made


def holding(memory: int, cores: int) -> Holding:
    device = ContainerDevice("GPU-0", "NVIDIA", memory, cores)
    return Holding("u", "default", "p", "a", {"NVIDIA": (Held("u", "default/p", (device,)),)})


def item(name: str, *containers: dict[str, int]) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "schedulerName": "hami-scheduler",
            "containers": [
                {
                    "name": f"c{number}",
                    "image": "x",
                    "resources": {"limits": {key: str(value) for key, value in asked.items()}},
                }
                for number, asked in enumerate(containers)
            ],
        },
    }


@pytest.fixture
def node() -> dict[str, Any]:
    """One node with cards of different sizes."""
    devices = [
        NodeDevice(
            uuid=f"GPU-{memory}", index=index, count=10, memory=memory, cores=100,
            type="NVIDIA-Test", healthy=True,
        )
        for index, memory in enumerate(SIZES)
    ]  # fmt: skip
    return {
        "metadata": {"name": "a", "annotations": {NVIDIA_REGISTER: register.encode(devices)}},
        "status": {"allocatable": {GPU: "40"}},
    }


@pytest.mark.parametrize(
    ("limits", "asked", "cards"),
    [
        pytest.param({"cores": 200, "mem": 4000}, {GPU: 2, CORES: 100, MEMORY: 2000}, 2,
                     id="two of 2000 MiB within 4000"),
        pytest.param({"cores": 200, "mem": 4000}, {GPU: 2, CORES: 60, MEMORY: 3000}, None,
                     id="two of 3000 MiB are more than 4000"),
        pytest.param({"cores": 100, "mem": 2000}, {GPU: 1, CORES: 100}, ["GPU-2000"],
                     id="a whole card is the one of 2000 MiB"),
        pytest.param({"cores": 100, "mem": 1500}, {GPU: 1, CORES: 100}, None,
                     id="no whole card has 1500 MiB"),
    ],
)  # fmt: skip
async def test_cards_of_different_sizes(
    bench: Any, node: Any, limits: dict[str, int], asked: dict[str, int], cards: Any
) -> None:
    bench.server.create("nodes", node)
    bench.server.create("resourcequotas", quota(**limits))
    bench.server.create("pods", item("p", asked))
    _, address = await bench.scheduler()
    answer = await bench.filter(address, "p", ["a"])
    if cards is None:
        assert answer["FailedNodes"]["a"].startswith("ResourceQuotaNotFit: quota q: limits.")
        return
    assert answer["NodeNames"] == ["a"]
    text = bench.server.get("pods", "p", "default")["metadata"]["annotations"][NVIDIA.allocated]
    ((*devices,),) = poddevices.decode(text, NVIDIA.allocated)
    if isinstance(cards, int):
        assert len({device.uuid for device in devices}) == cards
    else:
        assert [device.uuid for device in devices] == cards


@pytest.mark.parametrize(
    ("more", "namespace", "factor", "fits"),
    [
        pytest.param({MEMORY: 500, CORES: 100}, "default", 1, True, id="500 MiB and 100 cores"),
        pytest.param({MEMORY: 1500}, "default", 1, False, id="1500 MiB"),
        pytest.param({CORES: 300}, "default", 1, False, id="300 cores"),
        pytest.param({MEMORY: 1000}, "default", 2, True, id="factor 2, 1000 MiB"),
        pytest.param({MEMORY: 5000}, "default", 2, False, id="factor 2, 5000 MiB"),
        pytest.param({MEMORY: 1500}, "elsewhere", 1, True, id="another namespace"),
        pytest.param({"amd.com/gpumem": 1500}, "default", 1, True, id="another vendor"),
    ],
)
def test_1000_of_2000_mib_and_200_of_400_cores_are_used(
    more: dict[str, int], namespace: str, factor: int, fits: bool
) -> None:
    found = quotas((1000, 200), {"memoryFactor": factor}, mem=2000, cores=400)
    assert (found.refusal(namespace, more) is None) is fits


@pytest.mark.parametrize(
    ("containers", "fits"),
    [
        pytest.param([[100]], True, id="100"),
        pytest.param([[3000]], False, id="3000"),
        pytest.param([[1024, 100]], True, id="100 beside 1024 in the container"),
        pytest.param([[1024, 2000]], False, id="2000 beside 1024 in the container"),
        pytest.param([[1024], [100]], True, id="100 after 1024 of a container before"),
        pytest.param([[1024], [2000]], False, id="2000 after 1024 of a container before"),
        pytest.param([[1024], [1024, 100]], False, id="1024, 1024 and 100"),
        pytest.param([[100], [100, 100]], True, id="100, 100 and 100"),
    ],
)
def test_a_limit_of_2048_mib(containers: list[list[int]], fits: bool) -> None:
    """By what containers were given of cards, each card's own amount."""
    found = quotas(mem=2048)
    given = Holding(
        "v", "default", "v", "a",
        {"NVIDIA": tuple(
            Held("v", "default/v", tuple(ContainerDevice("x", "NVIDIA", mib, 0) for mib in amounts))
            for amounts in containers
        )},
    )  # fmt: skip
    assert (found.refusal("default", found.held(given)) is None) is fits


def test_what_is_taken_and_given_back_is_nothing() -> None:
    found = quotas(mem=2000)
    found.moved(None, held := holding(1000, 100))
    assert found.used("default") == {MEMORY: 1000, CORES: 100}
    found.moved(held, None)
    assert found.used("default") == {}


def test_a_quota_that_is_gone_limits_nothing() -> None:
    found = quotas(mem=100, cores=10)
    assert sorted(found.limits()) == [
        ("default", "q", CORES, 10),
        ("default", "q", MEMORY, 100),
    ]
    found.drop_quota("default", "q")
    assert list(found.limits()) == []
    assert found.refusal("default", {MEMORY: 5000}) is None


def test_containers_of_a_pod_share_the_limit() -> None:
    found = quotas(mem=2000)
    made = backends()
    for amounts, fits in (([1000, 1000], True), ([1000, 1001], False)):
        pod = pod_spec(item("p", *({GPU: 1, MEMORY: mib} for mib in amounts)))
        asked = found.asked(asks(pod, made.values()))
        assert (found.refusal("default", asked) is None) is fits


async def test_a_limit_that_an_update_leaves_out_limits_no_more(bench: Any, node: Any) -> None:
    """And is never away in between: what is changed is replaced as one."""
    bench.server.create("nodes", node)
    bench.server.create("resourcequotas", quota(mem=500, cores=50))
    bench.server.create("pods", item("p", {GPU: 1, MEMORY: 1000, CORES: 10}))
    made, address = await bench.scheduler()
    assert (await bench.filter(address, "p", ["a"]))["NodeNames"] is None
    hard = {f"limits.{MEMORY}": None}
    bench.server.patch("resourcequotas", "q", {"spec": {"hard": hard}}, "default")
    await bench.until(lambda: list(made.quotas.limits()) == [("default", "q", CORES, 50)])
    assert (await bench.filter(address, "p", ["a"]))["NodeNames"] == ["a"]


async def test_what_a_pod_held_is_free_once_it_has_ended(bench: Any, node: Any) -> None:
    node["metadata"]["annotations"]["node.deviceplugin.dev/allocation"] = "deferred"
    bench.server.create("nodes", node)
    bench.server.create("resourcequotas", quota(mem=1000))
    for name in ("p", "q"):
        bench.server.create("pods", item(name, {GPU: 1, MEMORY: 1000, CORES: 10}))
    made, address = await bench.scheduler()
    assert (await bench.filter(address, "p", ["a"]))["NodeNames"] == ["a"]
    assert await bench.bind(address, "p", "a") == ""
    assert (await bench.filter(address, "q", ["a"]))["NodeNames"] is None
    bench.server.patch("pods", "p", {"status": {"phase": "Succeeded"}}, "default")
    await bench.until(lambda: made.quotas.used("default") == {})
    assert (await bench.filter(address, "q", ["a"]))["NodeNames"] == ["a"]
