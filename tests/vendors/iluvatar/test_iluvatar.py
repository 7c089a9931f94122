"""Iluvatar, with the numbers of metax-iluvatar-kunlunxin-hygon.md 2 and 7.1."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.placement.admit import admitted
from deviceplugin.placement.fit import Placement, place
from deviceplugin.placement.observe import NodeView
from deviceplugin.placement.request import asks
from deviceplugin.testing.scheduling import Habit
from deviceplugin.vendor import (
    Grant,
    Owner,
    PhysicalDevice,
    Sharing,
    Snapshot,
    VendorSettings,
)
from deviceplugin.vendor.scheduling import (
    Card,
    ContainerSpec,
    NodeDevice,
    NodeFacts,
    PodSpec,
    Policy,
    RefusedError,
    SchedulingSettings,
    Tenant,
)
from deviceplugin.vendors.iluvatar import library
from deviceplugin.vendors.iluvatar.configuration import configuration
from deviceplugin.vendors.iluvatar.node import IluvatarNode
from deviceplugin.vendors.iluvatar.scheduling import backends

LIBRARY = "usr/local/corex/lib64/libixml.so"
COUNT, MEMORY, CORES = (
    "iluvatar.ai/BI-V150-vgpu",
    "iluvatar.ai/BI-V150.vMem",
    "iluvatar.ai/BI-V150.vCore",
)
BI_V150 = next(b for b in backends(SchedulingSettings()) if b.keys.common_word == "BI-V150")
LOCKED = {"allocation": "scheduled-locked", "device_list_strategy": ("envvar",)}
DEFERRED = {"allocation": "scheduled-deferred", "device_list_strategy": ("cdi-cri",)}


@pytest.fixture
def host(
    tmp_path: Path, built: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """A host whose driver has these chips."""

    def make(scenario: str, *flags: str) -> Path:
        target = tmp_path / LIBRARY
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(built("ixml", "libixml.so", *flags).read_bytes())
        (tmp_path / "scenario").write_text(scenario)
        monkeypatch.setenv("FAKE_IXML", str(tmp_path / "scenario"))
        (tmp_path / "dev").mkdir(exist_ok=True)
        (tmp_path / "dev/itrctl").touch()
        return tmp_path

    return make


# --- discovery --------------------------------------------------------------------------------


def test_structures_have_the_sizes_of_nvidias_header() -> None:
    assert ctypes.sizeof(library.Memory) == 24
    assert ctypes.sizeof(library.PciInfo) == 68


def test_two_chips_of_a_board_are_one_card(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    scenario = (
        lines.card(board=1, position=1, minor=4)
        + lines.card(board=2)
        + lines.card(board=1, position=0, minor=3)
        + lines.card(board=2, position=1, health=0x14)
    )
    first, second = probed("iluvatar", host(scenario)).devices
    assert first.uuid == "GPU-2"
    assert first.attributes["chips"] == "GPU-2,GPU-0"
    assert first.device_nodes == ("/dev/iluvatar3", "/dev/iluvatar4", "/dev/itrctl")
    assert first.memory_mib == 65536
    assert first.links == {"GPU-1": 40}
    assert (second.healthy, second.reason) == (False, "the driver reports over-temperature, ECC")


def test_boards_may_be_split(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    scenario = lines.card(board=1) + lines.card(board=1, position=1)
    snapshot = probed("iluvatar", host(scenario), {"splitBoard": True})
    assert [device.memory_mib for device in snapshot.devices] == [32768, 32768]


def test_the_second_chip_of_a_board_alone_is_not_healthy(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    (device,) = probed("iluvatar", host(lines.card(board=1, position=1))).devices
    assert (device.healthy, device.reason) == (
        False,
        "the other chip of its board does not answer",
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "Something else"}, "no entry of iluvatars has a chipName in its model"),
        ({"uuid": "GPU-0"}, "another device has the same uuid"),
        ({"uuid": ""}, "it has no uuid"),
        ({"name": r"\xff\x01\xfe"}, "no entry of iluvatars"),
    ],
)
def test_a_chip_that_cannot_be_served_is_left_out_alone(
    host: Callable[..., Path],
    probed: Callable[..., Snapshot],
    lines: Any,
    given: dict[str, Any],
    said: str,
) -> None:
    snapshot = probed("iluvatar", host(lines.card() + lines.card(**given)))
    assert [device.uuid for device in snapshot.devices] == ["GPU-0"]
    assert said in snapshot.problems[0]


def test_a_chip_that_dropped_is_left_out_and_an_old_library_is_used(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    scenario = (
        lines.card() + lines.card() + lines.fault(call="nvmlDeviceGetUUID", card=0, status=15)
    )
    snapshot = probed("iluvatar", host(scenario, "-DWITHOUT_BOARDS"))
    assert [device.uuid for device in snapshot.devices] == ["GPU-1"]
    assert "the card is lost" in snapshot.problems[0]


# --- pure parts -----------------------------------------------------------------------------------


def card(index: int = 0, **more: Any) -> PhysicalDevice:
    return PhysicalDevice(
        f"GPU-{index}",
        str(index),
        "Iluvatar BI-V150",
        65536,
        device_nodes=(f"/dev/iluvatar{2 * index}", f"/dev/iluvatar{2 * index + 1}", "/dev/itrctl"),
        attributes={"chips": f"GPU-{index},GPU-{index}b"},
        **more,
    )


def node(enforce: bool = True, root: str = "/", **section: Any) -> IluvatarNode:
    return IluvatarNode(VendorSettings(host_root=root, enforce_isolation=enforce, section=section))


def test_a_container_sees_all_chips_of_its_cards() -> None:
    edits = node().edits([Grant(card(0)), Grant(card(1))], Owner("r", "a"))
    assert edits.env == {
        "IX_VISIBLE_DEVICES": "GPU-0,GPU-0b,GPU-1,GPU-1b",
        "IX_REPLICA_DEVICES": "GPU-0,GPU-1",
    }
    assert [n.path for n in edits.device_nodes] == [
        "/dev/iluvatar0",
        "/dev/iluvatar1",
        "/dev/itrctl",
        "/dev/iluvatar2",
        "/dev/iluvatar3",
    ]


def test_shares_that_nothing_limits_are_refused_unless_the_operator_says_so(
    tmp_path: Path,
) -> None:
    snapshot = Snapshot((card(),))
    (plan,) = node(deviceSplitCount=4).plan(snapshot)
    assert plan.split.sharing is Sharing.LIMITED
    assert "limitLibrary" in node(deviceSplitCount=4).impediment(plan)
    (free,) = node(enforce=False, deviceSplitCount=4).plan(snapshot)
    assert free.split.sharing is Sharing.TIME_SLICING
    assert node(enforce=False, deviceSplitCount=4).impediment(free) == ""
    with_library = node(root=str(tmp_path), deviceSplitCount=4, limitLibrary="/opt/limit.so")
    assert "/opt/limit.so is not on this node" in with_library.impediment(plan)
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/limit.so").touch()
    assert with_library.impediment(plan) == ""
    grant = Grant(card(), sharing=Sharing.LIMITED, memory_mib=512, cores_percent=30)
    env = with_library.edits([grant], Owner("r", "a")).env
    assert env["LD_PRELOAD"] == "/opt/limit.so"
    assert (env["CUDA_DEVICE_MEMORY_LIMIT_0"], env["CUDA_DEVICE_SM_LIMIT"]) == ("512m", "30")


def test_whole_cards_need_nothing() -> None:
    (plan,) = node().plan(Snapshot((card(),)))
    assert (plan.resource, plan.split.count) == (COUNT, 1)
    assert node().impediment(plan) == ""


def test_the_list_of_chips_may_be_anothers() -> None:
    config = configuration(
        {"iluvatars": [{"chipName": "V200", "commonWord": "BI-V200", "wat": 1}], "splitBoard": True}
    )
    assert [chip.word for chip in config.chips] == ["BI-V200"]
    assert config.chips[0].resources.memory == "iluvatar.ai/BI-V200.vMem"
    assert "iluvatars[0].wat" in config.problems[0]


@pytest.mark.parametrize(
    "entry",
    [{}, {"chipName": 5}, {"commonWord": "x", "resourceCountName": "nothing"}, "text"],
)
def test_a_list_that_cannot_be_used_is_refused(entry: Any) -> None:
    with pytest.raises(ValueError, match="iluvatars"):
        configuration({"iluvatars": [entry]})


# --- scheduling -----------------------------------------------------------------------------------


def spec(**limits: object) -> ContainerSpec:
    names = {"count": COUNT, "memory": MEMORY, "cores": CORES}
    texts = {names[key]: str(value) for key, value in limits.items()}
    return ContainerSpec("main", texts, texts)


@pytest.mark.parametrize(
    ("limits", "memory", "percent", "cores"),
    [
        ({"count": 1}, 0, 100, 0),
        ({"count": 1, "memory": 1000, "cores": 100}, 256000, 100, 100),
        ({"count": 1, "memory": 2}, 512, 100, 0),
        ({"count": 2}, 0, 100, 100),
        ({"count": 3, "memory": 4, "cores": 10}, 0, 100, 100),
    ],
)
def test_requests_are_read_in_the_vendors_units(
    limits: dict[str, int], memory: int, percent: int, cores: int
) -> None:
    demand = BI_V150.demand(spec(**limits), PodSpec())
    assert demand is not None
    assert (demand.count, demand.memory_mib) == (limits["count"], memory)
    assert (demand.memory_percent, demand.cores_percent) == (percent, cores)


@pytest.mark.parametrize(
    "limits",
    [
        {"count": 1, "memory": -1},
        {"count": 1, "memory": 2**24},
        {"count": "1.5"},
        {"count": 1, "cores": "many"},
        {"count": 10**9},
    ],
)
def test_absurd_requests_are_refused_with_the_resource(limits: dict[str, object]) -> None:
    with pytest.raises(RefusedError, match=r"container main: iluvatar\.ai/"):
        BI_V150.admit(spec(**limits), PodSpec())


def test_several_cards_are_whole_in_limits_and_requests_alike() -> None:
    pod = {
        "metadata": {"name": "p"},
        "spec": {
            "containers": [
                {
                    "name": "main",
                    "resources": {"limits": {COUNT: "2", CORES: "50"}, "requests": {CORES: "50"}},
                    "env": [{"name": "A", "value": "b"}],
                }
            ]
        },
    }
    stored, words = admitted(pod, [BI_V150])
    (container,) = stored["spec"]["containers"]
    assert words == {"BI-V150"}
    assert container["resources"]["limits"] == {COUNT: "2", CORES: "200"}
    assert container["resources"]["requests"] == {CORES: "200"}
    assert container["env"][1] == {"name": "SOL_CONTINER_NAME", "value": "main"}


@pytest.mark.parametrize(
    ("policy", "wanted"), [(Policy.BINPACK, "GPU-0"), (Policy.SPREAD, "GPU-1")]
)
def test_binpack_and_spread_are_the_right_way_round(policy: Policy, wanted: str) -> None:
    cards = [
        Card(
            NodeDevice(
                uuid=f"GPU-{i}",
                index=i,
                count=100,
                memory=32768,
                cores=100,
                type="BI-V150",
                healthy=True,
            )
        )
        for i in range(2)
    ]
    cards[0] = cards[0].with_tenant(Tenant("n/x", 1024, 10))
    view = NodeView(NodeFacts("n"), {"BI-V150": tuple(cards)})
    pod = PodSpec("n", "p", "u", {}, (spec(count=1, memory=1),))
    backends_by_word = {"BI-V150": BI_V150}
    found = place(view, pod, asks(pod, [BI_V150]), backends_by_word, policy, Policy.BINPACK)
    assert isinstance(found, Placement)
    assert found.containers["BI-V150"][0][0].uuid == wanted


# --- the whole way --------------------------------------------------------------------------------


@pytest.fixture
def iluvatar(machine: Callable[..., Any], built: Callable[..., Path], lines: Any) -> Any:
    """Two boards of two chips."""
    scenario = "".join(lines.card(board=i // 2, position=i % 2) for i in range(4))
    made = machine("iluvatar", built("ixml", "libixml.so"), LIBRARY, "FAKE_IXML", scenario)
    made.put("/dev/itrctl")
    made.put("/opt/limit/liblimit.so")
    return made


SHARED = {"iluvatar": {"deviceSplitCount": 100, "limitLibrary": "/opt/limit/liblimit.so"}}


@pytest.mark.parametrize(
    ("mode", "habit"),
    [(LOCKED, Habit.HAMI28), (DEFERRED, Habit.OURS), (DEFERRED, Habit.HAMI28)],
    ids=["locked", "deferred", "deferred-hami28"],
)
async def test_a_share_reaches_its_container(
    iluvatar: Any, doc_pods: Any, mode: dict[str, Any], habit: Habit
) -> None:
    await iluvatar.start(mode, COUNT, sections=SHARED)
    node = iluvatar.cluster.node_annotations()
    assert node["hami.io/node-BI-V150-register"] == (
        "GPU-0,100,65536,100,BI-V150,0,true,0,:GPU-2,100,65536,100,BI-V150,0,true,2,:"
    )
    assert node["hami.io/node-handshake-BI-V150"].startswith("Reported")
    outcome = await iluvatar.run(doc_pods("iluvatar")["share"], habit)
    told = iluvatar.cluster.pod_annotations("share")
    assert told["hami.io/BI-V150-devices-allocated"] == "GPU-2,BI-V150,16384,50:;"
    seen = iluvatar.seen(outcome.containers["main"])
    assert seen["env"]["IX_VISIBLE_DEVICES"] == "GPU-2,GPU-3"
    assert seen["env"]["CUDA_DEVICE_MEMORY_LIMIT_0"] == "16384m"
    assert seen["env"]["CUDA_DEVICE_SM_LIMIT"] == "50"
    assert seen["env"]["SOL_CONTINER_NAME"] == "main"
    assert seen["devices"] == ["/dev/iluvatar2", "/dev/iluvatar3", "/dev/itrctl"]
    assert seen["mounts"] == {"/opt/limit/liblimit.so": "/opt/limit/liblimit.so"}


async def test_whole_cards_go_to_one_container(iluvatar: Any, doc_pods: Any) -> None:
    await iluvatar.start(DEFERRED, COUNT)
    outcome = await iluvatar.run(doc_pods("iluvatar")["two-cards"])
    seen = iluvatar.seen(outcome.containers["main"])
    assert seen["env"]["IX_VISIBLE_DEVICES"] == "GPU-0,GPU-1,GPU-2,GPU-3"
    assert "LD_PRELOAD" not in seen["env"]
